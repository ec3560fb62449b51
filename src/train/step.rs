//! One step's loss and gradients, for a contrastive batch of any size in the memory of a micro-batch.
//!
//! Pass 1 embeds everything without keeping activations. The objective sees the embeddings of the whole batch (of all
//! processes) and leaves a gradient on each. Pass 2 embeds each micro-batch again and takes its share of those gradients
//! back through the tower (Gao et al. 2021, "GradCache"; arXiv 2101.06983). The result is that of one plain batch. What
//! the objective itself trains, the logit scale foremost, gets its gradient between the passes.

use super::group::Group;
use super::negatives::extra::PairKeys;
use super::objective::{Duplicates, Embeddings, Head, Negatives, Objective, Pairs, Progress, Sum, Tokens};
use super::parts::Parts;
use super::towers::{Output, Stream, Tower};
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::ops::{self, Dropout};
use crate::text::Batch as Ids;
use crate::weights::View;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

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
    /// Embeddings of all images under a locked tower, (pairs of the data set, dim) row by row.
    pub image_cache: Option<&'a [f32]>,
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

/// One side of the batch between the passes.
struct Side {
    /// Embeddings of the items of all processes, on which the objective leaves a gradient.
    embeddings: Var,
    /// The same of tokens.
    tokens: Option<Var>,
    /// Which rows are this process's.
    rows: Range<usize>,
    /// This process's output with its graph, if one micro-batch was enough.
    kept: Option<Output>,
    /// Whether pass 2 is needed.
    trained: bool,
}

impl Stepper<'_> {
    /// The loss and the gradients of a batch. The generator must be in the same state in all processes.
    pub fn step(&self, batch: &Batch, objective: &mut Sum, progress: Progress, rng: &mut ChaCha8Rng) -> Result<Step> {
        let needs = objective.needs();
        let seed = rng.next_u64();
        let all_ids = self.ids(self.clip, batch)?;
        let ids = self.own_ids(&all_ids, batch);
        let images = Stream::Images { bytes: &batch.pixels, preprocess: self.clip.preprocess() };
        let texts = Stream::Texts(&ids);
        let mut image_side = match self.image_cache {
            Some(cache) => self.cached(cache, batch)?,
            None => self.first_pass(&images, needs.tokens, seed)?,
        };
        let mut text_side = self.first_pass(&texts, needs.tokens, seed)?;

        let (log_scale, bias) = self.clip.head_tensors(View::Tracked)?;
        let head = Head { log_scale, bias };
        let negatives = batch.negatives();
        let image_rows = split(image_side.embeddings.as_tensor(), 1 + batch.neg_images)?;
        let text_rows = split(text_side.embeddings.as_tensor(), 1 + negatives)?;
        let tokens = match (&image_side.tokens, &text_side.tokens) {
            (Some(images), Some(texts)) => {
                let images = split(images.as_tensor(), 1 + batch.neg_images)?.0;
                let (texts, words) = (split(texts.as_tensor(), 1 + negatives)?.0, words(&all_ids, 1 + negatives));
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
        let negatives = batch.negatives();
        let mut texts: Vec<&str> = Vec::new();
        for (pair, own) in batch.texts.iter().enumerate() {
            let others = batch.neg_texts.get(pair).map_or(&[][..], Vec::as_slice);
            texts.push(own);
            // Where one is missing, the caption itself takes its place, marked as not there.
            texts.extend((0..negatives).map(|k| others.get(k).map_or(own.as_str(), String::as_str)));
        }
        let tokenizer = clip.tokenizer()?;
        tokenizer.0.batch(&texts, &tokenizer.1)
    }

    /// The token ids of this process's share of them, as wide as those of all.
    fn own_ids(&self, all: &Ids, batch: &Batch) -> Ids {
        let each = 1 + batch.negatives();
        let rows = batch.share.start * each..batch.share.end * each;
        let ids = all.ids[rows.start * all.len..rows.end * all.len].to_vec();
        Ids { ids, len: all.len, lens: all.lens[rows].to_vec(), truncated: all.truncated }
    }

    /// Embeds a stream, and gathers what other processes embedded.
    fn first_pass(&self, stream: &Stream<'_>, tokens: bool, seed: u64) -> Result<Side> {
        let trained = self.parts.trains(stream);
        let whole = stream.len() <= self.micro_batch;
        let tower = match (trained, whole) {
            (true, true) => Tower::build(self.clip, stream, View::Tracked)?,
            _ => Tower::build(self.clip, stream, View::Constant)?,
        };
        let (output, kept) = if trained && whole {
            self.drop(Some(seed), 0);
            let output = tower.forward(self.clip, stream, 0..stream.len(), tokens)?;
            (output.detached(), Some(output))
        } else {
            (self.embed(&tower, stream, tokens, seed)?, None)
        };
        self.drop(None, 0);
        let (embeddings, rows) = self.gather(&output.embeddings)?;
        let tokens = output.tokens.map(|tokens| self.gather(&tokens)).transpose()?;
        Ok(Side {
            embeddings: Var::from_tensor(&embeddings)?,
            tokens: tokens.map(|(tokens, _)| Var::from_tensor(&tokens)).transpose()?,
            rows,
            kept,
            trained,
        })
    }

    /// Embeds a stream, micro-batch by micro-batch, as constants.
    fn embed(&self, tower: &Tower, stream: &Stream<'_>, tokens: bool, seed: u64) -> Result<Output> {
        let (mut embeddings, mut token_rows) = (Vec::new(), Vec::new());
        for range in chunks(stream.len(), self.micro_batch) {
            self.drop(Some(seed), range.start);
            let output = tower.forward(self.clip, stream, range, tokens)?.detached();
            embeddings.push(output.embeddings);
            token_rows.extend(output.tokens);
        }
        let tokens = if token_rows.is_empty() { None } else { Some(Tensor::cat(&token_rows, 0)?) };
        Ok(Output { embeddings: Tensor::cat(&embeddings, 0)?, tokens })
    }

    /// Takes the gradients that the objective left on one side back through its tower.
    fn second_pass(
        &self,
        side: &mut Side,
        stream: &Stream<'_>,
        seed: u64,
        left: &GradStore,
        sums: &mut ops::Gradients,
    ) -> Result<()> {
        let own = |var: &Var| -> Result<Option<Tensor>> {
            let gradient = left.get(var).map(|gradient| gradient.narrow(0, side.rows.start, side.rows.len()));
            Ok(gradient.transpose()?.map(|gradient| gradient.detach()))
        };
        let on_embeddings = own(&side.embeddings)?;
        let on_tokens = side.tokens.as_ref().map(own).transpose()?.flatten();
        let mut back = |output: &Output, range: Range<usize>| -> Result<()> {
            let part = |x: &Tensor, gradient: &Option<Tensor>| -> Result<Option<Tensor>> {
                let Some(gradient) = gradient else { return Ok(None) };
                Ok(Some((x * gradient.narrow(0, range.start, range.len())?)?.sum_all()?))
            };
            let first = part(&output.embeddings, &on_embeddings)?;
            let second = output.tokens.as_ref().map(|x| part(x, &on_tokens)).transpose()?.flatten();
            let surrogate = match (first, second) {
                (Some(first), Some(second)) => (first + second)?,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Ok(()),
            };
            Ok(sums.backward(&surrogate)?)
        };
        if let Some(kept) = side.kept.take() {
            return back(&kept, 0..stream.len());
        }
        let tower = Tower::build(self.clip, stream, View::Tracked)?;
        for range in chunks(stream.len(), self.micro_batch) {
            self.drop(Some(seed), range.start);
            let output = tower.forward(self.clip, stream, range.clone(), side.tokens.is_some())?;
            back(&output, range)?;
        }
        self.drop(None, 0);
        Ok(())
    }

    /// What images under a locked tower were embedded to, of the whole batch.
    fn cached(&self, cache: &[f32], batch: &Batch) -> Result<Side> {
        let (dim, index) = (self.clip.spec.embed_dim, &batch.index);
        let rows = index.iter().flat_map(|&row| &cache[row as usize * dim..][..dim]).copied().collect::<Vec<f32>>();
        let rows = Tensor::from_vec(rows, (index.len(), dim), &Device::Cpu)?;
        let rows = rows.to_device(self.clip.store().device())?.to_dtype(self.clip.store().dtype())?;
        let rows_of = batch.share.clone();
        Ok(Side { embeddings: Var::from_tensor(&rows)?, tokens: None, rows: rows_of, kept: None, trained: false })
    }

    /// What another model gives to the batch.
    fn others(&self, model: Option<&Clip>, batch: &Batch) -> Result<Option<Embeddings>> {
        let Some(clip) = model else { return Err(Error::run("the objective needs a model that is not there")) };
        let ids = self.own_ids(&self.ids(clip, batch)?, batch);
        let (image, text) = (Tower::Image((*clip.image()?).clone()), Tower::Text((*clip.text()?).clone()));
        let images = Stream::Images { bytes: &batch.pixels, preprocess: clip.preprocess() };
        let scale = f64::from(clip.head()?.scale);
        self.constants(clip, [&image, &text], [&images, &Stream::Texts(&ids)], batch, scale).map(Some)
    }

    /// What the moving average of the weights gives to the batch.
    fn averaged(&self, batch: &Batch, images: &Stream<'_>, texts: &Stream<'_>) -> Result<Option<Embeddings>> {
        let view = match self.average {
            Some(average) => View::Instead(average),
            None => View::Constant,
        };
        let image = Tower::build(self.clip, images, view)?;
        let text = Tower::build(self.clip, texts, view)?;
        let scale = self.clip.head_tensors(view)?.0.exp()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        self.constants(self.clip, [&image, &text], [images, texts], batch, scale).map(Some)
    }

    fn constants(
        &self,
        clip: &Clip,
        towers: [&Tower; 2],
        streams: [&Stream<'_>; 2],
        batch: &Batch,
        scale: f64,
    ) -> Result<Embeddings> {
        let embed = |i: usize| -> Result<Tensor> {
            let mut parts = Vec::new();
            for range in chunks(streams[i].len(), self.micro_batch) {
                parts.push(towers[i].forward(clip, streams[i], range, false)?.embeddings.detach());
            }
            let own = Tensor::cat(&parts, 0)?.to_dtype(self.clip.store().dtype())?;
            Ok(self.gather(&own)?.0)
        };
        let images = split(&embed(0)?, 1 + batch.neg_images)?.0;
        let (texts, neg_texts) = split(&embed(1)?, 1 + batch.negatives())?;
        Ok(Embeddings { images, texts, neg_texts, scale })
    }

    /// The rows of all processes, and which of them are this one's.
    fn gather(&self, own: &Tensor) -> Result<(Tensor, Range<usize>)> {
        let rows = own.dim(0)?;
        if self.group.size() == 1 {
            return Ok((own.clone(), 0..rows));
        }
        let numbers = own.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let counts = self.group.gather(&[rows as f32])?;
        let start = counts[..self.group.rank()].iter().sum::<f32>() as usize;
        let all = self.group.gather(&numbers)?;
        let mut shape = own.dims().to_vec();
        shape[0] = counts.iter().sum::<f32>() as usize;
        let all = Tensor::from_vec(all, shape, &Device::Cpu)?.to_device(own.device())?.to_dtype(own.dtype())?;
        Ok((all, start..start + rows))
    }

    /// Sums gradients over all processes.
    fn sum(&self, gradients: &mut Gradients) -> Result<()> {
        if self.group.size() == 1 {
            return Ok(());
        }
        // Every process must ask for the same ones, though one without items in a micro-batch may have none.
        for (name, var) in self.parts.of_towers() {
            let (shape, dtype, device) = (var.shape().clone(), var.dtype(), var.device().clone());
            let mut numbers = match gradients.get(name) {
                Some(own) => own.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?,
                None => vec![0.0; shape.elem_count()],
            };
            self.group.sum(&mut numbers)?;
            let sum = Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_device(&device)?.to_dtype(dtype)?;
            gradients.insert(name.clone(), sum);
        }
        Ok(())
    }

    /// Sets what dropout follows from: both passes see the same masks. Without a seed nothing is dropped.
    fn drop(&self, seed: Option<u64>, first: usize) {
        if let Some(dropout) = self.clip.store().trained().and_then(|trained| trained.dropout.as_ref()) {
            let rank = (self.group.rank() as u64) << 32;
            let seed = seed.map_or(Dropout::OFF, |seed| (seed ^ rank ^ first as u64) & (u64::MAX >> 1));
            dropout.seed.store(seed, Ordering::Relaxed);
        }
    }
}

impl Batch {
    /// How many captions that do not fit a pair has at most.
    pub(super) fn negatives(&self) -> usize {
        self.neg_texts.iter().map(Vec::len).max().unwrap_or(0).max(self.least_negatives)
    }

    /// Which of them are there, (B, negatives) row by row.
    fn negatives_there(&self) -> Vec<bool> {
        let most = self.negatives();
        self.neg_texts.iter().flat_map(|own| (0..most).map(move |k| k < own.len())).collect()
    }
}

impl Output {
    fn detached(&self) -> Self {
        Self { embeddings: self.embeddings.detach(), tokens: self.tokens.as_ref().map(Tensor::detach) }
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

fn chunks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size.max(1)).map(move |start| start..(start + size.max(1)).min(len))
}

fn take(store: &GradStore, name: &str, var: &Var, into: &mut Gradients) {
    if let Some(gradient) = store.get(var) {
        into.insert(name.to_owned(), gradient.detach());
    }
}
