//! Where tokens are: learnt positions with their interpolation for another input size or context length, and rotary
//! positions.

use super::spec::{Interpolation, RopeSpec, TransformerSpec, VitSpec};
use crate::error::{Error, Result};
use crate::ops::Rotation;
use crate::weights::Params;
use candle_core::{Device, Tensor};

/// The learnt positions of a vision transformer.
#[derive(Clone, Debug)]
pub(super) struct Positions {
    /// As the checkpoint has them: (1, tokens, width), the class token's first.
    table: Tensor,
    /// How many of the tokens are no patches.
    lead: usize,
    /// The grid that the checkpoint has.
    from: [usize; 2],
    how: Interpolation,
    /// The grid of the usual input size, and its positions.
    usual: ([usize; 2], Tensor),
}

impl Positions {
    /// Takes the checkpoint's positions.
    pub(super) fn load(params: &Params<'_>, spec: &VitSpec) -> Result<Self> {
        let lead = usize::from(spec.class_token);
        let [from, to] = [spec.image_size, spec.input_size].map(|size| size.map(|side| side / spec.patch));
        if to.contains(&0) {
            let message = format!("an input of {:?} pixels holds no patch of {}", spec.input_size, spec.patch);
            return Err(Error::usage(message));
        }
        let (patches, width) = (from[0] * from[1], spec.blocks.width);
        // Some checkpoints give the class token no position: nothing is added to it.
        let bare =
            lead > 0 && params.shape("positions").is_some_and(|shape| shape.iter().rev().nth(1) == Some(&patches));
        let table = match bare {
            true => params.get("positions", &[1, patches, width])?.pad_with_zeros(1, lead, 0)?,
            false => params.get("positions", &[1, lead + patches, width])?,
        };
        let mut positions = Self { usual: (from, table.clone()), table, lead, from, how: spec.interpolation };
        positions.usual = (to, positions.at(to)?);
        Ok(positions)
    }

    /// The positions on a grid of so many rows and columns of patches: (1, tokens, width).
    pub(super) fn at(&self, grid: [usize; 2]) -> Result<Tensor> {
        if grid == self.usual.0 {
            return Ok(self.usual.1.clone());
        }
        if grid == self.from {
            return Ok(self.table.clone());
        }
        let patches = self.from[0] * self.from[1];
        let width = self.table.dim(2)?;
        let own = self.table.narrow(1, self.lead, patches)?;
        let numbers = own.to_dtype(candle_core::DType::F32)?.flatten_all()?;
        let resized = resize(&numbers.to_vec1::<f32>()?, self.from, grid, width, self.how);
        let resized = Tensor::from_vec(resized, (1, grid[0] * grid[1], width), &Device::Cpu)?;
        let mut resized = resized.to_device(self.table.device())?.to_dtype(self.table.dtype())?;
        if own.track_op() {
            // The same numbers, with the gradient of the sums that they are: what is added is zero.
            let sums = matrix(self.from, grid, self.how);
            let sums = Tensor::from_vec(sums, (grid[0] * grid[1], patches), own.device())?.to_dtype(own.dtype())?;
            let linear = sums.matmul(&own.squeeze(0)?)?.unsqueeze(0)?;
            resized = (resized + (&linear - linear.detach())?)?;
        }
        Ok(Tensor::cat(&[&self.table.narrow(1, 0, self.lead)?, &resized], 1)?)
    }
}

/// The rotary positions of a grid of patches, with so many tokens before and behind it that do not turn, for heads of
/// width `head`.
pub(super) fn rotation(
    spec: &RopeSpec,
    [lead, tail]: [usize; 2],
    [rows, columns]: [usize; 2],
    head: usize,
) -> Rotation {
    // In f32 throughout, as the reference computes them.
    let bands: Vec<f32> = (0..head / 4).map(|i| 1.0 / 10_000f32.powf(i as f32 / (head / 4) as f32)).collect();
    let place = |i: usize, size: usize, reference: usize| (i as f32 + spec.offset) / size as f32 * reference as f32;
    let mut angles = vec![0f32; lead * head / 2];
    for y in 0..rows {
        for x in 0..columns {
            let (y, x) = (place(y, rows, spec.reference[0]), place(x, columns, spec.reference[1]));
            let both = if spec.columns_first { [x, y] } else { [y, x] };
            angles.extend(both.iter().flat_map(|place| bands.iter().map(move |band| place * band)));
        }
    }
    angles.resize(angles.len() + tail * head / 2, 0.0);
    Rotation::new(&angles, head / 2)
}

/// The positions of a text transformer: (tokens, width). Where another number is stored they are interpolated, as
/// open_clip does it (`resize_text_pos_embed`).
pub(super) fn load_text(params: &Params<'_>, spec: &TransformerSpec) -> Result<Tensor> {
    let (width, from, to) = (spec.blocks.width, spec.positions, spec.tokens());
    let table = params.get("positions", &[from, width])?;
    if from == to {
        return Ok(table);
    }
    if to > 64 * from {
        return Err(Error::run(format!("{from} stored positions cannot be stretched to {to}")));
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

/// What [`resize`] computes as a matrix, (places of `to`, places of `from`) row by row.
fn matrix(from: [usize; 2], to: [usize; 2], how: Interpolation) -> Vec<f32> {
    let (rows, columns) = (weights(from[0], to[0], how), weights(from[1], to[1], how));
    let mut out = vec![0f32; to[0] * to[1] * from[0] * from[1]];
    let mut sums = out.chunks_exact_mut(from[0] * from[1]);
    for row in &rows {
        for (column, sum) in columns.iter().zip(&mut sums) {
            for &(y, wy) in row {
                column.iter().for_each(|&(x, wx)| sum[y * from[1] + x] += (wy * wx) as f32);
            }
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
                Interpolation::BicubicAntialias => antialiased(from, centre, scale, 2.0, |x| cubic(x, -0.5)),
                Interpolation::BilinearAntialias => antialiased(from, centre, scale, 1.0, |x| (1.0 - x.abs()).max(0.0)),
            }
        })
        .collect()
}

/// The input places around `centre` under a kernel of this support, both stretched when the grid shrinks.
fn antialiased(from: usize, centre: f64, scale: f64, support: f64, kernel: impl Fn(f64) -> f64) -> Vec<(usize, f64)> {
    let stretch = scale.max(1.0);
    let support = support * stretch;
    let first = (centre - support + 0.5).max(0.0) as usize;
    let last = ((centre + support + 0.5) as usize).min(from);
    let taps: Vec<(usize, f64)> =
        (first..last).map(|x| (x, kernel((x as f64 - centre + 0.5) / stretch))).filter(|(_, w)| *w != 0.0).collect();
    let total: f64 = taps.iter().map(|(_, w)| w).sum();
    taps.into_iter().map(|(x, w)| (x, w / total)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Var};

    #[test]
    fn resized_positions_are_trained() {
        let (from, to, width) = ([2, 3], [4, 5], 2);
        let numbers: Vec<f64> = (0..(1 + 6) * width).map(|n| (n as f64 * 0.7).sin()).collect();
        let table = Var::from_vec(numbers, (1, 7, width), &Device::Cpu).unwrap();
        for how in [Interpolation::Bicubic, Interpolation::BicubicAntialias] {
            let at = |table: Tensor| {
                let usual = (from, table.clone());
                Positions { table, lead: 1, from, how, usual }.at(to).unwrap()
            };
            let (tracked, constant) = (at(table.as_tensor().clone()), at(table.as_detached_tensor()));
            assert_eq!(tracked.to_vec3::<f64>().unwrap(), constant.to_vec3::<f64>().unwrap());
            let weights: Vec<f64> = (0..21 * width).map(|n| (n as f64 * 1.3).cos()).collect();
            let weights = Tensor::from_vec(weights, (1, 21, width), &Device::Cpu).unwrap();
            let gradients = (&tracked * &weights).unwrap().sum_all().unwrap().backward().unwrap();
            let gradient = gradients.get(&table).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            // The function is linear: its gradient is what a step of one along each number gives.
            for (n, gradient) in gradient.into_iter().enumerate() {
                let mut one = vec![0f64; 7 * width];
                one[n] = 1.0;
                let step = at(Tensor::from_vec(one, (1, 7, width), &Device::Cpu).unwrap());
                let expected = (step * &weights).unwrap().sum_all().unwrap().to_dtype(DType::F64).unwrap();
                assert!((gradient - expected.to_scalar::<f64>().unwrap()).abs() < 1e-5, "{n}");
            }
        }
    }
}
