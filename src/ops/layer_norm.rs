//! Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016).

use super::linear::sum_rows;
use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rten_simd::SimdOp;
use rten_vecmath::{Normalize, NormalizeOptions, Sum, SumSquareSub};

/// `(x - mean) / √(variance + eps) · weight + bias` over the last dimension, with the biased variance.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// The scale, (width).
    pub weight: Tensor,
    /// The shift, (width).
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// Normalises `x` of shape (…, width).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if is_fused(x) && is_fused(&self.weight) {
            x.contiguous()?.apply_op3(&self.weight.contiguous()?, &self.bias.contiguous()?, Fused { eps: self.eps })
        } else {
            self.composed(x)
        }
    }

    /// The same function from candle's differentiable ops: the reference, and the path of other devices.
    pub fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let unit = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        unit.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Fused {
    eps: f64,
}

impl Fused {
    /// The mean of a row and one over its standard deviation.
    fn statistics(&self, row: &[f32]) -> (f32, f32) {
        let n = row.len() as f32;
        let mean = Sum::new(row).dispatch() / n;
        let variance = SumSquareSub::new(row, mean).dispatch() / n;
        (mean, (variance + self.eps as f32).sqrt().recip())
    }
}

const ROWS: usize = 16;

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let (weight, bias) = (slice(w, lw)?, slice(b, lb)?);
        let mut out = slice(x, lx)?.to_vec();
        let width = weight.len();
        if bias.len() != width || lx.dims().last() != Some(&width) {
            candle_core::bail!("layer norm of width {width} on input {:?}", lx.dims());
        }
        pool::chunks(&mut out, ROWS * width, |_, rows| {
            for row in rows.chunks_mut(width) {
                let (mean, scale) = self.statistics(row);
                let options = NormalizeOptions {
                    pre_scale_bias: mean,
                    scale,
                    element_scale: Some(weight),
                    element_bias: Some(bias),
                    ..Default::default()
                };
                Normalize::new_mut(row, options).dispatch();
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let grad = grad.contiguous()?;
        // With u = (x - mean) · scale and h = grad · weight:
        // dx = scale · (h - mean(h) - u · mean(h u)); dweight = Σ rows grad · u; dbias = Σ rows grad.
        let mut dx = vec![0.0; x.elem_count()];
        let mut grad_unit = super::to_vec(&grad)?;
        super::with_slice(x, |x| {
            super::with_slice(weight, |weight| {
                let gradients = &grad_unit;
                pool::chunks(&mut dx, ROWS * width, |i, rows| {
                    for (r, out) in rows.chunks_mut(width).enumerate() {
                        let at = (i * ROWS + r) * width..(i * ROWS + r + 1) * width;
                        self.row_backward(&x[at.clone()], weight, &gradients[at], out);
                    }
                });
            })?;
            if weight.track_op() {
                pool::chunks(&mut grad_unit, ROWS * width, |i, rows| {
                    for (r, out) in rows.chunks_mut(width).enumerate() {
                        let row = &x[(i * ROWS + r) * width..][..width];
                        let (mean, scale) = self.statistics(row);
                        out.iter_mut().zip(row).for_each(|(g, x)| *g *= (x - mean) * scale);
                    }
                });
            }
            candle_core::Result::Ok(())
        })??;
        let dweight = match weight.track_op() {
            true => Some(sum_rows(&Tensor::from_vec(grad_unit, x.shape(), x.device())?)?),
            false => None,
        };
        let dbias = bias.track_op().then(|| sum_rows(&grad)).transpose()?;
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), dweight, dbias))
    }
}

impl Fused {
    fn row_backward(&self, x: &[f32], weight: &[f32], grad: &[f32], out: &mut [f32]) {
        let (mean, scale) = self.statistics(x);
        let n = x.len() as f32;
        let (mut sum, mut dot) = (0.0f32, 0.0f32);
        for ((x, w), g) in x.iter().zip(weight).zip(grad) {
            let h = g * w;
            sum += h;
            dot += h * (x - mean) * scale;
        }
        let (sum, dot) = (sum / n, dot / n);
        for (((out, x), w), g) in out.iter_mut().zip(x).zip(weight).zip(grad) {
            *out = scale * (g * w - sum - (x - mean) * scale * dot);
        }
    }
}
