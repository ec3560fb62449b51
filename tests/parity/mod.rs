//! The same numbers as the Python references, on the tiny checkpoints of `tests/golden`.

mod can_fail;
mod eval;
mod families;
mod golden;
mod negatives;
mod ops;
mod precision;
mod prompts;
mod readout;
mod text_towers;
mod towers;
mod training;

pub(crate) use golden::{Golden, checkpoints};
use golden::{embed, golden_directory, largest_difference, unit};
