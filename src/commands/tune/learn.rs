//! What a method learns from, and its training.

use super::job::{CHECKPOINT, Job, METRICS};
use super::judged::{IMAGES, embed, tick};
use crate::error::Result;
use crate::image::augment::Augment;
use crate::train::log::metrics::Metrics;
use crate::tune::Task;
use crate::tune::method::{Method, Sees};
use crate::tune::photos::{Photos, Support, View};
use crate::tune::run::Run;
use candle_core::Tensor;
use serde_json::json;
use std::path::Path;

impl Job<'_> {
    /// What the frozen tower makes of the training images: of augmented views, where the method wants some.
    pub(super) fn support(&self, task: &Task<'_>, train: &Photos, seed: u64) -> Result<Support> {
        let labels = train.labels.clone();
        if self.recipe.views == 0 || self.sees == Sees::Pixels {
            return Ok(Support { labels, views: vec![embed(self.app, task, train)?] });
        }
        let (tower, augment) = (task.clip.image()?, augmented());
        let progress = self.app.progress("images");
        progress.expect((train.len() * self.recipe.views) as u64);
        let views = (0..self.recipe.views as u64).map(|view| {
            let view = View { augment: &augment, seed: [seed, view] };
            train.embed(task, Some(view), 4 * IMAGES, &tick(self.app, &progress), &|pixels| tower.forward(pixels))
        });
        let views = views.collect::<Result<_>>()?;
        progress.finish();
        Ok(Support { labels, views })
    }

    pub(super) fn plain(&self, task: &Task<'_>, photos: &Photos) -> Result<Support> {
        if photos.is_empty() {
            return Ok(Support::default());
        }
        Ok(Support { labels: photos.labels.clone(), views: vec![embed(self.app, task, photos)?] })
    }

    pub(super) fn train<'t>(
        &self,
        task: &'t Task<'t>,
        method: Box<dyn Method>,
        (train, support): (&'t Photos, &'t Support),
        (directory, seed): (&Path, u64),
    ) -> Result<Box<dyn Method>> {
        let mut run = Run::new(self.entry, self.recipe, task, method, (train, support), seed)?;
        run.checkpoint = Some(directory.join(CHECKPOINT));
        run.sees = self.sees;
        run.augment = (self.sees == Sees::Pixels).then(augmented);
        let resumed = self.args.resume && run.resume(&directory.join(CHECKPOINT))?;
        let each = run.epoch_steps();
        let first = run.epoch() * each;
        let path = directory.join(METRICS);
        let mut metrics = if resumed { Metrics::resume(&path, first as u64)? } else { Metrics::create(&path)? };
        let progress = self.app.progress("steps");
        progress.expect((self.recipe.epochs * each) as u64);
        progress.skip(first as u64);
        let done = run.run(&mut |report| {
            progress.add(1);
            progress.say(format!("loss {:.4}  lr {:.2e}  epoch {}", report.loss, report.rate, report.epoch + 1));
            let epoch = report.step as f64 / each as f64;
            let values = [
                ("epoch", json!(epoch)),
                ("loss", json!(report.loss)),
                ("lr", json!(report.rate)),
                ("grad_norm", json!(report.gradient_norm)),
                ("seconds", json!((report.seconds * 1e4).round() / 1e4)),
            ];
            metrics.write(report.step as u64, &values)?;
            self.app.interrupt.check()
        });
        progress.finish();
        done?;
        Ok(run.method)
    }

    /// Lets the method choose its numbers by the validation images, as the tuned tower sees them.
    pub(super) fn choose(
        &self,
        task: &Task<'_>,
        mut method: Box<dyn Method>,
        photos: &Photos,
        plain: &Support,
    ) -> Result<Box<dyn Method>> {
        if photos.is_empty() {
            return Ok(method);
        }
        if self.sees == Sees::Pixels {
            let views = vec![self.features(task, &*method, photos)?];
            method.choose(task, &Support { labels: photos.labels.clone(), views })?;
        } else {
            method.choose(task, plain)?;
        }
        Ok(method)
    }

    /// What the tuned tower makes of images.
    pub(super) fn features(&self, task: &Task<'_>, method: &dyn Method, photos: &Photos) -> Result<Tensor> {
        let progress = self.app.progress("images");
        progress.expect(photos.len() as u64);
        let see = |pixels: &Tensor| method.features(task, pixels);
        let rows = photos.embed(task, None, IMAGES, &tick(self.app, &progress), &see);
        progress.finish();
        rows
    }
}

/// How many numbers a method trains.
pub(super) fn trained(method: &dyn Method) -> usize {
    method.params().values().map(|var| var.elem_count()).sum()
}

/// How training images are changed: CoOp's random resized crop and flip.
fn augmented() -> Augment {
    Augment { scale: [0.08, 1.0], flip: 0.5, ..Augment::default() }
}
