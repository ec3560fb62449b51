//! Functions made of `exp` of numbers below zero: a range in which it needs no care, and in which `1 / (1 + exp)` lies
//! between a half and one, so that no division is needed.
//!
//! `rten-vecmath` has the same for all numbers; these take half the time, of which an 8-bit product leaves little.

use rten_simd::ops::{BitOps, FloatOps, IntOps, NumOps};
use rten_simd::{Isa, Simd, SimdUnaryOp};

/// `exp(x)` for `x ≤ 0`, zero below -87.
pub(super) struct FallingExp;

impl SimdUnaryOp<f32> for FallingExp {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let (ops, ints) = (isa.f32(), isa.i32());
        // x = k ln 2 + r: the last bits of a number near 1.5 · 2²³ are the integer k. ln 2 comes in two parts, the first
        // with so few bits that its product is exact (Cody and Waite 1980).
        let shift = ops.splat(12_582_912.0);
        let shifted = ops.mul_add(x, ops.splat(std::f32::consts::LOG2_E), shift);
        let k = ops.sub(shifted, shift);
        let r = ops.mul_add(k, ops.splat(-0.693_145_75), x);
        let r = ops.mul_add(k, ops.splat(-1.428_606_8e-6), r);
        let mut value = ops.splat(EXP[0]);
        for c in &EXP[1..] {
            value = ops.mul_add(value, r, ops.splat(*c));
        }
        // Times 2ᵏ: k more in the exponent.
        let (bits, k): (I::I32, I::I32) = (value.reinterpret_cast(), shifted.reinterpret_cast());
        let value = ints.add(bits, ints.shift_left::<23>(k)).reinterpret_cast();
        ops.select(ops.zero(), value, ops.lt(x, ops.splat(-87.0)))
    }
}

/// The polynomial with the least relative error of `exp` on ±ln 2 / 2, 1.9e-9, from the highest power on (Remez).
const EXP: [f32; 7] = [0.001_383_683_5, 0.008_374_824, 0.041_668_225, 0.166_664_2, 0.499_999_9, 1.0, 1.0];

/// `1 / (1 + exp(-x))`.
pub(super) struct Sigmoid;

impl SimdUnaryOp<f32> for Sigmoid {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let below = ops.lt(x, ops.zero());
        let e = FallingExp.eval(isa, ops.select(x, ops.neg(x), below));
        // 1 / d for 1 ≤ d ≤ 2: the parabola within 1/99 of it, then Newton's method twice.
        let d = ops.add(ops.one(), e);
        let less = ops.neg(d);
        let mut y = ops.mul_add(d, ops.splat(32.0 / 99.0), ops.splat(-144.0 / 99.0));
        y = ops.mul_add(y, d, ops.splat(210.0 / 99.0));
        for _ in 0..2 {
            let rest = ops.mul_add(less, y, ops.one());
            y = ops.mul_add(y, rest, y);
        }
        ops.select(ops.mul(e, y), y, below)
    }
}

/// `x · σ(alpha · x)`.
pub(super) struct Swish(pub(super) f32);

impl SimdUnaryOp<f32> for Swish {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        ops.mul(x, Sigmoid.eval(isa, ops.mul(x, ops.splat(self.0))))
    }
}

/// The tanh approximation of GELU: `x/2 (1 + tanh u) = x σ(2u)` with `u = √(2/π) (x + 0.044715 x³)`.
pub(super) struct TanhGelu;

impl SimdUnaryOp<f32> for TanhGelu {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let two_root = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
        let cubic = ops.mul_add(ops.mul(x, x), ops.splat(0.044_715 * two_root), ops.splat(two_root));
        ops.mul(x, Sigmoid.eval(isa, ops.mul(x, cubic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sets::Set;

    /// The largest relative error for numbers from -`most` to `most`, or to zero.
    fn error(set: Set, f: impl SimdUnaryOp<f32>, most: f32, positive: bool, exact: impl Fn(f64) -> f64) -> f64 {
        let mut x: Vec<f32> = (0..=100_000).map(|i| -most * i as f32 / 1e5).collect();
        if positive {
            x.extend(x.clone().iter().map(|x| -x));
        }
        let mut y = x.clone();
        set.map(&f, &mut y);
        let error = |(x, y): (&f32, &f32)| match exact(f64::from(*x)) {
            0.0 => f64::from(y.abs()),
            exact => ((f64::from(*y) - exact) / exact).abs(),
        };
        x.iter().zip(&y).map(error).fold(0.0, f64::max)
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn is_within_a_few_last_bits() {
        let gelu =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
        for set in Set::available() {
            assert!(error(set, FallingExp, 87.0, false, f64::exp) < 2e-7, "{set:?}");
            assert!(error(set, Sigmoid, 87.0, true, sigmoid) < 4e-7, "{set:?}");
            assert!(error(set, Swish(1.0), 87.0, true, |x| x * sigmoid(x)) < 5e-7, "{set:?}");
            // A factor's rounding counts as often as the exponent is large.
            assert!(error(set, Swish(1.702), 8.0, true, |x| x * sigmoid(1.702_f32 as f64 * x)) < 1e-6, "{set:?}");
            assert!(error(set, TanhGelu, 2.0, true, gelu) < 1e-6, "{set:?}");
        }
    }

    #[test]
    fn ends_are_exact_and_what_is_not_a_number_stays() {
        for set in Set::available() {
            let mut x = [0.0, -87.5, f32::NEG_INFINITY, f32::NAN];
            set.map(&FallingExp, &mut x);
            assert_eq!(x[..3], [1.0, 0.0, 0.0], "{set:?}");
            assert!(x[3].is_nan(), "{set:?}");
            let mut x = [0.0, 100.0, f32::INFINITY, -100.0, f32::NEG_INFINITY, f32::NAN];
            set.map(&Sigmoid, &mut x);
            assert_eq!(x[..5], [0.5, 1.0, 1.0, 0.0, 0.0], "{set:?}");
            assert!(x[5].is_nan(), "{set:?}");
        }
    }
}
