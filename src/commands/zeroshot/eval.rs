//! `zeroshot --eval`: how often the best label is the true one.

use super::{Zeroshot, head};
use crate::app::App;
use crate::classifier::Scoring;
use crate::commands::Status;
use crate::commands::ending::left_behind;
use crate::data::{Benchmark, ClassNames, Items, Labelled, LabelledOptions, SourceOptions, embed};
use crate::error::{Error, Result};
use crate::eval::{Report, Subject, Tally};
use crate::ops::normalize::normalize_row;
use crate::output::rows::delimited;
use crate::output::{RowFormat, Target, write_line};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc;

/// How accuracy is measured.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Evaluation")]
pub(super) struct EvalArgs {
    /// Measure accuracy over images whose class is known
    #[arg(long)]
    pub(super) eval: bool,

    /// What folders or labels stand for: lines of a folder, a tab or a space, and the class name; or a JSON object
    #[arg(long, value_name = "FILE", requires = "eval")]
    classnames: Option<PathBuf>,

    /// The column with the class, the extension of classes in archives
    #[arg(long, value_name = "NAME", value_delimiter = ';', requires = "eval", alias = "label-column")]
    label_key: Vec<String>,

    /// What the report calls the images [default: the input as given]
    #[arg(long, value_name = "NAME", requires = "eval")]
    dataset: Option<String>,
}

pub(super) fn run(zeroshot: &Zeroshot, app: &App) -> Result<Status> {
    let args = &zeroshot.eval;
    let [input] = &zeroshot.images.inputs[..] else {
        return Err(Error::usage("--eval takes one folder of class folders, or one table"));
    };
    if zeroshot.images.read_stdin() {
        return Err(
            Error::usage("--eval cannot read standard input").hint("name a folder of class folders, or a table")
        );
    }
    let usual = if Benchmark::is_one(input) { Benchmark::open(input)?.templates } else { None };
    let templates = zeroshot.labels.templates(usual.as_deref())?;
    let given = zeroshot.labels.labels.is_some() || zeroshot.labels.labels_file.is_some();
    let options = LabelledOptions {
        classes: if given { zeroshot.labels.labels(&templates)? } else { None },
        names: args.classnames.as_deref().map(ClassNames::load).transpose()?,
        format: zeroshot.images.format(),
        source: SourceOptions { label_key: args.label_key.clone(), ..zeroshot.images.source_options() },
    };
    let set = Labelled::open(input, &options)?;
    let format = zeroshot.format.resolve(&zeroshot.output);
    let target = Target::open(&zeroshot.output)?;
    let clip = app.open_model(&zeroshot.model)?;
    // Both kinds of scores order labels alike, so one does for every model.
    let scoring = Scoring::of(clip.spec.objective, false);
    let classifier = head::classifier(app, &clip, set.classes, &templates, scoring, &zeroshot.head)?;

    let (classes, items) = truths(set.items);
    let progress = app.progress("images");
    let mut tally = Tally::new(classifier.labels().len());
    let mut failed = Vec::new();
    let result = embed(app, &clip, &zeroshot.read.options(), items, &progress, |item| {
        let class = classes.recv().map_err(|_| Error::run("an image without a class"))?;
        match item.result {
            // As without --eval, to the last bit.
            Ok(mut embedding) => {
                normalize_row(&mut embedding);
                tally.add(class, &classifier.logits(&embedding));
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
        let message = if failed.is_empty() { "no images in these folders" } else { "none of the images could be read" };
        return Err(Error::run(message).at(input.display()));
    };
    let subject = Subject {
        dataset: args.dataset.clone().unwrap_or_else(|| input.display().to_string()),
        model: clip.name().to_owned(),
        pretrained: clip.id(),
        templates: templates.name().to_owned(),
    };
    for (label, _) in classifier.labels().iter().zip(&metrics.classes).filter(|(_, class)| class.n == 0) {
        app.warn(format_args!("no image of the class {label:?}"));
    }
    write(target, format, &Report::new(&subject, classifier.labels(), &metrics, &failed))?;
    for (id, error) in failed.iter().take(10) {
        app.warn(format_args!("{id}: {error}"));
    }
    if failed.len() > 10 {
        app.warn(format_args!("… and {} more; the report names them all", failed.len() - 10));
    }
    Ok(if failed.is_empty() { Status::Done } else { Status::SomeFailed })
}

/// Splits images from their classes, which come in the same order.
fn truths(
    items: Box<dyn Iterator<Item = (Result<crate::data::Item>, usize)> + Send>,
) -> (mpsc::Receiver<usize>, Items) {
    let (class_of_next, classes) = mpsc::channel();
    let items = items.map(move |(item, class)| {
        // Whoever listens may have stopped at an error.
        let _ = class_of_next.send(class);
        item
    });
    (classes, Box::new(items))
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
