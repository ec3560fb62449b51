//! CoCa's pooling of image tokens (Yu et al. 2022, as open_clip's `AttentionalPooler` builds it).

use crate::error::Result;
use crate::ops::{Activation, LayerNorm, Linear, Mask, attention};
use crate::weights::Params;
use candle_core::Tensor;

/// Learnt queries that attend to all image tokens. The first stands for the image; the others feed the captions that
/// we do not write, so that only the first is computed.
#[derive(Clone, Debug)]
pub struct AttentionalPooler {
    query: Tensor,
    norm_q: LayerNorm,
    norm_k: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

/// Added to the variance in its layer norms, whatever those of the blocks have.
const EPS: f64 = 1e-5;

impl AttentionalPooler {
    /// Takes the parameters of a pooler with so many queries of length `dim` for tokens of length `width`.
    pub fn load(params: &Params<'_>, [queries, dim, width]: [usize; 3], heads: usize) -> Result<Self> {
        // One matrix where queries and tokens are equally long, else three: torch's MultiheadAttention.
        let packed = if dim == width { Some(params.get("qkv.weight", &[3 * dim, dim])?) } else { None };
        let bias = params.get("qkv.bias", &[3 * dim])?;
        let part = |i: usize, name: &str, inputs: usize| -> Result<Linear> {
            let weight = match &packed {
                Some(packed) => packed.narrow(0, i * dim, dim)?.contiguous()?,
                None => params.get(&format!("{name}.weight"), &[dim, inputs])?,
            };
            Ok(Linear::new(weight, Some(bias.narrow(0, i * dim, dim)?.contiguous()?)))
        };
        Ok(Self {
            query: params.get("query", &[queries, dim])?.narrow(0, 0, 1)?.unsqueeze(0)?.contiguous()?,
            norm_q: params.layer_norm("norm_q", dim, EPS)?,
            norm_k: params.layer_norm("norm_k", width, EPS)?,
            q: part(0, "q", dim)?,
            k: part(1, "k", width)?,
            v: part(2, "v", width)?,
            out: params.linear("out", dim, dim, true)?,
            heads,
        })
    }

    /// The answer to the first query: tokens (items, tokens, width) to (items, dim).
    pub fn first(&self, tokens: &Tensor) -> Result<Tensor> {
        let id = Activation::Identity;
        let tokens = self.norm_k.forward(tokens)?;
        let q = self.q.forward(&self.norm_q.forward(&self.query)?, id)?;
        let q = q.broadcast_as((tokens.dim(0)?, 1, q.dim(2)?))?.contiguous()?;
        let (k, v) = (self.k.forward(&tokens, id)?, self.v.forward(&tokens, id)?);
        Ok(self.out.forward(&attention(&q, &k, &v, self.heads, &Mask::None)?, id)?.squeeze(1)?)
    }
}
