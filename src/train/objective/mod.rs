//! Objectives: from the embeddings of a batch to one number to make small.
//!
//! An objective sees the whole contrastive batch at once, as tensors; the trainer brings the gradients that it leaves on
//! them back through the towers, micro-batch by micro-batch. It is one file and one line in [`OBJECTIVES`].

mod albef;
mod apart;
mod clip;
mod clip_refine;
mod columns;
mod contrast;
mod cross_entropy;
mod cuaxu;
mod cwcl;
mod dcl;
mod degla;
mod distill;
mod filip;
mod isogclr;
mod negclip;
mod pairs;
mod relation;
mod sdm;
mod settings;
mod siglip;
mod sum;
mod supcon;
mod table;

pub use super::data::Duplicates;
pub use pairs::{Embeddings, Head, Negatives, Pairs, Progress, Tokens};
pub use settings::{Setting, Settings};
pub use sum::Sum;
pub use table::{Row, table};

use crate::error::{Error, Result};
use candle_core::{Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// All objectives.
pub static OBJECTIVES: &[&Entry] = &[
    &clip::ENTRY,
    &siglip::ENTRY,
    &dcl::ENTRY,
    &dcl::WEIGHTED,
    &cwcl::ENTRY,
    &cuaxu::ENTRY,
    &clip_refine::ENTRY,
    &isogclr::ENTRY,
    &supcon::ENTRY,
    &albef::ENTRY,
    &sdm::ENTRY,
    &distill::ENTRY,
    &filip::ENTRY,
    &negclip::ENTRY,
    &degla::ENTRY,
];

/// What the registry says of an objective.
#[derive(Debug)]
pub struct Entry {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it computes, in one line.
    pub equation: &'static str,
    /// The paper, or the reference implementation.
    pub source: &'static str,
    /// How near it is to its source.
    pub fidelity: Fidelity,
    /// What it needs beside the embeddings of images and texts.
    pub needs: Needs,
    /// Its own numbers.
    pub options: &'static [Setting],
    /// Makes it.
    pub build: fn(&Settings) -> Result<Box<dyn Objective>>,
}

/// How near an objective is to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// As the paper, or its authors' code, has it.
    Paper,
    /// In the style of the paper; the text says what differs.
    Style(&'static str),
}

/// What an objective needs beside the embeddings of images and texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Captions that do not fit the image, one at least for each pair.
    pub neg_texts: bool,
    /// Class labels.
    pub labels: bool,
    /// The embeddings that the model gave before training.
    pub start: bool,
    /// The embeddings that the moving average of the weights gives.
    pub ema: bool,
    /// The embeddings of another checkpoint.
    pub teacher: bool,
    /// An embedding for each token.
    pub tokens: bool,
    /// How many pairs there are in all: it keeps numbers for each.
    pub per_sample: bool,
}

/// An objective.
pub trait Objective: Send {
    /// Parameters of its own that are trained with the towers, by name.
    fn params(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    /// Whether the number depends on [`Head::log_scale`]. If not, that is no parameter of this run.
    fn uses_scale(&self) -> bool {
        true
    }

    /// Whether the number depends on [`Head::bias`]. A softmax does not.
    fn uses_bias(&self) -> bool {
        false
    }

    /// Whether the number depends on [`Pairs::extra`].
    fn uses_extra(&self) -> bool {
        false
    }

    /// The number to make small, a scalar, for one whole batch. It is called once a step: an objective that keeps state
    /// moves it on here.
    fn value(&mut self, pairs: &Pairs, head: &Head, rng: &mut ChaCha8Rng) -> Result<Tensor>;

    /// What a resumed run needs to go on exactly, [`Objective::params`] apart.
    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(BTreeMap::new())
    }

    /// Takes up what [`Objective::state`] gave.
    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// The objective that a command line names: one, or a weighted sum, `clip:1,cuaxu:0.5`. `set` are its settings,
/// `(objective, name, value)`; `sizes` says how large everything is.
pub fn build(text: &str, set: &[(String, String, f64)], sizes: &Settings) -> Result<Sum> {
    let mut terms = Vec::new();
    for (name, weight) in terms_of(text)? {
        let entry = entry(&name)?;
        let own = set.iter().filter(|(objective, ..)| *objective == name);
        let own = own.map(|(_, key, value)| (key.as_str(), *value)).collect::<Vec<_>>();
        terms.push((entry, weight, (entry.build)(&Settings::of(entry, &own, sizes)?)?));
    }
    for (objective, key, _) in set {
        if !terms.iter().any(|(entry, ..)| entry.name == objective) {
            return Err(Error::usage(format!("the setting {objective}.{key} belongs to no objective of `{text}`")));
        }
    }
    Ok(Sum::new(terms))
}

/// What the objective that a command line names needs.
pub fn needs(text: &str) -> Result<Needs> {
    terms_of(text)?.iter().try_fold(Needs::NONE, |needs, (name, _)| Ok(needs.or(entry(name)?.needs)))
}

/// The registry's entry of this name.
pub fn entry(name: &str) -> Result<&'static Entry> {
    OBJECTIVES.iter().find(|entry| entry.name == name).copied().ok_or_else(|| {
        let error = Error::usage(format!("there is no objective `{name}`"));
        match crate::near::closest(name, OBJECTIVES.iter().map(|entry| entry.name)) {
            Some(near) => error.hint(format!("did you mean `{near}`? `--list-losses` shows all")),
            None => error.hint("`--list-losses` shows all"),
        }
    })
}

/// Names and weights in `clip:1,cuaxu:0.5`.
fn terms_of(text: &str) -> Result<Vec<(String, f64)>> {
    let mut terms: Vec<(String, f64)> = Vec::new();
    for term in text.split(',').map(str::trim) {
        let (name, weight) = term.split_once(':').unwrap_or((term, "1"));
        let weight = weight.parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight > 0.0);
        let Some(weight) = weight else {
            return Err(Error::usage(format!("`{term}` is no objective with a weight above 0"))
                .hint("write them as clip:1,cuaxu:0.5"));
        };
        if terms.iter().any(|(other, _)| other == name) {
            return Err(Error::usage(format!("the objective `{name}` is named twice")));
        }
        terms.push((name.to_owned(), weight));
    }
    Ok(terms)
}

impl Needs {
    /// Nothing.
    pub const NONE: Self = Self {
        neg_texts: false,
        labels: false,
        start: false,
        ema: false,
        teacher: false,
        tokens: false,
        per_sample: false,
    };

    /// What either needs.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            neg_texts: self.neg_texts || other.neg_texts,
            labels: self.labels || other.labels,
            start: self.start || other.start,
            ema: self.ema || other.ema,
            teacher: self.teacher || other.teacher,
            tokens: self.tokens || other.tokens,
            per_sample: self.per_sample || other.per_sample,
        }
    }
}
