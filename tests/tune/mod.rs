//! Few-shot tuning.

mod adapters;
mod case;
mod data;
mod methods;
mod registry;
mod report;
mod runs;
mod splits;
