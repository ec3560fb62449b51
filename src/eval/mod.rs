//! How good a classifier is: metrics with their uncertainty, and the report about them.

pub mod interval;
pub mod metrics;
pub mod report;

pub use interval::Interval;
pub use metrics::{ClassMetrics, Metrics, Tally};
pub use report::{Report, Subject};
