//! HTML character references, read the way Python's `html.unescape` reads them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Replaces every character reference, also those that lack their semicolon.
///
/// Python departs from the HTML standard in one point: references to control characters and noncharacters vanish.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let taken = reference(rest, &mut out);
        if taken == 0 {
            out.push('&');
        }
        rest = &rest[taken..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The characters that a complete name such as `eacute;` stands for.
pub(super) fn named(name: &str) -> Option<&'static str> {
    ENTITIES.get(name).map(String::as_str)
}

/// The characters that ftfy reads into names shouted in capitals, such as `EACUTE;`.
pub(super) fn named_in_capitals(name: &str) -> Option<&'static str> {
    CAPITALS.get(name).map(String::as_str)
}

type Names = HashMap<&'static str, String>;

static ENTITIES: LazyLock<Names> = LazyLock::new(|| names(|name| (!name.starts_with('+')).then_some(name)));
static CAPITALS: LazyLock<Names> = LazyLock::new(|| names(|name| name.strip_prefix('+')));

/// Reads the table: a name and its code points in hexadecimal a line; `ftfy/tables.py` writes it.
fn names(pick: fn(&'static str) -> Option<&'static str>) -> Names {
    let line = |line: &'static str| {
        let mut fields = line.split(' ');
        let name = pick(fields.next()?)?;
        let value = fields.filter_map(|hex| char::from_u32(u32::from_str_radix(hex, 16).ok()?)).collect();
        Some((name, value))
    };
    include_str!("entities.txt").lines().filter_map(line).collect()
}

/// Writes what the reference at the start of `rest` (behind its ampersand) stands for, and says how many bytes it took.
fn reference(rest: &str, out: &mut String) -> usize {
    match rest.strip_prefix('#') {
        Some(number) => numeric(number, out).map_or(0, |taken| taken + 1),
        None => by_name(rest, out),
    }
}

fn numeric(rest: &str, out: &mut String) -> Option<usize> {
    let (radix, prefix) = if rest.starts_with(['x', 'X']) { (16, 1) } else { (10, 0) };
    let digits = rest[prefix..].bytes().take_while(|b| (*b as char).is_digit(radix)).count();
    if digits == 0 {
        return None;
    }
    let code = rest[prefix..prefix + digits]
        .chars()
        .fold(0u32, |code, digit| code.saturating_mul(radix).saturating_add(digit.to_digit(radix).unwrap_or(0)));
    out.extend(character(code));
    let end = prefix + digits;
    Some(end + usize::from(rest[end..].starts_with(';')))
}

/// The character for a code, `None` where Python's answer is the empty string.
fn character(code: u32) -> Option<char> {
    match code {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        0x80..=0x9f => Some(WINDOWS_1252[(code - 0x80) as usize]),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if code & 0xfffe == 0xfffe && code <= 0x10ffff => None,
        _ => Some(char::from_u32(code).unwrap_or('\u{fffd}')),
    }
}

/// What the HTML standard makes of references to the C1 control characters.
#[rustfmt::skip]
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The whole run of name characters if it is a name, else its longest beginning that is one.
fn by_name(rest: &str, out: &mut String) -> usize {
    let stop = |c: char| matches!(c, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';');
    let mut ends: Vec<usize> =
        rest.char_indices().take(32).take_while(|(_, c)| !stop(*c)).map(|(at, c)| at + c.len_utf8()).collect();
    let Some(&end) = ends.last() else { return 0 };
    if rest[end..].starts_with(';') {
        ends.push(end + 1);
    }
    for (index, &end) in ends.iter().enumerate().rev() {
        // A single character is looked up only when nothing follows it; no name is that short.
        if index == 0 {
            break;
        }
        if let Some(value) = ENTITIES.get(&rest[..end]) {
            out.push_str(value);
            return end;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_python_reads() {
        for (text, want) in [
            ("fish &amp; chips", "fish & chips"),
            ("&lt;b&gt; &quot;x&quot; &#39;y&#x27;", "<b> \"x\" 'y'"),
            ("&ampx &notit; &notin; &notin", "&x ¬it; ∉ ¬in"),
            ("&#128;&#x81;&#13;&#0;", "€\u{81}\r\u{fffd}"),
            ("a&#1;b&#xfffe;c&#xFDD0;d", "abcd"),
            ("&#xd800;&#99999999999999;", "\u{fffd}\u{fffd}"),
            ("& && &; &# &#; &#x; &x &unknown;", "& && &; &# &#; &#x; &x &unknown;"),
            ("&CounterClockwiseContourIntegral;", "∳"),
            ("&amp;amp;", "&amp;"),
            ("&é&eacute", "&éé"),
            ("&NotEqualTilde;", "\u{2242}\u{338}"),
        ] {
            assert_eq!(unescape(text), want, "{text}");
        }
    }
}
