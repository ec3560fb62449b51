//! The heads of queries, keys and values in memory.

use super::gemm::{Packed, Product, View};
use rten_simd::ops::BitOps;
use rten_simd::{Isa, SimdOp};

/// How many there are of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) items: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) heads: usize,
    pub(super) head: usize,
}

impl Dims {
    pub(super) fn scale(self) -> f32 {
        (self.head as f32).powf(-0.5)
    }
}

/// Queries, keys or values of all items and heads: (items, tokens, `stride`), of which `offset ..` are ours.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) offset: usize,
}

impl<'a> Rows<'a> {
    /// A head of the rows from this one on.
    pub(super) fn head(self, dims: Dims, row: usize, h: usize) -> &'a [f32] {
        &self.data[row * self.stride + self.offset + h * dims.head..]
    }

    /// Has a head of some rows come into the cache.
    pub(super) fn fetch(self, dims: Dims, [first, tokens]: [usize; 2], h: usize) {
        for row in first..first + tokens {
            Fetch(&self.head(dims, row, h)[..dims.head]).dispatch();
        }
    }
}

struct Fetch<'a>(&'a [f32]);

impl SimdOp for Fetch<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        self.0.iter().step_by(16).for_each(|number| isa.f32().prefetch(number));
    }
}

/// The same, to be written by several threads, each its own heads.
#[derive(Clone, Copy)]
pub(super) struct RowsMut {
    pub(super) data: *mut f32,
    pub(super) stride: usize,
    pub(super) offset: usize,
}

// SAFETY: every thread writes only the head that it was given, see `write`.
unsafe impl Sync for RowsMut {}

impl RowsMut {
    /// Where a head of the rows from this one on begins.
    pub(super) fn at(self, dims: Dims, row: usize, h: usize) -> *mut f32 {
        self.data.wrapping_add(row * self.stride + self.offset + h * dims.head)
    }

    /// Writes `scale · (a · b)` to a head of as many rows as `a` has, from this one on.
    ///
    /// # Safety
    /// `data` must have room for these rows, and no other thread may touch this head of them.
    pub(super) unsafe fn write(
        self,
        dims: Dims,
        [row, rows]: [usize; 2],
        h: usize,
        (a, b, scale): (View<'_>, &Packed, f32),
    ) {
        assert_eq!(b.shape().1, dims.head, "a head");
        let product = Product { scale, ..Product::new(a, rows, b) };
        // SAFETY: within the allocation and this thread's own, by the contract above.
        unsafe { product.run_at(self.at(dims, row, h), self.stride) }
    }

    /// Copies rows that are so far apart to a head of the rows from this one on.
    ///
    /// # Safety
    /// As above.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn copy(self, dims: Dims, [first, rows]: [usize; 2], h: usize, from: &[f32], apart: usize) {
        for (row, from) in from.chunks(apart).enumerate().take(rows) {
            // SAFETY: within the allocation and this thread's own, by the contract above.
            unsafe {
                std::ptr::copy_nonoverlapping(from[..dims.head].as_ptr(), self.at(dims, first + row, h), dims.head)
            };
        }
    }
}
