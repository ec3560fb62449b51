//! The two passes: everything embedded as constants, and each micro-batch again with its gradients.

use super::Stepper;
use crate::error::Result;
use crate::ops::{self, Dropout};
use crate::train::towers::{Output, Stream, Tower};
use crate::weights::View;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// One side of the batch between the passes.
pub(super) struct Side {
    /// Embeddings of the items of all processes, on which the objective leaves a gradient.
    pub(super) embeddings: Var,
    /// The same of tokens.
    pub(super) tokens: Option<Var>,
    /// Which rows are this process's.
    rows: Range<usize>,
    /// This process's output with its graph, if one micro-batch was enough.
    kept: Option<Output>,
    /// Whether pass 2 is needed.
    pub(super) trained: bool,
}

impl Stepper<'_> {
    /// Embeds a stream, and gathers what other processes embedded.
    pub(super) fn first_pass(&self, stream: &Stream<'_>, tokens: bool, seed: u64) -> Result<Side> {
        let trained = self.parts.trains(stream);
        let whole = stream.len() <= self.micro_batch;
        let tower = match (trained, whole) {
            (true, true) => Tower::build(self.clip, stream, View::Tracked)?,
            _ => Tower::build(self.clip, stream, View::Constant)?,
        };
        let (output, kept) = if trained && whole {
            self.drop(Some(seed), 0);
            let output = tower.forward(self.clip, stream, 0..stream.len(), tokens)?;
            (output.detached(), Some(output))
        } else {
            (self.embed(&tower, stream, tokens, seed)?, None)
        };
        self.drop(None, 0);
        let (embeddings, rows) = self.gather(&output.embeddings)?;
        let tokens = output.tokens.map(|tokens| self.gather(&tokens)).transpose()?;
        Ok(Side {
            embeddings: Var::from_tensor(&embeddings)?,
            tokens: tokens.map(|(tokens, _)| Var::from_tensor(&tokens)).transpose()?,
            rows,
            kept,
            trained,
        })
    }

    /// Embeds a stream, micro-batch by micro-batch, as constants.
    fn embed(&self, tower: &Tower, stream: &Stream<'_>, tokens: bool, seed: u64) -> Result<Output> {
        let (mut embeddings, mut token_rows) = (Vec::new(), Vec::new());
        for range in chunks(stream.len(), self.micro_batch) {
            self.drop(Some(seed), range.start);
            let output = tower.forward(self.clip, stream, range, tokens)?.detached();
            embeddings.push(output.embeddings);
            token_rows.extend(output.tokens);
        }
        let tokens = if token_rows.is_empty() { None } else { Some(Tensor::cat(&token_rows, 0)?) };
        Ok(Output { embeddings: Tensor::cat(&embeddings, 0)?, tokens })
    }

    /// Takes the gradients that the objective left on one side back through its tower.
    pub(super) fn second_pass(
        &self,
        side: &mut Side,
        stream: &Stream<'_>,
        seed: u64,
        left: &GradStore,
        sums: &mut ops::Gradients,
    ) -> Result<()> {
        let own = |var: &Var| -> Result<Option<Tensor>> {
            let gradient = left.get(var).map(|gradient| gradient.narrow(0, side.rows.start, side.rows.len()));
            Ok(gradient.transpose()?.map(|gradient| gradient.detach()))
        };
        let on_embeddings = own(&side.embeddings)?;
        let on_tokens = side.tokens.as_ref().map(own).transpose()?.flatten();
        let mut back = |output: &Output, range: Range<usize>| -> Result<()> {
            let part = |x: &Tensor, gradient: &Option<Tensor>| -> Result<Option<Tensor>> {
                let Some(gradient) = gradient else { return Ok(None) };
                Ok(Some((x * gradient.narrow(0, range.start, range.len())?)?.sum_all()?))
            };
            let first = part(&output.embeddings, &on_embeddings)?;
            let second = output.tokens.as_ref().map(|x| part(x, &on_tokens)).transpose()?.flatten();
            let surrogate = match (first, second) {
                (Some(first), Some(second)) => (first + second)?,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => return Ok(()),
            };
            Ok(sums.backward(&surrogate)?)
        };
        if let Some(kept) = side.kept.take() {
            return back(&kept, 0..stream.len());
        }
        let tower = Tower::build(self.clip, stream, View::Tracked)?;
        for range in chunks(stream.len(), self.micro_batch) {
            self.drop(Some(seed), range.start);
            let output = tower.forward(self.clip, stream, range.clone(), side.tokens.is_some())?;
            back(&output, range)?;
        }
        self.drop(None, 0);
        Ok(())
    }

    /// Sets what dropout follows from: both passes see the same masks. Without a seed nothing is dropped.
    fn drop(&self, seed: Option<u64>, first: usize) {
        if let Some(dropout) = self.clip.store().trained().and_then(|trained| trained.dropout.as_ref()) {
            let rank = (self.group.rank() as u64) << 32;
            let seed = seed.map_or(Dropout::OFF, |seed| (seed ^ rank ^ first as u64) & (u64::MAX >> 1));
            dropout.seed.store(seed, Ordering::Relaxed);
        }
    }
}

impl Output {
    fn detached(&self) -> Self {
        Self { embeddings: self.embeddings.detach(), tokens: self.tokens.as_ref().map(Tensor::detach) }
    }
}

pub(super) fn chunks(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size.max(1)).map(move |start| start..(start + size.max(1)).min(len))
}
