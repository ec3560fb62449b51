//! The three convolutions that embed patches in MobileCLIP-B's vision transformer (timm's `vit_base_mci_224`).

use super::conv::{Conv, Kernel, channels_last};
use super::spec::Padding;
use crate::error::Result;
use crate::ops::Activation;
use crate::weights::Params;
use candle_core::Tensor;

/// Convolutions side by side: 4×4, 2×2 and 2×2, so that a patch has 16×16 pixels.
#[derive(Clone, Debug)]
pub(super) struct ConvStem([Conv; 3]);

/// Added to the variance in batch norms: PyTorch's default.
const EPS: f64 = 1e-5;

impl ConvStem {
    /// Takes the parameters; tokens have `width` numbers, the width in between is read from the weights.
    pub(super) fn load(params: &Params<'_>, width: usize) -> Result<Self> {
        let first = Kernel::load_any(params, "0.conv", Some(3), 4)?.norm(params, "0.bn", EPS)?;
        let second = Kernel::load_any(params, "1.conv", Some(first.outputs()), 2)?.norm(params, "1.bn", EPS)?;
        let last = Kernel::load(params, "2.conv", [width, second.outputs(), 2])?;
        Ok(Self([
            first.conv(params, 4, Padding::NONE)?,
            second.conv(params, 2, Padding::NONE)?,
            last.conv(params, 2, Padding::NONE)?,
        ]))
    }

    /// Maps pixels (items, 3, height, width) to patches (items, patches, width), row by row.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let [first, second, last] = &self.0;
        let x = first.forward(&channels_last(pixels)?, Activation::GeluErf)?;
        let x = second.forward(&x, Activation::GeluErf)?;
        Ok(last.forward(&x, Activation::Identity)?.flatten(1, 2)?)
    }
}
