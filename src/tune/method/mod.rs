//! Methods of few-shot tuning: one file and one line in [`METHODS`].
//!
//! A method sees a [`Task`] and batches of images with their classes. It says how classes become rows
//! ([`Method::texts`]), how images become features ([`Method::features`]), and how both become logits
//! ([`Method::logits`]); what it leaves out is zero-shot's.

mod bitfit;
mod clip_adapter;
mod close;
mod cocoop;
mod coop;
mod inside;
mod ivlp;
mod kgcoop;
mod layernorm;
mod linear_probe;
mod lora;
mod maple;
mod options;
mod pre;
mod prograd;
mod promptsrc;
mod restore;
mod tfup;
mod tip;
mod tip_f;
mod vpt;
mod zeroshot;

pub use options::{Options, Setting};

use super::Task;
use super::loss::cross_entropy;
use super::photos::Support;
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::model::spec::ImageSpec;
use crate::ops::{self, normalize};
use candle_core::{DType, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;

/// All methods.
pub static METHODS: &[&Entry] = &[
    &zeroshot::ENTRY,
    &coop::ENTRY,
    &cocoop::ENTRY,
    &kgcoop::ENTRY,
    &prograd::ENTRY,
    &pre::ENTRY,
    &vpt::ENTRY,
    &ivlp::ENTRY,
    &maple::ENTRY,
    &promptsrc::ENTRY,
    &restore::ENTRY,
    &tip::ENTRY,
    &tip_f::ENTRY,
    &clip_adapter::ENTRY,
    &linear_probe::ENTRY,
    &lora::ENTRY,
    &layernorm::ENTRY,
    &bitfit::ENTRY,
    &tfup::ENTRY,
    &close::ENTRY,
];

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// What the registry says of a method.
#[derive(Debug)]
pub struct Entry {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is trained, in a few words.
    pub trains: &'static str,
    /// The paper, and the reference implementation.
    pub source: &'static str,
    /// How near it is to its source: what differs, if something does.
    pub differs: Option<&'static str>,
    /// What it looks at while it trains.
    pub sees: Sees,
    /// What the towers must be.
    pub needs: Needs,
    /// Whether it can tell classes apart that it was not trained on.
    pub new_classes: bool,
    /// Its own numbers.
    pub options: &'static [Setting],
    /// How it is trained unless the command line says otherwise.
    pub recipe: Recipe,
    /// Changes the model before the task is made: low-rank changes, tensors to train.
    pub prepare: Option<fn(&mut Clip, &Options) -> Result<()>>,
    /// Makes it, as it begins.
    pub build: fn(&Task<'_>, &Options) -> Result<Box<dyn Method>>,
}

/// What a method looks at while it trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// Class names alone.
    Texts,
    /// Images without their classes, as the frozen tower has them.
    Unlabelled,
    /// What the frozen tower makes of images: made once.
    Features,
    /// Images: the tower runs at each step.
    Pixels,
}

/// What a method needs of the towers, beside that they embed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// An image tower that is a transformer.
    pub image_tokens: bool,
}

/// How a method is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// How often each image is seen; 0 where nothing is trained step by step.
    pub epochs: usize,
    /// How many images a step sees.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: &'static str,
    /// The highest learning rate; cosine down to 0 from there.
    pub lr: f64,
    /// The weight decay.
    pub wd: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// How many epochs run at a rate of 1e-5 first.
    pub warmup: usize,
    /// How many augmented views of each image are embedded; 0: the plain image alone.
    pub views: usize,
}

/// CoOp's frame (Dassl's `dassl/config/defaults.py`): SGD with momentum 0.9 and weight decay 5e-4.
pub const SGD: Recipe =
    Recipe { epochs: 50, batch: 32, optimizer: "sgd", lr: 2e-3, wd: 5e-4, eps: 1e-8, warmup: 1, views: 0 };

/// Of methods that take no steps.
pub const NONE: Recipe = Recipe { epochs: 0, warmup: 0, ..SGD };

/// Some images with their classes.
pub struct Batch {
    /// Their numbers among the training images.
    pub index: Vec<u32>,
    /// Their classes; empty where the method sees none.
    pub labels: Vec<u32>,
    /// The images.
    pub images: Images,
}

/// Images, as a method sees them.
pub enum Images {
    /// Embeddings (items, dim), not normalised: constants.
    Features(Tensor),
    /// Normalised pixels (items, 3, height, width).
    Pixels(Tensor),
}

/// A method, with what it has learnt.
pub trait Method: Send + Sync {
    /// What is trained, by name.
    fn params(&self) -> BTreeMap<String, Var> {
        BTreeMap::new()
    }

    /// Rows of unit length for the classes, (classes, dim).
    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        task.zero_shot()
    }

    /// What the image tower makes of pixels (items, 3, height, width): (items, dim), not normalised.
    fn features(&self, task: &Task<'_>, pixels: &Tensor) -> Result<Tensor> {
        task.clip.image()?.forward(pixels)
    }

    /// Logits (items, classes) of features (items, dim), not normalised, and [`Method::texts`].
    fn logits(&self, task: &Task<'_>, texts: &Tensor, features: &Tensor) -> Result<Tensor> {
        task.logits(&normalize(features)?, texts)
    }

    /// Whether [`Method::logits`] may be given features of unit length, as records hold them.
    fn takes_unit(&self) -> bool {
        true
    }

    /// The number to make small, for a batch.
    fn loss(&mut self, task: &Task<'_>, batch: &Batch, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let _ = rng;
        let features = self.see(task, &batch.images)?;
        cross_entropy(&self.logits(task, &self.texts(task)?, &features)?, &batch.labels)
    }

    /// The features of a batch, with a gradient where the tower is trained.
    fn see(&self, task: &Task<'_>, images: &Images) -> Result<Tensor> {
        match images {
            Images::Features(features) => Ok(features.clone()),
            Images::Pixels(pixels) => self.features(task, pixels),
        }
    }

    /// The loss of a batch, and the gradients by which the parameters move.
    fn gradients(&mut self, task: &Task<'_>, batch: &Batch, rng: &mut ChaCha8Rng) -> Result<(f64, Tensors)> {
        let loss = self.loss(task, batch, rng)?;
        Ok((number(&loss)?, backward(&loss, &self.params())?))
    }

    /// What is done once, before any step: a memory of the training images, a closed form. `support` has features.
    fn fit(&mut self, task: &Task<'_>, support: &Support) -> Result<()> {
        let _ = (task, support);
        Ok(())
    }

    /// What is chosen by images that were not trained on, after the last step.
    fn choose(&mut self, task: &Task<'_>, validation: &Support) -> Result<()> {
        let _ = (task, validation);
        Ok(())
    }

    /// Called after each epoch (from 1), of so many.
    fn end_epoch(&mut self, epoch: usize, epochs: usize) -> Result<()> {
        let _ = (epoch, epochs);
        Ok(())
    }

    /// Called after the last epoch.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// Learnt tokens in the image tower, for [`Clip::set_image_prompts`]; none if it has none.
    fn image_prompts(&self) -> Result<Vec<Tensor>> {
        Ok(Vec::new())
    }

    /// Where learnt vectors stand in the space of token embeddings, (name, (vectors, width)): to name the nearest words.
    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// All that a resumed run, or a saved model, needs.
    fn state(&self) -> Result<Tensors> {
        Ok(detached(self.params()))
    }

    /// Takes up what [`Method::state`] gave.
    fn restore(&mut self, state: &Tensors) -> Result<()> {
        set(&self.params(), state)
    }
}

/// The entry of this name.
pub fn entry(name: &str) -> Result<&'static Entry> {
    METHODS.iter().find(|entry| entry.name == name).copied().ok_or_else(|| {
        let error = Error::usage(format!("there is no method `{name}`"));
        match crate::near::closest(name, METHODS.iter().map(|entry| entry.name)) {
            Some(near) => error.hint(format!("did you mean `{near}`? `--list-methods` shows all")),
            None => error.hint("`--list-methods` shows all"),
        }
    })
}

impl Entry {
    /// Refuses a model that cannot carry the method.
    pub fn check(&self, clip: &Clip) -> Result<()> {
        let others = || {
            let fit = METHODS.iter().filter(|entry| !entry.needs.image_tokens && entry.sees == Sees::Features);
            let names = fit.map(|entry| entry.name).take(6).collect::<Vec<_>>().join(", ");
            format!("these work with any image tower: {names}; this one with the model `{}`", self.example())
        };
        let vit = match &clip.spec.image {
            ImageSpec::Vit(vit) => Some(vit),
            _ => None,
        };
        if self.needs.image_tokens && vit.is_none() {
            let message = format!(
                "{} puts learnt tokens among an image's; the image tower of {} has none",
                self.name,
                clip.name()
            );
            return Err(Error::usage(message).hint(others()));
        }
        Ok(())
    }

    /// What it looks at with these options: changes of the text tower alone leave an image's embedding as it is.
    pub fn sees(&self, options: &Options) -> Sees {
        match (self.sees, inside::tower(options)) {
            (Sees::Pixels, "text") => Sees::Features,
            (sees, _) => sees,
        }
    }

    /// The model that the method's example uses.
    pub fn example(&self) -> &'static str {
        if self.needs.image_tokens { "ViT-B-32" } else { "builtin" }
    }
}

/// Gradients of a number for these parameters.
pub fn backward(loss: &Tensor, params: &BTreeMap<String, Var>) -> Result<Tensors> {
    let mut sums = ops::Gradients::of(params.values().map(Var::as_tensor));
    sums.backward(loss)?;
    Ok(params.iter().filter_map(|(name, var)| Some((name.clone(), sums.take(var)?.detach()))).collect())
}

/// A scalar as a number.
pub fn number(x: &Tensor) -> Result<f64> {
    Ok(x.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}

/// Parameters as constants.
fn detached(params: BTreeMap<String, Var>) -> Tensors {
    params.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
}

/// Sets parameters to what was saved of them.
fn set(params: &BTreeMap<String, Var>, state: &Tensors) -> Result<()> {
    for (name, var) in params {
        let saved = state.get(name).filter(|saved| saved.dims() == var.dims());
        let saved = saved.ok_or_else(|| {
            Error::run(format!("what was tuned has no `{name}` of shape {:?}", var.dims()))
                .hint("are the classes and the options those that it was tuned with?")
        })?;
        var.set(&saved.to_dtype(var.dtype())?.to_device(var.device())?)?;
    }
    Ok(())
}
