//! What can be said about a method.

use super::Entry;
use crate::error::{Error, Result};
use crate::train::init::draw::Draw;
use crate::tune::Task;
use crate::tune::context::{Context, Place};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::train::objective::Setting;

/// What was said about a method.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Options {
    /// How many learnt vectors there are, if somebody says so (CoOp's `N_CTX`).
    pub n_ctx: Option<usize>,
    /// The phrase that they begin as (`CTX_INIT`); empty: random.
    pub ctx_init: Option<String>,
    /// Where the class name stands among them.
    pub place: Place,
    /// Whether each class has its own (`CSC`).
    pub class_specific: bool,
    /// The method's own numbers.
    numbers: BTreeMap<String, f64>,
    /// What everything random follows from.
    pub seed: u64,
}

impl Options {
    /// The method's defaults, and what was said otherwise: (name, value).
    ///
    /// # Errors
    /// Usage, for an unknown name or a value out of range.
    pub fn new(entry: &Entry, said: &[(String, f64)], seed: u64) -> Result<Self> {
        let mut numbers: BTreeMap<String, f64> =
            entry.options.iter().map(|setting| (setting.name.to_owned(), setting.default)).collect();
        for (name, value) in said {
            let Some(setting) = entry.options.iter().find(|setting| setting.name == name) else {
                let known = entry.options.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
                let hint = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
                return Err(Error::usage(format!("the method {} has no setting `{name}`", entry.name)).hint(hint));
            };
            let (least, most) = setting.range;
            if !(least..=most).contains(value) {
                let message = format!("{}'s {name} is {value}, but must be from {least} to {most}", entry.name);
                return Err(Error::usage(message));
            }
            numbers.insert(name.clone(), *value);
        }
        Ok(Self { numbers, seed, ..Self::default() })
    }

    /// A number that the method's entry lists.
    pub fn get(&self, name: &str) -> f64 {
        self.numbers.get(name).copied().unwrap_or(f64::NAN)
    }

    /// The same, where it counts something.
    pub fn count(&self, name: &str) -> usize {
        self.get(name).max(0.0) as usize
    }

    /// All numbers, by name.
    pub fn numbers(&self) -> impl Iterator<Item = (&str, f64)> {
        self.numbers.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// A parameter (…) drawn from a distribution; the draw follows from the seed and the name.
    pub fn draw(&self, task: &Task<'_>, draw: Draw, name: &str, shape: &[usize]) -> Result<Var> {
        let numbers = draw.numbers(self.seed, name, shape.iter().product());
        Ok(Var::from_tensor(&task.tensor(numbers, shape)?)?)
    }

    /// Learnt vectors as they begin: those of the phrase, else `usual` many, N(0, 0.02). (vectors, width), or with
    /// [`Options::class_specific`] (classes, vectors, width). A phrase that begins all is the method's own `phrase` unless
    /// something was said.
    ///
    /// # Errors
    /// Usage, when a phrase and a number of vectors do not agree.
    pub fn context(&self, task: &Task<'_>, usual: usize, phrase: &str) -> Result<Var> {
        let phrase = match (&self.ctx_init, self.n_ctx) {
            (Some(said), _) => said.as_str(),
            (None, None) => phrase,
            // The usual phrase has a length of its own.
            (None, Some(_)) => "",
        };
        let width = Context::width(task)?;
        if phrase.is_empty() {
            let count = self.n_ctx.unwrap_or(usual);
            let shape = if self.class_specific { vec![task.classes(), count, width] } else { vec![count, width] };
            return self.draw(task, Draw::Normal(0.02), "ctx", &shape);
        }
        let vectors = Context::phrase(task, phrase)?;
        let count = vectors.dim(0)?;
        if self.n_ctx.is_some_and(|said| said != count) {
            let message =
                format!("--n-ctx {} and the phrase `{phrase}`, which has {count} tokens", self.n_ctx.unwrap_or(0));
            return Err(Error::usage(message).hint("leave --n-ctx out: the phrase says how many there are"));
        }
        let vectors = match self.class_specific {
            true => vectors.unsqueeze(0)?.broadcast_as((task.classes(), count, width))?.contiguous()?,
            false => vectors,
        };
        Ok(Var::from_tensor(&Tensor::copy(&vectors)?)?)
    }
}
