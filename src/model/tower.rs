//! A tower of any kind.

use super::bert::Bert;
use super::convnext::ConvNext;
use super::efficientnet::EfficientNet;
use super::fastvit::FastVit;
use super::projection_head::ProjectionHead;
use super::resnet::ResNet;
use super::spec::{ImageSpec, TextTowerSpec};
use super::stack;
use super::transformer::Transformer;
use super::vit::Vit;
use crate::error::{Error, Result};
use crate::weights::Params;
use candle_core::Tensor;

/// An image tower of any kind. There is one a checkpoint, so its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum ImageTower {
    /// A vision transformer.
    Vit(Vit),
    /// An EfficientNet.
    EfficientNet(EfficientNet),
    /// CLIP's ResNet.
    ResNet(ResNet),
    /// A FastViT.
    FastVit(FastVit),
    /// A ConvNeXt.
    ConvNext(ConvNext),
}

/// A text tower of any kind.
#[derive(Clone, Debug)]
pub enum TextTower {
    /// CLIP's or SigLIP's transformer.
    Transformer(Transformer),
    /// A BERT or RoBERTa encoder.
    Bert(Bert),
}

impl ImageTower {
    /// Takes the tower's parameters; `dim` is the length of an embedding.
    pub(super) fn load(params: &Params<'_>, spec: &ImageSpec, dim: usize) -> Result<Self> {
        Ok(match spec {
            ImageSpec::Vit(spec) => Self::Vit(Vit::load(params, spec, dim)?),
            ImageSpec::EfficientNet(spec) => Self::EfficientNet(EfficientNet::load(params, spec, dim)?),
            ImageSpec::ResNet(spec) => Self::ResNet(ResNet::load(params, spec, dim)?),
            ImageSpec::FastVit(spec) => Self::FastVit(FastVit::load(params, spec, dim)?),
            ImageSpec::ConvNext(spec) => Self::ConvNext(ConvNext::load(params, spec, dim)?),
        })
    }

    /// The projection head alone.
    pub(super) fn projection(params: &Params<'_>, spec: &ImageSpec, dim: usize) -> Result<ProjectionHead> {
        match spec {
            ImageSpec::Vit(spec) => Vit::projection(params, spec, dim),
            ImageSpec::EfficientNet(spec) => EfficientNet::projection(params, spec, dim),
            ImageSpec::ResNet(spec) => ResNet::projection(params, spec, dim),
            ImageSpec::FastVit(spec) => FastVit::projection(params, spec, dim),
            ImageSpec::ConvNext(spec) => ConvNext::projection(params, spec, dim),
        }
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        match self {
            Self::Vit(tower) => tower.forward(pixels),
            Self::EfficientNet(tower) => tower.forward(pixels),
            Self::ResNet(tower) => tower.forward(pixels),
            Self::FastVit(tower) => tower.forward(pixels),
            Self::ConvNext(tower) => tower.forward(pixels),
        }
    }

    /// Maps pixels (items, 3, height, width) to what the projection head takes (items, features).
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        match self {
            Self::Vit(tower) => tower.features(pixels),
            Self::EfficientNet(tower) => tower.features(pixels),
            Self::ResNet(tower) => tower.features(pixels),
            Self::FastVit(tower) => tower.features(pixels),
            Self::ConvNext(tower) => tower.features(pixels),
        }
    }

    /// Like [`ImageTower::forward`] with learnt tokens, as [`Vit::forward_prompted`] has them.
    ///
    /// # Errors
    /// Usage, when there are any and the tower is no transformer.
    pub fn forward_prompted(&self, pixels: &Tensor, prompts: &[Tensor]) -> Result<Tensor> {
        match self {
            Self::Vit(tower) => tower.forward_prompted(pixels, prompts),
            tower if prompts.is_empty() => tower.forward(pixels),
            _ => Err(Error::usage("this image tower is no transformer: learnt tokens have no place in it")),
        }
    }

    /// How many tokens an image of this height and width is, if the tower is a transformer.
    pub(super) fn token_count(&self, size: [usize; 2]) -> Option<usize> {
        match self {
            Self::Vit(tower) => Some(tower.token_count(size)),
            _ => None,
        }
    }

    /// How many blocks it has, if it is a transformer.
    pub fn layers(&self) -> Option<usize> {
        match self {
            Self::Vit(tower) => Some(tower.layers()),
            _ => None,
        }
    }
}

impl TextTower {
    /// Takes the tower's parameters; `dim` is the length of an embedding.
    pub(super) fn load(params: &Params<'_>, spec: &TextTowerSpec, dim: usize) -> Result<Self> {
        Ok(match spec {
            TextTowerSpec::Transformer(spec) => Self::Transformer(Transformer::load(params, spec, dim)?),
            TextTowerSpec::Bert(spec) => Self::Bert(Bert::load(params, spec, dim)?),
        })
    }

    /// The projection head alone.
    pub(super) fn projection(params: &Params<'_>, spec: &TextTowerSpec, dim: usize) -> Result<ProjectionHead> {
        match spec {
            TextTowerSpec::Transformer(spec) => Transformer::projection(params, spec, dim),
            TextTowerSpec::Bert(spec) => Bert::projection(params, spec, dim),
        }
    }

    /// Maps ids (items × `len`, row by row) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        match self {
            Self::Transformer(tower) => tower.forward(ids, len),
            Self::Bert(tower) => tower.forward(ids, len),
        }
    }

    /// Maps ids (items × `len`, row by row) to what the projection head takes (items, features).
    pub fn features(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        match self {
            Self::Transformer(tower) => tower.features(ids, len),
            Self::Bert(tower) => tower.features(ids, len),
        }
    }

    /// Maps embedded tokens (items, len, width), without positions, to embeddings (items, `embed_dim`), not normalised.
    /// `ids` (items × len) say where texts end and what is padding; `prompts[i]` (n, width) takes the place of the tokens
    /// from `at` on in front of block `i + 1`.
    ///
    /// # Errors
    /// Usage, when there are more of them than blocks behind the first.
    pub fn forward_prompted(&self, tokens: &Tensor, ids: &[u32], prompts: &[Tensor], at: usize) -> Result<Tensor> {
        stack::fits("text", if prompts.is_empty() { 0 } else { prompts.len() + 1 }, self.layers())?;
        let mut between = |layer: usize, x: Tensor| match layer.checked_sub(1).and_then(|i| prompts.get(i)) {
            Some(prompt) => stack::replaced(&x, at, prompt),
            None => Ok(x),
        };
        match self {
            Self::Transformer(tower) => tower.forward_embedded(tokens, ids, &mut between),
            Self::Bert(tower) => tower.forward_embedded(tokens, ids, &mut between),
        }
    }

    /// How many blocks there are.
    pub fn layers(&self) -> usize {
        match self {
            Self::Transformer(tower) => tower.layers(),
            Self::Bert(tower) => tower.layers(),
        }
    }

    /// Looks tokens up: ids (items × `len`) to (items, `len`, width), without positions.
    pub fn embed(&self, ids: &[u32], len: usize) -> Result<Tensor> {
        match self {
            Self::Transformer(tower) => tower.embed(ids, len),
            Self::Bert(tower) => tower.embed(ids, len),
        }
    }
}
