//! The kernel of [`super::gemm`]: packed rows times packed columns, in registers.
//!
//! Instruction sets (AVX-512, AVX2, NEON, portable) are chosen at run time by `rten-simd`.

use super::Activation;
use super::pack::Packed;
use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};
use std::ops::Range;

/// The rows of a tile.
pub(super) const ROWS: usize = 14;
/// The numbers of the widest tile.
const NUMBERS: usize = ROWS * 32;

/// One block of packed rows times a range of panels.
pub(super) struct Block<'a> {
    /// Tiles of [`ROWS`] rows, each with `k` steps of one number a row.
    pub(super) tiles: &'a [f32],
    /// The rows that there are.
    pub(super) rows: usize,
    pub(super) b: &'a Packed,
    pub(super) panels: Range<usize>,
    pub(super) finish: Finish<'a>,
}

/// What happens to sums before they are written: `onto + act(scale · sum + bias)`.
pub(super) struct Finish<'a> {
    pub(super) bias: Option<&'a [f32]>,
    pub(super) act: Activation,
    pub(super) scale: f32,
    /// With the strides of `out`, which it may be.
    pub(super) onto: Option<*const f32>,
    /// The first row of the block.
    pub(super) out: Out,
}

/// Where sums go.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) data: *mut f32,
    pub(super) stride: usize,
}

// SAFETY: `Out` is only written through `Product::part`, whose callers hand disjoint parts to different threads.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

impl SimdOp for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (k, width) = (self.b.k, self.b.width);
        let panel = |p: usize| &self.b.panels[p * k * width..][..k * width];
        let tiles = self.rows.div_ceil(ROWS);
        let mut sums = [0.0; NUMBERS];
        for p in self.panels.clone() {
            // While a panel is multiplied the next one comes into the cache, for each tile a part of it.
            let next = panel(if p + 1 < self.panels.end { p + 1 } else { self.panels.start });
            let share = next.len().div_ceil(tiles);
            for t in 0..tiles {
                let rows = ROWS.min(self.rows - t * ROWS);
                let tile = &self.tiles[t * ROWS * k..][..ROWS * k];
                let ahead = &next[(t * share).min(next.len())..];
                let pass = Pass { tile, panel: panel(p), ahead, share };
                // Wide registers come in thirty-twos: 14 x 2 accumulators fit. Narrower sets get narrower tiles.
                let mut row = 0;
                if isa.f32().len() >= 16 {
                    row += match rows {
                        13.. => pass.run::<I, 14>(isa, 0, &mut sums),
                        9.. => pass.run::<I, 12>(isa, 0, &mut sums),
                        5.. => pass.run::<I, 8>(isa, 0, &mut sums),
                        3.. => pass.run::<I, 4>(isa, 0, &mut sums),
                        2 => pass.run::<I, 2>(isa, 0, &mut sums),
                        _ => pass.run::<I, 1>(isa, 0, &mut sums),
                    };
                }
                while row < rows {
                    row += match rows - row {
                        4.. => pass.run::<I, 6>(isa, row, &mut sums),
                        2.. => pass.run::<I, 3>(isa, row, &mut sums),
                        _ => pass.run::<I, 1>(isa, row, &mut sums),
                    };
                }
                let columns = p * width..self.b.n.min((p + 1) * width);
                self.finish.run(isa, &mut sums, t * ROWS..t * ROWS + rows, columns);
            }
        }
    }
}

/// One tile times one panel.
struct Pass<'a> {
    tile: &'a [f32],
    panel: &'a [f32],
    /// What is to come into the cache meanwhile: `share` numbers from here.
    ahead: &'a [f32],
    share: usize,
}

/// How many steps are made between two looks ahead.
const STEPS: usize = 8;

impl Pass<'_> {
    /// Sums of rows `from .. from + R` of the tile, two registers a row; returns `R`.
    #[inline(always)]
    fn run<I: Isa, const R: usize>(&self, isa: I, from: usize, to: &mut [f32; NUMBERS]) -> usize {
        let ops = isa.f32();
        let len = ops.len();
        let k = self.tile.len() / ROWS;
        debug_assert!(self.panel.len() >= 2 * len * k);
        let mut sums = [[ops.zero(); 2]; R];
        let share = self.share.min(self.ahead.len());
        let lines = share.div_ceil(16).div_ceil((k / STEPS).max(1));
        let mut ahead = self.ahead.as_ptr();
        for block in 0..k / STEPS {
            for _ in 0..lines {
                ops.prefetch(ahead);
                ahead = ahead.wrapping_add(16);
            }
            for i in 0..STEPS {
                self.step(isa, from, block * STEPS + i, &mut sums);
            }
        }
        for i in k / STEPS * STEPS..k {
            self.step(isa, from, i, &mut sums);
        }
        for (sum, to) in sums.iter().zip(to[from * 2 * len..].chunks_exact_mut(2 * len)) {
            ops.store(sum[0], &mut to[..len]);
            ops.store(sum[1], &mut to[len..]);
        }
        R
    }

    /// Adds the products of step `i`.
    #[inline(always)]
    fn step<I: Isa, const R: usize>(&self, isa: I, from: usize, i: usize, sums: &mut [[I::F32; 2]; R]) {
        let ops = isa.f32();
        let len = ops.len();
        // SAFETY: a tile has ROWS numbers for each of k steps (`from + R` is clamped), a panel two registers' worth.
        unsafe {
            let b = self.panel.as_ptr().add(i * 2 * len);
            let (b0, b1) = (ops.load_ptr(b), ops.load_ptr(b.add(len)));
            let a = self.tile.as_ptr().add(i * ROWS);
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = ops.splat(*a.add((from + r).min(ROWS - 1)));
                sum[0] = ops.mul_add(value, b0, sum[0]);
                sum[1] = ops.mul_add(value, b1, sum[1]);
            }
        }
    }
}

impl Finish<'_> {
    /// Writes the sums of these rows and columns, two registers a row.
    #[inline(always)]
    fn run<I: Isa>(&self, isa: I, sums: &mut [f32; NUMBERS], rows: Range<usize>, columns: Range<usize>) {
        let ops = isa.f32();
        let len = ops.len();
        let numbers = &mut sums[..rows.len() * 2 * len];
        let halves = [0, 1].map(|half| {
            let start = columns.len().min(half * len);
            start..columns.len().min(start + len)
        });
        if self.bias.is_some() || self.scale != 1.0 {
            let scale = ops.splat(self.scale);
            let bias = halves.clone().map(|half| match self.bias {
                Some(bias) => ops.load_pad(&bias[columns.start + half.start..columns.start + half.end]).0,
                None => ops.zero(),
            });
            for row in numbers.chunks_exact_mut(2 * len) {
                for (numbers, bias) in row.chunks_exact_mut(len).zip(bias) {
                    ops.store(ops.add(ops.mul(ops.load(numbers), scale), bias), numbers);
                }
            }
        }
        self.act.apply_vectors(isa, numbers);
        for (row, numbers) in rows.zip(numbers.chunks_exact(2 * len)) {
            for (half, numbers) in halves.iter().zip(numbers.chunks_exact(len)) {
                let (mask, at) = (ops.first_n_mask(half.len()), row * self.out.stride + columns.start + half.start);
                let mut value = ops.load(numbers);
                // SAFETY: row and columns exist, and `Product::part`'s contract makes them ours; the mask keeps the load
                // and the store within them.
                unsafe {
                    if let Some(onto) = self.onto {
                        value = ops.add(ops.load_ptr_mask(onto.add(at), mask), value);
                    }
                    ops.store_ptr_mask(value, self.out.data.add(at), mask);
                }
            }
        }
    }
}
