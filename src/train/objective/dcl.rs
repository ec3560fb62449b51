//! Decoupled contrastive learning (Yeh et al. 2021): the positive is not in its own denominator.

use super::contrast::{dots, mean, scaled_cosines};
use super::cross_entropy::{Axis, Targets, cross_entropy};
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs, Setting};
use crate::error::Result;
use crate::ops::normalize;
use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;

const SOURCE: &str = "Yeh et al. 2021, arXiv 2110.06848; across modalities: lucidrains/x-clip";
const STYLE: Fidelity =
    Fidelity::Style("negatives of the other modality only unless intra is 1; the mean of both ways");
const INTRA: Setting = Setting {
    name: "intra",
    default: 0.0,
    range: (0.0, 1.0),
    help: "1: images are negatives of images, and texts of texts, as in the paper",
};

pub(super) static ENTRY: Entry = Entry {
    name: "dcl",
    equation: "−s_ii + log Σ_{j≠i} exp s_ij, s = scale·cos, both ways",
    source: SOURCE,
    fidelity: STYLE,
    needs: Needs::NONE,
    options: &[INTRA],
    build: |settings| Ok(Box::new(Dcl { intra: settings.get("intra") != 0.0, sigma: None })),
};

pub(super) static WEIGHTED: Entry = Entry {
    name: "dclw",
    equation: "−w_i s_ii + log Σ_{j≠i} exp s_ij, w_i = 2 − exp(cos_ii/σ) / mean_k exp(cos_kk/σ), both ways",
    source: SOURCE,
    fidelity: STYLE,
    needs: Needs::NONE,
    options: &[
        INTRA,
        Setting { name: "sigma", default: 0.5, range: (1e-3, 1e3), help: "how sharply pairs that fit well count less" },
    ],
    build: |settings| Ok(Box::new(Dcl { intra: settings.get("intra") != 0.0, sigma: Some(settings.get("sigma")) })),
};

struct Dcl {
    intra: bool,
    sigma: Option<f64>,
}

impl Objective for Dcl {
    fn uses_extra(&self) -> bool {
        true
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let (relation, scale) = (pairs.relation(), head.scale()?);
        let (targets, hidden) = (relation.targets()?, relation.all_but_negatives());
        // Without a negative there is nothing to be apart from.
        let shares = pairs.shares_where(|i| relation.has_negative(i))?;
        let (x, y) = (normalize(&pairs.images)?, normalize(&pairs.texts)?);
        let weights = match self.sigma {
            Some(sigma) => Some(weights(&dots(&x, &y)?, sigma)?),
            None => None,
        };
        let scaled = x.broadcast_mul(&scale)?;
        let (logits, fit) = (scaled.matmul(&y.t()?)?, dots(&scaled, &y)?);
        let mut sum = Tensor::zeros((), logits.dtype(), logits.device())?;
        for (axis, own, way) in [(Axis::Rows, &x, 0), (Axis::Columns, &y, 1)] {
            let positive = match (&targets, axis) {
                (Targets::Soft(targets), Axis::Rows) => dots(&logits, targets)?,
                (Targets::Soft(targets), Axis::Columns) => dots(&logits.t()?.contiguous()?, targets)?,
                _ => fit.clone(),
            };
            let positive = match &weights {
                Some(weights) => (positive * weights)?,
                None => positive,
            };
            let mut apart = vec![cross_entropy(&logits, &Targets::None, Some(&hidden), axis)?];
            if self.intra {
                let within = scaled_cosines(own, own, &scale)?;
                apart.push(cross_entropy(&within, &Targets::None, Some(&hidden), Axis::Rows)?);
            }
            let extra = pairs.extra.as_ref().map(|extra| &extra[way]);
            if let Some((extra, products)) = extra.zip(extra.map(|e| e.products(own)).transpose()?.flatten()) {
                let hidden = extra.there.iter().map(|there| !there).collect();
                let beyond = products.broadcast_mul(&scale)?;
                apart.push(cross_entropy(&beyond, &Targets::None, Some(&hidden), Axis::Rows)?);
            }
            let apart = match &apart[..] {
                [one] => one.clone(),
                several => cross_entropy(&Tensor::stack(several, 1)?, &Targets::None, None, Axis::Rows)?,
            };
            sum = (sum + mean(&(apart - positive)?, &shares)?)?;
        }
        Ok((sum * 0.5)?)
    }
}

/// `2 − B · softmax(cos / σ)` over the pairs (B); gradients flow through it, as in the paper's code.
fn weights(cosines: &Tensor, sigma: f64) -> Result<Tensor> {
    let cosines = (cosines / sigma)?;
    let exp = cosines.broadcast_sub(&cosines.max(0)?.detach())?.exp()?;
    Ok((exp.broadcast_div(&exp.mean(0)?)?.neg()? + 2.0)?)
}
