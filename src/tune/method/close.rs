//! CLOSE: a classifier of texts, used on images (Gu et al. 2023).
//!
//! It learns from the prompts' embeddings with noise, brought to unit length again, so that it does not lean on what tells
//! texts from images; nothing is done to images (allenai/close: `close/model/language_adapters.py`).

use super::{Batch, Entry, Images, Method, Needs, Options, Recipe, SGD, Sees, Setting};
use crate::error::Result;
use crate::ops::normalize;
use crate::train::init::draw::Draw;
use crate::tune::Task;
use crate::tune::loss::cross_entropy;
use candle_core::{Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "close",
    trains: "a linear classifier, on texts alone",
    source: "Gu et al. 2023, arXiv 2211.09778; allenai/close: close/model/language_adapters.py",
    differs: Some("close-style: the authors' head is a language model, this one is linear and starts as zero-shot"),
    sees: Sees::Texts,
    needs: Needs { image_tokens: false },
    new_classes: false,
    options: &[Setting {
        name: "sigma",
        default: 0.08,
        range: (0.0, 10.0),
        help: "the deviation of the noise in each of 768 dimensions; more in fewer, so that it is as long",
    }],
    recipe: Recipe { epochs: 100, batch: 1 << 16, optimizer: "adamw", lr: 1e-3, wd: 1e-2, warmup: 0, ..SGD },
    prepare: None,
    build: |task, options| Ok(Box::new(Close::new(task, options)?)),
};

/// The dimensions of the model that the authors chose their noise for (ViT-L/14).
const DIMENSIONS: f64 = 768.0;

struct Close {
    /// (classes, dim)
    weight: Var,
    /// (classes)
    bias: Var,
    /// The deviation of the noise.
    sigma: f64,
    /// The prompts of each class, (prompts, dim), of unit length: constants, made at the first step.
    prompts: Vec<Tensor>,
}

impl Close {
    fn new(task: &Task<'_>, options: &Options) -> Result<Self> {
        let rows = task.zero_shot()?;
        let (classes, dim) = rows.dims2()?;
        Ok(Self {
            weight: Var::from_tensor(&rows.detach().copy()?)?,
            bias: Var::from_tensor(&Tensor::zeros(classes, rows.dtype(), rows.device())?)?,
            sigma: options.get("sigma") * (DIMENSIONS / dim as f64).sqrt(),
            prompts: Vec::new(),
        })
    }

    fn head(&self, task: &Task<'_>, unit: &Tensor) -> Result<Tensor> {
        Ok(task.logits(unit, &self.weight)?.broadcast_add(&self.bias)?)
    }
}

impl Method for Close {
    fn params(&self) -> BTreeMap<String, Var> {
        BTreeMap::from([("weight".to_owned(), self.weight.clone()), ("bias".to_owned(), self.bias.clone())])
    }

    /// The classes' weights, of no certain length.
    fn texts(&self, _: &Task<'_>) -> Result<Tensor> {
        Ok(self.weight.as_detached_tensor())
    }

    fn logits(&self, task: &Task<'_>, _: &Tensor, features: &Tensor) -> Result<Tensor> {
        self.head(task, &normalize(features)?)
    }

    /// The loss on all prompts of the batch's classes. The noise is drawn, unless the batch has rows: then it is these.
    fn loss(&mut self, task: &Task<'_>, batch: &Batch, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        if self.prompts.is_empty() {
            let unit = |name: &String| Ok(normalize(&task.embed(&task.templates.fill(name)?)?)?);
            self.prompts = task.names.iter().map(unit).collect::<Result<_>>()?;
        }
        let of = |&class: &u32| &self.prompts[class as usize];
        let rows = Tensor::cat(&batch.labels.iter().map(of).collect::<Vec<_>>(), 0)?;
        let count = |&class: &u32| Ok(vec![class; of(&class).dim(0)?]);
        let labels = batch.labels.iter().map(count).collect::<Result<Vec<_>>>()?.concat();
        let noise = match &batch.images {
            Images::Features(noise) if noise.dims() == rows.dims() => noise.clone(),
            _ => {
                task.tensor(Draw::Normal(self.sigma).numbers(rng.random(), "noise", rows.elem_count()), rows.dims())?
            }
        };
        cross_entropy(&self.head(task, &normalize(&(rows + noise)?)?)?, &labels)
    }
}
