//! The kernel of AVX2, in 16-bit products, since its products of bytes saturate.

use super::rows::Strip;
use super::{GROUP, LINE, Line, PANEL, Sums, TILE};
use std::arch::x86_64::*;

/// Rows of a step: with two registers a row, eight of sixteen are sums.
const ROWS: usize = 4;
/// The sums in a register.
const LANES: usize = 8;

/// Sums the products of a strip with a pair of panels.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(super) fn sums(strip: &Strip, pair: &[Line], out: &mut Sums) {
    for (half, panel) in pair.chunks_exact(pair.len() / 2).enumerate() {
        for (tile, &rows) in strip.tiles.iter().enumerate() {
            let mut row = 0;
            while row < rows {
                // Rows beyond the last, of which a strip has lines all the same, are summed for nothing.
                let first = row.min(TILE - ROWS);
                let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
                for (at, &group) in strip.groups.iter().enumerate() {
                    add(&mut sums, strip.high_of(tile), first, at, &panel[group as usize]);
                }
                for sums in sums.as_flattened_mut() {
                    *sums = _mm256_slli_epi32::<7>(*sums);
                }
                for (group, line) in panel.iter().enumerate() {
                    add(&mut sums, strip.low_of(tile), first, group, line);
                }
                for (sums, out) in sums.iter().zip(&mut out.0[tile * TILE + first..]) {
                    for (sum, out) in sums.iter().zip(out[half * PANEL..].chunks_exact_mut(LANES)) {
                        // SAFETY: a chunk has eight numbers.
                        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), *sum) };
                    }
                }
                row += ROWS;
            }
        }
    }
}

/// Adds the products of one group of four inputs, the `at`-th of the tile's.
#[inline]
#[target_feature(enable = "avx2")]
fn add(sums: &mut [[__m256i; 2]; ROWS], tile: &[Line], first: usize, at: usize, weights: &Line) {
    let (block, place) = (at / (LINE / GROUP), at % (LINE / GROUP));
    let rows = &tile[block * TILE + first..][..ROWS];
    for (half, bytes) in weights.0.chunks_exact(LINE / 2).enumerate() {
        // SAFETY: half a line has 32 bytes.
        let w = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        // The even and the odd bytes of each pair, as 16-bit numbers.
        let (even, odd) = (_mm256_and_si256(w, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(w));
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: a line has 64 bytes and is aligned to them; `place` is below sixteen.
            let x = _mm256_set1_epi32(unsafe { row.0.as_ptr().cast::<i32>().add(place).read() });
            let (x_even, x_odd) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x));
            let dot = _mm256_add_epi32(_mm256_madd_epi16(even, x_even), _mm256_madd_epi16(odd, x_odd));
            sums[half] = _mm256_add_epi32(sums[half], dot);
        }
    }
}
