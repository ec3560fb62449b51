//! Softmax over the last dimension.

use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rten_simd::SimdOp;

/// `exp(x) / Σ exp(x)` over the last dimension, shifted by the maximum.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if is_fused(x) { x.contiguous()?.apply_op1(Fused) } else { composed(x) }
}

/// The same function from candle's differentiable ops. No gradient flows through the shift, which cancels.
pub fn composed(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Softmax of one row, in place.
pub(super) fn row(x: &mut [f32]) {
    rten_vecmath::Softmax::new_mut(x).dispatch();
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
        pool::chunks(&mut out, width * 64, |_, rows| rows.chunks_mut(width).for_each(row));
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
