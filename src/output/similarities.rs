//! Scores of pairs, as a matrix or one by one, in every format of rows.

use super::rows::{delimited, number, percent, right, table, text};
use super::{ErrorLine, RowFormat, Target, write_line};
use crate::error::{Error, ItemError, Result};
use comfy_table::Table;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// An output of similarities.
#[derive(Debug)]
pub struct Similarities {
    target: Target,
    format: RowFormat,
    model: String,
    /// Whether scores are shares of 1, which people read as percent.
    shares: bool,
    pairs: bool,
    table: Table,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    similarities: Vec<Similar<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    model: &'a str,
}

#[derive(Serialize)]
struct Similar<'a> {
    id: &'a str,
    score: f32,
}

#[derive(Serialize)]
struct Pair<'a> {
    id: &'a str,
    other: &'a str,
    score: f32,
    #[serde(skip_serializing_if = "str::is_empty")]
    model: &'a str,
}

impl Similarities {
    /// Starts an output; the format must be resolved.
    pub fn open(target: Target, format: RowFormat, model: String, shares: bool, pairs: bool) -> Self {
        Self { target, format, model, shares, pairs, table: table(&["", "", "score"]) }
    }

    /// Says what rows are compared with. Comes first where there are rows.
    pub fn header(&mut self, columns: &[&str]) -> Result<()> {
        self.table = table(&std::iter::once("").chain(columns.iter().copied()).collect::<Vec<_>>());
        self.values(std::iter::once("id").chain(columns.iter().copied()).chain(["error"]))
    }

    /// Writes the scores of one input with all columns, or why there are none.
    pub fn row(&mut self, id: &str, scores: Result<&[f32], &ItemError>, columns: &[&str]) -> Result<()> {
        match (self.format, scores) {
            (RowFormat::Table, Ok(scores)) => {
                let scores = scores.iter().map(|&score| right(self.shown(score)));
                let cells: Vec<_> = std::iter::once(text(id)).chain(scores).collect();
                self.table.add_row(cells);
                Ok(())
            }
            (RowFormat::Table, Err(error)) => {
                self.table.add_row([text(id), text(&format!("error: {error}"))]);
                Ok(())
            }
            (RowFormat::Csv | RowFormat::Tsv, Ok(scores)) => {
                let scores = scores.iter().map(|&score| number(score));
                self.values(std::iter::once(id.to_owned()).chain(scores).chain([String::new()]))
            }
            (RowFormat::Csv | RowFormat::Tsv, Err(error)) => {
                let none = columns.iter().map(|_| "");
                self.values(std::iter::once(id).chain(none).chain([error.message.as_str()]))
            }
            (_, Ok(scores)) => {
                let similarities = columns.iter().zip(scores).map(|(id, &score)| Similar { id, score }).collect();
                write_line(&mut self.target, &Row { id, similarities, model: &self.model })
            }
            (_, Err(error)) => write_line(&mut self.target, &ErrorLine::new(id, error)),
        }
    }

    /// Writes the score of one pair, or why there is none.
    pub fn pair(&mut self, id: &str, other: &str, score: Result<f32, &ItemError>) -> Result<()> {
        match (self.format, score) {
            (RowFormat::Table, score) => {
                let score =
                    score.map_or_else(|error| text(&format!("error: {error}")), |score| right(self.shown(score)));
                self.table.add_row([text(id), text(other), score]);
                Ok(())
            }
            (RowFormat::Csv | RowFormat::Tsv, score) => {
                if std::mem::take(&mut self.pairs) {
                    self.values(["id", "other", "score", "error"])?;
                }
                match score {
                    Ok(score) => self.values([id, other, &number(score), ""]),
                    Err(error) => self.values([id, other, "", &error.message]),
                }
            }
            (_, Ok(score)) => write_line(&mut self.target, &Pair { id, other, score, model: &self.model }),
            (_, Err(error)) => write_line(&mut self.target, &ErrorLine::new(id, error)),
        }
    }

    /// Completes the output; a file gets its name.
    pub fn finish(mut self) -> Result<()> {
        self.flush_table()?;
        self.target.commit()
    }

    /// The job ended early: what was written stays under a temporary name, which is returned.
    pub fn abandon(mut self) -> Option<PathBuf> {
        // The error that ends the job is the one to report.
        let _ = self.flush_table();
        self.target.keep()
    }

    fn shown(&self, score: f32) -> String {
        if self.shares { percent(f64::from(score)) } else { format!("{score:.4}") }
    }

    /// Writes a row of values, where the format has them.
    fn values<T: AsRef<[u8]>>(&mut self, values: impl IntoIterator<Item = T>) -> Result<()> {
        if !matches!(self.format, RowFormat::Csv | RowFormat::Tsv) {
            return Ok(());
        }
        let row = delimited(self.format.delimiter(), values).map_err(Error::run)?;
        self.target.write_all(&row).map_err(|error| self.target.error(error))
    }

    fn flush_table(&mut self) -> Result<()> {
        if self.format != RowFormat::Table {
            return Ok(());
        }
        writeln!(self.target, "{}", self.table).map_err(|error| self.target.error(error))
    }
}
