//! A product of rows and a weight: which thread computes what, and what is done with its sums.

use super::path::{Kernel, Path};
use super::rows::{self, Strip};
use super::{PANEL, STRIP, Sums, TILE, Weight};
use crate::ops::activation::With;
use crate::ops::gemm::{Norm, Onto};
use crate::ops::{Activation, pool};
use rten_simd::ops::{BitOps, NumOps, ToFloat};
use rten_simd::{Isa, SimdOp, SimdUnaryOp};
use std::cell::RefCell;
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

    /// What `second` makes of this product's outputs, in the place of its own inputs, as new numbers. With many rows, those
    /// of a strip stay in the second cache until they are read.
    pub fn make_through(self, second: Product<'_>) -> Vec<f32> {
        let ((k, between), n) = (self.weight.shape(), second.weight.shape().1);
        let (rows, path) = (self.x.len() / k, Path::best());
        // AMX multiplies faster than weights come from the third cache, which each strip would read anew.
        if path == Path::Amx || rows < THROUGH * pool::threads() {
            let hidden = self.make();
            return Product { x: &hidden, ..second }.make();
        }
        self.check();
        Product { x: &[], ..second }.check();
        assert_eq!(second.weight.shape().0, between, "inputs of a second product");
        let numbers = match second.onto {
            Onto::Numbers(numbers) => Some(numbers),
            Onto::Nothing => None,
            Onto::Output => panic!("new numbers hold nothing to add to"),
        };
        assert!(numbers.is_none_or(|numbers| numbers.len() == rows * n), "what a product is added to");
        let mut out = Vec::with_capacity(rows * n);
        let to = Out { data: out.as_mut_ptr(), n };
        rows::with_strips(self.x, k, self.norm, |strips| {
            let height = strips.first().map_or(1, |strip| strip.tiles[0]);
            pool::run(strips.len(), |i| {
                BETWEEN.with_borrow_mut(|(hidden, strip)| {
                    let (first, count) = (i * 2 * height, strips[i].tiles[0] + strips[i].tiles[1]);
                    hidden.resize(2 * height * between, 0.0);
                    // SAFETY: the numbers between are this thread's.
                    unsafe { self.job(path, Out { data: hidden.as_mut_ptr(), n: between }).run(&strips[i..=i]) };
                    strip.fill(&hidden[..count * between], between, None, height);
                    let onto = numbers.map_or(Onto::Nothing, |numbers| Onto::Numbers(&numbers[first * n..]));
                    // SAFETY: there is room for these rows, which no other part has.
                    unsafe {
                        let out = Out { data: to.at(first), n };
                        Product { onto, ..second }.job(path, out).run(std::slice::from_ref(strip));
                    }
                });
            });
        });
        // SAFETY: every number of every row was written.
        unsafe { out.set_len(rows * n) };
        out
    }

    /// All columns of one strip.
    fn job(self, path: Path, out: Out) -> Job<'a> {
        Job { product: self, path, strips: 0..1, pairs: 0..self.weight.pairs(), out }
    }

    /// Looks whether all that is not of the rows' number has its length.
    fn check(&self) {
        let (k, n) = self.weight.shape();
        assert_eq!(self.x.len() % k, 0, "rows of {k} inputs");
        assert!(self.bias.is_none_or(|bias| bias.len() == n), "a bias of {n}");
        assert!(self.norm.is_none_or(|norm| norm.weight.len() == k && norm.bias.len() == k), "a norm of {k}");
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
        self.check();
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

/// From so many rows a thread on, two products go strip by strip.
const THROUGH: usize = 4 * STRIP;

thread_local! {
    /// The numbers between two products, and what becomes of them.
    static BETWEEN: RefCell<(Vec<f32>, Strip)> = RefCell::default();
}

#[derive(Clone, Copy)]
struct Out {
    data: *mut f32,
    n: usize,
}

impl Out {
    /// Where a row begins.
    fn at(self, row: usize) -> *mut f32 {
        self.data.wrapping_add(row * self.n)
    }
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
        let mut sums = Sums([[0; WIDE]; STRIP]);
        // Few strips stay in the cache themselves, and weights pass once.
        let block = if self.strips.len() < 4 { 1 } else { (BLOCK / size_of_val(weight.pair(0))).max(1) };
        for first in self.pairs.clone().step_by(block) {
            for at in self.strips.clone() {
                for pair in first..self.pairs.end.min(first + block) {
                    let column = pair * WIDE;
                    let columns = column..self.out.n.min(column + WIDE);
                    let strip = &strips[at];
                    let start = at * 2 * height * self.out.n + column;
                    // SAFETY: rows and columns exist, and by the caller's promise they are ours.
                    let (data, onto) = unsafe { (self.out.data.add(start), onto.map(|onto| onto.add(start))) };
                    let to = Place { data, stride: self.out.n, width: columns.len(), onto };
                    to.expect(strip.tiles[0] + strip.tiles[1]);
                    kernel.sums(strip, weight.pair(pair), &mut sums);
                    let bias = bias.map(|bias| &bias[columns]);
                    Finish { sums: &sums, strip, scales: weight.pair_scales(pair), bias, act, to }.dispatch();
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
    /// Brings the lines of so many rows into the cache: they will be written, or added to, when sums are there.
    #[inline(always)]
    fn expect(self, rows: usize) {
        #[cfg(target_arch = "x86_64")]
        for at in (0..rows).flat_map(|row| (0..self.width).step_by(16).map(move |column| row * self.stride + column)) {
            use std::arch::x86_64::*;
            // SAFETY: fetching ahead reads nothing.
            unsafe {
                _mm_prefetch::<_MM_HINT_ET0>(self.data.wrapping_add(at).cast());
                if let Some(onto) = self.onto {
                    _mm_prefetch::<_MM_HINT_T0>(onto.wrapping_add(at).cast());
                }
            }
        }
    }
}

/// The outputs of a pair of panels.
const WIDE: usize = 2 * PANEL;

/// Makes numbers of a strip's sums, which must have a place for each.
struct Finish<'a> {
    sums: &'a Sums,
    strip: &'a Strip,
    scales: &'a [f32],
    bias: Option<&'a [f32]>,
    act: Activation,
    to: Place,
}

impl SimdOp for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        self.act.choose(Numbers(isa, self));
    }
}

struct Numbers<'a, I>(I, Finish<'a>);

impl<I: Isa> With for Numbers<'_, I> {
    #[inline(always)]
    fn call(self, f: impl SimdUnaryOp<f32>) {
        let Self(isa, Finish { sums, strip, scales, bias, to, .. }) = self;
        let (ops, ints) = (isa.f32(), isa.i32());
        let len = ops.len();
        // Two vectors at a time, which share what belongs to a row.
        for start in (0..to.width).step_by(2 * len) {
            let middle = to.width.min(start + len);
            let (left, right) = (start..middle, middle..to.width.min(start + 2 * len));
            let whole = right.len() == len;
            let (scales0, scales1) = (ops.load_pad(&scales[left.clone()]).0, ops.load_pad(&scales[right.clone()]).0);
            let (bias0, bias1) = match bias {
                Some(bias) => (ops.load_pad(&bias[left.clone()]).0, ops.load_pad(&bias[right.clone()]).0),
                None => (ops.zero(), ops.zero()),
            };
            let (mask0, mask1) = (ops.first_n_mask(left.len()), ops.first_n_mask(right.len()));
            let rows = (0..strip.tiles[0]).chain(TILE..TILE + strip.tiles[1]);
            for (at, row) in rows.enumerate() {
                // Weights are kept plus 128.
                let excess = ints.splat(strip.totals[row].wrapping_mul(128));
                let scale = ops.splat(strip.scales[row]);
                let from = &sums.0[row][start..][..2 * len];
                let sum0 = ints.to_float(ints.sub(ints.load(from), excess));
                let sum1 = ints.to_float(ints.sub(ints.load(&from[len..]), excess));
                let mut value0 = f.eval(isa, ops.add(ops.mul(sum0, ops.mul(scale, scales0)), bias0));
                let mut value1 = f.eval(isa, ops.add(ops.mul(sum1, ops.mul(scale, scales1)), bias1));
                let at = at * to.stride + start;
                // SAFETY: row and columns exist, and `Job::run`'s caller made them ours; masks keep to the columns.
                unsafe {
                    let data = to.data.add(at);
                    if let Some(onto) = to.onto {
                        let onto = onto.add(at);
                        value0 = ops.add(value0, ops.load_ptr_mask(onto, mask0));
                        value1 = ops.add(value1, ops.load_ptr_mask(onto.wrapping_add(len), mask1));
                    }
                    if whole {
                        ops.store_ptr(value0, data);
                        ops.store_ptr(value1, data.add(len));
                    } else {
                        ops.store_ptr_mask(value0, data, mask0);
                        ops.store_ptr_mask(value1, data.wrapping_add(len), mask1);
                    }
                }
            }
        }
    }
}
