//! A tuned model on disk: what was learnt, and a card that says of what.
//!
//! ```text
//! run/  tune.json           the card
//!       tune.safetensors    what was learnt, small
//! ```

use super::method::{self, Entry, Method, Options, Tensors};
use super::task::Task;
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::text::{TemplateSet, templates};
use crate::train::save::{load_tensors, save_tensors, write_file};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The card of a tuned model.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Saved {
    /// The model that was tuned, as it was named; none: the built-in one.
    pub model: Option<String>,
    /// The hash that names that model.
    pub model_sha: String,
    /// The method.
    pub method: String,
    /// What was said about it.
    pub options: Options,
    /// The classes that it was tuned on, as prompts show them.
    pub classes: Vec<String>,
    /// The prompts that people wrote: a set of templates, or one with a placeholder.
    pub templates: String,
    /// The version of this program.
    pub version: String,
}

const CARD: &str = "tune.json";
const WEIGHTS: &str = "tune.safetensors";

impl Saved {
    /// Whether a directory holds a tuned model.
    pub fn is_in(directory: &Path) -> bool {
        directory.join(CARD).is_file()
    }

    /// Reads the card of a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(CARD);
        let text = std::fs::read(&path).map_err(|e| Error::run(e).at(path.display()))?;
        let broken = |e| Error::run(format!("not what `tune` writes: {e}")).at(path.display());
        serde_json::from_slice(&text).map_err(broken)
    }

    /// Writes card and weights; the card last, since it makes the directory a model.
    pub fn write(&self, directory: &Path, state: &Tensors) -> Result<()> {
        write(&directory.join(WEIGHTS), state)?;
        let mut card = serde_json::to_vec_pretty(self).map_err(Error::run)?;
        card.push(b'\n');
        write_file(&directory.join(CARD), &card)
    }

    /// The method's entry.
    pub fn entry(&self) -> Result<&'static Entry> {
        method::entry(&self.method)
    }

    /// The prompts that people wrote.
    pub fn templates(&self) -> Result<TemplateSet> {
        templates::load(&self.templates)
    }

    /// Refuses another model than the one that was tuned.
    pub fn check(&self, clip: &Clip) -> Result<()> {
        if clip.sha() == self.model_sha {
            return Ok(());
        }
        let message = format!("{} was tuned for another model than {}: its hash differs", self.method, clip.id());
        Err(Error::run(message).hint("was the model changed, or another --image-size used?"))
    }

    /// Changes the model as the method needs it. Before [`Saved::method`].
    pub fn prepare(&self, clip: &mut Clip) -> Result<()> {
        self.entry()?.prepare.map_or(Ok(()), |prepare| prepare(clip, &self.options))
    }

    /// What was learnt, for a task of the classes that it was tuned on or, where the method can, others.
    ///
    /// # Errors
    /// Usage, when the method cannot tell other classes apart.
    pub fn method(&self, directory: &Path, task: &Task<'_>) -> Result<Box<dyn Method>> {
        let entry = self.entry()?;
        let others = task.names != self.classes;
        if others && (!entry.new_classes || self.options.class_specific) {
            let message = format!("{} knows only the {} classes that it was tuned on", entry.name, self.classes.len());
            return Err(Error::usage(message).hint("leave labels out to use them"));
        }
        let mut method = (entry.build)(task, &self.options)?;
        let path = directory.join(WEIGHTS);
        method.restore(&read(&path)?).map_err(|e| e.at(path.display()))?;
        Ok(method)
    }
}

/// Writes tensors; the file appears whole.
pub(super) fn write(path: &Path, tensors: &Tensors) -> Result<()> {
    save_tensors(path, tensors)
}

/// Reads what [`write`] wrote.
pub(super) fn read(path: &Path) -> Result<Tensors> {
    load_tensors(path)
}
