//! Text: canonical forms, tokenizers, templates, labels.

pub mod clean;
pub mod describe;
pub mod edit;
pub mod ftfy;
pub mod html;
pub mod labels;
mod pipelines;
pub mod sentencepiece;
pub mod spec;
pub mod tag;
pub mod templates;
pub mod tokenizer;
mod words;

pub use clean::Clean;
pub use edit::Editor;
pub use labels::Labels;
pub use spec::{Batch, Frame, Pad, TextSpec};
pub use templates::TemplateSet;
pub use tokenizer::Tokenizer;
