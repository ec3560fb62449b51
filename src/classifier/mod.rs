//! The zero-shot head: class labels become rows of weights, embeddings become scores.

pub mod build;
pub mod cache;

pub use build::{Prompts, Weights};
pub use cache::Cache;

use crate::error::{Error, Result};
use crate::model::Head;
use crate::model::spec::Objective;

/// Labels with their weights: what scores an image without having been trained on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    labels: Vec<String>,
    weights: Weights,
    head: Head,
    scoring: Scoring,
}

/// How the cosines with the labels' weights become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// `softmax(scale · cos)` over the labels: the scores of one image add up to 1 (CLIP, Radford et al. 2021).
    Softmax,
    /// `sigmoid(scale · cos + bias)`: each label for itself (SigLIP, Zhai et al. 2023).
    Sigmoid,
    /// Each label for itself, where the model was trained with softmax: a two-way softmax of the label against prompts
    /// that name nothing, `sigmoid(scale · (cos - cos_null))`. It ranks labels; it is not calibrated.
    AgainstNull,
}

impl Scoring {
    /// The scoring of a model, for one label an image or for several.
    pub fn of(objective: Objective, multi_label: bool) -> Self {
        match (objective, multi_label) {
            (Objective::Sigmoid, _) => Self::Sigmoid,
            (Objective::Softmax, false) => Self::Softmax,
            (Objective::Softmax, true) => Self::AgainstNull,
        }
    }

    /// Whether a label's score depends on which others there are.
    pub fn is_relative(self) -> bool {
        self == Self::Softmax
    }
}

impl Classifier {
    /// Puts a classifier together; the weights must be those of the labels, with those of the null prompts where the
    /// scoring needs them.
    pub fn new(labels: Vec<String>, weights: Weights, head: Head, scoring: Scoring) -> Result<Self> {
        let rows = labels.len() + usize::from(scoring == Scoring::AgainstNull);
        if weights.rows() != rows || labels.is_empty() {
            return Err(Error::run(format!("{} rows of weights for {} labels", weights.rows(), labels.len())));
        }
        Ok(Self { labels, weights, head, scoring })
    }

    /// The labels, in the order of the scores.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// How long an embedding must be.
    pub fn dim(&self) -> usize {
        self.weights.dim()
    }

    /// How cosines become scores.
    pub fn scoring(&self) -> Scoring {
        self.scoring
    }

    /// The logits of an embedding of any length, one for each label. They order the labels as the scores do, and tell
    /// apart what rounds to the same score.
    pub fn logits(&self, embedding: &[f32]) -> Vec<f64> {
        let length = dot(embedding, embedding).sqrt().max(1e-12);
        let (scale, bias) = (f64::from(self.head.scale), f64::from(self.head.bias));
        let mut cosines: Vec<f64> = self.weights.iter().map(|row| dot(embedding, row) / length).collect();
        let shift = match self.scoring {
            Scoring::AgainstNull => -scale * cosines.pop().unwrap_or(0.0),
            Scoring::Softmax => 0.0,
            Scoring::Sigmoid => bias,
        };
        cosines.iter_mut().for_each(|cosine| *cosine = scale * *cosine + shift);
        cosines
    }

    /// The scores that belong to logits.
    pub fn scores(&self, logits: &[f64]) -> Vec<f64> {
        match self.scoring {
            Scoring::Softmax => softmax(logits),
            Scoring::Sigmoid | Scoring::AgainstNull => logits.iter().map(|&x| sigmoid(x)).collect(),
        }
    }

    /// The labels that fit an embedding best, with their scores, best first: at most `top_k` of those that reach the
    /// threshold. Equal ones keep the order of the labels.
    pub fn predict(&self, embedding: &[f32], top_k: usize, threshold: f64) -> Vec<(&str, f32)> {
        self.best(&self.logits(embedding), top_k, threshold)
    }

    /// The same of logits.
    pub fn best(&self, logits: &[f64], top_k: usize, threshold: f64) -> Vec<(&str, f32)> {
        let scores = self.scores(logits);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let better = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if top_k < order.len() {
            order.select_nth_unstable_by(top_k, better);
            order.truncate(top_k);
        }
        order.sort_unstable_by(better);
        let reached = order.into_iter().take_while(|&i| scores[i] >= threshold);
        reached.map(|i| (self.labels[i].as_str(), scores[i] as f32)).collect()
    }
}

/// `exp(x) / Σ exp(x)`, shifted by the maximum.
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|x| x / sum).collect()
}

/// `1 / (1 + exp(-x))`, without overflow on either side.
pub fn sigmoid(x: f64) -> f64 {
    let small = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}

/// The scalar product of two vectors of the same length, in f64.
///
/// Eight sums side by side, which every instruction set adds in the same order.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; 8];
    let (mut a, mut b) = (a.chunks_exact(8), b.chunks_exact(8));
    for (a, b) in (&mut a).zip(&mut b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classifier(scoring: Scoring, rows: &[[f32; 2]], labels: &[&str]) -> Classifier {
        let (scale, bias) = (2.0, -1.0);
        let head = Head { scale, bias, objective: Objective::Softmax };
        let weights = Weights::new(rows.concat(), 2).unwrap();
        Classifier::new(labels.iter().map(|&label| label.to_owned()).collect(), weights, head, scoring).unwrap()
    }

    const ROWS: [[f32; 2]; 3] = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]];

    #[test]
    fn softmax_of_scaled_cosines() {
        let it = classifier(Scoring::Softmax, &ROWS, &["x", "y", "z"]);
        // The length of the embedding does not count: cosines .6, .8, 1.
        assert_eq!(it.logits(&[3.0, 4.0]).iter().map(|x| (x * 1e6).round() / 1e6).collect::<Vec<_>>(), [1.2, 1.6, 2.0]);
        let all = it.predict(&[3.0, 4.0], 9, 0.0);
        let sum = 1f64.exp().powf(1.2) + 1f64.exp().powf(1.6) + 1f64.exp().powf(2.0);
        assert_eq!(all.iter().map(|p| p.0).collect::<Vec<_>>(), ["z", "y", "x"]);
        assert!((f64::from(all[0].1) - 2f64.exp() / sum).abs() < 1e-6);
        assert_eq!(it.predict(&[3.0, 4.0], 1, 0.0).len(), 1);
        assert_eq!(it.predict(&[3.0, 4.0], 9, 0.3).len(), 2);
        assert_eq!(it.predict(&[3.0, 4.0], 9, 1.0).len(), 0);
    }

    #[test]
    fn sigmoid_has_a_bias_and_null_prompts_a_row() {
        let it = classifier(Scoring::Sigmoid, &ROWS, &["x", "y", "z"]);
        assert_eq!(it.logits(&[1.0, 0.0])[..2], [1.0, -1.0]);
        assert!((it.scores(&[1.0])[0] - 0.731_058_6).abs() < 1e-6);
        let it = classifier(Scoring::AgainstNull, &ROWS, &["x", "y"]);
        let logits = it.logits(&[1.0, 0.0]);
        assert!((logits[0] - 0.8).abs() < 1e-6 && (logits[1] + 1.2).abs() < 1e-6, "{logits:?}");
    }

    #[test]
    fn equal_scores_keep_the_order_of_the_labels() {
        let it = classifier(Scoring::Softmax, &[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], &["x", "y", "z"]);
        let labels = |k| it.predict(&[1.0, 0.0], k, 0.0).iter().map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(labels(3), ["y", "z", "x"]);
        assert_eq!(labels(1), ["y"]);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        assert_eq!(softmax(&[1e6, 0.0]), [1.0, 0.0]);
        assert_eq!([sigmoid(1e6), sigmoid(-1e6), sigmoid(0.0)], [1.0, 0.0, 0.5]);
        assert_eq!(dot(&[1.0; 19], &[2.0; 19]), 38.0);
    }

    #[test]
    fn weights_and_labels_must_agree() {
        let head = Head { scale: 1.0, bias: 0.0, objective: Objective::Softmax };
        let weights = Weights::new(vec![1.0, 0.0], 2).unwrap();
        assert!(Classifier::new(vec!["x".into()], weights.clone(), head, Scoring::AgainstNull).is_err());
        assert!(Classifier::new(vec![], weights, head, Scoring::Softmax).is_err());
    }
}
