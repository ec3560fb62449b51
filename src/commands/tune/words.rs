//! Which words learnt vectors are near to.

use crate::error::Result;
use crate::tune::{Method, Task};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

/// For each learnt vector words with their cosines, the nearest first.
pub(super) type Words = Vec<(String, Vec<(String, f64)>)>;

/// How many words are named for each vector.
const NAMED: usize = 5;

/// How many rows of the vocabulary are looked at at once.
const ROWS: usize = 4096;

/// For each learnt vector the tokens whose embeddings have the largest cosine with it, the nearest first.
pub(super) fn nearest(task: &Task<'_>, method: &dyn Method) -> Result<Words> {
    let tokenizer = task.clip.tokenizer()?;
    let (tower, vocabulary) = (task.text()?, task.clip.spec.text.vocab());
    let mut found = Vec::new();
    for (name, vectors) in method.words()? {
        let vectors = vectors.to_dtype(DType::F32)?;
        let width = vectors.dim(vectors.rank() - 1)?;
        // Of vectors of each class the first class's.
        let vectors = if vectors.rank() == 3 { vectors.get(0)? } else { vectors };
        let vectors = unit(&vectors)?;
        let mut best: Vec<BTreeMap<(i64, u32), f64>> = vec![BTreeMap::new(); vectors.dim(0)?];
        for first in (0..vocabulary).step_by(ROWS) {
            let ids: Vec<u32> = (first as u32..(first + ROWS).min(vocabulary) as u32).collect();
            let table = tower.embed(&ids, ids.len())?.reshape((ids.len(), width))?.to_dtype(DType::F32)?;
            let cosines = vectors.matmul(&unit(&table)?.t()?)?.to_vec2::<f32>()?;
            for (best, cosines) in best.iter_mut().zip(cosines) {
                for (&id, cosine) in ids.iter().zip(cosines) {
                    best.insert(((-f64::from(cosine) * 1e9) as i64, id), f64::from(cosine));
                    if best.len() > NAMED {
                        best.pop_last();
                    }
                }
            }
        }
        for (place, best) in (1..).zip(best) {
            let words = best.into_iter().map(|((_, id), cosine)| {
                let word = tokenizer.0.token(id).unwrap_or_default();
                (word.trim_end_matches("</w>").to_owned(), cosine)
            });
            found.push((format!("{name} {place}"), words.collect()));
        }
    }
    Ok(found)
}

fn unit(rows: &Tensor) -> Result<Tensor> {
    Ok(crate::ops::normalize(rows)?)
}
