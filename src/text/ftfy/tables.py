"""Writes tables.rs (character classes and code pages) and ../entities.txt (HTML5 names) from ftfy and Python.

    python tables.py    # needs ftfy 6.3.1; run in this directory
"""

import html.entities
import itertools
import re

from ftfy import chardata
from ftfy.badness import MOJIBAKE_CATEGORIES

BMP = [chr(c) for c in range(0x10000) if not 0xD800 <= c < 0xE000]


def members(char_class):
    """The characters of a class as a regex class would read it."""
    pattern = re.compile(f"[{char_class}]")
    return [c for c in BMP if pattern.match(c)]


def class_body(chars):
    """The shortest regex class body that holds exactly these characters."""
    ranges = []
    for code in sorted(ord(c) for c in chars):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    parts = []
    for low, high in ranges:
        parts.append(rf"\x{{{low:x}}}" + (rf"-\x{{{high:x}}}" if high > low else ""))
    return "".join(parts)


def rust_char(c):
    return f"'{c}'" if c.isprintable() and c not in "\\'" else f"'\\u{{{ord(c):x}}}'"


def rust_str(text):
    return '"' + "".join(c if c.isprintable() and c not in '\\"' else f"\\u{{{ord(c):x}}}" for c in text) + '"'


out = ["//! Made by `tables.py` from ftfy 6.3.1 and Python's codecs; not edited by hand.", ""]

out += ["// Classes of the characters that occur in mojibake, as bodies of regex classes."]
for name, chars in MOJIBAKE_CATEGORIES.items():
    out.append(f'pub(super) const {name.upper()}: &str = r"{class_body(members(chars))}";')
out += ["", "// Characters that the bytes of a UTF-8 sequence turn into under the code pages below."]
for name, chars in chardata.UTF8_CLUES.items():
    out.append(f'pub(super) const {name.upper()}: &str = r"{class_body(members(chars))}";')

out += ["", "/// A single-byte encoding: what the bytes 0x80 to 0xFF stand for.", "pub(super) struct CodePage {"]
out += ["    /// Unassigned bytes decode as in Latin-1, and byte 0x1A stands for U+FFFD."]
out += ["    pub(super) sloppy: bool,", "    pub(super) macroman: bool,", "    pub(super) high: [char; 128],", "}"]
out += ["", "/// In the order in which they are tried."]
out.append(f"pub(super) static CODE_PAGES: [CodePage; {len(chardata.CHARMAP_ENCODINGS)}] = [")
for name in chardata.CHARMAP_ENCODINGS:
    high = bytes(range(0x80, 0x100)).decode(name)
    assert len(set(high)) == 128 and all(ord(c) >= 0x80 for c in high), name
    sloppy = name.startswith("sloppy")
    assert (b"\x1a".decode(name) == "\ufffd") == sloppy
    for byte, char in zip(range(0x80, 0x100), high):
        assert char.encode(name) == bytes([byte])
    cells = ", ".join(rust_char(c) for c in high)
    out.append(f"    // {name}")
    out.append(f"    CodePage {{ sloppy: {str(sloppy).lower()}, macroman: {str(name == 'macroman').lower()}, high: [")
    row = [rust_char(c) for c in high]
    out += ["        " + ", ".join(row[i : i + 16]) + "," for i in range(0, 128, 16)]
    out.append("    ] },")
out.append("];")


def pairs(doc, name, mapping):
    items = sorted((chr(k), v) for k, v in mapping.items())
    rows = [f"({rust_char(k)}, {rust_str(v)})" for k, v in items]
    text = ["", f"/// {doc}", f"pub(super) static {name}: [(char, &str); {len(items)}] = ["]
    return text + ["    " + ", ".join(rows[i : i + 8]) + "," for i in range(0, len(rows), 8)] + ["];"]


out += pairs("Latin ligatures and digraphs, taken apart; sorted.", "LIGATURES", chardata.LIGATURES)
out += pairs("Full-width and half-width forms in their standard width; sorted.", "WIDTHS", chardata.WIDTH_MAP)
open("tables.rs", "w", encoding="utf-8").write("\n".join(out) + "\n")

# Upper-case names that ftfy reads too are marked with a leading plus sign.
lines = []
for name, value in html.entities.html5.items():
    lines.append((name, value))
known = set(html.entities.html5)
for entity, value in chardata.HTML_ENTITIES.items():
    if entity[1:] not in known:
        lines.append(("+" + entity[1:], value))
    else:
        assert html.entities.html5[entity[1:]] == value
with open("../entities.txt", "w", encoding="utf-8", newline="\n") as file:
    for name, value in sorted(lines):
        file.write(name + " " + " ".join(f"{ord(c):x}" for c in value) + "\n")
print(len(lines), max(len(n) for n, _ in lines))
