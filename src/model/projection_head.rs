//! The projection head of a tower: what maps pooled features to the embedding.

use super::spec::Projection;
use crate::error::Result;
use crate::ops::{Activation, Linear};
use crate::weights::Params;
use candle_core::Tensor;

/// The last linear maps of a tower, each with what is done to its results. There may be none: features are the embedding
/// then.
#[derive(Clone, Debug, Default)]
pub struct ProjectionHead(Vec<(Linear, Activation)>);

impl ProjectionHead {
    /// One map from `inputs` features to `embed_dim` numbers, if the tower has it.
    pub(super) fn load(
        params: &Params<'_>,
        name: &str,
        kind: Projection,
        [embed_dim, inputs]: [usize; 2],
    ) -> Result<Self> {
        Self::default().then(params, name, kind, [embed_dim, inputs])
    }

    /// The same behind what is there.
    pub(super) fn then(
        mut self,
        params: &Params<'_>,
        name: &str,
        kind: Projection,
        [embed_dim, inputs]: [usize; 2],
    ) -> Result<Self> {
        let map = kind.parts().map(|bias| params.linear(name, embed_dim, inputs, bias)).transpose()?;
        self.0.extend(map.map(|map| (map, Activation::Identity)));
        Ok(self)
    }

    /// A map with an activation, behind what is there.
    pub(super) fn hidden(mut self, map: Linear, act: Activation) -> Self {
        self.0.push((map, act));
        self
    }

    /// Maps features (…, inputs) to embeddings (…, `embed_dim`), not normalised.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor> {
        self.0.iter().try_fold(features.clone(), |x, (map, act)| Ok(map.forward(&x, *act)?))
    }

    /// Whether the tensor of this name, as our towers have it, is part of a projection head.
    pub fn holds(ours: &str) -> bool {
        const PARTS: [&str; 5] = ["proj.", "hidden.", "head.proj.", "head.mlp.", "attnpool.c_proj."];
        let inside = ours.split_once('.').map_or("", |(_, inside)| inside);
        PARTS.iter().any(|part| inside.starts_with(part))
    }
}
