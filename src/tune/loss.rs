//! What few-shot methods make small.

use crate::error::Result;
use candle_core::{D, Tensor};

/// `log softmax` of each row of logits (items, classes).
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    // The largest is a constant: its gradient would cancel.
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

/// The mean over items of `-log softmax(logits)[label]`, a scalar; logits (items, classes).
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (items, classes) = logits.dims2()?;
    let mut hot = vec![0f32; items * classes];
    labels.iter().enumerate().for_each(|(item, &label)| hot[item * classes + label as usize] = 1.0);
    let hot = Tensor::from_vec(hot, (items, classes), logits.device())?.to_dtype(logits.dtype())?;
    Ok(((log_softmax(logits)? * hot)?.sum_all()? / -(items as f64))?)
}

/// `KL(softmax(teacher) ‖ softmax(student))`, summed over all items and classes, a scalar; no gradient flows to the teacher.
pub fn kl(teacher: &Tensor, student: &Tensor) -> Result<Tensor> {
    let teacher = log_softmax(&teacher.detach())?;
    Ok((teacher.exp()? * (&teacher - log_softmax(student)?)?)?.sum_all()?)
}
