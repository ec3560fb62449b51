//! A product of rows and a weight: which thread computes what, and what is done with its sums.

use super::path::{Kernel, Path};
use super::rows::{self, Strip};
use super::{PANEL, STRIP, Sums, TILE, Weight};
use crate::ops::gemm::{Norm, Onto};
use crate::ops::{Activation, pool};
use std::ops::Range;

/// `out = onto + act(norm(x) Wᵀ + bias)`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// Rows of inputs, one after the other.
    pub x: &'a [f32],
    /// The weight.
    pub weight: &'a Weight,
    /// Applied to each row of inputs.
    pub norm: Option<Norm<'a>>,
    /// Added to each row.
    pub bias: Option<&'a [f32]>,
    /// Applied to the sums.
    pub act: Activation,
    /// What all that is added to.
    pub onto: Onto<'a>,
}

impl<'a> Product<'a> {
    /// `x Wᵀ` and nothing else.
    pub fn new(x: &'a [f32], weight: &'a Weight) -> Self {
        Self { x, weight, norm: None, bias: None, act: Activation::Identity, onto: Onto::Nothing }
    }

    /// Computes it on the pool with the fastest instructions of this machine; `out` has the rows of outputs, one after
    /// the other.
    pub fn run(self, out: &mut [f32]) {
        self.run_with(Path::best(), out);
    }

    /// The same as new numbers.
    pub fn make(self) -> Vec<f32> {
        assert!(!matches!(self.onto, Onto::Output), "new numbers hold nothing to add to");
        let count = self.x.len() / self.weight.shape().0 * self.weight.shape().1;
        let mut out = Vec::with_capacity(count);
        self.spread(Path::best(), out.as_mut_ptr());
        // SAFETY: every number of every row was written.
        unsafe { out.set_len(count) };
        out
    }

    /// The same with these instructions, if the machine has them.
    pub fn run_with(self, path: Path, out: &mut [f32]) {
        let (k, n) = self.weight.shape();
        assert_eq!(out.len(), self.x.len() / k * n, "the outputs of a product");
        self.spread(path, out.as_mut_ptr());
    }

    /// Writes the outputs, for which there must be room.
    fn spread(self, path: Path, out: *mut f32) {
        let (k, n) = self.weight.shape();
        let rows = self.x.len() / k;
        assert_eq!(self.x.len(), rows * k, "a product of {rows} x {k} x {n}");
        assert!(self.bias.is_none_or(|bias| bias.len() == n), "a bias of {n}");
        assert!(self.norm.is_none_or(|norm| norm.weight.len() == k && norm.bias.len() == k), "a norm of {k}");
        if let Onto::Numbers(numbers) = self.onto {
            assert_eq!(numbers.len(), rows * n, "what a product is added to");
        }
        let out = Out { data: out, n };
        rows::with_strips(self.x, k, self.norm, |strips| {
            let (threads, pairs) = (if rows * n * k < SMALL { 1 } else { pool::threads() }, self.weight.pairs());
            let job = |strips: Range<usize>, pairs: Range<usize>| Job { product: self, path, strips, pairs, out };
            if strips.len() >= MANY * threads {
                // Many rows: each part takes some rows and all columns.
                let part = strips.len().div_ceil(threads);
                pool::run(strips.len().div_ceil(part), |i| {
                    // SAFETY: the parts' rows are disjoint.
                    unsafe { job(i * part..strips.len().min((i + 1) * part), 0..pairs).run(strips) };
                });
            } else {
                // Few rows: each part takes all rows and some columns.
                let part = pairs.div_ceil(threads);
                pool::run(pairs.div_ceil(part), |i| {
                    // SAFETY: the parts' columns are disjoint.
                    unsafe { job(0..strips.len(), i * part..pairs.min((i + 1) * part)).run(strips) };
                });
            }
        });
    }
}

/// Below this many multiply-adds a product stays on the calling thread.
const SMALL: usize = 1 << 21;
/// With so many strips a thread, threads share the rows, which read all weights each; with fewer the columns.
const MANY: usize = 8;
/// The most bytes of weights that are multiplied with one strip after the other: they stay in the second cache, the strip
/// in the first, and results are written in long pieces.
const BLOCK: usize = 3 << 18;

#[derive(Clone, Copy)]
struct Out {
    data: *mut f32,
    n: usize,
}

// SAFETY: `Out` is only written through `Job::run`, whose callers hand disjoint parts to different threads.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

/// Some strips times some pairs of panels.
struct Job<'a> {
    product: Product<'a>,
    path: Path,
    strips: Range<usize>,
    pairs: Range<usize>,
    out: Out,
}

impl Job<'_> {
    /// # Safety
    /// No other thread may touch these rows and columns of `out`.
    unsafe fn run(self, strips: &[Strip]) {
        let Product { weight, bias, act, .. } = self.product;
        let onto = match self.product.onto {
            Onto::Nothing => None,
            Onto::Output => Some(self.out.data.cast_const()),
            Onto::Numbers(numbers) => Some(numbers.as_ptr()),
        };
        let height = strips.first().map_or(1, |strip| strip.tiles[0]);
        let kernel = Kernel::new(self.path, height);
        let (mut sums, mut values) = (Sums([[0; WIDE]; STRIP]), Values([[0.0; WIDE]; STRIP]));
        // Few strips stay in the cache themselves, and weights pass once.
        let block = if self.strips.len() < 4 { 1 } else { (BLOCK / size_of_val(weight.pair(0))).max(1) };
        for first in self.pairs.clone().step_by(block) {
            for at in self.strips.clone() {
                for pair in first..self.pairs.end.min(first + block) {
                    let column = pair * WIDE;
                    let width = WIDE.min(self.out.n - column);
                    let mut biases = [0.0; WIDE];
                    if let Some(bias) = bias {
                        biases[..width].copy_from_slice(&bias[column..column + width]);
                    }
                    let strip = &strips[at];
                    kernel.sums(strip, weight.pair(pair), &mut sums);
                    let start = at * 2 * height * self.out.n + column;
                    // SAFETY: rows and columns exist, and by the caller's promise they are ours.
                    let (place, onto) = unsafe { (self.out.data.add(start), onto.map(|onto| onto.add(start))) };
                    let to = Place { data: place, stride: self.out.n, width, onto };
                    let scales = weight.pair_scales(pair);
                    if act == Activation::Identity {
                        // SAFETY: as above.
                        unsafe { finish(&sums, strip, scales, &biases, to) };
                        continue;
                    }
                    let data = values.0.as_mut_ptr().cast();
                    let all = Place { data, stride: WIDE, width: WIDE, onto: None };
                    // SAFETY: there is room for a strip.
                    unsafe { finish(&sums, strip, scales, &biases, all) };
                    let rows = strip.tiles[0] + strip.tiles[1];
                    act.apply(values.0[..rows].as_flattened_mut());
                    for (row, values) in values.0[..rows].iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { to.write(row, |i| values[i]) };
                    }
                }
            }
        }
    }
}

/// Where a strip's results go: `width` numbers a row, added to those at `onto` or as they are.
#[derive(Clone, Copy)]
struct Place {
    data: *mut f32,
    stride: usize,
    width: usize,
    onto: Option<*const f32>,
}

impl Place {
    /// Writes a row.
    ///
    /// # Safety
    /// The row must exist and belong to the caller.
    #[inline(always)]
    unsafe fn write(self, row: usize, value: impl Fn(usize) -> f32) {
        let mut values: [f32; WIDE] = std::array::from_fn(value);
        let at = row * self.stride;
        if let Some(onto) = self.onto {
            // SAFETY: the caller's promise, here and below.
            let onto = unsafe { std::slice::from_raw_parts(onto.add(at), self.width) };
            match <&[f32; WIDE]>::try_from(onto) {
                Ok(onto) => (0..WIDE).for_each(|i| values[i] += onto[i]),
                Err(_) => values.iter_mut().zip(onto).for_each(|(value, onto)| *value += onto),
            }
        }
        // SAFETY: as above; what it is added to was read before.
        let out = unsafe { std::slice::from_raw_parts_mut(self.data.add(at), self.width) };
        match <&mut [f32; WIDE]>::try_from(&mut *out) {
            Ok(out) => *out = values,
            Err(_) => out.copy_from_slice(&values[..self.width]),
        }
    }
}

/// The outputs of a pair of panels.
const WIDE: usize = 2 * PANEL;

/// What a strip's sums stand for, row after row.
#[repr(C, align(64))]
struct Values([[f32; WIDE]; STRIP]);

/// Makes numbers of sums.
///
/// # Safety
/// The strip's rows must exist where they go, and belong to the caller.
unsafe fn finish(sums: &Sums, strip: &Strip, scales: &[f32], bias: &[f32; WIDE], to: Place) {
    // SAFETY: the processor has these instructions; the rest is the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            return finish_avx512(sums, strip, scales, bias, to);
        }
        if is_x86_feature_detected!("avx2") {
            return finish_avx2(sums, strip, scales, bias, to);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { finish_any(sums, strip, scales, bias, to) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn finish_avx512(sums: &Sums, strip: &Strip, scales: &[f32], bias: &[f32; WIDE], to: Place) {
    // SAFETY: the caller's promise.
    unsafe { finish_any(sums, strip, scales, bias, to) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn finish_avx2(sums: &Sums, strip: &Strip, scales: &[f32], bias: &[f32; WIDE], to: Place) {
    // SAFETY: the caller's promise.
    unsafe { finish_any(sums, strip, scales, bias, to) };
}

/// The same in plain Rust, which the compiler makes vectors of.
#[inline(always)]
unsafe fn finish_any(sums: &Sums, strip: &Strip, scales: &[f32], bias: &[f32; WIDE], to: Place) {
    let Ok(scales) = <&[f32; WIDE]>::try_from(scales) else { return };
    let rows = (0..strip.tiles[0]).chain(TILE..TILE + strip.tiles[1]);
    for (at, row) in rows.enumerate() {
        // Weights are kept plus 128.
        let (scale, excess) = (strip.scales[row], strip.totals[row].wrapping_mul(128));
        let sums = &sums.0[row];
        // SAFETY: the caller's promise.
        unsafe { to.write(at, |i| sums[i].wrapping_sub(excess) as f32 * (scale * scales[i]) + bias[i]) };
    }
}
