//! Blocks one after another: the part that all transformers share, and where others can look in.

use super::block::Block;
use super::spec::BlocksSpec;
use crate::error::{Error, Result};
use crate::ops::gradients::checkpoint;
use crate::ops::{Mask, Places, Rotation, at_places};
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
            x = between(i + 1, self.run(block, &x, mask, rotation, None)?)?;
        }
        Ok(x)
    }

    /// What all blocks leave of one token of each item, (items, width), with a look between them but not behind the
    /// last, which works for these tokens alone: the same numbers as [`Stack::forward_to`] has there.
    pub fn forward_at(
        &self,
        x: &Tensor,
        mask: &Mask,
        rotation: Option<&Rotation>,
        places: &Places,
        between: &mut Between<'_>,
    ) -> Result<Tensor> {
        let Some((last, others)) = self.blocks.split_last() else {
            return Ok(at_places(&between(0, x.clone())?, places)?);
        };
        let x = self.forward_to(others.len(), x, mask, rotation, between)?;
        self.run(last, &x, mask, rotation, Some(places))
    }

    fn run(
        &self,
        block: &Block,
        x: &Tensor,
        mask: &Mask,
        rotation: Option<&Rotation>,
        places: Option<&Places>,
    ) -> Result<Tensor> {
        let run =
            |block: &Block, x: &Tensor, mask: &Mask, rotation: Option<&Rotation>, places: Option<&Places>| match places
            {
                Some(places) => block.forward_at(x, mask, rotation, places),
                None => block.forward(x, mask, rotation),
            };
        if !self.checkpointing || !(x.track_op() || block.is_trained()) {
            return run(block, x, mask, rotation, places);
        }
        // The output keeps nothing but the block's input for the backward pass (Chen et al. 2016). An input without a
        // gradient of its own must still be part of the tape, for the sake of the block's parameters.
        let x = if x.track_op() { x.clone() } else { Var::from_tensor(x)?.into_inner() };
        let (block, mask, rotation, places) = (block.clone(), mask.clone(), rotation.cloned(), places.cloned());
        let run = move |x: &Tensor| {
            run(&block, x, &mask, rotation.as_ref(), places.as_ref()).map_err(candle_core::Error::wrap)
        };
        Ok(checkpoint(&x, run)?)
    }
}

/// Refuses learnt tokens in front of more blocks than the tower has.
///
/// # Errors
/// Usage, with the number of blocks.
pub(super) fn fits(tower: &str, depth: usize, blocks: usize) -> Result<()> {
    if depth <= blocks {
        return Ok(());
    }
    let message =
        format!("the {tower} tower has {blocks} blocks: there is no place for learnt tokens in front of {depth}");
    Err(Error::usage(message))
}

/// Tokens (items, tokens, width) with learnt ones (n, width), the same for each item, in the place of those from `at` on.
pub(super) fn replaced(x: &Tensor, at: usize, prompt: &Tensor) -> Result<Tensor> {
    let (items, len, _) = x.dims3()?;
    let end = at + prompt.dim(0)?;
    if end > len {
        return Err(Error::usage(format!("there is no place for learnt tokens from {at} to {end} among {len}")));
    }
    let parts = [x.narrow(1, 0, at)?, spread(prompt, items)?, x.narrow(1, end, len - end)?];
    let parts: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
    Ok(Tensor::cat(&parts, 1)?)
}

/// Learnt tokens (n, width) once for each item, (items, n, width).
pub(super) fn spread(prompt: &Tensor, items: usize) -> Result<Tensor> {
    let (count, width) = prompt.dims2()?;
    Ok(prompt.unsqueeze(0)?.broadcast_as((items, count, width))?.contiguous()?)
}
