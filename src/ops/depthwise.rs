//! Depthwise convolution: each channel has a filter of its own.
//!
//! Images are (items, height, width, channels), so that a vector register holds neighbouring channels of one pixel.

use super::unfold::taps;
use super::{Window, is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

/// Slides `window` over `x` (items, height, width, channels) with `weight` (size · size, channels); returns
/// (items, rows, columns, channels).
pub fn depthwise(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    if is_fused(x) && is_fused(weight) {
        x.contiguous()?.apply_op2(&weight.contiguous()?, Fused(window))
    } else {
        composed(x, weight, window)
    }
}

/// The same function from candle's differentiable ops: the reference, and the path of other devices.
pub fn composed(x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let mut sum: Option<Tensor> = None;
    for (i, tap) in taps(x, window, window.count(height), window.count(width))?.iter().enumerate() {
        let term = tap.broadcast_mul(&weight.get(i)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.map_or_else(|| candle_core::bail!("an empty window"), Ok)
}

struct Fused(Window);

/// Where the output pixels of one row and the input pixels meet, for one place of the window.
#[derive(Clone, Copy)]
struct Geometry {
    window: Window,
    height: usize,
    width: usize,
    channels: usize,
}

impl Geometry {
    fn rows(&self) -> usize {
        self.window.count(self.height)
    }

    fn columns(&self) -> usize {
        self.window.count(self.width)
    }

    /// Calls `f(place in the window, input pixel)` for each input pixel under output pixel (row, column).
    #[inline(always)]
    fn under(&self, row: usize, column: usize, mut f: impl FnMut(usize, usize)) {
        let Window { size, stride, before, .. } = self.window;
        for dy in 0..size {
            let Some(y) = (row * stride + dy).checked_sub(before).filter(|&y| y < self.height) else { continue };
            for dx in 0..size {
                let Some(x) = (column * stride + dx).checked_sub(before).filter(|&x| x < self.width) else { continue };
                f(dy * size + dx, y * self.width + x);
            }
        }
    }
}

/// One row of output pixels.
struct Row<'a> {
    geometry: Geometry,
    image: &'a [f32],
    weight: &'a [f32],
    row: usize,
    out: &'a mut [f32],
}

impl SimdOp for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let (len, channels) = (ops.len(), self.geometry.channels);
        for (column, out) in self.out.chunks_mut(channels).enumerate() {
            let mut c = 0;
            while c < channels {
                let mask = ops.first_n_mask(len.min(channels - c));
                let mut sum = ops.zero();
                self.geometry.under(self.row, column, |tap, pixel| {
                    // SAFETY: the mask keeps the loads within the pixel's and the filter's channels.
                    let (x, w) = unsafe {
                        (
                            ops.load_ptr_mask(self.image.as_ptr().add(pixel * channels + c), mask),
                            ops.load_ptr_mask(self.weight.as_ptr().add(tap * channels + c), mask),
                        )
                    };
                    sum = ops.mul_add(x, w, sum);
                });
                // SAFETY: the mask keeps the store within this pixel.
                unsafe { ops.store_ptr_mask(sum, out.as_mut_ptr().add(c), mask) };
                c += len;
            }
        }
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (items, height, width, channels) = lx.shape().dims4()?;
        let geometry = Geometry { window: self.0, height, width, channels };
        let (x, weight) = (slice(x, lx)?, slice(w, lw)?);
        if lw.dims() != [self.0.size * self.0.size, channels] {
            candle_core::bail!("a depthwise filter of shape {:?} on {channels} channels", lw.dims());
        }
        let (rows, columns) = (geometry.rows(), geometry.columns());
        let mut out = vec![0.0; items * rows * columns * channels];
        // A few rows at a time, so that waking a thread is worth it.
        let group = (1_usize << 14).div_ceil(columns * channels + 1);
        for (b, out) in out.chunks_mut((rows * columns * channels).max(1)).enumerate() {
            let image = &x[b * height * width * channels..][..height * width * channels];
            pool::chunks(out, group * columns * channels, |g, out| {
                for (r, out) in out.chunks_mut(columns * channels).enumerate() {
                    Row { geometry, image, weight, row: g * group + r, out }.dispatch();
                }
            });
        }
        Ok((CpuStorage::F32(out), (items, rows, columns, channels).into()))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (items, height, width, channels) = x.dims4()?;
        let geometry = Geometry { window: self.0, height, width, channels };
        let (image_len, taps) = (height * width * channels, self.0.size * self.0.size);
        let (rows, columns) = (geometry.rows(), geometry.columns());
        let grad = super::to_vec(grad)?;
        let (x_data, w_data) = (super::to_vec(x)?, super::to_vec(weight)?);
        let grads = |b: usize, row: usize, column: usize| &grad[((b * rows + row) * columns + column) * channels..];
        let dx = match x.track_op() {
            true => {
                let mut dx = vec![0.0; items * image_len];
                pool::chunks(&mut dx, image_len.max(1), |b, dx| {
                    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                        let g = &grads(b, row, column)[..channels];
                        geometry.under(row, column, |tap, pixel| {
                            let to = &mut dx[pixel * channels..][..channels];
                            let w = &w_data[tap * channels..][..channels];
                            to.iter_mut().zip(g).zip(w).for_each(|((to, g), w)| *to += g * w);
                        });
                    }
                });
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            }
            false => None,
        };
        let dw = match weight.track_op() {
            true => {
                // One sum an item, then over the items in order: the same whatever the number of threads.
                let mut sums = vec![0.0; items * taps * channels];
                pool::chunks(&mut sums, (taps * channels).max(1), |b, sums| {
                    let image = &x_data[b * image_len..][..image_len];
                    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                        let g = &grads(b, row, column)[..channels];
                        geometry.under(row, column, |tap, pixel| {
                            let to = &mut sums[tap * channels..][..channels];
                            let from = &image[pixel * channels..][..channels];
                            to.iter_mut().zip(g).zip(from).for_each(|((to, g), x)| *to += g * x);
                        });
                    }
                });
                let sums = Tensor::from_vec(sums, (items, taps * channels), x.device())?;
                Some(super::linear::sum_rows(&sums)?.reshape(weight.shape())?)
            }
            false => None,
        };
        Ok((dx, dw))
    }
}
