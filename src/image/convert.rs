//! Pillow's `convert("RGB")` for each mode.

use super::{Mode, Raster, Samples};
use std::borrow::Cow;

/// The image as RGB, by the formulas of Pillow's `Convert.c`: opacity is dropped, wide samples are clipped to a byte,
/// ink is multiplied out.
pub(crate) fn to_rgb(raster: &Raster) -> Cow<'_, Raster> {
    if raster.mode == Mode::Rgb {
        return Cow::Borrowed(raster);
    }
    let data = match &raster.samples {
        Samples::Wide(samples) => samples.iter().flat_map(|&v| [v.clamp(0, 255) as u8; 3]).collect(),
        Samples::Bytes(data) => match raster.mode {
            Mode::One | Mode::L => data.iter().flat_map(|&v| [v; 3]).collect(),
            Mode::La => data.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
            Mode::Rgba => data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            Mode::Cmyk => data.chunks_exact(4).flat_map(|p| cmyk([p[0], p[1], p[2], p[3]])).collect(),
            Mode::P | Mode::Rgb | Mode::I16 | Mode::I => data.clone(),
        },
    };
    Cow::Owned(Raster::bytes(raster.width, raster.height, Mode::Rgb, data))
}

/// What a pixel of zeros becomes: the colour that padding gets when the conversion comes last.
pub(crate) fn zero_as_rgb(raster: &Raster) -> [u8; 3] {
    match raster.mode {
        Mode::P => raster.background,
        Mode::Cmyk => cmyk([0; 4]),
        _ => [0; 3],
    }
}

/// One pixel of ink on white paper.
fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let paper = 255 - i32::from(k);
    [c, m, y].map(|ink| {
        let t = i32::from(ink) * paper + 128;
        (paper - (((t >> 8) + t) >> 8)).clamp(0, 255) as u8
    })
}
