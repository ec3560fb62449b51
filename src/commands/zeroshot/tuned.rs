//! Runs of `tune` as classifiers.

use crate::app::ModelArgs;
use crate::classifier::{Classifier, Scoring, Weights};
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::text::TemplateSet;
use crate::tune::{Judge, Saved, Task};
use std::path::PathBuf;

/// A run of `tune`.
pub(in crate::commands) struct Tuned {
    directory: PathBuf,
    saved: Saved,
}

/// What scores an embedding.
pub(in crate::commands) enum Scorer<'a> {
    /// Rows of texts.
    Texts(Classifier),
    /// What was learnt; the classifier has the labels.
    Tuned(Box<Judge<'a>>, Classifier),
}

impl Tuned {
    /// The run that `--model` names, if it names one.
    pub(in crate::commands) fn find(model: &ModelArgs) -> Result<Option<Self>> {
        let Some(directory) = Saved::find(model.model.as_deref()) else { return Ok(None) };
        let saved = Saved::open(&directory)?;
        Ok(Some(Self { directory, saved }))
    }

    /// The classes that it was tuned on.
    pub(in crate::commands) fn classes(&self) -> &[String] {
        &self.saved.classes
    }

    /// The prompts that it was tuned with.
    pub(in crate::commands) fn templates(&self) -> Result<TemplateSet> {
        self.saved.templates()
    }

    /// What is to be told apart: the labels, or where the method knows only the classes that it was tuned on, these.
    pub(in crate::commands) fn task<'a>(
        &self,
        clip: &'a Clip,
        labels: &[String],
        set: &TemplateSet,
    ) -> Result<Task<'a>> {
        match self.knows_others()? {
            true => Task::new(clip, labels, set),
            false => Task::new(clip, &self.saved.classes, &self.templates()?),
        }
    }

    /// What scores embeddings for these labels.
    pub(in crate::commands) fn scorer<'a>(&self, task: &'a Task<'a>, labels: Vec<String>) -> Result<Scorer<'a>> {
        let judge = Judge::new(task, self.saved.method(&self.directory, task)?)?;
        let judge = if self.knows_others()? { judge } else { judge.of_classes(&labels)? };
        let rows = Weights::new(judge.rows()?, task.clip.spec.embed_dim)?;
        let classifier = Classifier::new(labels, rows, task.clip.head()?, Scoring::Softmax)?;
        Ok(Scorer::Tuned(Box::new(judge), classifier))
    }

    fn knows_others(&self) -> Result<bool> {
        Ok(self.saved.entry()?.new_classes && !self.saved.options.class_specific)
    }
}

impl Scorer<'_> {
    /// The labels, and how logits become scores.
    pub(in crate::commands) fn classifier(&self) -> &Classifier {
        match self {
            Self::Texts(classifier) | Self::Tuned(_, classifier) => classifier,
        }
    }

    /// The logits of an embedding, one for each label.
    pub(in crate::commands) fn logits(&self, embedding: &[f32]) -> Result<Vec<f64>> {
        match self {
            Self::Texts(classifier) => Ok(classifier.logits(embedding)),
            Self::Tuned(judge, _) => judge.logits(embedding),
        }
    }

    /// Whether embeddings of unit length do, in place of those that the tower gives.
    pub(in crate::commands) fn takes_unit(&self) -> bool {
        match self {
            Self::Texts(_) => true,
            Self::Tuned(judge, _) => judge.takes_unit(),
        }
    }

    /// Refuses records, whose embeddings have unit length, where their length counts.
    pub(in crate::commands) fn check_records(&self, any: bool) -> Result<()> {
        match any && !self.takes_unit() {
            true => Err(Error::usage("this method needs embeddings as the tower gives them; records have unit length")
                .hint("name the images themselves")),
            false => Ok(()),
        }
    }
}
