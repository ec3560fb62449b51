//! NumPy's format: a matrix with one row an item that succeeded, and beside it which item each row is.

use super::errors::ErrorLog;
use super::{Format, Header, OutputDtype, Sink, Target, beside, write_line};
use crate::data::Embedded;
use crate::error::{Error, Result};
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// A matrix, `NAME.ids.jsonl` with one line a row, and `NAME.errors.jsonl` if items failed.
pub(super) struct Npy;

/// The length of the header: NumPy aligns the numbers to 64 bytes.
const HEADER: usize = 128;

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

    fn needs_file(&self) -> bool {
        true
    }

    fn open(&self, target: Target, header: Header) -> Result<Box<dyn Sink>> {
        let path = target.path().ok_or_else(|| Error::usage("npy needs a regular file"))?;
        let (ids, errors) = (Target::open(&beside(path, ".ids.jsonl"))?, ErrorLog::beside(path));
        let mut matrix = Matrix { target: BufWriter::new(target), ids, errors, header, rows: 0, bytes: Vec::new() };
        // Room for the header; the number of rows is known at the end.
        matrix.write_bytes(&[0; HEADER])?;
        Ok(Box::new(matrix))
    }
}

struct Matrix {
    target: BufWriter<Target>,
    ids: Target,
    errors: ErrorLog,
    header: Header,
    rows: u64,
    bytes: Vec<u8>,
}

#[derive(Serialize)]
struct Id<'a> {
    id: &'a str,
    kind: &'static str,
    model: &'a str,
}

impl Matrix {
    fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.target.write_all(bytes).map_err(|error| self.target.get_ref().error(error))
    }

    /// Everything written, header and all.
    fn close(self) -> Result<(Target, Target, ErrorLog)> {
        let mut target = self.target.into_inner().map_err(|error| {
            let (error, writer) = error.into_parts();
            writer.get_ref().error(error)
        })?;
        target.rewrite_start(&header(self.header.dtype, self.rows, self.header.dim))?;
        Ok((target, self.ids, self.errors))
    }
}

impl Sink for Matrix {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        let embedding = match &item.result {
            Ok(embedding) => embedding,
            Err(error) => return self.errors.write(&item.id, error),
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.header.dtype.extend(&mut bytes, embedding);
        self.write_bytes(&bytes)?;
        self.bytes = bytes;
        self.rows += 1;
        write_line(&mut self.ids, &Id { id: &item.id, kind: item.kind.name(), model: &self.header.model })
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let (target, ids, errors) = self.close()?;
        // The matrix comes last: where it is, the other files are.
        ids.commit()?;
        errors.finish()?;
        target.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        if self.rows == 0 {
            return None;
        }
        let (target, ids, errors) = self.close().ok()?;
        ids.keep();
        errors.keep();
        target.keep()
    }
}

/// The header of a matrix, version 1.0 of the format.
fn header(dtype: OutputDtype, rows: u64, dim: usize) -> Vec<u8> {
    let kind = match dtype {
        OutputDtype::F32 => "<f4",
        OutputDtype::F16 => "<f2",
    };
    let about = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((HEADER as u16 - 10).to_le_bytes());
    header.extend(about.as_bytes());
    header.resize(HEADER - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let header = header(OutputDtype::F16, u64::MAX, 65_536);
        assert_eq!(header.len(), HEADER);
        let text = String::from_utf8_lossy(&header[10..]);
        assert_eq!(
            text.trim_end(),
            "{'descr': '<f2', 'fortran_order': False, 'shape': (18446744073709551615, 65536), }"
        );
    }
}
