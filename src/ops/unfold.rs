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

/// Writes the windows of output pixels `first ..` of all items of `x`, one row of `out` each. `out` starts as zeros.
pub(super) fn unfold_rows(
    x: &[f32],
    (height, width, channels): (usize, usize, usize),
    window: Window,
    first: usize,
    out: &mut [f32],
) {
    let len = window.size * window.size * channels;
    let each = window.count(height) * window.count(width);
    for (i, out) in out.chunks_exact_mut(len.max(1)).enumerate() {
        let (item, pixel) = ((first + i) / each, (first + i) % each);
        let image = &x[item * height * width * channels..][..height * width * channels];
        stretches(window, (height, width, channels), pixel, |to, from, count| {
            out[to..to + count].copy_from_slice(&image[from..from + count]);
        });
    }
}

/// Calls `f(place in the window, place in the image, count)` for each stretch of pixels that the window of an output
/// pixel shares with the image.
fn stretches(
    window: Window,
    (height, width, channels): (usize, usize, usize),
    pixel: usize,
    mut f: impl FnMut(usize, usize, usize),
) {
    let Window { size, stride, before, .. } = window;
    let columns = window.count(width);
    let (row, column) = (pixel / columns, pixel % columns);
    let left = (column * stride).saturating_sub(before).min(width);
    let skipped = (left + before).saturating_sub(column * stride);
    let right = (column * stride + size).saturating_sub(before).min(width);
    if right <= left {
        return;
    }
    for dy in 0..size {
        let Some(y) = (row * stride + dy).checked_sub(before).filter(|&y| y < height) else { continue };
        f((dy * size + skipped) * channels, (y * width + left) * channels, (right - left) * channels);
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
            unfold_rows(x, (height, width, channels), self.0, b * windows, out);
        });
        Ok((CpuStorage::F32(out), (items, windows, len).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (items, height, width, channels) = x.dims4()?;
        let mut out = vec![0.0; items * height * width * channels];
        super::with_slice(&grad.contiguous()?, |grad| {
            let windows = self.0.count(height) * self.0.count(width);
            let len = self.0.size * self.0.size * channels;
            pool::chunks(&mut out, (height * width * channels).max(1), |b, out| {
                for (pixel, grad) in grad[b * windows * len..][..windows * len].chunks_exact(len.max(1)).enumerate() {
                    stretches(self.0, (height, width, channels), pixel, |from, to, count| {
                        out[to..to + count].iter_mut().zip(&grad[from..from + count]).for_each(|(x, g)| *x += g);
                    });
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}
