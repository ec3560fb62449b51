//! What few-shot tuning learns from and is judged by.
//!
//! ```text
//! folder, table, archive, CoOp's split_*.json ─► Set::open ─► Protocol::split (shots, seed, base or new) ─► Split
//! Set::tested ─► Test::new (the classes of the training set) ─► images to be right about
//! ```
//!
//! A split follows from the images' ids, the seed and the names of the classes alone: not from the order in which images
//! are read, nor from threads, nor from other classes. Images are never held in memory; an [`Image`] says where it lies.

mod coop;
mod gather;
mod look;
mod names;
mod photos;
mod protocol;
mod saved;
mod set;
mod split;
mod test;

pub use look::{Seen, decoded, read, usable};
pub use names::check_names;
pub use photos::photos;
pub use protocol::{Protocol, Shots, Subset};
pub use set::{Image, LeftOut, Part, Set};
pub use split::Split;
pub use test::Test;
