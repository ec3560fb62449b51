//! Rows of inputs as 8-bit integers, laid out for the kernels.

use super::round::quantize;
use super::{GROUP, LINE, Line, STRIP, TILE};
use crate::ops::gemm::Norm;
use crate::ops::pool;
use std::cell::RefCell;

/// Up to 32 rows as integers, in two tiles.
#[derive(Debug, Default)]
pub(super) struct Strip {
    /// The rows of each tile.
    pub(super) tiles: [usize; 2],
    /// Both tiles, one after the other: for each 64 inputs 16 lines, one a row.
    low: Vec<Line>,
    /// The groups of four inputs in which some row has an outlier, in order.
    pub(super) groups: Vec<u32>,
    /// The second parts of these groups' numbers, laid out as `low`.
    high: Vec<Line>,
    /// What each row's integers are multiplied by.
    pub(super) scales: [f32; STRIP],
    /// The sum of each row's integers.
    pub(super) totals: [i32; STRIP],
    outliers: Vec<Outlier>,
    /// A row that was normalised.
    line: Vec<f32>,
    /// A row that was turned.
    turned: Vec<[f32; LINE]>,
    /// Where in `groups` each group is.
    places: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Outlier {
    row: u32,
    channel: u32,
    high: i8,
}

/// The rows of a tile: as equal as can be, since a tile's cost is that of its rows.
pub(super) fn height(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(TILE).max(1)).max(1)
}

/// Makes integers of rows of `k` numbers, normalised where that is asked for, on the pool, and hands them to `f`.
pub(super) fn with_strips<T>(x: &[f32], k: usize, norm: Option<Norm<'_>>, f: impl FnOnce(&[Strip]) -> T) -> T {
    thread_local! {
        static STRIPS: RefCell<Vec<Vec<Strip>>> = const { RefCell::new(Vec::new()) };
    }
    let rows = x.len() / k;
    let height = height(rows);
    // Taken out, not borrowed: while the pool works, this thread may take up another product.
    let mut strips = STRIPS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let count = rows.div_ceil(2 * height);
    if strips.len() < count {
        strips.resize_with(count, Strip::default);
    }
    let part = if x.len() < SMALL { count } else { 1 };
    pool::chunks(&mut strips[..count], part.max(1), |i, strips| {
        for (at, strip) in strips.iter_mut().enumerate() {
            let first = (i * part + at) * 2 * height;
            strip.fill(&x[first * k..rows.min(first + 2 * height) * k], k, norm, height);
        }
    });
    let result = f(&strips[..count]);
    STRIPS.with_borrow_mut(|all| all.push(strips));
    result
}

/// Fewer numbers are not worth waking another thread for.
const SMALL: usize = 1 << 17;

impl Strip {
    /// The lines of one tile.
    pub(super) fn low_of(&self, tile: usize) -> &[Line] {
        half(&self.low, tile)
    }

    /// The lines of one tile's second parts.
    pub(super) fn high_of(&self, tile: usize) -> &[Line] {
        half(&self.high, tile)
    }

    /// Makes integers of up to two tiles' rows.
    pub(super) fn fill(&mut self, x: &[f32], k: usize, norm: Option<Norm<'_>>, height: usize) {
        let blocks = k.div_ceil(LINE);
        let rows = x.len() / k;
        self.tiles = [rows.min(height), rows.saturating_sub(height)];
        self.low.resize(2 * blocks * TILE, Line::ZERO);
        self.outliers.clear();
        self.line.resize(if norm.is_some() { k } else { 0 }, 0.0);
        for (row, mut x) in x.chunks(k).enumerate() {
            if let Some(norm) = norm {
                norm.row(x, &mut self.line);
                x = &self.line;
            }
            let (tile, line) = (row / height, row % height);
            let lines = &mut self.low[tile * blocks * TILE + line..];
            let row = tile * TILE + line;
            (self.scales[row], self.totals[row]) = quantize(x, &mut self.turned, lines, |channel, high| {
                self.outliers.push(Outlier { row: row as u32, channel, high });
            });
        }
        self.groups.clear();
        self.high.clear();
        if self.outliers.is_empty() {
            return;
        }
        let group = |outlier: &Outlier| outlier.channel as usize / GROUP;
        self.places.clear();
        self.places.resize(blocks * (LINE / GROUP), NOWHERE);
        self.outliers.iter().for_each(|outlier| self.places[group(outlier)] = 0);
        for (group, place) in self.places.iter_mut().enumerate().filter(|(_, place)| **place != NOWHERE) {
            *place = self.groups.len() as u32;
            self.groups.push(group as u32);
        }
        let blocks = self.groups.len().div_ceil(LINE / GROUP);
        self.high.resize(2 * blocks * TILE, Line::ZERO);
        for outlier in &self.outliers {
            let at = self.places[group(outlier)] as usize;
            let (block, place) = (at / (LINE / GROUP), at % (LINE / GROUP));
            let (tile, line) = (outlier.row as usize / TILE, outlier.row as usize % TILE);
            let byte = place * GROUP + outlier.channel as usize % GROUP;
            self.high[(tile * blocks + block) * TILE + line].0[byte] = outlier.high as u8;
        }
    }
}

fn half(lines: &[Line], tile: usize) -> &[Line] {
    let len = lines.len() / 2;
    &lines[tile * len..][..len]
}
