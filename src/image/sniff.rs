//! Which format a file is in, told from its first bytes.

use super::{FORMATS, unsupported};
use crate::error::ItemError;

/// A format that we decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Bmp,
    Gif,
    Ico,
    Jpeg,
    Png,
    Pnm,
    Tga,
    Tiff,
    WebP,
}

impl Format {
    /// The name for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
            Self::Ico => "ICO",
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Pnm => "PNM",
            Self::Tga => "TGA",
            Self::Tiff => "TIFF",
            Self::WebP => "WebP",
        }
    }
}

/// The format of a file, or an error that names what it is instead.
pub(crate) fn format(bytes: &[u8]) -> Result<Format, ItemError> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"\xff\xd8\xff") {
        return Ok(Format::Jpeg);
    }
    if starts(b"\x89PNG\r\n\x1a\n") {
        return Ok(Format::Png);
    }
    if starts(b"GIF87a") || starts(b"GIF89a") {
        return Ok(Format::Gif);
    }
    if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(Format::WebP);
    }
    if starts(b"BM") && bytes.len() > 14 {
        return Ok(Format::Bmp);
    }
    if starts(b"II*\0") || starts(b"MM\0*") {
        return Ok(Format::Tiff);
    }
    if starts(b"\0\0\x01\0") {
        return Ok(Format::Ico);
    }
    if let [b'P', b'1'..=b'6', b' ' | b'\t' | b'\r' | b'\n' | b'\x0b' | b'\x0c' | b'#', ..] = bytes {
        return Ok(Format::Pnm);
    }
    if let Some(name) = foreign(bytes) {
        return Err(unsupported(format!("this is {name}; readable are {FORMATS}")));
    }
    if is_tga(bytes) {
        return Ok(Format::Tga);
    }
    Err(unsupported(format!("not an image in a format we know ({FORMATS})")))
}

/// TGA has no magic: Pillow takes a file for one when the fields of its header make sense together.
fn is_tga(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..18) else { return false };
    let (map, kind, depth) = (header[1], header[2], header[16]);
    let sized = (header[12] | header[13]) != 0 && (header[14] | header[15]) != 0;
    let depths: &[u8] = match kind {
        1 | 9 => &[8],
        2 | 10 => &[16, 24, 32],
        3 | 11 => &[8, 16],
        _ => return false,
    };
    map <= 1 && sized && depths.contains(&depth) && (map == 0 || matches!(header[7], 15 | 16 | 24 | 32))
}

/// The name of something that we do not decode but people have in their folders.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(match bytes.get(8..12)? {
            b"avif" | b"avis" => "an AVIF image",
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => "a HEIF/HEIC image",
            b"crx " => "a Canon raw photo (CR3)",
            _ => "a video (MP4/MOV)",
        });
    }
    let known: [(&[u8], &str); 26] = [
        (b"\xff\x0a", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
        (b"\xff\xd8", "a broken JPEG image"),
        (b"%PDF", "a PDF document"),
        (b"%!PS", "a PostScript document"),
        (b"8BPS", "a Photoshop document"),
        (b"gimp xcf", "a GIMP document"),
        (b"DDS ", "a DDS texture"),
        (b"v/1\x01", "an OpenEXR image"),
        (b"#?RADIANCE", "a Radiance HDR image"),
        (b"qoif", "a QOI image"),
        (b"farbfeld", "a farbfeld image"),
        (b"icns", "an Apple icon (ICNS)"),
        (b"FUJIFILMCCD-RAW", "a Fujifilm raw photo"),
        (b"IIRO", "an Olympus raw photo"),
        (b"IIU\0", "a Panasonic raw photo"),
        (b"II+\0", "a BigTIFF image"),
        (b"MM\0+", "a BigTIFF image"),
        (b"\x1aE\xdf\xa3", "a video (Matroska/WebM)"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"RIFF", "a RIFF file other than WebP"),
        (b"version https://git-lfs", "a Git LFS pointer, not the file itself (run `git lfs pull`)"),
        (b"P7\n", "a PAM image"),
    ];
    if let Some((_, name)) = known.iter().find(|(magic, _)| starts(magic)) {
        return Some(name);
    }
    // Uncompressed TGA begins alike, but has no count of images there.
    if let [0, 0, 2, 0, 1..=255, 0, ..] = bytes {
        return Some("a Windows cursor (CUR)");
    }
    if let [b'P', b'f' | b'F', b'\n', ..] = bytes {
        return Some("a PFM image (floating point)");
    }
    let head = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(head).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    if text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg")) {
        return Some("an SVG drawing");
    }
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Some("an HTML page (a failed download?)");
    }
    None
}
