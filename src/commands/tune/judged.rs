//! How good classifiers are, on images that nothing was learnt from.

use crate::app::{App, Progress};
use crate::error::Result;
use crate::eval::probe::{self, Sample};
use crate::eval::{Metrics, Paired, Tally, answers, paired};
use crate::ops::normalize;
use crate::tune::data::Test;
use crate::tune::method::{self, Options};
use crate::tune::photos::{Photos, Support};
use crate::tune::{Method, Task};
use candle_core::{DType, Tensor};

/// How many rows get their logits at once.
const ROWS: usize = 256;

/// How many images go through a tuned tower at once.
pub(super) const IMAGES: usize = 8;

/// Images to be right about, and what the frozen tower makes of them.
pub(super) struct Exam {
    /// What they are called.
    pub(super) name: String,
    /// Their classes are the second half, which was not learnt.
    pub(super) new: bool,
    /// The classes and the images.
    pub(super) test: Test,
    pub(super) photos: Photos,
    pub(super) frozen: Tensor,
    /// What the model answered before anything was learnt.
    pub(super) zero_shot: Option<Answers>,
}

/// What a classifier answered.
pub(super) struct Answers {
    /// What is counted of it.
    pub(super) metrics: Metrics,
    pub(super) tally: Tally,
    /// For each image whether it was right.
    pub(super) right: Vec<bool>,
    /// For each image the answer.
    pub(super) answers: Vec<usize>,
    /// For each image the probability of the answer and of the truth.
    pub(super) sure: Vec<(f64, f64)>,
}

/// Everything about one exam.
pub(super) struct Judged {
    pub(super) name: String,
    pub(super) method: Answers,
    pub(super) zero_shot: Answers,
    /// Of the classes that were learnt alone.
    pub(super) probe: Option<Answers>,
}

impl Answers {
    fn of(logits: &[f32], classes: usize, labels: &[u32]) -> Option<Self> {
        let labels: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
        let tally = Tally::of(logits, classes, &labels);
        let answers = answers(logits, classes);
        let sure = logits.chunks_exact(classes.max(1)).zip(&labels).zip(&answers);
        let sure = sure.map(|((row, &truth), &answer)| {
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            let scores = crate::classifier::softmax(&row);
            (scores[answer], scores[truth])
        });
        Some(Self {
            metrics: tally.metrics()?,
            right: answers.iter().zip(&labels).map(|(answer, label)| answer == label).collect(),
            sure: sure.collect(),
            answers,
            tally,
        })
    }

    /// How much better these answers are than others to the same questions.
    pub(super) fn better_than(&self, other: &Self) -> Paired {
        paired(&self.right, &other.right, 0)
    }
}

impl Exam {
    /// These images, of the task's classes or, if `new`, of others; called before anything is learnt, since some methods
    /// change the towers.
    pub(super) fn new(
        task: &Task<'_>,
        name: String,
        new: bool,
        (test, photos, frozen): (Test, Photos, Tensor),
    ) -> Result<Self> {
        let mut exam = Self { name, new, test, photos, frozen, zero_shot: None };
        let zero_shot = (method::entry("zeroshot")?.build)(task, &Options::default())?;
        exam.zero_shot = match new {
            false => exam.answers(task, &*zero_shot, &exam.frozen)?,
            true => {
                let task = Task::new(task.clip, &exam.test.classes, &task.templates)?;
                exam.answers(&task, &*zero_shot, &exam.frozen)?
            }
        };
        Ok(exam)
    }

    /// What a method answers.
    pub(super) fn answers(&self, task: &Task<'_>, method: &dyn Method, features: &Tensor) -> Result<Option<Answers>> {
        let texts = method.texts(task)?.detach();
        let mut logits = Vec::new();
        for first in (0..features.dim(0)?).step_by(ROWS) {
            let rows = features.narrow(0, first, ROWS.min(features.dim(0)? - first))?;
            let part = method.logits(task, &texts, &rows)?.to_dtype(DType::F32)?;
            logits.extend(part.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(Answers::of(&logits, task.classes(), &self.photos.labels))
    }

    /// What a linear probe on the training images answers, its strength chosen by validation where there are images for it.
    pub(super) fn probe(&self, task: &Task<'_>, train: &Support, val: &Support) -> Result<Option<Answers>> {
        let unit = |x: &Tensor| -> Result<Vec<f32>> {
            Ok(normalize(x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
        };
        let labels = |labels: &[u32]| labels.iter().map(|&label| label as usize).collect::<Vec<_>>();
        let (classes, dim) = (task.classes(), self.frozen.dim(1)?);
        let (rows, own) = (unit(&train.mean()?)?, labels(&train.labels));
        let sample = Sample { rows: &rows, dim, labels: &own };
        let c = match val.labels.is_empty() {
            true => 1.0,
            false => {
                let (rows, own) = (unit(&val.mean()?)?, labels(&val.labels));
                probe::sweep(&sample, &Sample { rows: &rows, dim, labels: &own }, classes).c
            }
        };
        let fitted = probe::fit(&sample, classes, c, probe::USUAL);
        let rows = unit(&self.frozen)?;
        let logits: Vec<f32> = rows
            .chunks_exact(dim)
            .flat_map(|row| {
                let scores = fitted.weights.chunks_exact(dim).zip(&fitted.intercepts);
                let dot = |weights: &[f64]| weights.iter().zip(row).map(|(w, &x)| w * f64::from(x)).sum::<f64>();
                scores.map(|(weights, intercept)| (dot(weights) + intercept) as f32).collect::<Vec<_>>()
            })
            .collect();
        Ok(Answers::of(&logits, classes, &self.photos.labels))
    }
}

/// What the frozen tower makes of images.
pub(super) fn embed(app: &App, task: &Task<'_>, photos: &Photos) -> Result<Tensor> {
    let progress = app.progress("images");
    progress.expect(photos.len() as u64);
    let tower = task.clip.image()?;
    let rows = photos.embed(task, None, 4 * IMAGES, &tick(app, &progress), &|pixels| tower.forward(pixels));
    progress.finish();
    rows
}

/// Counts images, and hears Ctrl-C.
pub(super) fn tick<'a>(app: &'a App, progress: &'a Progress) -> impl Fn(usize) -> Result<()> + 'a {
    |count| {
        progress.add(count as u64);
        app.interrupt.check()
    }
}
