//! WebP as Pillow's animation decoder shows it.

use super::decode_other::{Decoded, item_error};
use super::{DecodeOptions, Mode, Raster, check_size, corrupt, truncated};
use crate::error::ItemError;
use image::codecs::webp::WebPDecoder;
use std::io::Cursor;

/// Decodes a still image, or the first frame of an animation on an empty canvas; `RGB` or `RGBA`.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Raster, ItemError> {
    // libwebp wants all that the file announces, also what follows the pixels.
    if let [_, _, _, _, a, b, c, d, ..] = bytes
        && (u32::from_le_bytes([*a, *b, *c, *d]) as usize).saturating_add(8) > bytes.len()
    {
        return Err(truncated("WebP: the image file is truncated"));
    }
    if let Some((b"VP8X", header)) = chunks(bytes).next()
        && let [flags, _, _, _, rest @ ..] = header
        && flags & 0x02 != 0
        && rest.len() >= 6
    {
        let mode = if flags & 0x10 != 0 { Mode::Rgba } else { Mode::Rgb };
        return first_frame(bytes, mode, (triple(rest, 0) + 1, triple(rest, 3) + 1), options);
    }
    let mode = if has_alpha(bytes) { Mode::Rgba } else { Mode::Rgb };
    still(bytes, mode, options)
}

fn still(bytes: &[u8], mode: Mode, options: &DecodeOptions) -> Result<Raster, ItemError> {
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| item_error(&e))?;
    Ok(Decoded::read(decoder, options)?.with_mode(mode))
}

/// The chunks of the file: name and content.
pub(crate) fn chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (name, after) = rest.split_first_chunk::<4>()?;
        let (len, after) = after.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        let content = &after[..len.min(after.len())];
        // Chunks begin at even offsets.
        rest = after.get(len.saturating_add(len % 2)..).unwrap_or_default();
        Some((name, content))
    })
}

/// libwebp's `has_alpha`: what the lossless stream says, else the header's flag or an opacity chunk.
fn has_alpha(bytes: &[u8]) -> bool {
    let mut alpha = false;
    for (name, content) in chunks(bytes) {
        match name {
            b"VP8X" => alpha |= content.first().is_some_and(|flags| flags & 0x10 != 0),
            b"ALPH" => alpha = true,
            b"VP8L" => return alpha_bit(content),
            b"VP8 " => return alpha,
            _ => {}
        }
    }
    alpha
}

/// The lossless header: a signature byte, 14 bits each of width and height less one, and the bit in question.
fn alpha_bit(lossless: &[u8]) -> bool {
    lossless.get(4).is_some_and(|byte| byte & 0x10 != 0)
}

/// The first frame, put on a canvas of transparent black without blending, as libwebp does with a key frame.
fn first_frame(
    bytes: &[u8],
    mode: Mode,
    (width, height): (usize, usize),
    options: &DecodeOptions,
) -> Result<Raster, ItemError> {
    check_size(width as u64, height as u64, options)?;
    let Some((_, frame)) = chunks(bytes).find(|(name, _)| *name == b"ANMF") else {
        return Err(corrupt("WebP: an animation without frames"));
    };
    let (header, content) = frame.split_at_checked(16).ok_or_else(|| truncated("WebP: the image file is truncated"))?;
    let (x, y) = (triple(header, 0) * 2, triple(header, 3) * 2);
    let size = &header[6..12];

    // The same frame as a file of its own.
    let alpha = content.starts_with(b"ALPH");
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    if alpha {
        file.extend_from_slice(b"VP8X\x0a\0\0\0\x10\0\0\0");
        file.extend_from_slice(size);
    }
    file.extend_from_slice(content);
    let len = u32::try_from(file.len() - 8).map_err(|_| corrupt("WebP: the frame is too long"))?;
    file[4..8].copy_from_slice(&len.to_le_bytes());
    let frame = still(&file, if has_alpha(&file) { Mode::Rgba } else { Mode::Rgb }, options)?;
    let channels = frame.mode.channels();
    let super::Samples::Bytes(pixels) = &frame.samples else { return Err(corrupt("WebP: wide samples")) };
    if x + frame.width > width || y + frame.height > height {
        return Err(corrupt("WebP: a frame outside the image"));
    }

    let mut canvas = vec![0; width * height * 4];
    for (row, pixels) in pixels.chunks_exact(frame.width * channels).enumerate() {
        let start = ((y + row) * width + x) * 4;
        for (place, pixel) in
            canvas[start..start + frame.width * 4].chunks_exact_mut(4).zip(pixels.chunks_exact(channels))
        {
            place[..3].copy_from_slice(&pixel[..3]);
            place[3] = pixel.get(3).copied().unwrap_or(255);
        }
    }
    let canvas = Raster::bytes(width, height, Mode::Rgba, canvas);
    Ok(if mode == Mode::Rgba { canvas } else { super::convert::to_rgb(&canvas).into_owned() })
}

/// A little-endian number of three bytes.
fn triple(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) | usize::from(bytes[at + 1]) << 8 | usize::from(bytes[at + 2]) << 16
}
