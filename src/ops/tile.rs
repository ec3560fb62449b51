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
    /// Tiles of so many rows as they are high, each with `k` steps of one number a row.
    pub(super) tiles: &'a [f32],
    /// How high tiles are: [`ROWS`], or the width of a panel where the left side is a product's.
    pub(super) height: usize,
    /// The steps that are made, those of the right side or fewer.
    pub(super) k: usize,
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

impl Out {
    /// From this column on.
    pub(super) fn at_column(self, column: usize) -> Self {
        Self { data: self.data.wrapping_add(column), ..self }
    }
}

// SAFETY: `Out` is only written through `Product::part`, whose callers hand disjoint parts to different threads.
unsafe impl Sync for Out {}
// SAFETY: as above.
unsafe impl Send for Out {}

impl SimdOp for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (k, width, height) = (self.k, self.b.width, self.height);
        let panels = self.b.panels();
        let panel = |p: usize| &panels[p * self.b.k * width..][..k * width];
        let tiles = self.rows.div_ceil(height);
        let mut numbers = [0.0; NUMBERS];
        for p in self.panels.clone() {
            // While a panel is multiplied the next one comes into the cache, for each tile a part of it.
            let next = panel(if p + 1 < self.panels.end { p + 1 } else { self.panels.start });
            let share = next.len().div_ceil(tiles.max(1));
            let columns = p * width..self.b.n.min((p + 1) * width);
            for t in 0..tiles {
                let rows = t * height..self.rows.min((t + 1) * height);
                let tile = &self.tiles[t * height * k..][..height * k];
                let ahead = &next[(t * share).min(next.len())..];
                let (finish, columns) = (&self.finish, columns.clone());
                let mut pass = Pass { tile, height, panel: panel(p), ahead, share, finish, rows, columns };
                // Wide registers come in thirty-twos: 14 x 2 accumulators fit. Narrower sets get narrower tiles.
                if isa.f32().len() >= 16 {
                    while !pass.rows.is_empty() {
                        match pass.rows.len() {
                            13..=14 | 21..=28 => pass.run::<I, 14>(isa, &mut numbers),
                            9.. => pass.run::<I, 12>(isa, &mut numbers),
                            5.. => pass.run::<I, 8>(isa, &mut numbers),
                            3.. => pass.run::<I, 4>(isa, &mut numbers),
                            2 => pass.run::<I, 2>(isa, &mut numbers),
                            _ => pass.run::<I, 1>(isa, &mut numbers),
                        }
                    }
                }
                while !pass.rows.is_empty() {
                    match pass.rows.len() {
                        5.. => pass.run::<I, 6>(isa, &mut numbers),
                        4 => pass.run::<I, 4>(isa, &mut numbers),
                        3 => pass.run::<I, 3>(isa, &mut numbers),
                        2 => pass.run::<I, 2>(isa, &mut numbers),
                        _ => pass.run::<I, 1>(isa, &mut numbers),
                    }
                }
            }
        }
    }
}

/// One tile times one panel.
struct Pass<'a> {
    /// For each step the numbers of all its rows, from the first that is not written yet.
    tile: &'a [f32],
    height: usize,
    panel: &'a [f32],
    /// What is to come into the cache meanwhile: `share` numbers from here.
    ahead: &'a [f32],
    share: usize,
    finish: &'a Finish<'a>,
    /// The rows of the block that are not written yet.
    rows: Range<usize>,
    columns: Range<usize>,
}

/// How many steps are made between two looks ahead.
const STEPS: usize = 8;

impl Pass<'_> {
    /// Sums of the next `R` rows of the tile, two registers a row, to where they belong.
    #[inline(always)]
    fn run<I: Isa, const R: usize>(&mut self, isa: I, numbers: &mut [f32; NUMBERS]) {
        let ops = isa.f32();
        let len = ops.len();
        let k = self.tile.len().div_ceil(self.height);
        debug_assert!(self.panel.len() >= 2 * len * k && (k == 0 || self.tile.len() >= (k - 1) * self.height + R));
        let mut sums = [[ops.zero(); 2]; R];
        let share = self.share.min(self.ahead.len());
        let lines = share.div_ceil(16).div_ceil((k / STEPS).max(1));
        let mut ahead = self.ahead.as_ptr();
        let rows = self.rows.start..self.rows.end.min(self.rows.start + R);
        self.finish.expect(isa, rows.clone(), self.columns.clone());
        for block in 0..k / STEPS {
            for _ in 0..lines {
                ops.prefetch(ahead);
                ahead = ahead.wrapping_add(16);
            }
            for i in 0..STEPS {
                self.step(isa, block * STEPS + i, &mut sums);
            }
        }
        for i in k / STEPS * STEPS..k {
            self.step(isa, i, &mut sums);
        }
        self.rows.start = rows.end;
        self.tile = &self.tile[R.min(self.tile.len())..];
        self.finish.run(isa, sums, rows, self.columns.clone(), numbers);
    }

    /// Adds the products of step `i`.
    #[inline(always)]
    fn step<I: Isa, const R: usize>(&self, isa: I, i: usize, sums: &mut [[I::F32; 2]; R]) {
        let ops = isa.f32();
        let len = ops.len();
        // SAFETY: a tile has R numbers more for each of k steps, a panel two registers' worth.
        unsafe {
            let b = self.panel.as_ptr().add(i * 2 * len);
            let (b0, b1) = (ops.load_ptr(b), ops.load_ptr(b.add(len)));
            let a = self.tile.as_ptr().add(i * self.height);
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = ops.splat(*a.add(r));
                sum[0] = ops.mul_add(value, b0, sum[0]);
                sum[1] = ops.mul_add(value, b1, sum[1]);
            }
        }
    }
}

impl Finish<'_> {
    /// Brings what will be read and written into the cache.
    #[inline(always)]
    fn expect<I: Isa>(&self, isa: I, rows: Range<usize>, columns: Range<usize>) {
        let ops = isa.f32();
        for row in rows {
            for line in 0..=columns.len() / 16 {
                let at = row * self.out.stride + columns.start + line * 16;
                ops.prefetch_write(self.out.data.wrapping_add(at));
                if let Some(onto) = self.onto {
                    ops.prefetch(onto.wrapping_add(at));
                }
            }
        }
    }

    /// Writes the sums of these rows and columns, two registers a row; `numbers` is room for an activation.
    #[inline(always)]
    fn run<I: Isa, const R: usize>(
        &self,
        isa: I,
        mut sums: [[I::F32; 2]; R],
        rows: Range<usize>,
        columns: Range<usize>,
        numbers: &mut [f32; NUMBERS],
    ) {
        let ops = isa.f32();
        let len = ops.len();
        let halves = [0, 1].map(|half| {
            let start = columns.len().min(half * len);
            start..columns.len().min(start + len)
        });
        if self.scale != 1.0 {
            let scale = ops.splat(self.scale);
            for sum in sums.as_flattened_mut() {
                *sum = ops.mul(*sum, scale);
            }
        }
        if let Some(bias) = self.bias {
            for (half, range) in halves.iter().enumerate() {
                let bias = ops.load_pad(&bias[columns.start + range.start..columns.start + range.end]).0;
                for sum in &mut sums {
                    sum[half] = ops.add(sum[half], bias);
                }
            }
        }
        if self.act != Activation::Identity {
            let numbers = &mut numbers[..R * 2 * len];
            for (sum, to) in sums.as_flattened().iter().zip(numbers.chunks_exact_mut(len)) {
                ops.store(*sum, to);
            }
            self.act.apply_vectors(isa, numbers);
            for (sum, from) in sums.as_flattened_mut().iter_mut().zip(numbers.chunks_exact(len)) {
                *sum = ops.load(from);
            }
        }
        let whole = columns.len() == 2 * len;
        for (r, sum) in sums.into_iter().enumerate() {
            let row = rows.start + r;
            if row >= rows.end {
                break;
            }
            for (half, mut value) in halves.iter().zip(sum) {
                let at = row * self.out.stride + columns.start + half.start;
                // SAFETY: row and columns exist, and `Product::part`'s contract makes them ours; the mask keeps the load
                // and the store within them.
                unsafe {
                    if whole {
                        if let Some(onto) = self.onto {
                            value = ops.add(ops.load_ptr(onto.add(at)), value);
                        }
                        ops.store_ptr(value, self.out.data.add(at));
                    } else {
                        let mask = ops.first_n_mask(half.len());
                        if let Some(onto) = self.onto {
                            value = ops.add(ops.load_ptr_mask(onto.add(at), mask), value);
                        }
                        ops.store_ptr_mask(value, self.out.data.add(at), mask);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::lines::Lines;
    use crate::ops::pack::{View, pack_tile};
    use crate::ops::sets::Set;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mix = |i: u32| (i ^ i >> 15).wrapping_mul(2_246_822_519);
        let draw = |i: u32| mix(mix(i.wrapping_mul(2_654_435_761) ^ seed << 24)) >> 8;
        (0..count as u32).map(|i| draw(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// Panels of one set's width, with what is no number where a result must not come from.
    fn packed(set: Set, w: &[f32], n: usize, k: usize) -> Packed {
        let width = 2 * set.len();
        let mut panels = Lines::zeros(n.div_ceil(width) * width * k);
        for (at, number) in panels.iter_mut().enumerate() {
            let (step, column) = (at / width % k, at / (width * k) * width + at % width);
            *number = if column < n { w[column * k + step] } else { f32::NAN };
        }
        Packed { k, n, width, panels, loose: None }
    }

    /// What a product is made of: `onto + act(scale · a wᵀ + bias)`.
    #[derive(Clone, Copy)]
    struct Case<'a> {
        a: &'a [f32],
        w: &'a [f32],
        bias: Option<&'a [f32]>,
        act: Activation,
        scale: f32,
        onto: Option<&'a [f32]>,
        shape: (usize, usize, usize),
    }

    impl Case<'_> {
        /// By this set's kernel, which gives the same bytes from tiles that are as high as a panel is wide.
        fn multiply(self, set: Set) -> Vec<f32> {
            let [out, other] = [ROWS, 2 * set.len()].map(|height| self.multiply_tiles(set, height));
            assert_eq!(out, other, "{set:?} {:?}", self.shape);
            out
        }

        /// From tiles so high, into rows `GAP` numbers longer than they need be.
        fn multiply_tiles(self, set: Set, height: usize) -> Vec<f32> {
            let (m, n, k) = self.shape;
            let b = packed(set, self.w, n, k);
            let mut tiles = vec![f32::NAN; m.div_ceil(height) * height * k];
            for (t, tile) in tiles.chunks_mut(height * k).enumerate() {
                pack_tile(View::rows(self.a, k), t * height, height.min(m - t * height), height, k, tile);
            }
            let stride = n + GAP;
            let mut out = vec![UNTOUCHED; m * stride];
            if let Some(onto) = self.onto {
                for (out, onto) in out.chunks_mut(stride).zip(onto.chunks(n)) {
                    out[..n].copy_from_slice(onto);
                }
            }
            let out_onto = self.onto.map(|_| out.as_ptr());
            let (data, panels) = (out.as_mut_ptr(), 0..n.div_ceil(b.width));
            let finish =
                Finish { bias: self.bias, act: self.act, scale: self.scale, onto: out_onto, out: Out { data, stride } };
            set.run(Block { tiles: &tiles, height, k, rows: m, b: &b, panels, finish });
            assert!(out.chunks(stride).all(|row| row[n..].iter().all(|x| *x == UNTOUCHED)), "{set:?}: beyond its row");
            out.chunks(stride).flat_map(|row| row[..n].to_vec()).collect()
        }

        /// By definition.
        fn exact(self) -> Vec<f64> {
            let (m, n, k) = self.shape;
            let number = |at: usize| {
                let (i, j) = (at / n, at % n);
                let dot: f64 = (0..k).map(|l| f64::from(self.a[i * k + l]) * f64::from(self.w[j * k + l])).sum();
                let sum = f64::from(self.scale) * dot + self.bias.map_or(0.0, |bias| f64::from(bias[j]));
                let value = match self.act {
                    Activation::QuickGelu => sum / (1.0 + (-1.702 * sum).exp()),
                    Activation::Relu => sum.max(0.0),
                    _ => sum,
                };
                value + self.onto.map_or(0.0, |onto| f64::from(onto[at]))
            };
            (0..m * n).map(number).collect()
        }
    }

    const GAP: usize = 3;
    const UNTOUCHED: f32 = 12_345.0;

    /// At and around the sizes of tiles, vectors and panels: rows, outputs, inputs.
    const SHAPES: [(usize, usize, usize); 14] = [
        (1, 1, 1),
        (2, 3, 2),
        (3, 5, 7),
        (4, 8, 9),
        (5, 16, 8),
        (7, 17, 16),
        (8, 31, 15),
        (9, 32, 17),
        (13, 33, 40),
        (14, 40, 64),
        (15, 65, 33),
        (29, 15, 65),
        (43, 100, 31),
        (70, 96, 200),
    ];

    fn each_case(mut check: impl FnMut(Case<'_>)) {
        for shape in SHAPES {
            let (m, n, k) = shape;
            let (a, w, bias, onto) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3), numbers(m * n, 4));
            let plain = Case { a: &a, w: &w, bias: None, act: Activation::Identity, scale: 1.0, onto: None, shape };
            check(plain);
            check(Case { scale: 0.3, ..plain });
            check(Case { bias: Some(&bias), act: Activation::Relu, onto: Some(&onto), ..plain });
            check(Case { bias: Some(&bias), act: Activation::QuickGelu, ..plain });
        }
    }

    #[test]
    fn every_set_multiplies_by_definition() {
        for set in Set::available() {
            each_case(|case| {
                for (got, want) in case.multiply(set).into_iter().zip(case.exact()) {
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 1e-5, "{set:?} {:?} {:?}: {got} for {want}", case.shape, case.act);
                }
            });
        }
    }

    #[test]
    fn in_every_set_a_row_does_not_depend_on_its_neighbours() {
        for set in Set::available() {
            each_case(|case| {
                let (_, n, k) = case.shape;
                let all = case.multiply(set);
                for (i, (row, want)) in case.a.chunks(k).zip(all.chunks(n)).enumerate() {
                    let onto = case.onto.map(|onto| &onto[i * n..][..n]);
                    let one = Case { a: row, onto, shape: (1, n, k), ..case };
                    assert_eq!(one.multiply(set), want, "{set:?} {:?} row {i}", case.shape);
                }
            });
        }
    }

    #[test]
    fn sets_whose_multiply_adds_are_fused_give_the_same_bytes() {
        let sets: Vec<Set> = Set::available().into_iter().filter(|set| set.is_fused()).collect();
        each_case(|case| {
            for pair in sets.windows(2) {
                assert_eq!(case.multiply(pair[0]), case.multiply(pair[1]), "{pair:?} {:?}", case.shape);
            }
        });
    }
}
