//! Labels and scores of images, in every format of rows.

use super::rows::{Pages, delimited, number, percent, right, text};
use super::{ErrorLine, RowFormat, Target, write_line};
use crate::error::{Error, ItemError, Result};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// The columns of comma-separated values.
const COLUMNS: [&str; 5] = ["id", "rank", "label", "score", "error"];

/// An output of predictions.
#[derive(Debug)]
pub struct Predictions {
    target: Target,
    format: RowFormat,
    model: String,
    table: Pages,
}

/// The record of an image: `{"id", "predictions": [{"label", "score"}], "model"}`.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    predictions: Vec<Prediction<'a>>,
    model: &'a str,
}

#[derive(Serialize)]
struct Prediction<'a> {
    label: &'a str,
    score: f32,
}

impl Predictions {
    /// Starts an output; the format must be resolved.
    pub fn open(mut target: Target, format: RowFormat, model: String) -> Result<Self> {
        if matches!(format, RowFormat::Csv | RowFormat::Tsv) {
            let header = delimited(format.delimiter(), COLUMNS).map_err(Error::run)?;
            target.write_all(&header).map_err(|error| target.error(error))?;
        }
        Ok(Self { target, format, model, table: Pages::new(&["image", "label", "score"]) })
    }

    /// Writes the labels of one image, best first, or why there are none.
    pub fn write(&mut self, id: &str, result: Result<&[(&str, f32)], &ItemError>) -> Result<()> {
        match (self.format, result) {
            (RowFormat::Table, result) => self.row(id, result),
            (RowFormat::Csv | RowFormat::Tsv, result) => self.values(id, result),
            (_, Err(error)) => write_line(&mut self.target, &ErrorLine::new(id, error)),
            (_, Ok(labels)) => {
                let predictions = labels.iter().map(|&(label, score)| Prediction { label, score }).collect();
                write_line(&mut self.target, &Line { id, predictions, model: &self.model })
            }
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

    fn values(&mut self, id: &str, result: Result<&[(&str, f32)], &ItemError>) -> Result<()> {
        let mut bytes = Vec::new();
        let mut row = |values: [&str; 5]| -> Result<()> {
            bytes.extend(delimited(self.format.delimiter(), values).map_err(Error::run)?);
            Ok(())
        };
        match result {
            Err(error) => row([id, "", "", "", &error.message])?,
            // An image without labels is no image that was lost.
            Ok([]) => row([id, "", "", "", ""])?,
            Ok(labels) => {
                for (rank, (label, score)) in (1..).zip(labels) {
                    row([id, &rank.to_string(), label, &number(*score), ""])?;
                }
            }
        }
        self.target.write_all(&bytes).map_err(|error| self.target.error(error))
    }

    fn row(&mut self, id: &str, result: Result<&[(&str, f32)], &ItemError>) -> Result<()> {
        let lines = |line: &dyn Fn(&(&str, f32)) -> String, labels: &[(&str, f32)]| {
            labels.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        let cells = match result {
            Err(error) => vec![text(id), text(&format!("error: {error}")), right("")],
            Ok([]) => vec![text(id), text("–"), right("")],
            Ok(labels) => vec![
                text(id),
                text(&lines(&|(label, _)| (*label).to_owned(), labels)),
                right(lines(&|(_, score)| percent(f64::from(*score)), labels)),
            ],
        };
        self.table.add(&mut self.target, cells, result.is_ok_and(|labels| labels.len() > 1))
    }
}
