//! How good a mixture is: retrieval among pairs, zero-shot accuracy over class folders.

use super::models::{open_working, open_written};
use crate::app::App;
use crate::classifier::Scoring;
use crate::commands::eval::labelled::{Classes, truths};
use crate::commands::finetune::data::{class_prompts, plain_transform};
use crate::commands::zeroshot::head::{HeadArgs, classifier};
use crate::data::{ClassNames, Labelled, LabelledOptions, ReadOptions, embed};
use crate::error::{Error, Result};
use crate::eval::Tally;
use crate::eval::retention::imagenet_classes;
use crate::image::Resize;
use crate::model::Clip;
use crate::ops::normalize::normalize_row;
use crate::text::{TemplateSet, templates};
use crate::train::data::{Corpus, Options, Part};
use crate::train::embed::Reading;
use crate::train::validate::Validation;
use crate::weights::View;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many items go through a tower at once.
const BATCH: usize = 32;

/// What models are measured by.
#[derive(Args, Debug)]
#[command(next_help_heading = "Measuring models")]
pub(super) struct MeasureArgs {
    /// Images with captions: retrieval, as `finetune --val-data` measures it
    #[arg(long, value_name = "DATA")]
    val_data: Option<String>,

    /// A folder of class folders: zero-shot accuracy
    #[arg(long, value_name = "FOLDER")]
    eval: Option<PathBuf>,

    /// What the folders stand for: lines of a folder, a tab or a space, and the class name
    #[arg(long, value_name = "FILE", requires = "eval")]
    classnames: Option<PathBuf>,

    /// What stands around a class name: openai-80, openai-7, simple, a file, or a template with {} in it
    #[arg(long, value_name = "TEMPLATES", default_value = "simple", requires = "eval")]
    templates: String,

    /// Do not measure how much of the first model's view of images is left
    #[arg(long)]
    no_retention: bool,
}

/// What models are measured by, read.
pub(super) struct Measure<'a> {
    pairs: Option<Validation>,
    folder: Option<&'a Path>,
    names: Option<ClassNames>,
    templates: TemplateSet,
    /// The class that the start puts each image of the folder in.
    start: Option<Vec<usize>>,
}

/// How good a model is.
#[derive(Clone, Debug, Default)]
pub(super) struct Scores {
    /// Recall at 1, 5 and 10: a caption's image, an image's captions.
    recalls: Option<[Vec<f64>; 2]>,
    /// The share of images in their class, and the mean of the classes' shares.
    accuracies: Option<[f64; 2]>,
    /// The share of the pairs' images that keep the class of 1,000 that the first model gives them, and the divergence.
    retention: Option<[f64; 2]>,
    /// The share of the folder's images that keep the first model's class.
    eval_agreement: Option<f64>,
}

impl MeasureArgs {
    /// Whether there is something to measure by.
    pub(super) fn given(&self) -> bool {
        self.val_data.is_some() || self.eval.is_some()
    }
}

impl<'a> Measure<'a> {
    /// Reads what the command line names, if it does, and looks at it through the first model, with which the others are
    /// compared. Every model that is measured has the preprocessing of this one.
    pub(super) fn open(app: &App, args: &'a MeasureArgs, first: &Path) -> Result<Option<Self>> {
        if !args.given() {
            return Ok(None);
        }
        let clip = open_working(app, first)?;
        let mut measure = Self {
            pairs: args.val_data.as_deref().map(|data| pairs(app, data, &clip, !args.no_retention)).transpose()?,
            folder: args.eval.as_deref(),
            names: args.classnames.as_deref().map(ClassNames::load).transpose()?,
            templates: templates::load(&args.templates)?,
            start: None,
        };
        if let (false, Some(folder)) = (args.no_retention, measure.folder) {
            measure.start = Some(measure.classify(app, &clip, folder)?.1);
        }
        Ok(Some(measure))
    }

    /// Measures a model that `write` makes in a directory. It is written beside `near`, where there must be room for one,
    /// else among temporary files, and goes again.
    pub(super) fn of(&self, app: &App, write: impl FnOnce(&Path) -> Result<()>, near: Option<&Path>) -> Result<Scores> {
        let parent = near.and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(".merge.").suffix(".part");
        let made = match (near, parent) {
            (Some(_), parent) => builder.tempdir_in(parent.unwrap_or(Path::new("."))),
            (None, _) => builder.tempdir(),
        };
        let directory = made.map_err(|e| Error::run(format!("no place for a model: {e}")))?;
        write(directory.path())?;
        let clip = open_written(app, directory.path())?;
        let mut scores = Scores::default();
        if let Some(pairs) = &self.pairs {
            let found = pairs.measure(&clip, View::Constant, &|| app.interrupt.check())?;
            scores.recalls = Some([found.retrieval.image_retrieval.recall, found.retrieval.text_retrieval.recall]);
            scores.retention = found.retention.map(|retention| [retention.agreement, retention.kl]);
        }
        if let Some(folder) = self.folder {
            let (accuracies, classes) = self.classify(app, &clip, folder)?;
            scores.accuracies = Some(accuracies);
            scores.eval_agreement = self.start.as_ref().map(|start| {
                let same = start.iter().zip(&classes).filter(|(before, now)| before == now).count();
                same as f64 / classes.len().max(1) as f64
            });
        }
        Ok(scores)
    }

    /// Accuracies over the folder, and the class of each of its images.
    fn classify(&self, app: &App, clip: &Clip, folder: &Path) -> Result<([f64; 2], Vec<usize>)> {
        let options = LabelledOptions { names: self.names.clone(), ..LabelledOptions::default() };
        let set = Labelled::open(folder, &options)?;
        let scoring = Scoring::of(clip.spec.objective, false);
        let classifier = classifier(app, clip, set.classes, &self.templates, scoring, &HeadArgs { no_cache: true })?;
        let Classes { of_next, items } = truths(set.items);
        let (mut tally, mut classes) = (Tally::new(classifier.labels().len()), Vec::new());
        let progress = app.progress("images");
        let done = embed(app, clip, &ReadOptions::default(), items, &progress, |item| {
            let class = of_next.recv().map_err(|_| Error::run("an image without a class"))?;
            // One image more or less would make models incomparable.
            let mut row = item.result.map_err(|e| Error::run(e).at(&item.id))?;
            normalize_row(&mut row);
            let logits = classifier.logits(&row);
            tally.add(class, &logits);
            // The first of equal ones.
            let nearest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
            classes.push(nearest.map_or(0, |(class, _)| class));
            Ok(())
        });
        progress.finish();
        done?;
        let metrics = tally.metrics().ok_or_else(|| Error::run("no images in these folders").at(folder.display()))?;
        Ok(([metrics.acc1, metrics.mean_per_class_recall], classes))
    }
}

/// Pairs to measure by; what the first model makes of them is remembered where retention is asked for.
fn pairs(app: &App, data: &str, clip: &Clip, retention: bool) -> Result<Validation> {
    if matches!(clip.preprocess().resize, Resize::Patches { .. }) {
        return Err(Error::usage("--val-data does not measure models that take images of any size")
            .hint("measure with --eval, or each model with `eval retrieval`"));
    }
    let interrupt = app.interrupt;
    let options = Options {
        parts: Part::parse(data, None)?,
        watch: Some(Arc::new(move |_, _| interrupt.check())),
        ..Options::default()
    };
    let corpus = Arc::new(Corpus::open(&options)?);
    if let Some(first) = corpus.skipped.first() {
        app.warn(format_args!("{} rows are skipped; the first: {first}", corpus.skipped.len()));
    }
    let reading = Reading { transform: plain_transform(clip), workers: app.threads, micro_batch: BATCH };
    let prompts = if retention { class_prompts(&imagenet_classes())? } else { Vec::new() };
    let mut validation = Validation::new(&corpus, &corpus.all(), prompts, reading);
    if retention {
        validation.begin(clip, &|| app.interrupt.check())?;
    }
    Ok(validation)
}

impl Scores {
    /// One number to compare models by: the mean recall at 1 of both directions, the accuracy, or the mean of the two.
    pub(super) fn score(&self) -> f64 {
        let first = |recall: &Vec<f64>| recall.first().copied().unwrap_or(0.0);
        let recall = self.recalls.as_ref().map(|both| both.iter().map(first).sum::<f64>() / 2.0);
        let all: Vec<f64> = recall.into_iter().chain(self.accuracies.map(|both| both[0])).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }

    /// All numbers, under CLIP benchmark's names.
    pub(super) fn values(&self) -> Vec<(&'static str, f64)> {
        const NAMES: [[&str; 3]; 2] = [
            ["image_retrieval_recall@1", "image_retrieval_recall@5", "image_retrieval_recall@10"],
            ["text_retrieval_recall@1", "text_retrieval_recall@5", "text_retrieval_recall@10"],
        ];
        let mut values = Vec::new();
        for (names, recalls) in NAMES.iter().zip(self.recalls.iter().flatten()) {
            values.extend(names.iter().copied().zip(recalls.iter().copied()));
        }
        if let Some([accuracy, mean]) = self.accuracies {
            values.extend([("acc1", accuracy), ("mean_per_class_recall", mean)]);
        }
        if let Some([agreement, kl]) = self.retention {
            values.extend([("agreement", agreement), ("kl", kl)]);
        }
        values.extend(self.eval_agreement.map(|agreement| ("eval_agreement", agreement)));
        values.push(("score", self.score()));
        values
    }
}
