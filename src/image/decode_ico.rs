//! The icon that Pillow picks from an ICO file: the largest, and of several the one with the fewest bits.

use super::sniff::Format;
use super::{DecodeOptions, Mode, Raster, Samples, convert, corrupt, decode_other, truncated};
use crate::error::ItemError;

/// Decodes the largest icon; `RGBA`, or the mode of the PNG file inside.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Raster, ItemError> {
    let end = || truncated("ICO: the image file is truncated");
    let count = usize::from(u16::from_le_bytes([*bytes.get(4).ok_or_else(end)?, *bytes.get(5).ok_or_else(end)?]));
    let entries = bytes[6..].chunks_exact(16).take(count);
    let side = |v: u8| if v == 0 { 256 } else { i32::from(v) };
    let depth = |e: &[u8]| match (u16::from_le_bytes([e[6], e[7]]), e[2]) {
        // log2(1) is no depth either.
        (0, 0 | 1) => 256,
        (0, colors) => 32 - (i32::from(colors) - 1).leading_zeros() as i32,
        (bits, _) => i32::from(bits),
    };
    let entry = entries.min_by_key(|e| (-side(e[0]) * side(e[1]), depth(e)));
    let entry = entry.ok_or_else(|| corrupt("ICO: there is no image in the file"))?;
    let long = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize;
    let (len, offset) = (long(8), long(12));
    let data = bytes.get(offset..).ok_or_else(end)?;
    if data.starts_with(b"\x89PNG\r\n\x1a\n") {
        return decode_other::decode(data, Format::Png, options);
    }
    bitmap(data, len, u16::from_le_bytes([entry[6], entry[7]]) == 32, options)
}

/// A bitmap without file header, twice as high as the icon: the colours, then one bit per pixel for what is cut out.
fn bitmap(data: &[u8], len: usize, alpha_in_color: bool, options: &DecodeOptions) -> Result<Raster, ItemError> {
    let end = || truncated("ICO: the image file is truncated");
    let header = data.get(..40).ok_or_else(end)?;
    let long = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (size, height, bits) = (long(0), long(8) / 2, u32::from(u16::from_le_bytes([header[14], header[15]])));
    let colors = match (bits, long(32)) {
        (0..=8, 0) => 1 << bits,
        (0..=8, n) => n.min(256),
        _ => 0,
    };
    let start = size.saturating_add(colors * 4);
    let mut file = b"BM".to_vec();
    file.extend((data.len() as u32).saturating_add(14).to_le_bytes());
    file.extend([0; 4]);
    file.extend(start.saturating_add(14).to_le_bytes());
    file.extend_from_slice(data);
    file[14 + 8..14 + 12].copy_from_slice(&height.to_le_bytes());
    let color = decode_other::decode(&file, Format::Bmp, options)?;

    let (width, height) = (color.width, color.height);
    let alpha: Vec<u8> = if alpha_in_color {
        let pixels = data.get(start as usize..).and_then(|d| d.get(..width * height * 4)).ok_or_else(end)?;
        pixels.chunks_exact(width * 4).rev().flat_map(|row| row.iter().skip(3).step_by(4)).copied().collect()
    } else {
        let stride = width.div_ceil(32) * 4;
        let from = len.checked_sub(stride * height).ok_or_else(end)?;
        let mask = data.get(from..).and_then(|d| d.get(..stride * height)).ok_or_else(end)?;
        let clear = |row: &[u8], x: usize| row[x / 8] >> (7 - x % 8) & 1 == 1;
        let rows = mask.chunks_exact(stride).rev();
        rows.flat_map(|row| (0..width).map(move |x| if clear(row, x) { 0 } else { 255 })).collect()
    };
    let Samples::Bytes(rgb) = &convert::to_rgb(&color).samples else { return Err(corrupt("ICO: wide samples")) };
    let data = rgb.chunks_exact(3).zip(alpha).flat_map(|(p, a)| [p[0], p[1], p[2], a]).collect();
    Ok(Raster::bytes(width, height, Mode::Rgba, data))
}
