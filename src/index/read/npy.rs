//! NumPy's format: a matrix, and the items of its rows in `NAME.ids.jsonl`.

use super::{Format, ends_with};
use crate::app::App;
use crate::data::Kind;
use crate::error::{Error, Result};
use crate::index::{Dtype, Ids, Matrix, Part};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A longer header describes no matrix.
const MAX_HEADER: usize = 1 << 16;

/// A matrix of floating-point numbers.
pub(super) struct Npy;

impl Format for Npy {
    fn name(&self) -> &'static str {
        "npy"
    }

    fn fits(&self, path: &Path) -> bool {
        ends_with(path, &["npy"]) && !path.is_dir()
    }

    fn open(&self, _: &App, path: &Path) -> Result<Vec<Part>> {
        let matrix = matrix(path)?;
        let list = ids_of(path);
        let ids = match File::open(&list) {
            Ok(file) => Ids::map(&file).map_err(|error| error.at(list.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ids::numbers(path.display().to_string(), Kind::Image, matrix.rows())
            }
            Err(error) => return Err(Error::run(error).at(list.display())),
        };
        Ok(vec![Part::new(path, matrix, ids)?])
    }
}

/// The list of a matrix's items.
fn ids_of(path: &Path) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(".ids.jsonl");
    path.with_file_name(name)
}

/// Maps the matrix in a file.
pub(super) fn matrix(path: &Path) -> Result<Matrix> {
    let mut file = File::open(path)?;
    let broken = |_| Error::run("no NumPy file, or one that ends in its header");
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(broken)?;
    let (true, version) = (start.starts_with(b"\x93NUMPY"), start[6]) else {
        return Err(Error::run("no NumPy file"));
    };
    let mut length = [0; 4];
    let bytes = if version == 1 { 2 } else { 4 };
    file.read_exact(&mut length[..bytes]).map_err(broken)?;
    let length = u32::from_le_bytes(length) as usize;
    if !(1..=3).contains(&version) || length > MAX_HEADER {
        return Err(Error::run(format!("a NumPy file of version {version} with a header of {length} bytes")));
    }
    let mut header = vec![0; length];
    file.read_exact(&mut header).map_err(broken)?;
    let header = parse(&header)?;
    let dtype = match header.descr.as_str() {
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        other => {
            let error = Error::run(format!("numbers of the kind {other:?}; <f2, <f4 and <f8 can be searched"));
            return Err(error.hint("in Python: np.save(path, matrix.astype('<f4'))"));
        }
    };
    let [rows, dim] = header.shape[..] else {
        return Err(Error::run(format!("an array of the shape {:?}, no matrix of embeddings", header.shape)));
    };
    if header.fortran_order && rows > 1 && dim > 1 {
        let error = Error::run("the matrix is stored column by column");
        return Err(error.hint("in Python: np.save(path, np.ascontiguousarray(matrix))"));
    }
    Matrix::map(&file, 8 + bytes + length, rows, dim, dtype)
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads a header: a Python dictionary with a string, a truth value and a tuple.
fn parse(header: &[u8]) -> Result<Header> {
    let broken = || Error::run("the NumPy header cannot be read");
    let mut rest = std::str::from_utf8(header).map_err(|_| broken())?.trim();
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    rest = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(broken)?.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(broken)?;
        rest = after.trim_start().strip_prefix(':').ok_or_else(broken)?.trim_start();
        match key {
            "descr" => {
                let (value, after) = quoted(rest).ok_or_else(|| Error::run("records of several fields, no numbers"))?;
                (descr, rest) = (Some(value.to_owned()), after);
            }
            "fortran_order" => {
                let (value, length) = if rest.starts_with("True") { (true, 4) } else { (false, 5) };
                if !value && !rest.starts_with("False") {
                    return Err(broken());
                }
                (fortran_order, rest) = (Some(value), &rest[length..]);
            }
            "shape" => {
                let (tuple, after) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(broken)?;
                let sizes = tuple.split(',').map(str::trim).filter(|size| !size.is_empty());
                // Python 2 wrote long integers with an L.
                let sizes = sizes.map(|size| size.trim_end_matches('L').parse().map_err(|_| broken()));
                (shape, rest) = (Some(sizes.collect::<Result<Vec<usize>>>()?), after);
            }
            _ => return Err(broken()),
        }
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    match (descr, fortran_order, shape) {
        (Some(descr), Some(fortran_order), Some(shape)) => Ok(Header { descr, fortran_order, shape }),
        _ => Err(broken()),
    }
}

/// The string that a text begins with, and what comes after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<(usize, usize), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.npy");
        std::fs::write(&path, bytes).unwrap();
        matrix(&path).map(|matrix| (matrix.rows(), matrix.dim())).map_err(|error| error.to_string())
    }

    fn file(version: u8, header: &str, data: usize) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        let length = header.len() as u32;
        bytes.extend(&length.to_le_bytes()[..if version == 1 { 2 } else { 4 }]);
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn headers_as_numpy_writes_them() {
        let usual = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }            \n";
        for version in 1..=3 {
            assert_eq!(read(&file(version, usual, 24)).unwrap(), (3, 2));
        }
        let turned = "{\"shape\":(3L,2L),\"fortran_order\":False,\"descr\":\"<f2\"}\n";
        assert_eq!(read(&file(1, turned, 12)).unwrap(), (3, 2));
        assert_eq!(read(&file(1, "{'descr': '<f8', 'fortran_order': True, 'shape': (1, 2)}", 16)).unwrap(), (1, 2));
        assert_eq!(read(&file(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 2)}", 0)).unwrap(), (0, 2));
    }

    #[test]
    fn files_that_are_no_matrix() {
        let error = |header: &str| read(&file(1, header, 24)).unwrap_err();
        assert!(error("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }").contains("promises 3 rows"));
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999, 2), }";
        assert!(error(huge).contains("the file holds 3"));
        assert!(error("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }").contains("column by column"));
        assert!(error("{'descr': '>f4', 'fortran_order': False, 'shape': (3, 2), }").contains("\">f4\""));
        assert!(error("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }").contains("[6]"));
        assert!(error("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}").contains("several fields"));
        assert!(error("{'descr': '<f4'}").contains("cannot be read"));
        assert!(read(b"PK\x03\x04 a zip archive").unwrap_err().contains("no NumPy file"));
        assert!(read(b"\x93NUMPY\x01\x00\xff\xff").unwrap_err().contains("ends in its header"));
        assert!(read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap_err().contains("4294967295 bytes"));
        assert!(read(b"").unwrap_err().contains("no NumPy file"));
    }

    proptest! {
        #[test]
        fn no_header_crashes(header in "[{}()'\",:a-z<0-9L \n]{0,80}") {
            let _ = parse(header.as_bytes());
        }

        #[test]
        fn no_file_crashes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&[b"\x93NUMPY\x01\x00".as_slice(), &bytes].concat());
        }
    }
}
