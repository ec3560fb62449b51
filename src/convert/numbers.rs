//! Numbers in bytes: other kinds, transposed, stacked. Whatever is only moved keeps every bit.

use crate::error::{Error, Result};
use crate::weights::Raw;
use crate::weights::entry::byte_size;
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use std::borrow::Cow;

/// Whether numbers of this kind are weights that may be rounded.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Numbers of another kind: widened exactly, narrowed to the nearest, ties to even.
///
/// # Errors
/// If a finite number does not fit (half precision ends at 65504), or if the kinds are no floating-point numbers.
pub(super) fn cast(raw: Raw<'_>, to: Dtype) -> Result<Raw<'_>> {
    if raw.dtype == to {
        return Ok(raw);
    }
    if !is_float(raw.dtype) || !is_float(to) {
        return Err(Error::run(format!("{:?} cannot become {to:?}", raw.dtype)));
    }
    let mut out = Vec::with_capacity(raw.bytes.len() / byte_size(raw.dtype) * byte_size(to));
    for number in raw.bytes.chunks_exact(byte_size(raw.dtype)) {
        let wide = match *number {
            [a, b] if raw.dtype == Dtype::F16 => f16::from_le_bytes([a, b]).to_f64(),
            [a, b] => bf16::from_le_bytes([a, b]).to_f64(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
            [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => unreachable!("floating-point numbers have 2, 4 or 8 bytes"),
        };
        // As torch does: by way of f32.
        let single = wide as f32;
        let fits = match to {
            Dtype::F16 => push(&mut out, f16::from_f32(single).to_le_bytes(), f16::from_f32(single).is_finite()),
            Dtype::BF16 => push(&mut out, bf16::from_f32(single).to_le_bytes(), bf16::from_f32(single).is_finite()),
            Dtype::F32 => push(&mut out, single.to_le_bytes(), single.is_finite()),
            _ => push(&mut out, wide.to_le_bytes(), true),
        };
        if !fits && wide.is_finite() {
            return Err(
                Error::run(format!("{wide} is too large for {to:?}")).hint("--output-dtype bf16 or f32 holds it")
            );
        }
    }
    Ok(Raw { dtype: to, shape: raw.shape, bytes: Cow::Owned(out) })
}

fn push<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N], finite: bool) -> bool {
    out.extend_from_slice(&bytes);
    finite
}

/// A matrix, transposed.
pub(super) fn transposed(raw: &Raw<'_>) -> Result<Raw<'static>> {
    let [rows, columns] = raw.shape[..] else {
        return Err(Error::run(format!("a tensor {:?} is no matrix to transpose", raw.shape)));
    };
    let size = byte_size(raw.dtype);
    let mut out = Vec::with_capacity(raw.bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            out.extend_from_slice(&raw.bytes[(row * columns + column) * size..][..size]);
        }
    }
    Ok(Raw { dtype: raw.dtype, shape: vec![columns, rows], bytes: Cow::Owned(out) })
}

/// Tensors stacked along the first dimension. Where their kinds differ, the wider kind holds all of them.
pub(super) fn stacked(parts: Vec<Raw<'_>>) -> Result<Raw<'static>> {
    let kinds: Vec<Dtype> = parts.iter().map(|part| part.dtype).collect();
    let dtype = match kinds[..] {
        [first, ..] if kinds.iter().all(|&kind| kind == first) => first,
        _ if kinds.contains(&Dtype::F64) => Dtype::F64,
        _ => Dtype::F32,
    };
    let (mut bytes, mut rows, mut rest) = (Vec::new(), 0, None);
    for part in parts {
        let (first, others) =
            part.shape.split_first().map(|(first, others)| (*first, others.to_vec())).unwrap_or_default();
        if rest.get_or_insert_with(|| others.clone()) != &others {
            return Err(Error::run(format!("tensors to be stacked have different shapes, such as {:?}", part.shape)));
        }
        rows += first;
        bytes.extend_from_slice(&cast(part, dtype)?.bytes);
    }
    let shape = [vec![rows], rest.unwrap_or_default()].concat();
    Ok(Raw { dtype, shape, bytes: Cow::Owned(bytes) })
}

/// Rows `first..first + count` of a tensor.
pub(super) fn rows<'a>(raw: Raw<'a>, first: usize, count: usize) -> Result<Raw<'a>> {
    let Some((&all, others)) = raw.shape.split_first() else { return Err(Error::run("a single number has no rows")) };
    if first + count > all {
        return Err(Error::run(format!("rows {first} to {} of a tensor {:?}", first + count, raw.shape)));
    }
    let each = others.iter().product::<usize>() * byte_size(raw.dtype);
    let range = first * each..(first + count) * each;
    let bytes = match raw.bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[range]),
        Cow::Owned(bytes) => Cow::Owned(bytes[range].to_vec()),
    };
    Ok(Raw { dtype: raw.dtype, shape: [&[count], others].concat(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singles(numbers: &[f32], shape: &[usize]) -> Raw<'static> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Raw { dtype: Dtype::F32, shape: shape.to_vec(), bytes: Cow::Owned(bytes) }
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        // 2049 lies between 2048 and 2050 in half precision, 2051 between 2050 and 2052.
        let half = cast(singles(&[2049.0, 2051.0, f32::INFINITY, -0.0], &[4]), Dtype::F16).unwrap();
        let back = cast(half, Dtype::F32).unwrap();
        assert_eq!(*back.bytes, *singles(&[2048.0, 2052.0, f32::INFINITY, -0.0], &[4]).bytes);
        assert!(cast(singles(&[70_000.0], &[1]), Dtype::F16).is_err());
        assert!(cast(singles(&[70_000.0], &[1]), Dtype::BF16).is_ok());
    }

    #[test]
    fn moving_is_exact() {
        let matrix = singles(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[3, 2]);
        let turned = transposed(&matrix).unwrap();
        assert_eq!(*turned.bytes, *singles(&[1.0, 3.0, 5.0, 2.0, 4.0, 6.0], &[2, 3]).bytes);
        assert_eq!(transposed(&turned).unwrap().bytes, matrix.bytes);
        let parts = [(0, 1), (1, 2)].map(|(first, count)| rows(matrix.clone(), first, count).unwrap());
        let again = stacked(parts.to_vec()).unwrap();
        assert_eq!((again.shape, again.bytes), (matrix.shape.clone(), matrix.bytes.clone()));
        assert!(rows(matrix, 2, 2).is_err());
    }

    #[test]
    fn the_wider_kind_holds_both() {
        let half = cast(singles(&[0.5], &[1]), Dtype::F16).unwrap();
        let both = stacked(vec![half, singles(&[1e-30], &[1])]).unwrap();
        assert_eq!((both.dtype, &*both.bytes), (Dtype::F32, &*singles(&[0.5, 1e-30], &[2]).bytes));
    }
}
