//! One transformer block, in both places of the layer norm.

use super::spec::{BlocksSpec, NormPlace};
use crate::error::Result;
use crate::ops::{Activation, LayerNorm, Linear, Mask, self_attention};
use crate::weights::Params;
use candle_core::Tensor;

/// Attention and an MLP, each a branch beside the stream of tokens.
#[derive(Clone, Debug)]
pub struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    scale1: Option<Tensor>,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    scale2: Option<Tensor>,
    spec: BlocksSpec,
}

impl Block {
    /// Takes the parameters of one block.
    pub fn load(params: &Params<'_>, spec: &BlocksSpec) -> Result<Self> {
        let (width, mlp) = (spec.width, spec.mlp);
        let scale = |name| match spec.layer_scale {
            true => params.get(name, &[width]).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            norm1: params.layer_norm("norm1", width, spec.eps)?,
            qkv: params.linear("qkv", 3 * width, width, true)?,
            out: params.linear("out", width, width, true)?,
            scale1: scale("scale1")?,
            norm2: params.layer_norm("norm2", width, spec.eps)?,
            fc1: params.linear("fc1", mlp, width, true)?,
            fc2: params.linear("fc2", width, mlp, true)?,
            scale2: scale("scale2")?,
            spec: spec.clone(),
        })
    }

    /// Takes the parameters of all blocks of a stack, named `0`, `1`, ….
    pub fn load_all(params: &Params<'_>, spec: &BlocksSpec) -> Result<Vec<Self>> {
        (0..spec.layers).map(|i| Self::load(&params.sub(i), spec)).collect()
    }

    /// Maps tokens (items, tokens, width) to tokens of the same shape.
    pub fn forward(&self, x: &Tensor, mask: &Mask) -> Result<Tensor> {
        Ok(match self.spec.norm {
            NormPlace::Before => {
                let x = (x + self.attend(&self.norm1.forward(x)?, mask)?)?;
                (&x + self.think(&self.norm2.forward(&x)?)?)?
            }
            NormPlace::After => {
                let x = self.norm1.forward(&(x + self.attend(x, mask)?)?)?;
                self.norm2.forward(&(&x + self.think(&x)?)?)?
            }
        })
    }

    fn attend(&self, x: &Tensor, mask: &Mask) -> Result<Tensor> {
        let qkv = self.qkv.forward(x, Activation::Identity)?;
        let mixed = self_attention(&qkv, self.spec.heads, mask)?;
        scaled(self.out.forward(&mixed, Activation::Identity)?, self.scale1.as_ref())
    }

    fn think(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.fc1.forward(x, self.spec.act)?;
        scaled(self.fc2.forward(&hidden, Activation::Identity)?, self.scale2.as_ref())
    }
}

fn scaled(x: Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
    Ok(match scale {
        Some(scale) => x.broadcast_mul(scale)?,
        None => x,
    })
}
