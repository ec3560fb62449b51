//! The layers that convolutional towers are built of.
//!
//! Images are (items, height, width, channels) inside, so that 1×1 convolutions are matrix products. What is linear
//! between two activations (convolutions side by side, batch norms, layer scales, skips) is folded into one
//! convolution when a tower loads, in double precision where the device has it.

use super::spec::Padding;
use crate::error::{Error, Result};
use crate::ops::{self, Activation, Linear, Window};
use crate::weights::Params;
use candle_core::{DType, Tensor};

/// A convolution in the form that checkpoints have, before it is built: weight (outputs, inputs of one group, size,
/// size) and bias (outputs).
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    weight: Tensor,
    bias: Tensor,
}

impl Kernel {
    /// `NAME.weight` of this shape and, where there is one, `NAME.bias`.
    pub(super) fn load(params: &Params<'_>, name: &str, [outputs, inputs, size]: [usize; 3]) -> Result<Self> {
        let weight = wide(&params.require(&format!("{name}.weight"), &[outputs, inputs, size, size])?)?;
        let bias = match params.optional(&format!("{name}.bias"), &[outputs])? {
            Some(bias) => wide(&bias)?,
            None => Tensor::zeros(outputs, weight.dtype(), weight.device())?,
        };
        Ok(Self { weight, bias })
    }

    /// `NAME.weight`, whose number of outputs, and of inputs where none is given, is read from the weights.
    pub(super) fn load_any(params: &Params<'_>, name: &str, inputs: Option<usize>, size: usize) -> Result<Self> {
        let weight = match params.any_shape(&format!("{name}.weight"))? {
            Some(tensor) if tensor.rank() == 4 => tensor,
            Some(tensor) => {
                let dims = tensor.dims();
                return Err(Error::run(format!("tensor `{name}.weight` of shape {dims:?} is no convolution")));
            }
            None => {
                return Err(Error::run(format!("missing tensor `{name}.weight` of the image tower"))
                    .hint("check that the weights and the configuration file belong together"));
            }
        };
        let (outputs, found, rows, columns) = weight.dims4()?;
        let inputs = inputs.unwrap_or(found);
        if (found, rows, columns) != (inputs, size, size) || outputs * inputs == 0 {
            return Err(Error::run(format!(
                "convolution `{name}` takes {found} channels through {rows} x {columns}, not {inputs} through {size} x {size}"
            )));
        }
        let weight = wide(&weight)?;
        let bias = Tensor::zeros(outputs, weight.dtype(), weight.device())?;
        Ok(Self { weight, bias })
    }

    /// The convolution that changes nothing: `channels` outputs, each group of which sees `inputs` channels.
    pub(super) fn identity(params: &Params<'_>, channels: usize, inputs: usize, size: usize) -> Result<Self> {
        let mut numbers = vec![0f32; channels * inputs * size * size];
        for (channel, kernel) in numbers.chunks_mut(inputs * size * size).enumerate() {
            kernel[channel % inputs * size * size + size / 2 * size + size / 2] = 1.0;
        }
        let weight = wide(&Tensor::from_vec(numbers, (channels, inputs, size, size), params.device())?)?;
        let bias = Tensor::zeros(channels, weight.dtype(), params.device())?;
        Ok(Self { weight, bias })
    }

    /// With the batch norm `NAME` behind it, as it is at inference: a scale and a shift.
    pub(super) fn norm(self, params: &Params<'_>, name: &str, eps: f64) -> Result<Self> {
        let (scale, shift) = batch_norm(params, name, self.outputs(), eps)?;
        let kernel = self.scaled(&scale)?;
        Ok(Self { bias: (kernel.bias + shift)?, ..kernel })
    }

    /// With each output times a factor.
    pub(super) fn scaled(self, by: &Tensor) -> Result<Self> {
        let by = wide(&by.flatten_all()?)?;
        let weight = self.weight.broadcast_mul(&by.reshape((by.elem_count(), 1, 1, 1))?)?;
        Ok(Self { weight, bias: (self.bias * by)? })
    }

    /// With each output times a number.
    pub(super) fn times(self, by: f64) -> Result<Self> {
        Ok(Self { weight: (self.weight * by)?, bias: (self.bias * by)? })
    }

    /// The sum of two convolutions of the same input, of which the smaller sits in the middle of the larger.
    pub(super) fn plus(self, other: Self) -> Result<Self> {
        let size = self.weight.dim(3)?.max(other.weight.dim(3)?);
        let grown = |weight: &Tensor| -> Result<Tensor> {
            let room = (size - weight.dim(3)?) / 2;
            Ok(weight.pad_with_zeros(2, room, room)?.pad_with_zeros(3, room, room)?)
        };
        Ok(Self { weight: (grown(&self.weight)? + grown(&other.weight)?)?, bias: (self.bias + other.bias)? })
    }

    /// How many channels come out.
    pub(super) fn outputs(&self) -> usize {
        self.bias.elem_count()
    }

    /// A convolution over all channels, in the numbers that the towers compute with.
    pub(super) fn conv(self, params: &Params<'_>, stride: usize, padding: Padding) -> Result<Conv> {
        let (outputs, inputs, size, _) = self.weight.dims4()?;
        let weight = self.weight.permute((0, 2, 3, 1))?.contiguous()?.reshape((outputs, size * size * inputs))?;
        let linear = Linear::new(weight.to_dtype(params.dtype())?, Some(self.bias.to_dtype(params.dtype())?));
        Ok(Conv { linear, size, stride, padding })
    }

    /// A 1×1 convolution as a linear map, in the numbers that the towers compute with.
    pub(super) fn linear(self, params: &Params<'_>) -> Result<Linear> {
        Ok(self.conv(params, 1, Padding::NONE)?.linear)
    }

    /// A convolution of each channel by itself, in the numbers that the towers compute with.
    pub(super) fn depthwise(self, params: &Params<'_>, stride: usize, padding: Padding) -> Result<Depthwise> {
        let (outputs, _, size, _) = self.weight.dims4()?;
        let weight = self.weight.reshape((outputs, size * size))?.t()?.contiguous()?;
        let (weight, bias) = (weight.to_dtype(params.dtype())?, self.bias.to_dtype(params.dtype())?);
        Ok(Depthwise { weight, bias, size, stride, padding })
    }
}

/// A convolution over all channels.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    linear: Linear,
    size: usize,
    stride: usize,
    padding: Padding,
}

impl Conv {
    /// Maps (items, height, width, inputs) to (items, rows, columns, outputs).
    pub(super) fn forward(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        Ok(ops::conv(x, &self.linear, window(self.size, self.stride, self.padding, x)?, act)?)
    }

    /// How many channels come out.
    pub(super) fn outputs(&self) -> Result<usize> {
        Ok(self.linear.weight().dim(0)?)
    }
}

/// A convolution of each channel by itself; a channel may have several outputs, which stand side by side.
#[derive(Clone, Debug)]
pub(super) struct Depthwise {
    weight: Tensor,
    bias: Tensor,
    size: usize,
    stride: usize,
    padding: Padding,
}

impl Depthwise {
    /// Maps (items, height, width, channels) to (items, rows, columns, outputs).
    pub(super) fn forward(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        let window = window(self.size, self.stride, self.padding, x)?;
        Ok(ops::depthwise(x, &self.weight, Some(&self.bias), window, act)?)
    }
}

/// Each channel times a factor that two small layers make of the means of all channels (Hu et al. 2018).
#[derive(Clone, Debug)]
pub(super) struct SqueezeExcite {
    reduce: Linear,
    expand: Linear,
    act: Activation,
}

impl SqueezeExcite {
    /// The 1×1 convolutions of these two names; the width between them is read from the weights.
    pub(super) fn load(params: &Params<'_>, names: [&str; 2], channels: usize, act: Activation) -> Result<Self> {
        let width = params.any_shape(&format!("{}.bias", names[0]))?.map_or(1, |bias| bias.elem_count());
        Ok(Self {
            reduce: params.linear(names[0], width, channels, true)?,
            expand: params.linear(names[1], channels, width, true)?,
            act,
        })
    }

    /// Maps (items, height, width, channels) to the same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let squeezed = self.reduce.forward(&ops::mean_pixels(x)?, self.act)?;
        Ok(ops::gate_channels(x, &self.expand.forward(&squeezed, Activation::Sigmoid)?)?)
    }
}

/// A batch norm's running statistics as a scale and a shift, in double precision where the device has it.
pub(super) fn batch_norm(params: &Params<'_>, name: &str, channels: usize, eps: f64) -> Result<(Tensor, Tensor)> {
    let get = |part| wide(&params.require(&format!("{name}.{part}"), &[channels])?);
    let scale = (get("weight")? / (get("running_var")? + eps)?.sqrt()?)?;
    let shift = (get("bias")? - (get("running_mean")? * &scale)?)?;
    Ok((scale, shift))
}

/// The mean of `size` × `size` pixels side by side; what is left over at the right and bottom is dropped.
pub(super) fn average_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    let weight = Tensor::full(1.0 / (size * size) as f32, (size * size, x.dim(3)?), x.device())?.to_dtype(x.dtype())?;
    Ok(ops::depthwise(x, &weight, None, Window::tiles(size), Activation::Identity)?)
}

/// Pixels as checkpoints' towers take them, (items, 3, height, width), in the order of these layers.
pub(super) fn channels_last(pixels: &Tensor) -> Result<Tensor> {
    Ok(pixels.permute((0, 2, 3, 1))?.contiguous()?)
}

/// Numbers in double precision, which Metal does not have.
pub(super) fn wide(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_dtype(if x.device().is_metal() { DType::F32 } else { DType::F64 })?)
}

fn window(size: usize, stride: usize, padding: Padding, x: &Tensor) -> Result<Window> {
    let (_, height, width, _) = x.dims4()?;
    match padding {
        Padding::Zeros { before, after } => Ok(Window { size, stride, before, after }),
        Padding::Same => {
            // One padding serves both sides, so they must need the same.
            let (rows, columns) = (Window::same(size, stride, height), Window::same(size, stride, width));
            match rows == columns {
                true => Ok(rows),
                false => Err(Error::usage(format!("the image tower needs square input, not {height} x {width}"))),
            }
        }
    }
}
