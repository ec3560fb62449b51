//! What is to be told apart, and by which model.

use crate::error::Result;
use crate::model::{Clip, Head, TextTower};
use crate::ops::normalize;
use crate::text::TemplateSet;
use candle_core::{DType, Tensor};
use std::sync::{Arc, OnceLock};

/// How many prompts go through the text tower at once.
const CHUNK: usize = 64;

/// Classes, the prompts that people wrote for them, and the model.
pub struct Task<'a> {
    /// The model that is tuned.
    pub clip: &'a Clip,
    /// The names of the classes, as prompts show them.
    pub names: Vec<String>,
    /// What people wrote around a name.
    pub templates: TemplateSet,
    /// How cosines become logits: frozen.
    pub head: Head,
    zero_shot: OnceLock<Tensor>,
}

impl<'a> Task<'a> {
    /// These classes, told apart by this model.
    pub fn new(clip: &'a Clip, names: &[String], templates: &TemplateSet) -> Result<Self> {
        // CoOp's data sets spell names with underscores where people write spaces.
        let names = names.iter().map(|name| name.replace('_', " ")).collect();
        Ok(Self { clip, names, templates: templates.clone(), head: clip.head()?, zero_shot: OnceLock::new() })
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.names.len()
    }

    /// The frozen text tower.
    pub fn text(&self) -> Result<Arc<TextTower>> {
        self.clip.text()
    }

    /// The classes' hand-written prompts, embedded and averaged: (classes, dim) of unit length, constants. Each prompt is
    /// brought to unit length first, as in open_clip's `build_zero_shot_classifier`.
    pub fn zero_shot(&self) -> Result<Tensor> {
        if let Some(rows) = self.zero_shot.get() {
            return Ok(rows.clone());
        }
        let rows = self.names.iter().map(|name| self.prompts(&self.templates, name, true));
        let rows = normalize(&Tensor::stack(&rows.collect::<Result<Vec<_>>>()?, 0)?)?;
        Ok(self.zero_shot.get_or_init(|| rows).clone())
    }

    /// The mean of one class's prompts, (dim), constants. With `unit` each prompt is brought to unit length first.
    pub fn prompts(&self, templates: &TemplateSet, name: &str, unit: bool) -> Result<Tensor> {
        let rows = self.embed(&templates.fill(name)?)?;
        Ok(if unit { normalize(&rows)? } else { rows }.mean(0)?)
    }

    /// Texts through the frozen tower: (texts, dim), not normalised, constants.
    pub fn embed(&self, texts: &[String]) -> Result<Tensor> {
        let (tokenizer, tower) = (self.clip.tokenizer()?, self.text()?);
        let mut rows = Vec::new();
        for texts in texts.chunks(CHUNK) {
            let batch = tokenizer.0.batch(texts, &tokenizer.1)?;
            rows.push(tower.forward(&batch.ids, batch.len)?.detach());
        }
        Ok(Tensor::cat(&rows, 0)?)
    }

    /// Logits (images, classes) of unit rows (images, dim) and (classes, dim).
    pub fn logits(&self, images: &Tensor, texts: &Tensor) -> Result<Tensor> {
        let cosines = images.matmul(&texts.t()?)?;
        Ok(cosines.affine(f64::from(self.head.scale), f64::from(self.head.bias))?)
    }

    /// The kind of numbers that the towers compute with.
    pub fn dtype(&self) -> DType {
        self.clip.store().dtype()
    }

    /// A constant where the towers compute.
    pub fn tensor(&self, numbers: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
        let store = self.clip.store();
        Ok(Tensor::from_vec(numbers, shape, store.device())?.to_dtype(store.dtype())?)
    }
}
