//! Where embeddings go: one file a format, one line in [`FORMATS`].
//!
//! Architecture invariant: an output is opened before the work begins, so that a bad path costs no time, and a file
//! gets its final name by a rename at the very end. What a [`Sink`] writes is a function of the [`Header`] and of the
//! items in their order, whoever calls it in how many pieces: that is why a resumed run, and merged shards, have the
//! bytes of a single run.

#[cfg(feature = "parquet")]
mod clip_retrieval;
mod csv;
mod errors;
mod groups;
mod header;
mod hits;
pub mod html;
mod journal;
mod json;
mod jsonl;
mod npy;
#[cfg(feature = "parquet")]
mod parquet;
mod predictions;
mod projector;
pub mod rows;
mod safetensors;
mod similarities;
mod target;
pub mod tokens;
mod writer;

pub use groups::{Group, Groups, Member};
pub use header::{Counts, Header};
pub use hits::{Hits, ListFormat, Row};
pub use json::{ErrorLine, write_line};
pub use predictions::Predictions;
pub use rows::RowFormat;
pub use similarities::Similarities;
pub use target::Target;
pub use writer::{Destination, Writer};

use crate::data::{Embedded, Kind};
use crate::error::{Error, Result};
use half::f16;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// All formats of embeddings; the first is the default.
pub static FORMATS: &[&dyn Format] = &[
    &jsonl::Jsonl,
    &npy::Npy,
    &safetensors::Safetensors,
    #[cfg(feature = "parquet")]
    &parquet::Parquet,
    &csv::CSV,
    &csv::TSV,
    #[cfg(feature = "parquet")]
    &clip_retrieval::ClipRetrieval,
    &projector::Projector,
];

/// A format of embeddings.
pub trait Format: Sync {
    /// Its name: what `--format` takes.
    fn name(&self) -> &'static str;

    /// The file names' ends that stand for it, without the dot.
    fn extensions(&self) -> &'static [&'static str];

    /// One line on what it holds.
    fn about(&self) -> &'static str;

    /// What it must be written to.
    fn shape(&self) -> Shape;

    /// The kind of numbers that it holds if this one is asked for.
    fn dtype(&self, asked: OutputDtype) -> OutputDtype {
        asked
    }

    /// Starts an output, or goes on with one: `state` is what [`Sink::state`] said of the part of it that counts.
    fn open(&self, target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>>;

    /// Reads an output back.
    fn read(&self, path: &Path) -> Result<Stored> {
        let readable: Vec<_> =
            FORMATS.iter().filter(|format| format.reads_back()).map(|format| format.name()).collect();
        Err(Error::usage(format!("{} cannot be read back", self.name()))
            .at(path.display())
            .hint(format!("these formats can: {}", readable.join(", "))))
    }

    /// Whether [`Format::read`] can do it.
    fn reads_back(&self) -> bool {
        false
    }
}

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything that can be written to, from start to end: a file or a pipe.
    Stream,
    /// A regular file: the end changes the start, or there are files beside it.
    File,
    /// A folder of files.
    Folder,
}

/// Something that embeddings are written to.
pub trait Sink {
    /// Writes what became of one item.
    fn write(&mut self, item: &Embedded) -> Result<()>;

    /// Writes what another output of this format says of an item.
    fn copy(&mut self, stored: &StoredItem) -> Result<()> {
        self.write(&stored.item)
    }

    /// How much of which file counts so far: what [`Format::open`] needs to go on from here.
    fn state(&self) -> Value;

    /// Puts all that was written on the disk, where it stays if the sink is dropped.
    fn sync(&mut self) -> Result<()>;

    /// Completes the output: files get their final names.
    fn finish(self: Box<Self>, header: &Header, counts: Counts) -> Result<()>;

    /// The job ended early. What was written stays under a temporary name, which is returned if a reader of the format
    /// can use it as it is.
    fn abandon(self: Box<Self>) -> Option<PathBuf>;
}

/// An output that is read back, item by item.
pub struct Stored {
    /// How it was made.
    pub header: Header,
    /// How many items it has.
    pub counts: Counts,
    /// What it says of each, in order.
    pub items: Box<dyn Iterator<Item = Result<StoredItem>>>,
}

/// What an output says of one item.
#[derive(Clone, Debug)]
pub struct StoredItem {
    /// The item.
    pub item: Embedded,
    /// The bytes that said so, where copying them is exact and reading them back might not be.
    pub line: Option<Vec<u8>>,
}

/// A sink's own idea of its [state](Sink::state); nothing at all where there is none.
fn restore<T: DeserializeOwned + Default>(state: Option<Value>) -> Result<T> {
    let restored = state.map(serde_json::from_value).transpose();
    Ok(restored.map_err(|error| Error::run(format!("the journal cannot be used: {error}")))?.unwrap_or_default())
}

/// The kind of item that records call so.
fn kind(name: &str) -> Result<Kind, String> {
    [Kind::Image, Kind::Text]
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| format!("unknown kind {name:?}"))
}

/// A state for the journal.
fn state(state: &impl Serialize) -> Value {
    // Structs of numbers cannot fail.
    serde_json::to_value(state).unwrap_or_default()
}

/// The kind of numbers that an output holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

    /// A number after a way through this kind.
    fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
        }
    }

    /// The numbers in little-endian bytes.
    fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|&x| f16::from_le_bytes(x).to_f32()).collect(),
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
        let hint = if cfg!(not(feature = "parquet")) && extension.eq_ignore_ascii_case("parquet") {
            "this program was built without the cargo feature `parquet`".to_owned()
        } else {
            format!("say which with --format {}", names().replace(", ", "|"))
        };
        Error::usage(format!("no format has the ending .{}", extension.to_string_lossy()))
            .at(output.display())
            .hint(hint)
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
            assert!(!format.about().is_empty());
            assert_eq!(format.extensions().is_empty(), format.shape() == Shape::Folder, "{}", format.name());
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
        assert_eq!(name(None, "photos.xlsx").unwrap_err(), "photos.xlsx: no format has the ending .xlsx");
        assert_eq!(beside(Path::new("a/photos.npy"), ".ids.jsonl"), Path::new("a/photos.ids.jsonl"));
    }
}
