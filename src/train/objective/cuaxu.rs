//! CLIP with alignment and uniformity, within each modality and across (Fahim et al. 2024, "contrastive gap").

use super::apart::apart;
use super::contrast::{FAR_BELOW, constant, dots, mean};
use super::cross_entropy::{Axis, Targets, cross_entropy};
use super::{Duplicates, Entry, Fidelity, Head, Needs, Objective, Pairs, Setting};
use crate::error::Result;
use crate::ops::normalize;
use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;

const fn factor(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: 1.0, range: (0.0, 1e6), help }
}

pub(super) static ENTRY: Entry = Entry {
    name: "cuaxu",
    equation: "clip + mean‖x_i−y_i‖² + ½ Σ_m log mean_{i<j} e^{−2‖m_i−m_j‖²} + log mean_{i≠j} e^{−2‖x_i−y_j‖²}",
    source: "Fahim et al. 2024, arXiv 2405.18570; abrar-fahim/contrastive-gap, src/evaluator.py",
    fidelity: Fidelity::Paper,
    needs: Needs::NONE,
    options: &[
        factor("clip", "weight of the cross-entropy"),
        factor("align", "weight of the distance within pairs"),
        factor("uniform", "weight of spreading each modality"),
        factor("cross", "weight of spreading images and texts apart"),
        Setting {
            name: "temperature",
            default: 0.01,
            range: (0.0, 1e3),
            help: "of the cross-entropy; 0: the model's own",
        },
    ],
    build: |settings| {
        let [clip, align, uniform, cross, temperature] =
            ["clip", "align", "uniform", "cross", "temperature"].map(|name| settings.get(name));
        Ok(Box::new(Cuaxu { clip, align, uniform, cross, temperature }))
    },
};

struct Cuaxu {
    clip: f64,
    align: f64,
    uniform: f64,
    cross: f64,
    temperature: f64,
}

impl Objective for Cuaxu {
    fn uses_scale(&self) -> bool {
        self.temperature == 0.0 && self.clip != 0.0
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let relation = pairs.relation();
        let (x, y) = (normalize(&pairs.images)?, normalize(&pairs.texts)?);
        let scale = head.scale_or(self.temperature, &x)?;
        let clip = apart([&x, &y, &scale], |[x, y, scale]| {
            let logits = x.broadcast_mul(&scale)?.matmul(&y.t()?)?;
            pairs.both_ways(&logits, &relation.targets()?, relation.hidden().as_ref())
        })?;
        // ‖x − y‖² of unit vectors.
        let align = mean(&((dots(&x, &y)? * -2.0)? + 2.0)?, &pairs.shares()?)?;
        let spread_of = |x: &Tensor| apart([x], |[x]| spread(pairs, &x, &x));
        let within = (spread_of(&x)? + spread_of(&y)?)?;
        let across = apart([&x, &y], |[x, y]| spread(pairs, &x, &y))?;
        let sum = ((clip * self.clip)? + (align * self.align)?)?;
        Ok(((sum + (within * (0.5 * self.uniform))?)? + (across * self.cross)?)?)
    }
}

/// `log mean exp(−2‖a_i − b_j‖²)` over pairs i ≠ j that are no duplicates; each counts as much as both pairs' weights.
fn spread(pairs: &Pairs, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let n = pairs.len();
    let off = pairs.duplicates == Duplicates::Off;
    let out = |i: usize, j: usize| i == j || (!off && pairs.same[i * n + j]);
    let weight = |i: usize| pairs.weight(i);
    let sums: Vec<f64> = (0..n).map(|i| (0..n).filter(|j| !out(i, *j)).map(weight).sum::<f64>() * weight(i)).collect();
    let whole = sums.iter().sum::<f64>();
    if whole <= 0.0 {
        return constant(vec![0.0], (), a);
    }
    // −2‖a − b‖² = 4 a·b − 4, of unit vectors; the weights' logarithms go in as one more number of each.
    let logarithms: Vec<f64> = (0..n).map(|i| weight(i).ln().max(FAR_BELOW)).collect();
    let logarithms = constant(logarithms, (n, 1), a)?;
    let left = Tensor::cat(&[&(a * 4.0)?, &logarithms.ones_like()?], 1)?;
    let logits = left.matmul(&Tensor::cat(&[b, &logarithms], 1)?.t()?)?;
    let hidden = (0..n * n).map(|at| out(at / n, at % n)).collect();
    let rows = (cross_entropy(&logits, &Targets::None, Some(&hidden), Axis::Rows)? + logarithms.squeeze(1)?)?;
    let sum = cross_entropy(&rows.unsqueeze(0)?, &Targets::None, None, Axis::Rows)?.squeeze(0)?;
    Ok((sum - (whole.ln() + 4.0))?)
}
