//! PNG, BMP, TIFF and TGA through the `image` crate, brought to Pillow's modes and rules.

use super::sniff::Format;
use super::{Cutout, DecodeOptions, Mode, Raster, check_size, corrupt, decode_ico, exif, truncated, unsupported};
use crate::error::{ItemError, ItemKind};
use image::codecs::{bmp, png, tga, tiff};
use image::error::{ImageError, LimitErrorKind};
use image::{ColorType, ExtendedColorType, ImageDecoder, Limits};
use std::io::Cursor;

/// Decodes the first image of a file in one of the formats named above.
pub(crate) fn decode(bytes: &[u8], format: Format, options: &DecodeOptions) -> Result<Raster, ItemError> {
    let cursor = Cursor::new(bytes);
    let open = |e: ImageError| item_error(&e);
    match format {
        Format::Png => {
            let read = |bytes: &[u8]| {
                let decoder = png::PngDecoder::with_limits(Cursor::new(bytes), limits(options)).map_err(open)?;
                Decoded::read(decoder, options)
            };
            let decoded = match read(bytes) {
                // Pillow does not miss the end chunk when the pixels are all there.
                Err(e) if e.kind == ItemKind::Truncated => read(&[bytes, b"\0\0\0\0IEND\xaeB`\x82"].concat()),
                result => result,
            };
            png_raster(bytes, decoded?)
        }
        Format::Bmp => {
            let decoded = Decoded::read(bmp::BmpDecoder::new(cursor).map_err(open)?, options)?;
            Ok(bmp_raster(bytes, decoded))
        }
        Format::Tiff => {
            let mut decoder = tiff::TiffDecoder::new(cursor).map_err(open)?;
            // Pillow turns TIFF files while loading, whatever the caller wants.
            let orientation = decoder.orientation().map_or(1, image::metadata::Orientation::to_exif);
            let bilevel = decoder.original_color_type() == ExtendedColorType::L1;
            let decoded = Decoded::read(decoder, options)?;
            let raster = if bilevel { decoded.with_mode(Mode::One) } else { decoded.raster()? };
            Ok(exif::turn(raster, orientation))
        }
        Format::Ico => decode_ico::decode(bytes, options),
        Format::Tga => {
            // Most files that look like TGA by their header but do not decode are something else altogether.
            let not_tga = |_| unsupported(format!("not an image in a format we know ({})", super::FORMATS));
            let decoder = tga::TgaDecoder::new(cursor).map_err(|e| not_tga(item_error(&e)))?;
            let palette = matches!(bytes.get(2), Some(1 | 9));
            match Decoded::read(decoder, options) {
                Ok(decoded) if palette => {
                    Ok(Raster { background: tga_color_0(bytes).unwrap_or_default(), ..decoded.with_mode(Mode::P) })
                }
                Ok(decoded) => decoded.raster(),
                Err(error) if error.kind == ItemKind::TooLarge => Err(error),
                Err(error) => Err(not_tga(error)),
            }
        }
        Format::Gif | Format::Jpeg | Format::Pnm | Format::WebP => Err(unsupported(format.name())),
    }
}

/// The `image` crate's own guard, a little above ours, which looks at the header first.
fn limits(options: &DecodeOptions) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.max_pixels.saturating_mul(16).max(64 << 20));
    limits
}

/// The `image` crate's errors as ours.
pub(crate) fn item_error(error: &ImageError) -> ItemError {
    match error {
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            truncated("the image file is truncated")
        }
        ImageError::Limits(e) => {
            let kind = if matches!(e.kind(), LimitErrorKind::Unsupported { .. }) {
                ItemKind::Unsupported
            } else {
                ItemKind::TooLarge
            };
            ItemError::new(kind, error)
        }
        ImageError::Unsupported(_) => unsupported(error),
        _ => {
            let message = error.to_string();
            // The decoders below hide the reader's error in text.
            let lower = message.to_ascii_lowercase();
            let ends = ["unexpected end of", "unexpected eof", "failed to fill whole buffer", "unexpectedeof"];
            if ends.iter().any(|text| lower.contains(text)) {
                truncated("the image file is truncated")
            } else if lower.contains("unsupported") {
                unsupported(message)
            } else {
                corrupt(message)
            }
        }
    }
}

/// Pixels as the `image` crate gives them.
pub(crate) struct Decoded {
    width: usize,
    height: usize,
    color: ColorType,
    data: Vec<u8>,
}

impl Decoded {
    /// Reads the pixels after looking at the size.
    pub(crate) fn read(mut decoder: impl ImageDecoder, options: &DecodeOptions) -> Result<Self, ItemError> {
        let (width, height) = decoder.dimensions();
        check_size(width.into(), height.into(), options)?;
        decoder.set_limits(limits(options)).map_err(|e| item_error(&e))?;
        let color = decoder.color_type();
        let len = usize::try_from(decoder.total_bytes()).map_err(|_| corrupt("the image does not fit in memory"))?;
        let mut data = vec![0; len];
        decoder.read_image(&mut data).map_err(|e| item_error(&e))?;
        Ok(Self { width: width as usize, height: height as usize, color, data })
    }

    /// The last channel, where there is one for opacity.
    fn opacity(&self) -> Option<Vec<u8>> {
        let channels = usize::from(self.color.channel_count());
        let bytes = usize::from(self.color.bytes_per_pixel());
        (channels % 2 == 0 && channels == bytes)
            .then(|| self.data.chunks_exact(channels).map(|p| p[channels - 1]).collect())
    }

    /// In the mode that the samples suggest.
    pub(crate) fn raster(self) -> Result<Raster, ItemError> {
        let mode = match self.color {
            ColorType::L8 => Mode::L,
            ColorType::La8 => Mode::La,
            ColorType::Rgb8 | ColorType::Rgb16 => Mode::Rgb,
            ColorType::Rgba8 | ColorType::Rgba16 | ColorType::La16 => Mode::Rgba,
            ColorType::L16 => Mode::I16,
            other => return Err(unsupported(format!("an image of samples of the type {other:?}"))),
        };
        Ok(self.with_mode(mode))
    }

    /// In this mode: channels are dropped, or opacity is full. Of 16 bits the upper 8 stay (Pillow cuts, it does not
    /// round), except in `I;16`.
    pub(crate) fn with_mode(self, mode: Mode) -> Raster {
        let Self { width, height, color, data } = self;
        let from = usize::from(color.channel_count());
        if usize::from(color.bytes_per_pixel()) == from && from == mode.channels() {
            return Raster::bytes(width, height, mode, data);
        }
        let words = |pair: &[u8]| u16::from_ne_bytes([pair[0], pair[1]]);
        let wide = usize::from(color.bytes_per_pixel()) == from * 2;
        if matches!(mode, Mode::I16 | Mode::I) {
            let samples: Vec<i32> = if wide {
                data.chunks_exact(2 * from).map(|pixel| words(pixel).into()).collect()
            } else {
                data.chunks_exact(from).map(|pixel| pixel[0].into()).collect()
            };
            return Raster::wide(width, height, mode, samples);
        }
        let bytes: Vec<u8> =
            if wide { data.chunks_exact(2).map(|pair| (words(pair) >> 8) as u8).collect() } else { data };
        let to = mode.channels();
        let mut out = Vec::with_capacity(width * height * to);
        for pixel in bytes.chunks_exact(from) {
            // Grey stands for all three colours.
            let color = if from >= 3 { [pixel[0], pixel[1], pixel[2]] } else { [pixel[0]; 3] };
            let alpha = if from % 2 == 0 { pixel[from - 1] } else { 255 };
            match to {
                1 => out.push(color[0]),
                2 => out.extend([color[0], alpha]),
                3 => out.extend(color),
                _ => out.extend([color[0], color[1], color[2], alpha]),
            }
        }
        Raster::bytes(width, height, mode, out)
    }
}

/// Pillow's mode follows from the header alone; transparency chunks stay beside the pixels.
fn png_raster(bytes: &[u8], decoded: Decoded) -> Result<Raster, ItemError> {
    let header = bytes.get(24..26).ok_or_else(|| truncated("PNG: the image file is truncated"))?;
    let mode = match (header[0], header[1]) {
        (1, 0) => Mode::One,
        (16, 0) => Mode::I16,
        (_, 0) => Mode::L,
        (_, 2) => Mode::Rgb,
        (_, 3) => Mode::P,
        (8, 4) => Mode::La,
        _ => Mode::Rgba,
    };
    let background = match png_chunk(bytes, b"PLTE") {
        Some([r, g, b, ..]) if mode == Mode::P => [*r, *g, *b],
        _ => [0; 3],
    };
    let cutout = match (mode, png_chunk(bytes, b"tRNS")) {
        (Mode::P, Some(_)) => decoded.opacity().map_or(Cutout::None, Cutout::Pixels),
        (Mode::One, Some([high, low, ..])) => Cutout::Color([if high | low != 0 { 255 } else { 0 }; 3]),
        // Pillow compares the value as the chunk states it, even where it has scaled or cut the pixels.
        (Mode::L | Mode::I16, Some([_, grey, ..])) => Cutout::Color([*grey; 3]),
        (Mode::Rgb, Some([_, r, _, g, _, b, ..])) => Cutout::Color([*r, *g, *b]),
        _ => Cutout::None,
    };
    Ok(Raster { background, cutout, ..decoded.with_mode(mode) })
}

/// The content of the first chunk of this name before the pixels.
fn png_chunk<'a>(bytes: &'a [u8], wanted: &[u8; 4]) -> Option<&'a [u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (len, after) = rest.split_first_chunk::<4>()?;
        let (name, after) = after.split_first_chunk::<4>()?;
        let len = u32::from_be_bytes(*len) as usize;
        if name == wanted {
            return after.get(..len);
        }
        if name == b"IDAT" {
            return None;
        }
        rest = after.get(len.checked_add(4)?..)?;
    }
}

/// The first colour of the palette.
fn tga_color_0(bytes: &[u8]) -> Option<[u8; 3]> {
    let header = bytes.get(..18)?;
    let first_is_0 = header[3] == 0 && header[4] == 0 && matches!(header[7], 24 | 32);
    let color = bytes.get(18 + usize::from(header[0])..)?.get(..3)?;
    first_is_0.then_some([color[2], color[1], color[0]])
}

/// Pillow's mode of a BMP: a palette of greys in order is none.
fn bmp_raster(bytes: &[u8], decoded: Decoded) -> Raster {
    let long = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let header = long(14) as usize;
    let (bits, entry, colors) = if header == 12 { (long(24) & 0xffff, 3, 0) } else { (long(28) & 0xffff, 4, long(46)) };
    if bits > 8 {
        // Opacity counts only where a mask names it.
        let masked = bits == 32 && long(30) == 3 && header >= 56 && long(66) != 0;
        return decoded.with_mode(if masked { Mode::Rgba } else { Mode::Rgb });
    }
    let colors = if colors == 0 { 1 << bits } else { colors as usize };
    let palette = bytes.get(14 + header..).unwrap_or_default();
    let color = |i: usize| palette.get(i * entry..i * entry + 3).map(|bgr| [bgr[2], bgr[1], bgr[0]]);
    let grey = (0..colors).all(|i| color(i) == Some([if colors == 2 { i * 255 } else { i } as u8; 3]));
    if grey && colors <= 256 {
        return decoded.with_mode(if colors <= 2 { Mode::One } else { Mode::L });
    }
    Raster { background: color(0).unwrap_or_default(), ..decoded.with_mode(Mode::P) }
}
