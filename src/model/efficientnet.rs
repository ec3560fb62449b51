//! EfficientNet: EfficientNet-Lite, the image tower of the built-in model, and ALIGN's with squeeze-and-excite.

use super::conv::{Conv, Depthwise, Kernel, SqueezeExcite, channels_last};
use super::projection_head::ProjectionHead;
use super::spec::{EfficientNetSpec, MbConvSpec, Padding};
use crate::error::Result;
use crate::ops::{Activation, mean_pixels};
use crate::weights::Params;
use candle_core::Tensor;

/// An EfficientNet: pixels to one vector.
#[derive(Clone, Debug)]
pub struct EfficientNet {
    stem: Conv,
    blocks: Vec<MbConv>,
    head: Option<Conv>,
    proj: ProjectionHead,
    act: Activation,
}

impl EfficientNet {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &EfficientNetSpec, embed_dim: usize) -> Result<Self> {
        let stem = conv(params, "stem", Some(3), 3, 2, spec.stem_padding, spec.eps)?;
        let mut channels = stem.outputs()?;
        let mut blocks = Vec::new();
        for block in &spec.blocks {
            let block = MbConv::load(&params.sub(&block.name), block, channels, spec)?;
            channels = block.project.outputs()?;
            blocks.push(block);
        }
        let head = match spec.head {
            true => Some(pointwise(params, "head", channels, spec.eps)?),
            false => None,
        };
        let width = head.as_ref().map_or(Ok(channels), Conv::outputs)?;
        let proj = ProjectionHead::load(params, "proj", spec.proj, [embed_dim, width])?;
        Ok(Self { stem, blocks, head, proj, act: spec.act })
    }

    /// The projection head alone, whose inputs are counted by its own tensor.
    pub fn projection(params: &Params<'_>, spec: &EfficientNetSpec, embed_dim: usize) -> Result<ProjectionHead> {
        let width = params.shape("proj.weight").and_then(|shape| shape.last().copied()).unwrap_or(embed_dim);
        ProjectionHead::load(params, "proj", spec.proj, [embed_dim, width])
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.proj.forward(&self.features(pixels)?)
    }

    /// Maps pixels (items, 3, height, width) to what the projection head takes (items, features).
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(&channels_last(pixels)?, self.act)?;
        for block in &self.blocks {
            x = block.forward(&x, self.act)?;
        }
        if let Some(head) = &self.head {
            x = head.forward(&x, self.act)?;
        }
        Ok(mean_pixels(&x)?)
    }
}

/// An inverted residual block (Sandler et al. 2018): widen, filter each channel, narrow.
#[derive(Clone, Debug)]
struct MbConv {
    expand: Option<Conv>,
    filter: Depthwise,
    squeeze: Option<SqueezeExcite>,
    project: Conv,
    residual: bool,
}

impl MbConv {
    fn load(params: &Params<'_>, spec: &MbConvSpec, inputs: usize, tower: &EfficientNetSpec) -> Result<Self> {
        let expand = match spec.expand {
            true => Some(pointwise(params, "expand", inputs, tower.eps)?),
            false => None,
        };
        let middle = expand.as_ref().map_or(Ok(inputs), Conv::outputs)?;
        let filter = Kernel::load(params, "filter", [middle, 1, spec.size])?;
        let filter = filter.norm(params, "filter_norm", tower.eps)?.depthwise(params, spec.stride, spec.padding)?;
        let squeeze = match tower.squeeze {
            true => Some(SqueezeExcite::load(params, ["squeeze", "excite"], middle, tower.act)?),
            false => None,
        };
        let project = pointwise(params, "project", middle, tower.eps)?;
        let residual = spec.residual && spec.stride == 1 && inputs == project.outputs()?;
        Ok(Self { expand, filter, squeeze, project, residual })
    }

    fn forward(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        let wide = match &self.expand {
            Some(expand) => expand.forward(x, act)?,
            None => x.clone(),
        };
        let mut y = self.filter.forward(&wide, act)?;
        if let Some(squeeze) = &self.squeeze {
            y = squeeze.forward(&y)?;
        }
        let y = self.project.forward(&y, Activation::Identity)?;
        Ok(if self.residual { (x + y)? } else { y })
    }
}

/// `NAME`, a convolution, and `NAME_norm`, the batch norm behind it.
fn conv(
    params: &Params<'_>,
    name: &str,
    inputs: Option<usize>,
    size: usize,
    stride: usize,
    padding: Padding,
    eps: f64,
) -> Result<Conv> {
    let kernel = Kernel::load_any(params, name, inputs, size)?;
    kernel.norm(params, &format!("{name}_norm"), eps)?.conv(params, stride, padding)
}

fn pointwise(params: &Params<'_>, name: &str, inputs: usize, eps: f64) -> Result<Conv> {
    conv(params, name, Some(inputs), 1, 1, Padding::NONE, eps)
}
