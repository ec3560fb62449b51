//! CLIP-family models on the command line.
#[cfg(feature = "builtin")]
pub mod builtin;
pub mod error;
pub mod image;
pub mod model;
pub mod ops;
pub mod text;
pub mod weights;
pub mod classifier;
pub mod eval;
