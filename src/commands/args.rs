//! The arguments that commands on images and texts share.

use crate::app::App;
use crate::data::{Inputs, ReadOptions, Separator, is_stdin};
use crate::error::{Error, Result};
use crate::image::{DEFAULT_MAX_PIXELS, DecodeOptions};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The images to work on.
#[derive(Args, Clone, Debug, Default)]
pub struct ImageArgs {
    /// Image files; folders, which are searched for images; `-` for a list of files on standard input
    #[arg(value_name = "INPUTS")]
    pub inputs: Vec<PathBuf>,

    /// Lists end their entries with a NUL byte, as `find -print0` writes them
    #[arg(long = "null", short = '0')]
    pub null: bool,
}

impl ImageArgs {
    /// The images.
    pub fn inputs(&self) -> Inputs {
        Inputs { paths: self.inputs.clone(), separator: self.separator() }
    }

    /// What ends an entry of a list.
    pub fn separator(&self) -> Separator {
        if self.null { Separator::Nul } else { Separator::Newline }
    }

    /// Whether a list of files is read from standard input.
    pub fn read_stdin(&self) -> bool {
        self.inputs.iter().any(|path| is_stdin(path))
    }

    /// Refuses to read standard input for two things.
    pub fn check_stdin(&self, others: &[(&str, bool)]) -> Result<()> {
        let images = self.inputs.iter().filter(|path| is_stdin(path)).map(|_| "INPUTS");
        let readers: Vec<&str> =
            images.chain(others.iter().filter(|(_, reads)| *reads).map(|(name, _)| *name)).collect();
        match readers[..] {
            [first, second, ..] => {
                Err(Error::usage(format!("standard input cannot be read twice ({first} and {second})")))
            }
            _ => Ok(()),
        }
    }

    /// The error of a job that found no image where there should be some.
    pub fn none_found(&self) -> Error {
        let places: Vec<_> = self.inputs.iter().map(|path| path.display().to_string()).collect();
        Error::run(format!("no images in {}", places.join(", ")))
            .hint(format!("folders are searched for files named {}", crate::data::IMAGE_EXTENSIONS.join(", ")))
    }
}

/// How items are read and batched.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Reading")]
pub struct ReadArgs {
    /// How many items the model sees at once: auto, or a number. Results do not depend on it
    #[arg(long, value_name = "N", default_value = "auto", value_parser = batch_size)]
    pub batch_size: BatchSize,

    /// How many threads decode images [default: as many as --threads]. Results do not depend on it
    #[arg(long, value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    /// Turn images as their EXIF orientation says (the references do not)
    #[arg(long)]
    pub exif: bool,

    /// Refuse images of more pixels, which could exhaust memory
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_PIXELS)]
    pub max_pixels: u64,
}

/// A batch size: `auto` or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSize(Option<NonZeroUsize>);

fn batch_size(text: &str) -> Result<BatchSize, String> {
    match text {
        "auto" => Ok(BatchSize(None)),
        _ => text.parse().map(|n| BatchSize(Some(n))).map_err(|_| "expected auto or a positive number".to_owned()),
    }
}

impl ReadArgs {
    /// What the loader needs to know.
    pub fn options(&self) -> ReadOptions {
        ReadOptions {
            batch_size: self.batch_size.0.map(NonZeroUsize::get),
            workers: self.workers.map(NonZeroUsize::get),
            decode: DecodeOptions { exif: self.exif, max_pixels: self.max_pixels, ..DecodeOptions::default() },
        }
    }
}

/// Warns of texts that lost their end, once.
pub(super) fn warn_truncated(app: &App, truncated: u64, context: usize) {
    if truncated > 0 {
        let texts = if truncated == 1 { "1 text was".to_owned() } else { format!("{truncated} texts were") };
        app.warn(format_args!("{texts} longer than the model's {context} tokens and cut short"));
    }
}

/// Says how many items failed.
pub(super) fn warn_failed(app: &App, failed: u64, items: u64, first: Option<&str>) {
    if failed > 0 {
        let first = first.map(|first| format!("; the first: {first}")).unwrap_or_default();
        app.warn(format_args!("{failed} of {items} items failed{first}"));
    }
}
