//! CLIP-family models on the command line.
pub mod app;
#[cfg(feature = "builtin")]
pub mod builtin;
pub mod card;
pub mod classifier;
pub mod commands;
pub mod cross_check;
pub mod data;
pub mod error;
pub mod eval;
pub mod hub;
pub mod image;
pub mod model;
mod near;
pub mod ops;
pub mod output;
pub mod text;
pub mod weights;
