//! What may go wrong with a step, and what it is called then.

use super::{Run, Watch};
use crate::error::{Error, Result};
use crate::ops::optim::sum_of_squares;
use crate::train::step::Gradients;

impl Run<'_> {
    /// After the first step: a parameter without a gradient would stay as it is, without a word.
    pub(super) fn all_have_gradients(&self, gradients: &Gradients, watch: &dyn Watch) -> Result<()> {
        let missing: Vec<&str> =
            self.optimizer.params().map(|(name, _)| name).filter(|name| !gradients.contains_key(*name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if missing.iter().all(|name| self.parts.is_head(name)) {
            watch.warn(&format!("the objective `{}` does not train {}", self.config.loss, missing.join(", ")));
            return Ok(());
        }
        let count = missing.len();
        let first = missing.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Err(Error::run(format!("{count} parameters that should be trained get no gradient: {first}"))
            .hint("lock them, or train something else (--train, --lock-image, --lock-text)"))
    }

    /// Which parameter a loss that is no number points to: the first that is not finite, else the largest. (Then every
    /// gradient is no number either, and says nothing.)
    pub(super) fn suspect(&self) -> Result<String> {
        let (mut largest, mut most) = ("", -1.0);
        for (name, var) in &self.parts.params {
            let size = sum_of_squares(&var.as_detached_tensor())? / var.elem_count().max(1) as f64;
            if !size.is_finite() {
                return Ok(format!("the parameter `{name}` is not finite"));
            }
            if size > most {
                (largest, most) = (name, size);
            }
        }
        Ok(format!("the largest parameter is `{largest}`"))
    }

    pub(super) fn diverged(&self, what: String, step: usize, index: &[u32]) -> Error {
        let items = index.iter().take(3).map(|&row| self.corpus.rows[row as usize].at.to_string());
        let items = items.collect::<Vec<_>>().join(", ");
        Error::run(format!("training diverged at step {}: {what} (batch of {items}, …)", step + 1))
            .hint("a lower --lr, a longer --warmup or --grad-clip-norm 1; the last checkpoint is untouched")
    }
}

/// The norm of all gradients together, summed in the order of names.
pub(crate) fn norm(gradients: &Gradients, broken: impl Fn(&str) -> Error) -> Result<f64> {
    let mut sum = 0.0;
    for (name, gradient) in gradients {
        let square = sum_of_squares(gradient)?;
        if !square.is_finite() {
            return Err(broken(name));
        }
        sum += square;
    }
    Ok(sum.sqrt())
}
