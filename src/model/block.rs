//! One transformer block, wherever its layer norms are.

use super::spec::{BlocksSpec, NormPlace, QkvBias};
use crate::error::Result;
use crate::ops::{Activation, LayerNorm, Linear, Mask, Places, Rotation};
use crate::ops::{Bypass, at_places, branch, coarse_self_attention, mlp, rejoin, self_attention, self_attention_at};
use crate::weights::Params;
use candle_core::Tensor;

/// Attention and an MLP, each a branch beside the stream of tokens.
#[derive(Clone, Debug)]
pub struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out_norm: Option<LayerNorm>,
    out: Linear,
    scale1: Option<Tensor>,
    norm2: LayerNorm,
    gate: Option<Linear>,
    fc1: Linear,
    fc2_norm: Option<LayerNorm>,
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
        let inner_norm = |name, width| match spec.branches.inner_norm {
            true => params.layer_norm(name, width, spec.eps).map(Some),
            false => Ok(None),
        };
        let linear = |name, outputs, inputs| {
            let bias = || params.get(&format!("{name}.bias"), &[outputs]).map(Some);
            params.compact_linear(name, outputs, inputs, bias)
        };
        Ok(Self {
            norm1: params.layer_norm("norm1", width, spec.eps)?,
            qkv: params.compact_linear("qkv", 3 * width, width, || qkv_bias(params, spec))?,
            out_norm: inner_norm("out_norm", width)?,
            out: linear("out", width, width)?,
            scale1: scale("scale1")?,
            norm2: params.layer_norm("norm2", width, spec.eps)?,
            gate: if spec.branches.gate { Some(linear("gate", mlp, width)?) } else { None },
            fc1: linear("fc1", mlp, width)?,
            fc2_norm: inner_norm("fc2_norm", mlp)?,
            fc2: linear("fc2", width, mlp)?,
            scale2: scale("scale2")?,
            spec: spec.clone(),
        })
    }

    /// Whether a gradient flows to any parameter.
    pub fn is_trained(&self) -> bool {
        let norms = [Some(&self.norm1), Some(&self.norm2), self.out_norm.as_ref(), self.fc2_norm.as_ref()];
        let maps = [Some(&self.qkv), Some(&self.out), self.gate.as_ref(), Some(&self.fc1), Some(&self.fc2)];
        let scales = [&self.scale1, &self.scale2];
        norms.into_iter().flatten().any(|norm| norm.weight.track_op() || norm.bias.track_op())
            || maps.into_iter().flatten().any(Linear::is_trained)
            || scales.into_iter().flatten().any(Tensor::track_op)
    }

    /// Maps tokens (items, tokens, width) to tokens of the same shape; `rotation` turns queries and keys, if there is one.
    pub fn forward(&self, x: &Tensor, mask: &Mask, rotation: Option<&Rotation>) -> Result<Tensor> {
        self.forward_from(x, x, &Sight { mask, rotation, places: None })
    }

    /// The same numbers for one token of each item, (items, width): all other tokens are but seen.
    pub fn forward_at(&self, x: &Tensor, mask: &Mask, rotation: Option<&Rotation>, places: &Places) -> Result<Tensor> {
        self.forward_from(x, &at_places(x, places)?, &Sight { mask, rotation, places: Some(places) })
    }

    /// What becomes of the tokens `own`, which see the tokens `x`.
    fn forward_from(&self, x: &Tensor, own: &Tensor, sight: &Sight<'_>) -> Result<Tensor> {
        Ok(match self.spec.norm {
            NormPlace::Before => {
                let x = self.attend(x, own, Some(&self.norm1), sight)?;
                self.think(&x, Some(&self.norm2))?
            }
            NormPlace::After => {
                let x = self.norm1.forward(&self.attend(x, own, None, sight)?)?;
                self.norm2.forward(&self.think(&x, None)?)?
            }
            NormPlace::AfterBranch => {
                let x = (own + self.norm1.forward(&self.mix(x, None, sight, None)?)?)?;
                (&x + self.norm2.forward(&self.transform(&x, None, None)?)?)?
            }
        })
    }

    /// `own + scale · attention(norm(x))`.
    fn attend(&self, x: &Tensor, own: &Tensor, norm: Option<&LayerNorm>, sight: &Sight<'_>) -> Result<Tensor> {
        Ok(match &self.scale1 {
            Some(scale) => (own + self.mix(x, norm, sight, None)?.broadcast_mul(scale)?)?,
            None if own.id() == x.id() => self.mix_onto(x, norm, sight)?,
            None => self.mix(x, norm, sight, Some(own))?,
        })
    }

    /// `x + scale · MLP(norm(x))`.
    fn think(&self, x: &Tensor, norm: Option<&LayerNorm>) -> Result<Tensor> {
        Ok(match &self.scale2 {
            Some(scale) => (x + self.transform(x, norm, None)?.broadcast_mul(scale)?)?,
            None => self.transform(x, norm, Some(x))?,
        })
    }

    fn mix(
        &self,
        x: &Tensor,
        norm: Option<&LayerNorm>,
        sight: &Sight<'_>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let qkv = mlp(x, norm, &self.qkv, Activation::Identity, None, None)?;
        let mixed = self.look(qkv, sight)?;
        Ok(mlp(&mixed, self.out_norm.as_ref(), &self.out, Activation::Identity, None, residual)?)
    }

    /// `x + attention(norm(x))`.
    fn mix_onto(&self, x: &Tensor, norm: Option<&LayerNorm>, sight: &Sight<'_>) -> Result<Tensor> {
        let bypass = Bypass::default();
        let mixed = self.look(branch(x, norm, &self.qkv, &bypass)?, sight)?;
        Ok(rejoin(&mixed, self.out_norm.as_ref(), &self.out, x, &bypass)?)
    }

    /// What queries find among keys and values.
    fn look(&self, mut qkv: Tensor, sight: &Sight<'_>) -> Result<Tensor> {
        if let Some(rotation) = sight.rotation {
            qkv = rotation.forward(&qkv)?;
        }
        Ok(match sight.places {
            Some(places) => self_attention_at(&qkv, self.spec.heads, sight.mask, places)?,
            None if self.qkv.is_quantized() => coarse_self_attention(&qkv, self.spec.heads, sight.mask)?,
            None => self_attention(&qkv, self.spec.heads, sight.mask)?,
        })
    }

    fn transform(&self, x: &Tensor, norm: Option<&LayerNorm>, residual: Option<&Tensor>) -> Result<Tensor> {
        let (act, id) = (self.spec.act, Activation::Identity);
        if self.gate.is_none() && self.fc2_norm.is_none() {
            return Ok(mlp(x, norm, &self.fc1, act, Some(&self.fc2), residual)?);
        }
        let hidden = match &self.gate {
            Some(gate) => (mlp(x, norm, gate, act, None, None)? * mlp(x, norm, &self.fc1, id, None, None)?)?,
            None => mlp(x, norm, &self.fc1, act, None, None)?,
        };
        Ok(mlp(&hidden, self.fc2_norm.as_ref(), &self.fc2, id, None, residual)?)
    }
}

/// Which tokens look, and at what.
struct Sight<'a> {
    mask: &'a Mask,
    rotation: Option<&'a Rotation>,
    /// The one token of each item that looks, if not all do.
    places: Option<&'a Places>,
}

/// The bias of queries, keys and values side by side, (3 · width), if there is one.
fn qkv_bias(params: &Params<'_>, spec: &BlocksSpec) -> Result<Option<Tensor>> {
    let width = spec.width;
    Ok(match spec.branches.qkv_bias {
        QkvBias::All => Some(params.get("qkv.bias", &[3 * width])?),
        QkvBias::NoKeys => {
            let q = params.get("q_bias", &[width])?;
            Some(Tensor::cat(&[&q, &q.zeros_like()?, &params.get("v_bias", &[width])?], 0)?)
        }
        QkvBias::None => None,
    })
}
