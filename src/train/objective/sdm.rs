//! Similarity distribution matching (Jiang and Ye 2023, IRRA).

use super::apart::in_blocks;
use super::contrast::{mean, push_down};
use super::cross_entropy::{Axis, Hidden, Targets, cross_entropy};
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs, Setting};
use crate::error::Result;
use crate::ops::normalize;
use candle_core::{D, Tensor};
use rand_chacha::ChaCha8Rng;

pub(super) static ENTRY: Entry = Entry {
    name: "sdm",
    equation: "KL(softmax(scale·cos) ‖ q + 1e-8), q uniform over pairs of the same label; both ways, summed",
    source: "Jiang and Ye 2023, arXiv 2303.12501; anosorae/IRRA, model/objectives.py",
    fidelity: Fidelity::Paper,
    needs: Needs::NONE,
    options: &[Setting { name: "temperature", default: 0.02, range: (0.0, 1e3), help: "0: the model's own" }],
    build: |settings| Ok(Box::new(Sdm { temperature: settings.get("temperature") })),
};

struct Sdm {
    temperature: f64,
}

impl Objective for Sdm {
    fn uses_scale(&self) -> bool {
        self.temperature == 0.0
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let relation = pairs.relation_by_label();
        let (n, hidden, wanted, shares) = (pairs.len(), relation.hidden(), relation.matrix()?, pairs.shares()?);
        let scale = head.scale_or(self.temperature, &pairs.images)?;
        let (x, y) = (normalize(&pairs.images)?, normalize(&pairs.texts)?);
        let one_way = |from: &Tensor, to: &Tensor| {
            in_blocks([from, to, &scale], (n, n), |[from, to, scale], rows| {
                let own = |x: &Tensor| x.narrow(0, rows.start, rows.len());
                let hidden: Option<Hidden> = hidden.as_ref().map(|all| all[rows.start * n..rows.end * n].into());
                let logits = own(&from)?.broadcast_mul(&scale)?.matmul(&to.t()?)?;
                let seen = match &hidden {
                    Some(hidden) => push_down(&logits, hidden)?,
                    None => logits.clone(),
                };
                let whole = cross_entropy(&logits, &Targets::None, hidden.as_ref(), Axis::Rows)?;
                let log_p = seen.broadcast_sub(&whole.unsqueeze(1)?)?;
                let wanted = (own(&wanted)? + 1e-8)?.log()?;
                mean(&(log_p.exp()? * (log_p - wanted)?)?.sum(D::Minus1)?, &own(&shares)?)
            })
        };
        Ok((one_way(&x, &y)? + one_way(&y, &x)?)?)
    }
}
