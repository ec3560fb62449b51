//! Learnt positions, and their interpolation for another input size or context length.

use super::spec::{Interpolation, TransformerSpec, VitSpec};
use crate::error::{Error, Result};
use crate::weights::Params;
use candle_core::{Device, Tensor};

/// The positions of a vision transformer for its input size: (1, tokens, width), the class token's first.
pub(super) fn load(params: &Params<'_>, spec: &VitSpec) -> Result<Tensor> {
    let width = spec.blocks.width;
    let lead = usize::from(spec.class_token);
    let [from, to] =
        [spec.image_size, spec.input_size].map(|[height, width]| [height / spec.patch, width / spec.patch]);
    if to.contains(&0) {
        return Err(Error::usage(format!("an input of {:?} pixels holds no patch of {}", spec.input_size, spec.patch)));
    }
    let table = params.get("positions", &[1, lead + from[0] * from[1], width])?;
    if from == to {
        return Ok(table);
    }
    let class = table.narrow(1, 0, lead)?;
    let grid = table.narrow(1, lead, from[0] * from[1])?.to_dtype(candle_core::DType::F32)?.flatten_all()?;
    let resized = resize(&grid.to_vec1::<f32>()?, from, to, width, spec.interpolation);
    let resized = Tensor::from_vec(resized, (1, to[0] * to[1], width), &Device::Cpu)?;
    let resized = resized.to_device(table.device())?.to_dtype(table.dtype())?;
    Ok(Tensor::cat(&[&class, &resized], 1)?)
}

/// The positions of a text transformer: (tokens, width). Where another number is stored they are interpolated, as
/// open_clip does it (`resize_text_pos_embed`).
pub(super) fn load_text(params: &Params<'_>, spec: &TransformerSpec) -> Result<Tensor> {
    let (width, from, to) = (spec.blocks.width, spec.positions, spec.tokens());
    let table = params.get("positions", &[from, width])?;
    if from == to {
        return Ok(table);
    }
    let rows = table.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let resized = resize(&rows, [from, 1], [to, 1], width, Interpolation::Linear);
    Ok(Tensor::from_vec(resized, (to, width), &Device::Cpu)?.to_device(table.device())?.to_dtype(table.dtype())?)
}

/// Resizes a grid of vectors, (rows, columns, width) row by row.
pub fn resize(grid: &[f32], from: [usize; 2], to: [usize; 2], width: usize, how: Interpolation) -> Vec<f32> {
    let (rows, columns) = (weights(from[0], to[0], how), weights(from[1], to[1], how));
    let mut out = Vec::with_capacity(to[0] * to[1] * width);
    for row in &rows {
        for column in &columns {
            let mut sum = vec![0f64; width];
            for &(y, wy) in row {
                for &(x, wx) in column {
                    let vector = &grid[(y * from[1] + x) * width..][..width];
                    sum.iter_mut().zip(vector).for_each(|(sum, &v)| *sum += wy * wx * f64::from(v));
                }
            }
            out.extend(sum.iter().map(|&v| v as f32));
        }
    }
    out
}

/// For each output place, the input places and weights that make it, as `torch.nn.functional.interpolate` with
/// `align_corners=False` has them.
fn weights(from: usize, to: usize, how: Interpolation) -> Vec<Vec<(usize, f64)>> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            match how {
                Interpolation::Linear => {
                    let at = (centre - 0.5).max(0.0);
                    let first = (at as usize).min(from - 1);
                    let share = at - first as f64;
                    vec![(first, 1.0 - share), ((first + 1).min(from - 1), share)]
                }
                Interpolation::Bicubic => {
                    let at = centre - 0.5;
                    let base = at.floor();
                    (-1..=2)
                        .map(|tap| {
                            let place = base + f64::from(tap);
                            (place.clamp(0.0, from as f64 - 1.0) as usize, cubic(at - place, -0.75))
                        })
                        .collect()
                }
                Interpolation::BicubicAntialias => {
                    let stretch = scale.max(1.0);
                    let support = 2.0 * stretch;
                    let first = (centre - support + 0.5).max(0.0) as usize;
                    let last = ((centre + support + 0.5) as usize).min(from);
                    let taps: Vec<(usize, f64)> =
                        (first..last).map(|x| (x, cubic((x as f64 - centre + 0.5) / stretch, -0.5))).collect();
                    let total: f64 = taps.iter().map(|(_, w)| w).sum();
                    taps.into_iter().map(|(x, w)| (x, w / total)).collect()
                }
            }
        })
        .collect()
}

/// The cubic convolution kernel (Keys 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}
