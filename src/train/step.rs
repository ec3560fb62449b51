//! One step's loss and gradients, for a contrastive batch of any size in the memory of a micro-batch.
//!
//! Pass 1 embeds everything without keeping activations. The objective sees the embeddings of the whole batch (of all
//! processes) and leaves a gradient on each. Pass 2 embeds each micro-batch again and takes its share of those gradients
//! back through the tower (Gao et al. 2021, "GradCache"; arXiv 2101.06983). The result is that of one plain batch. What
//! the objective itself trains, the logit scale foremost, gets its gradient between the passes.

mod others;
mod passes;
mod together;

use super::features::Features;
use super::group::Group;
use super::negatives::extra::PairKeys;
use super::objective::{Duplicates, Head, Negatives, Objective, Pairs, Progress, Sum, Tokens};
use super::parts::Parts;
use super::towers::Stream;
use crate::error::Result;
use crate::model::Clip;
use crate::ops;
use crate::text::Batch as Ids;
use crate::weights::View;
use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::Range;

/// Gradients by the parameters' names.
pub type Gradients = BTreeMap<String, Tensor>;

/// The name of a parameter of the objective among all parameters.
pub fn objective_param(name: &str) -> String {
    format!("objective.{name}")
}

/// A contrastive batch: what every process knows of it, and the pixels of this one's share.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Which pairs are this process's.
    pub share: Range<usize>,
    /// For each pair its number in the data set.
    pub index: Vec<u32>,
    /// For each pair its caption.
    pub texts: Vec<String>,
    /// For each pair captions that do not fit, where there are any.
    pub neg_texts: Vec<Vec<String>>,
    /// How many places each pair has for them at least: a batch for which none was found has places that are empty.
    pub least_negatives: usize,
    /// Which of these fit another pair after all, (B, B · K) row by row; empty if none does.
    pub neg_texts_fit: Vec<bool>,
    /// For each pair which image it is.
    pub image_ids: Vec<u64>,
    /// For each pair what it is, beyond the batch.
    pub keys: Vec<PairKeys>,
    /// For each pair its class.
    pub labels: Option<Vec<u32>>,
    /// Which pairs off the diagonal are the same, (B, B) row by row.
    pub same: Vec<bool>,
    /// How much each pair counts.
    pub weights: Option<Vec<f32>>,
    /// How many images that do not fit each pair has.
    pub neg_images: usize,
    /// Which of them are there, (B, `neg_images`) row by row.
    pub neg_images_there: Vec<bool>,
    /// The images of this process's share, each pair's own and then those that do not fit it: (height, width, 3) bytes,
    /// not normalised. Empty if they are not needed.
    pub pixels: Vec<u8>,
}

/// What takes steps.
pub struct Stepper<'a> {
    /// The model that is trained.
    pub clip: &'a Clip,
    /// What of it is trained.
    pub parts: &'a Parts,
    /// The processes that train it.
    pub group: &'a dyn Group,
    /// How many items go through a tower at once.
    pub micro_batch: usize,
    /// What is done about duplicates.
    pub duplicates: Duplicates,
    /// The model before training, where the objective needs it.
    pub start: Option<&'a Clip>,
    /// Another checkpoint to learn from.
    pub teacher: Option<&'a Clip>,
    /// The moving average of the weights, where the objective needs it.
    pub average: Option<&'a BTreeMap<String, Tensor>>,
    /// What is known already of images and texts, where nothing below the projection heads is trained.
    pub features: &'a Features,
}

/// What a step gives.
#[derive(Clone, Debug)]
pub struct Step {
    /// The objective's value.
    pub loss: f64,
    /// Each term of it, without its weight.
    pub terms: Vec<(&'static str, f64)>,
    /// `exp(logit_scale)`.
    pub scale: f64,
    /// Of every parameter that is trained.
    pub gradients: Gradients,
}

impl Stepper<'_> {
    /// The loss and the gradients of a batch. The generator must be in the same state in all processes.
    pub fn step(&self, batch: &Batch, objective: &mut Sum, progress: Progress, rng: &mut ChaCha8Rng) -> Result<Step> {
        let needs = objective.needs();
        let seed = rng.next_u64();
        let images = match self.features.images(self.clip, &batch.index[batch.share.clone()])? {
            Some(rows) => Stream::ImageFeatures(rows),
            None => Stream::Images { bytes: &batch.pixels, preprocess: self.clip.preprocess() },
        };
        let own_texts = &batch.all_texts()[batch.text_share()];
        let (all_ids, ids);
        let texts = match self.features.texts(self.clip, own_texts, self.micro_batch)? {
            Some(rows) => {
                all_ids = None;
                Stream::TextFeatures(rows)
            }
            None => {
                all_ids = Some(self.ids(self.clip, batch)?);
                ids = all_ids.as_ref().map(|all| self.own_ids(all, batch)).unwrap_or_default();
                Stream::Texts(&ids)
            }
        };
        let mut image_side = self.first_pass(&images, needs.tokens, seed)?;
        let mut text_side = self.first_pass(&texts, needs.tokens, seed)?;

        let (log_scale, bias) = self.clip.head_tensors(View::Tracked)?;
        let head = Head { log_scale, bias };
        let negatives = batch.negatives();
        let image_rows = split(image_side.embeddings.as_tensor(), 1 + batch.neg_images)?;
        let text_rows = split(text_side.embeddings.as_tensor(), 1 + negatives)?;
        let tokens = match (&image_side.tokens, &text_side.tokens, &all_ids) {
            (Some(images), Some(texts), Some(all_ids)) => {
                let images = split(images.as_tensor(), 1 + batch.neg_images)?.0;
                let (texts, words) = (split(texts.as_tensor(), 1 + negatives)?.0, words(all_ids, 1 + negatives));
                Some(Tokens { images, texts, words })
            }
            _ => None,
        };
        let there = batch.negatives_there();
        let pairs = Pairs {
            images: image_rows.0,
            texts: text_rows.0,
            neg_texts: text_rows.1.map(|embeddings| Negatives { embeddings, there, fits: batch.neg_texts_fit.clone() }),
            neg_images: image_rows.1.map(|embeddings| Negatives {
                embeddings,
                there: batch.neg_images_there.clone(),
                fits: Vec::new(),
            }),
            tokens,
            extra: None,
            start: if needs.start { self.others(self.start, batch)? } else { None },
            ema: if needs.ema { self.averaged(batch, &images, &texts)? } else { None },
            teacher: if needs.teacher { self.others(self.teacher, batch)? } else { None },
            index: batch.index.clone(),
            image_ids: batch.image_ids.clone(),
            keys: batch.keys.clone(),
            labels: batch.labels.clone(),
            same: batch.same.clone(),
            duplicates: self.duplicates,
            weights: batch.weights.clone(),
            progress,
        };
        let value = objective.value(&pairs, &head, rng)?;
        let loss = value.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let scale = head.scale()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        let left = value.backward()?;

        // What the objective itself trains: every process has these gradients whole.
        let mut gradients = Gradients::new();
        for (name, var) in objective.params() {
            take(&left, &objective_param(&name), &var, &mut gradients);
        }
        let head = self.parts.params.iter().filter(|(name, _)| self.parts.is_head(name));
        head.for_each(|(name, var)| take(&left, name, var, &mut gradients));
        let mut sums = ops::Gradients::of(self.parts.of_towers().map(|(_, var)| var.as_tensor()));
        for (side, stream) in [(&mut image_side, &images), (&mut text_side, &texts)] {
            if side.trained {
                self.second_pass(side, stream, seed, &left, &mut sums)?;
            }
        }
        let taken = self.parts.of_towers().filter_map(|(name, var)| Some((name.clone(), sums.take(var)?)));
        let mut sums: Gradients = taken.collect();
        self.sum(&mut sums)?;
        gradients.extend(sums);
        Ok(Step { loss, terms: objective.last()?, scale, gradients })
    }

    /// The token ids of all captions, each followed by those that do not fit.
    fn ids(&self, clip: &Clip, batch: &Batch) -> Result<Ids> {
        let tokenizer = clip.tokenizer()?;
        tokenizer.0.batch(&batch.all_texts(), &tokenizer.1)
    }

    /// The token ids of this process's share of them, as wide as those of all.
    fn own_ids(&self, all: &Ids, batch: &Batch) -> Ids {
        let rows = batch.text_share();
        let ids = all.ids[rows.start * all.len..rows.end * all.len].to_vec();
        Ids { ids, len: all.len, lens: all.lens[rows].to_vec(), truncated: all.truncated }
    }
}

impl Batch {
    /// How many captions that do not fit a pair has at most.
    pub(super) fn negatives(&self) -> usize {
        self.neg_texts.iter().map(Vec::len).max().unwrap_or(0).max(self.least_negatives)
    }

    /// All captions, each followed by those that do not fit.
    fn all_texts(&self) -> Vec<&str> {
        let negatives = self.negatives();
        let mut texts: Vec<&str> = Vec::with_capacity(self.texts.len() * (1 + negatives));
        for (pair, own) in self.texts.iter().enumerate() {
            let others = self.neg_texts.get(pair).map_or(&[][..], Vec::as_slice);
            texts.push(own);
            // Where one is missing, the caption itself takes its place, marked as not there.
            texts.extend((0..negatives).map(|k| others.get(k).map_or(own.as_str(), String::as_str)));
        }
        texts
    }

    /// Which of them are of this process's share.
    fn text_share(&self) -> Range<usize> {
        let each = 1 + self.negatives();
        self.share.start * each..self.share.end * each
    }

    /// Which of them are there, (B, negatives) row by row.
    fn negatives_there(&self) -> Vec<bool> {
        let most = self.negatives();
        self.neg_texts.iter().flat_map(|own| (0..most).map(move |k| k < own.len())).collect()
    }
}

/// Rows (pairs · each, …) as the first of each pair (pairs, …) and the rest (pairs, each − 1, …).
fn split(rows: &Tensor, each: usize) -> Result<(Tensor, Option<Tensor>)> {
    if each == 1 {
        return Ok((rows.clone(), None));
    }
    let mut shape = vec![rows.dim(0)? / each, each];
    shape.extend_from_slice(&rows.dims()[1..]);
    let rows = rows.reshape(shape)?;
    let first = rows.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
    Ok((first, Some(rows.narrow(1, 1, each - 1)?.contiguous()?)))
}

/// Which words of every `each`th text are no padding, (texts / each, words) row by row.
fn words(ids: &Ids, each: usize) -> Vec<bool> {
    ids.lens.iter().step_by(each).flat_map(|&used| (0..ids.len).map(move |at| at < used)).collect()
}

fn take(store: &GradStore, name: &str, var: &Var, into: &mut Gradients) {
    if let Some(gradient) = store.get(var) {
        into.insert(name.to_owned(), gradient.detach());
    }
}
