//! CoCoOp: learnt words that lean towards each image (Zhou et al. 2022).

use super::coop::{CoOp, EMBEDDED_ONCE};
use super::{Batch, Entry, Method, Needs, Options, Recipe, SGD, Sees, Tensors, backward, number};
use crate::error::{Error, Result};
use crate::ops::{Activation, Gradients, Linear, normalize};
use crate::train::init::draw::Draw;
use crate::tune::Task;
use crate::tune::context::Context;
use crate::tune::loss::cross_entropy;
use candle_core::{Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "cocoop",
    trains: "the words around a class name, and a small net that moves them for each image",
    source: "Zhou et al. 2022, arXiv 2203.05557; KaiyangZhou/CoOp: trainers/cocoop.py",
    differs: EMBEDDED_ONCE,
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[],
    recipe: Recipe { epochs: 10, batch: 1, ..SGD },
    prepare: None,
    build: |task, options| Ok(Box::new(CoCoOp::new(task, options)?)),
};

/// How many prompts go through the text tower at once.
const CHUNK: usize = 128;

struct CoCoOp {
    words: CoOp,
    /// `meta.fc1.weight` (dim / 16, dim), `meta.fc2.weight` (token width, dim / 16), and biases.
    meta: BTreeMap<String, Var>,
}

impl CoCoOp {
    fn new(task: &Task<'_>, options: &Options) -> Result<Self> {
        if options.class_specific {
            return Err(Error::usage("cocoop has one context for all classes: an image moves it"));
        }
        let words = CoOp::new(task, options, 4, "a photo of a")?;
        let (dim, width) = (task.clip.spec.embed_dim, words.ctx.dim(1)?);
        let hidden = (dim / 16).max(1);
        let shapes: [(&str, &[usize], usize); 4] = [
            ("meta.fc1.weight", &[hidden, dim], dim),
            ("meta.fc1.bias", &[hidden], dim),
            ("meta.fc2.weight", &[width, hidden], hidden),
            ("meta.fc2.bias", &[width], hidden),
        ];
        let draw = |(name, shape, inputs): (&str, &[usize], usize)| -> Result<_> {
            Ok((name.to_owned(), options.draw(task, Draw::torch(inputs), name, shape)?))
        };
        Ok(Self { words, meta: shapes.into_iter().map(draw).collect::<Result<_>>()? })
    }

    /// The words of each image, (images, count, token width), of unit features (images, dim):
    /// `ctx + fc2(relu(fc1(feature)))`, the same for all words of an image.
    fn vectors(&self, unit: &Tensor) -> Result<Tensor> {
        let layer = |name: &str| -> Result<Linear> {
            let part = |part: &str| self.meta.get(&format!("meta.{name}.{part}")).map(|var| var.as_tensor().clone());
            let weight = part("weight").ok_or_else(|| Error::run(format!("meta.{name} is missing")))?;
            Ok(Linear::new(weight, part("bias")))
        };
        let hidden = layer("fc1")?.forward(unit, Activation::Relu)?;
        let shift = layer("fc2")?.forward(&hidden, Activation::Identity)?;
        Ok(shift.unsqueeze(1)?.broadcast_add(&self.words.ctx.as_tensor().unsqueeze(0)?)?)
    }

    /// Logits (images, classes) of unit features (images, dim) and each image's words.
    fn scores(task: &Task<'_>, context: &Context, unit: &Tensor, vectors: &Tensor) -> Result<Tensor> {
        let texts = normalize(&context.encode_each(&*task.text()?, vectors)?)?;
        let (images, dim) = unit.dims2()?;
        let texts = texts.reshape((images, context.classes(), dim))?;
        let cosines = texts.matmul(&unit.unsqueeze(2)?)?.squeeze(2)?;
        Ok(cosines.affine(task.scale, task.bias)?)
    }

    /// The classes in parts, and how many images go with a part at a time.
    fn parts(&self, task: &Task<'_>) -> Result<(Vec<Context>, usize)> {
        let parts = self.words.context(task)?.parts(CHUNK)?;
        Ok((parts, (CHUNK / task.classes().max(1)).max(1)))
    }
}

impl Method for CoCoOp {
    fn params(&self) -> BTreeMap<String, Var> {
        self.words.params().into_iter().chain(self.meta.clone()).collect()
    }

    /// Constants: the prompts of an image are its own, so `texts` (zero-shot's) do not matter, and what was computed for
    /// some is forgotten before the next.
    fn logits(&self, task: &Task<'_>, _: &Tensor, features: &Tensor) -> Result<Tensor> {
        let (parts, images) = self.parts(task)?;
        let unit = normalize(features)?.detach();
        let mut rows = Vec::new();
        for from in (0..unit.dim(0)?).step_by(images) {
            let unit = unit.narrow(0, from, images.min(unit.dim(0)? - from))?;
            let vectors = self.vectors(&unit)?.detach();
            let scores = parts.iter().map(|part| Self::scores(task, part, &unit, &vectors));
            rows.push(Tensor::cat(&scores.collect::<Result<Vec<_>>>()?, 1)?);
        }
        Ok(Tensor::cat(&rows, 0)?)
    }

    /// The whole batch on one tape; [`Method::gradients`] is the same in less memory.
    fn loss(&mut self, task: &Task<'_>, batch: &Batch, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let unit = normalize(&self.see(task, &batch.images)?)?;
        let scores = Self::scores(task, &*self.words.context(task)?, &unit, &self.vectors(&unit)?)?;
        cross_entropy(&scores, &batch.labels)
    }

    fn gradients(&mut self, task: &Task<'_>, batch: &Batch, _: &mut ChaCha8Rng) -> Result<(f64, Tensors)> {
        let (parts, images) = self.parts(task)?;
        let (params, all) = (self.params(), normalize(&self.see(task, &batch.images)?)?);
        let mut sums = Gradients::of(params.values().map(Var::as_tensor));
        let (mut sum, count) = (0.0, batch.labels.len());
        for (from, labels) in (0..).step_by(images).zip(batch.labels.chunks(images)) {
            let unit = all.narrow(0, from, labels.len())?;
            let vectors = self.vectors(&unit)?;
            let loss = |scores: &Tensor| -> Result<Tensor> {
                Ok((cross_entropy(scores, labels)? * (labels.len() as f64 / count as f64))?)
            };
            if let [whole] = parts.as_slice() {
                let loss = loss(&Self::scores(task, whole, &unit, &vectors)?)?;
                sum += number(&loss)?;
                sums.backward(&loss)?;
                continue;
            }
            // More classes than go through the tower at once: their logits first, as constants; then each part again with
            // the gradients of its logits (Gao et al. 2021).
            let constants = vectors.detach();
            let scores = parts.iter().map(|part| Ok(Self::scores(task, part, &unit, &constants)?.detach()));
            let scores = Var::from_tensor(&Tensor::cat(&scores.collect::<Result<Vec<_>>>()?, 1)?)?;
            let loss = loss(&scores)?;
            sum += number(&loss)?;
            let gradients = backward(&loss, &BTreeMap::from([("scores".to_owned(), scores)]))?;
            let mut from = 0;
            for part in &parts {
                let gradient = gradients["scores"].narrow(1, from, part.classes())?;
                from += part.classes();
                sums.backward(&(Self::scores(task, part, &unit, &vectors)? * gradient)?.sum_all()?)?;
            }
        }
        let taken = params.iter().filter_map(|(name, var)| Some((name.clone(), sums.take(var)?.detach())));
        Ok((sum, taken.collect()))
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        self.words.words()
    }
}
