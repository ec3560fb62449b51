//! Few-shot tuning.

mod adapters;
mod case;
mod methods;
mod registry;
mod runs;
