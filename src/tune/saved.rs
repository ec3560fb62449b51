//! A tuned model on disk: what was learnt, and a card that says of what.
//!
//! ```text
//! run/  tune.json           the card
//!       tune.safetensors    what was learnt, small
//! ```

use super::method::{self, Entry, Method, Options, Sees, Tensors};
use super::task::Task;
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::text::{TemplateSet, templates};
use crate::train::save::{load_tensors, save_tensors, write_file};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

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
    /// The prompts that people wrote, as they were named: a set of templates, a file, or one with a placeholder.
    pub templates: String,
    /// Another input size, in pixels.
    pub image_size: Option<usize>,
    /// How it was trained.
    pub recipe: serde_json::Value,
    /// The images, as they were named, and what they are, in hexadecimal.
    pub data: [String; 2],
    /// The version of this program.
    pub version: String,
}

const CARD: &str = "tune.json";
const WEIGHTS: &str = "tune.safetensors";

impl Saved {
    /// The directory of a tuned model, if that is what is named.
    pub fn find(model: Option<&str>) -> Option<PathBuf> {
        let directory = Path::new(model?);
        [CARD, WEIGHTS].iter().all(|name| directory.join(name).is_file()).then(|| directory.to_owned())
    }

    /// Reads the card of a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(CARD);
        let text = std::fs::read(&path).map_err(|e| Error::run(e).at(path.display()))?;
        let broken = |e| Error::run(format!("not what `tune` writes: {e}")).at(path.display());
        serde_json::from_slice(&text).map_err(broken)
    }

    /// Writes the card, when a run begins.
    pub fn begin(&self, directory: &Path) -> Result<()> {
        let mut card = serde_json::to_vec_pretty(self).map_err(Error::run)?;
        card.push(b'\n');
        write_file(&directory.join(CARD), &card)
    }

    /// Writes what was learnt, which makes the directory a model.
    pub fn finish(directory: &Path, state: &Tensors) -> Result<()> {
        write(&directory.join(WEIGHTS), state)
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

    /// Makes the model what it was tuned to: low-rank changes, trained tensors, learnt tokens among an image's. A method
    /// that leaves the towers alone leaves the model as it is, with its name.
    ///
    /// # Errors
    /// Run, when the model is another than the one that was tuned.
    pub fn apply(&self, directory: &Path, clip: &mut Clip) -> Result<()> {
        self.check(clip).map_err(|e| e.at(directory.display()))?;
        let entry = self.entry()?;
        if entry.sees != Sees::Pixels {
            return Ok(());
        }
        if let Some(prepare) = entry.prepare {
            prepare(clip, &self.options)?;
        }
        let task = Task::new(clip, &self.classes, &self.templates()?)?;
        let prompts = self.method(directory, &task)?.image_prompts()?;
        clip.set_image_prompts(prompts.iter().map(Tensor::detach).collect());
        let weights = directory.join(WEIGHTS);
        let bytes = std::fs::read(&weights).map_err(|e| Error::run(e).at(weights.display()))?;
        let name =
            directory.file_name().map_or_else(|| self.method.clone(), |name| name.to_string_lossy().into_owned());
        clip.rename(name, &bytes);
        Ok(())
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

/// Reads what [`write()`] wrote.
pub(super) fn read(path: &Path) -> Result<Tensors> {
    load_tensors(path)
}
