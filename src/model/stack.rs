//! Blocks one after another: the part that all transformers share, and where others can look in.

use super::block::Block;
use super::spec::BlocksSpec;
use crate::error::Result;
use crate::ops::gradients::checkpoint;
use crate::ops::{Mask, Rotation};
use crate::weights::Params;
use candle_core::{Tensor, Var};

/// A stack of transformer blocks.
#[derive(Clone, Debug)]
pub struct Stack {
    blocks: Vec<Block>,
    /// Whether a block's activations are computed again in the backward pass instead of being kept.
    checkpointing: bool,
}

/// What is called between blocks: with `n` and the tokens (items, tokens, width) that block `n` has left (0: those that
/// enter the first block). What it returns goes on: learnt prompts replace tokens here, probes copy them.
pub type Between<'a> = dyn FnMut(usize, Tensor) -> Result<Tensor> + 'a;

impl Stack {
    /// Takes the parameters of all blocks, named `0`, `1`, ….
    pub fn load(params: &Params<'_>, spec: &BlocksSpec) -> Result<Self> {
        let blocks = (0..spec.layers).map(|i| Block::load(&params.sub(i), spec)).collect::<Result<_>>()?;
        Ok(Self { blocks, checkpointing: params.checkpointing() })
    }

    /// How many blocks there are.
    pub fn layers(&self) -> usize {
        self.blocks.len()
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
        for (i, block) in self.blocks.iter().enumerate().take(layers) {
            let y = match self.checkpointing && (x.track_op() || block.is_trained()) {
                true => checkpointed(block, &x, mask, rotation)?,
                false => block.forward(&x, mask, rotation)?,
            };
            x = between(i + 1, y)?;
        }
        Ok(x)
    }
}

/// Tokens (items, tokens, width) with learnt ones (n, width), the same for each item, in the place of those from `at` on.
pub(super) fn replaced(x: &Tensor, at: usize, prompt: &Tensor) -> Result<Tensor> {
    let (items, len, _) = x.dims3()?;
    let end = at + prompt.dim(0)?;
    let parts = [x.narrow(1, 0, at)?, spread(prompt, items)?, x.narrow(1, end, len - end)?];
    let parts: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
    Ok(Tensor::cat(&parts, 1)?)
}

/// Learnt tokens (n, width) once for each item, (items, n, width).
pub(super) fn spread(prompt: &Tensor, items: usize) -> Result<Tensor> {
    let (count, width) = prompt.dims2()?;
    Ok(prompt.unsqueeze(0)?.broadcast_as((items, count, width))?.contiguous()?)
}

/// A block's output that keeps nothing but its input for the backward pass (Chen et al. 2016).
fn checkpointed(block: &Block, x: &Tensor, mask: &Mask, rotation: Option<&Rotation>) -> Result<Tensor> {
    // An input without a gradient of its own must still be part of the tape, for the sake of the block's parameters.
    let x = if x.track_op() { x.clone() } else { Var::from_tensor(x)?.into_inner() };
    let (block, mask, rotation) = (block.clone(), mask.clone(), rotation.cloned());
    let run = move |x: &Tensor| block.forward(x, &mask, rotation.as_ref()).map_err(candle_core::Error::wrap);
    Ok(checkpoint(&x, run)?)
}
