//! Matrices laid out for the kernel of [`super::gemm`].

use super::lines::Lines;
use super::{Activation, pool};
use rten_simd::ops::BitOps;
use rten_simd::{Isa, SimdOp};

/// A strided matrix in memory: element (row, column) is at `row * row_stride + column * column_stride`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub column_stride: usize,
}

impl<'a> View<'a> {
    /// A matrix whose rows lie one after the other, `stride` numbers apart.
    pub fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: stride, column_stride: 1 }
    }

    /// The transpose of such a matrix.
    pub fn turned(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: 1, column_stride: stride }
    }
}

/// The right-hand side of a matrix product, `k` × `n`, laid out for the kernel of this machine: panels as wide as two
/// vector registers, each row after row.
#[derive(Debug)]
pub struct Packed {
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) width: usize,
    pub(super) panels: Lines<f32>,
}

impl Default for Packed {
    fn default() -> Self {
        Self::empty()
    }
}

impl Packed {
    /// Packs a weight in checkpoint layout: `n` rows of `k` inputs each, as `torch.nn.Linear` stores it.
    pub fn from_weight(weight: &[f32], n: usize, k: usize) -> Self {
        assert_eq!(weight.len(), n * k, "weight of {n} x {k}");
        let mut packed = Self::empty();
        packed.fill(View::turned(weight, k), k, n, Activation::Identity);
        packed
    }

    /// Packs a weight whose rows come in several parts, each of `k` inputs a row: a whole number of panels in all parts
    /// but the last.
    pub fn from_parts(parts: &[&[f32]], k: usize) -> Option<Self> {
        let rows = |part: &[f32]| part.len().checked_div(k).filter(|rows| rows * k == part.len());
        let (mut packed, n) = (Self::empty(), parts.iter().try_fold(0, |n, part| Some(n + rows(part)?))?);
        packed.allocate(k, n);
        let (width, panel_len, mut panels) = (packed.width, k * packed.width, &mut *packed.panels);
        for (i, part) in parts.iter().enumerate() {
            let rows = rows(part)?;
            if rows % width != 0 && i + 1 < parts.len() {
                return None;
            }
            let (own, rest) = panels.split_at_mut(rows.div_ceil(width) * panel_len);
            pool::chunks(own, panel_len, |p, panel| pack_panel(View::turned(part, k), k, rows, p, width, panel));
            panels = rest;
        }
        Some(packed)
    }

    /// Packs `act` of `k` × `n` numbers seen through a view on the pool, reusing this value's memory.
    pub fn fill(&mut self, view: View<'_>, k: usize, n: usize, act: Activation) {
        self.allocate(k, n);
        let (width, panel_len) = (self.width, k * self.width);
        pool::chunks(&mut self.panels, panel_len.max(1), |p, panel| {
            pack_panel(view, k, n, p, width, panel);
            act.apply(panel);
        });
    }

    /// Packs `k` × `n` numbers seen through a view, reusing this value's memory. Single-threaded.
    pub fn refill(&mut self, view: View<'_>, k: usize, n: usize) {
        self.allocate(k, n);
        let (width, panel_len) = (self.width, k * self.width);
        for (p, panel) in self.panels.chunks_mut(panel_len.max(1)).enumerate() {
            pack_panel(view, k, n, p, width, panel);
        }
    }

    /// The numbers in checkpoint layout: `n` rows of `k` inputs each.
    pub fn unpacked(&self) -> Vec<f32> {
        let mut weight = vec![0.0; self.n * self.k];
        if self.k > 0 {
            pool::chunks(&mut weight, self.width * self.k, |p, rows| {
                let panel = &self.panels[p * self.k * self.width..][..self.k * self.width];
                for (column, row) in rows.chunks_mut(self.k).enumerate() {
                    let from = panel[column..].iter().step_by(self.width);
                    row.iter_mut().zip(from).for_each(|(to, value)| *to = *value);
                }
            });
        }
        weight
    }

    /// The transpose, `n` × `k`, packed.
    pub fn turned(&self) -> Self {
        let mut turned = Self::empty();
        turned.fill(View::rows(&self.unpacked(), self.k), self.n, self.k, Activation::Identity);
        turned
    }

    /// An empty value to [`Packed::refill`].
    pub fn empty() -> Self {
        Self { k: 0, n: 0, width: panel_width(), panels: Lines::default() }
    }

    /// The shape: inputs, outputs.
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    fn allocate(&mut self, k: usize, n: usize) {
        (self.k, self.n, self.width) = (k, n, panel_width());
        // What was there is written over, but for the padding of the last panel, which no one reads into a result.
        self.panels.resize(n.div_ceil(self.width) * self.width * k);
    }
}

fn pack_panel(view: View<'_>, k: usize, n: usize, p: usize, width: usize, panel: &mut [f32]) {
    let first = p * width;
    let columns = width.min(n - first);
    if view.column_stride == 1 {
        for (row, out) in panel.chunks_mut(width).enumerate().take(k) {
            out[..columns].copy_from_slice(&view.data[row * view.row_stride + first..][..columns]);
        }
        return;
    }
    if view.row_stride == 1 {
        for (block, out) in panel.chunks_mut(width * STEPS).enumerate().take(k.div_ceil(STEPS)) {
            let steps = STEPS.min(k - block * STEPS);
            let from = &view.data[first * view.column_stride + block * STEPS..];
            turn(from, view.column_stride, columns, steps, out, width);
        }
        return;
    }
    for (row, out) in panel.chunks_mut(width).enumerate().take(k) {
        let from = view.data[row * view.row_stride + first * view.column_stride..].iter().step_by(view.column_stride);
        out[..columns].iter_mut().zip(from).for_each(|(out, value)| *out = *value);
    }
}

/// How many steps are packed at a time, so that what is read and what is written both stay in the first cache.
const STEPS: usize = 16;

/// Packs rows `first .. first + rows` of the left side into `tile`: for each of `k` steps `height` numbers, one a row.
/// Rows beyond `rows` are zero.
pub(super) fn pack_tile(a: View<'_>, first: usize, rows: usize, height: usize, k: usize, tile: &mut [f32]) {
    if rows < height {
        tile.fill(0.0);
    }
    if a.row_stride == 1 {
        for (step, out) in tile.chunks_exact_mut(height).enumerate().take(k) {
            out[..rows].copy_from_slice(&a.data[step * a.column_stride + first..][..rows]);
        }
        return;
    }
    assert_eq!(a.column_stride, 1, "a left side whose rows or columns are contiguous");
    for (block, out) in tile.chunks_mut(height * STEPS).enumerate() {
        let steps = STEPS.min(k - block * STEPS);
        turn(&a.data[first * a.row_stride + block * STEPS..], a.row_stride, rows, steps, out, height);
    }
}

/// Writes the transpose of `rows` × `steps` numbers, `stride` apart, as `steps` rows `height` apart.
fn turn(from: &[f32], stride: usize, rows: usize, steps: usize, to: &mut [f32], height: usize) {
    if rows < 4 || steps < 4 {
        for row in 0..rows {
            let from = &from[row * stride..][..steps];
            to[row..].iter_mut().step_by(height).zip(from).for_each(|(to, value)| *to = *value);
        }
        return;
    }
    // Squares of four, which are turned in registers; the last of a row or column may lie over the one before.
    for row in (0..rows).step_by(4).map(|row| row.min(rows - 4)) {
        for step in (0..steps).step_by(4).map(|step| step.min(steps - 4)) {
            let line = |i: usize| <[f32; 4]>::try_from(&from[(row + i) * stride + step..][..4]).unwrap_or_default();
            let [a, b, c, d] = [line(0), line(1), line(2), line(3)];
            for i in 0..4 {
                to[(step + i) * height + row..][..4].copy_from_slice(&[a[i], b[i], c[i], d[i]]);
            }
        }
    }
}

/// The width of a panel: two vector registers of the instruction set that will run.
fn panel_width() -> usize {
    struct Width;
    impl SimdOp for Width {
        type Output = usize;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> usize {
            2 * isa.f32().len()
        }
    }
    static WIDTH: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *WIDTH.get_or_init(|| Width.dispatch())
}
