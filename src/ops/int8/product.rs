//! A product of rows and a weight: which thread computes what, and what is done with its sums.

use super::path::{Kernel, Path};
use super::rows::{self, Strip};
use super::{PANEL, STRIP, Sums, TILE, Weight};
use crate::ops::{Activation, pool};
use std::ops::Range;

/// `out = act(x Wᵀ + bias)`, or `out += x Wᵀ + bias`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// Rows of inputs, one after the other.
    pub x: &'a [f32],
    /// The weight.
    pub weight: &'a Weight,
    /// Added to each row.
    pub bias: Option<&'a [f32]>,
    /// Applied to the sums.
    pub act: Activation,
    /// Whether `out` is added to instead of written; then `act` is the identity.
    pub add: bool,
}

impl Product<'_> {
    /// Computes it on the pool with the fastest instructions of this machine; `out` has the rows of outputs, one after
    /// the other.
    pub fn run(self, out: &mut [f32]) {
        self.run_with(Path::best(), out);
    }

    /// The same with these instructions, if the machine has them.
    pub fn run_with(self, path: Path, out: &mut [f32]) {
        let (k, n) = self.weight.shape();
        let rows = self.x.len() / k;
        assert_eq!((self.x.len(), out.len()), (rows * k, rows * n), "a product of {rows} x {k} x {n}");
        assert!(self.bias.is_none_or(|bias| bias.len() == n), "a bias of {n}");
        assert!(!self.add || self.act == Activation::Identity, "sums have no activation");
        let out = Out { data: out.as_mut_ptr(), n };
        rows::with_strips(self.x, k, |strips| {
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
        let Product { weight, bias, act, add, .. } = self.product;
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
                    let place = unsafe { self.out.data.add(start) };
                    let to = Place { data: place, stride: self.out.n, width, add };
                    let scales = weight.pair_scales(pair);
                    if act == Activation::Identity {
                        // SAFETY: as above.
                        unsafe { finish(&sums, strip, scales, &biases, to) };
                        continue;
                    }
                    let data = values.0.as_mut_ptr().cast();
                    let all = Place { data, stride: WIDE, width: WIDE, add: false };
                    // SAFETY: there is room for a strip.
                    unsafe { finish(&sums, strip, scales, &biases, all) };
                    let rows = strip.tiles[0] + strip.tiles[1];
                    act.apply(values.0[..rows].as_flattened_mut());
                    for (row, values) in values.0[..rows].iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { to.row(row).copy_from_slice(&values[..width]) };
                    }
                }
            }
        }
    }
}

/// Where a strip's results go: `width` numbers a row, added to what is there or written.
#[derive(Clone, Copy)]
struct Place {
    data: *mut f32,
    stride: usize,
    width: usize,
    add: bool,
}

impl Place {
    /// # Safety
    /// The row must exist and belong to the caller.
    #[inline(always)]
    unsafe fn row<'a>(self, row: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.width) }
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
        let value = |i: usize| sums[i].wrapping_sub(excess) as f32 * (scale * scales[i]) + bias[i];
        // SAFETY: the caller's promise.
        let out = unsafe { to.row(at) };
        match (<&mut [f32; WIDE]>::try_from(&mut *out), to.add) {
            (Ok(out), true) => (0..WIDE).for_each(|i| out[i] += value(i)),
            (Ok(out), false) => (0..WIDE).for_each(|i| out[i] = value(i)),
            (Err(_), true) => out.iter_mut().enumerate().for_each(|(i, out)| *out += value(i)),
            (Err(_), false) => out.iter_mut().enumerate().for_each(|(i, out)| *out = value(i)),
        }
    }
}
