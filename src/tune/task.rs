//! What is to be told apart, and by which model.

use super::context::{Context, Place};
use super::method::number;
use crate::error::{Error, Result};
use crate::model::{Clip, TextTower};
use crate::ops::normalize;
use crate::text::{Batch, TemplateSet};
use crate::weights::View;
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
    /// What a cosine is multiplied by, `exp(logit_scale)`: frozen.
    pub scale: f64,
    /// What is added then (SigLIP), else 0.
    pub bias: f64,
    zero_shot: OnceLock<Tensor>,
    first: OnceLock<Arc<Batch>>,
    contexts: Mutex<BTreeMap<Around, Arc<Context>>>,
}

/// What stands around a class name: how many learnt vectors, which tokens, and where.
type Around = (usize, Vec<u32>, Place);

impl<'a> Task<'a> {
    /// These classes, told apart by this model.
    pub fn new(clip: &'a Clip, names: &[String], templates: &TemplateSet) -> Result<Self> {
        // CoOp's data sets spell names with underscores where people write spaces.
        let names = names.iter().map(|name| name.replace('_', " ")).collect();
        let (scale, bias) = clip.head_tensors(View::Constant)?;
        let (scale, bias) = (number(&scale)?.exp(), bias.as_ref().map(number).transpose()?.unwrap_or(0.0));
        Ok(Self {
            clip,
            names,
            templates: templates.clone(),
            scale,
            bias,
            zero_shot: OnceLock::new(),
            first: OnceLock::new(),
            contexts: Mutex::default(),
        })
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

    /// The token ids of each class's first prompt.
    pub fn first_prompts(&self) -> Result<Arc<Batch>> {
        if let Some(batch) = self.first.get() {
            return Ok(batch.clone());
        }
        let first = |name: &String| -> Result<String> {
            let prompt = self.templates.fill(name)?.into_iter().next();
            prompt.ok_or_else(|| Error::run(format!("there is no prompt for the class `{name}`")))
        };
        let prompts = self.names.iter().map(first).collect::<Result<Vec<_>>>()?;
        let tokenizer = self.clip.tokenizer()?;
        let batch = Arc::new(tokenizer.0.batch(&prompts, &tokenizer.1)?);
        Ok(self.first.get_or_init(|| batch).clone())
    }

    /// The classes' prompts with room for learnt vectors ([`Context::new`]): tokenized at the first call, since every step
    /// needs them.
    pub fn context(&self, count: usize, fixed: &[u32], place: Place) -> Result<Arc<Context>> {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        let around = (count, fixed.to_vec(), place);
        if let Some(known) = contexts.get(&around) {
            return Ok(known.clone());
        }
        let new = Arc::new(Context::new(self, count, fixed, place)?);
        contexts.insert(around, new.clone());
        Ok(new)
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
        Ok(cosines.affine(self.scale, self.bias)?)
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
