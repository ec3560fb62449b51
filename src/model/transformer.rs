//! The text transformer of CLIP, SigLIP and CoCa.

use super::positions;
use super::projection_head::ProjectionHead;
use super::readout::Span;
use super::spec::{TextPool, TransformerSpec};
use super::stack::{Between, Stack};
use crate::error::{Error, Result};
use crate::ops::{LayerNorm, Mask};
use crate::weights::Params;
use candle_core::{Device, Tensor};
use std::sync::Arc;

/// A text transformer: token ids to one vector.
#[derive(Clone, Debug)]
pub struct Transformer {
    tokens: Tensor,
    class: Option<Tensor>,
    positions: Tensor,
    blocks: Stack,
    norm: LayerNorm,
    proj: ProjectionHead,
    spec: TransformerSpec,
}

impl Transformer {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &TransformerSpec, embed_dim: usize) -> Result<Self> {
        let width = spec.blocks.width;
        Ok(Self {
            tokens: params.get("tokens.weight", &[spec.vocab, width])?,
            class: spec.class_token.map(|_| params.get("class", &[1, 1, width])).transpose()?,
            positions: positions::load_text(params, spec)?,
            blocks: Stack::load(&params.sub("blocks"), &spec.blocks)?,
            norm: params.layer_norm("norm", width, spec.blocks.eps)?,
            proj: Self::projection(params, spec, embed_dim)?,
            spec: spec.clone(),
        })
    }

    /// The projection head alone.
    pub fn projection(params: &Params<'_>, spec: &TransformerSpec, embed_dim: usize) -> Result<ProjectionHead> {
        ProjectionHead::load(params, "proj", spec.proj, [embed_dim, spec.blocks.width])
    }

    /// Maps ids (items × `len`, row by row) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        self.project(&self.features(ids, len)?)
    }

    /// Maps ids (items × `len`, row by row) to what the projection head takes (items, width).
    pub fn features(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        self.pooled(&self.embed(ids, len)?, ids, &mut |_, x| Ok(x))
    }

    /// Maps embedded tokens (items, len, width), without positions, to embeddings (items, `embed_dim`), with a look
    /// between blocks: this is where learnt prompts come in. Of the ids in their places only those count that say where a
    /// text ends and what is padding.
    pub fn forward_embedded(&self, tokens: &Tensor, ids: &[u32], between: &mut Between<'_>) -> Result<Tensor> {
        self.project(&self.pooled(tokens, ids, between)?)
    }

    fn pooled(&self, tokens: &Tensor, ids: &[u32], between: &mut Between<'_>) -> Result<Tensor> {
        let (items, len, _) = tokens.dims3()?;
        let places: Vec<usize> = match self.class {
            Some(_) => vec![len; items],
            None => ids.chunks(len.max(1)).map(|ids| self.end(ids)).collect(),
        };
        let (x, mask) = (self.placed(tokens)?, self.mask_of(ids, len));
        self.norm(&self.blocks.forward_at(&x, &mask, None, &Arc::new(places), between)?)
    }

    /// Maps ids (items × `len`, row by row) to the tokens that block number `layers` leaves (items, tokens, width), a
    /// class token last, with a look between blocks.
    pub fn tokens(&self, ids: &[u32], len: usize, layers: usize, between: &mut Between<'_>) -> Result<Tensor> {
        let x = self.placed(&self.embed(ids, len)?)?;
        self.blocks.forward_to(layers, &x, &self.mask_of(ids, len), None, between)
    }

    /// How many blocks there are.
    pub fn layers(&self) -> usize {
        self.blocks.layers()
    }

    /// The last layer norm, on vectors (…, width).
    pub fn norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.norm.forward(x)?)
    }

    /// Maps vectors (…, width) into the space of the embeddings (…, `embed_dim`).
    pub fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.proj.forward(x)
    }

    /// Which tokens of one text are what. A causal tower cannot see what follows the end.
    pub fn span(&self, ids: &[u32]) -> Span {
        let end = self.end(ids);
        match (&self.class, self.spec.causal) {
            (Some(_), _) => Span { start: 0, end: ids.len() + 1, cls: Some(ids.len()) },
            (None, true) => Span { start: 0, end: end + 1, cls: Some(end) },
            (None, false) => Span { start: 0, end: ids.len(), cls: Some(end) },
        }
    }

    /// Looks tokens up: ids (items × `len`) to (items, `len`, width), without positions.
    pub fn embed(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        embed(&self.tokens, ids, len)
    }

    /// What the tokens of these texts see of each other.
    fn mask_of(&self, ids: &[u32], len: usize) -> Mask {
        match self.spec.class_token {
            Some(class) => {
                let real: Vec<bool> = ids.iter().map(|&id| id != class.pad_id).collect();
                self.shifted(&real, len)
            }
            None => self.mask(),
        }
    }

    fn mask(&self) -> Mask {
        if self.spec.causal { Mask::Causal } else { Mask::None }
    }

    /// The mask of a tower with a class token; `real` says of each token whether it is no padding.
    fn shifted(&self, real: &[bool], len: usize) -> Mask {
        let marks = real.chunks(len.max(1)).flat_map(|real| [true].into_iter().chain(real.iter().copied())).collect();
        Mask::Keys { marks: Arc::new(marks), causal: self.spec.causal }
    }

    /// Embedded tokens (items, len, width) with the class token, if there is one, and positions.
    fn placed(&self, tokens: &Tensor) -> Result<Tensor> {
        let (items, len, width) = tokens.dims3()?;
        if len > self.spec.context {
            return Err(Error::run(format!("a text of {len} tokens exceeds the context length {}", self.spec.context)));
        }
        let x = match &self.class {
            Some(class) => Tensor::cat(&[tokens, &class.broadcast_as((items, 1, width))?.contiguous()?], 1)?,
            None => tokens.clone(),
        };
        Ok(x.broadcast_add(&self.positions.narrow(0, 0, x.dim(1)?)?)?)
    }

    /// Which token of one text stands for it.
    pub fn end(&self, ids: &[u32]) -> usize {
        let largest = || {
            // The first of the largest, as torch's argmax.
            let id = ids.iter().max();
            ids.iter().position(|x| Some(x) == id).unwrap_or(0)
        };
        match self.spec.pool {
            // Without the token, position 0, as argmax over a row of falses gives.
            TextPool::FirstId(id) => ids.iter().position(|&x| x == id).unwrap_or(0),
            TextPool::LargestId => largest(),
            TextPool::Last | TextPool::Mean => ids.len().saturating_sub(1),
            TextPool::First => 0,
        }
    }
}

/// Looks rows of `table` (vocabulary, width) up: ids (items × `len`) to (items, `len`, width).
pub(super) fn embed(table: &Tensor, ids: &[u32], len: usize) -> Result<Tensor> {
    let (vocab, width) = table.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(Error::run(format!("token id {id} is outside the model's vocabulary of {vocab}"))
            .hint("the tokenizer does not belong to this model"));
    }
    let flat = Tensor::from_slice(ids, ids.len(), &Device::Cpu)?.to_device(table.device())?;
    Ok(table.index_select(&flat, 0)?.reshape((ids.len() / len.max(1), len, width))?)
}
