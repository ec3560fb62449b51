//! Where a tensor lies in a file, and taking it out: offsets, strides, compression.

use crate::error::{Error, Result};
use safetensors::tensor::Dtype;
use std::borrow::Cow;
use std::ops::Range;

/// A stretch of a file that holds numbers, as it is or deflated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its bytes in the file.
    pub range: Range<usize>,
    /// How many bytes it has when it is inflated, if it is deflated.
    pub inflated: Option<usize>,
}

/// A tensor in a file. Made by [`Entry::new`], which holds it against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// How far apart neighbours are along each dimension, in numbers.
    strides: Vec<usize>,
    /// Where the first number is in the stretch, in bytes.
    start: usize,
    stretch: Stretch,
}

impl Stretch {
    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.inflated.unwrap_or(self.range.len())
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    /// A tensor whose first number is `start` bytes into `stretch`; `strides` counts numbers.
    ///
    /// # Errors
    /// If a number would lie outside the stretch, or if the tensor has more numbers than the stretch (a shape that
    /// repeats numbers could fill any memory).
    pub fn new(dtype: Dtype, shape: Vec<usize>, strides: Vec<usize>, start: usize, stretch: Stretch) -> Result<Self> {
        let outside =
            || Error::run(format!("a tensor {shape:?} of {dtype:?} reaches beyond its {} bytes", stretch.len()));
        if !dtype.bitsize().is_multiple_of(8) || shape.len() != strides.len() {
            return Err(Error::run(format!("a tensor of {dtype:?} with strides {strides:?} for a shape {shape:?}")));
        }
        let count = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n)).ok_or_else(outside)?;
        let span = shape.iter().zip(&strides).try_fold(1usize, |span, (&n, &stride)| {
            n.saturating_sub(1).checked_mul(stride).and_then(|step| span.checked_add(step))
        });
        let (span, size) = (span.ok_or_else(outside)?, byte_size(dtype));
        let end = if count == 0 { Some(start) } else { span.checked_mul(size).and_then(|n| n.checked_add(start)) };
        let fits = end.is_some_and(|end| end <= stretch.len());
        if !fits || count.checked_mul(size).is_none_or(|bytes| bytes > stretch.len()) {
            return Err(outside());
        }
        Ok(Self { dtype, shape, strides, start, stretch })
    }

    /// A tensor that lies row by row.
    pub fn contiguous(dtype: Dtype, shape: Vec<usize>, start: usize, stretch: Stretch) -> Result<Self> {
        let strides = row_strides(&shape);
        Self::new(dtype, shape, strides, start, stretch)
    }

    /// The kind of its numbers.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its strides, in numbers.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Where it lies.
    pub fn stretch(&self) -> &Stretch {
        &self.stretch
    }

    /// The same numbers as a tensor of another shape and other strides, `skip` numbers further on.
    pub fn view(&self, shape: Vec<usize>, strides: Vec<usize>, skip: usize) -> Result<Self> {
        let start = skip.checked_mul(byte_size(self.dtype)).and_then(|n| n.checked_add(self.start));
        let start = start.ok_or_else(|| Error::run("a view far outside its tensor"))?;
        Self::new(self.dtype, shape, strides, start, self.stretch.clone())
    }

    /// Whether the numbers lie row by row without gaps.
    pub fn is_contiguous(&self) -> bool {
        let wanted = row_strides(&self.shape);
        self.shape.iter().zip(self.strides.iter().zip(wanted)).all(|(&n, (&have, want))| n == 1 || have == want)
    }

    /// The numbers row by row, out of the inflated bytes of the stretch.
    pub fn take<'a>(&self, stretch: &'a [u8]) -> Cow<'a, [u8]> {
        let size = byte_size(self.dtype);
        let count: usize = self.shape.iter().product();
        if count == 0 {
            return Cow::Borrowed(&[]);
        }
        let bytes = &stretch[self.start..];
        if self.is_contiguous() {
            return Cow::Borrowed(&bytes[..count * size]);
        }
        let mut out = Vec::with_capacity(count * size);
        let mut index = vec![0usize; self.shape.len()];
        let mut at = 0;
        for _ in 0..count {
            out.extend_from_slice(&bytes[at * size..][..size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
        Cow::Owned(out)
    }
}

/// How many bytes a number of this kind takes; kinds below a byte are refused by [`Entry::new`].
pub fn byte_size(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// The strides of a tensor that lies row by row, in numbers.
pub fn row_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(bytes: usize) -> Stretch {
        Stretch { range: 0..bytes, inflated: None }
    }

    #[test]
    fn strides_turn_and_skip() {
        let bytes: Vec<u8> = (0..6).collect();
        let entry = Entry::new(Dtype::U8, vec![3, 2], vec![1, 3], 0, stretch(6)).unwrap();
        assert_eq!(*entry.take(&bytes), [0, 3, 1, 4, 2, 5]);
        let row = entry.view(vec![2], vec![3], 1).unwrap();
        assert_eq!(*row.take(&bytes), [1, 4]);
        assert!(Entry::contiguous(Dtype::U8, vec![2, 3], 0, stretch(6)).unwrap().is_contiguous());
        // A dimension of one may have any stride.
        assert!(Entry::new(Dtype::U8, vec![1, 3], vec![77, 1], 0, stretch(6)).unwrap().is_contiguous());
    }

    #[test]
    fn nothing_lies_outside_the_file() {
        let refused = |shape: Vec<usize>, strides: Vec<usize>, start| {
            Entry::new(Dtype::F32, shape, strides, start, stretch(64)).is_err()
        };
        assert!(refused(vec![17], vec![1], 0));
        assert!(refused(vec![16], vec![1], 4));
        assert!(refused(vec![4, 4], vec![5, 1], 0));
        assert!(refused(vec![usize::MAX, 2], vec![1, 1], 0));
        assert!(refused(vec![2, 2], vec![usize::MAX, 1], 0));
        // One number repeated would be a gigabyte.
        assert!(refused(vec![1 << 28], vec![0], 0));
        assert!(refused(vec![2], vec![1, 1], 0));
        assert!(!refused(vec![0, 1 << 40], vec![1, 1], 64));
    }
}
