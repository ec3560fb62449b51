//! What an objective is given: the embeddings of a contrastive batch, and the numbers that make logits of cosines.

use super::Duplicates;
use super::contrast::{constant, mean, scaled_cosines};
use super::cross_entropy::{Axis, Hidden, Targets, cross_entropy};
use crate::error::Result;
use crate::train::negatives::Columns;
use crate::train::negatives::extra::PairKeys;
use candle_core::Tensor;

/// The embeddings of a contrastive batch of B pairs and what is known of them. No embedding is normalised.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// Of the images, (B, dim).
    pub images: Tensor,
    /// Of the captions, (B, dim); row i belongs to image i.
    pub texts: Tensor,
    /// Of captions that do not fit.
    pub neg_texts: Option<Negatives>,
    /// Of images that do not fit.
    pub neg_images: Option<Negatives>,
    /// Of image patches and words.
    pub tokens: Option<Tokens>,
    /// Negatives from beyond the batch (constants): captions for the images, and images for the captions.
    pub extra: Option<[Columns; 2]>,
    /// What the model gave before training (constants).
    pub start: Option<Embeddings>,
    /// What the moving average of the weights gives (constants).
    pub ema: Option<Embeddings>,
    /// What another checkpoint gives (constants; the dimension may differ).
    pub teacher: Option<Embeddings>,
    /// For each pair its number in the data set, below [`super::Settings::samples`].
    pub index: Vec<u32>,
    /// For each pair which image it is; pairs of one image have the same number.
    pub image_ids: Vec<u64>,
    /// For each pair what it is, to be remembered beyond the batch; needed for extra negatives alone.
    pub keys: Vec<PairKeys>,
    /// For each pair its class.
    pub labels: Option<Vec<u32>>,
    /// Which pairs off the diagonal are the same image, text, class or group, (B, B) row by row.
    pub same: Vec<bool>,
    /// What is done about them.
    pub duplicates: Duplicates,
    /// How much each pair counts; all alike if `None`.
    pub weights: Option<Vec<f32>>,
    /// How far the run is.
    pub progress: Progress,
}

/// Embeddings of what does not fit: up to K for each pair.
#[derive(Clone, Debug)]
pub struct Negatives {
    /// (B, K, dim); where there are fewer than K the rest is anything.
    pub embeddings: Tensor,
    /// Which of them are there, (B, K) row by row.
    pub there: Vec<bool>,
    /// Which of them fit another pair after all, (B, B · K) row by row: they are no negatives of it. Empty if none does.
    pub fits: Vec<bool>,
}

/// An embedding for each image patch and each word.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// (B, patches, dim).
    pub images: Tensor,
    /// (B, words, dim).
    pub texts: Tensor,
    /// Which words are no padding, (B, words) row by row.
    pub words: Vec<bool>,
}

/// The embeddings that another model gives to the batch.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// (B, its dim).
    pub images: Tensor,
    /// (B, its dim).
    pub texts: Tensor,
    /// (B, K, its dim), in the places of [`Pairs::neg_texts`].
    pub neg_texts: Option<Tensor>,
    /// Its `exp(logit_scale)`.
    pub scale: f64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// The step, from 0.
    pub step: usize,
    /// How many steps there will be.
    pub steps: usize,
    /// How many steps make an epoch.
    pub epoch_steps: usize,
}

/// The numbers that make logits of cosines: `exp(log_scale) · cos + bias`.
#[derive(Clone, Debug)]
pub struct Head {
    /// A scalar, trained or not.
    pub log_scale: Tensor,
    /// A scalar, trained or not (SigLIP).
    pub bias: Option<Tensor>,
}

impl Head {
    /// `exp(log_scale)`, a scalar.
    pub fn scale(&self) -> Result<Tensor> {
        Ok(self.log_scale.exp()?)
    }

    /// The inverse of a fixed temperature; the model's own scale if that is 0.
    pub(super) fn scale_or(&self, temperature: f64, like: &Tensor) -> Result<Tensor> {
        if temperature == 0.0 { self.scale() } else { constant(vec![1.0 / temperature], (), like) }
    }
}

impl Pairs {
    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// `scale · cos` of images (rows) with texts, (B, B). It is the one matrix of this size: the scale goes to the images.
    pub(super) fn logits(&self, head: &Head) -> Result<Tensor> {
        scaled_cosines(&self.images, &self.texts, &head.scale()?)
    }

    /// How much each pair counts; the sum is 1.
    pub(super) fn shares(&self) -> Result<Tensor> {
        self.shares_where(|_| true)
    }

    /// The same, if only some pairs count. If none does, all are 0.
    pub(super) fn shares_where(&self, counts: impl Fn(usize) -> bool) -> Result<Tensor> {
        let mut shares: Vec<f64> = (0..self.len()).map(|i| if counts(i) { self.weight(i) } else { 0.0 }).collect();
        let sum = shares.iter().sum::<f64>();
        if sum > 0.0 {
            shares.iter_mut().for_each(|x| *x /= sum);
        }
        constant(shares, self.len(), &self.images)
    }

    /// How much a pair counts; 1 if nothing is said.
    pub(super) fn weight(&self, i: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| f64::from(weights[i]))
    }

    /// Half the cross-entropy of rows and half that of columns of `logits` (B, B).
    pub(super) fn both_ways(&self, logits: &Tensor, targets: &Targets, hidden: Option<&Hidden>) -> Result<Tensor> {
        let rows = cross_entropy(logits, targets, hidden, Axis::Rows)?;
        let columns = cross_entropy(logits, targets, hidden, Axis::Columns)?;
        Ok((mean(&(rows + columns)?, &self.shares()?)? * 0.5)?)
    }
}
