//! CLIP-family models on the command line.
pub mod app;
#[cfg(feature = "builtin")]
pub mod builtin;
pub mod commands;
pub mod data;
pub mod error;
pub mod image;
pub mod model;
pub mod ops;
pub mod output;
pub mod text;
pub mod weights;
pub mod classifier;
pub mod eval;
