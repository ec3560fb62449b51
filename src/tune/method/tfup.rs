//! TFUP: a memory of unlabelled images, chosen by what zero-shot makes of them (`main.py`, `utils.py` of wlb12345/TFUP).
//!
//! `scale · f·W + α · exp(-β (1 - (f·K) s)) · onehot`; s says how alike image and memory are in what they show:
//! `s = 2 (1 - KL)`, KL(p ‖ p of the memory) brought to 0…1 over the whole memory. The authors' z-score before that
//! changes nothing. p is the softmax of ten times the cosines.

use super::tip::{broken, empty, labels};
use super::{Entry, Method, NONE, Needs, Options, Sees, Setting, Tensors};
use crate::error::Result;
use crate::ops::normalize;
use crate::tune::Task;
use crate::tune::loss::log_softmax;
use crate::tune::photos::Support;
use candle_core::{D, DType, Device, Tensor};
use std::sync::OnceLock;

pub(super) static ENTRY: Entry = Entry {
    name: "tfup",
    trains: "nothing, and no class is looked at: images like those that zero-shot is sure of count for their classes",
    source: "wlb12345/TFUP: main.py, utils.py",
    differs: Some("the memory is made of the images to learn from; the authors' is of the test images"),
    sees: Sees::Unlabelled,
    needs: Needs { image_tokens: false },
    new_classes: false,
    options: &[
        Setting { name: "alpha", default: 0.3, range: (0.0, 1e3), help: "the weight of the memory" },
        Setting { name: "beta", default: 1.0, range: (0.0, 1e3), help: "how sharply it remembers" },
        Setting {
            name: "shots",
            default: 0.0,
            range: (0.0, 1e4),
            help: "how many images a class remembers; 0: 0.3 of its share of all images, from 9 to 16",
        },
    ],
    recipe: NONE,
    prepare: None,
    build: |task, options| Ok(Box::new(Tfup::new(task, options))),
};

/// What cosines are multiplied by before they say how alike two images are in what they show.
const SCALE: f64 = 10.0;

struct Tfup {
    alpha: f64,
    beta: f64,
    shots: usize,
    classes: usize,
    dim: usize,
    cache: Option<Cache>,
}

/// What is remembered, on the CPU in f64.
struct Cache {
    /// Unit rows (images, dim).
    keys: Tensor,
    /// The class that each stands for.
    labels: Vec<u32>,
    /// `log p` of the keys, (images, classes), made when the classes' rows are first seen.
    log_p: OnceLock<Tensor>,
}

impl Tfup {
    fn new(task: &Task<'_>, options: &Options) -> Self {
        let (alpha, beta, shots) = (options.get("alpha"), options.get("beta"), options.count("shots"));
        Self { alpha, beta, shots, classes: task.classes(), dim: task.clip.spec.embed_dim, cache: None }
    }

    /// The memory's part of the logits, (items, classes), for unit rows (items, dim) and (classes, dim); all f64.
    fn votes(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        let Cache { keys, labels, log_p: remembered } = self.cache.as_ref().ok_or_else(empty)?;
        let remembered = match remembered.get() {
            Some(remembered) => remembered,
            None => {
                let made = log_p(keys, texts)?;
                remembered.get_or_init(|| made)
            }
        };
        let similar = similarity(&log_p(images, texts)?, remembered)?;
        let alike = (images.matmul(&keys.t()?)? * similar)?;
        let mut hot = vec![0f64; labels.len() * self.classes];
        labels.iter().enumerate().for_each(|(i, &label)| hot[i * self.classes + label as usize] = 1.0);
        let hot = Tensor::from_vec(hot, (labels.len(), self.classes), &Device::Cpu)?;
        Ok((alike.affine(self.beta, -self.beta)?.exp()?.matmul(&hot)? * self.alpha)?)
    }
}

/// `log p` of unit rows.
fn log_p(rows: &Tensor, texts: &Tensor) -> Result<Tensor> {
    log_softmax(&(rows.matmul(&texts.t()?)? * SCALE)?)
}

/// 2 for what in a memory shows most nearly what an image shows, 0 for what shows it least: (images, keys), of `log p`.
fn similarity(images: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let kl = divergence(images, keys)?;
    let low = kl.min_keepdim(D::Minus1)?;
    // Where all are the same none is preferred to another.
    let width = (kl.max_keepdim(D::Minus1)? - &low)?.maximum(f64::MIN_POSITIVE)?;
    Ok(kl.broadcast_sub(&low)?.broadcast_div(&width)?.affine(-2.0, 2.0)?)
}

/// `KL(p_i ‖ q_j)` for rows of logarithms, (rows of p, rows of q).
fn divergence(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    let each = p.exp()?;
    Ok((&each * p)?.sum_keepdim(D::Minus1)?.broadcast_sub(&each.matmul(&q.t()?)?)?)
}

/// For each class the images that it remembers, given `log p` (images, classes): of the 2 · `shots` with the largest p those
/// from which all of them diverge least (`refine_few_shots_without_label`).
fn choose(log_p: &Tensor, shots: usize) -> Result<Vec<Vec<u32>>> {
    let class = |c: usize| -> Result<Vec<u32>> {
        let of_class = log_p.narrow(1, c, 1)?.flatten_all()?.to_vec1::<f64>()?;
        let mut sure: Vec<u32> = (0..of_class.len() as u32).collect();
        sure.sort_by(|&a, &b| of_class[b as usize].total_cmp(&of_class[a as usize]));
        sure.truncate(2 * shots);
        let rows = log_p.index_select(&Tensor::new(sure.as_slice(), &Device::Cpu)?, 0)?;
        let sums = divergence(&rows, &rows)?.sum(0)?.to_vec1::<f64>()?;
        let mut order: Vec<usize> = (0..sure.len()).collect();
        order.sort_by(|&a, &b| sums[a].total_cmp(&sums[b]));
        Ok(order.into_iter().take(shots).map(|i| sure[i]).collect())
    };
    (0..log_p.dim(1)?).map(class).collect()
}

fn wide(x: &Tensor) -> Result<Tensor> {
    Ok(x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.contiguous()?)
}

impl Method for Tfup {
    /// The unit means of the classes' prompts, which are not brought to unit length each.
    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        let rows = task.names.iter().map(|name| task.prompts(&task.templates, name, false));
        Ok(normalize(&Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?)?)
    }

    fn logits(&self, task: &Task<'_>, texts: &Tensor, features: &Tensor) -> Result<Tensor> {
        let images = normalize(features)?;
        let votes = self.votes(&wide(&images)?, &wide(texts)?)?;
        Ok((task.logits(&images, texts)? + votes.to_dtype(images.dtype())?.to_device(images.device())?)?)
    }

    /// Fills the memory. No class is read.
    fn fit(&mut self, task: &Task<'_>, support: &Support) -> Result<()> {
        let images = wide(&normalize(support.view(0)?)?)?;
        let share = (images.dim(0)? as f64 * 0.3 / self.classes as f64) as usize;
        let shots = if self.shots > 0 { self.shots } else { share.clamp(9, 16) };
        let chosen = choose(&log_p(&images, &wide(&self.texts(task)?)?)?, shots)?;
        let index: Vec<u32> = chosen.iter().flatten().copied().collect();
        let labels = chosen.iter().zip(0..).flat_map(|(images, class)| vec![class; images.len()]).collect();
        let keys = images.index_select(&Tensor::new(index.as_slice(), &Device::Cpu)?, 0)?;
        self.cache = Some(Cache { keys, labels, log_p: OnceLock::new() });
        Ok(())
    }

    fn state(&self) -> Result<Tensors> {
        let Some(Cache { keys, labels: classes, .. }) = &self.cache else { return Ok(Tensors::new()) };
        let classes: Vec<f32> = classes.iter().map(|&class| class as f32).collect();
        let classes = Tensor::from_vec(classes, keys.dim(0)?, &Device::Cpu)?;
        Ok(Tensors::from([("keys".to_owned(), keys.clone()), ("labels".to_owned(), classes)]))
    }

    fn restore(&mut self, state: &Tensors) -> Result<()> {
        let (Some(keys), Some(classes)) = (state.get("keys"), state.get("labels")) else {
            return Err(broken("remembers nothing"));
        };
        let classes = labels(classes, self.classes)?;
        if keys.dims() != [classes.len(), self.dim] {
            return Err(broken("remembers other numbers of images and classes"));
        }
        self.cache = Some(Cache { keys: wide(keys)?, labels: classes, log_p: OnceLock::new() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_surest_those_in_the_middle_are_remembered() {
        let p = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]].map(|row| row.map(f64::ln));
        let log_p = Tensor::new(&p, &Device::Cpu).unwrap();
        // Class 0: 0 and 1 of two; of four the one from which the others diverge least.
        let mut both = choose(&log_p, 1).unwrap();
        let sum = |i: usize, of: &[usize]| -> f64 {
            let kl = |j: usize| (0..2).map(|c| p[j][c].exp() * (p[j][c] - p[i][c])).sum::<f64>();
            of.iter().map(|&j| kl(j)).sum()
        };
        let least =
            |of: &[usize]| of.iter().copied().min_by(|&a, &b| sum(a, of).total_cmp(&sum(b, of))).unwrap() as u32;
        assert_eq!(both, [[least(&[0, 1])], [least(&[3, 2])]]);
        both = choose(&log_p, 2).unwrap();
        assert_eq!(both[0][0], least(&[0, 1, 2, 3]));
        // More shots than images: all of them.
        assert_eq!(choose(&log_p, 9).unwrap()[1].len(), 4);
    }

    #[test]
    fn what_shows_the_same_counts_twice_and_the_opposite_not_at_all() {
        let unit = |x: &[[f64; 2]]| Tensor::from_vec(x.concat(), (x.len(), 2), &Device::Cpu).unwrap();
        let (texts, keys) = (unit(&[[1.0, 0.0], [0.0, 1.0]]), unit(&[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]));
        let p = |x: &Tensor| log_p(x, &texts).unwrap();
        let all = similarity(&p(&unit(&[[1.0, 0.0]])), &p(&keys)).unwrap().to_vec2::<f64>().unwrap();
        assert!(
            (all[0][0] - 2.0).abs() < 1e-12 && all[0][1].abs() < 1e-12 && (0.0..2.0).contains(&all[0][2]),
            "{all:?}"
        );
        // One image in the memory: no division by nothing.
        let one = similarity(&p(&unit(&[[1.0, 0.0]])), &p(&unit(&[[0.0, 1.0]]))).unwrap();
        assert_eq!(one.to_vec2::<f64>().unwrap(), [[2.0]]);
    }
}
