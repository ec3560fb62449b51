//! The command line: one file a command, one line in [`COMMANDS`].
//!
//! Architecture invariant: data goes to standard output, everything else to standard error, and nothing outside this
//! module and [`App`]'s messages prints.

mod args;
mod completions;
mod dedup;
mod doctor;
mod embed;
mod ending;
mod eval;
mod finetune;
mod index;
mod merge;
mod models;
mod negatives;
mod output_args;
mod search;
mod sheet;
mod show;
mod similarity;
mod tune;
mod zeroshot;

pub use args::{ImageArgs, ReadArgs};

use crate::app::{App, GlobalArgs};
use crate::error::{Error, Kind, Result};
use clap::{ArgMatches, Args, FromArgMatches};
use std::io::Write;
use std::process::ExitCode;

/// All commands, in the order of the help text.
pub static COMMANDS: &[Entry] = &[
    Entry::of::<embed::Embed>(),
    Entry::of::<zeroshot::Zeroshot>(),
    Entry::of::<eval::Eval>(),
    Entry::of::<similarity::Similarity>(),
    Entry::of::<search::Search>(),
    Entry::of::<dedup::Dedup>(),
    Entry::of::<index::Index>(),
    Entry::of::<tune::Tune>(),
    Entry::of::<finetune::Finetune>(),
    Entry::of::<merge::Merge>(),
    Entry::of::<negatives::Negatives>(),
    Entry::of::<models::Models>(),
    Entry::of::<doctor::Doctor>(),
    Entry::of::<completions::Completions>(),
];

/// A command: its arguments, and what it does with them.
pub trait Command: Args {
    /// Its name on the command line.
    const NAME: &'static str;

    /// Does it.
    fn run(self, app: &App) -> Result<Status>;
}

/// How a command ended that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All went well (exit code 0).
    Done,
    /// Some items failed, and are marked in the output (exit code 1).
    SomeFailed,
}

/// A command in the registry.
#[derive(Debug)]
pub struct Entry {
    /// Its name on the command line.
    pub name: &'static str,
    define: fn() -> clap::Command,
    run: fn(&App, &ArgMatches) -> Result<Status>,
}

impl Entry {
    const fn of<C: Command>() -> Self {
        Self {
            name: C::NAME,
            define: || C::augment_args(clap::Command::new(C::NAME)),
            run: |app, matches| C::from_arg_matches(matches).map_err(Error::usage)?.run(app),
        }
    }
}

/// The definition of the whole command line.
pub fn cli() -> clap::Command {
    let root = GlobalArgs::augment_args(clap::Command::new("clip-cli"));
    root.version(env!("CARGO_PKG_VERSION"))
        .about("Embed, classify and compare images and text with CLIP-family models")
        .long_about(None)
        .after_help(AFTER_HELP)
        .max_term_width(98)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands(COMMANDS.iter().map(|entry| (entry.define)()))
}

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 some items failed, and are marked in the output; 2 the command line makes
no sense; 3 the model, an input, an output or the device cannot be used; 130 interrupted.

Examples:
  clip-cli embed photos/ > photos.jsonl
  clip-cli embed --text 'a photo of a dog'";

/// Parses the command line, runs the command, reports its error.
pub fn main() -> ExitCode {
    let matches = cli().get_matches();
    match run(&matches) {
        Ok(Status::Done) => ExitCode::SUCCESS,
        Ok(Status::SomeFailed) => ExitCode::from(1),
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(matches: &ArgMatches) -> Result<Status> {
    let global = GlobalArgs::from_arg_matches(matches).map_err(Error::usage)?;
    let (name, matches) = matches.subcommand().ok_or_else(|| Error::usage("no command"))?;
    let entry = COMMANDS.iter().find(|entry| entry.name == name).ok_or_else(|| Error::usage("no such command"))?;
    (entry.run)(&App::new(&global)?, matches)
}

fn report(error: &Error) {
    let mut stderr = std::io::stderr();
    // Nobody may be listening, which changes nothing.
    let _ = match error.kind() {
        Kind::ClosedPipe => Ok(()),
        _ => writeln!(stderr, "error: {error}"),
    };
    if let Some(advice) = error.advice() {
        let _ = writeln!(stderr, "hint: {advice}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_definition_is_sound() {
        cli().debug_assert();
        let mut names = HashSet::new();
        for entry in COMMANDS {
            assert!(names.insert(entry.name), "{} is there twice", entry.name);
            let command = (entry.define)();
            assert!(command.get_about().is_some(), "{} says nothing of itself", entry.name);
            assert!(command.get_after_help().is_some(), "{} has no examples", entry.name);
        }
    }
}
