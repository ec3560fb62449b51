//! Few-shot tuning: what `tune` does.
//!
//! ```text
//! classes ─► task ─► method ◄─ images, embedded once where their tower is frozen
//!                      │
//!                      └─► loss ─► gradients ─► optimizer ─► run directory (a model)
//! ```

pub mod context;
pub mod loss;
pub mod method;
pub mod photos;
pub mod run;
pub mod saved;
pub mod task;

pub use method::{Entry, METHODS, Method};
pub use saved::Saved;
pub use task::Task;
