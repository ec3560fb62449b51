//! Matrix product with a packed right-hand side: `out = act(norm(a) · b + bias)`.
//!
//! Weights are packed ([`Packed`]), at load or where they are trained at each call, into panels as wide as two vector
//! registers; a tile of up to 14 rows is multiplied with one panel at a time (`tile`), each output number being summed over
//! `k` in order by one chain of multiply-adds. So a row's result does not depend on how many rows there are or which
//! thread computes it.

pub use super::layer_norm::Norm;
use super::loose::Loose;
use super::pack::pack_tile;
pub use super::pack::{Packed, Source, View};
use super::scratch::with_packed;
use super::tile::{Block, Finish, Out, ROWS};
use super::{Activation, pool};
use rten_simd::SimdOp;
use std::cell::RefCell;
use std::ops::Range;

/// Computes `out = act(a · b + bias)` on the pool: `a` is `m` × `k` and `out` `m` × `n`, both row-major.
pub fn matmul(a: &[f32], m: usize, b: &Packed, bias: Option<&[f32]>, act: Activation, out: &mut [f32]) {
    let (k, n) = b.shape();
    assert_eq!((a.len(), out.len()), (m * k, m * n), "a product of {m} x {k} x {n}");
    Product { bias, act, ..Product::new(View::rows(a, k), m, b) }.run(out, n);
}

/// A product to be computed: `out = onto + act(scale · (norm(a) · b) + bias)`.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// The left side, `m` × `k`, its rows or its columns contiguous.
    pub a: View<'a>,
    /// The rows of the left side.
    pub m: usize,
    /// The right side, `k` × `n`.
    pub b: &'a Packed,
    /// Applied to each row of the left side, which must then be contiguous.
    pub norm: Option<Norm<'a>>,
    /// Added to each row.
    pub bias: Option<&'a [f32]>,
    /// Applied to the sums.
    pub act: Activation,
    /// Multiplies the products.
    pub scale: f32,
    /// What all that is added to.
    pub onto: Onto<'a>,
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub enum Onto<'a> {
    /// Nothing: the output is written over.
    Nothing,
    /// What the output holds.
    Output,
    /// These numbers, with the output's stride.
    Numbers(&'a [f32]),
}

impl<'a> Product<'a> {
    /// `a · b` and nothing else.
    pub fn new(a: View<'a>, m: usize, b: &'a Packed) -> Self {
        let (act, onto) = (Activation::Identity, Onto::Nothing);
        Self { a, m, b, norm: None, bias: None, act, scale: 1.0, onto }
    }

    /// Computes it on the pool; `out` has `stride` numbers a row, of which `n` are written.
    pub fn run(self, out: &mut [f32], stride: usize) {
        self.spread(self.place(out, stride));
    }

    /// Computes it on the pool; `out` has room for all rows.
    fn spread(self, out: Out) {
        self.check(out.stride);
        let plain = self.norm.is_none() || self.a.row_stride == self.b.k;
        if let Some(loose) = self.b.read_once(self.m).filter(|_| plain) {
            return self.read(loose, out);
        }
        // A weight that lies elsewhere is packed by all threads, before they share the product.
        self.b.panels();
        let (m, (k, n)) = (self.m, self.b.shape());
        let threads = if m * n * k < SMALL { 1 } else { pool::threads() };
        let (tiles, panels) = (m.div_ceil(ROWS), n.div_ceil(self.b.width));
        if tiles >= 2 * threads {
            // Many rows: each part takes some rows and all columns.
            let turns = Turns::new(m, threads, block_rows(k));
            pool::run(turns.parts(), |part| {
                // SAFETY: the parts' rows are disjoint and lie within `out`.
                unsafe { self.part(out, turns.rows(part), 0..panels) }
            });
        } else {
            // Few rows: each part takes all rows and some columns.
            let parts = threads.min(panels);
            pool::run(parts, |part| {
                // SAFETY: the parts' columns are disjoint and lie within `out`.
                unsafe { self.part(out, 0..m, part * panels / parts..(part + 1) * panels / parts) }
            });
        }
    }

    /// Computes it on the pool with a weight where it lies.
    fn read(self, loose: &Loose, out: Out) {
        let (m, (k, n), width) = (self.m, self.b.shape(), self.b.width);
        let normed = self.norm.map(|norm| norm.rows(&self.a.data[..m * k]));
        let a = normed.as_deref().map_or(self.a, |rows| View::rows(rows, k));
        let (panels, group) = (n.div_ceil(width), loose.group());
        pool::run(panels.div_ceil(group), |part| {
            let columns = part * group * width..n.min((part + 1) * group * width);
            with_packed(|b| {
                loose.pack(part * group..panels.min((part + 1) * group), n, b);
                let onto = match self.onto {
                    Onto::Numbers(numbers) => Onto::Numbers(&numbers[columns.start..]),
                    onto => onto,
                };
                let bias = self.bias.map(|bias| &bias[columns.clone()]);
                let product = Product { a, b, norm: None, bias, onto, ..self };
                let (out, panels) = (out.at_column(columns.start), columns.len().div_ceil(width));
                // SAFETY: these columns of `out` are this part's, and exist.
                unsafe { product.part(out, 0..m, 0..panels) }
            });
        });
        loose.release();
    }

    /// The same as new numbers, row after row.
    pub fn make(self) -> Vec<f32> {
        let n = self.b.n;
        assert!(!matches!(self.onto, Onto::Output), "new numbers hold nothing to add to");
        let mut out = Vec::with_capacity(self.m * n);
        self.spread(Out { data: out.as_mut_ptr(), stride: n });
        // SAFETY: every number of every row was written.
        unsafe { out.set_len(self.m * n) };
        out
    }

    /// The same on the calling thread.
    pub fn run_here(self, out: &mut [f32], stride: usize) {
        let out = self.place(out, stride);
        // SAFETY: this thread owns all of `out`, which is long enough.
        unsafe { self.run_at(out.data, stride) }
    }

    /// The same where others write between the rows.
    ///
    /// # Safety
    /// There must be room for these rows, `stride` numbers apart, and no other thread may touch them.
    pub(super) unsafe fn run_at(self, data: *mut f32, stride: usize) {
        self.check(stride);
        // SAFETY: the caller's promise.
        unsafe { self.part(Out { data, stride }, 0..self.m, 0..self.b.n.div_ceil(self.b.width)) }
    }

    /// Where the output goes, which must be long enough.
    fn place(&self, out: &mut [f32], stride: usize) -> Out {
        assert!(self.fits(out.len(), stride), "output too short for {} x {}", self.m, self.b.n);
        Out { data: out.as_mut_ptr(), stride }
    }

    fn fits(&self, len: usize, stride: usize) -> bool {
        let (m, n) = (self.m, self.b.n);
        m == 0 || n == 0 || len >= (m - 1) * stride + n && stride >= n
    }

    /// Looks whether all inputs are long enough.
    fn check(&self, stride: usize) {
        let (m, (k, n), a) = (self.m, self.b.shape(), self.a);
        if let Onto::Numbers(numbers) = self.onto {
            assert!(self.fits(numbers.len(), stride), "what is added to is too short for {m} x {n}");
        }
        let last = (m.max(1) - 1) * a.row_stride + (k.max(1) - 1) * a.column_stride;
        assert!(m == 0 || k == 0 || a.data.len() > last, "left side too short");
        assert!(self.bias.is_none_or(|bias| bias.len() == n), "a bias of {n} numbers");
        let norm = |norm: Norm<'_>| a.column_stride == 1 && norm.weight.len() == k && norm.bias.len() == k;
        assert!(self.norm.is_none_or(norm), "a norm of {k} contiguous numbers");
    }

    /// # Safety
    /// No other thread may touch these rows and columns of `out`, and they must lie within its allocation.
    unsafe fn part(&self, out: Out, rows: Range<usize>, panels: Range<usize>) {
        if rows.is_empty() || panels.is_empty() {
            return;
        }
        let k = self.b.k;
        let onto = match self.onto {
            Onto::Nothing => None,
            Onto::Output => Some(out.data.cast_const()),
            Onto::Numbers(numbers) => Some(numbers.as_ptr()),
        };
        SCRATCH.with_borrow_mut(|[tiles, lines]| {
            for first in rows.clone().step_by(block_rows(k)) {
                let count = block_rows(k).min(rows.end - first);
                tiles.resize(count.next_multiple_of(ROWS) * k, 0.0);
                for (t, tile) in tiles.chunks_mut((ROWS * k).max(1)).enumerate() {
                    self.pack(first + t * ROWS, ROWS.min(count - t * ROWS), lines, tile);
                }
                // SAFETY: `first` is a row of both.
                let (onto, out) = unsafe {
                    let at = first * out.stride;
                    (onto.map(|onto| onto.add(at)), Out { data: out.data.add(at), stride: out.stride })
                };
                let finish = Finish { bias: self.bias, act: self.act, scale: self.scale, onto, out };
                Block { tiles, height: ROWS, k, rows: count, b: self.b, panels: panels.clone(), finish }.dispatch();
            }
        });
    }

    /// Packs some rows of the left side, normalised where that is asked for.
    fn pack(&self, first: usize, rows: usize, lines: &mut Vec<f32>, tile: &mut [f32]) {
        let (k, a) = (self.b.k, self.a);
        let Some(norm) = self.norm else { return pack_tile(a, first, rows, ROWS, k, tile) };
        lines.resize(ROWS * k, 0.0);
        for (r, line) in lines.chunks_mut(k.max(1)).enumerate().take(rows) {
            norm.row(&a.data[(first + r) * a.row_stride..][..k], line);
        }
        pack_tile(View::rows(lines, k), 0, rows, ROWS, k, tile);
    }
}

/// Rows shared out among threads: for each as many, in whole tiles but for the last, and in each turn as many for all of them, in
/// the last one fewest, so that all end together.
#[derive(Clone, Copy)]
struct Turns {
    rows: usize,
    threads: usize,
    turns: usize,
}

impl Turns {
    /// No thread takes more than `most` rows, a multiple of [`ROWS`], at a time.
    fn new(rows: usize, threads: usize, most: usize) -> Self {
        Self { rows, threads, turns: rows.div_ceil(threads).div_ceil(most).max(1) }
    }

    /// How many parts there are.
    fn parts(self) -> usize {
        self.turns * self.threads
    }

    /// The rows of a part.
    fn rows(self, part: usize) -> Range<usize> {
        let (turn, thread) = (part / self.threads, part % self.threads);
        let edge = |thread: usize| thread * self.rows / self.threads;
        let (start, end) = (edge(thread), edge(thread + 1));
        let tiles = (end - start).div_ceil(ROWS);
        let at = |turn: usize| start + ROWS * (turn * (tiles / self.turns) + turn.min(tiles % self.turns));
        at(turn).min(end)..at(turn + 1).min(end)
    }
}

/// Computes `out = act(a · b + bias)` on the calling thread; `a` and `out` are row-major.
pub(super) fn matmul_block(a: &[f32], b: &Packed, bias: Option<&[f32]>, act: Activation, out: &mut [f32]) {
    let (k, n) = b.shape();
    Product { bias, act, ..Product::new(View::rows(a, k), out.len() / n.max(1), b) }.run_here(out, n);
}

/// Below this many multiply-adds a product stays on the calling thread.
const SMALL: usize = 1 << 15;

/// The rows that a convolution unfolds at a time.
pub(super) const BLOCK_ROWS: usize = 8 * ROWS;

/// The most rows that one part packs at a time: with the panels that go by they are to stay in the second cache.
fn block_rows(k: usize) -> usize {
    (BLOCK_NUMBERS / k.max(1) / ROWS).clamp(4, 16) * ROWS
}

/// How many numbers those rows may have: 512 KB.
const BLOCK_NUMBERS: usize = 1 << 17;

thread_local! {
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::activation::Activation::Identity;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    fn product(a: &[f32], m: usize, w: &[f32], n: usize, k: usize, bias: &[f32]) -> Vec<f32> {
        let dot = |i: usize, j: usize| -> f64 {
            (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(w[j * k + l])).sum::<f64>() + f64::from(bias[j])
        };
        (0..m * n).map(|at| dot(at / n, at % n) as f32).collect()
    }

    #[test]
    fn threads_take_as_many_rows_and_each_row_once() {
        for threads in 1..5 {
            for rows in 1..400 {
                for most in [ROWS, 4 * ROWS, 12 * ROWS] {
                    let turns = Turns::new(rows, threads, most);
                    let mut parts: Vec<Range<usize>> = (0..turns.parts()).map(|part| turns.rows(part)).collect();
                    assert!(parts.iter().all(|part| part.len() <= most), "{parts:?}");
                    for thread in 0..threads {
                        let own = parts.iter().skip(thread).step_by(threads).map(ExactSizeIterator::len);
                        let whole: usize = own.clone().sum();
                        assert!(rows / threads <= whole && whole <= rows.div_ceil(threads), "{parts:?}");
                        let inner = own.collect::<Vec<_>>();
                        assert!(inner.windows(2).all(|pair| pair[0] >= pair[1]), "{parts:?}");
                        assert!(
                            inner.iter().rev().skip_while(|len| **len == 0).skip(1).all(|len| len % ROWS == 0),
                            "{parts:?}"
                        );
                    }
                    parts.sort_by_key(|part| (part.start, part.end));
                    let end = parts.iter().fold(0, |end, part| if part.start == end { part.end } else { usize::MAX });
                    assert_eq!(end, rows, "{parts:?}");
                }
            }
        }
    }

    #[test]
    fn equals_the_definition_at_odd_shapes() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (14, 32, 64), (15, 33, 65), (50, 100, 31), (230, 70, 19), (2, 3, 0)] {
            let (a, w, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3));
            let packed = Packed::from_weight(&w, n, k);
            let mut out = vec![f32::NAN; m * n];
            matmul(&a, m, &packed, Some(&bias), Identity, &mut out);
            let expected = product(&a, m, &w, n, k, &bias);
            for (got, want) in out.iter().zip(&expected) {
                assert!((got - want).abs() <= 1e-4, "{m}x{n}x{k}: {got} for {want}");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (m, n, k) = (300, 96, 200);
        let (a, w) = (numbers(m * k, 4), numbers(n * k, 5));
        let packed = Packed::from_weight(&w, n, k);
        let mut all = vec![0.0; m * n];
        matmul(&a, m, &packed, None, Activation::GeluErf, &mut all);
        for (row, want) in a.chunks(k).zip(all.chunks(n)) {
            let mut one = vec![0.0; n];
            matmul(row, 1, &packed, None, Activation::GeluErf, &mut one);
            assert_eq!(one, want);
        }
    }
}
