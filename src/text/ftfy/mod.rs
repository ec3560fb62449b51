//! Repairs for damaged text: a port of `ftfy.fix_text` with its default settings, which open_clip runs on every text.
//!
//! The behaviour, its heuristics and its tables are those of ftfy 6.3.1 by Robyn Speer (Apache License 2.0, see
//! `LICENSE` beside this file); the code here is a rewrite in Rust. `tables.py` makes the tables again.

mod badness;
mod encoding;
#[rustfmt::skip]
mod tables;

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization;

use super::html;
use tables::{LIGATURES, WIDTHS};

/// Repairs a text line by line: mojibake, character references, ligatures, widths, quotes, control characters.
pub fn fix_text(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    // A `<` means that this is HTML, where references must stay; ftfy remembers it for all lines that follow.
    let mut unescape = true;
    for line in text.split_inclusive('\n') {
        for segment in segments(line) {
            unescape &= !segment.contains('<');
            out.push_str(&fix_segment(segment, unescape));
        }
    }
    Cow::Owned(out)
}

/// Whether no repair can apply: printable ASCII without references.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t') && byte != b'&')
}

/// Cuts what is longer than a million characters.
fn segments(line: &str) -> impl Iterator<Item = &str> {
    const LIMIT: usize = 1_000_000;
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = if rest.len() <= LIMIT {
            rest.len()
        } else {
            rest.char_indices().nth(LIMIT).map_or(rest.len(), |(at, _)| at)
        };
        let (segment, tail) = rest.split_at(end);
        rest = tail;
        Some(segment)
    })
}

/// Applies all repairs again and again until nothing changes.
fn fix_segment(segment: &str, unescape: bool) -> String {
    let mut text = segment.to_owned();
    // Each round undoes one layer of damage. The bound only guards against repairs that undo each other.
    for _ in 0..1000 {
        let before = text.clone();
        if unescape {
            text = unescape_html(&text);
        }
        text = encoding::fix_encoding(&text);
        text = encoding::fix_c1_controls(&text);
        text = translate(&text, &LIGATURES);
        text = translate(&text, &WIDTHS);
        text = text.chars().map(uncurl).collect();
        text = fix_line_breaks(&text);
        text = remove_terminal_escapes(text);
        text.retain(|c| !is_needless_control(c));
        text = text.nfc().collect();
        if text == before {
            break;
        }
    }
    text
}

/// Replaces complete character references; names in capitals are read too, where they are no names themselves.
fn unescape_html(text: &str) -> String {
    static REFERENCE: LazyLock<Regex> = LazyLock::new(|| pattern("&#?[0-9A-Za-z]{1,24};"));
    if !text.contains('&') {
        return text.to_owned();
    }
    let value = |found: &regex::Captures| {
        let whole = &found[0];
        if whole.starts_with("&#") {
            // A semicolon that remains means that only a part was read.
            let value = html::unescape(whole);
            return if value.contains(';') { whole.to_owned() } else { value.into_owned() };
        }
        let name = &whole[1..];
        html::named(name).or_else(|| html::named_in_capitals(name)).unwrap_or(whole).to_owned()
    };
    REFERENCE.replace_all(text, value).into_owned()
}

/// Replaces the characters that are in a sorted table.
fn translate(text: &str, table: &[(char, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match table.binary_search_by_key(&c, |row| row.0) {
            Ok(index) => out.push_str(table[index].1),
            Err(_) => out.push(c),
        }
    }
    out
}

fn uncurl(c: char) -> char {
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        '\u{201c}'..='\u{201f}' => '"',
        _ => c,
    }
}

fn fix_line_breaks(text: &str) -> String {
    text.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n")
}

/// Removes what colours a terminal.
fn remove_terminal_escapes(text: String) -> String {
    static ESCAPE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\x1b\[[\d;]*[a-zA-Z]"));
    if text.contains('\x1b') { ESCAPE.replace_all(&text, "").into_owned() } else { text }
}

/// Control characters that show nothing and do nothing; C1 controls stay, they are traces of mojibake.
fn is_needless_control(c: char) -> bool {
    matches!(c, '\0'..='\x08' | '\x0b' | '\x0e'..='\x1f' | '\x7f'
        | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}')
}

/// Compiles a pattern that is part of the program.
fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern compiles")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_what_ftfy_repairs() {
        for (text, want) in [
            ("âœ” No problems", "✔ No problems"),
            ("&macr;\\_(ã\u{83}\u{84})_/&macr;", "¯\\_(ツ)_/¯"),
            ("Broken text&hellip; it&#x2019;s ﬂubberiﬁc!", "Broken text… it's flubberific!"),
            ("ＬＯＵＤ　ＮＯＩＳＥＳ", "LOUD NOISES"),
            ("P&EACUTE;REZ &nTILDE;", "PÉREZ &nTILDE;"),
            ("<b>&eacute;</b>\n&eacute;", "<b>&eacute;</b>\n&eacute;"),
            ("&eacute;\n<b>&eacute;", "é\n<b>&eacute;"),
            ("voilÃ le travail", "voilà le travail"),
            ("â€œ like this â€\u{fffd}", "\" like this \u{fffd}"),
            ("\x1b[36;44mI'm blue\x1b[0m", "I'm blue"),
            ("l’humanitÃ©", "l'humanité"),
            ("e\u{301}\r\nx", "é\nx"),
            ("", ""),
        ] {
            assert_eq!(fix_text(text), want, "{text}");
        }
    }

    #[test]
    fn leaves_good_text_alone() {
        for text in ["a photo of a cat", "naïve café", "日本語", "Ã", "tab\tand\nline", "100 % ° ± ²"] {
            assert_eq!(fix_text(text), text);
        }
    }
}
