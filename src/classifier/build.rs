//! Prompts become rows of weights.

use crate::error::{Error, Result};
use crate::model::Clip;
use crate::ops::normalize::normalize_row;
use crate::text::TemplateSet;

/// What stands for "nothing in particular" where labels are scored each for itself by a model trained with softmax.
pub const NULL_PROMPTS: [&str; 4] = ["a photo.", "a picture.", "an image.", "a photo of something."];

/// How many prompts are embedded at once: enough to fill the cores, few enough to hear Ctrl-C soon.
const BATCH: usize = 64;

/// The prompts of each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts(Vec<Vec<String>>);

impl Prompts {
    /// A row for each label, and one of [`NULL_PROMPTS`] behind them if wanted.
    pub fn new(labels: &[String], templates: &TemplateSet, null: bool) -> Result<Self> {
        let mut rows = labels.iter().map(|label| templates.fill(label)).collect::<Result<Vec<_>>>()?;
        if null {
            rows.push(NULL_PROMPTS.map(str::to_owned).to_vec());
        }
        Ok(Self(rows))
    }

    /// The prompts, row by row.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.0
    }

    /// How many prompts there are in all rows.
    pub fn count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Embeds the prompts: each is brought to unit length, those of a row are averaged, and the mean is brought to unit
    /// length again (open_clip's `build_zero_shot_classifier`).
    ///
    /// Returns how many prompts were too long for the text tower, too. `tick` hears after every batch how many prompts
    /// are done, and may stop the work.
    pub fn embed(&self, clip: &Clip, mut tick: impl FnMut(usize) -> Result<()>) -> Result<(Weights, usize)> {
        let dim = clip.spec.embed_dim;
        let flat: Vec<(usize, &str)> =
            (0..).zip(&self.0).flat_map(|(i, row)| row.iter().map(move |p| (i, &**p))).collect();
        let mut sums = vec![0f64; self.0.len() * dim];
        let (mut done, mut truncated) = (0, 0);
        for batch in flat.chunks(BATCH) {
            let texts: Vec<&str> = batch.iter().map(|(_, text)| *text).collect();
            let (mut rows, cut) = clip.embed_texts(&texts)?;
            truncated += cut;
            for (&(class, _), row) in batch.iter().zip(rows.chunks_exact_mut(dim)) {
                normalize_row(row);
                let sum = &mut sums[class * dim..][..dim];
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            done += batch.len();
            tick(done)?;
        }
        // The mean and the sum have the same direction.
        let mut rows = Vec::with_capacity(sums.len());
        for sum in sums.chunks_exact(dim) {
            let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
            rows.extend(sum.iter().map(|x| (x / length) as f32));
        }
        Ok((Weights::new(rows, dim)?, truncated))
    }
}

/// Rows of unit length.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    rows: Vec<f32>,
    dim: usize,
}

impl Weights {
    /// Rows of this length, one behind the other; all numbers must be finite.
    pub fn new(rows: Vec<f32>, dim: usize) -> Result<Self> {
        if dim == 0 || !rows.len().is_multiple_of(dim) {
            return Err(Error::run(format!("{} numbers do not make rows of {dim}", rows.len())));
        }
        if let Some(at) = rows.iter().position(|x| !x.is_finite()) {
            return Err(Error::run(format!("the text tower made a number that is not finite for row {}", at / dim)));
        }
        Ok(Self { rows, dim })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// How long a row is.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The rows.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.chunks_exact(self.dim)
    }

    /// All numbers, row by row.
    pub fn as_slice(&self) -> &[f32] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_label_and_one_for_nothing() {
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let set = TemplateSet::single("a {}").unwrap();
        let prompts = Prompts::new(&labels, &set, true).unwrap();
        assert_eq!(prompts.rows()[..2], [["a cat"], ["a dog"]]);
        assert_eq!((prompts.rows().len(), prompts.count()), (3, 2 + NULL_PROMPTS.len()));
    }

    #[test]
    fn weights_are_whole_rows_of_finite_numbers() {
        assert!(Weights::new(vec![1.0; 5], 2).is_err());
        assert!(Weights::new(vec![], 0).is_err());
        assert!(Weights::new(vec![1.0, f32::NAN], 2).unwrap_err().to_string().contains("row 0"));
        let weights = Weights::new(vec![1.0; 6], 2).unwrap();
        assert_eq!((weights.rows(), weights.dim(), weights.iter().count()), (3, 2, 3));
    }
}
