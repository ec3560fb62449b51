//! NumPy's format: a matrix with one row an item that succeeded, and beside it which item each row is.

use super::errors::{self, ErrorLog, Place};
use super::{
    Counts, Format, Header, OutputDtype, Shape, Sink, Stored, StoredItem, Target, beside, restore, state, write_line,
};
use crate::data::{Embedded, Line, Lines, Separator};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// A matrix, `NAME.ids.jsonl` with one line a row, `NAME.errors.jsonl` if items failed, and `NAME.npy.meta.json`.
pub(super) struct Npy;

/// The length of the header: NumPy aligns the numbers to 64 bytes.
const HEADER: usize = 128;

/// A line of ids longer than this is refused.
const MAX_ID_BYTES: usize = 16 << 20;

impl Format for Npy {
    fn name(&self) -> &'static str {
        "npy"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["npy"]
    }

    fn about(&self) -> &'static str {
        "a NumPy matrix; NAME.ids.jsonl says which item each row is, NAME.errors.jsonl which items failed"
    }

    fn shape(&self) -> Shape {
        Shape::File
    }

    fn open(&self, target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        let state: State = restore(state)?;
        let ids = target.beside(".ids.jsonl", state.ids)?;
        let errors = ErrorLog::open(&target, Place::Beside, state.errors)?;
        let matrix = Matrix::open(target, header, state.rows)?;
        Ok(Box::new(Rows { matrix, ids, errors, model: header.model.clone(), items: state.items }))
    }

    fn read(&self, path: &Path) -> Result<Stored> {
        let (header, counts) = Header::read_beside(path)?;
        let matrix = read_matrix(path, &header, counts.items.saturating_sub(counts.failed))?;
        let ids = beside(path, ".ids.jsonl");
        let file = File::open(&ids).map_err(|error| Error::run(error).at(ids.display()))?;
        let lines = Lines::new(file, Separator::Newline, MAX_ID_BYTES);
        let items = Reader {
            matrix,
            dtype: header.dtype,
            row: vec![0; header.dim * header.dtype.size() as usize],
            lines,
            failed: errors::read_beside(path)?.peekable(),
            next: 0,
            items: counts.items,
            name: ids.display().to_string(),
        };
        Ok(Stored { header, counts, items: Box::new(items) })
    }

    fn reads_back(&self) -> bool {
        true
    }
}

/// A matrix that grows by rows.
pub(super) struct Matrix {
    target: Target,
    dtype: OutputDtype,
    dim: usize,
    rows: u64,
    bytes: Vec<u8>,
}

impl Matrix {
    /// A matrix of which so many rows are there.
    pub(super) fn open(mut target: Target, header: &Header, rows: u64) -> Result<Self> {
        let (dtype, dim) = (header.dtype, header.dim);
        let length = rows.checked_mul(dim as u64 * dtype.size()).and_then(|length| length.checked_add(HEADER as u64));
        if rows > 0 {
            target.cut(length.unwrap_or(u64::MAX))?;
        } else {
            target.cut(0)?;
            // Room for the header; the number of rows is known at the end.
            target.write_all(&[0; HEADER]).map_err(|error| target.error(error))?;
        }
        Ok(Self { target, dtype, dim, rows, bytes: Vec::new() })
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The file.
    pub(super) fn target(&mut self) -> &mut Target {
        &mut self.target
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: &[f32]) -> Result<()> {
        self.bytes.clear();
        self.dtype.extend(&mut self.bytes, row);
        self.target.write_all(&self.bytes).map_err(|error| self.target.error(error))?;
        self.rows += 1;
        Ok(())
    }

    /// The file, header and all.
    pub(super) fn close(self) -> Result<Target> {
        let shape = [self.rows, self.dim as u64];
        self.close_as(&shape)
    }

    /// The file, with a header that says another shape of as many numbers.
    pub(super) fn close_as(mut self, shape: &[u64]) -> Result<Target> {
        self.target.rewrite_start(&header(self.dtype, shape))?;
        Ok(self.target)
    }
}

struct Rows {
    matrix: Matrix,
    ids: Target,
    errors: ErrorLog,
    model: String,
    items: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    items: u64,
    rows: u64,
    ids: u64,
    errors: u64,
}

/// Which item a row is.
#[derive(Serialize, Deserialize)]
pub(super) struct Id<'a> {
    id: Cow<'a, str>,
    kind: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    model: Cow<'a, str>,
}

impl<'a> Id<'a> {
    /// The line of this item.
    pub(super) fn of(item: &'a Embedded, model: &'a str) -> Self {
        let (id, kind) = (item.id.as_str().into(), item.kind.name().into());
        Self { id, kind, text: item.text.as_deref().map(Cow::from), model: model.into() }
    }
}

impl Sink for Rows {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        match &item.result {
            Err(error) => self.errors.write(&self.matrix.target, self.items, item, error)?,
            Ok(embedding) => {
                self.matrix.push(embedding)?;
                write_line(&mut self.ids, &Id::of(item, &self.model))?;
            }
        }
        self.items += 1;
        Ok(())
    }

    fn state(&self) -> Value {
        let (ids, errors) = (self.ids.length(), self.errors.length());
        state(&State { items: self.items, rows: self.matrix.rows, ids, errors })
    }

    fn sync(&mut self) -> Result<()> {
        for target in [&mut self.matrix.target, &mut self.ids] {
            target.sync()?;
        }
        self.errors.sync()
    }

    fn finish(self: Box<Self>, header: &Header, counts: Counts) -> Result<()> {
        let matrix = self.matrix.close()?;
        // The matrix comes last: where it is, the other files are.
        self.ids.commit()?;
        self.errors.finish()?;
        if let Some(path) = matrix.path() {
            header.write_beside(path, counts)?;
        }
        matrix.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        if self.items == 0 {
            return None;
        }
        let matrix = self.matrix.close().ok()?;
        self.ids.keep();
        self.errors.keep();
        matrix.keep()
    }
}

/// The header of an array of at least two dimensions, version 1.0 of the format.
fn header(dtype: OutputDtype, shape: &[u64]) -> Vec<u8> {
    let kind = match dtype {
        OutputDtype::F32 => "<f4",
        OutputDtype::F16 => "<f2",
    };
    let shape = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let about = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((HEADER as u16 - 10).to_le_bytes());
    header.extend(about.as_bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

/// The numbers of a matrix that we wrote ourselves, which has so many rows.
fn read_matrix(path: &Path, about: &Header, rows: u64) -> Result<BufReader<File>> {
    let at = |error: std::io::Error| Error::run(error).at(path.display());
    let mut matrix = BufReader::with_capacity(1 << 16, File::open(path).map_err(at)?);
    let mut found = [0; HEADER];
    matrix.read_exact(&mut found).map_err(at)?;
    if found[..] != header(about.dtype, &[rows, about.dim as u64]) {
        return Err(Error::run("not the matrix that its .meta.json speaks of").at(path.display()));
    }
    Ok(matrix)
}

/// Rows and failed items in the order of the items.
struct Reader {
    matrix: BufReader<File>,
    dtype: OutputDtype,
    row: Vec<u8>,
    lines: Lines,
    failed: std::iter::Peekable<errors::FailedItems>,
    next: u64,
    items: u64,
    name: String,
}

impl Reader {
    fn row(&mut self) -> Result<Embedded> {
        let at = |error: &dyn std::fmt::Display| Error::run(error).at(&self.name);
        let line = match self.lines.next() {
            Some(Ok(Line::Whole(line))) => line,
            Some(Err(error)) => return Err(at(&error)),
            Some(Ok(Line::TooLong(_))) => return Err(at(&"an id is too long")),
            None => return Err(at(&"fewer lines than the matrix has rows")),
        };
        let Id { id, kind, text, .. } = serde_json::from_slice(&line).map_err(|error| at(&error))?;
        self.matrix.read_exact(&mut self.row).map_err(|error| at(&error))?;
        Ok(Embedded {
            id: id.into_owned(),
            kind: super::kind(&kind).map_err(|error| at(&error))?,
            text: text.map(Cow::into_owned),
            result: Ok(self.dtype.read(&self.row)),
        })
    }
}

impl Iterator for Reader {
    type Item = Result<StoredItem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.items {
            return None;
        }
        let failed = self.failed.next_if(|failed| !matches!(failed, Ok((place, _)) if *place != self.next));
        let item = match failed {
            Some(failed) => failed.map(|(_, item)| item),
            None => self.row(),
        };
        self.next = if item.is_ok() { self.next + 1 } else { self.items };
        Some(item.map(|item| StoredItem { item, line: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let header = header(OutputDtype::F16, &[u64::MAX, 65_536]);
        assert_eq!(header.len(), HEADER);
        let text = String::from_utf8_lossy(&header[10..]);
        assert_eq!(
            text.trim_end(),
            "{'descr': '<f2', 'fortran_order': False, 'shape': (18446744073709551615, 65536), }"
        );
    }
}
