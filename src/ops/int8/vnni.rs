//! The kernel of AVX-512 VNNI: four products and a sum in each of sixteen lanes at once.

use super::rows::Strip;
use super::{GROUP, LINE, Line, PANEL, Sums, TILE};
use std::arch::x86_64::*;

/// Whether this processor has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// Rows of a step: eight by two panels are sixteen sums under way, enough to hide the five cycles of each.
const ROWS: usize = 8;

/// Sums the products of a strip with a pair of panels.
///
/// # Safety
/// The processor must have AVX-512 VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn sums(strip: &Strip, pair: &[Line], out: &mut Sums) {
    // While a pair is multiplied the next, which lies behind it, comes into the first cache, each step a part of it.
    let mut ahead = Ahead { next: pair.as_ptr_range().end, lines: 0 };
    let steps: usize = strip.tiles.iter().map(|rows| rows.div_ceil(ROWS)).sum();
    ahead.lines = (2 * LINE / GROUP).div_ceil(steps.max(1));
    for (tile, &rows) in strip.tiles.iter().enumerate() {
        let mut row = 0;
        while row < rows {
            match rows - row {
                1 => step::<1>(strip, tile, row, pair, &mut ahead, out),
                2 => step::<2>(strip, tile, row, pair, &mut ahead, out),
                3..=4 => step::<4>(strip, tile, row, pair, &mut ahead, out),
                5..=6 => step::<6>(strip, tile, row, pair, &mut ahead, out),
                _ => step::<ROWS>(strip, tile, row, pair, &mut ahead, out),
            }
            row += match rows - row {
                1 => 1,
                2 => 2,
                3..=4 => 4,
                5..=6 => 6,
                _ => ROWS,
            };
        }
    }
}

/// What is to come into the cache: so many lines a block, from `next` on.
struct Ahead {
    next: *const Line,
    lines: usize,
}

impl Ahead {
    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..self.lines {
            // SAFETY: fetching ahead reads nothing; beyond the last pair it is for nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.next.cast()) };
            self.next = self.next.wrapping_add(1);
        }
    }
}

/// Rows `first .. first + R` of a tile; those beyond its last, of which a strip has lines all the same, are summed for
/// nothing.
#[target_feature(enable = "avx512f,avx512vnni")]
fn step<const R: usize>(strip: &Strip, tile: usize, first: usize, pair: &[Line], ahead: &mut Ahead, out: &mut Sums) {
    let first = first.min(TILE - R);
    let panels = pair.split_at(pair.len() / 2);
    let mut sums = [[_mm512_setzero_si512(); 2]; R];
    // A macro, so that sums stay in registers: four integers of each row times the lines of that group.
    macro_rules! add {
        ($rows:expr, $place:expr, $group:expr) => {
            let (w0, w1) = (&panels.0[$group], &panels.1[$group]);
            // SAFETY: a line has 64 bytes and is aligned to them; a place is below sixteen.
            unsafe {
                let w0 = _mm512_load_si512(w0.0.as_ptr().cast());
                let w1 = _mm512_load_si512(w1.0.as_ptr().cast());
                for r in 0..R {
                    let x = _mm512_set1_epi32($rows[r].0.as_ptr().cast::<i32>().add($place).read());
                    sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], w0, x);
                    sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], w1, x);
                }
            }
        };
    }
    if !strip.groups.is_empty() {
        for (block, groups) in strip.high_of(tile).chunks_exact(TILE).zip(strip.groups.chunks(LINE / GROUP)) {
            let rows = &block[first..first + R];
            for (place, &group) in groups.iter().enumerate() {
                add!(rows, place, group as usize);
            }
        }
        for sums in sums.as_flattened_mut() {
            *sums = _mm512_slli_epi32::<7>(*sums);
        }
    }
    for (at, block) in strip.low_of(tile).chunks_exact(TILE).enumerate() {
        let rows = &block[first..first + R];
        ahead.fetch();
        for place in 0..LINE / GROUP {
            add!(rows, place, at * (LINE / GROUP) + place);
        }
    }
    for (sums, out) in sums.iter().zip(&mut out.0[tile * TILE + first..]) {
        for (sum, out) in sums.iter().zip(out.chunks_exact_mut(PANEL)) {
            // SAFETY: a chunk has sixteen numbers.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), *sum) };
        }
    }
}
