//! Cross-entropies with more columns than there are pairs: captions and images that do not fit, and negatives from beyond
//! the batch.

use super::contrast::mean;
use super::cross_entropy::{Axis, Hidden, Targets, cross_entropy};
use super::{Head, Negatives, Pairs};
use crate::error::Result;
use crate::ops::normalize;
use crate::train::negatives::Columns;
use candle_core::Tensor;

/// Half the cross-entropy of images over captions and half that of captions over images, against `targets` (of the pairs).
/// Further columns are `negatives`, which are negatives of all queries (captions for images, images for captions), and
/// [`Pairs::extra`].
pub(super) fn both_ways(
    pairs: &Pairs,
    head: &Head,
    targets: &Targets,
    negatives: [Option<&Negatives>; 2],
) -> Result<Tensor> {
    let (images, texts) = (normalize(&pairs.images)?, normalize(&pairs.texts)?);
    let [of_images, of_texts] = match &pairs.extra {
        Some([of_images, of_texts]) => [Some(of_images), Some(of_texts)],
        None => [None, None],
    };
    let scale = head.scale()?;
    let of_images = one_way(pairs, &images.broadcast_mul(&scale)?, &texts, targets, negatives[0], of_images)?;
    let of_texts = one_way(pairs, &texts.broadcast_mul(&scale)?, &images, targets, negatives[1], of_texts)?;
    Ok((mean(&(of_images + of_texts)?, &pairs.shares()?)? * 0.5)?)
}

/// Cross-entropies (B) of scaled `queries` over `candidates` (B), negatives and extra columns.
fn one_way(
    pairs: &Pairs,
    queries: &Tensor,
    candidates: &Tensor,
    targets: &Targets,
    negatives: Option<&Negatives>,
    extra: Option<&Columns>,
) -> Result<Tensor> {
    let (n, relation) = (pairs.len(), pairs.relation());
    let logits = match negatives {
        Some(negatives) => {
            let all = [candidates, &normalize(&negatives.embeddings)?.flatten(0, 1)?];
            queries.matmul(&Tensor::cat(&all, 0)?.t()?)?
        }
        None => queries.matmul(&candidates.t()?)?,
    };
    let batch = logits.dim(1)?;
    let logits = match extra.map(|extra| extra.products(queries)).transpose()?.flatten() {
        Some(products) => Tensor::cat(&[logits, products], 1)?,
        None => logits,
    };
    let m = logits.dim(1)?;
    if m == n {
        return cross_entropy(&logits, targets, relation.hidden().as_ref(), Axis::Rows);
    }
    let hidden: Hidden = (0..n * m)
        .map(|at| (at / m, at % m))
        .map(|(i, j)| match (negatives, extra) {
            _ if j < n => relation.left_out(i, j),
            (Some(negatives), _) if j < batch => {
                let fits = negatives.fits.get(i * (batch - n) + j - n).copied().unwrap_or(false);
                fits || !negatives.there[j - n]
            }
            (_, Some(extra)) => !extra.there[i * (m - batch) + j - batch],
            _ => false,
        })
        .collect();
    let targets = match targets {
        Targets::Soft(own) => Targets::Soft(own.pad_with_zeros(1, 0, m - n)?),
        other => other.clone(),
    };
    cross_entropy(&logits, &targets, Some(&hidden), Axis::Rows)
}
