//! Lines of JSON, and the record of a failed item.

use super::Target;
use crate::error::{Error, ItemError, Result};
use serde::Serialize;
use std::io::Write;

/// The record of an item that failed, in every JSON Lines output: `{"id", "error": {"kind", "message"}}`.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorLine<'a> {
    id: &'a str,
    error: ErrorBody<'a>,
}

#[derive(Clone, Debug, Serialize)]
struct ErrorBody<'a> {
    kind: &'static str,
    message: &'a str,
}

impl<'a> ErrorLine<'a> {
    /// The record of this item.
    pub fn new(id: &'a str, error: &'a ItemError) -> Self {
        Self { id, error: ErrorBody { kind: error.kind.name(), message: &error.message } }
    }
}

/// Writes a record and its newline in one piece, so that a reader of the pipe, or of what an interrupted job leaves,
/// sees whole lines.
pub fn write_line(target: &mut Target, record: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(record).map_err(Error::run)?;
    line.push(b'\n');
    target.write_all(&line).map_err(|error| target.error(error))
}
