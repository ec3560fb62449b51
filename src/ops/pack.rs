//! Matrices laid out for the kernel of [`super::gemm`].

use super::lines::Lines;
use super::loose::Loose;
pub use super::loose::Source;
use super::tile::ROWS;
use super::transpose::transpose;
use super::{Activation, pool};
use rten_simd::ops::BitOps;
use rten_simd::{Isa, SimdOp};
use std::sync::Arc;

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
    /// In the place of panels, a weight that lies elsewhere.
    pub(super) loose: Option<Box<Loose>>,
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

    /// A weight of `k` inputs that lies elsewhere and is packed when that is worth it: `None` if its parts do not fit. All
    /// parts but the last must be a whole number of panels.
    pub fn of_source(source: Arc<dyn Source>, k: usize) -> Option<Self> {
        let empty = Self::empty();
        let (loose, n) = Loose::new(source, k, empty.width)?;
        Some(Self { k, n, loose: Some(Box::new(loose)), ..empty })
    }

    /// Packs `act` of `k` × `n` numbers seen through a view on the pool, reusing this value's memory.
    pub fn fill(&mut self, view: View<'_>, k: usize, n: usize, act: Activation) {
        let (width, panel_len) = (self.width, k * self.width);
        pool::chunks(self.room(k, n), panel_len.max(1), |p, panel| {
            pack_panel(view, k, n, p, width, panel);
            act.apply(panel);
        });
    }

    /// Packs `k` × `n` numbers seen through a view, reusing this value's memory. Single-threaded.
    pub fn refill(&mut self, view: View<'_>, k: usize, n: usize) {
        let (width, panel_len) = (self.width, k * self.width);
        for (p, panel) in self.room(k, n).chunks_mut(panel_len.max(1)).enumerate() {
            pack_panel(view, k, n, p, width, panel);
        }
    }

    /// The numbers in checkpoint layout: `n` rows of `k` inputs each.
    pub fn unpacked(&self) -> Vec<f32> {
        if let Some(loose) = &self.loose {
            return loose.rows();
        }
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
        Self { k: 0, n: 0, width: panel_width(), panels: Lines::default(), loose: None }
    }

    /// The shape: inputs, outputs.
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    /// The panels.
    pub(super) fn panels(&self) -> &[f32] {
        self.loose.as_ref().map_or(&*self.panels, |loose| loose.panels())
    }

    /// The weight that lies elsewhere, if a product of so many rows reads it there.
    pub(super) fn read_once(&self, rows: usize) -> Option<&Loose> {
        self.loose.as_deref().filter(|loose| loose.is_read_once(rows))
    }

    /// Room for the panels of `k` × `n` numbers. What was there is to be written over, but for the padding of the last
    /// panel, which no one reads into a result.
    pub(super) fn room(&mut self, k: usize, n: usize) -> &mut [f32] {
        (self.k, self.n, self.width, self.loose) = (k, n, panel_width(), None);
        self.panels.resize(n.div_ceil(self.width) * self.width * k);
        &mut self.panels
    }
}

pub(super) fn pack_panel(view: View<'_>, k: usize, n: usize, p: usize, width: usize, panel: &mut [f32]) {
    let first = p * width;
    let columns = width.min(n - first);
    if view.column_stride == 1 {
        let from = &view.data[first.min(view.data.len())..];
        match (columns, width) {
            (32, 32) => return copy_rows::<32>(from, view.row_stride, &mut panel[..k * width]),
            (16, 16) => return copy_rows::<16>(from, view.row_stride, &mut panel[..k * width]),
            _ => {}
        }
        for (row, out) in panel.chunks_mut(width).enumerate().take(k) {
            out[..columns].copy_from_slice(&view.data[row * view.row_stride + first..][..columns]);
        }
        return;
    }
    if view.row_stride == 1 {
        return transpose(&view.data[first * view.column_stride..], view.column_stride, [columns, k], panel, width);
    }
    for (row, out) in panel.chunks_mut(width).enumerate().take(k) {
        let from = view.data[row * view.row_stride + first * view.column_stride..].iter().step_by(view.column_stride);
        out[..columns].iter_mut().zip(from).for_each(|(out, value)| *out = *value);
    }
}

/// Packs rows `first .. first + rows` of the left side into `tile`: for each of `k` steps `height` numbers, one a row.
/// Rows beyond `rows` are zero.
pub(super) fn pack_tile(a: View<'_>, first: usize, rows: usize, height: usize, k: usize, tile: &mut [f32]) {
    if rows < height {
        tile.fill(0.0);
    }
    if a.row_stride == 1 {
        if (rows, height) == (ROWS, ROWS) {
            return copy_rows::<ROWS>(&a.data[first..], a.column_stride, &mut tile[..k * height]);
        }
        for (step, out) in tile.chunks_exact_mut(height).enumerate().take(k) {
            out[..rows].copy_from_slice(&a.data[step * a.column_stride + first..][..rows]);
        }
        return;
    }
    assert_eq!(a.column_stride, 1, "a left side whose rows or columns are contiguous");
    transpose(&a.data[first * a.row_stride..], a.row_stride, [rows, k], tile, height);
}

/// Copies rows of `N` numbers, `apart` from each other, to lie one after the other; a copy of a length that the compiler knows is no call.
fn copy_rows<const N: usize>(from: &[f32], apart: usize, to: &mut [f32]) {
    for (row, to) in to.chunks_exact_mut(N).enumerate() {
        to.copy_from_slice(&from[row * apart..][..N]);
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
