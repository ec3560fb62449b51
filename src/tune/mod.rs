//! Few-shot tuning: what is learnt from a few images of each class.

pub mod data;
pub mod report;
