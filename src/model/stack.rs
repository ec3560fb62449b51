//! Blocks one after another: the part that all transformers share, and where others can look in.

use super::block::Block;
use super::spec::BlocksSpec;
use crate::error::Result;
use crate::ops::{Mask, Rotation};
use crate::weights::Params;
use candle_core::Tensor;

/// A stack of transformer blocks.
#[derive(Clone, Debug)]
pub struct Stack(Vec<Block>);

/// What is called between blocks: with `n` and the tokens (items, tokens, width) that block `n` has left (0: those that
/// enter the first block). What it returns goes on: learnt prompts replace tokens here, probes copy them.
pub type Between<'a> = dyn FnMut(usize, Tensor) -> Result<Tensor> + 'a;

impl Stack {
    /// Takes the parameters of all blocks, named `0`, `1`, ….
    pub fn load(params: &Params<'_>, spec: &BlocksSpec) -> Result<Self> {
        (0..spec.layers).map(|i| Block::load(&params.sub(i), spec)).collect::<Result<_>>().map(Self)
    }

    /// How many blocks there are.
    pub fn layers(&self) -> usize {
        self.0.len()
    }

    /// Maps tokens (items, tokens, width) through all blocks.
    pub fn forward(&self, x: &Tensor, mask: &Mask, rotation: Option<&Rotation>) -> Result<Tensor> {
        self.forward_to(self.layers(), x, mask, rotation, &mut |_, x| Ok(x))
    }

    /// Maps tokens (items, tokens, width) through the first `layers` blocks, with a look between them.
    pub fn forward_to(
        &self,
        layers: usize,
        x: &Tensor,
        mask: &Mask,
        rotation: Option<&Rotation>,
        between: &mut Between<'_>,
    ) -> Result<Tensor> {
        let mut x = between(0, x.clone())?;
        for (i, block) in self.0.iter().enumerate().take(layers) {
            x = between(i + 1, block.forward(&x, mask, rotation)?)?;
        }
        Ok(x)
    }
}
