//! JPEG without a C compiler: not quite Pillow's pixels.

use super::{DecodeOptions, Raster, decode_other};
use crate::error::ItemError;
use image::codecs::jpeg::JpegDecoder;
use std::io::Cursor;

/// Decodes a JPEG file; `L` or `RGB`.
pub(crate) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Raster, ItemError> {
    let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(|e| decode_other::item_error(&e))?;
    decode_other::Decoded::read(decoder, options)?.raster()
}
