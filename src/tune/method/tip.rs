//! Tip-Adapter: a memory of the training images beside the prompts (Zhang et al. 2022).
//!
//! `scale · f·W + α · exp(-β (1 - f·K)) · onehot`: f the image, W the classes' prompts, K the training images, all of unit
//! length (`main.py`, `utils.py` of gaopengcuhk/Tip-Adapter).

use super::{Entry, Method, NONE, Needs, Options, Recipe, Sees, Setting, Tensors};
use crate::error::{Error, Result};
use crate::ops::normalize;
use crate::tune::Task;
use crate::tune::photos::Support;
use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "tip",
    trains: "nothing: images like the training images count for their classes",
    source: "Zhang et al. 2022, arXiv 2207.09519; gaopengcuhk/Tip-Adapter: main.py, utils.py",
    differs: Some("alpha and beta come from the validation images; of equal accuracies the lower loss wins"),
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: false,
    options: OPTIONS,
    recipe: Recipe { views: 10, ..NONE },
    prepare: None,
    build: |task, options| Ok(Box::new(Cache::new(task, options, false))),
};

/// What a memory begins with, and how far the search for something better goes.
pub(super) const OPTIONS: &[Setting] = &[
    Setting { name: "alpha", default: 1.17, range: (0.0, 1e3), help: "the weight of the memory at first" },
    Setting { name: "beta", default: 1.0, range: (0.0, 1e3), help: "how sharply it remembers at first" },
    Setting { name: "alpha_most", default: 5.0, range: (0.1, 1e3), help: "the search for alpha ends here" },
    Setting { name: "beta_most", default: 12.0, range: (0.1, 1e3), help: "the search for beta ends here" },
];

/// How many values of β and of α are tried (`search_step` of all configurations).
const STEPS: [usize; 2] = [200, 20];

/// A memory of images and their classes.
pub(super) struct Cache {
    /// What the images are: (images, dim), unit rows at first. None before [`Method::fit`].
    keys: Option<Var>,
    /// Whether they are trained (Tip-Adapter-F). They are not brought to unit length again.
    trained: bool,
    /// Their classes.
    labels: Vec<u32>,
    /// The weight of the memory beside the prompts.
    alpha: f64,
    /// How sharply it remembers.
    beta: f64,
    most: [f64; 2],
    /// (classes, dim)
    shape: [usize; 2],
    kind: (DType, Device),
}

impl Cache {
    pub(super) fn new(task: &Task<'_>, options: &Options, trained: bool) -> Self {
        Self {
            keys: None,
            trained,
            labels: Vec::new(),
            alpha: options.get("alpha"),
            beta: options.get("beta"),
            most: [options.get("beta_most"), options.get("alpha_most")],
            shape: [task.classes(), task.clip.spec.embed_dim],
            kind: (task.dtype(), task.clip.store().device().clone()),
        }
    }

    /// The images' classes as rows of zeros and a one, (images, classes).
    fn values(&self) -> Result<Tensor> {
        let [classes, _] = self.shape;
        let mut hot = vec![0f32; self.labels.len() * classes];
        self.labels.iter().enumerate().for_each(|(i, &label)| hot[i * classes + label as usize] = 1.0);
        let hot = Tensor::from_vec(hot, (self.labels.len(), classes), &self.kind.1)?;
        Ok(hot.to_dtype(self.kind.0)?)
    }
}

impl Method for Cache {
    fn params(&self) -> BTreeMap<String, Var> {
        let keys = self.keys.iter().filter(|_| self.trained);
        keys.map(|keys| ("keys".to_owned(), keys.clone())).collect()
    }

    fn logits(&self, task: &Task<'_>, texts: &Tensor, features: &Tensor) -> Result<Tensor> {
        let keys = self.keys.as_ref().ok_or_else(empty)?;
        let keys = if self.trained { keys.as_tensor().clone() } else { keys.as_detached_tensor() };
        let images = normalize(features)?;
        let alike = images.matmul(&keys.t()?)?;
        let votes = alike.affine(self.beta, -self.beta)?.exp()?.matmul(&self.values()?)?;
        Ok((task.logits(&images, texts)? + (votes * self.alpha)?)?)
    }

    /// Remembers the training images, each as the mean of its views.
    fn fit(&mut self, _: &Task<'_>, support: &Support) -> Result<()> {
        self.keys = Some(Var::from_tensor(&normalize(&support.mean()?)?.detach().copy()?)?);
        self.labels.clone_from(&support.labels);
        Ok(())
    }

    /// Sets α and β to what does best on images that are not remembered.
    fn choose(&mut self, task: &Task<'_>, held: &Support) -> Result<()> {
        let (Some(keys), false) = (&self.keys, held.labels.is_empty()) else { return Ok(()) };
        let images = normalize(held.view(0)?)?.detach();
        let rows = |x: Tensor| -> Result<Vec<Vec<f64>>> {
            Ok(x.detach().to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?)
        };
        let zero_shot = rows(task.logits(&images, &task.zero_shot()?)?)?;
        let alike = rows(images.matmul(&keys.as_detached_tensor().t()?)?)?;
        (self.alpha, self.beta) = best(&zero_shot, &alike, &self.labels, &held.labels, self.most);
        Ok(())
    }

    fn state(&self) -> Result<Tensors> {
        let Some(keys) = &self.keys else { return Ok(Tensors::new()) };
        let labels: Vec<f32> = self.labels.iter().map(|&label| label as f32).collect();
        Ok(Tensors::from([
            ("keys".to_owned(), keys.as_detached_tensor()),
            ("labels".to_owned(), Tensor::from_vec(labels, self.labels.len(), &Device::Cpu)?),
            ("alpha_beta".to_owned(), Tensor::new(&[self.alpha, self.beta], &Device::Cpu)?),
        ]))
    }

    fn restore(&mut self, state: &Tensors) -> Result<()> {
        let part = |name: &str| state.get(name).ok_or_else(|| broken(&format!("has no `{name}`")));
        let (keys, labels) = (part("keys")?, labels(part("labels")?, self.shape[0])?);
        if keys.dims() != [labels.len(), self.shape[1]] {
            return Err(broken("remembers other numbers of images and classes"));
        }
        let numbers = part("alpha_beta")?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let [alpha, beta] = numbers[..] else { return Err(broken("has no alpha and beta")) };
        self.keys = Some(Var::from_tensor(&keys.to_dtype(self.kind.0)?.to_device(&self.kind.1)?.copy()?)?);
        (self.labels, self.alpha, self.beta) = (labels, alpha, beta);
        Ok(())
    }
}

/// Classes as a saved model has them.
pub(super) fn labels(saved: &Tensor, classes: usize) -> Result<Vec<u32>> {
    let labels = saved.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let known = |&label: &f32| (label >= 0.0 && label < classes as f32).then_some(label as u32);
    labels.iter().map(known).collect::<Option<_>>().ok_or_else(|| broken("remembers classes that the task has not"))
}

/// What a memory that remembers nothing answers.
pub(super) fn empty() -> Error {
    Error::run("no training image has been remembered yet")
}

pub(super) fn broken(what: &str) -> Error {
    Error::run(format!("what was tuned {what}")).hint("are the classes those that it was tuned with?")
}

/// (α, β) of the authors' grid (`search_hp`) with the most right answers for images with these logits without memory, and
/// this likeness to those in it (of classes `of`). Few images leave many equals: the lowest cross-entropy decides.
fn best(logits: &[Vec<f64>], alike: &[Vec<f64>], of: &[u32], labels: &[u32], most: [f64; 2]) -> (f64, f64) {
    let grid = |i: usize| (0..STEPS[i]).map(move |step| 0.1 + step as f64 * (most[i] - 0.1) / STEPS[i] as f64);
    let with = |beta: f64| {
        let votes = alike.iter().map(|alike| {
            let mut votes = vec![0.0; logits.first().map_or(0, Vec::len)];
            alike.iter().zip(of).for_each(|(alike, &class)| votes[class as usize] += (beta * (alike - 1.0)).exp());
            votes
        });
        let votes: Vec<Vec<f64>> = votes.collect();
        let score = |alpha: f64| {
            let (mut right, mut loss) = (0, 0.0);
            for ((logits, votes), &label) in logits.iter().zip(&votes).zip(labels) {
                let all: Vec<f64> = logits.iter().zip(votes).map(|(logit, vote)| logit + alpha * vote).collect();
                let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                right += usize::from(all[label as usize] == most);
                loss += most + all.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - all[label as usize];
            }
            (right, loss, alpha, beta)
        };
        grid(1).map(score).reduce(better)
    };
    let all: Vec<_> = grid(0).collect::<Vec<_>>().into_par_iter().filter_map(with).collect();
    all.into_iter().reduce(better).map_or((1.0, 1.0), |(_, _, alpha, beta)| (alpha, beta))
}

/// The better of two results (right answers, loss, α, β); the first of equals.
fn better(a: (usize, f64, f64, f64), b: (usize, f64, f64, f64)) -> (usize, f64, f64, f64) {
    if b.0 > a.0 || (b.0 == a.0 && b.1 < a.1) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_finds_what_the_memory_is_worth() {
        // Prompts that are wrong by 1, and a memory that is right.
        let (logits, alike) = (vec![vec![1.0, 0.0]; 2], vec![vec![0.2, 0.9], vec![0.9, 0.1]]);
        let (alpha, beta) = best(&logits, &alike, &[0, 1], &[1, 1], [12.0, 5.0]);
        // The second image is like the one of class 0: no memory makes it right. The first needs a vote above 1.
        let vote = alpha * ((beta * -0.1f64).exp() - (beta * -0.8f64).exp());
        assert!(vote > 1.0, "{alpha} {beta}");
        // A memory that misleads is weighed least.
        let (alpha, _) = best(&[vec![1.0, 0.0]], &[vec![0.9]], &[1], &[0], [12.0, 5.0]);
        assert_eq!(alpha, 0.1);
        // The ends of the grid: 0.1, and a step before the most.
        assert_eq!(better((1, 0.5, 1.0, 1.0), (1, 0.5, 2.0, 2.0)).2, 1.0);
        assert_eq!(better((1, 0.5, 1.0, 1.0), (1, 0.4, 2.0, 2.0)).2, 2.0);
        assert_eq!(better((2, 0.5, 1.0, 1.0), (1, 0.4, 2.0, 2.0)).2, 1.0);
    }

    #[test]
    fn saved_classes_must_be_known() {
        let saved = |x: &[f32]| Tensor::new(x, &Device::Cpu).unwrap();
        assert_eq!(labels(&saved(&[0.0, 2.0]), 3).unwrap(), [0, 2]);
        for bad in [[3.0], [-1.0], [f32::NAN]] {
            assert!(labels(&saved(&bad), 3).is_err());
        }
    }
}
