//! Where embeddings go: one file a format, one line in [`FORMATS`].
//!
//! Architecture invariant: an output is opened before the work begins, so that a bad path costs no time, and a file
//! gets its final name by a rename at the very end.

mod errors;
mod groups;
mod hits;
pub mod html;
mod json;
mod jsonl;
mod npy;
mod predictions;
pub mod rows;
mod safetensors;
mod similarities;
mod target;

pub use groups::{Group, Groups, Member};
pub use hits::{Hits, ListFormat, Row};
pub use json::{ErrorLine, write_line};
pub use predictions::Predictions;
pub use rows::RowFormat;
pub use similarities::Similarities;
pub use target::Target;

use crate::data::Embedded;
use crate::error::{Error, Result};
use half::f16;
use std::path::{Path, PathBuf};

/// All formats of embeddings; the first is the default.
pub static FORMATS: &[&dyn Format] = &[&jsonl::Jsonl, &npy::Npy, &safetensors::Safetensors];

/// A format of embeddings.
pub trait Format: Sync {
    /// Its name: what `--format` takes.
    fn name(&self) -> &'static str;

    /// The file names' ends that stand for it, without the dot.
    fn extensions(&self) -> &'static [&'static str];

    /// One line on what it holds.
    fn about(&self) -> &'static str;

    /// Whether the end must be able to change the start, which a pipe does not allow.
    fn needs_file(&self) -> bool;

    /// Starts an output.
    fn open(&self, target: Target, header: Header) -> Result<Box<dyn Sink>>;
}

/// Something that embeddings are written to.
pub trait Sink {
    /// Writes what became of one item.
    fn write(&mut self, item: &Embedded) -> Result<()>;

    /// Completes the output: files get their final names.
    fn finish(self: Box<Self>) -> Result<()>;

    /// The job ended early. What was written stays under a temporary name, which is returned, if there is any use in
    /// it.
    fn abandon(self: Box<Self>) -> Option<PathBuf>;
}

/// What is known before the first embedding.
#[derive(Clone, Debug)]
pub struct Header {
    /// The model's name and the start of its hash, `name@sha8`.
    pub model: String,
    /// The length of an embedding.
    pub dim: usize,
    /// The kind of numbers to write.
    pub dtype: OutputDtype,
    /// Whether the embeddings have unit length.
    pub normalized: bool,
}

/// The kind of numbers that an output holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputDtype {
    /// 32-bit floating point: nothing is lost.
    #[default]
    F32,
    /// 16-bit floating point: half the size, three decimal digits.
    F16,
}

impl OutputDtype {
    /// Appends numbers, little-endian.
    fn extend(self, bytes: &mut Vec<u8>, numbers: &[f32]) {
        match self {
            Self::F32 => bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes())),
            Self::F16 => bytes.extend(numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
        }
    }

    /// How many bytes a number takes.
    fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// The format that a command line means: the one that it names, else the one of the file name's end, else JSON Lines.
pub fn format(name: Option<&str>, output: &Path) -> Result<&'static dyn Format> {
    let names = || FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        let known = FORMATS.iter().find(|format| format.name() == name);
        return known.copied().ok_or_else(|| Error::usage(format!("--format takes one of {}", names())));
    }
    let Some(extension) = output.extension() else { return Ok(FORMATS[0]) };
    let of_extension = |format: &&&dyn Format| format.extensions().iter().any(|e| extension.eq_ignore_ascii_case(e));
    FORMATS.iter().find(of_extension).copied().ok_or_else(|| {
        Error::usage(format!("no format has the ending .{}", extension.to_string_lossy()))
            .at(output.display())
            .hint(format!("say which with --format {}", names().replace(", ", "|")))
    })
}

/// A file beside an output: `photos.npy` has `photos.ids.jsonl`.
fn beside(output: &Path, ending: &str) -> PathBuf {
    let mut name = output.file_stem().unwrap_or_default().to_owned();
    name.push(ending);
    output.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        for format in FORMATS {
            assert!(seen.insert(format.name()), "{}", format.name());
            assert!(!format.about().is_empty() && !format.extensions().is_empty());
        }
        let extensions: Vec<_> = FORMATS.iter().flat_map(|format| format.extensions()).collect();
        assert_eq!(extensions.iter().collect::<HashSet<_>>().len(), extensions.len());
    }

    #[test]
    fn formats_follow_names_and_endings() {
        let name = |format: Option<&str>, output: &str| {
            super::format(format, Path::new(output)).map(Format::name).map_err(|error| error.to_string())
        };
        assert_eq!(name(None, "-").unwrap(), "jsonl");
        assert_eq!(name(None, "photos").unwrap(), "jsonl");
        assert_eq!(name(None, "photos.NPY").unwrap(), "npy");
        assert_eq!(name(Some("npy"), "photos.jsonl").unwrap(), "npy");
        assert_eq!(name(None, "photos.parquet").unwrap_err(), "photos.parquet: no format has the ending .parquet");
        assert_eq!(beside(Path::new("a/photos.npy"), ".ids.jsonl"), Path::new("a/photos.ids.jsonl"));
    }
}
