//! Terms whose gradients are worked out at once: what they are made of is gone before the next one begins.

use super::contrast::with_gradients;
use crate::error::Result;
use candle_core::{Tensor, Var};
use std::ops::Range;

/// How many numbers a block has, about.
const BLOCK: usize = 1 << 18;

/// What `f` makes of these inputs, a scalar. Its matrices are in memory only while this runs, and not until the gradient of
/// the whole objective is asked for. What `f` uses beside its inputs must be constants.
pub(super) fn apart<const N: usize>(inputs: [&Tensor; N], f: impl Fn([Tensor; N]) -> Result<Tensor>) -> Result<Tensor> {
    over(inputs, std::iter::once(0..0), |inputs, _| f(inputs))
}

/// The sum of what `f` makes of these inputs for each block of the rows of a matrix (`rows`, `columns`).
pub(super) fn in_blocks<const N: usize>(
    inputs: [&Tensor; N],
    (rows, columns): (usize, usize),
    f: impl Fn([Tensor; N], Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    let size = (BLOCK / columns.max(1)).max(1);
    over(inputs, (0..rows).step_by(size).map(|start| start..(start + size).min(rows)), f)
}

fn over<const N: usize>(
    inputs: [&Tensor; N],
    blocks: impl Iterator<Item = Range<usize>>,
    f: impl Fn([Tensor; N], Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    // Constants stay constants.
    let leaf = |x: &Tensor| -> Result<Tensor> {
        Ok(if x.track_op() { Var::from_tensor(&x.detach())?.into_inner() } else { x.clone() })
    };
    let leaves = inputs.into_iter().map(leaf).collect::<Result<Vec<_>>>()?;
    let add = |sum: &mut Option<Tensor>, x: Tensor| -> Result<()> {
        *sum = Some(match sum.take() {
            Some(sum) => (sum + x)?,
            None => x,
        });
        Ok(())
    };
    let mut value = None;
    let mut gradients: [Option<Tensor>; N] = std::array::from_fn(|_| None);
    for block in blocks {
        let part = f(std::array::from_fn(|i| leaves[i].clone()), block)?;
        let store = part.backward()?;
        add(&mut value, part.detach())?;
        for (sum, leaf) in gradients.iter_mut().zip(&leaves) {
            if let Some(gradient) = store.get(leaf) {
                add(sum, gradient.detach())?;
            }
        }
    }
    let value = match value {
        Some(value) => value,
        None => Tensor::zeros((), leaves[0].dtype(), leaves[0].device())?,
    };
    let found: Vec<_> = inputs.into_iter().zip(gradients).filter_map(|(x, sum)| Some((x, sum?))).collect();
    with_gradients(value, &found)
}
