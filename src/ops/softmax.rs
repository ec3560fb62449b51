//! Softmax over the last dimension.

use super::sigmoid::FallingExp;
use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp, SimdUnaryOp};

/// `exp(x) / Σ exp(x)` over the last dimension, shifted by the maximum.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if is_fused(x) { x.contiguous()?.apply_op1(Fused) } else { composed(x) }
}

/// The same function from candle's differentiable ops. No gradient flows through the shift, which cancels.
pub fn composed(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Softmax of the first `seen(i)` numbers of each row `i`, in place; the others become 0.
pub(super) fn rows(x: &mut [f32], width: usize, seen: impl Fn(usize) -> usize) {
    Rows { x, width, seen }.dispatch();
}

struct Rows<'a, F> {
    x: &'a mut [f32],
    width: usize,
    seen: F,
}

impl<F: Fn(usize) -> usize> SimdOp for Rows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let least = ops.splat(f32::NEG_INFINITY);
        for (i, row) in self.x.chunks_mut(self.width).enumerate() {
            let (row, hidden) = row.split_at_mut((self.seen)(i));
            hidden.fill(0.0);
            let mut largest = least;
            for x in row.chunks(ops.len()) {
                let (x, mask) = ops.load_pad(x);
                largest = ops.max(largest, ops.select(x, least, mask));
            }
            let largest = ops.splat(largest.to_array().into_iter().fold(f32::NEG_INFINITY, f32::max));
            let mut sum = ops.zero();
            for x in row.chunks_mut(ops.len()) {
                let (value, mask) = ops.load_pad(x);
                let value = ops.select(FallingExp.eval(isa, ops.sub(value, largest)), ops.zero(), mask);
                sum = ops.add(sum, value);
                // SAFETY: the mask keeps the store within the chunk.
                unsafe { ops.store_ptr_mask(value, x.as_mut_ptr(), mask) };
            }
            let scale = ops.splat(ops.sum(sum).recip());
            for x in row.chunks_mut(ops.len()) {
                let (value, mask) = ops.load_pad(x);
                // SAFETY: as above.
                unsafe { ops.store_ptr_mask(ops.mul(value, scale), x.as_mut_ptr(), mask) };
            }
        }
    }
}

/// Turns `grad` of a softmax's output `y` into the gradient of its input, for one row: `(g - Σ g y) y`.
pub(super) fn row_backward(y: &[f32], grad: &mut [f32]) {
    let dot: f32 = y.iter().zip(grad.iter()).map(|(y, g)| y * g).sum();
    grad.iter_mut().zip(y).for_each(|(g, y)| *g = (*g - dot) * y);
}

struct Fused;

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = slice(storage, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        pool::chunks(&mut out, width * 64, |_, rows| self::rows(rows, width, |_| width));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = super::to_vec(grad)?;
        let width = x.dim(D::Minus1)?.max(1);
        super::with_slice(y, |y| {
            pool::chunks(&mut out, width * 64, |i, rows| {
                for (r, grad) in rows.chunks_mut(width).enumerate() {
                    row_backward(&y[(i * 64 + r) * width..][..width], grad);
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}
