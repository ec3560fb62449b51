//! Layer normalisation over the last dimension (Ba, Kiros, Hinton 2016).

use super::scratch::{Buffer, buffer};
use super::{is_fused, pool, slice, with_slice};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rten_simd::{Isa, SimdOp};
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
        let x = slice(x, lx)?;
        let width = weight.len();
        if bias.len() != width || lx.dims().last() != Some(&width) {
            candle_core::bail!("layer norm of width {width} on input {:?}", lx.dims());
        }
        let mut out = vec![0.0; x.len()];
        Norm { weight, bias, eps: self.eps }.write(x, &mut out);
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
        let trained = weight.track_op() || bias.track_op();
        let mut dx = vec![0.0; x.elem_count()];
        let sums = with_slice(x, |x| {
            with_slice(weight, |weight| {
                with_slice(&grad.contiguous()?, |grad| backward(x, weight, self.eps, grad, &mut dx, false, trained))
            })
        })???;
        let tensor = |numbers, like: &Tensor| Tensor::from_vec(numbers, like.shape(), like.device());
        let dx = Some(tensor(dx, x)?);
        let Some((dweight, dbias)) = sums else { return Ok((dx, None, None)) };
        let dweight = weight.track_op().then(|| tensor(dweight, weight)).transpose()?;
        Ok((dx, dweight, bias.track_op().then(|| tensor(dbias, bias)).transpose()?))
    }
}

/// How many rows one thread takes at a time.
const ROWS: usize = 16;

/// A layer norm of plain numbers: weight and bias, as long as a row, and what is added to the variance.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// The scale.
    pub weight: &'a [f32],
    /// The shift.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f64,
}

impl Norm<'_> {
    /// Writes a row as it is normalised.
    pub(super) fn row(self, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
        let (mean, scale) = statistics(out, self.eps);
        let options = NormalizeOptions {
            pre_scale_bias: mean,
            scale,
            element_scale: Some(self.weight),
            element_bias: Some(self.bias),
            ..Default::default()
        };
        Normalize::new_mut(out, options).dispatch();
    }

    /// Writes rows as they are normalised, on the pool.
    pub(super) fn write(self, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len().max(1);
        let len = ROWS * width;
        pool::chunks(out, len, |i, out| {
            let rows = x[i * len..].chunks(width).zip(out.chunks_mut(width));
            rows.for_each(|(x, out)| self.row(x, out));
        });
    }

    /// The same rows for a moment.
    pub(super) fn rows(self, x: &[f32]) -> Buffer {
        let mut out = buffer(x.len());
        self.write(x, &mut out);
        out
    }
}

/// The mean of a row and one over its standard deviation.
fn statistics(row: &[f32], eps: f64) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = Sum::new(row).dispatch() / n;
    let variance = SumSquareSub::new(row, mean).dispatch() / n;
    (mean, (variance + eps as f32).sqrt().recip())
}

/// Writes the gradient of the input, or adds it; returns those of weight and bias if they are asked for.
///
/// With u = (x - mean) · scale and h = grad · weight:
/// dx = scale · (h - mean(h) - u · mean(h u)); dweight = Σ rows grad · u; dbias = Σ rows grad.
pub(super) fn backward(
    x: &[f32],
    weight: &[f32],
    eps: f64,
    grad: &[f32],
    dx: &mut [f32],
    add: bool,
    trained: bool,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let width = weight.len();
    // Each part of the rows has sums of its own, which are then added in order.
    let part = 4 * ROWS;
    let mut sums = vec![0.0; if trained { x.len().div_ceil((part * width).max(1)) * 2 * width } else { 0 }];
    let out = Parts(sums.as_mut_ptr());
    pool::chunks(dx, part * width, |i, dx| {
        let sums: &mut [f32] = if trained {
            // SAFETY: each part has 2 · width numbers of its own.
            unsafe { std::slice::from_raw_parts_mut({ out }.0.add(i * 2 * width), 2 * width) }
        } else {
            &mut []
        };
        for (r, dx) in dx.chunks_mut(width).enumerate() {
            let at = (i * part + r) * width;
            let (x, grad) = (&x[at..at + width], &grad[at..at + width]);
            let (mean, scale) = statistics(x, eps);
            Row { x, weight, grad, mean, scale, add, dx, sums: &mut *sums }.dispatch();
        }
    });
    trained.then(|| {
        let mut total = super::columns::sum(&sums, 2 * width);
        let bias = total.split_off(width);
        (total, bias)
    })
}

#[derive(Clone, Copy)]
struct Parts(*mut f32);
// SAFETY: each thread writes the part that it was given, see `backward`.
unsafe impl Sync for Parts {}
// SAFETY: as above.
unsafe impl Send for Parts {}

struct Row<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    grad: &'a [f32],
    mean: f32,
    scale: f32,
    add: bool,
    dx: &'a mut [f32],
    sums: &'a mut [f32],
}

impl SimdOp for Row<'_> {
    type Output = ();

    // Plain loops: compiled for the instruction set that runs.
    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        const LANES: usize = 16;
        let Self { x, weight, grad, mean, scale, add, dx, sums } = self;
        let n = x.len();
        let (mut sum, mut dot) = ([0.0f32; LANES], [0.0f32; LANES]);
        let whole = n - n % LANES;
        let lanes = x.chunks_exact(LANES).zip(weight.chunks_exact(LANES)).zip(grad.chunks_exact(LANES));
        for ((x, w), g) in lanes {
            for l in 0..LANES {
                let h = g[l] * w[l];
                sum[l] += h;
                dot[l] += h * ((x[l] - mean) * scale);
            }
        }
        for i in whole..n {
            let h = grad[i] * weight[i];
            sum[0] += h;
            dot[0] += h * ((x[i] - mean) * scale);
        }
        let sum = sum.iter().sum::<f32>() / n as f32;
        let dot = dot.iter().sum::<f32>() / n as f32;
        let (dx, weight, grad) = (&mut dx[..n], &weight[..n], &grad[..n]);
        for i in 0..n {
            let value = scale * (grad[i] * weight[i] - sum - (x[i] - mean) * scale * dot);
            dx[i] = if add { dx[i] + value } else { value };
        }
        if !sums.is_empty() {
            let (dweight, dbias) = sums.split_at_mut(n);
            let dbias = &mut dbias[..n];
            for i in 0..n {
                dweight[i] += grad[i] * ((x[i] - mean) * scale);
                dbias[i] += grad[i];
            }
        }
    }
}
