//! The loop.

use super::method::{Batch, Entry, Images, Method, Recipe, Sees, Tensors};
use super::photos::{Photos, Support, View};
use super::{Task, saved};
use crate::error::{Error, Result};
use crate::image::augment::Augment;
use crate::train::optim::{Optimizer, Settings};
use crate::train::random::keyed;
use crate::train::run::norm;
use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::f64::consts::PI;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A method on its way.
pub struct Run<'a> {
    /// What it is.
    pub entry: &'static Entry,
    /// How it is trained.
    pub recipe: Recipe,
    /// What is told apart.
    pub task: &'a Task<'a>,
    /// The method.
    pub method: Box<dyn Method>,
    /// The training images.
    pub photos: &'a Photos,
    /// What the frozen tower makes of them; without views where the method looks at pixels.
    pub support: &'a Support,
    /// What it looks at: the entry's word, unless its options leave the image tower alone ([`Entry::sees`]).
    pub sees: Sees,
    /// How images are changed where the method looks at pixels.
    pub augment: Option<Augment>,
    /// What order and changes follow from.
    pub seed: u64,
    /// Where the run stands is kept here after each epoch.
    pub checkpoint: Option<PathBuf>,
    optimizer: Optimizer,
    epoch: usize,
}

/// What is known of a step.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// How many steps have been made with this one.
    pub step: usize,
    /// How many there will be.
    pub steps: usize,
    /// How many epochs have ended.
    pub epoch: usize,
    /// The loss.
    pub loss: f64,
    /// The learning rate.
    pub rate: f64,
    /// The norm of all gradients together.
    pub gradient_norm: f64,
    /// How long the step took.
    pub seconds: f64,
}

impl<'a> Run<'a> {
    /// A method at its beginning.
    pub fn new(
        entry: &'static Entry,
        recipe: Recipe,
        task: &'a Task<'a>,
        method: Box<dyn Method>,
        (photos, support): (&'a Photos, &'a Support),
        seed: u64,
    ) -> Result<Self> {
        let optimizer = optimizer(&recipe, &*method)?;
        Ok(Self {
            entry,
            recipe,
            task,
            method,
            photos,
            support,
            sees: entry.sees,
            augment: None,
            seed,
            checkpoint: None,
            optimizer,
            epoch: 0,
        })
    }

    /// How many steps an epoch has.
    pub fn epoch_steps(&self) -> usize {
        let count = self.count();
        // As Dassl: what does not fill a batch is left out, unless nothing does.
        (count / self.recipe.batch).max(usize::from(count > 0))
    }

    /// Trains to the end. `watch` hears of each step and may stop the run; what was done until the last epoch is kept in
    /// the checkpoint then.
    pub fn run(&mut self, watch: &mut dyn FnMut(&Report) -> Result<()>) -> Result<()> {
        if self.epoch == 0 {
            self.method.fit(self.task, self.support)?;
            // Some parameters are made of the training images.
            self.optimizer = optimizer(&self.recipe, &*self.method)?;
        }
        if self.sees != Sees::Pixels {
            // Its features are there, and a step does not ask for more.
            self.task.clip.forget_image();
        }
        let (epochs, epoch_steps) = (self.recipe.epochs, self.epoch_steps());
        while self.epoch < epochs {
            let order = self.order();
            let rate = self.rate();
            for (i, index) in order.chunks(self.recipe.batch).take(epoch_steps).enumerate() {
                let (step, begun) = (self.epoch * epoch_steps + i, Instant::now());
                let mut rng = self.generator("step", step);
                let batch = self.batch(index)?;
                let (loss, gradients) = self.method.gradients(self.task, &batch, &mut rng)?;
                let norm = self.check(step, loss, &gradients)?;
                self.optimizer.step(&gradients, rate, 1.0)?;
                let done = step + 1;
                watch(&Report {
                    step: done,
                    steps: epochs * epoch_steps,
                    epoch: self.epoch,
                    loss,
                    rate,
                    gradient_norm: norm,
                    seconds: begun.elapsed().as_secs_f64(),
                })?;
            }
            self.epoch += 1;
            self.method.end_epoch(self.epoch, epochs)?;
            self.save()?;
        }
        self.method.finish()
    }

    /// Takes up where a checkpoint left off; whether there was one.
    pub fn resume(&mut self, path: &Path) -> Result<bool> {
        if !path.is_file() {
            return Ok(false);
        }
        let all = saved::read(path)?;
        let part = |prefix: &str| -> Tensors {
            let own = all.iter().filter_map(|(name, x)| Some((name.strip_prefix(prefix)?.to_owned(), x.clone())));
            own.collect()
        };
        let at = all.get("at").ok_or_else(|| Error::run("this is no checkpoint").at(path.display()))?;
        self.epoch = at.flatten_all()?.to_vec1::<f32>()?.first().copied().unwrap_or(0.0) as usize;
        self.method.restore(&part("method."))?;
        self.optimizer = optimizer(&self.recipe, &*self.method)?;
        self.optimizer.restore(&part("optimizer."), self.epoch * self.epoch_steps())?;
        Ok(true)
    }

    /// How many epochs have ended.
    pub fn epoch(&self) -> usize {
        self.epoch
    }

    fn save(&self) -> Result<()> {
        let Some(path) = &self.checkpoint else { return Ok(()) };
        let named = |prefix: &str, tensors: Tensors| -> Tensors {
            tensors.into_iter().map(|(name, x)| (format!("{prefix}{name}"), x)).collect()
        };
        let mut all = named("method.", self.method.state()?);
        all.extend(named("optimizer.", self.optimizer.state()));
        all.insert("at".to_owned(), Tensor::new(&[self.epoch as f32], &Device::Cpu)?);
        saved::write(path, &all)
    }

    fn count(&self) -> usize {
        match self.sees {
            Sees::Texts => self.task.classes(),
            _ => self.photos.len(),
        }
    }

    /// The order in which this epoch sees the images.
    fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.count() as u32).collect();
        order.shuffle(&mut self.generator("order", self.epoch));
        order
    }

    /// A cosine over epochs behind a warm-up at 1e-5 (Dassl's `ConstantWarmupScheduler`).
    fn rate(&self) -> f64 {
        if self.epoch < self.recipe.warmup {
            return 1e-5f64.min(self.recipe.lr);
        }
        let way = (self.epoch - self.recipe.warmup) as f64 / self.recipe.epochs.max(1) as f64;
        0.5 * self.recipe.lr * (1.0 + (PI * way).cos())
    }

    fn batch(&self, index: &[u32]) -> Result<Batch> {
        let labels = match self.sees {
            Sees::Texts => index.to_vec(),
            Sees::Unlabelled => Vec::new(),
            _ => index.iter().map(|&i| self.support.labels[i as usize]).collect(),
        };
        let images = match self.sees {
            Sees::Texts => Images::Features(Tensor::zeros((0, 0), self.task.dtype(), &Device::Cpu)?),
            Sees::Pixels => {
                let view = self.augment.as_ref();
                let view = view.map(|augment| View { augment, seed: [self.seed, self.epoch as u64] });
                Images::Pixels(self.photos.pixels(self.task, index, view)?)
            }
            _ => {
                let view = self.support.view(self.epoch)?;
                let rows = Tensor::from_slice(index, index.len(), &Device::Cpu)?.to_device(view.device())?;
                Images::Features(view.index_select(&rows, 0)?)
            }
        };
        Ok(Batch { index: index.to_vec(), labels, images })
    }

    /// The norm of all gradients.
    ///
    /// # Errors
    /// When something is not finite, and at the first step when a parameter gets no gradient.
    fn check(&self, step: usize, loss: f64, gradients: &Tensors) -> Result<f64> {
        let diverged = |what: String| {
            Error::run(format!("{} diverged at step {}: {what}", self.entry.name, step + 1))
                .hint("a lower --lr; the last checkpoint is untouched")
        };
        if !loss.is_finite() {
            return Err(diverged(format!("the loss is {loss}")));
        }
        if step == 0
            && let Some((name, _)) = self.optimizer.params().find(|(name, _)| !gradients.contains_key(*name))
        {
            return Err(Error::run(format!("`{name}` should be trained and gets no gradient")));
        }
        norm(gradients, |name| diverged(format!("the gradient of `{name}` is not finite")))
    }

    fn generator(&self, purpose: &str, at: usize) -> ChaCha8Rng {
        let (seed, at) = (self.seed.to_le_bytes(), (at as u64).to_le_bytes());
        keyed("clip-cli tune", &[purpose.as_bytes(), &seed, &at])
    }
}

/// The optimiser of a method's parameters as they are now. As Dassl's, it knows no groups: everything decays.
fn optimizer(recipe: &Recipe, method: &dyn Method) -> Result<Optimizer> {
    let settings = Settings { beta1: 0.9, beta2: 0.999, eps: recipe.eps, weight_decay: recipe.wd };
    let params = method.params().into_iter().map(|(name, var)| (name, var, true, 1.0));
    Optimizer::new(recipe.optimizer, settings, params)
}
