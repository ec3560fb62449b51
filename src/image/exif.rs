//! EXIF orientation: which of the eight ways a camera was held.

use super::sniff::Format;
use super::{Cutout, Raster, Samples, decode_webp};

/// The orientation that a file claims, 1 (upright) to 8; 1 when it says nothing that makes sense.
pub(crate) fn orientation(bytes: &[u8], format: Format) -> u8 {
    let block = match format {
        Format::Jpeg => jpeg_block(bytes),
        Format::Png => png_block(bytes),
        Format::WebP => decode_webp::chunks(bytes).find(|(name, _)| *name == b"EXIF").map(|(_, content)| content),
        _ => None,
    };
    block.and_then(tag).unwrap_or(1)
}

/// The first `APP1` segment that holds EXIF.
fn jpeg_block(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(2..)?;
    loop {
        let [0xff, marker, after @ ..] = rest else { return None };
        match marker {
            // Fill bytes and markers without content.
            0xff => {
                rest = &rest[1..];
                continue;
            }
            0x01 | 0xd0..=0xd8 => {
                rest = after;
                continue;
            }
            // The pixels begin.
            0xda | 0xd9 => return None,
            _ => {}
        }
        let len = usize::from(u16::from_be_bytes([*after.first()?, *after.get(1)?]));
        let content = after.get(2..len)?;
        if *marker == 0xe1 && content.starts_with(b"Exif\0") {
            return Some(content);
        }
        rest = after.get(len..)?;
    }
}

/// The `eXIf` chunk.
fn png_block(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let len = u32::from_be_bytes(*len) as usize;
        let (name, content) = after.split_first_chunk::<4>()?;
        if name == b"eXIf" {
            return content.get(..len);
        }
        rest = content.get(len.checked_add(4)?..)?;
    }
}

/// The orientation tag in the first directory of a TIFF structure.
fn tag(block: &[u8]) -> Option<u8> {
    let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let little = match tiff.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let word = |at: usize| {
        let bytes = [*tiff.get(at)?, *tiff.get(at.checked_add(1)?)?];
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let (a, b) = (usize::from(word(4)?), usize::from(word(6)?));
    let directory = if little { b << 16 | a } else { a << 16 | b };
    for entry in 0..usize::from(word(directory)?) {
        let at = directory.checked_add(2)?.checked_add(entry * 12)?;
        if word(at)? == 0x0112 {
            // Short, one of it.
            return if word(at + 2)? == 3 {
                u8::try_from(word(at + 8)?).ok().filter(|v| (1..=8).contains(v))
            } else {
                None
            };
        }
    }
    None
}

/// Turns and mirrors an image so that it is upright, as Pillow's `ImageOps.exif_transpose`.
pub(crate) fn turn(raster: Raster, orientation: u8) -> Raster {
    if !(2..=8).contains(&orientation) {
        return raster;
    }
    let samples = match &raster.samples {
        Samples::Bytes(data) => Samples::Bytes(turned(data, &raster, raster.mode.channels(), orientation)),
        Samples::Wide(data) => Samples::Wide(turned(data, &raster, 1, orientation)),
    };
    let cutout = match &raster.cutout {
        Cutout::Pixels(opacity) => Cutout::Pixels(turned(opacity, &raster, 1, orientation)),
        other => other.clone(),
    };
    let (width, height) = if orientation >= 5 { (raster.height, raster.width) } else { (raster.width, raster.height) };
    Raster { width, height, samples, cutout, ..raster }
}

fn turned<T: Copy>(data: &[T], raster: &Raster, channels: usize, orientation: u8) -> Vec<T> {
    let (w, h) = (raster.width, raster.height);
    let (out_w, out_h) = if orientation >= 5 { (h, w) } else { (w, h) };
    let mut out = Vec::with_capacity(data.len());
    for y in 0..out_h {
        for x in 0..out_w {
            let (sx, sy) = match orientation {
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, h - 1 - x),
                7 => (w - 1 - y, h - 1 - x),
                _ => (w - 1 - y, x),
            };
            out.extend_from_slice(&data[(sy * w + sx) * channels..][..channels]);
        }
    }
    out
}
