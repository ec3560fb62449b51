//! The most that this processor gives: multiply-adds with everything in registers, and memory read and copied.

use clip_cli::ops::pool;
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

/// One thread and all of them: f32 GFLOP/s, int8 GOP/s of the vector unit, and GB/s of memory.
pub(crate) fn measure(threads: usize) -> Value {
    let mut found = serde_json::Map::new();
    for n in [1, threads] {
        let figures = json!({
            "f32_gflops": best(n, multiply_add), "int8_gops": best(n, multiply_add_int8),
            "read_gbps": memory(n, false), "copy_gbps": memory(n, true),
        });
        found.insert(n.to_string(), figures);
    }
    found.into()
}

/// What `threads` threads do a second at best, in billions; `work` returns how much it did.
fn best(threads: usize, work: fn() -> f64) -> f64 {
    let run = || {
        let start = Instant::now();
        let done = pool::collect(threads, |_| work());
        done.iter().sum::<f64>() / start.elapsed().as_secs_f64() / 1e9
    };
    (0..10).map(|_| run()).fold(0.0, f64::max)
}

/// Billions of bytes a second out of memory (read) or out of it and into it (copied), far larger than caches.
fn memory(threads: usize, copied: bool) -> f64 {
    const PART: usize = 64 << 20;
    let from = vec![1.0f32; threads * PART];
    let mut to = vec![0.0f32; if copied { threads * PART } else { threads }];
    let len = to.len() / threads;
    let mut run = || {
        let start = Instant::now();
        pool::chunks(&mut to, len, |part, to| {
            let from = &from[part * PART..][..PART];
            if copied {
                to.copy_from_slice(from);
            } else {
                let mut sums = [0.0f32; 64];
                from.chunks_exact(64).for_each(|chunk| sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x));
                to[0] = sums.iter().sum();
            }
        });
        let bytes = threads * PART * size_of::<f32>() * if copied { 2 } else { 1 };
        bytes as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    let best = (0..5).map(|_| run()).fold(0.0, f64::max);
    black_box(to[0]);
    best
}

const ROUNDS: usize = 20_000_000;

/// Multiplies and adds with all vector registers; counts two for each multiply-add.
fn multiply_add() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512.
        return unsafe { x86::avx512() };
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA.
        return unsafe { x86::avx2() };
    }
    let (mut sums, a, b) = ([[0.0f32; 4]; 16], black_box([0.5f32; 4]), black_box([0.25f32; 4]));
    for _ in 0..ROUNDS {
        sums.iter_mut().for_each(|sum| (0..4).for_each(|i| sum[i] += a[i] * b[i]));
    }
    black_box(sums);
    (ROUNDS * 16 * 4 * 2) as f64
}

/// The same for products of bytes, four summed to an i32; 0 where there is no instruction for that.
fn multiply_add_int8() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        // SAFETY: the processor has both.
        return unsafe { x86::vnni() };
    }
    0.0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ROUNDS, black_box};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() -> f64 {
        let (mut sums, a, b) = ([_mm512_setzero_ps(); 16], _mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(0.25));
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(a, b, *sum));
        }
        black_box(sums);
        (ROUNDS * 16 * 16 * 2) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() -> f64 {
        let (mut sums, a, b) = ([_mm256_setzero_ps(); 12], _mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(0.25));
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(a, b, *sum));
        }
        black_box(sums);
        (ROUNDS * 12 * 8 * 2) as f64
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn vnni() -> f64 {
        let (mut sums, a, b) = ([_mm512_setzero_si512(); 16], _mm512_set1_epi32(black_box(3)), _mm512_set1_epi32(5));
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, a, b));
        }
        black_box(sums);
        (ROUNDS * 16 * 64 * 2) as f64
    }
}
