//! CLIP-family models on the command line.
pub mod error;
pub mod image;
pub mod text;
