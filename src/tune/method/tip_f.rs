//! Tip-Adapter-F: the memory of Tip-Adapter, trained (Zhang et al. 2022).

use super::tip::{Cache, OPTIONS, empty};
use super::{Entry, Method, Needs, Recipe, Sees, Tensors};
use crate::error::Result;
use crate::ops::normalize;
use crate::tune::Task;
use crate::tune::photos::Support;
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "tip-f",
    trains: "the keys of a memory of the training images",
    source: "Zhang et al. 2022, arXiv 2207.09519; gaopengcuhk/Tip-Adapter: main.py, utils.py",
    differs: Some("the last epoch counts, not the best on test images; alpha and beta come from the validation images"),
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: false,
    options: OPTIONS,
    // The weight decay is torch's default.
    recipe: Recipe { epochs: 20, batch: 256, optimizer: "adamw", lr: 1e-3, wd: 1e-2, eps: 1e-4, warmup: 0, views: 10 },
    prepare: None,
    build: |task, options| Ok(Box::new(TipF(Cache::new(task, options)))),
};

struct TipF(Cache);

impl Method for TipF {
    fn params(&self) -> BTreeMap<String, Var> {
        self.0.keys.iter().map(|keys| ("keys".to_owned(), keys.clone())).collect()
    }

    fn logits(&self, task: &Task<'_>, texts: &Tensor, features: &Tensor) -> Result<Tensor> {
        // Not brought to unit length again.
        let keys = self.0.keys.as_ref().ok_or_else(empty)?;
        self.0.logits(task, texts, &normalize(features)?, keys)
    }

    fn fit(&mut self, _: &Task<'_>, support: &Support) -> Result<()> {
        self.0.fit(support)
    }

    fn choose(&mut self, task: &Task<'_>, validation: &Support) -> Result<()> {
        self.0.choose(task, &task.zero_shot()?, validation)
    }

    fn state(&self) -> Result<Tensors> {
        self.0.state()
    }

    fn restore(&mut self, state: &Tensors) -> Result<()> {
        self.0.restore(state)
    }
}
