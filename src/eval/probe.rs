//! Linear probes: logistic regression on embeddings.

use super::Tally;
use super::lbfgs::{Stop, minimise};
use crate::ops::pool;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// The rows whose part of the gradient is summed on one thread; the parts are added up in order.
const PART: usize = 256;

/// A hundredth of scikit-learn's tolerance, and the steps that CLIP's probe takes at most.
pub const USUAL: Stop = Stop { gradient: 1e-6, steps: 1000 };

/// A linear classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// A row of `dim` weights for each class.
    pub weights: Vec<f64>,
    /// A number for each class.
    pub intercepts: Vec<f64>,
    /// Whether the minimum was reached.
    pub converged: bool,
    dim: usize,
}

/// Rows with their classes, in f32 or f64.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a, T = f32> {
    /// The rows, of `dim` finite numbers each.
    pub rows: &'a [T],
    /// The length of a row.
    pub dim: usize,
    /// The class of each row.
    pub labels: &'a [usize],
}

/// Logistic regression with an L2 penalty on the weights, not on the intercepts, as scikit-learn's
/// `LogisticRegression(C=c)` defines it and CLIP's linear probe uses it (Radford et al. 2021, appendix A.3): the minimum of
/// `c · Σ -log softmax(W x + b)[y] + ‖W‖² / 2`. Of two classes scikit-learn knows one row, w = W₁ - W₀ with the penalty
/// `‖w‖² / 2`; as W₁ = -W₀ at the minimum, `‖W‖²` is the same penalty.
///
/// # Panics
/// When a class is out of range, or the lengths do not fit each other.
pub fn fit<T: Copy + Into<f64> + Sync>(sample: &Sample<'_, T>, classes: usize, c: f64, stop: Stop) -> Probe {
    let (n, dim) = (sample.labels.len(), sample.dim);
    assert_eq!(sample.rows.len(), n * dim, "a class for each row");
    let width = dim + 1;
    // Divided by c·n as in scikit-learn, so that the tolerance means the same whatever the data.
    let penalty = if classes == 2 { 2.0 } else { 1.0 } / (c * n as f64);
    let found = minimise(vec![0.0; classes * width], stop, |x, gradient| {
        let mut parts: Vec<(f64, Vec<f64>)> = vec![(0.0, Vec::new()); n.div_ceil(PART)];
        pool::chunks(&mut parts, 1, |part, out| out[0] = loss(sample, x, classes, part));
        gradient.fill(0.0);
        let mut value = 0.0;
        for (loss, part) in &parts {
            value += loss / n as f64;
            gradient.iter_mut().zip(part).for_each(|(g, part)| *g += part / n as f64);
        }
        for (x, gradient) in x.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
            for (w, g) in x[..dim].iter().zip(gradient) {
                value += 0.5 * penalty * w * w;
                *g += penalty * w;
            }
        }
        value
    });
    Probe::new(&found.x, dim, found.converged)
}

/// The loss of some rows, and its gradient.
fn loss<T: Copy + Into<f64>>(sample: &Sample<'_, T>, x: &[f64], classes: usize, part: usize) -> (f64, Vec<f64>) {
    let (dim, width) = (sample.dim, sample.dim + 1);
    let last = sample.labels.len().min((part + 1) * PART);
    let (mut value, mut gradient) = (0.0, vec![0.0; classes * width]);
    let mut logits = vec![0.0; classes];
    for index in part * PART..last {
        let (row, label) = (&sample.rows[index * dim..][..dim], sample.labels[index]);
        score(x, row, &mut logits);
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
        value += most + sum.ln() - logits[label];
        for (class, (logit, gradient)) in logits.iter().zip(gradient.chunks_exact_mut(width)).enumerate() {
            let error = (logit - most).exp() / sum - f64::from(u8::from(class == label));
            let (weights, intercept) = gradient.split_at_mut(dim);
            weights.iter_mut().zip(row).for_each(|(g, &x)| *g += error * x.into());
            intercept[0] += error;
        }
    }
    (value, gradient)
}

/// The logits of a row under weights, each class's with its intercept behind.
fn score<T: Copy + Into<f64>>(x: &[f64], row: &[T], logits: &mut [f64]) {
    for (logit, x) in logits.iter_mut().zip(x.chunks_exact(row.len() + 1)) {
        // Eight sums at a time, which the compiler keeps in registers; the order does not depend on the machine.
        let (weights, intercept) = x.split_at(row.len());
        let mut sums = [0.0f64; 8];
        let (pairs, rest) = (weights.chunks_exact(8).zip(row.chunks_exact(8)), row.len() / 8 * 8);
        for (w, x) in pairs {
            for ((sum, w), &x) in sums.iter_mut().zip(w).zip(x) {
                *sum += w * x.into();
            }
        }
        let tail: f64 = weights[rest..].iter().zip(&row[rest..]).map(|(w, &x)| w * x.into()).sum();
        *logit = intercept[0] + sums.iter().sum::<f64>() + tail;
    }
}

impl Probe {
    fn new(flat: &[f64], dim: usize, converged: bool) -> Self {
        let (mut weights, mut intercepts) = (Vec::new(), Vec::new());
        for row in flat.chunks_exact(dim + 1) {
            weights.extend_from_slice(&row[..dim]);
            intercepts.push(row[dim]);
        }
        Self { weights, intercepts, converged, dim }
    }

    fn flat(&self) -> Vec<f64> {
        let rows = self.weights.chunks_exact(self.dim).zip(&self.intercepts);
        rows.flat_map(|(row, &intercept)| row.iter().copied().chain([intercept])).collect()
    }

    /// Counts the answers for these rows.
    pub fn tally<T: Copy + Into<f64>>(&self, sample: &Sample<'_, T>) -> Tally {
        let flat = self.flat();
        let mut tally = Tally::new(self.intercepts.len());
        let mut logits = vec![0.0; self.intercepts.len()];
        for (row, &label) in sample.rows.chunks_exact(sample.dim).zip(sample.labels) {
            score(&flat, row, &mut logits);
            tally.add(label, &logits);
        }
        tally
    }
}

/// The strengths that can be tried: eight a decade from 1e-6 to 1e6 (CLIP's 96 logarithmic steps, appendix A.3).
const STEPS_A_DECADE: i32 = 8;

/// What a sweep found.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// The strength that did best on the validation part; of equals the smallest, which penalises most.
    pub c: f64,
    /// All that were tried, in rising order, with the share of right answers on the validation part.
    pub tried: Vec<(f64, f64)>,
}

/// Looks for the best `C` as CLIP's linear probe does (appendix A.3): 1e-6, 1e-4, 1e-2, 1, 1e2, 1e4 and 1e6 first, then
/// on both sides of the best with half the distance in each round, down to an eighth of a decade. `train` and
/// `validation` are parts of the training set: no test image is looked at.
pub fn sweep<T: Copy + Into<f64> + Sync>(train: &Sample<'_, T>, validation: &Sample<'_, T>, classes: usize) -> Sweep {
    // Places count steps from 1 on.
    let decade = STEPS_A_DECADE;
    let c = |place: i32| 10f64.powf(f64::from(place) / f64::from(decade));
    let mut tried: Vec<(i32, f64)> = Vec::new();
    let mut best = |places: &[i32]| -> i32 {
        for &place in places {
            if place.abs() <= 6 * decade && tried.iter().all(|(known, _)| *known != place) {
                let probe = fit(train, classes, c(place), USUAL);
                let right = probe.tally(validation).metrics().map_or(0.0, |metrics| metrics.acc1);
                tried.push((place, right));
            }
        }
        tried.sort_by_key(|(place, _)| *place);
        tried
            .iter()
            .fold((0, f64::NEG_INFINITY), |best, &(place, right)| if right > best.1 { (place, right) } else { best })
            .0
    };
    let mut place = best(&(-3..=3).map(|i| 2 * decade * i).collect::<Vec<_>>());
    let mut distance = decade;
    while distance >= 1 {
        place = best(&[place - distance, place + distance]);
        distance /= 2;
    }
    Sweep { c: c(place), tried: tried.into_iter().map(|(place, right)| (c(place), right)).collect() }
}

/// Splits places into training and validation, of each class `share` for validation, and at least one of each class that
/// has two: `(training, validation)`, both in rising order.
pub fn split(labels: &[usize], share: f64, rng: &mut ChaCha8Rng) -> (Vec<usize>, Vec<usize>) {
    let classes = labels.iter().max().map_or(0, |most| most + 1);
    let mut of_class = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(place, &label)| of_class[label].push(place));
    let (mut training, mut validation) = (Vec::new(), Vec::new());
    for mut places in of_class {
        let held = (places.len() as f64 * share).round() as usize;
        let held = if places.len() < 2 { 0 } else { held.clamp(1, places.len() - 1) };
        for at in 0..held {
            let other = rng.random_range(at..places.len());
            places.swap(at, other);
        }
        validation.extend_from_slice(&places[..held]);
        training.extend_from_slice(&places[held..]);
    }
    training.sort_unstable();
    validation.sort_unstable();
    (training, validation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    /// Three classes around three places.
    fn points(n: usize, spread: f32) -> (Vec<f32>, Vec<usize>) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
        let places = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]];
        let rows = labels.iter().flat_map(|&label| places[label]).map(|x| x + spread * rng.random_range(-1.0..1.0f32));
        (rows.collect(), labels)
    }

    #[test]
    fn what_is_apart_is_told_apart() {
        let (rows, labels) = points(60, 0.3);
        let sample = Sample { rows: &rows, dim: 2, labels: &labels };
        let probe = fit(&sample, 3, 1.0, Stop { gradient: 1e-8, steps: 1000 });
        assert!(probe.converged);
        assert_eq!(probe.tally(&sample).metrics().unwrap().acc1, 1.0);
        // At the minimum the penalty pulls as the data do: weights of all classes add up to nothing.
        for column in 0..2 {
            assert!((0..3).map(|class| probe.weights[class * 2 + column]).sum::<f64>().abs() < 1e-5);
        }
    }

    #[test]
    fn a_sweep_takes_the_best_on_the_validation_part() {
        let (rows, labels) = points(90, 1.5);
        let (training, validation) = split(&labels, 0.2, &mut ChaCha8Rng::seed_from_u64(0));
        let part = |places: &[usize]| -> (Vec<f32>, Vec<usize>) {
            (
                places.iter().flat_map(|&i| [rows[2 * i], rows[2 * i + 1]]).collect(),
                places.iter().map(|&i| labels[i]).collect(),
            )
        };
        let (a, b) = (part(&training), part(&validation));
        let [train, held] = [&a, &b].map(|(rows, labels)| Sample { rows, dim: 2, labels });
        let found = sweep(&train, &held, 3);
        let most = found.tried.iter().map(|(_, right)| *right).fold(0.0, f64::max);
        assert_eq!(found.tried.iter().find(|(_, right)| *right == most).unwrap().0, found.c);
        assert!(found.tried.len() >= 10 && found.tried.is_sorted_by(|a, b| a.0 < b.0), "{found:?}");
    }

    #[test]
    fn splits_keep_every_class_in_training() {
        let labels = [0, 1, 1, 0, 2, 1, 1, 0, 1, 0, 1, 1, 1, 1];
        let (training, validation) = split(&labels, 0.2, &mut ChaCha8Rng::seed_from_u64(3));
        assert_eq!(training.len() + validation.len(), labels.len());
        let count = |places: &[usize], class| places.iter().filter(|&&i| labels[i] == class).count();
        assert_eq!([0, 1, 2].map(|class| count(&validation, class)), [1, 2, 0]);
        assert!(training.is_sorted() && validation.is_sorted());
        assert_eq!(split(&labels, 0.2, &mut ChaCha8Rng::seed_from_u64(3)), (training, validation));
    }
}
