//! CLIP-family models on the command line.
#[cfg(feature = "builtin")]
pub mod builtin;
pub mod card;
pub mod cross_check;
pub mod error;
pub mod hub;
pub mod image;
pub mod model;
mod near;
pub mod ops;
pub mod text;
pub mod weights;
