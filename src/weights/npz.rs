//! numpy's `.npz`: a zip archive of `.npy` arrays, stored or deflated.

use super::archive;
use super::entry::{Entry, Stretch, row_strides};
use crate::error::{Error, Result};
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;

/// The longest header that is read, in bytes: a structured type could have a long one, a tensor has none of 200.
const LONGEST_HEADER: usize = 1 << 16;

/// Whether the members are those of an `.npz`.
pub fn is_npz(members: &BTreeMap<String, Stretch>) -> bool {
    !members.is_empty() && members.keys().all(|name| name.ends_with(".npy"))
}

/// The arrays of an archive by name.
pub fn read(bytes: &[u8], members: &BTreeMap<String, Stretch>) -> Result<BTreeMap<String, Entry>> {
    let mut tensors = BTreeMap::new();
    for (name, member) in members {
        let name = name.trim_end_matches(".npy");
        let start = archive::start(bytes, member, LONGEST_HEADER)?;
        if let Some(entry) = entry(&start, member).map_err(|e| e.at(format!("array {name:?}")))? {
            tensors.insert(name.to_owned(), entry);
        }
    }
    Ok(tensors)
}

/// The array whose file begins with these bytes; none if it holds no numbers (objects, texts).
fn entry(start: &[u8], member: &Stretch) -> Result<Option<Entry>> {
    let broken = || Error::run("not a sound .npy header");
    let version = start.strip_prefix(b"\x93NUMPY").and_then(|rest| rest.first()).ok_or_else(broken)?;
    let (length, at): (usize, usize) = match (version, start) {
        (1, [_, _, _, _, _, _, _, _, a, b, ..]) => (usize::from(u16::from_le_bytes([*a, *b])), 10),
        (2 | 3, [_, _, _, _, _, _, _, _, a, b, c, d, ..]) => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
        _ => return Err(broken()),
    };
    let header = start.get(at..at.saturating_add(length)).ok_or_else(broken)?;
    let header = std::str::from_utf8(header).map_err(|_| broken())?;
    let kind = header.split("'descr':").nth(1).ok_or_else(broken)?.trim_start();
    // A list is a structured type.
    let Some(kind) = kind.strip_prefix('\'').and_then(|rest| rest.split('\'').next()) else { return Ok(None) };
    let Some(dtype) = dtype(kind)? else { return Ok(None) };
    let fortran = match header.split("'fortran_order':").nth(1).ok_or_else(broken)?.trim_start() {
        order if order.starts_with("True") => true,
        order if order.starts_with("False") => false,
        _ => return Err(broken()),
    };
    let shape = header.split("'shape':").nth(1).and_then(|rest| rest.trim_start().strip_prefix('(')?.split(')').next());
    let sizes = shape.ok_or_else(broken)?.split(',').map(str::trim).filter(|size| !size.is_empty());
    // Python 2 wrote `3L`.
    let sizes = sizes.map(|size| size.trim_end_matches('L').parse().map_err(|_| broken()));
    let shape = sizes.collect::<Result<Vec<usize>>>()?;
    if shape.len() > 16 {
        return Err(broken());
    }
    let strides = if fortran {
        let mut reversed = row_strides(&shape.iter().rev().copied().collect::<Vec<_>>());
        reversed.reverse();
        reversed
    } else {
        row_strides(&shape)
    };
    Entry::new(dtype, shape, strides, at + length, member.clone()).map(Some)
}

/// The kind of numbers that numpy calls by this name; none if they are no numbers.
fn dtype(name: &str) -> Result<Option<Dtype>> {
    Ok(Some(match name.trim_start_matches(['<', '|', '=']) {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        // numpy has no bfloat16: jax's becomes two bytes of nothing in particular.
        "V2" => Dtype::BF16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u1" => Dtype::U8,
        "b1" => Dtype::BOOL,
        other if other.starts_with('>') => return Err(Error::run("big-endian numbers are not supported")),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn npy(header: &str, data: usize) -> (Vec<u8>, Stretch) {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        let range = 0..bytes.len();
        (bytes, Stretch { range, inflated: None })
    }

    fn read(header: &str, data: usize) -> Result<Option<Entry>> {
        let (bytes, member) = npy(header, data);
        entry(&bytes, &member)
    }

    #[test]
    fn headers() {
        let array = read("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 24).unwrap().unwrap();
        assert_eq!((array.dtype(), array.shape(), array.strides()), (Dtype::F32, &[2, 3][..], &[3, 1][..]));
        let array = read("{'descr': '|V2', 'fortran_order': True, 'shape': (2, 3), }", 12).unwrap().unwrap();
        assert_eq!((array.dtype(), array.strides()), (Dtype::BF16, &[1, 2][..]));
        let array = read("{'descr': '<i8', 'fortran_order': False, 'shape': (), }", 8).unwrap().unwrap();
        assert_eq!(array.shape(), [0; 0]);
        let objects = read("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", 24).unwrap();
        assert_eq!(objects, None);
        let records = read("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", 24).unwrap();
        assert_eq!(records, None);
    }

    #[test]
    fn lies() {
        for header in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 2), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
            "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }",
            "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,), }",
            "{'descr': '<f4'}",
            "",
        ] {
            assert!(read(header, 8).is_err(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "[{}'(),:a-z0-9<|_ ]{0,80}", data in 0usize..64) {
            let _ = read(&header, data);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            bytes.splice(0..0, *b"\x93NUMPY");
            let member = Stretch { range: 0..bytes.len(), inflated: None };
            let _ = entry(&bytes, &member);
        }
    }
}
