//! `doctor`: what this program can do on this machine, and whether its numbers are right here.

use super::show::{self, Shape};
use super::{Command, Status};
use crate::app::App;
use crate::cross_check::{self, TOLERANCE, Verdict};
use crate::error::{Error, Result};
use crate::hub;
use crate::image::JPEG_EXACT;
use clap::Args;
use serde::Serialize;
use std::path::Path;

/// Say what this program can do on this machine, and check its numbers
#[derive(Args, Debug)]
#[command(after_help = "\
With --model, candle-transformers' own implementation reads the same weights and sees the same random inputs; if the
embeddings of the two differ by more than 1e-4, the exit code is 3. It knows CLIP with QuickGELU and SigLIP in the
transformers layout, and BERT text towers.

Examples:
  clip-cli doctor
  clip-cli doctor --model builtin
  clip-cli doctor --online --format jsonl")]
pub(super) struct Doctor {
    /// Compare the towers of this model with an independent implementation: an alias, org/name, a directory, builtin
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,

    /// The seed of the random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Also ask the Hub whether it can be reached
    #[arg(long)]
    online: bool,

    /// table or jsonl [default: a table on a terminal, else jsonl]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, hide_default_value = true)]
    format: Shape,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    platform: String,
    cpu: Option<String>,
    instruction_set: &'static str,
    threads: usize,
    device: String,
    devices: Vec<Compiled>,
    features: Vec<&'static str>,
    jpeg: &'static str,
    cache: Directory,
    hub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    builtin: Option<SelfCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cross_check: Option<CrossCheck>,
}

#[derive(Serialize)]
struct Compiled {
    device: &'static str,
    compiled_in: bool,
    available: bool,
}

#[derive(Serialize)]
struct Directory {
    path: String,
    exists: bool,
    writable: bool,
}

/// Whether the built-in model gives the embeddings that it gave where it was made.
#[derive(Serialize)]
struct SelfCheck {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    largest: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct CrossCheck {
    model: String,
    towers: Vec<Verdict>,
}

impl Command for Doctor {
    const NAME: &'static str = "doctor";

    fn run(self, app: &App) -> Result<Status> {
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            cpu: cpu_name(),
            instruction_set: crate::ops::instruction_set(true),
            threads: app.threads,
            device: format!("{:?}", app.device.location()),
            devices: devices(),
            features: features(),
            jpeg: if JPEG_EXACT { "exact" } else { "not exact" },
            cache: Directory::look(&hub::cache_directory()),
            hub: if self.online { ask_hub(app) } else { "not asked (--online asks)".to_owned() },
            builtin: check_builtin(),
            cross_check: self.model.as_deref().map(|model| self.cross_check(app, model)).transpose()?,
        };
        if self.format.is_table() {
            report.write_table()?
        } else {
            show::write_jsonl([&report])?
        }
        report.verdict()?;
        Ok(Status::Done)
    }
}

impl Doctor {
    fn cross_check(&self, app: &App, model: &str) -> Result<CrossCheck> {
        let towers = cross_check::run(&app.find_model(Some(model))?, self.seed).map_err(|e| e.at(model))?;
        Ok(CrossCheck { model: model.to_owned(), towers })
    }
}

impl Report {
    fn write_table(&self) -> Result<()> {
        let mut table = show::table(&[]);
        let mut row = |key: &str, value: String| {
            table.add_row([key.to_owned(), value]);
        };
        row("version", self.version.to_owned());
        row("platform", self.platform.clone());
        row("CPU", self.cpu.clone().unwrap_or_else(|| "unknown".to_owned()));
        row("instruction set", self.instruction_set.to_owned());
        row("threads", self.threads.to_string());
        for Compiled { device, compiled_in, available } in &self.devices {
            let state = match (compiled_in, available) {
                (true, true) => "available",
                (true, false) => "compiled in, but not there",
                (false, _) => "not compiled in",
            };
            row("device", format!("{device}: {state}"));
        }
        row("features", self.features.join(" "));
        row("JPEG", self.jpeg.to_owned());
        row("cache", self.cache.in_words());
        row("Hub", self.hub.clone());
        row("built-in model", self.builtin.as_ref().map_or("not compiled in".to_owned(), SelfCheck::in_words));
        for (check, verdict) in self.cross_check.iter().flat_map(|check| check.towers.iter().map(move |v| (check, v))) {
            row("cross-check", format!("{} {}: {}", check.model, verdict.tower, in_words(verdict)));
        }
        show::write_table(&table)
    }

    /// An error if numbers are wrong here.
    fn verdict(&self) -> Result<()> {
        if self.builtin.as_ref().is_some_and(|check| !check.ok) {
            return Err(Error::run("the built-in model does not give the embeddings that it should")
                .hint("the program or this machine is broken: please report the output of `clip-cli doctor`"));
        }
        let towers = self.cross_check.iter().flat_map(|check| &check.towers);
        match towers.into_iter().find(|verdict| !verdict.passed()) {
            Some(verdict) => Err(Error::run(format!("the {} tower disagrees: {}", verdict.tower, in_words(verdict)))
                .hint("please report the output of `clip-cli doctor` and the name of the model")),
            None => Ok(()),
        }
    }
}

fn in_words(verdict: &Verdict) -> String {
    match (verdict.against, verdict.largest, verdict.reason) {
        (Some(against), Some(largest), _) => {
            let word = if verdict.passed() { "equal" } else { "DIFFERENT" };
            let items = verdict.items;
            format!("{word}: at most {largest:.1e} from {against} on {items} random inputs (allowed: {TOLERANCE:.0e})")
        }
        (_, _, reason) => format!("no independent implementation: {}", reason.unwrap_or("none is known")),
    }
}

impl SelfCheck {
    fn in_words(&self) -> String {
        let name = self.model.as_deref().unwrap_or_default();
        match (self.ok, self.largest, &self.error) {
            (true, Some(largest), _) => format!("{name}: as expected, to {largest:.1e}"),
            (_, _, Some(error)) => format!("BROKEN: {error}"),
            (_, largest, None) => format!("{name}: NOT AS EXPECTED, off by {:.1e}", largest.unwrap_or(f32::NAN)),
        }
    }
}

impl Directory {
    fn look(path: &Path) -> Self {
        // The cache is made when it is first needed: what counts is the first directory above that exists.
        let existing = path.ancestors().find(|path| path.is_dir());
        let writable = existing.is_some_and(|directory| tempfile::tempfile_in(directory).is_ok());
        Self { path: path.display().to_string(), exists: path.is_dir(), writable }
    }

    fn in_words(&self) -> String {
        let state = match (self.exists, self.writable) {
            (true, true) => "writable",
            (true, false) => "read-only",
            (false, true) => "not there yet",
            (false, false) => "not there, and cannot be made",
        };
        format!("{} ({state})", self.path)
    }
}

#[cfg(feature = "builtin")]
fn check_builtin() -> Option<SelfCheck> {
    Some(match crate::builtin::self_check() {
        Ok((model, largest)) => {
            let ok = largest <= TOLERANCE;
            SelfCheck { ok, model: Some(model), largest: Some(largest), error: None }
        }
        Err(error) => SelfCheck { ok: false, model: None, largest: None, error: Some(error.to_string()) },
    })
}

#[cfg(not(feature = "builtin"))]
fn check_builtin() -> Option<SelfCheck> {
    None
}

#[cfg(feature = "hub")]
fn ask_hub(app: &App) -> String {
    if app.offline {
        return "not asked (--offline)".to_owned();
    }
    match hub::reach() {
        Ok(endpoint) => format!("reached at {endpoint}"),
        Err(error) => format!("not reached: {error}"),
    }
}

#[cfg(not(feature = "hub"))]
fn ask_hub(_: &App) -> String {
    "not compiled in".to_owned()
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn devices() -> Vec<Compiled> {
    vec![
        Compiled { device: "cpu", compiled_in: true, available: true },
        Compiled {
            device: "cuda",
            compiled_in: cfg!(feature = "cuda"),
            available: cfg!(feature = "cuda") && candle_core::Device::new_cuda(0).is_ok(),
        },
        Compiled {
            device: "metal",
            compiled_in: cfg!(feature = "metal"),
            available: cfg!(feature = "metal") && candle_core::Device::new_metal(0).is_ok(),
        },
    ]
}

fn features() -> Vec<&'static str> {
    let all = [
        ("hub", cfg!(feature = "hub")),
        ("builtin", cfg!(feature = "builtin")),
        ("libjpeg", cfg!(feature = "libjpeg")),
        ("jpeg-simd", cfg!(feature = "jpeg-simd")),
        ("mimalloc", cfg!(feature = "mimalloc")),
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("mkl", cfg!(feature = "mkl")),
    ];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}
