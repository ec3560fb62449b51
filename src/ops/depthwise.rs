//! Depthwise convolution: each channel has filters of its own.
//!
//! Images are (items, height, width, channels), so that a vector register holds neighbouring channels of one pixel.

use super::linear::{add_bias, sum_rows};
use super::unfold::taps;
use super::{Activation, Window, is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

/// Slides `window` over `x` (items, height, width, channels) with `weight` (size · size, outputs), adds `bias`
/// (outputs) and applies `act`; returns (items, rows, columns, outputs). The outputs are a multiple of the channels,
/// and each channel's stand side by side.
pub fn depthwise(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: Window,
    act: Activation,
) -> Result<Tensor> {
    let (outputs, channels) = (weight.dim(1)?, x.dim(3)?);
    if weight.dim(0)? != window.size * window.size || channels == 0 || !outputs.is_multiple_of(channels) {
        candle_core::bail!("depthwise filters of shape {:?} on {channels} channels", weight.dims());
    }
    if !is_fused(x) || !is_fused(weight) {
        return act.composed(&composed(x, weight, bias, window)?);
    }
    let tracked = x.track_op() || weight.track_op() || bias.is_some_and(Tensor::track_op);
    let zeros = if bias.is_none() { Some(Tensor::zeros(outputs, x.dtype(), x.device())?) } else { None };
    let Some(bias) = bias.or(zeros.as_ref()) else { unreachable!("one of the two is there") };
    // The backward of an activation needs its input, so the two are fused only where no gradient will flow.
    let op = Fused { window, act: if tracked { Activation::Identity } else { act } };
    let y = x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?;
    if tracked { act.forward(&y) } else { Ok(y) }
}

/// The same function, without the activation, from candle's differentiable ops: the reference, and the path of other
/// devices.
pub fn composed(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, window: Window) -> Result<Tensor> {
    let (items, height, width, channels) = x.dims4()?;
    let times = weight.dim(1)? / channels;
    let x = match times {
        1 => x.clone(),
        _ => x.unsqueeze(4)?.broadcast_as((items, height, width, channels, times))?.reshape((
            items,
            height,
            width,
            channels * times,
        ))?,
    };
    let mut sum: Option<Tensor> = None;
    for (i, tap) in taps(&x, window, window.count(height), window.count(width))?.iter().enumerate() {
        let term = tap.broadcast_mul(&weight.get(i)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    let Some(sum) = sum else { candle_core::bail!("an empty window") };
    match bias {
        Some(bias) if is_fused(&sum) && is_fused(bias) => add_bias(&sum, bias),
        Some(bias) => sum.broadcast_add(bias),
        None => Ok(sum),
    }
}

struct Fused {
    window: Window,
    act: Activation,
}

/// Where the output pixels of one row and the input pixels meet, for one place of the window.
#[derive(Clone, Copy)]
struct Geometry {
    window: Window,
    height: usize,
    width: usize,
    channels: usize,
    /// Outputs for each channel.
    times: usize,
}

impl Geometry {
    fn new(x: &Shape, weight: &Shape, window: Window) -> Result<Self> {
        let (_, height, width, channels) = x.dims4()?;
        Ok(Self { window, height, width, channels, times: weight.dims2()?.1 / channels })
    }

    fn rows(&self) -> usize {
        self.window.count(self.height)
    }

    fn columns(&self) -> usize {
        self.window.count(self.width)
    }

    fn outputs(&self) -> usize {
        self.channels * self.times
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

/// How many output pixels are summed at once where the window lies within the image, so that a filter's number is
/// loaded once for all of them.
const TOGETHER: usize = 4;

/// Some rows of output pixels of one item.
struct Rows<'a> {
    geometry: Geometry,
    image: &'a [f32],
    /// (times, size · size, channels).
    weight: &'a [f32],
    /// (times, channels).
    bias: &'a [f32],
    first: usize,
    out: &'a mut [f32],
}

impl SimdOp for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let Geometry { window: Window { size, stride, before, .. }, width, channels, times, .. } = self.geometry;
        let (len, columns) = (isa.f32().len(), self.geometry.columns());
        // Columns whose window lies within the image.
        let inner = before.div_ceil(stride)..(width + before).checked_sub(size).map_or(0, |room| room / stride + 1);
        let inner = inner.start.min(columns)..inner.end.min(columns).max(inner.start.min(columns));
        let rows = self.out.len() / (columns * self.geometry.outputs()).max(1);
        for row in 0..rows {
            for part in (0..times * channels.div_ceil(len)).map(|i| (i % times, i / times * len)) {
                let full = part.1 + len <= channels;
                let mut column = 0;
                while column < columns {
                    let together = inner.contains(&column) && column + TOGETHER <= inner.end;
                    match (together, full) {
                        (true, true) => self.sum::<I, TOGETHER, true>(isa, row, column, part),
                        (true, false) => self.sum::<I, TOGETHER, false>(isa, row, column, part),
                        (false, true) => self.sum::<I, 1, true>(isa, row, column, part),
                        (false, false) => self.sum::<I, 1, false>(isa, row, column, part),
                    }
                    column += if together { TOGETHER } else { 1 };
                }
            }
        }
    }
}

impl Rows<'_> {
    /// Sums `N` neighbouring output pixels over the window, for filter `turn` of a register of channels from `c` on,
    /// all of which exist if it is `FULL`. If `N` is more than one, the windows lie between the image's left and right
    /// edge.
    #[inline(always)]
    fn sum<I: Isa, const N: usize, const FULL: bool>(
        &mut self,
        isa: I,
        row: usize,
        column: usize,
        (turn, c): (usize, usize),
    ) {
        let ops = isa.f32();
        let Geometry { window, height, width, channels, times } = self.geometry;
        let Window { size, stride, before, .. } = window;
        let count = ops.len().min(channels - c);
        let mask = ops.first_n_mask(count);
        let taps = &self.weight[turn * size * size * channels..][..size * size * channels];
        let mut sums = [ops.zero(); N];
        let top = (self.first + row) * stride;
        for dy in before.saturating_sub(top)..size.min((height + before).saturating_sub(top)) {
            let line = &self.image[(top + dy - before) * width * channels..][..width * channels];
            let left = column * stride;
            for dx in before.saturating_sub(left)..size.min((width + before).saturating_sub(left)) {
                let x = left + dx - before;
                debug_assert!((x + (N - 1) * stride) < width);
                // SAFETY: pixels `x`, `x + stride`, … lie within the line, and the register, or the mask, keeps the
                // loads within the pixel's and the filter's channels.
                unsafe {
                    let load = |from| if FULL { ops.load_ptr(from) } else { ops.load_ptr_mask(from, mask) };
                    let w = load(taps.as_ptr().add((dy * size + dx) * channels + c));
                    let from = line.as_ptr().add(x * channels + c);
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let x = load(from.add(i * stride * channels));
                        *sum = ops.mul_add(x, w, *sum);
                    }
                }
            }
        }
        let (bias, _) = ops.load_pad(&self.bias[turn * channels + c..][..count]);
        let columns = self.geometry.columns();
        for (i, &sum) in sums.iter().enumerate() {
            let out = &mut self.out[((row * columns + column + i) * channels + c) * times..][..count * times];
            let sum = ops.add(sum, bias);
            if times == 1 {
                // SAFETY: the mask keeps the store within this pixel.
                unsafe { ops.store_ptr_mask(sum, out.as_mut_ptr(), mask) };
            } else {
                let mut lanes = [0.0; 64];
                ops.store(sum, &mut lanes[..ops.len()]);
                out.iter_mut().skip(turn).step_by(times).zip(lanes).for_each(|(out, lane)| *out = lane);
            }
        }
    }
}

/// A matrix (rows, channels · times) as (times, rows, channels).
fn by_turn(x: &[f32], times: usize) -> std::borrow::Cow<'_, [f32]> {
    if times == 1 {
        return x.into();
    }
    (0..times).flat_map(|turn| x.iter().skip(turn).step_by(times).copied()).collect::<Vec<_>>().into()
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let geometry = Geometry::new(lx.shape(), lw.shape(), self.window)?;
        let Geometry { height, width, channels, times, .. } = geometry;
        let (items, outputs) = (lx.dims()[0], geometry.outputs());
        let (x, weight, bias) = (slice(x, lx)?, slice(w, lw)?, slice(b, lb)?);
        if bias.len() != outputs {
            candle_core::bail!("a bias of {} numbers for {outputs} outputs", bias.len());
        }
        let (weight, bias) = (by_turn(weight, times), by_turn(bias, times));
        let (rows, columns) = (geometry.rows(), geometry.columns());
        let mut out = vec![0.0; items * rows * columns * outputs];
        if out.is_empty() {
            return Ok((CpuStorage::F32(out), (items, rows, columns, outputs).into()));
        }
        // A few rows at a time, so that waking a thread is worth it.
        let group = (1_usize << 14).div_ceil(columns * outputs + 1);
        for (b, out) in out.chunks_mut(rows * columns * outputs).enumerate() {
            let image = &x[b * height * width * channels..][..height * width * channels];
            pool::chunks(out, group * columns * outputs, |g, out| {
                Rows { geometry, image, weight: &weight, bias: &bias, first: g * group, out: &mut *out }.dispatch();
                self.act.apply(out);
            });
        }
        Ok((CpuStorage::F32(out), (items, rows, columns, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if self.act != Activation::Identity {
            candle_core::bail!("a convolution fused with its activation has no backward");
        }
        let geometry = Geometry::new(x.shape(), weight.shape(), self.window)?;
        let Geometry { height, width, channels, times, .. } = geometry;
        let (items, outputs) = (x.dim(0)?, geometry.outputs());
        let (image_len, taps) = (height * width * channels, self.window.size * self.window.size);
        let (rows, columns) = (geometry.rows(), geometry.columns());
        let db = bias.track_op().then(|| sum_rows(grad)).transpose()?;
        let grad = super::to_vec(grad)?;
        let (x_data, w_data) = (super::to_vec(x)?, super::to_vec(weight)?);
        let grads = |b: usize, row: usize, column: usize| &grad[((b * rows + row) * columns + column) * outputs..];
        let dx = match x.track_op() {
            true => {
                let mut dx = vec![0.0; items * image_len];
                pool::chunks(&mut dx, image_len.max(1), |b, dx| {
                    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                        let g = &grads(b, row, column)[..outputs];
                        geometry.under(row, column, |tap, pixel| {
                            let to = &mut dx[pixel * channels..][..channels];
                            let w = &w_data[tap * outputs..][..outputs];
                            let terms = g.chunks_exact(times).zip(w.chunks_exact(times));
                            to.iter_mut().zip(terms).for_each(|(to, (g, w))| {
                                *to += g.iter().zip(w).map(|(g, w)| g * w).sum::<f32>();
                            });
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
                let mut sums = vec![0.0; items * taps * outputs];
                pool::chunks(&mut sums, (taps * outputs).max(1), |b, sums| {
                    let image = &x_data[b * image_len..][..image_len];
                    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                        let g = &grads(b, row, column)[..outputs];
                        geometry.under(row, column, |tap, pixel| {
                            let to = &mut sums[tap * outputs..][..outputs];
                            let from = &image[pixel * channels..][..channels];
                            let places = to.chunks_exact_mut(times).zip(g.chunks_exact(times));
                            places.zip(from).for_each(|((to, g), x)| {
                                to.iter_mut().zip(g).for_each(|(to, g)| *to += g * x);
                            });
                        });
                    }
                });
                let sums = Tensor::from_vec(sums, (items, taps * outputs), x.device())?;
                Some(sum_rows(&sums)?.reshape(weight.shape())?)
            }
            false => None,
        };
        Ok((dx, dw, db))
    }
}
