//! Classes described in words: sentences (CuPL, Pratt et al. 2023) or features (Menon and Vondrick 2023).

/// A name without what makes no difference: in lower case, `_` a space, one space between words.
pub fn canonical(name: &str) -> String {
    name.replace('_', " ").to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is said of a class as a prompt. A sentence (it ends as one, or names the class) stands for itself, and a feature
/// becomes `hen, which has two legs`.
pub(super) fn prompt(class: &str, text: &str) -> String {
    let ends = |text: &str| text.ends_with(['.', '!', '?']);
    let is_sentence = text.split_whitespace().any(ends) || canonical(text).contains(&canonical(class));
    if is_sentence { text.to_owned() } else { format!("{class}, {}", relative(text)) }
}

/// A feature as a relative clause, as in sachit-menon/classify_by_description_release, `descriptor_strings.py`, which looks
/// at the first letters where this looks at the first word: there "antennae" becomes "which is antennae".
fn relative(feature: &str) -> String {
    match feature.split_whitespace().next().unwrap_or_default().to_lowercase().as_str() {
        "which" | "that" | "with" => feature.to_owned(),
        "is" | "are" | "has" | "have" | "often" | "typically" | "may" | "can" => format!("which {feature}"),
        "a" | "an" | "used" => format!("which is {feature}"),
        _ => format!("which has {feature}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_and_features() {
        for (class, text, expected) in [
            ("hen", "A hen has brown feathers.", "A hen has brown feathers."),
            ("hen", "It has a comb. It often", "It has a comb. It often"),
            ("hen", "the hen's egg", "the hen's egg"),
            ("hen", "two legs", "hen, which has two legs"),
            ("hen", "a bird", "hen, which is a bird"),
            ("hen", "which has a comb", "hen, which has a comb"),
            ("hen", "often brown", "hen, which often brown"),
            ("hen", "antennae", "hen, which has antennae"),
            ("Red_fox", "a photo of a red  fox", "a photo of a red  fox"),
            ("Red_fox", "bushy tail", "Red_fox, which has bushy tail"),
        ] {
            assert_eq!(prompt(class, text), expected);
        }
    }
}
