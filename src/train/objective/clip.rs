//! CLIP's symmetric cross-entropy (Radford et al. 2021), with label smoothing (Jia et al. 2021, ALIGN).

use super::cross_entropy::Targets;
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs, Setting, columns};
use crate::error::Result;
use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;

pub(super) static ENTRY: Entry = Entry {
    name: "clip",
    equation: "½ (CE of rows + CE of columns) of scale·cos against the pairs",
    source: "Radford et al. 2021, arXiv 2103.00020; smoothing: Jia et al. 2021, arXiv 2102.05918",
    fidelity: Fidelity::Paper,
    needs: Needs::NONE,
    options: &[Setting {
        name: "smoothing",
        default: 0.0,
        range: (0.0, 1.0),
        help: "probability that is spread evenly over the batch",
    }],
    build: |settings| Ok(Box::new(Clip { smoothing: settings.get("smoothing") })),
};

struct Clip {
    smoothing: f64,
}

impl Objective for Clip {
    fn uses_extra(&self) -> bool {
        true
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let relation = pairs.relation();
        // Spread over what is not left out: a duplicate must not count.
        let targets = match self.smoothing {
            0.0 => relation.targets()?,
            share => Targets::Soft(((relation.matrix()? * (1.0 - share))? + (relation.visible()? * share)?)?),
        };
        if pairs.extra.is_some() {
            return columns::both_ways(pairs, head, &targets, [None, None]);
        }
        pairs.both_ways(&pairs.logits(head)?, &targets, relation.hidden().as_ref())
    }
}
