//! `eval classification`: how often the best label is the true one.

use super::ending;
use super::labelled::{Classes, truths};
use crate::app::{App, ModelArgs};
use crate::classifier::Scoring;
use crate::commands::ending::left_behind;
use crate::commands::zeroshot::LabelArgs;
use crate::commands::zeroshot::head::{HeadArgs, classifier};
use crate::commands::zeroshot::tuned::{Scorer, Tuned};
use crate::commands::{ImageArgs, ReadArgs, Status};
use crate::data::{Benchmark, ClassNames, Labelled, LabelledOptions, SourceOptions, embed};
use crate::error::{Error, Result};
use crate::eval::{Report, Subject, Tally};
use crate::ops::normalize::normalize_row;
use crate::output::rows::delimited;
use crate::output::{RowFormat, Target, write_line};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Zero-shot accuracy over images whose class is known
#[derive(Args, Debug)]
#[command(after_help = "\
The set is a folder of class folders; a table (.csv, .tsv, .jsonl, .parquet) with an image and a
label in each row; archives with KEY.jpg and KEY.cls; or a data set of CLIP benchmark. Without
labels the folders' names are the classes, with `_` for a space. The report has acc1, acc5,
mean_per_class_recall and every class. `zeroshot --eval` is the same.

Examples:
  clip-cli eval classification imagenet/val --classnames classes.tsv --templates openai-80
  clip-cli eval classification train.csv --label-key breed --output report.json")]
pub(super) struct Classification {
    #[command(flatten)]
    images: ImageArgs,

    #[command(flatten)]
    labels: LabelArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    set: SetArgs,

    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", help_heading = "Output")]
    output: PathBuf,

    /// The output's format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: RowFormat,

    #[command(flatten)]
    head: HeadArgs,

    #[command(flatten)]
    read: ReadArgs,
}

impl Classification {
    pub(super) fn run(self, app: &App) -> Result<Status> {
        let [input] = &self.images.inputs[..] else {
            return Err(Error::usage("classification takes one folder of class folders, or one table"));
        };
        let job = Job {
            input,
            images: &self.images,
            set: &self.set,
            labels: &self.labels,
            model: &self.model,
            head: &self.head,
            read: &self.read,
            output: &self.output,
            format: self.format,
        };
        job.run(app)
    }
}

/// A set of images whose class is known.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Evaluation")]
pub(in crate::commands) struct SetArgs {
    /// What folders or labels stand for: lines of a folder, a tab or a space, and the class name; or a JSON object
    #[arg(long, value_name = "FILE")]
    classnames: Option<PathBuf>,

    /// The column with the class, the extension of classes in archives
    #[arg(long, value_name = "NAME", value_delimiter = ';', alias = "label-column")]
    label_key: Vec<String>,

    /// What the report calls the images [default: the input as given]
    #[arg(long, value_name = "NAME")]
    pub(super) dataset: Option<String>,
}

impl SetArgs {
    /// A set that is read so.
    pub(super) fn new(classnames: Option<PathBuf>, label_key: Vec<String>) -> Self {
        Self { classnames, label_key, dataset: None }
    }

    /// The first of these arguments that the command line has.
    pub(in crate::commands) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.classnames.is_some(), "--classnames"),
            (!self.label_key.is_empty(), "--label-key"),
            (self.dataset.is_some(), "--dataset"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// How a set is read.
    pub(super) fn options(&self, images: &ImageArgs, classes: Option<Vec<String>>) -> Result<LabelledOptions> {
        Ok(LabelledOptions {
            classes,
            names: self.classnames.as_deref().map(ClassNames::load).transpose()?,
            format: images.format(),
            source: SourceOptions { label_key: self.label_key.clone(), ..images.source_options() },
        })
    }
}

/// All that an evaluation of a classifier needs to know.
pub(in crate::commands) struct Job<'a> {
    pub(in crate::commands) input: &'a Path,
    pub(in crate::commands) images: &'a ImageArgs,
    pub(in crate::commands) set: &'a SetArgs,
    pub(in crate::commands) labels: &'a LabelArgs,
    pub(in crate::commands) model: &'a ModelArgs,
    pub(in crate::commands) head: &'a HeadArgs,
    pub(in crate::commands) read: &'a ReadArgs,
    pub(in crate::commands) output: &'a Path,
    pub(in crate::commands) format: RowFormat,
}

impl Job<'_> {
    /// Does it.
    pub(in crate::commands) fn run(self, app: &App) -> Result<Status> {
        let input = self.input;
        let usual = if Benchmark::is_one(input) { Benchmark::open(input)?.templates } else { None };
        let tuned = Tuned::find(self.model)?;
        let templates = match &tuned {
            Some(_) if usual.is_none() => self.labels.templates_or(tuned.as_ref())?,
            _ => self.labels.templates(usual.as_deref())?,
        };
        let classes = if self.labels.gives_labels() { self.labels.labels(&templates)? } else { None };
        let set = Labelled::open(input, &self.set.options(self.images, classes)?)?;
        let format = self.format.resolve(self.output);
        let target = Target::open(self.output)?;
        let clip = app.open_model(self.model)?;
        // Both kinds of scores order labels alike, so one does for every model.
        let scoring = Scoring::of(clip.spec.objective, false);
        let task = tuned.as_ref().map(|tuned| tuned.task(&clip, &set.classes, &templates)).transpose()?;
        let scorer = match (&tuned, &task) {
            (Some(tuned), Some(task)) => tuned.scorer(task, set.classes)?,
            _ => Scorer::Texts(classifier(app, &clip, set.classes, &templates, scoring, self.head)?),
        };
        let classifier = scorer.classifier();

        let Classes { of_next, items } = truths(set.items);
        let progress = app.progress("images");
        let mut tally = Tally::new(classifier.labels().len());
        let mut failed = Vec::new();
        let result = embed(app, &clip, &self.read.options(), items, &progress, |item| {
            let class = of_next.recv().map_err(|_| Error::run("an image without a class"))?;
            match item.result {
                // As without --eval, to the last bit.
                Ok(mut embedding) => {
                    if scorer.takes_unit() {
                        normalize_row(&mut embedding);
                    }
                    tally.add(class, &scorer.logits(&embedding)?);
                }
                Err(error) => failed.push((item.id, error)),
            }
            Ok(())
        });
        progress.finish();
        if let Err(error) = result {
            left_behind(app, target.keep());
            return Err(error);
        }
        let Some(metrics) = tally.metrics() else {
            let message =
                if failed.is_empty() { "no images in these folders" } else { "none of the images could be read" };
            return Err(Error::run(message).at(input.display()));
        };
        let subject = Subject {
            dataset: self.set.dataset.clone().unwrap_or_else(|| input.display().to_string()),
            model: clip.name().to_owned(),
            pretrained: clip.id(),
            templates: templates.name().to_owned(),
        };
        for (label, _) in classifier.labels().iter().zip(&metrics.classes).filter(|(_, class)| class.n == 0) {
            app.warn(format_args!("no image of the class {label:?}"));
        }
        write(target, format, &Report::new(&subject, classifier.labels(), &metrics, &failed))?;
        Ok(ending::status(app, &failed))
    }
}

fn write(mut target: Target, format: RowFormat, report: &Report) -> Result<()> {
    let bytes = match format {
        RowFormat::Auto | RowFormat::Jsonl => {
            write_line(&mut target, report)?;
            return target.commit();
        }
        RowFormat::Table => report.text().into_bytes(),
        RowFormat::Csv | RowFormat::Tsv => {
            let mut bytes = delimited(format.delimiter(), Report::COLUMNS).map_err(Error::run)?;
            for row in report.rows() {
                bytes.extend(delimited(format.delimiter(), row).map_err(Error::run)?);
            }
            bytes
        }
    };
    target.write_all(&bytes).map_err(|error| target.error(error))?;
    target.commit()
}
