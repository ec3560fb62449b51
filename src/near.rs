//! "Did you mean": the known name that a typing error could have turned into an unknown one.

/// The candidate that a typing error could have turned into this word.
pub(crate) fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = word.chars().count() / 3;
    candidates.map(|name| (distance(word, name), name)).filter(|(d, _)| (1..=limit).contains(d)).min().map(|(_, n)| n)
}

/// How many letters must be inserted, removed or replaced.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_seen_through() {
        let names = || ["openai-b32", "openai-b16", "siglip-b16-224"].into_iter();
        assert_eq!(closest("opnai-b32", names()), Some("openai-b32"));
        assert_eq!(closest("siglip-b16", names()), None);
        assert_eq!(closest("resnet", names()), None);
    }
}
