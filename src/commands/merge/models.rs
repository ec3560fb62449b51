//! Several models to one: interpolation and soups.

use super::measure::{Measure, MeasureArgs, Scores};
use super::{adapter, average};
use crate::app::App;
use crate::commands::{Status, show};
use crate::error::{Error, Result};
use crate::model::{Clip, LoadOptions, ModelFiles};
use crate::train::interpolate::{check, free, new_directory, write_mix, write_readme};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// How models are merged.
#[derive(Args, Debug)]
#[command(next_help_heading = "Models")]
pub(super) struct ModelsArgs {
    /// The part of the second of two models, from 0 to 1; several (0,0.5,1) or `sweep` (0 to 1 by 0.1) are measured
    #[arg(long, value_name = "ALPHA", value_parser = alphas, conflicts_with_all = ["soup", "lora", "ema"])]
    alpha: Option<Alphas>,

    /// Average models: all of them, or one after the other, best first, as long as the average gets no worse
    #[arg(long, value_name = "HOW", value_enum, conflicts_with_all = ["lora", "ema"])]
    soup: Option<Soup>,

    /// Work low-rank changes into the model: PEFT's, or those of a run of `finetune`
    #[arg(long, value_name = "DIR", conflicts_with = "ema")]
    lora: Option<PathBuf>,

    /// Write the moving average of the weights of a run of `finetune`
    #[arg(long, value_name = "RUN", conflicts_with = "inputs")]
    ema: Option<PathBuf>,

    /// Which of several alphas becomes a model
    #[arg(long, value_name = "WHICH", value_enum, requires = "alpha")]
    keep: Option<Keep>,

    #[command(flatten)]
    measure: MeasureArgs,
}

/// The parts of the second model.
#[derive(Clone, Debug)]
struct Alphas(Vec<f64>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Soup {
    /// All models, in equal parts
    Uniform,
    /// What --val-data and --eval speak for
    Greedy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Keep {
    /// The one with the highest score
    Best,
}

fn alphas(text: &str) -> Result<Alphas, String> {
    if text == "sweep" {
        return Ok(Alphas((0..=10).map(|tenth| f64::from(tenth) / 10.0).collect()));
    }
    let number = |part: &str| part.trim().parse().ok().filter(|alpha| (0.0..=1.0).contains(alpha));
    let all: Option<Vec<f64>> = text.split(',').map(number).collect();
    all.map(Alphas).ok_or_else(|| "expected numbers from 0 to 1, separated by commas, or sweep".to_owned())
}

/// A model that may be made: parts of models, with names for people.
struct Mix<'a> {
    parts: Vec<(&'a Clip, f64)>,
    how: String,
}

impl ModelsArgs {
    /// The first of the options that ask for models, if there is one.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.alpha.is_some(), "--alpha"),
            (self.soup.is_some(), "--soup"),
            (self.lora.is_some(), "--lora"),
            (self.ema.is_some(), "--ema"),
            (self.measure.given(), "--val-data and --eval"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// Merges models.
    pub(super) fn run(&self, app: &App, inputs: &[PathBuf], output: &Path) -> Result<Status> {
        let output = (output.as_os_str() != "-").then_some(output);
        if let Some(output) = output {
            free(output)?;
        }
        let needed = || output.ok_or_else(|| Error::usage("--output is missing: the directory to make"));
        match (&self.alpha, self.soup, &self.lora, &self.ema) {
            (Some(alphas), ..) => self.interpolate(app, inputs, &alphas.0, output),
            (_, Some(soup), ..) => self.soup(app, inputs, soup, needed()?),
            (.., Some(_), _) | (.., Some(_)) if self.measure.given() => {
                Err(Error::usage("--val-data and --eval measure what --alpha and --soup make"))
            }
            (.., Some(lora), _) => adapter::run(app, inputs, lora, needed()?),
            (.., Some(run)) => average::run(app, run, needed()?),
            _ => Err(Error::usage("how shall these models be merged?").hint("--alpha, --soup, --lora or --ema")),
        }
    }

    fn interpolate(&self, app: &App, inputs: &[PathBuf], alphas: &[f64], output: Option<&Path>) -> Result<Status> {
        let [start, other] = inputs else {
            return Err(Error::usage(format!("--alpha mixes two models, and there are {}", inputs.len()))
                .hint("--soup averages more"));
        };
        let writes = alphas.len() == 1 || self.keep.is_some();
        match (writes, output, self.measure.given()) {
            (_, _, false) if alphas.len() > 1 => {
                return Err(Error::usage("several alphas are measured, and there is nothing to measure them by")
                    .hint("--val-data captions.tsv or --eval FOLDER; or name one alpha"));
            }
            (true, None, measured) if self.keep.is_some() || !measured => {
                return Err(Error::usage("--output is missing: the directory to make"));
            }
            (false, Some(_), _) => {
                return Err(Error::usage("which of the alphas shall be written?")
                    .hint("--keep best; or leave --output away, or name one alpha"));
            }
            _ => {}
        }
        let (first, start, other) = (start, open(app, start)?, open(app, other)?);
        check(&[&start, &other])?;
        let mix = |alpha: f64| Mix {
            parts: vec![(&start, 1.0 - alpha), (&other, alpha)],
            how: format!(
                "Weights interpolated, alpha {alpha}: (1 - alpha) times the first model plus alpha times the second."
            ),
        };
        let mut best: Option<(f64, f64)> = None;
        if let Some(measure) = Measure::open(app, &self.measure, first)? {
            let mut rows = Vec::new();
            for &alpha in alphas {
                let scores = measure.of(app, |at| mix(alpha).write(app, at), output)?;
                if best.is_none_or(|(_, score)| scores.score() > score) {
                    best = Some((alpha, scores.score()));
                }
                rows.push(row("alpha", alpha.to_string(), &scores));
            }
            report(&rows)?;
        }
        let chosen = best.map_or(alphas[0], |(alpha, _)| alpha);
        if let (Some(_), Some((alpha, score))) = (self.keep, best) {
            app.note(format_args!("kept: alpha {alpha}, score {score:.4}"));
        }
        match output {
            Some(output) => mix(chosen).make(app, output, self.measure.given()),
            None => Ok(Status::Done),
        }
    }

    fn soup(&self, app: &App, inputs: &[PathBuf], soup: Soup, output: &Path) -> Result<Status> {
        if soup == Soup::Greedy && !self.measure.given() {
            return Err(Error::usage("a greedy soup needs something to judge it by").hint("--val-data or --eval"));
        }
        let models: Vec<Clip> = inputs.iter().map(|input| open(app, input)).collect::<Result<_>>()?;
        check(&models.iter().collect::<Vec<_>>())?;
        let uniform = |which: &[usize]| Mix {
            parts: which.iter().map(|&place| (&models[place], 1.0 / which.len() as f64)).collect(),
            how: format!("The average of the weights of {} models (a {} soup).", which.len(), name(soup)),
        };
        let all: Vec<usize> = (0..models.len()).collect();
        let Some(measure) = Measure::open(app, &self.measure, &inputs[0])? else {
            return uniform(&all).make(app, output, false);
        };
        let of = |which: &[usize]| measure.of(app, |at| uniform(which).write(app, at), Some(output));
        let mut rows = Vec::new();
        let mut single = Vec::new();
        for &place in &all {
            let scores = of(&[place])?;
            rows.push(row("models", inputs[place].display().to_string(), &scores));
            single.push((place, scores.score()));
        }
        let mut chosen = all;
        if soup == Soup::Greedy {
            // Recipe 1 of the paper: in the order of their own scores, each stays if the soup gets no worse by it.
            single.sort_by(|a, b| b.1.total_cmp(&a.1));
            chosen = vec![single[0].0];
            let mut best = single[0].1;
            for &(place, _) in &single[1..] {
                let with = [&chosen[..], &[place]].concat();
                let scores = of(&with)?;
                rows.push(row("models", names(inputs, &with), &scores));
                if scores.score() >= best {
                    (chosen, best) = (with, scores.score());
                }
            }
            app.note(format_args!("in the soup: {}", names(inputs, &chosen)));
        } else {
            rows.push(row("models", names(inputs, &chosen), &of(&chosen)?));
        }
        report(&rows)?;
        uniform(&chosen).make(app, output, true)
    }
}

impl Mix<'_> {
    /// Makes the output. Its name goes to standard output, unless that has a report.
    fn make(&self, app: &App, output: &Path, reported: bool) -> Result<Status> {
        new_directory(output, |at| self.write(app, at))?;
        if reported {
            app.note(format_args!("the model is in {}", output.display()));
        } else {
            show::write_path(output)?;
        }
        Ok(Status::Done)
    }

    fn write(&self, app: &App, at: &Path) -> Result<()> {
        write_mix(&self.parts, at, &|| app.interrupt.check())?;
        let parts: Vec<_> = self.parts.iter().map(|(clip, weight)| (*clip, format!("{weight:.4}"))).collect();
        write_readme(at, &self.how, &parts)
    }
}

/// Opens a model as its files have it, to be read on the CPU.
pub(super) fn open(app: &App, reference: &Path) -> Result<Clip> {
    open_sized(app, reference, None)
}

/// The same at another input size.
pub(super) fn open_sized(app: &App, reference: &Path, image_size: Option<usize>) -> Result<Clip> {
    Clip::open(find(app, reference)?, &LoadOptions { image_size, ..LoadOptions::default() })
}

/// Opens a model to compute with it.
pub(super) fn open_working(app: &App, reference: &Path) -> Result<Clip> {
    Clip::open(find(app, reference)?, &working(app))
}

/// Opens a model that was just written, to compute with it.
pub(super) fn open_written(app: &App, directory: &Path) -> Result<Clip> {
    Clip::open(ModelFiles::open(directory)?, &working(app))
}

fn find(app: &App, reference: &Path) -> Result<ModelFiles> {
    let name = reference.to_str().ok_or_else(|| Error::usage("a name that is no text").at(reference.display()))?;
    app.find_model(Some(name))
}

fn working(app: &App) -> LoadOptions {
    LoadOptions { device: app.device.clone(), dtype: app.dtype, ..LoadOptions::default() }
}

fn name(soup: Soup) -> &'static str {
    match soup {
        Soup::Uniform => "uniform",
        Soup::Greedy => "greedy",
    }
}

fn names(inputs: &[PathBuf], which: &[usize]) -> String {
    which.iter().map(|&place| inputs[place].display().to_string()).collect::<Vec<_>>().join(" + ")
}

/// A row of the report: what was measured, and what was found.
fn row(key: &'static str, name: String, scores: &Scores) -> Vec<(&'static str, serde_json::Value)> {
    let first = match name.parse::<f64>() {
        Ok(number) if key == "alpha" => number.into(),
        _ => name.into(),
    };
    std::iter::once((key, first)).chain(scores.values().into_iter().map(|(key, value)| (key, value.into()))).collect()
}

/// A table on a terminal, else JSON Lines.
fn report(rows: &[Vec<(&'static str, serde_json::Value)>]) -> Result<()> {
    let objects = rows.iter().map(|row| row.iter().cloned().map(|(key, value)| (key.to_owned(), value)).collect());
    if !show::Shape::Auto.is_table() {
        return show::write_jsonl(objects.collect::<Vec<serde_json::Map<_, _>>>());
    }
    let keys: Vec<&str> = rows.first().into_iter().flatten().map(|(key, _)| *key).collect();
    let mut table = show::table(&keys);
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(place, (_, value))| match (place, value.as_f64()) {
            (0, Some(number)) => number.to_string(),
            (_, Some(number)) => format!("{number:.4}"),
            (_, None) => value.as_str().unwrap_or_default().to_owned(),
        }));
    }
    show::write_table(&table)
}
