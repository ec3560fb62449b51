//! `zeroshot`: images to labels that nobody trained.

mod eval;
pub(super) mod head;
pub(super) mod tuned;

use super::args::{ImageArgs, ReadArgs, warn_failed};
use super::ending::left_behind;
use super::{Command, Status};
use crate::app::{App, ModelArgs};
use crate::classifier::Scoring;
use crate::data::{Embedded, Kind, Take, embed, embed_or_read, is_records};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::output::{Predictions, RowFormat, Target};
use crate::text::{Labels, TemplateSet, templates};
use clap::Args;
use head::HeadArgs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use tuned::{Scorer, Tuned};

/// Label images with your own words
#[derive(Args, Debug)]
#[command(after_help = "\
Each label is put into the templates (`a photo of a {}.`), and an image gets the labels whose texts lie nearest. \
Scores are a softmax over the labels (they add up to 1), or for SigLIP models a sigmoid for each label. Of equal \
scores the first label wins. JSON Lines records are {\"id\",\"predictions\":[{\"label\",\"score\"}],\"model\"}, or \
{\"id\",\"error\"} for an image that failed; the others go on, and the exit code is 1.

Inputs may also be embeddings: a .jsonl file that `embed` wrote, or its output on standard input. Another \
model's embeddings are refused.

--multi-label scores each label for itself. A model trained with softmax has no such scores of its own: each \
label is compared with prompts that name nothing (`a photo.`). Use them to rank labels; which score means \"yes\" \
depends on your data.

A run of `tune` is a model, too: it labels with the classes that it was tuned on, or with others where its method can.

--eval measures accuracy over a folder of class folders; over a table (.csv, .tsv, .jsonl, .parquet) with an image \
and a label in each row; over archives with KEY.jpg and KEY.cls; or over a data set of CLIP benchmark. Without \
labels the folders' names are the classes, with `_` for a space. Intervals are 95 %. Images that cannot be read are \
left out, named, and make the exit code 1.

Examples:
  clip-cli zeroshot photos/ --labels 'cat,dog,\"a bowl of soup\"'
  clip-cli zeroshot cat.jpg --labels-file classes.txt --templates openai-80 --top-k 1 --format csv
  find . -name '*.jpg' | clip-cli embed - | clip-cli zeroshot - --labels day,night
  clip-cli zeroshot beach.jpg --labels sand,sea,snow --multi-label --threshold 0.5
  clip-cli zeroshot --model run photos/
  clip-cli zeroshot --eval imagenet/val --classnames classes.tsv --output report.json")]
pub(super) struct Zeroshot {
    #[command(flatten)]
    images: ImageArgs,

    #[command(flatten)]
    labels: LabelArgs,

    #[command(flatten)]
    model: ModelArgs,

    /// Score each label for itself: several may fit, or none
    #[arg(long, conflicts_with = "eval")]
    multi_label: bool,

    /// How many labels an image gets at most [default: 5, or all that reach the --threshold]
    #[arg(long, short = 'k', value_name = "K", conflicts_with = "eval", help_heading = "Output", value_parser = top_k)]
    top_k: Option<NonZeroUsize>,

    /// Leave out labels with a lower score, from 0 to 1
    #[arg(long, value_name = "SCORE", conflicts_with = "eval", help_heading = "Output", value_parser = share)]
    threshold: Option<f64>,

    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", help_heading = "Output")]
    output: PathBuf,

    /// The output's format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: RowFormat,

    #[command(flatten)]
    eval: eval::EvalArgs,

    #[command(flatten)]
    head: HeadArgs,

    #[command(flatten)]
    read: ReadArgs,
}

/// The labels, and the prompts around them.
#[derive(Args, Clone, Debug)]
pub(in crate::commands) struct LabelArgs {
    /// The labels, separated by commas; quotes keep a label with a comma together
    #[arg(long, short, value_name = "A,B,C", conflicts_with = "labels_file", help_heading = "Labels")]
    labels: Option<String>,

    /// A file with one label a line, a table with a column `label`, or a JSON list
    #[arg(long, value_name = "FILE", help_heading = "Labels")]
    labels_file: Option<PathBuf>,

    /// What is said of each label: a JSON object from labels to lists of prompts or sentences (CuPL), or of features, which
    /// become `hen, which has two legs`. What ends as a sentence, names the label or has {} in it is no feature
    #[arg(long, value_name = "FILE", conflicts_with = "templates", help_heading = "Labels")]
    class_prompts: Option<PathBuf>,

    /// What stands around a label: openai-80, openai-7, simple (`a photo of a {}.`), a file with one template a line,
    /// or a template with {} in it
    /// [default: simple, or with --eval those of the data set]
    #[arg(long, value_name = "TEMPLATES", help_heading = "Labels")]
    templates: Option<String>,
}

impl LabelArgs {
    /// The prompts around labels: those that the command line names, else those of this file, else simple ones.
    pub(in crate::commands) fn templates(&self, usual: Option<&Path>) -> Result<TemplateSet> {
        match (&self.class_prompts, &self.templates, usual) {
            (Some(path), ..) => templates::load_classes(path),
            (None, Some(name), _) => templates::load(name),
            (None, None, Some(path)) => templates::load(&Path::new(".").join(path).to_string_lossy()),
            (None, None, None) => templates::load("simple"),
        }
    }

    /// The prompts around labels: those that the command line names, else those that a model was tuned with.
    pub(in crate::commands) fn templates_or(&self, tuned: Option<&Tuned>) -> Result<TemplateSet> {
        match tuned {
            Some(tuned) if self.templates.is_none() && self.class_prompts.is_none() => tuned.templates(),
            _ => self.templates(None),
        }
    }

    /// The labels, if the command line gives any, else the classes that a model was tuned on.
    fn labels_or(&self, tuned: Option<&Tuned>, templates: &TemplateSet) -> Result<Option<Vec<String>>> {
        let said = self.gives_labels() || self.templates.is_some() || self.class_prompts.is_some();
        match tuned {
            // What its prompts are kept in may name more classes, or in another way.
            Some(tuned) if !said => Ok(Some(tuned.classes().to_vec())),
            _ => Ok(self.labels(templates)?.or_else(|| tuned.map(|tuned| tuned.classes().to_vec()))),
        }
    }

    /// Whether the command line gives labels themselves.
    pub(in crate::commands) fn gives_labels(&self) -> bool {
        self.labels.is_some() || self.labels_file.is_some()
    }

    /// The labels, if the command line gives any.
    pub(in crate::commands) fn labels(&self, templates: &TemplateSet) -> Result<Option<Vec<String>>> {
        if let Some(list) = &self.labels {
            return Ok(Some(Labels::from_list(list)?.to_vec()));
        }
        if let Some(path) = &self.labels_file {
            return Ok(Some(Labels::from_file(path)?.to_vec()));
        }
        Ok(templates.classes())
    }
}

fn top_k(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a number from 1 up".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

impl Command for Zeroshot {
    const NAME: &'static str = "zeroshot";

    fn run(self, app: &App) -> Result<Status> {
        if self.images.inputs.is_empty() {
            return Err(Error::usage("no images")
                .hint("name images or folders, or `-` to read a list or embeddings from standard input"));
        }
        match self.eval.eval {
            true => eval::run(&self, app),
            false => {
                self.eval.check()?;
                self.predict(app)
            }
        }
    }
}

impl Zeroshot {
    fn predict(&self, app: &App) -> Result<Status> {
        self.images.check_stdin(&[])?;
        let tuned = Tuned::find(&self.model)?;
        let templates = self.labels.templates_or(tuned.as_ref())?;
        let labels = self.labels.labels_or(tuned.as_ref(), &templates)?;
        let labels = labels.ok_or_else(|| {
            Error::usage("no labels given").hint("name them with --labels cat,dog or --labels-file FILE")
        })?;
        if tuned.is_some() && self.multi_label {
            return Err(Error::usage(
                "a tuned model scores its labels against each other: --multi-label has no meaning",
            ));
        }
        let format = self.format.resolve(&self.output);
        let target = Target::open(&self.output)?;
        let clip = app.open_model(&self.model)?;
        let scoring = match tuned {
            Some(_) => Scoring::Softmax,
            None => Scoring::of(clip.spec.objective, self.multi_label),
        };
        if scoring.is_relative() && labels.len() == 1 {
            app.warn("one label alone always gets the score 1; add others, or use --multi-label");
        }
        let task = tuned.as_ref().map(|tuned| tuned.task(&clip, &labels, &templates)).transpose()?;
        let scorer = match (&tuned, &task) {
            (Some(tuned), Some(task)) => tuned.scorer(task, labels)?,
            _ => Scorer::Texts(head::classifier(app, &clip, labels, &templates, scoring, &self.head)?),
        };
        let classifier = scorer.classifier();
        let threshold = self.threshold.unwrap_or(0.0);
        let top_k = match (self.top_k, self.threshold) {
            (Some(k), _) => k.get(),
            (None, Some(_)) => usize::MAX,
            (None, None) => 5,
        };

        let mut out = Predictions::open(target, format, clip.id())?;
        let inputs = self.images.inputs(Take::Images);
        scorer.check_records(self.images.read_stdin() || inputs.paths.iter().any(|path| is_records(path)))?;
        let progress = app.progress("images");
        if app.shows_progress() && !inputs.paths.iter().any(|path| is_records(path)) {
            let (inputs, progress) = (inputs.clone(), progress.clone());
            std::thread::spawn(move || inputs.count().map(|count| progress.expect(count)));
        }
        let (mut items, mut failed, mut first) = (0u64, 0u64, None);
        let options = self.read.options();
        let each = |item: Embedded| {
            let result = match (item.result, item.kind) {
                (Ok(_), Kind::Text) => {
                    Err(ItemError::new(ItemKind::Invalid, "the embedding of a text; labels are for images"))
                }
                (result, _) => result,
            };
            items += 1;
            match result {
                Ok(embedding) => {
                    let logits = scorer.logits(&embedding)?;
                    out.write(&item.id, Ok(&classifier.best(&logits, top_k, threshold)))
                }
                Err(error) => {
                    failed += 1;
                    let message = format!("{}: {error}", item.id);
                    progress.aside(|| app.detail(&message));
                    first.get_or_insert(message);
                    out.write(&item.id, Err(&error))
                }
            }
        };
        let result = match scorer.takes_unit() {
            true => embed_or_read(app, &clip, &options, inputs, &progress, each),
            false => embed(app, &clip, &options, inputs.items(), &progress, each),
        };
        progress.finish();
        if let Err(error) = result {
            left_behind(app, out.abandon());
            return Err(error);
        }
        if items == 0 && !self.images.read_stdin() && !self.images.inputs.iter().any(|path| is_records(path)) {
            return Err(self.images.none_found());
        }
        out.finish()?;
        if items == 0 {
            app.note("nothing to label: the list is empty");
        }
        warn_failed(app, failed, items, first.as_deref());
        Ok(if failed > 0 { Status::SomeFailed } else { Status::Done })
    }
}
