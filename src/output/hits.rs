//! What a search found, in every format of rows, and as a list of paths.

use super::rows::{Pages, delimited, number, right, text};
use super::{ErrorLine, RowFormat, Target, write_line};
use crate::error::{Error, ItemError, Result};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The columns of comma-separated values.
const COLUMNS: [&str; 8] = ["query", "rank", "id", "score", "kind", "file", "row", "error"];

/// How results are written that are items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// By the output's name; else a table on a terminal and JSON Lines anywhere else
    #[default]
    Auto,
    /// For people
    Table,
    /// One JSON record a line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
    /// Tab-separated values with a header
    Tsv,
    /// The ids alone, one a line, or with a NUL byte behind each
    Paths,
}

impl ListFormat {
    /// The format to write to this output; never [`ListFormat::Auto`].
    pub fn resolve(self, output: &Path) -> Self {
        match self {
            Self::Auto => match RowFormat::Auto.resolve(output) {
                RowFormat::Table => Self::Table,
                RowFormat::Csv => Self::Csv,
                RowFormat::Tsv => Self::Tsv,
                RowFormat::Jsonl | RowFormat::Auto => Self::Jsonl,
            },
            format => format,
        }
    }

    /// What stands between the values of a row, where the format has them.
    pub(super) fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            _ => None,
        }
    }
}

/// An output of what was found.
#[derive(Debug)]
pub struct Hits {
    target: Target,
    format: ListFormat,
    /// What comes behind a path.
    end: u8,
    table: Pages,
}

/// A row that was found: `{"query", "rank", "id", "score", "kind", "text", "file", "row", "model"}`.
#[derive(Clone, Debug, Serialize)]
pub struct Row<'a> {
    /// What was asked for.
    pub query: &'a str,
    /// 1 for the best.
    pub rank: usize,
    /// The item.
    pub id: &'a str,
    /// Its score.
    pub score: f32,
    /// `image` or `text`.
    pub kind: &'static str,
    /// Its text, where the id is not the text itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    /// The file that holds its embedding.
    pub file: &'a str,
    /// The row in that file.
    pub row: usize,
    /// The model that made the embeddings, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
}

impl Hits {
    /// Starts an output; the format must be resolved. `null` ends paths with a NUL byte.
    pub fn open(mut target: Target, format: ListFormat, null: bool) -> Result<Self> {
        if let Some(delimiter) = format.delimiter() {
            let header = delimited(delimiter, COLUMNS).map_err(Error::run)?;
            target.write_all(&header).map_err(|error| target.error(error))?;
        }
        Ok(Self {
            target,
            format,
            end: if null { 0 } else { b'\n' },
            table: Pages::new(&["query", "", "score", "found"]),
        })
    }

    /// Writes a row.
    pub fn write(&mut self, row: &Row<'_>) -> Result<()> {
        match self.format {
            ListFormat::Table => {
                let score = right(format!("{:.4}", row.score));
                let cells = vec![text(row.query), right(row.rank), score, text(row.id)];
                self.table.add(&mut self.target, cells, false)
            }
            ListFormat::Csv | ListFormat::Tsv => {
                let (rank, score, number) = (row.rank.to_string(), number(row.score), row.row.to_string());
                self.values([row.query, &rank, row.id, &score, row.kind, row.file, &number, ""])
            }
            ListFormat::Paths => path(&mut self.target, row.id, self.end),
            ListFormat::Jsonl | ListFormat::Auto => write_line(&mut self.target, row),
        }
    }

    /// Writes why a query has no rows.
    pub fn failed(&mut self, query: &str, error: &ItemError) -> Result<()> {
        match self.format {
            ListFormat::Table => {
                let cells = vec![text(query), text(""), text(""), text(&format!("error: {error}"))];
                self.table.add(&mut self.target, cells, false)
            }
            ListFormat::Csv | ListFormat::Tsv => self.values([query, "", "", "", "", "", "", &error.message]),
            ListFormat::Paths => Ok(()),
            ListFormat::Jsonl | ListFormat::Auto => write_line(&mut self.target, &ErrorLine::new(query, error)),
        }
    }

    /// Completes the output; a file gets its name.
    pub fn finish(mut self) -> Result<()> {
        self.table.flush(&mut self.target)?;
        self.target.commit()
    }

    /// The job ended early: what was written stays under a temporary name, which is returned.
    pub fn abandon(mut self) -> Option<PathBuf> {
        // The error that ends the job is the one to report.
        let _ = self.table.flush(&mut self.target);
        self.target.keep()
    }

    fn values(&mut self, values: [&str; 8]) -> Result<()> {
        let Some(delimiter) = self.format.delimiter() else { return Ok(()) };
        let row = delimited(delimiter, values).map_err(Error::run)?;
        self.target.write_all(&row).map_err(|error| self.target.error(error))
    }
}

/// Writes a path and what ends it.
pub(super) fn path(target: &mut Target, id: &str, end: u8) -> Result<()> {
    let line = [id.as_bytes(), &[end]].concat();
    target.write_all(&line).map_err(|error| target.error(error))
}
