//! ProGrad: learnt words that move only where zero-shot does not object (Zhu et al. 2023).

use super::coop::{CoOp, EMBEDDED_ONCE};
use super::{Batch, Entry, Method, Needs, Options, SGD, Sees, Setting, Tensors, backward, number};
use crate::error::{Error, Result};
use crate::ops::optim::sum_of_squares;
use crate::tune::Task;
use crate::tune::context::Context;
use crate::tune::loss::{cross_entropy, log_softmax};
use candle_core::{Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "prograd",
    trains: "16 vectors in the place of the words around a class name, by gradients that zero-shot does not object to",
    source: "Zhu et al. 2023, arXiv 2205.14865; BeierZhu/Prompt-align: ProGrad.public/trainers/prograd.py, \
             Dassl.ProGrad.pytorch/dassl/engine/trainer.py",
    differs: EMBEDDED_ONCE,
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[Setting {
        name: "lambda",
        default: 1.0,
        range: (0.0, 1.0),
        help: "how much of what zero-shot objects to is taken away",
    }],
    recipe: SGD,
    prepare: None,
    build: |task, options| Ok(Box::new(ProGrad { words: start(task, options)?, lambda: options.get("lambda") })),
};

/// The authors' `N_CTX`.
const VECTORS: usize = 16;

struct ProGrad {
    words: CoOp,
    lambda: f64,
}

impl Method for ProGrad {
    fn params(&self) -> BTreeMap<String, Var> {
        self.words.params()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        self.words.texts(task)
    }

    /// The cross-entropy, and for each parameter its gradient without what would move away from zero-shot's answers.
    fn gradients(&mut self, task: &Task<'_>, batch: &Batch, _: &mut ChaCha8Rng) -> Result<(f64, Tensors)> {
        let features = self.see(task, &batch.images)?;
        let logits = self.logits(task, &self.texts(task)?, &features)?;
        let loss = cross_entropy(&logits, &batch.labels)?;
        // The gradient is that of KL(zero-shot ‖ learnt).
        let answers = log_softmax(&self.logits(task, &task.zero_shot()?, &features)?)?.exp()?.detach();
        let general = ((answers * log_softmax(&logits)?)?.sum_all()? / -(batch.labels.len().max(1) as f64))?;
        let (mut gradients, general) = (backward(&loss, &self.params())?, backward(&general, &self.params())?);
        for (name, gradient) in &mut gradients {
            if let Some(general) = general.get(name) {
                *gradient = without_conflict(gradient, general, self.lambda)?;
            }
        }
        Ok((number(&loss)?, gradients))
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        self.words.words()
    }
}

/// `g` as it is if `g·h ≥ 0`, else `g − λ (g·ĥ) ĥ` with `ĥ = h / ‖h‖`.
fn without_conflict(g: &Tensor, h: &Tensor, lambda: f64) -> Result<Tensor> {
    let dot = number(&(g * h)?.sum_all()?)?;
    let square = sum_of_squares(h)?;
    // Where learnt words say exactly what zero-shot says, h is nothing but rounding.
    if dot >= 0.0 || square <= 1e-16 * sum_of_squares(g)? {
        return Ok(g.clone());
    }
    Ok((g - (h * (lambda * dot / square))?)?)
}

/// The words in front of the name, behind as many zeros as make all vectors [`VECTORS`].
fn start(task: &Task<'_>, options: &Options) -> Result<CoOp> {
    let phrase = options.ctx_init.clone().unwrap_or_else(|| in_front(task));
    if phrase.is_empty() {
        return CoOp::new(task, options, VECTORS, "");
    }
    let vectors = Context::phrase(task, &phrase)?;
    let words = vectors.dim(0)?;
    let count = options.n_ctx.unwrap_or(words.max(VECTORS));
    let Some(zeros) = count.checked_sub(words) else {
        let message = format!("--n-ctx {count} and the phrase `{phrase}`, which has {words} tokens");
        return Err(Error::usage(message).hint("more vectors, or a shorter phrase (--ctx-init)"));
    };
    let mut plain = options.clone();
    (plain.n_ctx, plain.ctx_init) = (Some(count), Some(String::new()));
    let coop = CoOp::new(task, &plain, count, "")?;
    let vectors = vectors.pad_with_zeros(0, zeros, 0)?;
    coop.ctx.set(&vectors.broadcast_as(coop.ctx.shape())?.contiguous()?)?;
    Ok(coop)
}

/// What the first template has in front of the name.
fn in_front(task: &Task<'_>) -> String {
    const NAME: &str = "\u{1}";
    let prompt = task.templates.fill(NAME).ok().and_then(|prompts| prompts.into_iter().next());
    prompt.and_then(|prompt| Some(prompt.split_once(NAME)?.0.trim().to_owned())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_gradient_keeps_what_does_not_conflict() {
        let tensor = |x: &[f64]| Tensor::new(x, &Device::Cpu).unwrap();
        let projected = |g: &[f64], h: &[f64], lambda| {
            without_conflict(&tensor(g), &tensor(h), lambda).unwrap().to_vec1::<f64>().unwrap()
        };
        assert_eq!(projected(&[1.0, 2.0], &[3.0, 0.0], 1.0), [1.0, 2.0]);
        assert_eq!(projected(&[1.0, 2.0], &[-3.0, 0.0], 1.0), [0.0, 2.0]);
        assert_eq!(projected(&[1.0, 2.0], &[-3.0, 0.0], 0.5), [0.5, 2.0]);
        assert_eq!(projected(&[1.0, 2.0], &[0.0, 0.0], 1.0), [1.0, 2.0]);
        assert_eq!(projected(&[1.0, 2.0], &[-1e-9, 0.0], 1.0), [1.0, 2.0]);
    }
}
