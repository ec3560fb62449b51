//! What is there twice, in every format of rows, and as a list of paths.

use super::hits::{ListFormat, path};
use super::rows::{Pages, delimited, number, right, text};
use super::{Target, write_line};
use crate::error::{Error, Result};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// An output of groups.
#[derive(Debug)]
pub struct Groups {
    target: Target,
    format: ListFormat,
    /// What comes behind a path.
    end: u8,
    table: Pages,
}

/// One item, and those that are nearly the same: `{"keep", "duplicates": [{"id", "score"}], "model"}`.
#[derive(Clone, Debug, Serialize)]
pub struct Group<'a> {
    /// The one to keep.
    pub keep: &'a str,
    /// The others.
    pub duplicates: Vec<Member<'a>>,
    /// The model that made the embeddings, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
}

/// An item that is nearly the same as another one.
#[derive(Clone, Debug, Serialize)]
pub struct Member<'a> {
    /// The item.
    pub id: &'a str,
    /// The cosine with the one to keep.
    pub score: f32,
}

impl Groups {
    /// Starts an output; the format must be resolved. `null` ends paths with a NUL byte.
    pub fn open(mut target: Target, format: ListFormat, null: bool) -> Result<Self> {
        if let Some(delimiter) = format.delimiter() {
            let header = delimited(delimiter, ["keep", "id", "score"]).map_err(Error::run)?;
            target.write_all(&header).map_err(|error| target.error(error))?;
        }
        Ok(Self {
            target,
            format,
            end: if null { 0 } else { b'\n' },
            table: Pages::new(&["keep", "duplicates", "score"]),
        })
    }

    /// Writes a group. As paths, those of the duplicates alone are written.
    pub fn write(&mut self, group: &Group<'_>) -> Result<()> {
        match self.format {
            ListFormat::Table => self.row(group),
            ListFormat::Csv | ListFormat::Tsv => {
                let delimiter = self.format.delimiter().unwrap_or(b',');
                for Member { id, score } in &group.duplicates {
                    let row = delimited(delimiter, [group.keep, id, &number(*score)]).map_err(Error::run)?;
                    self.target.write_all(&row).map_err(|error| self.target.error(error))?;
                }
                Ok(())
            }
            ListFormat::Paths => {
                group.duplicates.iter().try_for_each(|member| path(&mut self.target, member.id, self.end))
            }
            ListFormat::Jsonl | ListFormat::Auto => write_line(&mut self.target, group),
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

    fn row(&mut self, group: &Group<'_>) -> Result<()> {
        let lines =
            |line: &dyn Fn(&Member<'_>) -> String| group.duplicates.iter().map(line).collect::<Vec<_>>().join("\n");
        let ids = lines(&|member| member.id.replace('\n', " "));
        let cells = vec![text(group.keep), text(&ids), right(lines(&|member| format!("{:.4}", member.score)))];
        self.table.add(&mut self.target, cells, group.duplicates.len() > 1)
    }
}
