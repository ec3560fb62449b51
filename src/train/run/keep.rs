//! What is kept of a run: the best model, and checkpoints to go on from.

use super::{Run, Watch};
use crate::error::{Error, Result};
use crate::train::compose::Composition;
use crate::train::objective::Objective;
use crate::train::run_dir::{Best, Checkpoint, RunDir, State};
use crate::train::save::save_model;
use crate::train::step::objective_param;
use crate::weights::View;
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

/// The name of a [`Composition`] in a checkpoint.
const COMPOSITION: &str = "composition";

impl Run<'_> {
    /// Looks at the model, and keeps it if it is the best.
    pub(super) fn look(&self, directory: &RunDir, state: &mut State, watch: &dyn Watch) -> Result<()> {
        let view = self.view();
        let mut best = true;
        if let Some(validation) = &self.validation {
            let found = validation.measure(self.clip, view, &|| Ok(()))?;
            let (disagreement, lost) = (found.disagreement(), found.lost());
            let beyond = disagreement > self.limits[0] || lost > self.limits[1];
            let now = Best { step: state.step, score: found.score(), disagreement, lost, beyond };
            best = state.best.as_ref().is_none_or(|old| is_better(&now, old));
            if lost > self.limits[1] {
                watch.warn(&format!(
                    "ZERO-SHOT IS BEING LOST: after step {} the accuracy on --retention-data is {:.1} points lower (the \
                     limit is {:.1})",
                    state.step,
                    100.0 * lost,
                    100.0 * self.limits[1]
                ));
            }
            if now.disagreement > self.limits[0] {
                let share = 100.0 * now.disagreement;
                watch.warn(&format!(
                    "ZERO-SHOT IS BEING LOST: after step {} {share:.1} % of the images have another class among 1,000 than \
                     before training (the limit is {:.1} %). A lower --lr, fewer --epochs, --lock-image or \
                     `merge --alpha` with the start keeps more",
                    state.step,
                    100.0 * self.limits[0]
                ));
            }
            if best {
                state.best = Some(now);
            }
            watch.validated(state.step, &found, best)?;
        }
        if best && self.group.rank() == 0 {
            save_model(self.clip, view, directory.path())?;
        }
        self.group.barrier()
    }

    /// What is validated and kept: the moving average, if there is one that was asked for.
    fn view(&self) -> View<'_> {
        match (&self.ema, self.config.ema_decay) {
            (Some(ema), Some(_)) => View::Instead(&ema.averages),
            _ => View::Constant,
        }
    }

    pub(super) fn save(&self, directory: &RunDir, state: &State) -> Result<()> {
        if self.group.rank() > 0 {
            return self.group.barrier();
        }
        let detached = |params: BTreeMap<String, Var>| -> BTreeMap<String, Tensor> {
            params.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect()
        };
        let own = self.objective.params().into_iter().map(|(name, var)| (objective_param(&name), var));
        let kept = self.objective.state()?.into_iter().map(|(name, x)| (format!("state.{name}"), x));
        let composed = self.composition.as_ref().map(|composition| composition.tensor()).transpose()?;
        let composed = composed.map(|tensor| (COMPOSITION.to_owned(), tensor));
        let checkpoint = Checkpoint {
            weights: detached(self.parts.params.clone()),
            optimizer: self.optimizer.state(),
            ema: self.ema.as_ref().map(|ema| ema.averages.clone()).unwrap_or_default(),
            objective: detached(own.collect()).into_iter().chain(kept).chain(composed).collect(),
        };
        let (every, all) = (self.epoch_steps(), self.keep_all);
        directory.save(&checkpoint, state, |step| all && step.is_multiple_of(every))?;
        self.group.barrier()
    }

    pub(super) fn restore(&mut self, checkpoint: &Checkpoint, step: usize) -> Result<()> {
        let set = |name: &str, var: &Var, from: &BTreeMap<String, Tensor>| -> Result<()> {
            let saved = from.get(name).filter(|saved| saved.dims() == var.dims());
            let saved = saved.ok_or_else(|| {
                Error::run(format!("the checkpoint has no `{name}` of shape {:?}", var.dims()))
                    .hint("is the run's model still the same?")
            })?;
            Ok(var.set(&saved.to_dtype(var.dtype())?.to_device(var.device())?)?)
        };
        for (name, var) in &self.parts.params {
            set(name, var, &checkpoint.weights)?;
        }
        for (name, var) in self.objective.params() {
            set(&objective_param(&name), &var, &checkpoint.objective)?;
        }
        let kept = checkpoint.objective.iter();
        let kept = kept.filter_map(|(name, x)| Some((name.strip_prefix("state.")?.to_owned(), x.clone())));
        self.objective.restore(&kept.collect())?;
        if let (Some(mining), Some(tensor)) = (&self.config.mining, checkpoint.objective.get(COMPOSITION)) {
            self.composition = Some(Composition::of(tensor, mining, self.corpus.rows.len())?);
        }
        self.optimizer.restore(&checkpoint.optimizer, step)?;
        if let Some(ema) = &mut self.ema {
            for (name, average) in &mut ema.averages {
                let saved = checkpoint.ema.get(name).filter(|saved| saved.dims() == average.dims());
                let saved = saved.ok_or_else(|| Error::run(format!("the checkpoint has no average of `{name}`")))?;
                *average = saved.to_dtype(average.dtype())?.to_device(average.device())?;
            }
        }
        Ok(())
    }
}

/// Which of two checkpoints to keep: within the limits the one that retrieves better, else the one that lost less.
fn is_better(new: &Best, old: &Best) -> bool {
    match (new.beyond, old.beyond) {
        (false, false) => new.score >= old.score,
        (true, true) => new.disagreement + new.lost <= old.disagreement + old.lost,
        (new, _) => !new,
    }
}
