//! How open_clip cuts a text into words, and how it spells bytes.

use std::sync::LazyLock;

use regex::Regex;

/// Marks the beginning of a text in open_clip's vocabulary.
pub(super) const START: &str = "<start_of_text>";
/// Marks the end of a text in open_clip's vocabulary.
pub(super) const END: &str = "<end_of_text>";

/// The words of a text: marks, contractions, runs of letters, single digits, runs of anything else but space.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    WORD.find_iter(text).map(|found| found.as_str())
}

/// The character that stands for a byte: itself where it prints, else one from U+0100 on.
pub(super) fn spell(byte: u8) -> char {
    ALPHABET[usize::from(byte)]
}

/// The byte that a character stands for.
pub(super) fn unspell(c: char) -> Option<u8> {
    ALPHABET.iter().position(|&known| known == c).map(|index| index as u8)
}

/// All bytes in the order of the vocabulary: those that print come first.
pub(super) fn alphabet() -> impl Iterator<Item = char> {
    let (printing, others): (Vec<u8>, Vec<u8>) = (0..=255).partition(|&byte| prints(byte));
    printing.into_iter().chain(others).map(spell)
}

// Python's `regex` ignores case in character classes too, so that U+0345, whose upper case is a letter, matches nothing.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    let pattern =
        r"(?i)<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|(?-i:\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+)";
    Regex::new(pattern).expect("a constant pattern compiles")
});

static ALPHABET: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100..0x200;
    let mut alphabet = ['\0'; 256];
    for (byte, place) in (0..=255).zip(&mut alphabet) {
        *place = if prints(byte) { char::from(byte) } else { next.next().and_then(char::from_u32).unwrap_or_default() };
    }
    alphabet
});

fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_like_python() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("it's 42 cats!!"), ["it", "'s", "4", "2", "cats", "!!"]);
        assert_eq!(cut("it'ſ 'RE 'Ll"), ["it", "'ſ", "'RE", "'Ll"]);
        assert_eq!(
            cut("a<start_of_text>b !<end_of_text>"),
            ["a", "<start_of_text>", "b", "!<", "end", "_", "of", "_", "text", ">"]
        );
        assert_eq!(cut("a\u{345}b !\u{345}!"), ["a", "b", "!", "!"]);
    }

    #[test]
    fn bytes_are_spelt_both_ways() {
        assert!((0..=255).all(|byte| unspell(spell(byte)) == Some(byte)));
        assert_eq!((spell(b'a'), spell(0), spell(b' ')), ('a', 'Ā', 'Ġ'));
        assert_eq!(alphabet().count(), 256);
        assert_eq!(alphabet().last(), Some('Ń'));
    }
}
