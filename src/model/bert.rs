//! A BERT encoder as a text tower.

use super::spec::{BertSpec, TextPool};
use super::stack::Stack;
use super::transformer::embed;
use crate::error::{Error, Result};
use crate::ops::{Activation, LayerNorm, Linear, Mask};
use crate::weights::Params;
use candle_core::{Device, Tensor};
use std::sync::Arc;

/// A BERT encoder: token ids to one vector.
#[derive(Clone, Debug)]
pub struct Bert {
    tokens: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: LayerNorm,
    blocks: Stack,
    proj: Option<Linear>,
    spec: BertSpec,
}

impl Bert {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &BertSpec, embed_dim: usize) -> Result<Self> {
        let width = spec.blocks.width;
        Ok(Self {
            tokens: params.get("tokens.weight", &[spec.vocab, width])?,
            positions: params.get("positions", &[spec.positions, width])?,
            types: params.get("types", &[spec.types, width])?,
            norm: params.layer_norm("embed_norm", width, spec.blocks.eps)?,
            blocks: Stack::load(&params.sub("blocks"), &spec.blocks)?,
            proj: spec.proj.parts().map(|bias| params.linear("proj", embed_dim, width, bias)).transpose()?,
            spec: spec.clone(),
        })
    }

    /// Maps ids (items × `len`, row by row, padding at the end) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        let real = |ids: &[u32]| len - ids.iter().rev().take_while(|&&id| id == self.spec.pad_id).count();
        let lengths: Vec<usize> = ids.chunks(len).map(real).collect();
        self.forward_embedded(&embed(&self.tokens, ids, len)?, &lengths)
    }

    /// Looks tokens up: ids (items × `len`) to (items, `len`, width), without positions.
    pub fn embed(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        embed(&self.tokens, ids, len)
    }

    /// Maps embedded tokens (items, len, width), without positions, to embeddings (items, `embed_dim`); `lengths` says
    /// how many tokens of each text are no padding.
    pub fn forward_embedded(&self, tokens: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (items, len, _) = tokens.dims3()?;
        if len > self.spec.positions {
            return Err(Error::run(format!("a text of {len} tokens exceeds the {} positions", self.spec.positions)));
        }
        let lengths: Vec<usize> = lengths.iter().map(|&n| n.clamp(1, len)).collect();
        let x = tokens.broadcast_add(&self.types.narrow(0, 0, 1)?)?;
        let mut x = self.norm.forward(&x.broadcast_add(&self.positions.narrow(0, 0, len)?)?)?;
        let mask = Mask::Lengths(Arc::new(lengths.clone()));
        x = self.blocks.forward(&x, &mask, None)?;
        let pooled = match self.spec.pool {
            TextPool::Mean => mean_of_first(&x, &lengths)?,
            _ => x.narrow(1, 0, 1)?.squeeze(1)?,
        };
        debug_assert_eq!(pooled.dim(0)?, items);
        match &self.proj {
            Some(proj) => Ok(proj.forward(&pooled, Activation::Identity)?),
            None => Ok(pooled),
        }
    }
}

/// The mean of the first `lengths[b]` tokens of each item. Summed item by item, so that padding cannot change it.
fn mean_of_first(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    let (items, len, _) = x.dims3()?;
    let mut weights = vec![0f32; items * len];
    for (row, &n) in weights.chunks_mut(len).zip(lengths) {
        row[..n].fill(1.0);
    }
    let weights =
        Tensor::from_vec(weights, (items, len, 1), &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype())?;
    let counts: Vec<f32> = lengths.iter().map(|&n| n as f32).collect();
    let counts = Tensor::from_vec(counts, (items, 1), &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype())?;
    Ok(x.broadcast_mul(&weights)?.sum(1)?.broadcast_div(&counts)?)
}
