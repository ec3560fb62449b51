//! SigLIP's pairwise sigmoid loss (Zhai et al. 2023), block by block of images: no matrix of the batch's size is kept.

use super::contrast::{constant, numbers, with_gradients};
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs, Setting};
use crate::error::Result;
use crate::ops::normalize;
use candle_core::{Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;

pub(super) static ENTRY: Entry = Entry {
    name: "siglip",
    equation: "Σ_ij softplus(∓(scale·cos + bias)) / B, minus for pairs",
    source: "Zhai et al. 2023, arXiv 2303.15343; google-research/big_vision, trainers/proj/image_text/siglip.py",
    fidelity: Fidelity::Paper,
    needs: Needs::NONE,
    options: &[Setting {
        name: "bias",
        default: 0.0,
        range: (-1e3, 1e3),
        help: "where the bias starts if the model has none; 0: at −ln(batch size)",
    }],
    build: |settings| {
        let start = match settings.get("bias") {
            0.0 => -(settings.batch.max(1) as f64).ln(),
            start => start,
        };
        Ok(Box::new(Siglip { bias: Var::new(start as f32, &Device::Cpu)?, own: !settings.model_bias }))
    },
};

/// How many logits are looked at together.
const BLOCK: usize = 1 << 20;

struct Siglip {
    /// For models that have none.
    bias: Var,
    own: bool,
}

impl Objective for Siglip {
    fn params(&self) -> Vec<(String, Var)> {
        if self.own { vec![("bias".to_owned(), self.bias.clone())] } else { Vec::new() }
    }

    fn uses_bias(&self) -> bool {
        true
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let images = normalize(&pairs.images)?.broadcast_mul(&head.scale()?)?;
        let texts = normalize(&pairs.texts)?;
        let bias = match &head.bias {
            Some(bias) => bias.clone(),
            None => self.bias.to_device(texts.device())?.to_dtype(texts.dtype())?,
        };
        let (x, y, b) = (images.detach(), texts.detach(), numbers(&bias)?.first().copied().unwrap_or(0.0));
        let (n, relation) = (pairs.len(), pairs.relation());
        let whole = (0..n).map(|i| pairs.weight(i)).sum::<f64>().max(f64::MIN_POSITIVE);
        let (mut value, mut d_bias, mut d_images, mut d_texts) = (0.0, 0.0, Vec::new(), y.zeros_like()?);
        let rows = (BLOCK / n.max(1)).max(1);
        for start in (0..n).step_by(rows) {
            let x = x.narrow(0, start, rows.min(n - start))?;
            let mut block = numbers(&x.matmul(&y.t()?)?)?;
            for (at, logit) in block.iter_mut().enumerate() {
                let (i, j) = (start + at / n, at % n);
                if relation.left_out(i, j) {
                    *logit = 0.0;
                    continue;
                }
                let sign = if relation.positive(i, j) { 1.0 } else { -1.0 };
                let share = (pairs.weight(i) + pairs.weight(j)) / (2.0 * whole);
                let (loss, slope) = softplus(-sign * (*logit + b));
                value += share * loss;
                *logit = -sign * share * slope;
                d_bias += *logit;
            }
            let slopes = constant(block, (x.dim(0)?, n), &y)?;
            d_images.push(slopes.matmul(&y)?);
            d_texts = (d_texts + slopes.t()?.matmul(&x)?)?;
        }
        let gradients = [
            (&images, Tensor::cat(&d_images, 0)?),
            (&texts, d_texts),
            (&bias, constant(vec![d_bias], bias.shape().clone(), &y)?),
        ];
        with_gradients(constant(vec![value], (), &y)?, &gradients)
    }
}

/// `ln(1 + eˣ)` and its derivative, exact where eˣ is tiny or huge.
fn softplus(x: f64) -> (f64, f64) {
    let e = (-x.abs()).exp();
    (x.max(0.0) + e.ln_1p(), if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) })
}
