//! Rows of numbers in a mapped file.

use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;

/// No embedding is longer: the limit keeps a header that lies from asking for memory.
pub(super) const MAX_DIM: usize = 1 << 16;

/// The kind of numbers in a matrix, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 16-bit floating point.
    F16,
    /// 32-bit floating point.
    F32,
    /// 64-bit floating point, read as 32-bit.
    F64,
}

impl Dtype {
    /// How many bytes a number takes.
    pub fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// A matrix of embeddings, one a row, in a file.
#[derive(Debug)]
pub struct Matrix {
    /// `None` for a matrix without rows: nothing cannot be mapped.
    map: Option<Mmap>,
    start: usize,
    rows: usize,
    dim: usize,
    dtype: Dtype,
}

impl Matrix {
    /// Maps the `rows` × `dim` numbers that begin at byte `start` of a file.
    ///
    /// # Errors
    /// If the file is shorter than that, or the numbers of a row are none or too many.
    pub fn map(file: &File, start: usize, rows: usize, dim: usize, dtype: Dtype) -> Result<Self> {
        if dim == 0 || dim > MAX_DIM {
            return Err(Error::run(format!("embeddings of {dim} numbers; 1 to {MAX_DIM} can be read")));
        }
        let bytes = file.metadata()?.len();
        let row = dim * dtype.size();
        let there = (bytes as usize).saturating_sub(start) / row;
        if rows > there {
            let message = format!("the header promises {rows} rows of {dim} numbers, the file holds {there}");
            return Err(Error::run(message).hint("the file was cut short: write or copy it again"));
        }
        // SAFETY: the usual bargain of mapped files: whoever truncates one while it is searched gets a crash.
        let map = if rows > 0 { Some(unsafe { Mmap::map(file) }?) } else { None };
        Ok(Self { map, start, rows, dim, dtype })
    }

    /// How many embeddings there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The length of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The kind of numbers.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Some rows as f32, one behind the other: those of the file itself where it has them so, else converted into
    /// `buffer`.
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn read<'a>(&'a self, rows: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let bytes = self.bytes(rows);
        if let Some(numbers) = in_place(bytes, self.dtype) {
            return numbers;
        }
        buffer.clear();
        convert(bytes, self.dtype, buffer);
        buffer
    }

    /// Appends one row as f32.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn append(&self, row: usize, out: &mut Vec<f32>) {
        convert(self.bytes(row..row + 1), self.dtype, out);
    }

    fn bytes(&self, rows: Range<usize>) -> &[u8] {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "no rows {rows:?} of {}", self.rows);
        let row = self.dim * self.dtype.size();
        match &self.map {
            Some(map) => &map[self.start + rows.start * row..self.start + rows.end * row],
            None => &[],
        }
    }
}

/// The bytes as the numbers that they are, if this machine can take them so.
fn in_place(bytes: &[u8], dtype: Dtype) -> Option<&[f32]> {
    if dtype != Dtype::F32 || cfg!(target_endian = "big") {
        return None;
    }
    // SAFETY: every four bytes are an f32; `align_to` leaves aside what is not aligned.
    let (before, numbers, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(numbers)
}

fn convert(bytes: &[u8], dtype: Dtype, out: &mut Vec<f32>) {
    match dtype {
        Dtype::F32 => out.extend(bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x))),
        Dtype::F64 => out.extend(bytes.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x) as f32)),
        Dtype::F16 => {
            // In pieces, which the processor's own instruction converts where it has one.
            let mut piece = [f16::ZERO; 512];
            for bytes in bytes.chunks(2 * piece.len()) {
                let halves = bytes.as_chunks().0;
                for (half, &x) in piece.iter_mut().zip(halves) {
                    *half = f16::from_le_bytes(x);
                }
                let start = out.len();
                out.resize(start + halves.len(), 0.0);
                piece[..halves.len()].convert_to_f32_slice(&mut out[start..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn all_kinds_of_numbers_at_any_place() {
        let numbers = [0.5f32, -1.0, 65504.0, 6.1e-5, 0.0, 3.25];
        let bytes = |dtype| -> Vec<u8> {
            let one = |x: f32| match dtype {
                Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
                Dtype::F32 => x.to_le_bytes().to_vec(),
                Dtype::F64 => f64::from(x).to_le_bytes().to_vec(),
            };
            numbers.iter().flat_map(|&x| one(x)).collect()
        };
        for dtype in [Dtype::F16, Dtype::F32, Dtype::F64] {
            for start in [0, 1, 4, 7] {
                let file = file(&[vec![9; start], bytes(dtype)].concat());
                let matrix = Matrix::map(&file, start, 3, 2, dtype).unwrap();
                let expected: Vec<f32> = match dtype {
                    Dtype::F16 => numbers.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
                    _ => numbers.to_vec(),
                };
                assert_eq!(matrix.read(0..3, &mut Vec::new()), expected);
                assert_eq!(matrix.read(1..2, &mut Vec::new()), &expected[2..4]);
                let mut row = vec![7.0];
                matrix.append(2, &mut row);
                assert_eq!(row, [7.0, expected[4], expected[5]]);
            }
        }
    }

    #[test]
    fn headers_that_lie() {
        let file = file(&[0; 40]);
        let error = |rows, dim| Matrix::map(&file, 8, rows, dim, Dtype::F32).unwrap_err().to_string();
        assert!(error(5, 2).contains("promises 5 rows of 2 numbers, the file holds 4"));
        assert!(error(usize::MAX, MAX_DIM).contains("the file holds 0"));
        assert!(error(1, 0).contains("embeddings of 0 numbers"));
        assert!(error(0, usize::MAX).contains("1 to 65536"));
        assert!(Matrix::map(&file, 400, 0, 2, Dtype::F32).unwrap().read(0..0, &mut Vec::new()).is_empty());
    }
}
