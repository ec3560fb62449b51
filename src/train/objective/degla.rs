//! NegCLIP with local contrast and self-distillation (Hu et al. 2025, DeGLA).

use super::columns::both_ways;
use super::contrast::{constant, dots, mean, needed};
use super::cross_entropy::{Axis, Hidden, Targets, cross_entropy};
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs, Setting};
use crate::error::Result;
use crate::ops::normalize;
use candle_core::{D, Tensor};
use rand_chacha::ChaCha8Rng;

pub(super) static ENTRY: Entry = Entry {
    name: "degla",
    equation: "negclip + a·CE(image: own caption, own neg_captions) + b·CE(caption: its moving average, own neg_captions) + c·Σ|embedding − moving average|²",
    source: "Hu et al. 2025, arXiv 2504.16801; xiaoxing2001/DeGLA, src/open_clip/loss.py",
    fidelity: Fidelity::Style(
        "a caption meets its own negatives, as in the paper; the authors' mask pairs it with others'",
    ),
    needs: Needs { neg_texts: true, ema: true, ..Needs::NONE },
    options: &[
        Setting { name: "image_local", default: 0.1, range: (0.0, 1e6), help: "a" },
        Setting { name: "text_local", default: 0.1, range: (0.0, 1e6), help: "b" },
        Setting {
            name: "text_scale",
            default: 10.0,
            range: (0.0, 1e3),
            help: "scale of the captions' cosines in b's term",
        },
        Setting { name: "distill", default: 0.005, range: (0.0, 1e6), help: "c; the sum is over the batch" },
    ],
    build: |settings| {
        let [image_local, text_local, text_scale, distill] =
            ["image_local", "text_local", "text_scale", "distill"].map(|name| settings.get(name));
        Ok(Box::new(Degla { image_local, text_local, text_scale, distill }))
    },
};

struct Degla {
    image_local: f64,
    text_local: f64,
    text_scale: f64,
    distill: f64,
}

impl Objective for Degla {
    fn uses_extra(&self) -> bool {
        true
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let negatives = needed(pairs.neg_texts.as_ref(), "degla", "captions that do not fit (`neg_caption`)")?;
        let slow = needed(pairs.ema.as_ref(), "degla", "the embeddings of a moving average of the weights")?;
        let slow_negatives = needed(slow.neg_texts.as_ref(), "degla", "those embeddings of `neg_caption` as well")?;
        let (x, y, n) = (normalize(&pairs.images)?, normalize(&pairs.texts)?, normalize(&negatives.embeddings)?);
        let slow_y = normalize(&slow.texts)?.detach();
        let shares = pairs.shares()?;
        let fixed = constant(vec![self.text_scale], (), &y)?;
        let image_local = mean(&own(&x, &y, &n, &negatives.there, &head.scale()?)?, &shares)?;
        let text_local = mean(&own(&y, &slow_y, &n, &negatives.there, &fixed)?, &shares)?;
        let there = negatives.there.iter().map(|there| f64::from(u8::from(*there))).collect();
        let there = constant(there, (n.dim(0)?, n.dim(1)?), &n)?;
        let of_negatives = (apart(&n, slow_negatives)? * there)?.sum(1)?;
        let apart = ((apart(&x, &slow.images)? + apart(&y, &slow.texts)?)? + of_negatives)?;
        let distill = (mean(&apart, &shares)? * pairs.len() as f64)?;
        let whole = both_ways(pairs, head, &pairs.relation().targets()?, [Some(negatives), None])?;
        let whole = ((whole + (image_local * self.image_local)?)? + (text_local * self.text_local)?)?;
        Ok((whole + (distill * self.distill)?)?)
    }
}

/// Squared distances of unit vectors from constants.
fn apart(x: &Tensor, constant: &Tensor) -> Result<Tensor> {
    Ok((x - normalize(constant)?.detach())?.sqr()?.sum(D::Minus1)?)
}

/// Cross-entropies (B) of each anchor between its positive and its own negatives (B, K, dim).
fn own(anchors: &Tensor, positives: &Tensor, negatives: &Tensor, there: &[bool], scale: &Tensor) -> Result<Tensor> {
    let positive = dots(anchors, positives)?.unsqueeze(1)?;
    let others = anchors.unsqueeze(1)?.broadcast_mul(negatives)?.sum(D::Minus1)?;
    let logits = Tensor::cat(&[&positive, &others], 1)?.broadcast_mul(scale)?;
    let k = others.dim(1)?;
    let hidden: Hidden = (0..logits.elem_count())
        .map(|at| (at / (k + 1), at % (k + 1)))
        .map(|(i, j)| j > 0 && !there[i * k + j - 1])
        .collect();
    let whole = cross_entropy(&logits, &Targets::None, Some(&hidden), Axis::Rows)?;
    Ok((whole - logits.narrow(1, 0, 1)?.squeeze(1)?)?)
}
