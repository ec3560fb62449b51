//! PromptSRC: learnt tokens in both towers that are held to what the towers say without them (Khattak et al. 2023).

use super::ivlp::{Ivlp, n_image};
use super::{Batch, Entry, Images, Method, Needs, Options, Recipe, SGD, Sees, Setting, Tensors};
use crate::error::{Error, Result};
use crate::ops::normalize;
use crate::text::templates;
use crate::tune::loss::{cross_entropy, kl};
use crate::tune::{Task, deep};
use candle_core::{Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "promptsrc",
    trains: "4 vectors in the place of words and 4 tokens behind an image's patches, in front of each of 9 blocks, averaged over epochs (--n-ctx, n_image, depth)",
    source: "Khattak et al. 2023, arXiv 2307.06948; muzairkhattak/PromptSRC: trainers/promptsrc.py",
    differs: None,
    sees: Sees::Pixels,
    needs: Needs { image_tokens: true },
    new_classes: true,
    options: &[
        deep::depth(9.0),
        n_image(4.0),
        number("text_weight", 25.0, 1e6, "of the distance of texts to those without learnt vectors"),
        number("image_weight", 10.0, 1e6, "of the distance of images to those without learnt tokens"),
        number("logit_weight", 1.0, 1e6, "of the divergence from the logits without either"),
        number("mean", 15.0, 1e4, "the epoch (from 1) that counts most in the average"),
        Setting { name: "std", default: 1.0, range: (0.01, 1e6), help: "how many epochs around it count" },
    ],
    // configs/trainers/PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx.yaml
    recipe: Recipe { epochs: 20, batch: 4, lr: 2.5e-3, ..SGD },
    prepare: None,
    build: |task, options| Ok(Box::new(PromptSrc::new(task, options)?)),
};

const fn number(name: &'static str, default: f64, most: f64, help: &'static str) -> Setting {
    Setting { name, default, range: (0.0, most), help }
}

struct PromptSrc {
    prompts: Ivlp,
    options: Options,
    /// The classes' rows without learnt vectors, (classes, dim) of unit length.
    frozen: Option<Tensor>,
    /// The average so far, by parameter; empty once it has become the parameters.
    average: Tensors,
}

impl PromptSrc {
    fn new(task: &Task<'_>, options: &Options) -> Result<Self> {
        let prompts = Ivlp::new(task, options, 4)?;
        Ok(Self { prompts, options: options.clone(), frozen: None, average: Tensors::new() })
    }

    /// The mean of embeddings that were not brought to unit length, then brought to it, (classes, dim).
    fn frozen(&mut self, task: &Task<'_>) -> Result<Tensor> {
        if let Some(rows) = &self.frozen {
            return Ok(rows.clone());
        }
        let rows = task.names.iter().map(|name| Ok(task.embed(&prompts(task, name)?)?.mean(0)?));
        let rows = normalize(&Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?)?;
        Ok(self.frozen.insert(rows).clone())
    }
}

/// What becomes of a class's name: the task's own templates where it has several, else PromptSRC's
/// (`trainers/imagenet_templates.py`), which are the first sixty of the eighty in another order.
fn prompts(task: &Task<'_>, name: &str) -> Result<Vec<String>> {
    if task.templates.max_prompts() > 1 {
        return task.templates.fill(name);
    }
    let mut prompts = templates::load("openai-80")?.fill(name)?;
    prompts.truncate(60);
    Ok(prompts)
}

impl Method for PromptSrc {
    fn params(&self) -> BTreeMap<String, Var> {
        self.prompts.params()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        self.prompts.texts(task)
    }

    fn features(&self, task: &Task<'_>, pixels: &Tensor) -> Result<Tensor> {
        self.prompts.features(task, pixels)
    }

    fn loss(&mut self, task: &Task<'_>, batch: &Batch, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let Images::Pixels(pixels) = &batch.images else {
            return Err(Error::run("promptsrc looks at pixels"));
        };
        let frozen = self.frozen(task)?;
        let texts = self.prompts.texts(task)?;
        let images = normalize(&self.prompts.features(task, pixels)?)?;
        let plain = normalize(&task.clip.image()?.forward(pixels)?)?.detach();
        let logits = task.logits(&images, &texts)?;
        let divergence = (kl(&task.logits(&plain, &frozen)?, &logits)? / logits.elem_count() as f64)?;
        // Means over all elements, as torch's `l1_loss`.
        let apart = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.mean_all();
        let held = [
            (apart(&texts, &frozen)?, "text_weight"),
            (apart(&images, &plain)?, "image_weight"),
            (divergence, "logit_weight"),
        ];
        let loss = cross_entropy(&logits, &batch.labels)?;
        held.iter().try_fold(loss, |loss, (term, weight)| Ok((loss + (term * self.options.get(weight))?)?))
    }

    /// Takes the parameters into the average, by a normal density over epochs (`get_gauss`), all of which sum to 1.
    fn end_epoch(&mut self, epoch: usize, epochs: usize) -> Result<()> {
        let (mean, std) = (self.options.get("mean"), self.options.get("std"));
        let log = |epoch: usize| -0.5 * ((epoch as f64 - mean) / std).powi(2);
        // Relative to the largest, so that a density far away is not all zeros.
        let largest = (1..=epochs).map(log).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = (1..=epochs).map(|epoch| (log(epoch) - largest).exp()).sum();
        let weight = (log(epoch) - largest).exp() / total;
        for (name, var) in self.params() {
            let part = (var.as_detached_tensor() * weight)?;
            let sum = match self.average.get(&name) {
                Some(sum) => (sum + part)?,
                None => part,
            };
            self.average.insert(name, sum);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if !self.average.is_empty() {
            super::set(&self.params(), &std::mem::take(&mut self.average))?;
        }
        Ok(())
    }

    fn image_prompts(&self) -> Result<Vec<Tensor>> {
        self.prompts.image_prompts()
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        self.prompts.words()
    }

    fn state(&self) -> Result<Tensors> {
        let average = self.average.iter().map(|(name, sum)| (format!("average.{name}"), sum.clone()));
        Ok(self.prompts.state()?.into_iter().chain(average).collect())
    }

    fn restore(&mut self, state: &Tensors) -> Result<()> {
        self.prompts.restore(state)?;
        self.average.clear();
        for (name, var) in self.params() {
            if let Some(sum) = state.get(&format!("average.{name}")).filter(|sum| sum.dims() == var.dims()) {
                self.average.insert(name, sum.to_dtype(var.dtype())?.to_device(var.device())?);
            }
        }
        Ok(())
    }
}
