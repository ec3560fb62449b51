//! What models are trained on: images with captions, and what else is known about each of them.
//!
//! ```text
//! Options ─► Corpus::open (all that crate::data reads; every image is looked at once) ─► rows
//! rows ─► hold_out ─► Sampler ─► Epoch (a seeded order of row and caption) ─► Loader (decode, augment) ─► Batch
//! ```
//!
//! Captions are in memory, images never: a row says where its image is ([`Place`]). What a batch holds follows from the
//! data, the seed, the epoch and the batch's number alone, so a run may go on anywhere.

mod check;
mod classes;
mod corpus;
mod epoch;
mod item;
mod lists;
mod loader;
mod mixture;
mod place;
mod read;
mod resolve;
mod same;
mod split;

pub use check::Check;
pub use corpus::{Corpus, Watch};
pub use epoch::{Captions, Epoch, Pair, Sampler};
pub use loader::{Batch, Failure, Loader, LoaderOptions, NegativeImage, Transform};
pub use mixture::Part;
pub use place::Place;
pub(crate) use place::Spill;
pub use same::{Duplicates, Keys, alone, same};
pub use split::Split;

use crate::data::{ClassNames, Source, SourceOptions};
use crate::error::ItemError;
use crate::image::DecodeOptions;
use crate::text::TemplateSet;
use std::fmt;
use std::sync::Arc;

/// The columns, and fields of archives' JSON members, with a group, unless the user names one.
pub const GROUP_KEYS: &[&str] = &["group", "group_id"];
/// Those with texts that the image does not show. NegCLIP's files have `neg_caption`.
pub const NEG_CAPTION_KEYS: &[&str] = &["neg_caption", "neg_captions", "negative_caption", "negative_captions"];
/// Those with images that the caption does not describe: paths, or numbers of rows as in NegCLIP's `neg_image`.
pub const NEG_IMAGE_KEYS: &[&str] = &["neg_image", "neg_images", "negative_image", "negative_images"];
/// Those with a weight.
pub const WEIGHT_KEYS: &[&str] = &["weight", "sample_weight"];

/// Where training data is, and how it is read.
#[derive(Clone, Default)]
pub struct Options {
    /// What is mixed: see [`Part::parse`].
    pub parts: Vec<Part>,
    /// The format of all files, where their names do not say.
    pub format: Option<&'static dyn Source>,
    /// How tables and archives are read. Every column that `caption_key` names and that is there gives captions.
    pub source: SourceOptions,
    /// The column with the group; empty for the usual names. So for the three below.
    pub group_key: Vec<String>,
    /// The column with negative captions.
    pub neg_caption_key: Vec<String>,
    /// The column with negative images.
    pub neg_image_key: Vec<String>,
    /// The column with the weight.
    pub weight_key: Vec<String>,
    /// What class folders and labels stand for, if not for themselves.
    pub names: Option<ClassNames>,
    /// Makes captions of classes, where there are no captions; if none, the 80 templates of CLIP's paper.
    pub templates: Option<TemplateSet>,
    /// How images are decoded.
    pub decode: DecodeOptions,
    /// How closely each image is looked at beforehand.
    pub check: Check,
    /// How many threads look at images, if the user says so.
    pub workers: Option<usize>,
    /// Whether a row that cannot be used is an error.
    pub strict: bool,
    /// Told how many images of how many were looked at. Its error ends the work.
    pub watch: Option<Watch>,
}

/// A row: an image with all that is known about it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where the image is.
    pub image: Place,
    /// Equal for equal images: of the content, or of the place where images were not looked at ([`Check::Off`]).
    pub image_id: u64,
    /// The captions, at least one. The rows of a class share those that templates made.
    pub captions: Arc<[String]>,
    /// The class, among [`Corpus::labels`].
    pub label: Option<u32>,
    /// Rows of one group are never each other's negatives.
    pub group: Option<u32>,
    /// Texts that do not describe the image.
    pub neg_captions: Vec<String>,
    /// Images that the captions do not describe.
    pub neg_images: Vec<Negative>,
    /// How much it counts; 1 where nothing is said.
    pub weight: f32,
    /// Which part of the mixture it comes from.
    pub part: u16,
    /// Where it was read, for messages.
    pub at: Origin,
}

/// An image that is a negative.
#[derive(Clone, Debug)]
pub struct Negative {
    /// Where it is.
    pub image: Place,
    /// The first row with this image, if it is one of the data: it has captions of its own.
    pub row: Option<u32>,
}

/// Where something was read: `captions.tsv:12` (a line, from 1), `x.parquet#12` (a row, from 0), `x.tar#key`, or a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file with the row.
    pub file: Arc<str>,
    /// The part of it.
    pub part: Within,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Within {
    /// The whole.
    All,
    /// The line that begins the row, from 1, in a text file.
    Line(u64),
    /// The row, from 0.
    Row(u64),
    /// A member's name.
    Member(Box<str>),
}

/// What could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it was read.
    pub at: Origin,
    /// Why it could not be used.
    pub reason: ItemError,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.part {
            Within::All => write!(f, "{file}"),
            Within::Line(line) => write!(f, "{file}:{line}"),
            Within::Row(row) => write!(f, "{file}#{row}"),
            Within::Member(name) => write!(f, "{file}#{name}"),
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("parts", &self.parts).field("source", &self.source).finish_non_exhaustive()
    }
}
