//! Embeddings of formats that cannot be mapped, decoded into temporary files that can.

use super::matrix::MAX_DIM;
use super::{Dtype, Ids, Matrix, Part};
use crate::data::Kind;
use crate::error::{Error, Result};
use half::f16;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A list of ids in the making, in a temporary file without a name.
#[derive(Debug)]
pub(super) struct IdList(BufWriter<File>);

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl IdList {
    /// An empty list.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(BufWriter::new(temporary()?)))
    }

    /// Adds the item of the next row.
    pub(super) fn push(&mut self, id: &str, kind: Kind, model: Option<&str>, text: Option<&str>) -> Result<()> {
        let line = Line { id, kind: kind.name(), model, text };
        serde_json::to_writer(&mut self.0, &line).map_err(|error| no_room(error.into()))?;
        self.0.write_all(b"\n").map_err(no_room)
    }

    /// The list.
    pub(super) fn finish(self) -> Result<Ids> {
        Ids::map(&self.0.into_inner().map_err(|error| no_room(error.into_error()))?)
    }
}

/// A matrix with its ids in the making.
#[derive(Debug)]
pub struct Spill {
    numbers: BufWriter<File>,
    ids: IdList,
    dtype: Dtype,
    dim: Option<usize>,
    rows: usize,
    bytes: Vec<u8>,
}

impl Spill {
    /// An empty matrix. What comes as 16-bit numbers may be kept so; all else is kept as f32.
    pub fn new(dtype: Dtype) -> Result<Self> {
        let dtype = if dtype == Dtype::F16 { Dtype::F16 } else { Dtype::F32 };
        let numbers = BufWriter::with_capacity(1 << 16, temporary()?);
        Ok(Self { numbers, ids: IdList::new()?, dtype, dim: None, rows: 0, bytes: Vec::new() })
    }

    /// Adds a row, if it is as long as the first one; else says why not.
    pub fn push(
        &mut self,
        id: &str,
        kind: Kind,
        model: Option<&str>,
        text: Option<&str>,
        embedding: &[f32],
    ) -> Result<Result<(), String>> {
        let dim = *self.dim.get_or_insert(embedding.len());
        if embedding.len() != dim || dim == 0 || dim > MAX_DIM {
            let expected = if dim == embedding.len() { format!("1 to {MAX_DIM}") } else { format!("{dim}") };
            return Ok(Err(format!("the embedding has {} numbers instead of {expected}", embedding.len())));
        }
        self.bytes.clear();
        match self.dtype {
            Dtype::F16 => self.bytes.extend(embedding.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            _ => self.bytes.extend(embedding.iter().flat_map(|x| x.to_le_bytes())),
        }
        self.numbers.write_all(&self.bytes).map_err(no_room)?;
        self.ids.push(id, kind, model, text)?;
        self.rows += 1;
        Ok(Ok(()))
    }

    /// The matrix and its ids, named after the file that they come from.
    pub fn finish(self, path: &Path) -> Result<Part> {
        let file = self.numbers.into_inner().map_err(|error| no_room(error.into_error()))?;
        let dim = self.dim.filter(|_| self.rows > 0).unwrap_or(1);
        Part::new(path, Matrix::map(&file, 0, self.rows, dim, self.dtype)?, self.ids.finish()?)
    }
}

fn temporary() -> Result<File> {
    tempfile::tempfile().map_err(no_room)
}

fn no_room(error: std::io::Error) -> Error {
    Error::run(error)
        .at("a temporary file for decoded embeddings")
        .hint("TMPDIR names another place; .npy and .safetensors files need none")
}
