//! Axes: where ticks go and how numbers are written.

/// An axis from one number to another, with ticks at round ones.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) ticks: Vec<f64>,
    /// From one tick to the next.
    step: f64,
}

impl Axis {
    /// An axis that holds these numbers, all finite, with about `most` ticks. With `round` it begins and ends at a tick.
    pub(crate) fn new(numbers: impl Iterator<Item = f64>, most: usize, round: bool) -> Self {
        let (mut low, mut high) = numbers.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= low.abs().max(high.abs()) * 1e-9 {
            // All the same: some room on both sides.
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / most as f64);
        let (first, last) = if round {
            ((low / step).floor(), (high / step).ceil())
        } else {
            ((low / step).ceil(), (high / step).floor())
        };
        let ticks: Vec<f64> = (0..=(last - first).min(100.0) as usize).map(|i| (first + i as f64) * step).collect();
        if round {
            (low, high) = (first * step, last * step);
        }
        Self { low, high, ticks, step }
    }

    /// Where a number lies between the ends, 0 to 1.
    pub(crate) fn place(&self, v: f64) -> f64 {
        (v - self.low) / (self.high - self.low)
    }

    /// A tick's number, as short as its neighbours allow.
    pub(crate) fn label(&self, tick: f64) -> String {
        let most = self.low.abs().max(self.high.abs());
        if tick.abs() < self.step * 1e-6 {
            return "0".into();
        }
        if !(1e-3..1e7).contains(&most) {
            // Digits between the tick's first one and the step's.
            let digits = (tick.abs().log10().floor() - self.step.log10().floor()).clamp(0.0, 12.0) as usize;
            let text = format!("{tick:.digits$e}");
            return text.replace('-', "−");
        }
        fixed(tick, (-self.step.log10().floor()).clamp(0.0, 12.0) as usize)
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below this.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= least * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

/// A value with about four digits.
pub(crate) fn short(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    if !v.is_finite() {
        return "–".into();
    }
    let digits = v.abs().log10().floor();
    if (-3.0..7.0).contains(&digits) {
        let text = fixed(v, (3.0 - digits).clamp(0.0, 6.0) as usize);
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text };
    }
    let text = format!("{v:.3e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    format!("{mantissa}e{exponent}").replace('-', "−")
}

/// A number with thousands apart.
fn fixed(v: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", v.abs());
    let whole = text.split('.').next().unwrap_or_default().len();
    let mut out = String::new();
    if v < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, c) in text.chars().enumerate() {
        if i > 0 && i < whole && (whole - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> String {
        let axis = Axis::new([low, high].into_iter(), 5, true);
        assert!(axis.low <= low && axis.high >= high, "{axis:?}");
        axis.ticks.iter().map(|t| axis.label(*t)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(0.03, 0.97), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(labels(2.31, 4.02), "2.0 2.5 3.0 3.5 4.0 4.5");
        assert_eq!(labels(0.0, 5e-5), "0 1e−5 2e−5 3e−5 4e−5 5e−5");
        assert_eq!(labels(-1.0, 1.0), "−1.0 −0.5 0 0.5 1.0");
        assert_eq!(labels(0.0, 12_000.0), "0 5,000 10,000 15,000");
        assert_eq!(labels(100.0, 100.0), "90 95 100 105 110");
        assert_eq!(labels(3.0e-5, 3.04e-5), "3.00e−5 3.01e−5 3.02e−5 3.03e−5 3.04e−5");
        assert_eq!(labels(0.0, 0.0), "−1.0 −0.5 0 0.5 1.0");
        assert_eq!(Axis::new(std::iter::empty(), 5, true).ticks.len(), 6);
        let inside = Axis::new([1.0, 930.0].into_iter(), 6, false);
        assert_eq!(inside.ticks, [200.0, 400.0, 600.0, 800.0]);
    }

    #[test]
    fn extreme_numbers_end() {
        for (low, high) in [(-f64::MAX, f64::MAX), (0.0, 5e-324), (1e308, 1.1e308), (1.0, 1.0 + 1e-12)] {
            let axis = Axis::new([low, high].into_iter(), 5, true);
            assert!(axis.ticks.len() <= 101, "{axis:?}");
        }
        assert_eq!(
            [0.0, 1.0 / 3.0, 1234.5, 2e-5, -7.0, 1e9, f64::NAN].map(short).join(" "),
            "0 0.3333 1,234 2e−5 −7 1e9 –"
        );
    }
}
