//! ConvNeXt, in timm's names.

use super::conv::{Conv, Depthwise, Kernel, channels_last};
use super::projection_head::ProjectionHead;
use super::spec::{ConvNextSpec, Padding};
use crate::error::Result;
use crate::ops::{Activation, LayerNorm, Linear, mean_pixels};
use crate::weights::Params;
use candle_core::Tensor;

/// A ConvNeXt: pixels to one vector.
#[derive(Clone, Debug)]
pub struct ConvNext {
    stem: Conv,
    stem_norm: LayerNorm,
    stages: Vec<Stage>,
    norm: LayerNorm,
    proj: ProjectionHead,
}

const ACT: Activation = Activation::GeluErf;

impl ConvNext {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &ConvNextSpec, embed_dim: usize) -> Result<Self> {
        let trunk = params.sub("trunk");
        let [(first, _), .., (last, _)] = spec.stages;
        let mut stages = Vec::new();
        let mut inputs = first;
        for (i, (width, depth)) in spec.stages.into_iter().enumerate() {
            let params = trunk.sub(format!("stages.{i}"));
            let downsample = match i > 0 {
                true => Some((
                    params.layer_norm("downsample.0", inputs, spec.eps)?,
                    Kernel::load(&params, "downsample.1", [width, inputs, 2])?.conv(&params, 2, Padding::NONE)?,
                )),
                false => None,
            };
            let blocks = (0..depth).map(|i| Block::load(&params.sub(format!("blocks.{i}")), width, spec.eps));
            stages.push(Stage { downsample, blocks: blocks.collect::<Result<_>>()? });
            inputs = width;
        }
        Ok(Self {
            stem: Kernel::load(&trunk, "stem.0", [first, 3, 4])?.conv(&trunk, 4, Padding::NONE)?,
            stem_norm: trunk.layer_norm("stem.1", first, spec.eps)?,
            stages,
            norm: trunk.layer_norm("head.norm", last, spec.eps)?,
            proj: Self::projection(params, spec, embed_dim)?,
        })
    }

    /// The projection head alone.
    pub fn projection(params: &Params<'_>, spec: &ConvNextSpec, embed_dim: usize) -> Result<ProjectionHead> {
        let [.., (last, _)] = spec.stages;
        let Some(hidden) = spec.head_mlp else {
            return ProjectionHead::load(params, "head.proj", spec.proj, [embed_dim, last]);
        };
        let first = params.linear("head.mlp.fc1", hidden, last, true)?;
        ProjectionHead::default().hidden(first, ACT).then(params, "head.mlp.fc2", spec.proj, [embed_dim, hidden])
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.proj.forward(&self.features(pixels)?)
    }

    /// Maps pixels (items, 3, height, width) to what the projection head takes (items, features).
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let x = self.stem.forward(&channels_last(pixels)?, Activation::Identity)?;
        let mut x = self.stem_norm.forward(&x)?;
        for stage in &self.stages {
            if let Some((norm, conv)) = &stage.downsample {
                x = conv.forward(&norm.forward(&x)?, Activation::Identity)?;
            }
            for block in &stage.blocks {
                x = block.forward(&x)?;
            }
        }
        Ok(self.norm.forward(&mean_pixels(&x)?)?)
    }
}

/// Blocks at one resolution.
#[derive(Clone, Debug)]
struct Stage {
    downsample: Option<(LayerNorm, Conv)>,
    blocks: Vec<Block>,
}

/// A convolution of each channel, a norm and an MLP over channels, beside the skip.
#[derive(Clone, Debug)]
struct Block {
    filter: Depthwise,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn load(params: &Params<'_>, width: usize, eps: f64) -> Result<Self> {
        let fc2 = Kernel::load(params, "mlp.fc2", [width, 4 * width, 1])?;
        let scale = params.get("gamma", &[width])?;
        let filter = Kernel::load(params, "conv_dw", [width, 1, 7])?;
        Ok(Self {
            filter: filter.depthwise(params, 1, Padding::around(7))?,
            norm: params.layer_norm("norm", width, eps)?,
            fc1: params.linear("mlp.fc1", 4 * width, width, true)?,
            fc2: fc2.scaled(&scale)?.linear(params)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.norm.forward(&self.filter.forward(x, Activation::Identity)?)?;
        let hidden = self.fc1.forward(&y, ACT)?;
        Ok((x + self.fc2.forward(&hidden, Activation::Identity)?)?)
    }
}
