//! Hard negatives for each item, by lot: chances proportional to the softmax of the similarities (ALBEF's image–text
//! matching: salesforce/ALBEF, models/model_retrieval.py, commit 69e9225).
//!
//! There 1e-4 is added to the logits, where it changes nothing; here it is added to the softmax of [`weights`], so that an item
//! whose weight all lies on what is excluded still gets a negative.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What every candidate has beside its softmax.
const LEAST: f64 = 1e-4;

/// The weights of candidates: for similarities (B, K), `softmax(similarity / temperature) + 1e-4`, but 0 where the candidate has
/// the item's own id. They do not add up to 1.
///
/// # Errors
/// If there are not as many ids as items or candidates, or the temperature is not above 0.
pub fn weights(similarity: &Tensor, temperature: f64, ids: &[i64], candidates: &[i64]) -> Result<Vec<Vec<f64>>> {
    let (rows, columns) = similarity.dims2()?;
    if rows != ids.len() || columns != candidates.len() {
        let message = format!("{rows} × {columns} similarities, but {} and {} ids", ids.len(), candidates.len());
        return Err(Error::run(message));
    }
    let weights = |(row, id): (Vec<f64>, &i64)| {
        let exps = exps(&row, temperature, |_| true);
        let sum: f64 = exps.iter().sum();
        exps.iter().zip(candidates).map(|(x, other)| if other == id { 0.0 } else { x / sum + LEAST }).collect()
    };
    Ok(rows_of(similarity, temperature)?.into_iter().zip(ids).map(weights).collect())
}

fn rows_of(similarity: &Tensor, temperature: f64) -> Result<Vec<Vec<f64>>> {
    if temperature.is_nan() || temperature <= 0.0 {
        return Err(Error::usage("the temperature must be a number above 0"));
    }
    Ok(similarity.detach().to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?)
}

/// `exp(x / temperature)` over the largest of those that may be, 0 for the others.
fn exps(row: &[f64], temperature: f64, may: impl Fn(usize) -> bool) -> Vec<f64> {
    let seen = row.iter().enumerate().filter(|(at, _)| may(*at));
    let most = seen.fold(f64::NEG_INFINITY, |most, (_, x)| most.max(*x));
    row.iter().enumerate().map(|(at, x)| if may(at) { ((x - most) / temperature).exp() } else { 0.0 }).collect()
}

/// Draws up to `count` different candidates for each item, one after another, with chances proportional to
/// `exp(similarity / temperature)` among those that are left. `allowed` (items × candidates, row by row) says which may be drawn
/// at all; the softmax is over these, so that no 1e-4 is needed.
///
/// # Errors
/// If `allowed` does not fit, the temperature is not above 0, or a similarity is not finite.
pub fn draw(
    similarity: &Tensor,
    temperature: f64,
    allowed: &[bool],
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Vec<u32>>> {
    let (rows, columns) = similarity.dims2()?;
    if rows * columns != allowed.len() {
        return Err(Error::run(format!("{rows} × {columns} similarities, and a mask of {}", allowed.len())));
    }
    let mut drawn = Vec::with_capacity(rows);
    for (row, allowed) in rows_of(similarity, temperature)?.into_iter().zip(allowed.chunks(columns.max(1))) {
        let mut row = exps(&row, temperature, |at| allowed[at]);
        let mut own = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(at) = one(&row, rng)? else { break };
            own.push(at as u32);
            row[at] = 0.0;
        }
        drawn.push(own);
    }
    Ok(drawn)
}

/// Draws for each item a candidate with these chances; none for an item that shares its id with all of them.
///
/// # Errors
/// Those of [`weights`]; if a similarity is not finite.
pub fn choose(
    similarity: &Tensor,
    temperature: f64,
    ids: &[i64],
    candidates: &[i64],
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Option<usize>>> {
    weights(similarity, temperature, ids, candidates)?.iter().map(|weights| one(weights, rng)).collect()
}

/// One of these, with chances proportional to its weight; none if all are 0.
fn one(weights: &[f64], rng: &mut ChaCha8Rng) -> Result<Option<usize>> {
    let total: f64 = weights.iter().sum();
    if !total.is_finite() {
        return Err(Error::run("similarities that are not finite").hint("the embeddings hold NaN or infinity"));
    }
    let mut left = rng.random::<f64>() * total;
    let found = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    // The sum may round to a little more than its parts.
    Ok(found.or_else(|| weights.iter().rposition(|weight| *weight > 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn chances_are_the_weights() {
        let similarity = Tensor::new(&[[0.9f32, 0.2, 0.1, 0.15], [0.0, 0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let (ids, candidates) = ([3, 4], [3, 5, 6, 7]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let weights = weights(&similarity, 0.1, &ids, &candidates).unwrap();
        assert_eq!(weights[0][0], 0.0);
        let mut counts = [[0.0; 4]; 2];
        let draws = 20_000;
        for _ in 0..draws {
            for (counts, drawn) in counts.iter_mut().zip(choose(&similarity, 0.1, &ids, &candidates, &mut rng).unwrap())
            {
                counts[drawn.unwrap()] += 1.0;
            }
        }
        // Pearson's statistic; at most 3 degrees of freedom, where 16.3 is passed once in a thousand.
        for (counts, weights) in counts.iter().zip(&weights) {
            let total: f64 = weights.iter().sum();
            let term = |(count, weight): (&f64, &f64)| {
                let want = f64::from(draws) * weight / total;
                if want == 0.0 { *count } else { (count - want).powi(2) / want }
            };
            let statistic: f64 = counts.iter().zip(weights).map(term).sum();
            assert!(statistic < 16.3, "{statistic}: {counts:?} for {weights:?}");
        }
    }

    #[test]
    fn there_is_a_negative_wherever_one_may_be() {
        // All of the softmax lies on the item itself.
        let similarity = Tensor::new(&[[1.0f32, -1.0, -1.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let rng = &mut ChaCha8Rng::seed_from_u64(0);
        for _ in 0..100 {
            let drawn = choose(&similarity, 1e-3, &[1, 2], &[1, 3, 1], rng).unwrap();
            assert_eq!(drawn[0], Some(1));
        }
        assert_eq!(choose(&similarity, 0.1, &[1, 2], &[2, 2, 2], rng).unwrap()[1], None);
        assert!(choose(&similarity, 0.1, &[1], &[2, 2, 2], rng).is_err());
        assert!(choose(&similarity, 0.0, &[1, 2], &[2, 2, 2], rng).is_err());
        let broken = Tensor::new(&[[f32::NAN, 0.0]], &Device::Cpu).unwrap();
        assert!(choose(&broken, 0.1, &[1], &[2, 3], rng).is_err());
    }
}
