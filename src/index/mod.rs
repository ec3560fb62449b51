//! Search among embeddings that were made before: what is nearest to a query, and what is there twice.
//!
//! Files of embeddings are mapped, not read: a [`Collection`] is one long matrix, in which a *position* counts the rows
//! of all files in the order in which they were named. Formats that cannot be mapped are decoded once into a temporary
//! file without a name, which is. So memory is that of the answers and of the pages that the system keeps.
//!
//! [`search()`] and [`duplicates()`] compare every row. A score does not depend on threads, blocks or the other queries,
//! and equal scores are ordered by position: the same question gets the same answer.

#[cfg(feature = "ann")]
pub mod approximate;
mod collection;
mod duplicates;
mod ids;
mod kernel;
mod matrix;
pub mod read;
mod search;
mod spill;

pub use collection::{Collection, Found, Part};
pub use duplicates::{Duplicate, Repeated, duplicates};
pub use ids::{Id, Ids};
pub use kernel::{dots, squares};
pub use matrix::{Dtype, Matrix};
pub use search::{Hit, Metric, Question, Searched, search};
pub use spill::Spill;
