//! Post-pre-training that closes the gap between modalities (Yamaguchi et al. 2025, CLIP-Refine).

use super::apart::apart;
use super::contrast::{constant, mean, needed, negative_entropy, softmax};
use super::cross_entropy::{Axis, Targets, cross_entropy};
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs, Setting};
use crate::error::Result;
use candle_core::{D, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use std::f64::consts::TAU;

pub(super) static ENTRY: Entry = Entry {
    name: "clip-refine",
    equation: "KL(α·pairs + (1−α)·softmax(start) ‖ softmax(x·y)) both ways + mean|x−r|² + mean|y−r|², r ~ N(0, I); x, y not normalised",
    source: "Yamaguchi et al. 2025, CLIP-Refine; yshinya6/clip-refine, updater/contrastive.py",
    fidelity: Fidelity::Paper,
    needs: Needs { start: true, ..Needs::NONE },
    options: &[
        Setting { name: "alpha", default: 0.5, range: (0.0, 1.0), help: "share of the pairs in the targets" },
        Setting { name: "rafa", default: 1.0, range: (0.0, 1e6), help: "weight of the random reference" },
        Setting { name: "temperature", default: 1.0, range: (1e-3, 1e3), help: "of both softmaxes" },
    ],
    build: |settings| {
        let [alpha, rafa, temperature] = ["alpha", "rafa", "temperature"].map(|name| settings.get(name));
        Ok(Box::new(ClipRefine { alpha, rafa, temperature }))
    },
};

struct ClipRefine {
    alpha: f64,
    rafa: f64,
    temperature: f64,
}

impl Objective for ClipRefine {
    fn uses_scale(&self) -> bool {
        false
    }

    fn value(&mut self, pairs: &Pairs, _: &Head, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let start = needed(pairs.start.as_ref(), "clip-refine", "the embeddings of the model before training")?;
        let (relation, shares) = (pairs.relation(), pairs.shares()?);
        let hidden = relation.hidden();
        let products = |x: &Tensor, y: &Tensor| Ok::<_, crate::error::Error>((x.matmul(&y.t()?)? / self.temperature)?);
        let (images, texts) = (start.images.detach(), start.texts.detach());
        let mut divergence = Tensor::zeros((), pairs.images.dtype(), pairs.images.device())?;
        for (axis, a, b) in [(Axis::Rows, &images, &texts), (Axis::Columns, &texts, &images)] {
            let one_way = apart([&pairs.images, &pairs.texts], |[x, y]| {
                let soft = softmax(&products(a, b)?, hidden.as_ref())?;
                let targets = ((relation.matrix()? * self.alpha)? + (soft * (1.0 - self.alpha))?)?;
                let entropy = negative_entropy(&targets)?;
                let student = products(&x, &y)?;
                let rows = cross_entropy(&student, &Targets::Soft(targets), hidden.as_ref(), axis)?;
                mean(&(rows + entropy)?, &shares)
            })?;
            divergence = (divergence + one_way)?;
        }
        let like = &pairs.images;
        let reference = constant(normals(rng, like.elem_count()), like.shape(), like)?;
        let pull = |x: &Tensor| Ok::<_, crate::error::Error>((x - &reference)?.sqr()?.mean(D::Minus1)?);
        let pull = mean(&(pull(&pairs.images)? + pull(&pairs.texts)?)?, &shares)?;
        Ok(((divergence * (0.5 * self.temperature * self.temperature))? + (pull * self.rafa)?)?)
    }
}

/// Normal numbers, two of two words each (Box and Muller 1958).
fn normals(rng: &mut ChaCha8Rng, count: usize) -> Vec<f64> {
    let mut uniform = || (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
    let mut out = Vec::with_capacity(count + 1);
    while out.len() < count {
        let (u, v) = (uniform(), uniform());
        let length = (-2.0 * u.ln()).sqrt();
        out.extend([length * (TAU * v).cos(), length * (TAU * v).sin()]);
    }
    out.truncate(count);
    out
}
