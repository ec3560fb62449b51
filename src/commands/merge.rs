//! `merge`: shards to the output of a single run, and models to one.

mod adapter;
mod average;
mod measure;
mod models;
mod shards;

use super::{Command, Status};
use crate::app::App;
use crate::card;
use crate::error::{Error, Result};
use crate::model::ModelFiles;
use clap::Args;
use std::path::{Path, PathBuf};

/// Join the outputs of `embed --shard`; or mix the weights of models
#[derive(Args, Debug)]
#[command(after_help = "\
Shards: the result has the bytes that `embed` without --shard would have written, failed items in
their places. All shards must be there, each once, made by one model with one set of options.

Models: --alpha mixes two, (1 - alpha) * first + alpha * second, which after fine-tuning often keeps
more and does better (WiSE-FT); with --val-data or --eval it measures each alpha and writes a model
if there is one, or with --keep best. --soup averages several. They must be of one architecture and
layout. --lora works low-rank changes in, PEFT's or those of a run. --ema writes the moving average
of a run. docs/merging.md says more.

Examples:
  for i in 1 2 3; do clip-cli embed photos/ --shard $i/3 --output out.npy; done
  clip-cli merge out-*-of-00003.npy --output photos.npy
  clip-cli merge builtin builtin --alpha 0,0.5,1 --val-data pairs.csv")]
pub(super) struct Merge {
    /// The shards, in any order; or models, the one that training began with first: as for --model
    #[arg(value_name = "SHARDS|MODELS", required_unless_present = "ema")]
    inputs: Vec<PathBuf>,

    /// Where to write, `-` for standard output; for models a directory to make
    #[arg(long, short, value_name = "FILE|DIR", default_value = "-")]
    output: PathBuf,

    /// The format of the shards and of the output [default: by the first shard's name]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    #[command(flatten)]
    models: models::ModelsArgs,
}

impl Command for Merge {
    const NAME: &'static str = "merge";

    fn run(self, app: &App) -> Result<Status> {
        app.refuse_int8("merging computes")?;
        let asked = self.models.given();
        let is_model: Vec<bool> = self.inputs.iter().map(|input| is_model(input)).collect();
        if let (Some(option), Some(format)) = (asked, &self.format) {
            return Err(Error::usage(format!("{option} merges models, which have no --format {format}")));
        }
        let at = |model: bool| is_model.iter().position(|&is| is == model).map(|place| self.inputs[place].display());
        match (asked, at(true), at(false)) {
            (None, Some(model), Some(other)) => {
                Err(Error::usage(format!("{model} is a model, {other} is none: shards or models are merged, not both")))
            }
            (None, Some(_), None) => Err(Error::usage("how shall these models be merged?")
                .hint("--alpha 0.5 mixes two of them, --soup uniform averages several, --lora works an adapter in")),
            (Some(option), _, Some(other)) if other_file(&self.inputs, &is_model) => Err(Error::usage(format!(
                "{option} merges models, and {other} is none"
            ))
            .hint(
                "a model is a directory, a .safetensors file with its configuration beside it, an alias or org/name",
            )),
            (Some(_), ..) => self.models.run(app, &self.inputs, &self.output),
            (None, None, _) => shards::run(app, &self.inputs, &self.output, self.format.as_deref()),
        }
    }
}

/// Whether an input is a model for all that can be seen without the network.
fn is_model(input: &Path) -> bool {
    if input.is_file() {
        // A table of embeddings has no configuration beside it.
        let beside = |name: &str| input.with_file_name(name).is_file();
        let weights = input.extension().is_some_and(|extension| extension == "safetensors");
        return weights && (beside("config.json") || beside("open_clip_config.json"));
    }
    if input.is_dir() {
        return ModelFiles::open(input).is_ok();
    }
    input.to_str().is_some_and(|name| name == "builtin" || card::find(name).is_some())
}

/// Whether one of the inputs is a file and no model; what is not there may be a name on the Hub.
fn other_file(inputs: &[PathBuf], is_model: &[bool]) -> bool {
    inputs.iter().zip(is_model).any(|(input, model)| !model && input.is_file())
}
