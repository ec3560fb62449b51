//! RESTORE: MaPLe whose texts and images move alike, and features that are mended (Yang et al. 2024).

use super::maple::{Maple, RECIPE};
use super::{Batch, Entry, Method, Needs, Options, Recipe, Sees, Setting, Tensors};
use crate::error::{Error, Result};
use crate::ops::{Activation, LayerNorm, Linear, normalize};
use crate::train::init::draw::Draw;
use crate::tune::loss::cross_entropy;
use crate::tune::{Task, deep};
use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "restore",
    trains: "what maple trains, and a residual MLP on the features of each tower",
    source: "Yang et al. 2024, arXiv 2403.06136; Yaphabates/RESTORE_: trainers/maple_fsa.py",
    differs: None,
    sees: Sees::Pixels,
    needs: Needs { image_tokens: true },
    new_classes: true,
    options: &[
        deep::depth(9.0),
        Setting {
            name: "lambda",
            default: 1.0,
            range: (0.0, 1e6),
            help: "weight of the difference of both towers' shifts",
        },
        share("text_ratio"),
        share("image_ratio"),
    ],
    // configs/trainers/MaPLe_FSA/vit_b16_c2_ep5_batch4_2ctx.yaml, whose name says 5 epochs and whose content 10.
    recipe: Recipe { epochs: 10, ..RECIPE },
    prepare: None,
    build: |task, options| Ok(Box::new(Restore::new(task, options)?)),
};

/// The share of a tower's MLP in its features at the beginning: 0.1 as in most of the released runs (`run_maple_fsa.sh`),
/// which choose it by data set.
const fn share(name: &'static str) -> Setting {
    Setting { name, default: 0.1, range: (0.0, 1.0), help: "share of the MLP in that tower's features, as it begins" }
}

/// By how much a shift raises the share of the MLP: of texts, of images (`update_calib`).
const RAISE: [f64; 2] = [0.02, 0.005];

struct Restore {
    maple: Maple,
    /// Of texts, of images.
    adapters: [Adapter; 2],
    /// The share of each in the features.
    ratios: [f64; 2],
    lambda: f64,
    /// The norms of deeper vectors at the beginning, (depth - 1, 2); known from the first step on.
    start: Option<Tensor>,
}

impl Restore {
    fn new(task: &Task<'_>, options: &Options) -> Result<Self> {
        Ok(Self {
            maple: Maple::new(task, options)?,
            adapters: [Adapter::new(task, options, "text")?, Adapter::new(task, options, "image")?],
            ratios: [options.get("text_ratio"), options.get("image_ratio")],
            lambda: options.get("lambda"),
            start: None,
        })
    }

    /// `‖PᵀP‖` (Frobenius) of the vectors P (vectors, width) of texts and of images in front of each block but the first:
    /// (depth - 1, 2), or none.
    fn norms(&self) -> Result<Option<Tensor>> {
        // PPᵀ has the same norm and is small.
        let norm = |vectors: &Tensor| vectors.matmul(&vectors.t()?)?.sqr()?.sum_all()?.sqrt();
        let pairs = self.maple.texts.deep.iter().zip(self.maple.image()?.into_iter().skip(1));
        let rows = pairs.map(|(text, image)| Ok(Tensor::stack(&[norm(text)?, norm(&image)?], 0)?));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        Ok(if rows.is_empty() { None } else { Some(Tensor::stack(&rows, 0)?) })
    }

    /// The sum over blocks of the square of what texts have grown more than images since the beginning.
    fn shift(&mut self) -> Result<Option<Tensor>> {
        let Some(norms) = self.norms()? else { return Ok(None) };
        let start = self.start.get_or_insert_with(|| norms.detach());
        let grown = (norms / &*start)?;
        Ok(Some((grown.narrow(1, 0, 1)? - grown.narrow(1, 1, 1)?)?.sqr()?.sum_all()?))
    }

    /// `ratio · A(x) + (1 - ratio) · x` of features (items, dim), not normalised; `tower` 0: texts, 1: images.
    fn mend(&self, x: &Tensor, tower: usize) -> Result<Tensor> {
        Ok((x + (self.adapters[tower].forward(x)? * self.ratios[tower])?)?)
    }
}

impl Method for Restore {
    fn params(&self) -> BTreeMap<String, Var> {
        let adapters = self.adapters.iter().flat_map(|adapter| adapter.params.iter());
        self.maple.params().into_iter().chain(adapters.map(|(name, var)| (name.clone(), var.clone()))).collect()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        Ok(normalize(&self.mend(&self.maple.texts.rows(task)?, 0)?)?)
    }

    fn features(&self, task: &Task<'_>, pixels: &Tensor) -> Result<Tensor> {
        self.maple.features(task, pixels)
    }

    fn logits(&self, task: &Task<'_>, texts: &Tensor, features: &Tensor) -> Result<Tensor> {
        task.logits(&normalize(&self.mend(features, 1)?)?, texts)
    }

    fn takes_unit(&self) -> bool {
        false
    }

    fn loss(&mut self, task: &Task<'_>, batch: &Batch, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let features = self.see(task, &batch.images)?;
        let loss = cross_entropy(&self.logits(task, &self.texts(task)?, &features)?, &batch.labels)?;
        Ok(match self.shift()? {
            Some(shift) => (loss + (shift * self.lambda)?)?,
            None => loss,
        })
    }

    /// Once, after a third of the epochs, the MLPs' shares grow with the vectors (`train` and `update_calib`).
    fn end_epoch(&mut self, epoch: usize, epochs: usize) -> Result<()> {
        if epoch == epochs / 3 + 1
            && let Some(norms) = self.norms()?
        {
            for (tower, raise) in RAISE.iter().enumerate() {
                self.ratios[tower] += raise * super::number(&norms.narrow(1, tower, 1)?.mean_all()?)?;
            }
        }
        Ok(())
    }

    fn image_prompts(&self) -> Result<Vec<Tensor>> {
        self.maple.image_prompts()
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        self.maple.words()
    }

    fn state(&self) -> Result<Tensors> {
        let mut state = super::detached(self.params());
        state.insert("ratios".to_owned(), Tensor::new(&self.ratios, &Device::Cpu)?);
        state.extend(self.start.iter().map(|start| ("start".to_owned(), start.clone())));
        Ok(state)
    }

    fn restore(&mut self, state: &Tensors) -> Result<()> {
        super::set(&self.params(), state)?;
        let ctx = &self.maple.texts.ctx;
        let here = |start: &Tensor| -> Result<Tensor> { Ok(start.to_dtype(ctx.dtype())?.to_device(ctx.device())?) };
        self.start = state.get("start").map(here).transpose()?;
        if let Some(ratios) = state.get("ratios") {
            let numbers = ratios.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
            self.ratios = numbers.try_into().map_err(|_| Error::run("`ratios` are two numbers"))?;
        }
        Ok(())
    }
}

/// The "surgery" of one tower's features: `A(x) - x = fc2(act(fc1(LN(x))))`, from dim to 4 · dim and back.
struct Adapter {
    params: Vec<(String, Var)>,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Adapter {
    fn new(task: &Task<'_>, options: &Options, tower: &str) -> Result<Self> {
        let dim = task.clip.spec.embed_dim;
        let mut params = Vec::new();
        let mut make = |name: &str, draw: Draw, shape: &[usize]| -> Result<Tensor> {
            let name = format!("adapter.{tower}.{name}");
            let var = options.draw(task, draw, &name, shape)?;
            params.push((name, var.clone()));
            Ok(var.as_tensor().clone())
        };
        let weight = make("norm.weight", Draw::Constant(1.0), &[dim])?;
        let norm = LayerNorm { weight, bias: make("norm.bias", Draw::Constant(0.0), &[dim])?, eps: 1e-5 };
        let mut linear = |name: &str, [outputs, inputs]: [usize; 2]| -> Result<Linear> {
            let weight = make(&format!("{name}.weight"), Draw::torch(inputs), &[outputs, inputs])?;
            let bias = make(&format!("{name}.bias"), Draw::torch(inputs), &[outputs])?;
            Ok(Linear::new(weight, Some(bias)))
        };
        let (fc1, fc2) = (linear("fc1", [4 * dim, dim])?, linear("fc2", [dim, 4 * dim])?);
        Ok(Self { params, norm, fc1, fc2 })
    }

    /// What is added to features (items, dim).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.fc1.forward(&self.norm.forward(x)?, Activation::QuickGelu)?;
        Ok(self.fc2.forward(&hidden, Activation::Identity)?)
    }
}
