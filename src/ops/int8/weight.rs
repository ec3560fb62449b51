//! Weights as 8-bit integers, laid out for the kernels.

use super::round::round;
use super::turn::turned;
use super::{GROUP, LINE, Line, PANEL};
use crate::ops::lines::Lines;
use crate::ops::pool;

/// A weight (outputs, inputs), turned, as integers with one scale an output: `w[n][k] = scale[n] · q[n][k]`, `|q| ≤ 127`.
///
/// Sixteen outputs make a panel. It holds a line of 64 bytes for each four inputs: four of the first output, four of the
/// second, and so on, each plus 128. Outputs are padded to pairs of panels, inputs to 64.
pub struct Weight {
    n: usize,
    k: usize,
    lines: Lines<Line>,
    scales: Vec<f32>,
}

/// More inputs could overflow a sum: 127 · 127 · 133,000 is nearly 2³¹.
const MOST_INPUTS: usize = 1 << 17;

impl Weight {
    /// Quantises a weight in checkpoint layout: `n` rows of `k` inputs each. `None` if a number is not finite, or if
    /// there are more inputs than sums have room for: such a map stays as it is.
    pub fn new(weight: &[f32], n: usize, k: usize) -> Option<Self> {
        assert_eq!(weight.len(), n * k, "weight of {n} x {k}");
        if k == 0 || n == 0 || k > MOST_INPUTS || !weight.iter().all(|w| w.is_finite()) {
            return None;
        }
        let groups = groups(k);
        let panels = n.div_ceil(2 * PANEL) * 2;
        let mut scales = vec![0.0; panels * PANEL];
        pool::chunks(&mut scales, PANEL, |panel, scales| {
            for (scale, row) in scales.iter_mut().zip(weight.chunks(k).skip(panel * PANEL)) {
                let largest = |most, block: &[f32]| turned(block).iter().fold(most, |most: f32, w| most.max(w.abs()));
                *scale = row.chunks(LINE).fold(0.0, largest) / 127.0;
            }
        });
        // A row that is too large to be turned.
        if !scales.iter().all(|scale| scale.is_finite()) {
            return None;
        }
        let mut lines = Lines::zeros(panels * groups);
        pool::chunks(&mut lines, groups, |panel, lines| {
            lines.fill(Line([128; LINE]));
            for (column, row) in weight.chunks(k).skip(panel * PANEL).take(PANEL).enumerate() {
                let inverse = 1.0 / scales[panel * PANEL + column];
                // A row of zeros, or of numbers so small that they have no inverse, stays zero.
                if !inverse.is_finite() {
                    continue;
                }
                for (lines, block) in lines.chunks_mut(LINE / GROUP).zip(row.chunks(LINE)) {
                    let integers = turned(block).map(|w| (round(w * inverse).clamp(-127, 127) + 128) as u8);
                    for (line, four) in lines.iter_mut().zip(integers.as_chunks::<GROUP>().0) {
                        line.0[column * GROUP..][..GROUP].copy_from_slice(four);
                    }
                }
            }
        });
        Some(Self { n, k, lines, scales })
    }

    /// The shape: inputs, outputs.
    pub fn shape(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    /// The weight that the integers stand for, (outputs, inputs) row by row.
    pub fn dequantized(&self) -> Vec<f32> {
        let groups = groups(self.k);
        let mut out = Vec::with_capacity(self.n * self.k);
        for output in 0..self.n {
            let (panel, column) = (output / PANEL, output % PANEL);
            for (block, lines) in self.lines[panel * groups..][..groups].chunks(LINE / GROUP).enumerate() {
                let bytes = lines.iter().flat_map(|line| &line.0[column * GROUP..][..GROUP]);
                let numbers: Vec<f32> = bytes.map(|&byte| self.scales[output] * (f32::from(byte) - 128.0)).collect();
                // Turned twice, they are as they were.
                out.extend_from_slice(&turned(&numbers)[..LINE.min(self.k - block * LINE)]);
            }
        }
        out
    }

    /// The bytes in memory.
    pub fn bytes(&self) -> usize {
        self.lines.len() * LINE + self.scales.len() * size_of::<f32>()
    }

    /// How many pairs of panels there are.
    pub(super) fn pairs(&self) -> usize {
        self.n.div_ceil(2 * PANEL)
    }

    /// A pair of panels, one after the other.
    pub(super) fn pair(&self, pair: usize) -> &[Line] {
        let len = 2 * groups(self.k);
        &self.lines[pair * len..][..len]
    }

    /// The scales of a pair's outputs.
    pub(super) fn pair_scales(&self, pair: usize) -> &[f32] {
        &self.scales[pair * 2 * PANEL..][..2 * PANEL]
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weight({} x {} in 8 bits)", self.n, self.k)
    }
}

/// The groups of four inputs, padding included.
pub(super) fn groups(k: usize) -> usize {
    k.div_ceil(LINE) * (LINE / GROUP)
}
