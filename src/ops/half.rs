//! Attention of one head with products of bf16 numbers, on the tiles of AMX.
//!
//! Queries (scaled) and keys are two bf16 numbers each, what is rounded and what rounding leaves: a score's error is that of
//! f32, since three products of them are summed and the fourth is too small to count. Values and weights are one bf16 number each; scores,
//! softmax and sums are f32. It goes with towers in 8-bit integers, whose rounding is coarser.

use super::amx::{LINE, ROWS, Tiles};
use super::softmax;
use super::transpose::transpose;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

/// The numbers of a tile's row.
const STEP: usize = LINE / 2;
/// The words of a tile: pairs of numbers that lie below each other.
const TILE: usize = ROWS * LINE / 4;
/// Rows and columns that are multiplied at a time: two tiles by two.
const BLOCK: usize = 2 * ROWS;

/// Whether this processor has the instructions.
pub(super) fn is_available() -> bool {
    super::amx::has_bf16() && is_x86_feature_detected!("avx512bf16")
}

/// A head of some rows: `head` numbers each, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

#[derive(Default)]
struct Scratch {
    /// Keys, then queries, row by row, two numbers a word.
    rows: Vec<u32>,
    keys: Vec<u32>,
    values: Vec<u32>,
    weights: Vec<u32>,
    scores: Vec<f32>,
    out: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `softmax(scale · q kᵀ) v` for (queries, keys, head) numbers, every query seeing every key; calls `write` with (queries,
/// head) rows and how far apart they are.
pub(super) fn attend(
    [q, k, v]: [Rows<'_>; 3],
    [queries, keys, head]: [usize; 3],
    scale: f32,
    write: impl FnOnce(&[f32], usize),
) {
    assert!(is_available());
    let fits = |x: Rows<'_>, rows: usize| rows > 0 && x.data.len() >= (rows - 1) * x.stride + head;
    assert!(head > 0 && fits(q, queries) && fits(k, keys) && fits(v, keys), "a head of {queries} x {keys} x {head}");
    // SAFETY: the processor has these instructions; the numbers were looked at.
    SCRATCH.with_borrow_mut(|s| unsafe { s.attend([q, k, v], [queries, keys, head], scale) });
    SCRATCH.with_borrow(|s| write(&s.out, head.next_multiple_of(BLOCK)));
}

impl Scratch {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn attend(&mut self, [q, k, v]: [Rows<'_>; 3], [queries, keys, head]: [usize; 3], scale: f32) {
        let [high, wide, deep] = [queries, keys, head].map(|n| n.next_multiple_of(BLOCK));
        let thrice = 3 * deep;
        // SAFETY: the caller has seen that there are tiles.
        let _tiles = unsafe { Tiles::configure(ROWS) };
        // Keys as right sides: a tile has pairs of a key's numbers below each other, sixteen keys side by side.
        self.keys.resize(wide * thrice / 2, 0);
        rounded(k, [keys, head], [wide, deep], [Part::Rounded, Part::Rounded, Part::Rest], &mut self.rows);
        for (i, tiles) in self.keys.chunks_exact_mut(thrice / STEP * TILE).enumerate() {
            for (step, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
                let from = &self.rows[i * ROWS * thrice / 2 + step * ROWS..];
                transpose(as_f32(from), thrice / 2, [ROWS; 2], as_f32_mut(tile), ROWS);
            }
        }
        self.values.resize(wide * deep / 2, 0);
        below_each_other(v, [keys, head], [wide, deep], &mut self.values);
        rounded(q, [queries, head], [high, deep], [Part::Rounded, Part::Rest, Part::Rounded], &mut self.rows);
        self.scores.resize(high * wide, 0.0);
        multiply(&self.rows, &self.keys, [high, thrice, wide], &mut self.scores);
        self.scores[..queries * wide].iter_mut().for_each(|score| *score *= scale);
        softmax::rows(&mut self.scores[..queries * wide], wide, |_| keys);
        let scores = Rows { data: &self.scores, stride: wide };
        rounded(scores, [queries, wide], [high, wide], [Part::Rounded], &mut self.weights);
        self.out.resize(high * deep, 0.0);
        multiply(&self.weights, &self.values, [high, wide, deep], &mut self.out);
    }
}

fn as_f32(words: &[u32]) -> &[f32] {
    // SAFETY: any bits are a number.
    unsafe { words.align_to().1 }
}

fn as_f32_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: any bits are a number, and a word.
    unsafe { words.align_to_mut().1 }
}

/// Sixteen numbers of a row from `column` on, with zeros beyond its end.
#[target_feature(enable = "avx512f")]
fn load(x: Rows<'_>, row: usize, column: usize, width: usize) -> __m512 {
    let count = width.saturating_sub(column).min(16);
    // SAFETY: the mask keeps the load within the row.
    unsafe {
        _mm512_maskz_loadu_ps(((1_u32 << count) - 1) as u16, x.data.as_ptr().wrapping_add(row * x.stride + column))
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn to_bf16(x: __m512) -> __m256i {
    // SAFETY: both are 256 bits.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) }
}

/// What is written of a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The nearest bf16 number.
    Rounded,
    /// The bf16 number nearest to what that leaves.
    Rest,
}

/// Writes these parts of some rows, one beside the other, with zeros up to (high, wide) each.
#[target_feature(enable = "avx512f,avx512bf16")]
fn rounded<const N: usize>(
    x: Rows<'_>,
    [rows, width]: [usize; 2],
    [high, wide]: [usize; 2],
    parts: [Part; N],
    to: &mut Vec<u32>,
) {
    let line = N * wide / 2;
    to.resize(high * line, 0);
    to[rows * line..].fill(0);
    for (row, to) in to.chunks_exact_mut(line).enumerate().take(rows) {
        for at in 0..wide / 16 {
            let numbers = load(x, row, at * 16, width);
            let near = to_bf16(numbers);
            for (i, part) in parts.into_iter().enumerate() {
                let bits = match part {
                    Part::Rounded => near,
                    Part::Rest => {
                        let near = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(near)));
                        to_bf16(_mm512_sub_ps(numbers, near))
                    }
                };
                // SAFETY: eight words are 256 bits.
                unsafe { _mm256_storeu_si256(to[i * wide / 2 + at * 8..][..8].as_mut_ptr().cast(), bits) };
            }
        }
    }
}

/// Writes rows in bf16 as right sides: a tile has sixteen columns of 32 rows, two rows in a word. Sixteen columns are
/// `high / 32` tiles one after the other.
#[target_feature(enable = "avx512f,avx512bf16")]
fn below_each_other(x: Rows<'_>, [rows, width]: [usize; 2], [high, wide]: [usize; 2], to: &mut [u32]) {
    for (part, tiles) in to.chunks_exact_mut(high / STEP * TILE).enumerate().take(wide / ROWS) {
        for (pair, to) in tiles.chunks_exact_mut(ROWS).enumerate() {
            let number = |row: usize| match row < rows {
                true => _mm512_cvtepu16_epi32(to_bf16(load(x, row, part * ROWS, width))),
                false => _mm512_setzero_si512(),
            };
            let words = _mm512_or_si512(number(2 * pair), _mm512_slli_epi32::<16>(number(2 * pair + 1)));
            // SAFETY: sixteen words are 512 bits.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) };
        }
    }
}

/// Writes a (m, k) times b (k, n) to (m, n), all multiples of 32: `a` row by row, `b` in tiles, sixteen columns `k / 32` tiles
/// one after the other. The thread's tiles must be set up for sixteen rows.
fn multiply(a: &[u32], b: &[u32], [m, k, n]: [usize; 3], out: &mut [f32]) {
    assert!(a.len() >= m * k / 2 && b.len() >= k * n / 2 && out.len() >= m * n);
    let (steps, column) = (k / STEP, k / STEP * TILE);
    for row in (0..m).step_by(BLOCK) {
        for pair in 0..n / BLOCK {
            let a = [0, ROWS].map(|below| a[(row + below) * k / 2..].as_ptr());
            let b = [0, 1].map(|right| b[(2 * pair + right) * column..].as_ptr());
            let out = [0, ROWS].map(|below| out[(row + below) * n + pair * BLOCK..].as_mut_ptr());
            // SAFETY: the rows and columns of two tiles by two are there, and so are the registers.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{a0} + {far}]",
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a1} + {far}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tileloadd tmm7, [{b1} + {line}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, 64",
                    "add {a1}, 64",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{out0} + {apart}], tmm0",
                    "tilestored [{out0} + {apart} + 64], tmm1",
                    "tilestored [{out1} + {apart}], tmm2",
                    "tilestored [{out1} + {apart} + 64], tmm3",
                    a0 = inout(reg) a[0] => _,
                    a1 = inout(reg) a[1] => _,
                    b0 = inout(reg) b[0] => _,
                    b1 = inout(reg) b[1] => _,
                    steps = inout(reg) steps => _,
                    out0 = in(reg) out[0],
                    out1 = in(reg) out[1],
                    far = in(reg) 2 * k,
                    apart = in(reg) 4 * n,
                    line = in(reg) LINE,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let draw = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
        (0..count as u32).map(|i| (draw(i) as f32 / (1 << 23) as f32 - 1.0) * 3.0).collect()
    }

    /// To eight bits behind the leading one, ties to even.
    fn rounded(x: f32) -> f64 {
        let bits = x.to_bits();
        f64::from(f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000))
    }

    #[test]
    fn it_is_attention_with_rounded_values() {
        if !is_available() {
            return;
        }
        for [queries, keys, head] in
            [[1, 1, 1], [3, 50, 64], [50, 50, 64], [17, 33, 72], [197, 197, 64], [32, 64, 32], [5, 31, 80]]
        {
            let stride = head + 7;
            let [q, k, v] = [(queries, 1), (keys, 2), (keys, 3)].map(|(rows, seed)| numbers(rows * stride, seed));
            let scale = 0.125;
            let mut got = vec![0.0; queries * head];
            attend([&q, &k, &v].map(|data| Rows { data, stride }), [queries, keys, head], scale, |rows, apart| {
                for (to, row) in got.chunks_mut(head).zip(rows.chunks(apart)) {
                    to.copy_from_slice(&row[..head]);
                }
            });
            let at = |x: &[f32], row: usize, i: usize| f64::from(x[row * stride + i]);
            let value = |row: usize, i: usize| rounded(v[row * stride + i]);
            for (i, got) in got.chunks(head).enumerate() {
                let scores: Vec<f64> = (0..keys)
                    .map(|j| (0..head).map(|d| at(&q, i, d) * f64::from(scale) * at(&k, j, d)).sum::<f64>().exp())
                    .collect();
                let sum: f64 = scores.iter().sum();
                let weights: Vec<f64> = scores.iter().map(|score| score / sum).collect();
                for (d, got) in got.iter().enumerate() {
                    let want: f64 = weights.iter().enumerate().map(|(j, weight)| weight * value(j, d)).sum();
                    // The weights are rounded, too: by 2⁻⁸ of each at most.
                    let size: f64 = weights.iter().enumerate().map(|(j, weight)| weight * value(j, d).abs()).sum();
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= size / 256.0 + 1e-5, "{queries} x {keys} x {head}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn towers_attend_so_where_it_pays() {
        use crate::ops::{Mask, coarse_self_attention, self_attention};
        use candle_core::{Device, Tensor};
        for tokens in [127, 128, 197] {
            let qkv = numbers(2 * tokens * 3 * 128, 4);
            let qkv = Tensor::from_vec(qkv, (2, tokens, 3 * 128), &Device::Cpu).unwrap();
            let all = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let exact = all(self_attention(&qkv, 2, &Mask::None).unwrap());
            let coarse = all(coarse_self_attention(&qkv, 2, &Mask::None).unwrap());
            let most = exact.iter().zip(&coarse).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Values are up to 3, and so lose up to 2⁻⁸ of that, weights as much of theirs.
            assert!(most <= 0.024, "{tokens}: {most}");
            assert_eq!(most > 0.0, tokens >= 128 && is_available(), "{tokens}: {most}");
        }
    }
}
