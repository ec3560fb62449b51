//! The arguments that commands share.

use super::{DeviceChoice, Precision, Verbosity};
use clap::{ArgAction, Args};
use std::num::NonZeroUsize;

/// The arguments of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Where to compute.
    #[arg(
        long,
        global = true,
        value_name = "DEVICE",
        default_value = "auto",
        help = "Where to compute: auto, cpu, cuda[:N] or metal"
    )]
    pub device: DeviceChoice,

    /// The numbers to compute with: auto, f32, int8 (faster, on the CPU), f16 or bf16 (on GPUs)
    #[arg(long, global = true, value_name = "HOW", default_value = "auto", alias = "dtype")]
    pub precision: Precision,

    /// How many threads compute [default: the processors that this process may use]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Never use the network
    #[arg(long, global = true)]
    pub offline: bool,

    /// Say nothing but errors
    #[arg(long, short, global = true, overrides_with = "verbose")]
    pub quiet: bool,

    /// Say more: what was chosen, which items failed; twice for the libraries' logs
    #[arg(long, short, global = true, action = ArgAction::Count, overrides_with = "quiet")]
    pub verbose: u8,
}

impl GlobalArgs {
    /// How much is said on standard error.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, 0) => Verbosity::Normal,
            (_, 1) => Verbosity::Verbose,
            _ => Verbosity::Debug,
        }
    }
}

/// Which model to use.
#[derive(Args, Clone, Debug, Default)]
pub struct ModelArgs {
    /// The model: a directory, a .safetensors file with its configuration beside it, an alias, or org/name
    /// [default: the built-in model]
    #[arg(long, short, value_name = "MODEL")]
    pub model: Option<String>,

    /// Give the image tower inputs of N×N pixels; positions are interpolated
    #[arg(long, value_name = "N")]
    pub image_size: Option<usize>,
}
