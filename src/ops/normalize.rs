//! Unit length over the last dimension.

use candle_core::{D, Result, Tensor};

/// `x / max(|x|, 1e-12)` over the last dimension, as `torch.nn.functional.normalize` defines it.
///
/// The sum under the root is kept away from zero, where the root has no derivative.
pub fn normalize(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
    x.broadcast_div(&squares.maximum(1e-24)?.sqrt()?)
}

/// Brings one embedding to unit length, in place.
pub fn normalize_row(x: &mut [f32]) {
    // In f64 and in order: the same on every machine.
    let length = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
    x.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
}
