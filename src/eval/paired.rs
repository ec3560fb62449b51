//! Two classifiers on the same items, and one under several seeds.

use super::{Interval, bootstrap};
use serde::Serialize;

/// How much better one classifier is than another on the same items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// How many items there are.
    pub n: usize,
    /// The accuracy of the first less that of the second.
    pub difference: f64,
    /// Its 95 % bootstrap interval over items.
    pub interval: Interval,
    /// How many items only the first had right.
    pub first_only: u64,
    /// How many items only the second had right.
    pub second_only: u64,
    /// McNemar's exact p: how likely a difference at least so large is if both are equally good.
    pub p: f64,
}

/// A mean over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample's standard deviation, over n - 1 (CoOp's `parse_test_res.py` divides by n); none for one value.
    pub std: Option<f64>,
    /// How many values there are.
    pub n: usize,
}

/// Compares two classifiers: for each item whether the first and the second had it right.
///
/// # Panics
/// If the lengths differ.
pub fn paired(first: &[bool], second: &[bool], seed: u64) -> Paired {
    assert_eq!(first.len(), second.len(), "two answers for each item");
    let differences: Vec<f64> =
        first.iter().zip(second).map(|(&a, &b)| f64::from(u8::from(a)) - f64::from(u8::from(b))).collect();
    let count = |which: f64| differences.iter().filter(|difference| **difference == which).count() as u64;
    let (first_only, second_only) = (count(1.0), count(-1.0));
    let n = first.len();
    Paired {
        n,
        difference: (first_only as f64 - second_only as f64) / n as f64,
        interval: bootstrap::mean(&differences, seed),
        first_only,
        second_only,
        p: mcnemar(first_only, second_only),
    }
}

/// McNemar's exact test of the items that one of two classifiers alone had right (McNemar 1947): twice the probability
/// that of `b + c` tosses of a coin no more than the smaller number show heads, at most 1.
pub fn mcnemar(b: u64, c: u64) -> f64 {
    let (least, n) = (b.min(c), b + c);
    // The sum of C(n, k) / 2^n for k = 0 … least, from the largest term down; in logarithms, as 2^-n is 0 for many tosses.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    for k in 1..=least {
        log += ((n - k + 1) as f64 / k as f64).ln();
    }
    let (mut sum, mut term) = (0.0, 1.0);
    for k in (0..=least).rev() {
        sum += term;
        if term < 1e-18 * sum {
            break;
        }
        term *= k as f64 / (n - k + 1) as f64;
    }
    (2.0 * (log + f64::ln(sum)).exp()).min(1.0)
}

/// The harmonic mean of the accuracies on base and new classes (Xian et al. 2017); 0 if one is.
pub fn harmonic_mean(base: f64, new: f64) -> f64 {
    if base + new > 0.0 { 2.0 * base * new / (base + new) } else { 0.0 }
}

impl Spread {
    /// That of some values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (n > 0).then(|| Self { mean, std: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two() {
        let first = [true, true, true, false, true, false];
        let second = [true, false, false, false, true, true];
        let found = paired(&first, &second, 0);
        assert_eq!((found.n, found.first_only, found.second_only), (6, 2, 1));
        assert!((found.difference - 1.0 / 6.0).abs() < 1e-15);
        assert!(found.interval.0 < found.difference && found.difference < found.interval.1);
        assert_eq!(found.p, 1.0);
        let other = paired(&second, &first, 0);
        assert_eq!((other.difference, other.p), (-found.difference, found.p));
        let same = paired(&first, &first, 0);
        assert_eq!((same.difference, same.interval, same.p), (0.0, Interval(0.0, 0.0), 1.0));
    }

    #[test]
    fn many_tosses_do_not_vanish() {
        assert!(mcnemar(30_000, 31_000) > 0.0 && mcnemar(30_000, 31_000) < 1e-4);
        assert!((mcnemar(0, 3) - 0.25).abs() < 1e-15);
    }

    #[test]
    fn means() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.5]), Some(Spread { mean: 0.5, std: None, n: 1 }));
        let found = Spread::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((found.mean, found.std), (2.0, Some(1.0)));
        assert!((harmonic_mean(0.8, 0.6) - 0.96 / 1.4).abs() < 1e-15);
        assert_eq!(harmonic_mean(0.0, 0.0), 0.0);
    }
}
