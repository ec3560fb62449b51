//! Small pictures for people.

use super::{Filter, Raster, Window, convert, resize};

/// The image in RGB on white, no side longer than `side` pixels; never enlarged.
#[must_use]
pub fn thumbnail(raster: &Raster, side: usize) -> Raster {
    let rgb = convert::on_white(raster);
    let longest = rgb.width.max(rgb.height).max(side);
    // What is long and thin keeps a pixel.
    let scaled = |n: usize| ((n as f64 * side as f64 / longest as f64).round() as usize).clamp(1, side);
    let (width, height) = (scaled(rgb.width), scaled(rgb.height));
    resize(&rgb, width, height, Filter::Bicubic, Window { x: 0, y: 0, width, height })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Mode, Samples};

    #[test]
    fn sizes_and_transparency() {
        let size = |width, height| {
            let small = thumbnail(&Raster::bytes(width, height, Mode::L, vec![7; width * height]), 20);
            (small.width, small.height, small.mode)
        };
        assert_eq!(size(40, 30), (20, 15, Mode::Rgb));
        assert_eq!(size(10, 15), (10, 15, Mode::Rgb));
        assert_eq!(size(3000, 2), (20, 1, Mode::Rgb));
        let clear = Raster::bytes(1, 1, Mode::Rgba, vec![9, 9, 9, 0]);
        assert_eq!(thumbnail(&clear, 20).samples, Samples::Bytes(vec![255; 3]));
    }
}
