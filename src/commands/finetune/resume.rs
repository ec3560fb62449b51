//! A run that goes on: where it stands, and whether it is asked for what it was begun with.

use super::args::FinetuneArgs;
use crate::error::{Error, Result};
use crate::train::config::{Config, LoraConfig};
use crate::train::group::Group;
use crate::train::run_dir::{RunDir, State};
use clap::{Args, FromArgMatches};

/// The directory of a run that goes on, what it does and where it stands; of a new one the configuration alone.
pub(super) fn directory(args: &FinetuneArgs, group: &dyn Group) -> Result<(Option<RunDir>, Config, State)> {
    let asked = args.config();
    if !args.resume {
        if asked.train_data.is_empty() {
            return Err(Error::usage("--train-data is missing")
                .hint("a table with columns filepath and title, archives, or class folders"));
        }
        return Ok((None, asked, State::default()));
    }
    let Some(path) = &args.output else { return Err(Error::usage("--resume needs --output: the run to go on with")) };
    let (directory, saved, state) = match group.rank() {
        0 => RunDir::open(path)?,
        _ => RunDir::follow_open(path)?,
    };
    same_options(&asked, &saved)?;
    // The data may have moved.
    let data = if asked.train_data.is_empty() { saved.train_data.clone() } else { asked.train_data };
    Ok((Some(directory), Config { train_data: data, ..saved }, state))
}

/// Fails when the command line asks for something else than the run does.
fn same_options(asked: &Config, saved: &Config) -> Result<()> {
    let command = FinetuneArgs::augment_args(clap::Command::new("finetune"));
    let matches = command.try_get_matches_from(["finetune", "--dry-run"]).map_err(Error::run)?;
    let usual = FinetuneArgs::from_arg_matches(&matches).map_err(Error::run)?.config();
    let mut asked = asked.clone();
    if let (Some(_), Some(own), Some(of_files)) = (&asked.init_lora, &asked.lora, &saved.lora) {
        // The files say the rest.
        asked.lora = Some(LoraConfig { dropout: own.dropout, ..of_files.clone() });
    }
    let [asked, saved, usual] = [&asked, saved, &usual].map(|config| serde_json::to_value(config).unwrap_or_default());
    for (key, value) in asked.as_object().into_iter().flatten() {
        let given = usual.get(key) != Some(value);
        if given && saved.get(key) != Some(value) && key != "train_data" {
            let was = saved.get(key).map(ToString::to_string).unwrap_or_default();
            return Err(Error::usage(format!("the run was begun with {} {was}, not {value}", key.replace('_', "-")))
                .hint("a run goes on as it began; leave the option away"));
        }
    }
    Ok(())
}
