//! The basis in which rows and weights become integers: each sixteen inputs are turned by a Hadamard matrix, `H / 4`.
//!
//! `H` is symmetric and `H Hᵀ = 16`, so products stay what they are, while a number far larger than its neighbours is shared
//! out among them. A scale that follows from the largest number of a row is then closer to what most of them need: errors of
//! trained weights halve. The idea is QuaRot's (Ashkboos et al. 2024, arXiv:2404.00456) and QuIP's before it; sixteen inputs,
//! which a register holds, do nearly as much good as hundreds, and leave an outlier in four groups.

use super::LINE;

/// The inputs that are turned together.
pub(super) const TURN: usize = 16;

/// A block of inputs, zeros beyond their end, turned.
#[inline(always)]
pub(super) fn turned(block: &[f32]) -> [f32; LINE] {
    let mut out = [0.0; LINE];
    out[..block.len()].copy_from_slice(block);
    for part in out.as_chunks_mut::<TURN>().0 {
        for far in [1, 2, 4, 8] {
            let from = *part;
            for (i, x) in part.iter_mut().enumerate() {
                *x = from[i ^ far] + if i & far == 0 { from[i] } else { -from[i] };
            }
        }
        part.iter_mut().for_each(|x| *x *= QUARTER);
    }
    out
}

const QUARTER: f32 = 0.25;

/// The same for the sixteen inputs in a register.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn turn(x: std::arch::x86_64::__m512) -> std::arch::x86_64::__m512 {
    use std::arch::x86_64::*;
    // Where a number's bit is set, its own sign changes.
    let one = _mm512_set1_ps(1.0);
    let add = |from, x, set| _mm512_fmadd_ps(x, _mm512_mask_sub_ps(one, set, _mm512_setzero_ps(), one), from);
    let x = add(_mm512_permute_ps::<0b10_11_00_01>(x), x, 0xaaaa);
    let x = add(_mm512_permute_ps::<0b01_00_11_10>(x), x, 0xcccc);
    let x = add(_mm512_shuffle_f32x4::<0b10_11_00_01>(x, x), x, 0xf0f0);
    let x = add(_mm512_shuffle_f32x4::<0b01_00_11_10>(x, x), x, 0xff00);
    _mm512_mul_ps(x, _mm512_set1_ps(QUARTER))
}
