//! FastViT, the image tower of MobileCLIP, in timm's names.
//!
//! Checkpoints hold what was trained, several convolutions and batch norms side by side, or what they add up to
//! (`reparam_conv`). Either becomes one convolution at load.

use super::conv::{Conv, Depthwise, Kernel, SqueezeExcite, batch_norm, channels_last, wide};
use super::projection_head::ProjectionHead;
use super::spec::{FastVitSpec, FastVitStage, Padding};
use crate::error::Result;
use crate::ops::{Activation, LayerNorm, Linear, Mask, mean_pixels, self_attention};
use crate::weights::Params;
use candle_core::Tensor;

/// A FastViT: pixels to one vector.
#[derive(Clone, Debug)]
pub struct FastVit {
    stem: (Conv, Depthwise, Conv),
    stages: Vec<Stage>,
    last: Depthwise,
    squeeze: SqueezeExcite,
    proj: ProjectionHead,
}

/// Added to the variance in batch norms: PyTorch's default.
const EPS: f64 = 1e-5;
/// The length of an attention head.
const HEAD: usize = 32;
const ACT: Activation = Activation::GeluErf;

impl FastVit {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &FastVitSpec, embed_dim: usize) -> Result<Self> {
        let trunk = params.sub("trunk");
        let first = spec.stages.first().map_or(0, |stage| stage.width);
        let scale = spec.stem_scale;
        let stem = (
            mobile_one(&trunk.sub("stem.0"), [first, 3, 3], scale, false)?.conv(params, 2, Padding::around(3))?,
            mobile_one(&trunk.sub("stem.1"), [first, 1, 3], scale, false)?.depthwise(params, 2, Padding::around(3))?,
            mobile_one(&trunk.sub("stem.2"), [first, first, 1], false, true)?.conv(params, 1, Padding::NONE)?,
        );
        let mut stages = Vec::new();
        for (i, stage) in spec.stages.iter().enumerate() {
            stages.push(Stage::load(&trunk.sub(format!("stages.{i}")), stage, spec.layer_norm)?);
        }
        let inputs = spec.stages.last().map_or(0, |stage| stage.width);
        let last = trunk.sub("final_conv");
        let kernel = mobile_one(&last, [spec.width, 1, 3], true, spec.width == inputs)?;
        Ok(Self {
            stem,
            stages,
            last: kernel.depthwise(params, 1, Padding::around(3))?,
            squeeze: SqueezeExcite::load(&last, ["se.fc1", "se.fc2"], spec.width, Activation::Relu)?,
            proj: Self::projection(params, spec, embed_dim)?,
        })
    }

    /// The projection head alone.
    pub fn projection(params: &Params<'_>, spec: &FastVitSpec, embed_dim: usize) -> Result<ProjectionHead> {
        ProjectionHead::load(params, "proj", spec.proj, [embed_dim, spec.width])
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.proj.forward(&self.features(pixels)?)
    }

    /// Maps pixels (items, 3, height, width) to what the projection head takes (items, features).
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let x = self.stem.0.forward(&channels_last(pixels)?, ACT)?;
        let x = self.stem.1.forward(&x, ACT)?;
        let mut x = self.stem.2.forward(&x, ACT)?;
        for stage in &self.stages {
            x = stage.forward(&x)?;
        }
        let x = self.squeeze.forward(&self.last.forward(&x, Activation::Identity)?)?;
        Ok(mean_pixels(&ACT.forward(&x)?)?)
    }
}

/// Blocks at one resolution.
#[derive(Clone, Debug)]
struct Stage {
    downsample: Option<Downsample>,
    positions: Option<Depthwise>,
    blocks: Vec<Block>,
}

impl Stage {
    fn load(params: &Params<'_>, spec: &FastVitStage, layer_norm: Option<f64>) -> Result<Self> {
        let downsample = match spec.downsample {
            true => Some(Downsample::load(&params.sub("downsample.proj"), spec)?),
            false => None,
        };
        let positions = match spec.positions {
            true => Some(positions(&params.sub("pos_emb"), spec.width)?),
            false => None,
        };
        let blocks = (0..spec.depth).map(|i| Block::load(&params.sub(format!("blocks.{i}")), spec, layer_norm));
        Ok(Self { downsample, positions, blocks: blocks.collect::<Result<_>>()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
        }
        if let Some(positions) = &self.positions {
            x = positions.forward(&x, Activation::Identity)?;
        }
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x)
    }
}

/// Halves the sides of an image: a large convolution of each channel (Ding et al. 2022), then one over all channels.
#[derive(Clone, Debug)]
struct Downsample {
    filter: Depthwise,
    squeeze: Option<SqueezeExcite>,
    mix: Conv,
}

impl Downsample {
    fn load(params: &Params<'_>, spec: &FastVitStage) -> Result<Self> {
        let (large, width) = (params.sub("0"), spec.width);
        let kernel = match folded(&large, [width, 1, 7])? {
            Some(kernel) => kernel,
            None => normed(&large, "large_conv", [width, 1, 7])?.plus(normed(&large, "small_conv", [width, 1, 3])?)?,
        };
        let squeeze = match spec.squeeze {
            true => Some(SqueezeExcite::load(&large, ["se.fc1", "se.fc2"], width, Activation::Relu)?),
            false => None,
        };
        let mix = mobile_one(&params.sub("1"), [width, width, 1], false, true)?;
        Ok(Self {
            filter: kernel.depthwise(params, 2, Padding::around(7))?,
            squeeze,
            mix: mix.conv(params, 1, Padding::NONE)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = match &self.squeeze {
            Some(squeeze) => ACT.forward(&squeeze.forward(&self.filter.forward(x, Activation::Identity)?)?)?,
            None => self.filter.forward(x, ACT)?,
        };
        self.mix.forward(&x, ACT)
    }
}

/// Mixes pixels, then channels.
#[derive(Clone, Debug)]
struct Block {
    mixer: Mixer,
    mlp: ConvMlp,
}

/// How a block mixes pixels.
#[derive(Clone, Debug)]
enum Mixer {
    /// A convolution of each channel, the skip included.
    Convolution(Depthwise),
    /// Attention beside the skip.
    Attention { norm: Option<LayerNorm>, qkv: Linear, out: Linear },
}

impl Block {
    fn load(params: &Params<'_>, spec: &FastVitStage, layer_norm: Option<f64>) -> Result<Self> {
        let (width, mixer) = (spec.width, params.sub("token_mixer"));
        let mixer = match spec.attention {
            false => Mixer::Convolution(rep_mixer(&mixer, width)?.depthwise(params, 1, Padding::around(3))?),
            true => {
                let weight = mixer.require("qkv.weight", &[3 * width, width])?;
                let (norm, qkv) = match layer_norm {
                    Some(eps) => (Some(params.layer_norm("norm", width, eps)?), Linear::new(weight, None)),
                    None => {
                        let (scale, shift) = batch_norm(params, "norm", width, EPS)?;
                        let weight = wide(&weight)?;
                        let bias = weight.matmul(&shift.reshape((width, 1))?)?.flatten_all()?;
                        let weight = weight.broadcast_mul(&scale)?.to_dtype(params.dtype())?;
                        (None, Linear::new(weight, Some(bias.to_dtype(params.dtype())?)))
                    }
                };
                Mixer::Attention { norm, qkv, out: scaled_linear(params, "token_mixer.proj", "layer_scale_1", width)? }
            }
        };
        let scale = if spec.attention { "layer_scale_2" } else { "layer_scale" };
        Ok(Self { mixer, mlp: ConvMlp::load(params, spec, scale)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = match &self.mixer {
            Mixer::Convolution(mixer) => mixer.forward(x, Activation::Identity)?,
            Mixer::Attention { norm, qkv, out } => {
                let (items, height, width, channels) = x.dims4()?;
                let tokens = x.reshape((items, height * width, channels))?;
                let y = match norm {
                    Some(norm) => norm.forward(&tokens)?,
                    None => tokens,
                };
                let y = self_attention(&qkv.forward(&y, Activation::Identity)?, channels / HEAD, &Mask::None)?;
                (x + out.forward(&y, Activation::Identity)?.reshape(x.shape())?)?
            }
        };
        Ok((&x + self.mlp.forward(&x)?)?)
    }
}

/// An MLP over channels behind a convolution of each.
#[derive(Clone, Debug)]
struct ConvMlp {
    filter: Depthwise,
    fc1: Linear,
    fc2: Linear,
}

impl ConvMlp {
    fn load(params: &Params<'_>, spec: &FastVitStage, scale: &str) -> Result<Self> {
        let width = spec.width;
        let filter = normed(&params.sub("mlp"), "conv", [width, 1, 7])?;
        let fc2 = Kernel::load(params, "mlp.fc2", [width, spec.mlp, 1])?;
        let scale = params.get(&format!("{scale}.gamma"), &[width])?;
        Ok(Self {
            filter: filter.depthwise(params, 1, Padding::around(7))?,
            fc1: params.linear("mlp.fc1", spec.mlp, width, true)?,
            fc2: fc2.scaled(&scale)?.linear(params)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.fc1.forward(&self.filter.forward(x, Activation::Identity)?, ACT)?;
        Ok(self.fc2.forward(&hidden, Activation::Identity)?)
    }
}

/// A MobileOne block (Vasu et al. 2022) as one convolution: one of this shape, one of 1×1 if there is such a `scale`
/// branch and the input itself if there is a `skip`, each with a batch norm.
fn mobile_one(params: &Params<'_>, shape: [usize; 3], scale: bool, skip: bool) -> Result<Kernel> {
    if let Some(kernel) = folded(params, shape)? {
        return Ok(kernel);
    }
    let [outputs, inputs, size] = shape;
    let mut sum = normed(params, "conv_kxk.0", shape)?;
    if scale {
        sum = sum.plus(normed(params, "conv_scale", [outputs, inputs, 1])?)?;
    }
    if skip {
        sum = sum.plus(Kernel::identity(params, outputs, inputs, size)?.norm(params, "identity", EPS)?)?;
    }
    Ok(sum)
}

/// A RepMixer as one convolution: `x + γ (mixer(x) − norm(x))`.
fn rep_mixer(params: &Params<'_>, width: usize) -> Result<Kernel> {
    if let Some(kernel) = folded(params, [width, 1, 3])? {
        return Ok(kernel);
    }
    let skip = || Kernel::identity(params, width, 1, 3);
    let mixer = mobile_one(&params.sub("mixer"), [width, 1, 3], true, true)?;
    let norm = skip()?.norm(params, "norm.identity", EPS)?;
    let scale = params.get("layer_scale.gamma", &[width])?;
    skip()?.plus(mixer.plus(norm.times(-1.0)?)?.scaled(&scale)?)
}

/// Conditional positions (Chu et al. 2021), the skip included.
fn positions(params: &Params<'_>, width: usize) -> Result<Depthwise> {
    let kernel = match folded(params, [width, 1, 7])? {
        Some(kernel) => kernel,
        None => Kernel::load(params, "pos_enc", [width, 1, 7])?.plus(Kernel::identity(params, width, 1, 7)?)?,
    };
    kernel.depthwise(params, 1, Padding::around(7))
}

/// What a checkpoint that was re-parameterised holds in place of branches.
fn folded(params: &Params<'_>, shape: [usize; 3]) -> Result<Option<Kernel>> {
    match params.has("reparam_conv.weight") {
        true => Kernel::load(params, "reparam_conv", shape).map(Some),
        false => Ok(None),
    }
}

/// A convolution and the batch norm behind it.
fn normed(params: &Params<'_>, name: &str, shape: [usize; 3]) -> Result<Kernel> {
    Kernel::load(params, &format!("{name}.conv"), shape)?.norm(params, &format!("{name}.bn"), EPS)
}

/// A linear map and the layer scale behind it.
fn scaled_linear(params: &Params<'_>, name: &str, scale: &str, width: usize) -> Result<Linear> {
    let scale = params.get(&format!("{scale}.gamma"), &[width])?;
    Kernel::load(params, name, [width, width, 1])?.scaled(&scale)?.linear(params)
}
