//! What every command shares: the device, the threads, opening models, messages for people, progress, interruption.
//!
//! Architecture invariant: this is the one place that reads the environment, but for the variables that say where the
//! Hub and its cache are, which [`hub`] reads as Python's tools do.

mod args;
mod cache;
mod device;
mod download;
mod interrupt;
mod progress;
mod threads;

pub use args::{GlobalArgs, ModelArgs};
pub use device::{DeviceChoice, Precision};
pub use interrupt::Interrupt;
pub use progress::Progress;
pub(crate) use threads::WORKER;

use crate::error::{Error, Result};
use crate::hub;
use crate::model::{Clip, LoadOptions, ModelFiles};
use crate::tune;
use candle_core::{DType, Device, DeviceLocation};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// What every command shares.
#[derive(Clone, Debug)]
pub struct App {
    /// Where the towers compute.
    pub device: Device,
    /// The kind of numbers they compute with.
    pub dtype: DType,
    /// Whether models that are only used, not trained, compute in 8-bit integers where that is faster.
    pub int8: bool,
    /// How many threads compute; also the default number of threads that decode.
    pub threads: usize,
    /// How much is said on standard error.
    pub verbosity: Verbosity,
    /// Whether models may come from the files on this machine alone.
    pub offline: bool,
    /// Whether Ctrl-C was pressed.
    pub interrupt: Interrupt,
}

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors alone.
    Quiet,
    /// Warnings, progress and what a reader must know, such as which model was chosen for them.
    Normal,
    /// Also what was chosen and how long it took.
    Verbose,
    /// Also what the libraries below log.
    Debug,
}

impl App {
    /// Sets up threads, signals and the device. Called once, before any other thread runs.
    pub fn new(args: &GlobalArgs) -> Result<Self> {
        let verbosity = args.verbosity();
        let threads = threads::set_up(args.threads)?;
        threads::silence_workers();
        if verbosity == Verbosity::Debug {
            let _ =
                tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::DEBUG).try_init();
        }
        let device = args.device.open()?;
        let dtype = args.precision.resolve(&device)?;
        let offline = args.offline || std::env::var_os("HF_HUB_OFFLINE").is_some_and(|v| !v.is_empty() && v != "0");
        let int8 = args.precision == Precision::Int8;
        let app = Self { device, dtype, int8, threads, verbosity, offline, interrupt: Interrupt::install() };
        app.detail(format_args!("{threads} threads, device {:?}, {:?}", app.device.location(), app.dtype));
        Ok(app)
    }

    /// Opens the model that the command line names, which may be a run of `tune`. The towers are read when they are first
    /// needed.
    pub fn open_model(&self, args: &ModelArgs) -> Result<Clip> {
        match tune::Saved::find(args.model.as_deref()) {
            Some(directory) => self.open_tuned(&directory, args),
            None => self.open_plain(args),
        }
    }

    /// The model that was tuned, as it was tuned.
    fn open_tuned(&self, directory: &Path, args: &ModelArgs) -> Result<Clip> {
        let saved = tune::Saved::open(directory)?;
        if args.image_size.is_some() && args.image_size != saved.image_size {
            return Err(Error::usage("--image-size is the one that the model was tuned with").hint("leave it out"));
        }
        let model = Some(saved.model.clone().unwrap_or_else(|| "builtin".to_owned()));
        let mut clip = self.open_plain(&ModelArgs { model, image_size: saved.image_size })?;
        saved.apply(directory, &mut clip)?;
        Ok(clip)
    }

    fn open_plain(&self, args: &ModelArgs) -> Result<Clip> {
        let files = self.find_model(args.model.as_deref())?;
        let options = LoadOptions {
            device: self.device.clone(),
            dtype: self.dtype,
            int8: self.int8,
            image_size: args.image_size,
        };
        let clip = Clip::open(files, &options)?;
        if args.model.is_none() {
            self.note(format_args!("using the built-in model {}; --model chooses another", clip.id()));
        }
        self.detail(format_args!("model {}, family {}", clip.id(), clip.spec.family));
        Ok(clip)
    }

    /// The files of a model: built-in, on disk, or known by an alias or a name on the Hub.
    pub fn find_model(&self, reference: Option<&str>) -> Result<ModelFiles> {
        let Some(reference) = reference.filter(|&reference| reference != "builtin") else { return builtin() };
        let watch = Some(self.watch_download());
        let found = hub::resolve_with(reference, &hub::Options { offline: self.offline, refresh: false, watch })?;
        found.notes.iter().for_each(|note| self.warn(note));
        let Some(origin) = &found.origin else { return Ok(found.files) };
        let commit = format!("{}@{} is commit {}", origin.repository, origin.revision, origin.sha);
        if found.asked {
            self.note(commit)
        } else {
            self.detail(commit)
        }
        Ok(found.files.from_hub(format!("{}@{}", origin.repository, origin.sha)))
    }

    /// Fails if the command line asks for 8-bit integers, which `what` cannot do with.
    pub fn refuse_int8(&self, what: &str) -> Result<()> {
        if !self.int8 {
            return Ok(());
        }
        Err(Error::usage(format!("{what} in f32: 8-bit integers are for models that are only used"))
            .at("--precision int8")
            .hint("leave it out here, and use it with `embed`, `zeroshot`, `eval` or `search`"))
    }

    /// The kind of device on which the towers compute.
    pub fn device_kind(&self) -> &'static str {
        match self.device.location() {
            DeviceLocation::Cpu => "cpu",
            DeviceLocation::Cuda { .. } => "cuda",
            DeviceLocation::Metal { .. } => "metal",
        }
    }

    /// Says something that a reader should know, unless they asked for quiet.
    pub fn note(&self, message: impl fmt::Display) {
        self.say(Verbosity::Normal, message);
    }

    /// Warns, unless the reader asked for quiet.
    pub fn warn(&self, message: impl fmt::Display) {
        self.say(Verbosity::Normal, format_args!("warning: {message}"));
    }

    /// Says what only a curious reader wants to know (`-v`).
    pub fn detail(&self, message: impl fmt::Display) {
        self.say(Verbosity::Verbose, message);
    }

    /// A progress bar on standard error, if a person is there to see it.
    pub fn progress(&self, unit: &'static str) -> Progress {
        if self.shows_progress() { Progress::visible(unit) } else { Progress::hidden() }
    }

    /// Whether progress bars are shown.
    pub fn shows_progress(&self) -> bool {
        self.verbosity > Verbosity::Quiet && std::io::stderr().is_terminal()
    }

    fn say(&self, level: Verbosity, message: impl fmt::Display) {
        if self.verbosity >= level {
            // Nobody may be listening (a closed standard error), which is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }
}

#[cfg(feature = "builtin")]
#[expect(clippy::unnecessary_wraps, reason = "the other build has no built-in model")]
fn builtin() -> Result<ModelFiles> {
    Ok(ModelFiles::builtin())
}

#[cfg(not(feature = "builtin"))]
fn builtin() -> Result<ModelFiles> {
    Err(crate::error::Error::usage("this program was built without its built-in model")
        .hint("name a model with --model, or build with the cargo feature `builtin`"))
}
