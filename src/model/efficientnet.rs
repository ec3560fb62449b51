//! EfficientNet-Lite, the image tower of the built-in model.
//!
//! Images are (items, height, width, channels) inside, so that 1×1 convolutions are matrix products. Batch norms are
//! those of inference: a scale and a shift, folded into the convolution before them.

use super::spec::EfficientNetSpec;
use crate::error::{Error, Result};
use crate::ops::{Activation, Linear, Window, depthwise, unfold};
use crate::weights::Params;
use candle_core::Tensor;

/// An EfficientNet-Lite: pixels to one vector.
#[derive(Clone, Debug)]
pub struct EfficientNet {
    stem: Conv,
    blocks: Vec<MbConv>,
    head: Conv,
    proj: Option<Linear>,
}

/// Kernel size and stride of the seven stages (Tan & Le 2019, table 1).
const STAGES: [(usize, usize); 7] = [(3, 1), (3, 2), (5, 2), (3, 2), (5, 1), (5, 2), (3, 1)];

impl EfficientNet {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &EfficientNetSpec, embed_dim: usize) -> Result<Self> {
        let trunk = params.sub("trunk");
        let stem = Conv::load(&trunk, "conv_stem", "bn1", Shape { size: 3, stride: 2, inputs: Some(3) }, spec.eps)?;
        let mut channels = stem.outputs;
        let mut blocks = Vec::new();
        for (stage, ((size, stride), depth)) in STAGES.into_iter().zip(spec.depths).enumerate() {
            for i in 0..depth {
                let params = trunk.sub(format!("blocks.{stage}.{i}"));
                let stride = if i == 0 { stride } else { 1 };
                let block = MbConv::load(&params, stage == 0, size, stride, channels, spec.eps)?;
                channels = block.project.outputs;
                blocks.push(block);
            }
        }
        let head = Conv::load(&trunk, "conv_head", "bn2", Shape::pointwise(channels), spec.eps)?;
        let proj = spec.proj.parts().map(|bias| params.linear("proj", embed_dim, head.outputs, bias)).transpose()?;
        Ok(Self { stem, blocks, head, proj })
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(&pixels.permute((0, 2, 3, 1))?.contiguous()?, Activation::Relu6)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let x = self.head.forward(&x, Activation::Relu6)?;
        let pooled = x.flatten(1, 2)?.mean(1)?;
        match &self.proj {
            Some(proj) => Ok(proj.forward(&pooled, Activation::Identity)?),
            None => Ok(pooled),
        }
    }
}

/// An inverted residual block (Sandler et al. 2018): widen, filter each channel, narrow.
#[derive(Clone, Debug)]
struct MbConv {
    expand: Option<Conv>,
    filter: Depthwise,
    project: Conv,
    residual: bool,
}

impl MbConv {
    /// The first stage has no widening and other names.
    fn load(params: &Params<'_>, first: bool, size: usize, stride: usize, inputs: usize, eps: f64) -> Result<Self> {
        let pointwise = |name, norm, inputs| Conv::load(params, name, norm, Shape::pointwise(inputs), eps);
        let expand = if first { None } else { Some(pointwise("conv_pw", "bn1", inputs)?) };
        let middle = expand.as_ref().map_or(inputs, |conv| conv.outputs);
        let filter = Depthwise::load(params, if first { "bn1" } else { "bn2" }, size, stride, middle, eps)?;
        let project = match first {
            true => pointwise("conv_pw", "bn2", middle)?,
            false => pointwise("conv_pwl", "bn3", middle)?,
        };
        let residual = stride == 1 && inputs == project.outputs;
        Ok(Self { expand, filter, project, residual })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = match &self.expand {
            Some(expand) => expand.forward(x, Activation::Relu6)?,
            None => x.clone(),
        };
        let y = self.project.forward(&self.filter.forward(&wide)?, Activation::Identity)?;
        Ok(if self.residual { (x + y)? } else { y })
    }
}

/// The window and, where the model fixes it, the number of input channels of a convolution.
#[derive(Clone, Copy)]
struct Shape {
    size: usize,
    stride: usize,
    inputs: Option<usize>,
}

impl Shape {
    fn pointwise(inputs: usize) -> Self {
        Self { size: 1, stride: 1, inputs: Some(inputs) }
    }
}

/// A convolution over all channels and the batch norm behind it.
#[derive(Clone, Debug)]
struct Conv {
    linear: Linear,
    size: usize,
    stride: usize,
    outputs: usize,
}

impl Conv {
    fn load(params: &Params<'_>, name: &str, norm: &str, shape: Shape, eps: f64) -> Result<Self> {
        let kernel = raw(params, &format!("{name}.weight"))?;
        let (outputs, inputs, size, _) = kernel.dims4()?;
        let wanted = (shape.inputs.unwrap_or(inputs), shape.size);
        if (inputs, size) != wanted {
            return Err(Error::run(format!(
                "convolution `{name}` takes {inputs} channels through {size}, not {wanted:?}"
            )));
        }
        let (scale, shift) = batch_norm(params, norm, outputs, eps)?;
        let kernel = kernel.permute((0, 2, 3, 1))?.contiguous()?.reshape((outputs, size * size * inputs))?;
        let kernel = kernel.broadcast_mul(&scale.reshape((outputs, 1))?)?;
        Ok(Self { linear: Linear::new(kernel, Some(shift)), size, stride: shape.stride, outputs })
    }

    fn forward(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        if self.size == 1 {
            return Ok(self.linear.forward(x, act)?);
        }
        let (items, height, width, _) = x.dims4()?;
        let window = same_window(self.size, self.stride, height, width)?;
        let y = self.linear.forward(&unfold(x, window)?, act)?;
        Ok(y.reshape((items, window.count(height), window.count(width), self.outputs))?)
    }
}

/// A convolution of each channel by itself and the batch norm behind it.
#[derive(Clone, Debug)]
struct Depthwise {
    weight: Tensor,
    shift: Tensor,
    size: usize,
    stride: usize,
}

impl Depthwise {
    fn load(params: &Params<'_>, norm: &str, size: usize, stride: usize, channels: usize, eps: f64) -> Result<Self> {
        let kernel = params.get("conv_dw.weight", &[channels, 1, size, size])?.reshape((channels, size * size))?;
        let (scale, shift) = batch_norm(params, norm, channels, eps)?;
        let weight = kernel.broadcast_mul(&scale.reshape((channels, 1))?)?.t()?.contiguous()?;
        Ok(Self { weight, shift, size, stride })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = x.dims4()?;
        let window = same_window(self.size, self.stride, height, width)?;
        let y = depthwise(x, &self.weight, window)?;
        Ok(Activation::Relu6.forward(&y.broadcast_add(&self.shift)?)?)
    }
}

/// One padding serves both sides, so they must need the same.
fn same_window(size: usize, stride: usize, height: usize, width: usize) -> Result<Window> {
    let (rows, columns) = (Window::same(size, stride, height), Window::same(size, stride, width));
    match rows == columns {
        true => Ok(rows),
        false => Err(Error::usage(format!("the image tower needs square input, not {height} x {width}"))),
    }
}

/// A batch norm's running statistics as a scale and a shift.
fn batch_norm(params: &Params<'_>, name: &str, channels: usize, eps: f64) -> Result<(Tensor, Tensor)> {
    let get = |part| params.get(&format!("{name}.{part}"), &[channels]);
    let scale = (get("weight")? / (get("running_var")? + eps)?.sqrt()?)?;
    let shift = (get("bias")? - (get("running_mean")? * &scale)?)?;
    Ok((scale, shift))
}

/// A kernel of whatever shape: the widths of this family are read from the weights.
fn raw(params: &Params<'_>, name: &str) -> Result<Tensor> {
    match params.any_shape(name)? {
        Some(tensor) if tensor.rank() == 4 => Ok(tensor),
        Some(tensor) => Err(Error::run(format!("tensor `{name}` of shape {:?} is no convolution", tensor.dims()))),
        None => Err(Error::run(format!("missing tensor `{name}` of the image tower"))
            .hint("check that the weights and the configuration file belong together")),
    }
}
