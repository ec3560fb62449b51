//! 95 % confidence intervals of proportions: closed forms, so the same on every run.

use serde::Serialize;

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A 95 % confidence interval; in JSON `[low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval(pub f64, pub f64);

impl Interval {
    /// Wilson's score interval of `hits` in `n` trials (Wilson 1927); the whole range if there were none.
    ///
    /// Unlike `p ± 1.96 √(p(1-p)/n)` it stays inside 0..1 and keeps its width when everything was right or wrong.
    pub fn wilson(hits: u64, n: u64) -> Self {
        if n == 0 {
            return Self(0.0, 1.0);
        }
        let (trials, p) = (n as f64, hits as f64 / n as f64);
        let share = Z * Z / trials;
        let centre = p + share / 2.0;
        let reach = Z * (p * (1.0 - p) / trials + share / (4.0 * trials)).sqrt();
        // Rounding must not move the ends that are exact.
        let low = if hits == 0 { 0.0 } else { (centre - reach) / (1.0 + share) };
        let high = if hits == n { 1.0 } else { (centre + reach) / (1.0 + share) };
        Self(low, high)
    }

    /// The interval of the mean of independent proportions, `(hits, n)` each, from their Wilson intervals: with `p` the
    /// proportions and `l`, `u` their limits, `m - √Σ(p-l)²/k .. m + √Σ(u-p)²/k` around the mean `m` of `k` (Zou, Huang
    /// and Zhang 2009, "A note on confidence interval estimation for a linear function of binomial proportions").
    ///
    /// Trials that never took place are left out; of one proportion it is Wilson's interval.
    pub fn mean(proportions: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let (mut count, mut sum, mut below, mut above) = (0.0, 0.0, 0.0, 0.0);
        for (hits, n) in proportions.into_iter().filter(|(_, n)| *n > 0) {
            let (p, Self(low, high)) = (hits as f64 / n as f64, Self::wilson(hits, n));
            count += 1.0;
            sum += p;
            below += (p - low) * (p - low);
            above += (high - p) * (high - p);
        }
        if count == 0.0 {
            return Self(0.0, 1.0);
        }
        let mean = sum / count;
        Self((mean - below.sqrt() / count).max(0.0), (mean + above.sqrt() / count).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(Interval(low, high): Interval, want: (f64, f64)) {
        assert!((low - want.0).abs() < 5e-5 && (high - want.1).abs() < 5e-5, "{low} {high}, want {want:?}");
    }

    #[test]
    fn wilson_by_hand() {
        // statsmodels.stats.proportion.proportion_confint(hits, n, method="wilson") gives the same.
        close(Interval::wilson(8, 10), (0.4902, 0.9433));
        close(Interval::wilson(0, 10), (0.0, 0.2775));
        close(Interval::wilson(10, 10), (0.7225, 1.0));
        close(Interval::wilson(500, 1000), (0.4691, 0.5309));
        assert_eq!(Interval::wilson(0, 0), Interval(0.0, 1.0));
    }

    #[test]
    fn mean_of_proportions() {
        assert_eq!(Interval::mean([(8, 10)]), Interval::wilson(8, 10));
        assert_eq!(Interval::mean([(8, 10), (0, 0)]), Interval::wilson(8, 10));
        assert_eq!(Interval::mean([]), Interval(0.0, 1.0));
        // p .8 (.49016 .94331) and .5 (.23659 .76341): .65 - √(.30984² + .26341²)/2 .. .65 + √(.14331² + .26341²)/2
        close(Interval::mean([(8, 10), (5, 10)]), (0.44666, 0.79993));
        assert_eq!(Interval::mean([(3, 3), (4, 4)]).1, 1.0);
    }
}
