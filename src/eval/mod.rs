//! How good a model is: metrics with their uncertainty, and the reports about them.
//!
//! The functions take plain rows of numbers, so what a command reports a trainer can watch.

pub mod bootstrap;
pub mod choice;
pub mod eigen;
pub mod findings;
pub mod geometry;
pub mod interval;
pub mod knn;
pub mod lbfgs;
pub mod metrics;
mod pair_sums;
pub mod paired;
pub mod probe;
pub mod report;
pub mod retention;
pub mod retrieval;

pub use choice::{Accuracy, Choices};
pub use findings::{Findings, Metric};
pub use geometry::{Geometry, Pairs, geometry};
pub use interval::Interval;
pub use knn::knn;
pub use metrics::{ClassMetrics, Metrics, Tally, answers};
pub use paired::{Paired, Spread, harmonic_mean, paired};
pub use probe::{Probe, Sample};
pub use report::{Report, Subject};
pub use retention::{Retention, Side, retention};
pub use retrieval::{Retrieval, retrieval};
