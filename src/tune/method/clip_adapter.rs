//! CLIP-Adapter: two linear maps behind the image tower (Gao et al. 2021).
//!
//! `r · ReLU(W₂ ReLU(W₁ f)) + (1 - r) · f`, then to unit length; f (items, dim) is not (`clip_adapter.py`).

use super::{Entry, Method, Needs, Options, Recipe, SGD, Sees, Setting};
use crate::error::Result;
use crate::ops::normalize;
use crate::train::init::draw::Draw;
use crate::tune::Task;
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "clip-adapter",
    trains: "two linear maps that change what the image tower gives",
    source: "Gao et al. 2021, arXiv 2110.04544; gaopengcuhk/CLIP-Adapter: clip_adapter.py",
    differs: Some("the repository has no recipe: AdamW at 1e-3"),
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[Setting { name: "ratio", default: 0.2, range: (0.0, 1.0), help: "how much of the change is mixed in" }],
    recipe: Recipe { optimizer: "adamw", lr: 1e-3, wd: 1e-2, warmup: 0, ..SGD },
    prepare: None,
    build: |task, options| Ok(Box::new(ClipAdapter::new(task, options)?)),
};

/// The hidden layer is so many times narrower.
const REDUCTION: usize = 4;

struct ClipAdapter {
    /// (dim / 4, dim)
    fc1: Var,
    /// (dim, dim / 4)
    fc2: Var,
    ratio: f64,
}

impl ClipAdapter {
    fn new(task: &Task<'_>, options: &Options) -> Result<Self> {
        let dim = task.clip.spec.embed_dim;
        let hidden = (dim / REDUCTION).max(1);
        Ok(Self {
            fc1: options.draw(task, Draw::torch(dim), "fc1.weight", &[hidden, dim])?,
            fc2: options.draw(task, Draw::torch(hidden), "fc2.weight", &[dim, hidden])?,
            ratio: options.get("ratio"),
        })
    }

    fn change(&self, features: &Tensor) -> Result<Tensor> {
        let hidden = features.matmul(&self.fc1.t()?)?.relu()?;
        let change = hidden.matmul(&self.fc2.t()?)?.relu()?;
        Ok(((change * self.ratio)? + (features * (1.0 - self.ratio))?)?)
    }
}

impl Method for ClipAdapter {
    fn takes_unit(&self) -> bool {
        false
    }

    fn params(&self) -> BTreeMap<String, Var> {
        BTreeMap::from([("fc1.weight".to_owned(), self.fc1.clone()), ("fc2.weight".to_owned(), self.fc2.clone())])
    }

    fn logits(&self, task: &Task<'_>, texts: &Tensor, features: &Tensor) -> Result<Tensor> {
        task.logits(&normalize(&self.change(features)?)?, texts)
    }
}
