//! Whole images in, one number a channel out, and the other way round: the two halves of squeeze-and-excite (Hu et al.
//! 2018).

use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

/// The mean of each channel: `x` (items, height, width, channels) to (items, channels).
pub fn mean_pixels(x: &Tensor) -> Result<Tensor> {
    if is_fused(x) { x.contiguous()?.apply_op1(Mean) } else { x.flatten(1, 2)?.mean(1) }
}

/// `x` (items, height, width, channels) times one factor a channel, `gate` (items, channels).
pub fn gate_channels(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    if is_fused(x) && is_fused(gate) {
        return x.contiguous()?.apply_op2(&gate.contiguous()?, Gate);
    }
    x.broadcast_mul(&gate.unsqueeze(1)?.unsqueeze(1)?)
}

struct Mean;

impl CustomOp1 for Mean {
    fn name(&self) -> &'static str {
        "mean_pixels"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (items, height, width, channels) = layout.shape().dims4()?;
        let mut out = vec![0.0; items * channels];
        pool::chunks(&mut out, channels.max(1), |b, out| {
            // In f64: tens of thousands of pixels would lose digits.
            let mut sums = vec![0f64; channels];
            for pixel in x[b * height * width * channels..][..height * width * channels].chunks_exact(channels.max(1)) {
                sums.iter_mut().zip(pixel).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            let count = (height * width) as f64;
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum / count) as f32);
        });
        Ok((CpuStorage::F32(out), (items, channels).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, height, width, _) = x.dims4()?;
        let each = (grad / (height * width) as f64)?.unsqueeze(1)?.unsqueeze(1)?;
        each.broadcast_as(x.shape())?.contiguous().map(Some)
    }
}

struct Gate;

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate_channels"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (items, height, width, channels) = lx.shape().dims4()?;
        if lg.dims() != [items, channels] {
            candle_core::bail!("factors of shape {:?} for {items} images of {channels} channels", lg.dims());
        }
        let (mut out, gate) = (slice(x, lx)?.to_vec(), slice(g, lg)?);
        if out.is_empty() {
            return Ok((CpuStorage::F32(out), lx.shape().clone()));
        }
        // Some pixels of one item at a time.
        let group = (1_usize << 14).div_ceil(channels + 1);
        for (gate, out) in gate.chunks(channels).zip(out.chunks_mut(height * width * channels)) {
            pool::chunks(out, group * channels, |_, pixels| {
                for pixel in pixels.chunks_exact_mut(channels) {
                    pixel.iter_mut().zip(gate).for_each(|(x, gate)| *x *= gate);
                }
            });
        }
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, gate: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = x.track_op().then(|| gate_channels(grad, &gate.detach())).transpose()?;
        let dg = match gate.track_op() {
            true => {
                let (_, height, width, _) = x.dims4()?;
                Some((mean_pixels(&(grad.contiguous()? * x.detach().contiguous()?)?)? * (height * width) as f64)?)
            }
            false => None,
        };
        Ok((dx, dg))
    }
}
