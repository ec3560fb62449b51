//! Weights as 8-bit integers, laid out for the kernels.

use super::{GROUP, LINE, Line, PANEL};
use crate::ops::lines::Lines;
use crate::ops::pool;

/// A weight (outputs, inputs) as integers with one scale an output: `w[n][k] = scale[n] · q[n][k]`, `|q| ≤ 127`.
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
        let largest = |row: &[f32]| row.iter().fold(0f32, |most, w| most.max(w.abs()));
        let mut scales: Vec<f32> = weight.chunks(k).map(|row| largest(row) / 127.0).collect();
        scales.resize(panels * PANEL, 0.0);
        let mut lines = Lines::zeros(panels * groups);
        pool::chunks(&mut lines, groups, |panel, lines| {
            lines.fill(Line([128; LINE]));
            for (column, row) in weight.chunks(k).skip(panel * PANEL).take(PANEL).enumerate() {
                let inverse = 1.0 / scales[panel * PANEL + column];
                // A row of zeros, or of numbers so small that they have no inverse, stays zero.
                if !inverse.is_finite() {
                    continue;
                }
                for (line, four) in lines.iter_mut().zip(row.chunks(GROUP)) {
                    for (byte, w) in line.0[column * GROUP..].iter_mut().zip(four) {
                        *byte = ((w * inverse).round_ties_even().clamp(-127.0, 127.0) as i32 + 128) as u8;
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
            for input in 0..self.k {
                let byte = self.lines[panel * groups + input / GROUP].0[column * GROUP + input % GROUP];
                out.push(self.scales[output] * (f32::from(byte) - 128.0));
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
