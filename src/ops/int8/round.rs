//! One row's numbers as integers.

use super::turn::turned;
use super::{LINE, Line, TILE};

/// Up to so many times its mean magnitude, a row's largest number alone says what its scale is. Rows of a normal
/// distribution have at most four; what decides is the few channels of a stream of tokens that trained transformers make
/// 20 to 200 times larger than the rest, with which all others would be left one or two bits.
const FAR: f32 = 6.0;

/// Beyond that, numbers within so many times the mean are the bulk,
const BULK: f32 = 2.0;

/// and outliers those beyond so many times its sum by the number of all: 7.4 σ where almost all are normally distributed.
const BEYOND: f32 = 13.0;

/// The largest integer: 127 + 128 · 127, less a little for rounding.
const LARGEST: f32 = 16_256.0;

/// Turns a row and writes its integers to every sixteenth line; returns their scale and their sum. `outlier` gets the
/// channel and the second part of each that is an outlier; its first part is written. `blocks` is for what comes between.
pub(super) fn quantize(
    x: &[f32],
    blocks: &mut Vec<[f32; LINE]>,
    lines: &mut [Line],
    outlier: impl FnMut(u32, i8),
) -> (f32, i32) {
    blocks.resize(x.len().div_ceil(LINE), [0.0; LINE]);
    let lines = lines.iter_mut().step_by(TILE);
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has these instructions.
            return unsafe { avx512(x, blocks, lines, outlier) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has these instructions.
            return unsafe { avx2(x, blocks, lines, outlier) };
        }
    }
    any(x, blocks, lines, outlier)
}

/// What a row's integers are multiplied by, and the inverse; or, where they are all zero, the former alone. `near` sums
/// the magnitudes up to a limit, in 64 lanes.
fn scale(
    most: &[u32; LINE],
    sums: &[f32; LINE],
    count: usize,
    near: impl FnOnce(f32) -> [f32; LINE],
) -> Result<(f32, f32), f32> {
    let most = f32::from_bits(most.iter().copied().fold(0, u32::max));
    let mean = add_up(sums) / count as f32;
    let mut limit = most;
    if most > FAR * mean {
        // The limit may not become so much smaller that sums overflow: integers have a mean magnitude of 127 at most.
        limit = (BEYOND * (add_up(&near(BULK * mean)) / count as f32)).max(mean).min(most);
    }
    let scale = (limit / 127.0).max(most / LARGEST);
    let inverse = 1.0 / scale;
    match (mean.is_finite(), inverse.is_finite()) {
        (true, true) => Ok((scale, inverse)),
        // Numbers so small that they have no inverse are as good as zero.
        (true, false) => Err(0.0),
        // What is not finite makes all its row's results so.
        (false, _) => Err(f32::NAN),
    }
}

/// The sum of 64 lanes, in one order.
fn add_up(sums: &[f32; LINE]) -> f32 {
    let (mut sums, mut half) = (*sums, LINE / 2);
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The nearest integer, ties to even: adding 1.5 · 2²³ leaves it in the last bits.
#[inline(always)]
pub(super) fn round(x: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32
}

/// Splits the outliers of a block, a bit each.
fn split(
    x: &[f32; LINE],
    inverse: f32,
    mut far: u64,
    block: usize,
    line: &mut Line,
    outlier: &mut impl FnMut(u32, i8),
) {
    while far != 0 {
        let at = far.trailing_zeros() as usize;
        far &= far - 1;
        let q = round(x[at] * inverse);
        let high = (q + 64) >> 7;
        line.0[at] = (q - (high << 7)) as u8;
        outlier((block * LINE + at) as u32, high as i8);
    }
}

/// In plain Rust. Sums run in 64 lanes, as they do in the others.
#[inline(always)]
fn any<'a>(
    x: &[f32],
    blocks: &mut [[f32; LINE]],
    lines: impl Iterator<Item = &'a mut Line>,
    mut outlier: impl FnMut(u32, i8),
) -> (f32, i32) {
    // Magnitudes are compared as integers, which have the same order.
    let (mut most, mut sums) = ([0u32; LINE], [0f32; LINE]);
    for (x, block) in x.chunks(LINE).zip(&mut *blocks) {
        *block = turned(x);
        for ((x, most), sum) in block.iter().zip(&mut most).zip(&mut sums) {
            let size = x.abs();
            *most = (*most).max(size.to_bits());
            *sum += size;
        }
    }
    let near = |limit| {
        let mut sums = [0f32; LINE];
        for block in &*blocks {
            for (x, sum) in block.iter().zip(&mut sums) {
                *sum += if x.abs() <= limit { x.abs() } else { 0.0 };
            }
        }
        sums
    };
    let (scale, inverse) = match scale(&most, &sums, x.len(), near) {
        Ok(found) => found,
        Err(scale) => {
            lines.take(blocks.len()).for_each(|line| *line = Line::ZERO);
            return (scale, 0);
        }
    };
    let mut total = 0;
    for (block, (x, line)) in blocks.iter().zip(lines).enumerate() {
        let mut far = 0;
        for (at, (x, byte)) in x.iter().zip(&mut line.0).enumerate() {
            let q = round(x * inverse);
            *byte = q as u8;
            total += q;
            far |= u64::from(q.abs() > 127) << at;
        }
        if far != 0 {
            split(x, inverse, far, block, line, &mut outlier);
        }
    }
    (scale, total)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<'a>(
    x: &[f32],
    blocks: &mut [[f32; LINE]],
    lines: impl Iterator<Item = &'a mut Line>,
    outlier: impl FnMut(u32, i8),
) -> (f32, i32) {
    any(x, blocks, lines, outlier)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<'a>(
    x: &[f32],
    blocks: &mut [[f32; LINE]],
    lines: impl Iterator<Item = &'a mut Line>,
    mut outlier: impl FnMut(u32, i8),
) -> (f32, i32) {
    use super::turn::{TURN, turn};
    use std::arch::x86_64::*;
    /// The numbers of a register.
    const WIDE: usize = TURN;
    // SAFETY: a block has as many numbers as its parts.
    let load = |block: &[f32; LINE], part: usize| unsafe { _mm512_loadu_ps(block[part * WIDE..].as_ptr()) };
    let mut most = [_mm512_setzero_si512(); LINE / WIDE];
    let mut sums = [_mm512_setzero_ps(); LINE / WIDE];
    for (x, block) in x.chunks(LINE).zip(&mut *blocks) {
        if let Some(x) = x.first_chunk() {
            *block = *x;
        } else {
            *block = [0.0; LINE];
            block[..x.len()].copy_from_slice(x);
        }
        for part in 0..LINE / WIDE {
            let x = turn(load(block, part));
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(block[part * WIDE..].as_mut_ptr(), x) };
            let size = _mm512_abs_ps(x);
            most[part] = _mm512_max_epu32(most[part], _mm512_castps_si512(size));
            sums[part] = _mm512_add_ps(sums[part], size);
        }
    }
    let lanes = |sums: [__m512; LINE / WIDE]| {
        let mut lanes = [0f32; LINE];
        for (sum, lanes) in sums.iter().zip(lanes.chunks_exact_mut(WIDE)) {
            // SAFETY: a chunk has sixteen numbers.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), *sum) };
        }
        lanes
    };
    let near = |limit| {
        let (mut sums, limit) = ([_mm512_setzero_ps(); LINE / WIDE], _mm512_set1_ps(limit));
        for block in &*blocks {
            for (part, sum) in sums.iter_mut().enumerate() {
                let size = _mm512_abs_ps(load(block, part));
                *sum = _mm512_mask_add_ps(*sum, _mm512_cmp_ps_mask::<_CMP_LE_OQ>(size, limit), *sum, size);
            }
        }
        lanes(sums)
    };
    let most = lanes(most.map(|most| _mm512_castsi512_ps(most))).map(f32::to_bits);
    let (scale, inverse) = match scale(&most, &lanes(sums), x.len(), near) {
        Ok(found) => found,
        Err(scale) => {
            lines.take(blocks.len()).for_each(|line| *line = Line::ZERO);
            return (scale, 0);
        }
    };
    let (factor, limit) = (_mm512_set1_ps(inverse), _mm512_set1_epi32(127));
    let mut totals = _mm512_setzero_si512();
    for (block, (x, line)) in blocks.iter().zip(lines).enumerate() {
        let mut far = 0;
        for part in 0..LINE / WIDE {
            let q = _mm512_cvtps_epi32(_mm512_mul_ps(load(x, part), factor));
            totals = _mm512_add_epi32(totals, q);
            far |= u64::from(_mm512_cmpgt_epi32_mask(_mm512_abs_epi32(q), limit)) << (part * WIDE);
            // SAFETY: a part has sixteen bytes.
            unsafe { _mm_storeu_si128(line.0[part * WIDE..][..WIDE].as_mut_ptr().cast(), _mm512_cvtepi32_epi8(q)) };
        }
        if far != 0 {
            split(x, inverse, far, block, line, &mut outlier);
        }
    }
    (scale, _mm512_reduce_add_epi32(totals))
}
