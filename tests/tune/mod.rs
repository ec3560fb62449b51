//! Few-shot tuning.

mod data;
mod report;
mod splits;
