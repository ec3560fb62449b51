//! Training: what `finetune` does.
//!
//! ```text
//! data ─► batch ─► pass 1: embed ─► objective ─► pass 2: backward ─► optimizer ─► run directory
//! ```

mod assemble;
pub mod compose;
pub mod config;
pub mod data;
pub mod ema;
pub mod embed;
mod features;
mod fits;
pub mod group;
pub mod init;
pub mod input_size;
pub mod interpolate;
pub mod log;
pub mod lora;
pub mod negatives;
pub mod objective;
pub mod optim;
mod parts;
pub mod peft;
pub(crate) mod random;
pub mod run;
pub mod run_dir;
pub mod save;
pub mod schedule;
pub mod select;
mod step;
mod towers;
pub mod validate;

pub use features::Features;
pub use fits::Fits;
pub use parts::Parts;
pub use step::{Batch, Gradients, Step, Stepper, objective_param};
