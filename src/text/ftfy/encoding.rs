//! Undoes mojibake: text whose bytes were read in the wrong encoding.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Regex, bytes};

use super::badness::is_bad;
use super::pattern;
use super::tables::*;

/// Undoes layers of mojibake until the text stays the same.
pub(super) fn fix_encoding(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..1000 {
        match fix_one_layer(&text) {
            Some(fixed) if fixed != text => text = fixed,
            _ => break,
        }
    }
    text
}

/// Reads C1 control characters as Windows-1252, like web browsers do.
pub(super) fn fix_c1_controls(text: &str) -> String {
    let fix = |c: char| match c {
        '\u{80}'..='\u{9f}' => CODE_PAGES[WINDOWS_1252].high[c as usize - 0x80],
        _ => c,
    };
    text.chars().map(fix).collect()
}

/// Its place in `CODE_PAGES`.
const WINDOWS_1252: usize = 1;

impl CodePage {
    fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.byte(c)).collect()
    }

    fn byte(&self, c: char) -> Option<u8> {
        match c {
            '\u{fffd}' if self.sloppy => Some(0x1a),
            '\x1a' if self.sloppy => None,
            '\0'..='\x7f' => Some(c as u8),
            _ => self.high.iter().position(|&high| high == c).map(|index| 0x80 + index as u8),
        }
    }
}

/// One step; `None` when there is nothing to undo.
fn fix_one_layer(text: &str) -> Option<String> {
    if !is_bad(text) {
        return None;
    }
    // Most often UTF-8 was read as a single-byte encoding.
    for page in &CODE_PAGES {
        if let Some(fixed) = page.encode(text).and_then(|bytes| decode(bytes, page)) {
            return Some(fixed);
        }
    }
    let fixed = decode_inconsistent_utf8(text);
    if fixed != text {
        return Some(fixed);
    }
    // What remains is Latin-1 that was meant as Windows-1252.
    Some(fix_c1_controls(text))
}

/// Reads bytes as UTF-8, after repairs to sequences that lost a byte.
fn decode(mut bytes: Vec<u8>, page: &CodePage) -> Option<String> {
    static ALTERED: LazyLock<bytes::Regex> = LazyLock::new(|| {
        bytes_pattern(
            r"[\xc2\xc3\xc5\xce\xd0\xd9]\x20|[\xe2\xe3]\x20[\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf]\x20|\xf0\x20[\x80-\xbf][\x80-\xbf]|\xf0[\x80-\xbf]\x20[\x80-\xbf]|\xf0[\x80-\xbf][\x80-\xbf]\x20",
        )
    });
    // In MacRoman an en dash and a space would match.
    if !page.macroman && ALTERED.is_match(&bytes) {
        bytes = restore_a_grave(&bytes);
        bytes = ALTERED
            .replace_all(&bytes, |found: &bytes::Captures| {
                found[0].iter().map(|&b| if b == b' ' { 0xa0 } else { b }).collect::<Vec<u8>>()
            })
            .into_owned();
    }
    if page.sloppy
        && let Cow::Owned(replaced) = replace_lossy_sequences(&bytes)
    {
        bytes = replaced;
    }
    if bytes.contains(&0xed) || bytes.contains(&0xc0) { decode_variants(&bytes) } else { String::from_utf8(bytes).ok() }
}

/// `Ã` and a space is an `à` that ends a word, except in front of the endings of Portuguese contractions.
fn restore_a_grave(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        out.push(*first);
        rest = tail;
        if *first == 0xc3
            && let [b' ', after @ ..] = tail
        {
            let contraction = [&b" "[..], b"quele", b"quela", b"quilo", b"s "].iter().any(|w| after.starts_with(w));
            if !contraction {
                out.extend(b"\xa0 ");
                rest = after;
            }
        }
    }
    out
}

/// Sequences in which byte 0x1A marks a lost byte become U+FFFD.
fn replace_lossy_sequences(bytes: &[u8]) -> Cow<'_, [u8]> {
    static LOSSY: LazyLock<bytes::Regex> = LazyLock::new(|| {
        bytes_pattern(
            &[
                r"[\xc2-\xdf]\x1a",
                r"[\xc2-\xc3]\?",
                r"\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]",
                r"\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]",
                r"[\xe0-\xef][\x1a?][\x1a\x80-\xbf]",
                r"[\xe0-\xef][\x1a\x80-\xbf][\x1a?]",
                r"[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]",
                r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]",
                r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]",
                r"\x1a",
            ]
            .join("|"),
        )
    });
    LOSSY.replace_all(bytes, &b"\xef\xbf\xbd"[..])
}

/// UTF-8, and also its variants that write surrogate pairs as six bytes, and NUL as two.
fn decode_variants(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = match rest {
            // ftfy also takes a newline that ends the text for the second byte.
            [0xc0, 0x80, ..] | [0xc0, b'\n'] => {
                out.push('\0');
                2
            }
            [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d, tail @ ..]
                if matches!(d, 0x80..=0xbf) || (*d == b'\n' && tail.is_empty()) =>
            {
                let bits = |byte: &u8, mask: u8, shift: u32| u32::from(byte & mask) << shift;
                let code = 0x10000 + bits(a, 0x0f, 16) + bits(b, 0x3f, 10) + bits(c, 0x0f, 6) + bits(d, 0x3f, 0);
                out.push(char::from_u32(code)?);
                6
            }
            _ => {
                let end = rest.iter().skip(1).position(|byte| byte & 0xc0 != 0x80).map_or(rest.len(), |at| at + 1);
                out.push_str(std::str::from_utf8(&rest[..end]).ok()?);
                end
            }
        };
        rest = &rest[taken..];
    }
    Some(out)
}

/// Repairs sequences that look like UTF-8 one by one, in a text that is not damaged throughout.
fn decode_inconsistent_utf8(text: &str) -> String {
    static DETECTOR: LazyLock<Regex> = LazyLock::new(|| {
        pattern(&format!(
            "(?:[{UTF8_FIRST_OF_2}][{UTF8_CONTINUATION}]|[{UTF8_FIRST_OF_3}][{UTF8_CONTINUATION}]{{2}}|[{UTF8_FIRST_OF_4}][{UTF8_CONTINUATION}]{{3}})+"
        ))
    });
    static STRICT: LazyLock<Regex> = LazyLock::new(|| pattern(&format!("[{UTF8_CONTINUATION_STRICT}]$")));
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    let mut from = 0;
    while let Some(found) = DETECTOR.find_at(text, from) {
        let before = text[..found.start()].chars().next_back();
        if before.is_some_and(|c| STRICT.is_match(c.encode_utf8(&mut [0; 4]))) {
            // A sequence may not begin right behind another's continuation: try one character further on.
            from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        out.push_str(&text[done..found.start()]);
        let part = found.as_str();
        if part.len() < text.len() && is_bad(part) {
            out.push_str(&fix_encoding(part))
        } else {
            out.push_str(part)
        }
        (done, from) = (found.end(), found.end());
    }
    out.push_str(&text[done..]);
    out
}

fn bytes_pattern(pattern: &str) -> bytes::Regex {
    bytes::Regex::new(&format!("(?-u:{pattern})")).expect("a constant pattern compiles")
}
