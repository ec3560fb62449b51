//! A BERT or RoBERTa encoder as a text tower.

use super::projection_head::ProjectionHead;
use super::readout::Span;
use super::spec::{BertSpec, TextPool};
use super::stack::{Between, Stack};
use super::transformer::embed;
use crate::error::{Error, Result};
use crate::ops::{LayerNorm, Mask};
use crate::weights::Params;
use candle_core::{Device, Tensor};
use std::sync::Arc;

/// A BERT or RoBERTa encoder: token ids to one vector.
#[derive(Clone, Debug)]
pub struct Bert {
    tokens: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: LayerNorm,
    blocks: Stack,
    final_norm: Option<LayerNorm>,
    proj: ProjectionHead,
    spec: BertSpec,
}

impl Bert {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &BertSpec, embed_dim: usize) -> Result<Self> {
        let (width, eps) = (spec.blocks.width, spec.blocks.eps);
        Ok(Self {
            tokens: params.get("tokens.weight", &[spec.vocab, width])?,
            positions: params.get("positions", &[spec.positions, width])?,
            types: params.get("types", &[spec.types, width])?,
            norm: params.layer_norm("embed_norm", width, eps)?,
            blocks: Stack::load(&params.sub("blocks"), &spec.blocks)?,
            final_norm: if spec.final_norm { Some(params.layer_norm("norm", width, eps)?) } else { None },
            proj: Self::projection(params, spec, embed_dim)?,
            spec: spec.clone(),
        })
    }

    /// The projection head alone.
    pub fn projection(params: &Params<'_>, spec: &BertSpec, embed_dim: usize) -> Result<ProjectionHead> {
        let (mut head, mut inputs) = (ProjectionHead::default(), spec.blocks.width);
        for (i, layer) in spec.hidden.iter().enumerate() {
            let map = params.linear(&format!("hidden.{i}"), layer.width, inputs, layer.bias)?;
            head = head.hidden(map, layer.act);
            inputs = layer.width;
        }
        head.then(params, "proj", spec.proj, [embed_dim, inputs])
    }

    /// Maps ids (items × `len`, row by row, padding at the end) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        self.proj.forward(&self.features(ids, len)?)
    }

    /// Maps ids (items × `len`, row by row) to what the projection head takes (items, width).
    pub fn features(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        self.pooled(&self.embed(ids, len)?, ids, &mut |_, x| Ok(x))
    }

    /// Maps embedded tokens (items, len, width), without positions, to embeddings (items, `embed_dim`), with a look
    /// between blocks: this is where learnt prompts come in. Of the ids in their places only padding counts.
    pub fn forward_embedded(&self, tokens: &Tensor, ids: &[u32], between: &mut Between<'_>) -> Result<Tensor> {
        self.proj.forward(&self.pooled(tokens, ids, between)?)
    }

    fn pooled(&self, tokens: &Tensor, ids: &[u32], between: &mut Between<'_>) -> Result<Tensor> {
        let len = tokens.dim(1)?;
        let (real, seen) = self.marks(ids, len);
        let seen = Arc::new(begun(seen, len));
        let x = self.through(tokens, &real, seen.clone(), self.layers(), between)?;
        self.last_norm(&match self.spec.pool {
            TextPool::Mean => mean(&x, &seen)?,
            _ => x.narrow(1, 0, 1)?.squeeze(1)?,
        })
    }

    /// Maps ids (items × `len`, row by row, padding at the end) to the tokens that block number `layers` leaves (items,
    /// `len`, width), with a look between blocks.
    pub fn tokens(&self, ids: &[u32], len: usize, layers: usize, between: &mut Between<'_>) -> Result<Tensor> {
        let (real, seen) = self.marks(ids, len);
        self.through(&self.embed(ids, len)?, &real, Arc::new(begun(seen, len)), layers, between)
    }

    /// How many blocks there are.
    pub fn layers(&self) -> usize {
        self.blocks.layers()
    }

    /// Maps vectors (…, width) into the space of the embeddings (…, `embed_dim`).
    pub fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.proj.forward(&self.last_norm(x)?)
    }

    fn last_norm(&self, x: &Tensor) -> Result<Tensor> {
        match &self.final_norm {
            Some(norm) => Ok(norm.forward(x)?),
            None => Ok(x.clone()),
        }
    }

    /// Which tokens of one text are what: those behind the last that is no padding are none.
    pub fn span(&self, ids: &[u32]) -> Span {
        let last = ids.iter().rposition(|&id| id != self.spec.pad_id).unwrap_or(0);
        Span { start: 0, end: last + 1, cls: Some(0) }
    }

    /// Of each token, whether it has a position and whether others look at it.
    fn marks(&self, ids: &[u32], len: usize) -> (Vec<bool>, Vec<bool>) {
        let real: Vec<bool> = ids.iter().map(|&id| id != self.spec.pad_id).collect();
        let mut seen = real.clone();
        if !self.spec.holes {
            for item in seen.chunks_mut(len.max(1)) {
                let end = item.iter().rposition(|real| *real).map_or(0, |last| last + 1);
                item[..end].fill(true);
            }
        }
        (real, seen)
    }

    /// Looks tokens up: ids (items × `len`) to (items, `len`, width), without positions.
    pub fn embed(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        embed(&self.tokens, ids, len)
    }

    /// Embedded tokens (items, len, width), without positions, after `layers` blocks.
    fn through(
        &self,
        tokens: &Tensor,
        real: &[bool],
        seen: Arc<Vec<bool>>,
        layers: usize,
        between: &mut Between<'_>,
    ) -> Result<Tensor> {
        let (_, len, _) = tokens.dims3()?;
        let room = self.spec.positions - self.spec.first_position;
        if len > room {
            return Err(Error::run(format!("a text of {len} tokens exceeds the {room} positions")));
        }
        let x = tokens.broadcast_add(&self.types.narrow(0, 0, 1)?)?;
        let x = self.norm.forward(&x.broadcast_add(&self.positions(real, len)?)?)?;
        self.blocks.forward_to(layers, &x, &Mask::Keys { marks: seen, causal: false }, None, between)
    }

    /// The positions of all tokens: (len, width), or (items, len, width) where padding has none.
    fn positions(&self, real: &[bool], len: usize) -> Result<Tensor> {
        let first = self.spec.first_position;
        if first == 0 {
            return Ok(self.positions.narrow(0, 0, len)?);
        }
        let mut ids = Vec::with_capacity(real.len());
        for item in real.chunks(len.max(1)) {
            let mut next = first as u32;
            for &real in item {
                // Padding takes the row before the first; nothing looks at it.
                ids.push(if real { next } else { first as u32 - 1 });
                next += u32::from(real);
            }
        }
        let items = ids.len() / len.max(1);
        let ids = Tensor::from_vec(ids, items * len, &Device::Cpu)?.to_device(self.positions.device())?;
        Ok(self.positions.index_select(&ids, 0)?.reshape((items, len, self.spec.blocks.width))?)
    }
}

/// The first token marks the beginning: even an item of nothing but padding has that one to look at.
fn begun(mut seen: Vec<bool>, len: usize) -> Vec<bool> {
    seen.iter_mut().step_by(len.max(1)).for_each(|first| *first = true);
    seen
}

/// The mean of the seen tokens of each item. Summed item by item, so that padding cannot change it.
fn mean(x: &Tensor, seen: &[bool]) -> Result<Tensor> {
    let (items, len, _) = x.dims3()?;
    let weights: Vec<f32> = seen.iter().map(|&seen| f32::from(seen)).collect();
    let counts: Vec<f32> = weights.chunks(len).map(|weights| weights.iter().sum()).collect();
    let on =
        |numbers, shape| Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype());
    let (weights, counts) = (on(weights, (items, len, 1))?, on(counts, (items, 1, 1))?);
    Ok(x.broadcast_mul(&weights)?.sum(1)?.broadcast_div(&counts.squeeze(2)?)?)
}
