//! What came of a run, as one HTML file: light and dark, without a network and without scripts.
//!
//! [`Report`] is plain data; whoever has less leaves parts of it empty, and the page has no such section then.

mod confusion;
mod gains;
mod mistakes;
mod page;
mod shots;
mod tables;

use crate::error::ItemError;
use crate::eval::{Interval, Paired};
use crate::train::data::Place;
use serde::Serialize;

/// Everything that a page shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The heading: the method and the data.
    pub title: String,
    /// A line below it: model, version, date.
    pub subtitle: String,
    /// The method and its settings, in this order.
    pub settings: Vec<(String, String)>,
    /// The split in words: [`crate::tune::data::Split::summary`].
    pub split: String,
    /// What people must know to read the figures: what was left out, what was chosen by what.
    pub notes: Vec<String>,
    /// The seeds: the columns of [`Report::scores`].
    pub seeds: Vec<u64>,
    /// How good each classifier is.
    pub scores: Vec<Score>,
    /// How much better the method is than others on the same images.
    pub comparisons: Vec<Comparison>,
    /// The recall of each class before and after.
    pub gains: Option<Gains>,
    /// What is taken for what.
    pub confusion: Option<Confusion>,
    /// What learnt prompts are near to: for each position its nearest words with their cosines, the nearest first.
    pub words: Vec<(String, Vec<(String, f64)>)>,
    /// Images that were answered wrongly; no more than [`Report::MISTAKES`] are shown.
    pub mistakes: Vec<Mistake>,
    /// Accuracy against shots.
    pub shots: Vec<Line>,
}

/// A row of the table of scores.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// The classifier.
    pub classifier: String,
    /// What it was judged on: `test`, `base`, `new`, another set.
    pub set: String,
    /// The metric's name, `acc1`.
    pub metric: String,
    /// A share of 1 for each seed, `None` where it was not measured; a single one where the seed makes no difference.
    pub values: Vec<Option<f64>>,
    /// Whether the row is about the method itself.
    pub own: bool,
}

/// The method beside another classifier.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The other classifier.
    pub with: String,
    /// What both were judged on.
    pub set: String,
    /// The seed, if it matters.
    pub seed: Option<u64>,
    /// The difference.
    pub paired: Paired,
}

/// Recall by class.
#[derive(Clone, Debug, Serialize)]
pub struct Gains {
    /// What the method is compared with.
    pub before: String,
    /// Classes that have test images: the name, how many, the recall before and after.
    pub classes: Vec<(String, u64, f64, f64)>,
}

/// What is taken for what.
#[derive(Clone, Debug, Serialize)]
pub struct Confusion {
    /// The names of the classes.
    pub classes: Vec<String>,
    /// How often each class (row) was answered with each (column), row by row: [`crate::eval::Tally::confusion`].
    pub counts: Vec<u64>,
}

/// An image with a wrong answer.
#[derive(Clone, Debug, Serialize)]
pub struct Mistake {
    /// Its id.
    pub id: String,
    /// Its class.
    pub truth: String,
    /// The answer.
    pub answer: String,
    /// The probability of the answer, and that of the truth.
    pub scores: Option<(f64, f64)>,
    /// A small picture: the bytes of a JPEG, PNG, GIF or WebP file of at most [`Report::PICTURE_BYTES`] ([`picture`]).
    #[serde(skip)]
    pub picture: Option<Vec<u8>>,
}

/// A method's accuracy against shots.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The method.
    pub name: String,
    /// Shots, accuracy as a share of 1, and its interval, if there is one. 0 shots stand for themselves.
    pub points: Vec<(u32, f64, Option<Interval>)>,
}

impl Report {
    /// How many mistakes are shown at most.
    pub const MISTAKES: usize = 24;
    /// The largest picture that is put into the page.
    pub const PICTURE_BYTES: usize = 256 << 10;
    /// The longer side of a picture made by [`picture`], in pixels.
    pub const PICTURE_SIDE: usize = 200;

    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        page::html(self)
    }
}

/// A small copy of an image as JPEG.
///
/// # Errors
/// If it cannot be read.
pub fn picture(place: &Place) -> Result<Vec<u8>, ItemError> {
    let bytes = place.read(crate::image::DecodeOptions::default().max_bytes)?;
    crate::output::html::jpeg(&bytes, Report::PICTURE_SIDE)
}

/// The drawing of accuracy against shots as a file of its own; empty without points.
#[must_use]
pub fn shots_svg(lines: &[Line]) -> String {
    shots::file(lines)
}
