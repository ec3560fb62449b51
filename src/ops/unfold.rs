//! Sliding windows of an image as rows, so that a convolution is a matrix product.

use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// A sliding window: its size, stride and the zeros around the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the window.
    pub size: usize,
    /// From one window to the next.
    pub stride: usize,
    /// Zeros above and left of the image.
    pub before: usize,
    /// Zeros below and right of it.
    pub after: usize,
}

impl Window {
    /// TensorFlow's `SAME` padding on a side of `input` pixels: the output has ⌈input / stride⌉, and of an odd number
    /// of zeros the larger half comes last.
    pub fn same(size: usize, stride: usize, input: usize) -> Self {
        let total = ((input.div_ceil(stride) - 1) * stride + size).saturating_sub(input);
        Self { size, stride, before: total / 2, after: total - total / 2 }
    }

    /// Windows side by side, without overlap or padding.
    pub fn tiles(size: usize) -> Self {
        Self { size, stride: size, before: 0, after: 0 }
    }

    /// How many windows fit a side of `input` pixels.
    pub fn count(self, input: usize) -> usize {
        (input + self.before + self.after).checked_sub(self.size).map_or(0, |room| room / self.stride + 1)
    }
}

/// The windows of `x` (items, height, width, channels) as (items, rows · columns, size · size · channels), the numbers
/// of one window in order (row, column, channel).
pub fn unfold(x: &Tensor, window: Window) -> Result<Tensor> {
    if is_fused(x) { x.contiguous()?.apply_op1(Fused(window)) } else { composed(x, window) }
}

/// The same function from candle's differentiable ops: the reference, and the path of other devices.
pub fn composed(x: &Tensor, window: Window) -> Result<Tensor> {
    let (items, height, width, channels) = x.dims4()?;
    let (rows, columns) = (window.count(height), window.count(width));
    let taps = taps(x, window, rows, columns)?;
    Tensor::stack(&taps, 3)?.reshape((items, rows * columns, window.size * window.size * channels))
}

/// One tensor (items, rows, columns, channels) for each place in the window, in order (row, column).
pub(super) fn taps(x: &Tensor, window: Window, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
    let Window { size, stride, before, after } = window;
    // Room for the last window to be cut into whole strides.
    let x = x.pad_with_zeros(1, before, after + stride)?.pad_with_zeros(2, before, after + stride)?;
    let mut taps = Vec::with_capacity(size * size);
    for dy in 0..size {
        for dx in 0..size {
            let x = every(&x.narrow(1, dy, rows * stride)?, 1, stride)?;
            taps.push(every(&x.narrow(2, dx, columns * stride)?, 2, stride)?.contiguous()?);
        }
    }
    Ok(taps)
}

/// Every `stride`-th slice of a dimension, from the first.
fn every(x: &Tensor, dim: usize, stride: usize) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    dims[dim] /= stride;
    dims.insert(dim + 1, stride);
    x.contiguous()?.reshape(dims)?.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)
}

struct Fused(Window);

impl Fused {
    /// Calls `f(place in the unfolded row, place in the image row, count)` for each stretch of pixels that a window
    /// shares with the image, over all windows of one item.
    fn stretches(&self, (height, width, channels): (usize, usize, usize), mut f: impl FnMut(usize, usize, usize)) {
        let Window { size, stride, before, .. } = self.0;
        let (rows, columns) = (self.0.count(height), self.0.count(width));
        for row in 0..rows {
            for column in 0..columns {
                let start = (row * columns + column) * size * size * channels;
                let left = (column * stride).saturating_sub(before).min(width);
                let skipped = (left + before).saturating_sub(column * stride);
                let right = (column * stride + size).saturating_sub(before).min(width);
                if right <= left {
                    continue;
                }
                for dy in 0..size {
                    let Some(y) = (row * stride + dy).checked_sub(before).filter(|&y| y < height) else { continue };
                    f(
                        start + (dy * size + skipped) * channels,
                        (y * width + left) * channels,
                        (right - left) * channels,
                    );
                }
            }
        }
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (items, height, width, channels) = layout.shape().dims4()?;
        let windows = self.0.count(height) * self.0.count(width);
        let len = self.0.size * self.0.size * channels;
        let mut out = vec![0.0; items * windows * len];
        pool::chunks(&mut out, (windows * len).max(1), |b, out| {
            let image = &x[b * height * width * channels..][..height * width * channels];
            self.stretches((height, width, channels), |to, from, count| {
                out[to..to + count].copy_from_slice(&image[from..from + count]);
            });
        });
        Ok((CpuStorage::F32(out), (items, windows, len).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (items, height, width, channels) = x.dims4()?;
        let mut out = vec![0.0; items * height * width * channels];
        super::with_slice(&grad.contiguous()?, |grad| {
            let len = grad.len() / items.max(1);
            pool::chunks(&mut out, (height * width * channels).max(1), |b, out| {
                let grad = &grad[b * len..][..len];
                self.stretches((height, width, channels), |from, to, count| {
                    out[to..to + count].iter_mut().zip(&grad[from..from + count]).for_each(|(x, g)| *x += g);
                });
            });
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}
