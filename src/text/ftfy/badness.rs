//! Decides whether a text looks like mojibake: neighbours that do not occur in any language.

use std::sync::LazyLock;

use regex::Regex;

use super::pattern;
use super::tables::*;

/// Whether the text holds at least one sequence that is far more likely to be mojibake than meant.
pub(super) fn is_bad(text: &str) -> bool {
    static BADNESS: LazyLock<Regex> = LazyLock::new(|| pattern(&alternatives().join("|")));
    !text.is_ascii() && BADNESS.is_match(text)
}

/// The suspicious sequences; the names stand for classes of characters.
fn alternatives() -> Vec<String> {
    // Python's \s and \w.
    let space = r"\s\x1c-\x1f";
    let word = r"\p{L}\p{N}_";
    let symbols = format!("{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}{NUMERIC}{LAW}");
    let accented = format!("{LOWER_ACCENTED}{UPPER_ACCENTED}");
    let arabic = format!("[ØÙ][{COMMON}{CURRENCY}{BAD}{NUMERIC}{START_PUNCTUATION}ŸŠ®°µ»]");
    let between = format!("{C1}{BAD}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}°");
    vec![
        format!("[{C1}]"),
        format!("[{BAD}{accented}{BOX}{symbols}][{BAD}]"),
        format!("[a-zA-Z][{LOWER_COMMON}{UPPER_COMMON}][{BAD}]"),
        format!("[{BAD}][{accented}{BOX}{symbols}]"),
        format!("[{LOWER_ACCENTED}{LOWER_COMMON}{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}][{UPPER_ACCENTED}]"),
        format!("[{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}][{LOWER_ACCENTED}]"),
        format!("[{LOWER_ACCENTED}{BOX}{END_PUNCTUATION}][{CURRENCY}]"),
        format!("[{space}][{UPPER_ACCENTED}][{CURRENCY}]"),
        format!("[{UPPER_ACCENTED}{BOX}][{NUMERIC}{LAW}]"),
        format!("[{accented}{BOX}{CURRENCY}{END_PUNCTUATION}][{START_PUNCTUATION}][{NUMERIC}]"),
        format!("[{accented}{CURRENCY}{NUMERIC}{BOX}{LAW}][{END_PUNCTUATION}][{START_PUNCTUATION}]"),
        format!("[{CURRENCY}{NUMERIC}{BOX}][{START_PUNCTUATION}]"),
        format!("[a-z][{UPPER_ACCENTED}][{START_PUNCTUATION}{CURRENCY}]"),
        format!("[{BOX}][{KAOMOJI}]"),
        format!("[{accented}{CURRENCY}{NUMERIC}{START_PUNCTUATION}{END_PUNCTUATION}{LAW}][{BOX}]"),
        format!("[{BOX}][{END_PUNCTUATION}]"),
        format!("[{accented}][{START_PUNCTUATION}{END_PUNCTUATION}][{word}]"),
        // The ligature, unless an unaccented letter follows.
        "[Œœ][^A-Za-z]".into(),
        // A degree sign after a capital.
        format!("[{UPPER_ACCENTED}]°"),
        // Two characters of Windows-1252 that none of the above covers.
        format!(r"[ÂÃÎÐ][€œŠš¢£Ÿž\xa0\xad®©°·»{START_PUNCTUATION}{END_PUNCTUATION}–—´]"),
        "×[²³]".into(),
        // Arabic in Windows-1252: common characters, so two pairs are asked for.
        format!("{arabic}{arabic}"),
        // South Asian alphabets in Windows-1252.
        "à[²µ¹¼½¾]".into(),
        // MacRoman.
        "√[±∂†≠®™´≤≥¥µø]".into(),
        "≈[°¢]".into(),
        "‚Ä[ìîïòôúùû†°¢π]".into(),
        "‚[âó][àä°ê]".into(),
        // Windows-1251: general punctuation, then Latin-1 or Cyrillic.
        "вЂ".into(),
        format!("[ВГРС][{between}µ][ВГРС]"),
        "ГўВЂВ.[A-Za-z ]".into(),
        // Windows-1252: à, á and the no-break space.
        r"Ã[\xa0¡]".into(),
        format!(r"[a-z][{space}]?[ÃÂ]\x20"),
        r"^[ÃÂ]\x20".into(),
        format!(r"[a-z.,?!{END_PUNCTUATION}]Â[\x20{START_PUNCTUATION}{END_PUNCTUATION}]"),
        // Windows-1253: general punctuation, then Latin-1 or Greek.
        r"β€[™\xa0Ά\xad®°]".into(),
        format!("[ΒΓΞΟ][{between}][ΒΓΞΟ]"),
        // Windows-1257: general punctuation.
        "ā€".into(),
    ]
}
