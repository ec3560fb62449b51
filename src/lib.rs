//! CLIP-family models on the command line: the modules in reading order.
//!
//! ```text
//! argv ─► commands/x ─► App (device, threads, progress, interrupt)
//!
//! embed      inputs ─► decode + preprocess (N threads, bounded, in order) ─► batches ─► tower ─► sink
//! zeroshot   labels × templates ─► text tower ─► classifier (cached);  inputs ─► image tower ─► scores ─► sink
//! search     queries ─► towers (or records);  mapped embeddings ─► blocks × queries ─► top-k ─► rows, contact sheet
//! ```
//!
//! `ARCHITECTURE.md` says what each room is for and what must stay true.

// What users meet.
pub mod commands;

pub mod app;

pub mod error;

// From a model's name to its two towers.
pub mod hub;

pub mod card;

pub mod weights;

pub mod convert;

pub mod model;

pub mod ops;

#[cfg(feature = "builtin")]
pub mod builtin;

pub mod cross_check;

// From files to numbers, and back.
pub mod image;

pub mod text;

pub mod data;

pub mod output;

// What is done with embeddings.
pub mod classifier;

pub mod index;

pub mod eval;

pub mod train;

pub mod tune;

mod near;
