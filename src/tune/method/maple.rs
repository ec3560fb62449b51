//! MaPLe: the learnt tokens of images are linear maps of those of texts (Khattak et al. 2023).

use super::{Entry, Method, Needs, Options, Recipe, SGD, Sees};
use crate::error::Result;
use crate::ops::{Activation, Linear, normalize};
use crate::train::init::draw::Draw;
use crate::tune::Task;
use crate::tune::deep::{self, TextPrompts};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "maple",
    trains: "2 vectors in the place of words in front of each of 9 blocks, and for each block the map that makes an image's tokens of them (--n-ctx, depth)",
    source: "Khattak et al. 2023, arXiv 2210.03117; muzairkhattak/multimodal-prompt-learning: trainers/maple.py, clip/model.py",
    differs: None,
    sees: Sees::Pixels,
    needs: Needs { image_tokens: true },
    new_classes: true,
    options: &[deep::depth(9.0)],
    recipe: RECIPE,
    prepare: None,
    build: |task, options| Ok(Box::new(Maple::new(task, options)?)),
};

/// `configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml`
pub(super) const RECIPE: Recipe = Recipe { epochs: 5, batch: 4, lr: 3.5e-3, ..SGD };

/// Coupled tokens. RESTORE trains them in another way.
pub(super) struct Maple {
    pub(super) texts: TextPrompts,
    /// For each block weight (image width, text width) and bias (image width).
    couple: Vec<[Var; 2]>,
}

impl Maple {
    pub(super) fn new(task: &Task<'_>, options: &Options) -> Result<Self> {
        let (text, image) = (deep::text_blocks(task), deep::image_blocks(task)?);
        let depth = deep::depth_in(options, "text", text.layers)?.min(deep::depth_in(options, "image", image.layers)?);
        let draw = |name: &str, shape: &[usize]| options.draw(task, Draw::torch(text.width), name, shape);
        let couple = |i: usize| {
            // The first has a start of its own; all others begin as copies of one.
            let name = format!("couple.{}", i.min(1));
            let weight = draw(&format!("{name}.weight"), &[image.width, text.width])?;
            Ok([weight, draw(&format!("{name}.bias"), &[image.width])?])
        };
        Ok(Self {
            texts: TextPrompts::new(task, options, 2, depth)?,
            couple: (0..depth).map(couple).collect::<Result<_>>()?,
        })
    }

    /// An image's tokens in front of each of the first blocks, (tokens, width), with their gradients.
    pub(super) fn image(&self) -> Result<Vec<Tensor>> {
        let vectors = [&self.texts.ctx].into_iter().chain(&self.texts.deep);
        let token = |(vectors, [weight, bias]): (&Var, &[Var; 2])| {
            let map = Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
            Ok(map.forward(vectors, Activation::Identity)?)
        };
        vectors.zip(&self.couple).map(token).collect()
    }
}

impl Method for Maple {
    fn params(&self) -> BTreeMap<String, Var> {
        let maps = self.couple.iter().enumerate().flat_map(|(i, [weight, bias])| {
            [(format!("couple.{i}.weight"), weight.clone()), (format!("couple.{i}.bias"), bias.clone())]
        });
        self.texts.params().chain(maps).collect()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        Ok(normalize(&self.texts.rows(task)?)?)
    }

    fn features(&self, task: &Task<'_>, pixels: &Tensor) -> Result<Tensor> {
        task.clip.image()?.forward_prompted(pixels, &self.image()?)
    }

    fn image_prompts(&self) -> Result<Vec<Tensor>> {
        Ok(self.image()?.iter().map(Tensor::detach).collect())
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.texts.words())
    }
}
