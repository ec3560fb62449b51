//! The loop.

mod batches;
mod checks;
mod keep;

pub(crate) use checks::norm;

use super::compose::Composition;
use super::config::Config;
use super::data::{Captions, Corpus, Sampler, Transform, alone};
use super::ema::Ema;
use super::embed::Reading;
use super::features::Features;
use super::fits::Fits;
use super::group::Group;
use super::objective::{Duplicates, Progress, Sum};
use super::optim::Optimizer;
use super::parts::Parts;
use super::random::generator;
use super::run_dir::{RunDir, State};
use super::schedule::Schedule;
use super::step::{Step, Stepper};
use super::towers::Tower;
use super::validate::{Found, Validation};
use crate::app::Interrupt;
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::weights::View;
use rand_chacha::ChaCha8Rng;
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
    /// What is known already of images and texts, where nothing below the projection heads is trained.
    pub features: Features,
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

    /// Runs the images of all rows once, if that is enough, and remembers texts from now on, if that is right.
    ///
    /// # Errors
    /// If an image cannot be read: no number could stand for it.
    pub fn keep_features(&mut self, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        let needs = self.objective.needs();
        let [image_trunk, text_trunk] = self.parts.trains_trunks();
        let pixels = needs.tokens || needs.start || needs.teacher || self.config.negatives[1] > 0;
        if !image_trunk && !pixels && images_stay(&self.parts, self.config) {
            let found = self.reading.every_image(self.clip, &self.corpus, tick, Tower::features)?;
            self.features.keep_images(found.numbers, found.width);
        }
        if !text_trunk && !needs.tokens {
            self.features.keep_texts();
        }
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
        let batch = self.batch(loaded, state.step)?;
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
            features: &self.features,
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

    /// Whether any process wants to stop.
    fn stops(&self, watch: &dyn Watch) -> Result<bool> {
        let own = f32::from(u8::from(watch.interrupted()));
        Ok(self.group.gather(&[own])?.iter().any(|stop| *stop > 0.0))
    }
}

/// Whether images are the same at each step: those under a locked tower are, and, where a projection head alone is trained,
/// all that nobody wants to have augmented.
pub fn images_stay(parts: &Parts, config: &Config) -> bool {
    !parts.trains_images() || !parts.trains_trunks()[0] && config.aug_cfg.is_empty()
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
