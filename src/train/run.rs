//! The loop.

use super::assemble::assemble;
use super::compose::Composition;
use super::config::Config;
use super::data::{Captions, Corpus, Failure, Loader, LoaderOptions, Sampler, Transform, alone};
use super::ema::Ema;
use super::embed::Reading;
use super::fits::Fits;
use super::group::Group;
use super::objective::{Duplicates, Objective, Progress, Sum};
use super::optim::Optimizer;
use super::parts::Parts;
use super::random::generator;
use super::run_dir::{Best, Checkpoint, RunDir, State};
use super::save::save_model;
use super::schedule::Schedule;
use super::step::{Gradients, Step, Stepper, objective_param};
use super::validate::{Found, Validation};
use crate::app::Interrupt;
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::ops::normalize::normalize_row;
use crate::ops::optim::sum_of_squares;
use crate::weights::View;
use candle_core::{Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Makes captions that do not fit, of a caption.
pub type MakeNegatives = Arc<dyn Fn(&str, &mut ChaCha8Rng) -> Vec<String> + Send + Sync>;

/// A run, ready to begin or to go on.
pub struct Run<'a> {
    /// What it does.
    pub config: &'a Config,
    /// The model that is trained.
    pub clip: &'a Clip,
    /// What of it is trained.
    pub parts: Parts,
    /// The model before training, where the objective needs it.
    pub start: Option<&'a Clip>,
    /// Another checkpoint to learn from, where the objective needs it.
    pub teacher: Option<&'a Clip>,
    /// The data.
    pub corpus: Arc<Corpus>,
    /// The pairs of each epoch.
    pub sampler: Sampler,
    /// How training images become bytes.
    pub transform: Transform,
    /// Makes captions that do not fit: of a caption, with a generator.
    pub negatives: Option<MakeNegatives>,
    /// Embeddings of all images under a locked tower.
    pub image_cache: Option<Vec<f32>>,
    /// What batches are composed by.
    pub composition: Option<Composition>,
    /// Which captions fit which images.
    pub fits: Fits,
    /// What is looked at after each epoch.
    pub validation: Option<Validation>,
    /// The processes that train together.
    pub group: &'a dyn Group,
    /// The objective.
    pub objective: Sum,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The moving average of the weights.
    pub ema: Option<Ema>,
    /// The learning rate.
    pub schedule: Schedule,
    /// How images and texts are embedded apart from the steps.
    pub reading: Reading,
    /// Whether somebody asked to stop.
    pub interrupt: Interrupt,
    /// Every how many steps a checkpoint is written, beside the ends of epochs.
    pub save_every: Option<usize>,
    /// Whether checkpoints of every epoch are kept.
    pub keep_all: bool,
    /// The largest share of images that may change their class, and how much of the accuracy on labelled images may be lost.
    pub limits: [f64; 2],
}

/// The name of a [`Composition`] in a checkpoint.
const COMPOSITION: &str = "composition";

/// Who is told what happens.
pub trait Watch {
    /// A step was made.
    fn step(&self, report: &Report) -> Result<()>;
    /// The model was looked at after so many steps; `best` says whether it is the one to keep.
    fn validated(&self, step: usize, found: &Found, best: bool) -> Result<()>;
    /// A checkpoint was written.
    fn saved(&self) -> Result<()>;
    /// Something that a reader should know.
    fn warn(&self, message: &str);
    /// Whether the run should stop.
    fn interrupted(&self) -> bool;
}

/// What is known of a step.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many steps have been made with this one.
    pub step: usize,
    /// How many there will be.
    pub steps: usize,
    /// The epoch, from 0, as a fraction.
    pub epoch: f64,
    /// The objective's value.
    pub loss: f64,
    /// Its terms.
    pub terms: Vec<(&'static str, f64)>,
    /// `exp(logit_scale)`.
    pub scale: f64,
    /// The learning rate.
    pub rate: f64,
    /// The norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// How many pairs were contrasted.
    pub pairs: usize,
    /// How many of them had no negative, because all others are their duplicates.
    pub alone: usize,
    /// How long the step took, in seconds.
    pub seconds: f64,
}

impl Run<'_> {
    /// How many steps an epoch has.
    pub fn epoch_steps(&self) -> usize {
        self.sampler.len() / self.config.batch_size
    }

    /// How many steps there are in all.
    pub fn steps(&self) -> usize {
        self.epoch_steps() * self.config.epochs
    }

    /// Trains from where the state says to the end. The first process alone writes.
    ///
    /// # Errors
    /// Interrupted, after a checkpoint. When the loss or a gradient is not finite, when a parameter gets no gradient,
    /// and when a checkpoint cannot be written, the last checkpoint stays.
    pub fn run(&mut self, directory: &RunDir, mut state: State, watch: &dyn Watch) -> Result<State> {
        let (steps, epoch_steps) = (self.steps(), self.epoch_steps());
        if state.step > 0 {
            let checkpoint = directory.load(state.step)?;
            self.restore(&checkpoint, state.step)?;
        } else if let Some(validation) = &self.validation {
            let found = validation.measure(self.clip, View::Constant, &|| check(watch))?;
            watch.validated(0, &found, true)?;
        }
        while state.step < steps {
            let (number, first) = (state.step / epoch_steps, state.step % epoch_steps);
            self.compose(number, first)?;
            let mut loader = self.loader(number, first)?;
            while let Some(loaded) = loader.batch()? {
                let begun = Instant::now();
                for failed in &loaded.failed {
                    watch.warn(&format!("{failed}; another image takes its place"));
                }
                let report = self.step(loaded, &state, watch)?;
                state.step += 1;
                watch.step(&Report { seconds: begun.elapsed().as_secs_f64(), ..report })?;
                let ended = state.step.is_multiple_of(epoch_steps);
                if ended {
                    self.look(directory, &mut state, watch)?;
                }
                state.done = state.step == steps;
                let stop = self.stops(watch)?;
                if ended || stop || self.save_every.is_some_and(|every| state.step.is_multiple_of(every)) {
                    self.save(directory, &state)?;
                    watch.saved()?;
                }
                if stop && !state.done {
                    return Err(Error::interrupted());
                }
            }
        }
        Ok(state)
    }

    /// Whether images must be seen at each step, even where their tower is locked.
    pub fn needs_pixels(&self) -> bool {
        let needs = self.objective.needs();
        needs.tokens || needs.start || needs.ema || needs.teacher || self.config.negatives[1] > 0
    }

    /// Embeds the images of all rows under a locked tower, once.
    ///
    /// # Errors
    /// If an image cannot be read: no number could stand for it.
    pub fn embed_all(&self, tick: &dyn Fn() -> Result<()>) -> Result<Vec<f32>> {
        self.reading.every_image(self.clip, &self.corpus, tick)
    }

    fn loader(&self, epoch: usize, first: usize) -> Result<Loader> {
        let [neg_captions, neg_images] = self.config.negatives;
        let options = LoaderOptions {
            start: first,
            share: (self.group.rank(), self.group.size()),
            neg_captions,
            neg_images,
            images: self.image_cache.is_none(),
            failure: Failure::Replace,
            ..LoaderOptions::new(self.config.batch_size, self.reading.workers)
        };
        let mut pairs = self.sampler.epoch(epoch as u64);
        if let Some(composition) = &self.composition {
            pairs = composition.arrange(&pairs, self.config.batch_size, self.config.seed);
        }
        Loader::new(&self.corpus, &pairs, &options, self.transform.clone())
    }

    /// At the beginning of an epoch: what its batches are composed by, of the model as it is now.
    fn compose(&mut self, epoch: usize, first: usize) -> Result<()> {
        let Some(mining) = &self.config.mining else { return Ok(()) };
        if first > 0 || !epoch.is_multiple_of(mining.every.max(1)) {
            return Ok(());
        }
        let check = || self.interrupt.check();
        let mut images = match &self.image_cache {
            Some(cache) => cache.clone(),
            None => self.embed_all(&check)?,
        };
        let dim = self.clip.spec.embed_dim;
        images.chunks_exact_mut(dim).for_each(normalize_row);
        let captions: Vec<String> =
            self.corpus.rows.iter().map(|row| row.captions.first().cloned().unwrap_or_default()).collect();
        let texts = self.reading.texts(self.clip, View::Constant, &captions, &check)?;
        let mut rng = generator("compose", &[self.config.seed, epoch as u64]);
        let (sides, inside) = ([&images[..], &texts[..]], self.sampler.inside());
        let found = Composition::new(&self.corpus, sides, mining, inside, &mut rng, self.interrupt)?;
        self.composition = Some(found);
        Ok(())
    }

    /// One step, for its cost: takes the first pairs of the first epoch, writes nothing.
    pub fn try_step(&mut self, watch: &dyn Watch) -> Result<Report> {
        if let Some(mining) = &self.config.mining {
            self.composition = Composition::stand_in(self.corpus.rows.len(), mining);
        }
        let loaded = self.loader(0, 0)?.batch()?.ok_or_else(|| Error::run("there is no batch"))?;
        let begun = Instant::now();
        let report = self.step(loaded, &State::default(), watch)?;
        Ok(Report { seconds: begun.elapsed().as_secs_f64(), ..report })
    }

    fn step(&mut self, loaded: super::data::Batch, state: &State, watch: &dyn Watch) -> Result<Report> {
        let mut rng = generator("step", &[self.config.seed, state.step as u64]);
        let mut batch = assemble(&self.corpus, loaded, self.clip.preprocess().len(), self.group)?;
        if let Some(composition) = &self.composition {
            batch.neg_texts.resize(batch.texts.len(), Vec::new());
            for ((own, &row), caption) in batch.neg_texts.iter_mut().zip(&batch.index).zip(&batch.texts) {
                own.extend(composition.captions(&self.corpus, row, caption));
            }
        }
        if let Some(negatives) = &self.negatives {
            batch.neg_texts.resize(batch.texts.len(), Vec::new());
            for (pair, text) in batch.texts.iter().enumerate() {
                // Of the pair itself, so that other pairs and processes make no difference.
                let mut rng = generator("negatives", &[self.config.seed, batch.index[pair].into(), state.step as u64]);
                batch.neg_texts[pair].extend(negatives(text, &mut rng));
            }
        }
        if self.objective.needs().neg_texts {
            batch.neg_texts.resize(batch.texts.len(), Vec::new());
            batch.least_negatives = 1;
        }
        batch.neg_texts_fit = self.fits.of(&self.corpus, &batch);
        let steps = self.steps();
        let progress = Progress { step: state.step, steps, epoch_steps: self.epoch_steps() };
        let stepper = Stepper {
            clip: self.clip,
            parts: &self.parts,
            group: self.group,
            micro_batch: self.config.micro_batch,
            duplicates: duplicates(&self.config.duplicates),
            start: self.start,
            teacher: self.teacher,
            average: self.ema.as_ref().map(|ema| &ema.averages),
            image_cache: self.image_cache.as_deref(),
        };
        let Step { loss, terms, scale, gradients } = stepper.step(&batch, &mut self.objective, progress, &mut rng)?;
        if !loss.is_finite() {
            let what = format!("the loss is {loss}, {}", self.suspect()?);
            return Err(self.diverged(what, state.step, &batch.index));
        }
        if state.step == 0 {
            self.all_have_gradients(&gradients, watch)?;
        }
        let norm = norm(&gradients, |name| {
            self.diverged(format!("the gradient of `{name}` is not finite"), state.step, &batch.index)
        })?;
        // As torch.nn.utils.clip_grad_norm_.
        let share = match self.config.grad_clip_norm.filter(|most| norm > *most) {
            Some(most) => most / (norm + 1e-6),
            None => 1.0,
        };
        let rate = self.schedule.at(state.step);
        self.optimizer.step(&gradients, rate, share)?;
        self.parts.clamp()?;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.parts.params)?;
        }
        Ok(Report {
            step: state.step + 1,
            steps,
            epoch: (state.step + 1) as f64 / self.epoch_steps() as f64,
            loss,
            terms,
            scale,
            rate,
            gradient_norm: norm,
            pairs: batch.index.len(),
            alone: match duplicates(&self.config.duplicates) {
                Duplicates::Off => 0,
                _ => alone(&batch.same, batch.index.len()),
            },
            seconds: 0.0,
        })
    }

    /// Looks at the model, and keeps it if it is the best.
    fn look(&self, directory: &RunDir, state: &mut State, watch: &dyn Watch) -> Result<()> {
        let view = self.view();
        let mut best = true;
        if let Some(validation) = &self.validation {
            let found = validation.measure(self.clip, view, &|| Ok(()))?;
            let (disagreement, lost) = (found.disagreement(), found.lost());
            let beyond = disagreement > self.limits[0] || lost > self.limits[1];
            let now = Best { step: state.step, score: found.score(), disagreement, lost, beyond };
            best = state.best.as_ref().is_none_or(|old| is_better(&now, old));
            if lost > self.limits[1] {
                watch.warn(&format!(
                    "ZERO-SHOT IS BEING LOST: after step {} the accuracy on --retention-data is {:.1} points lower (the \
                     limit is {:.1})",
                    state.step,
                    100.0 * lost,
                    100.0 * self.limits[1]
                ));
            }
            if now.disagreement > self.limits[0] {
                let share = 100.0 * now.disagreement;
                watch.warn(&format!(
                    "ZERO-SHOT IS BEING LOST: after step {} {share:.1} % of the images have another class among 1,000 than \
                     before training (the limit is {:.1} %). A lower --lr, fewer --epochs, --lock-image or \
                     `merge --alpha` with the start keeps more",
                    state.step,
                    100.0 * self.limits[0]
                ));
            }
            if best {
                state.best = Some(now);
            }
            watch.validated(state.step, &found, best)?;
        }
        if best && self.group.rank() == 0 {
            save_model(self.clip, view, directory.path())?;
        }
        self.group.barrier()
    }

    /// What is validated and kept: the moving average, if there is one that was asked for.
    fn view(&self) -> View<'_> {
        match (&self.ema, self.config.ema_decay) {
            (Some(ema), Some(_)) => View::Instead(&ema.averages),
            _ => View::Constant,
        }
    }

    fn save(&self, directory: &RunDir, state: &State) -> Result<()> {
        if self.group.rank() > 0 {
            return self.group.barrier();
        }
        let detached = |params: BTreeMap<String, Var>| -> BTreeMap<String, Tensor> {
            params.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
        };
        let own = self.objective.params().into_iter().map(|(name, var)| (objective_param(&name), var));
        let kept = self.objective.state()?.into_iter().map(|(name, x)| (format!("state.{name}"), x));
        let composed = self.composition.as_ref().map(|composition| composition.tensor()).transpose()?;
        let composed = composed.map(|tensor| (COMPOSITION.to_owned(), tensor));
        let checkpoint = Checkpoint {
            weights: detached(self.parts.params.clone()),
            optimizer: self.optimizer.state(),
            ema: self.ema.as_ref().map(|ema| ema.averages.clone()).unwrap_or_default(),
            objective: detached(own.collect()).into_iter().chain(kept).chain(composed).collect(),
        };
        let (every, all) = (self.epoch_steps(), self.keep_all);
        directory.save(&checkpoint, state, |step| all && step.is_multiple_of(every))?;
        self.group.barrier()
    }

    fn restore(&mut self, checkpoint: &Checkpoint, step: usize) -> Result<()> {
        let set = |name: &str, var: &Var, from: &BTreeMap<String, Tensor>| -> Result<()> {
            let saved = from.get(name).filter(|saved| saved.dims() == var.dims());
            let saved = saved.ok_or_else(|| {
                Error::run(format!("the checkpoint has no `{name}` of shape {:?}", var.dims()))
                    .hint("is the run's model still the same?")
            })?;
            Ok(var.set(&saved.to_dtype(var.dtype())?.to_device(var.device())?)?)
        };
        for (name, var) in &self.parts.params {
            set(name, var, &checkpoint.weights)?;
        }
        for (name, var) in self.objective.params() {
            set(&objective_param(&name), &var, &checkpoint.objective)?;
        }
        let kept = checkpoint.objective.iter();
        let kept = kept.filter_map(|(name, x)| Some((name.strip_prefix("state.")?.to_owned(), x.clone())));
        self.objective.restore(&kept.collect())?;
        if let (Some(mining), Some(tensor)) = (&self.config.mining, checkpoint.objective.get(COMPOSITION)) {
            self.composition = Some(Composition::of(tensor, mining, self.corpus.rows.len())?);
        }
        self.optimizer.restore(&checkpoint.optimizer, step)?;
        if let Some(ema) = &mut self.ema {
            for (name, average) in &mut ema.averages {
                let saved = checkpoint.ema.get(name).filter(|saved| saved.dims() == average.dims());
                let saved = saved.ok_or_else(|| Error::run(format!("the checkpoint has no average of `{name}`")))?;
                *average = saved.to_dtype(average.dtype())?.to_device(average.device())?;
            }
        }
        Ok(())
    }

    /// After the first step: a parameter without a gradient would stay as it is, without a word.
    fn all_have_gradients(&self, gradients: &Gradients, watch: &dyn Watch) -> Result<()> {
        let missing: Vec<&str> =
            self.optimizer.params().map(|(name, _)| name).filter(|name| !gradients.contains_key(*name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if missing.iter().all(|name| self.parts.is_head(name)) {
            watch.warn(&format!("the objective `{}` does not train {}", self.config.loss, missing.join(", ")));
            return Ok(());
        }
        let count = missing.len();
        let first = missing.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Err(Error::run(format!("{count} parameters that should be trained get no gradient: {first}"))
            .hint("lock them, or train something else (--train, --lock-image, --lock-text)"))
    }

    /// Which parameter a loss that is no number points to: the first that is not finite, else the largest. (Then every
    /// gradient is no number either, and says nothing.)
    fn suspect(&self) -> Result<String> {
        let (mut largest, mut most) = ("", -1.0);
        for (name, var) in &self.parts.params {
            let size = sum_of_squares(&var.as_detached_tensor())? / var.elem_count().max(1) as f64;
            if !size.is_finite() {
                return Ok(format!("the parameter `{name}` is not finite"));
            }
            if size > most {
                (largest, most) = (name, size);
            }
        }
        Ok(format!("the largest parameter is `{largest}`"))
    }

    fn diverged(&self, what: String, step: usize, index: &[u32]) -> Error {
        let items = index.iter().take(3).map(|&row| self.corpus.rows[row as usize].at.to_string());
        let items = items.collect::<Vec<_>>().join(", ");
        Error::run(format!("training diverged at step {}: {what} (batch of {items}, …)", step + 1))
            .hint("a lower --lr, a longer --warmup or --grad-clip-norm 1; the last checkpoint is untouched")
    }

    /// Whether any process wants to stop.
    fn stops(&self, watch: &dyn Watch) -> Result<bool> {
        let own = f32::from(u8::from(watch.interrupted()));
        Ok(self.group.gather(&[own])?.iter().any(|stop| *stop > 0.0))
    }
}

/// Which of two checkpoints to keep: within the limits the one that retrieves better, else the one that lost less.
fn is_better(new: &Best, old: &Best) -> bool {
    match (new.beyond, old.beyond) {
        (false, false) => new.score >= old.score,
        (true, true) => new.disagreement + new.lost <= old.disagreement + old.lost,
        (new, _) => !new,
    }
}

/// The norm of all gradients together, summed in the order of names.
pub(crate) fn norm(gradients: &Gradients, broken: impl Fn(&str) -> Error) -> Result<f64> {
    let mut sum = 0.0;
    for (name, gradient) in gradients {
        let square = sum_of_squares(gradient)?;
        if !square.is_finite() {
            return Err(broken(name));
        }
        sum += square;
    }
    Ok(sum.sqrt())
}

fn check(watch: &dyn Watch) -> Result<()> {
    if watch.interrupted() { Err(Error::interrupted()) } else { Ok(()) }
}

/// The policy of this name.
pub(super) fn duplicates(name: &str) -> Duplicates {
    match name {
        "multi" => Duplicates::Multi,
        "off" => Duplicates::Off,
        _ => Duplicates::Mask,
    }
}

/// The captions of this name.
pub fn captions(name: &str) -> Captions {
    match name {
        "all" => Captions::All,
        "first" => Captions::First,
        _ => Captions::Random,
    }
}
