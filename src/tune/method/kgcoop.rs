//! KgCoOp: learnt words whose classes stay near the hand-written ones (Yao et al. 2023).

use super::coop::{CoOp, EMBEDDED_ONCE};
use super::{Batch, Entry, Method, Needs, Recipe, SGD, Sees, Setting};
use crate::error::Result;
use crate::tune::Task;
use crate::tune::loss::cross_entropy;
use candle_core::{Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "kgcoop",
    trains: "the words around a class name, held near the hand-written prompts",
    source: "Yao et al. 2023, arXiv 2303.13283; htyao89/KgCoOp: trainers/kgcoop.py, scripts/run.sh",
    differs: EMBEDDED_ONCE,
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[Setting {
        name: "weight",
        default: 8.0,
        range: (0.0, 1e4),
        help: "how much nearness to the hand-written prompts counts",
    }],
    recipe: Recipe { epochs: 100, batch: 128, ..SGD },
    prepare: None,
    build: |task, options| {
        let words = CoOp::new(task, options, 4, "a photo of a")?;
        Ok(Box::new(KgCoOp { words, weight: options.get("weight") }))
    },
};

struct KgCoOp {
    words: CoOp,
    weight: f64,
}

impl Method for KgCoOp {
    fn params(&self) -> BTreeMap<String, Var> {
        self.words.params()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        self.words.texts(task)
    }

    /// Cross-entropy + weight · (1 − mean over classes of cos(learnt, hand-written)).
    fn loss(&mut self, task: &Task<'_>, batch: &Batch, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let texts = self.texts(task)?;
        let features = self.see(task, &batch.images)?;
        let loss = cross_entropy(&self.logits(task, &texts, &features)?, &batch.labels)?;
        let nearness = ((texts * task.zero_shot()?)?.sum_all()? / task.classes() as f64)?;
        Ok((loss + nearness.affine(-self.weight, self.weight)?)?)
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        self.words.words()
    }
}
