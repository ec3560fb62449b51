//! PBM, PGM and PPM, text or binary, with Pillow's scaling: `1`, `L`, `I` (more than 8 bits) or `RGB`.

use super::{DecodeOptions, Mode, Raster, check_size, corrupt, truncated};
use crate::error::ItemError;

/// Decodes the first image of the file.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Raster, ItemError> {
    let mut text = Text { bytes, at: 2 };
    let kind = bytes[1];
    let (width, height) = (text.number()?, text.number()?);
    check_size(width.into(), height.into(), options)?;
    let (bits, plain, channels) =
        (matches!(kind, b'1' | b'4'), kind <= b'3', if matches!(kind, b'3' | b'6') { 3 } else { 1 });
    let top = if bits { 1 } else { text.number()? };
    if !(1..65536).contains(&top) {
        return Err(corrupt("PNM: the largest value must be between 1 and 65535"));
    }
    let (width, height) = (width as usize, height as usize);
    let count = width * height * channels;
    let wide = top > 255 && channels == 1;
    let out_max = if wide { 65535.0 } else { 255.0 };
    // Python's rounding, half to even.
    let scale = |v: u32| (f64::from(v) / f64::from(top) * out_max).round_ties_even().min(out_max) as i32;
    let end = || truncated("PNM: the image file is truncated");

    let values: Vec<i32> = if bits && plain {
        let mut values = Vec::new();
        while values.len() < count {
            match text.byte(true).ok_or_else(end)? {
                b'0' => values.push(255),
                b'1' => values.push(0),
                byte if byte.is_ascii_whitespace() => {}
                _ => return Err(corrupt("PNM: neither 0 nor 1")),
            }
        }
        values
    } else if bits {
        let stride = width.div_ceil(8);
        let data = text.rest().get(..stride * height).ok_or_else(end)?;
        let row = |row: &[u8]| (0..width).map(|x| if row[x / 8] >> (7 - x % 8) & 1 == 0 { 255 } else { 0 }).collect();
        data.chunks_exact(stride).flat_map(|r: &[u8]| -> Vec<i32> { row(r) }).collect()
    } else if plain {
        let mut values = Vec::new();
        while values.len() < count {
            let v = text.number()?;
            if v > top {
                return Err(corrupt(format!("PNM: the value {v} is above {top}")));
            }
            values.push(scale(v));
        }
        values
    } else if top > 255 {
        let data = text.rest().get(..count * 2).ok_or_else(end)?;
        data.chunks_exact(2).map(|v| scale(u16::from_be_bytes([v[0], v[1]]).into())).collect()
    } else {
        text.rest().get(..count).ok_or_else(end)?.iter().map(|&v| scale(v.into())).collect()
    };
    if wide {
        return Ok(Raster::wide(width, height, Mode::I, values));
    }
    let mode = if bits {
        Mode::One
    } else if channels == 3 {
        Mode::Rgb
    } else {
        Mode::L
    };
    Ok(Raster::bytes(width, height, mode, values.into_iter().map(|v| v as u8).collect()))
}

/// Numbers in text.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    /// The next byte outside comments.
    fn byte(&mut self, comments: bool) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            if byte != b'#' || !comments {
                return Some(byte);
            }
            while !matches!(self.bytes.get(self.at), None | Some(b'\r' | b'\n')) {
                self.at += 1;
            }
            self.at += 1;
        }
    }

    /// The next number, and one white-space byte after it.
    fn number(&mut self) -> Result<u32, ItemError> {
        let mut value: Option<u32> = None;
        while let Some(byte) = self.byte(true) {
            match byte {
                b'0'..=b'9' if value.unwrap_or(0) < 100_000_000 => {
                    value = Some(value.unwrap_or(0) * 10 + u32::from(byte - b'0'));
                }
                _ if byte.is_ascii_whitespace() || byte == 0x0b => {
                    if value.is_some() {
                        break;
                    }
                }
                _ => return Err(corrupt("PNM: a number was expected")),
            }
        }
        value.ok_or_else(|| truncated("PNM: the image file is truncated"))
    }

    /// The bytes after the header.
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }
}
