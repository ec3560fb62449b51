//! CLIP's ResNet.

use super::conv::{Conv, Kernel, average_pool, channels_last};
use super::projection_head::ProjectionHead;
use super::spec::{Padding, Projection, ResNetSpec};
use crate::error::{Error, Result};
use crate::ops::{Activation, Linear, Mask, attention, mean_pixels};
use crate::weights::Params;
use candle_core::Tensor;

/// CLIP's ResNet: pixels to one vector.
#[derive(Clone, Debug)]
pub struct ResNet {
    stem: [Conv; 3],
    blocks: Vec<Bottleneck>,
    pool: AttentionPool,
    proj: ProjectionHead,
}

/// Added to the variance in batch norms: PyTorch's default.
const EPS: f64 = 1e-5;

impl ResNet {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &ResNetSpec, embed_dim: usize) -> Result<Self> {
        let width = spec.width;
        let stem = [
            conv(params, 1, [width / 2, 3, 3], 2)?,
            conv(params, 2, [width / 2, width / 2, 3], 1)?,
            conv(params, 3, [width, width / 2, 3], 1)?,
        ];
        let mut blocks = Vec::new();
        let mut inputs = width;
        for (stage, depth) in spec.layers.into_iter().enumerate() {
            let planes = width << stage;
            for block in 0..depth {
                let params = params.sub(format!("layer{}.{block}", stage + 1));
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Bottleneck::load(&params, inputs, planes, stride)?);
                inputs = 4 * planes;
            }
        }
        let pool = AttentionPool::load(&params.sub("attnpool"), spec)?;
        Ok(Self { stem, blocks, pool, proj: Self::projection(params, spec, embed_dim)? })
    }

    /// The projection head alone.
    pub fn projection(params: &Params<'_>, spec: &ResNetSpec, embed_dim: usize) -> Result<ProjectionHead> {
        ProjectionHead::load(params, "attnpool.c_proj", Projection::Affine, [embed_dim, 32 * spec.width])
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.proj.forward(&self.features(pixels)?)
    }

    /// Maps pixels (items, 3, height, width) to what the projection head takes (items, features).
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = channels_last(pixels)?;
        for conv in &self.stem {
            x = conv.forward(&x, Activation::Relu)?;
        }
        x = average_pool(&x, 2)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.pool.forward(&x)
    }
}

/// A bottleneck block (He et al. 2015), with a pool before each convolution that the original gave a stride.
#[derive(Clone, Debug)]
struct Bottleneck {
    convs: [Conv; 3],
    shortcut: Option<Conv>,
    stride: usize,
}

impl Bottleneck {
    fn load(params: &Params<'_>, inputs: usize, planes: usize, stride: usize) -> Result<Self> {
        let convs = [
            conv(params, 1, [planes, inputs, 1], 1)?,
            conv(params, 2, [planes, planes, 3], 1)?,
            conv(params, 3, [4 * planes, planes, 1], 1)?,
        ];
        let shortcut = match stride > 1 || inputs != 4 * planes {
            true => {
                let kernel = Kernel::load(params, "downsample.0", [4 * planes, inputs, 1])?;
                Some(kernel.norm(params, "downsample.1", EPS)?.conv(params, 1, Padding::NONE)?)
            }
            false => None,
        };
        Ok(Self { convs, shortcut, stride })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pooled = |x: &Tensor| if self.stride > 1 { average_pool(x, self.stride) } else { Ok(x.clone()) };
        let y = self.convs[0].forward(x, Activation::Relu)?;
        let y = pooled(&self.convs[1].forward(&y, Activation::Relu)?)?;
        let y = self.convs[2].forward(&y, Activation::Identity)?;
        let skip = match &self.shortcut {
            Some(shortcut) => shortcut.forward(&pooled(x)?, Activation::Identity)?,
            None => x.clone(),
        };
        Ok(Activation::Relu.forward(&(y + skip)?)?)
    }
}

/// Attention of the mean pixel to itself and all pixels.
#[derive(Clone, Debug)]
struct AttentionPool {
    positions: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    heads: usize,
}

impl AttentionPool {
    fn load(params: &Params<'_>, spec: &ResNetSpec) -> Result<Self> {
        let (width, side) = (32 * spec.width, spec.image_size / 32);
        Ok(Self {
            positions: params.get("positional_embedding", &[side * side + 1, width])?,
            q: params.linear("q_proj", width, width, true)?,
            k: params.linear("k_proj", width, width, true)?,
            v: params.linear("v_proj", width, width, true)?,
            heads: spec.heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        if height * width + 1 != self.positions.dim(0)? {
            return Err(Error::usage(format!(
                "the image tower has {} positions for {height} x {width} pixels",
                self.positions.dim(0)? - 1
            )));
        }
        let tokens = Tensor::cat(&[&mean_pixels(x)?.unsqueeze(1)?, &x.flatten(1, 2)?], 1)?;
        let tokens = tokens.broadcast_add(&self.positions)?;
        let q = self.q.forward(&tokens.narrow(1, 0, 1)?, Activation::Identity)?;
        let k = self.k.forward(&tokens, Activation::Identity)?;
        let v = self.v.forward(&tokens, Activation::Identity)?;
        Ok(attention(&q, &k, &v, self.heads, &Mask::None)?.squeeze(1)?)
    }
}

/// Convolution number `n` of a block and the batch norm behind it.
fn conv(params: &Params<'_>, n: usize, shape: [usize; 3], stride: usize) -> Result<Conv> {
    let kernel = Kernel::load(params, &format!("conv{n}"), shape)?;
    kernel.norm(params, &format!("bn{n}"), EPS)?.conv(params, stride, Padding::around(shape[2]))
}
