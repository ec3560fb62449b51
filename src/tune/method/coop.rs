//! CoOp: the words around a class name are learnt (Zhou et al. 2022).

use super::{Entry, Method, Needs, Options, SGD, Sees};
use crate::error::Result;
use crate::ops::normalize;
use crate::tune::Task;
use crate::tune::context::{Context, Place};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) static ENTRY: Entry = Entry {
    name: "coop",
    trains: "16 vectors in the place of the words around a class name",
    source: "Zhou et al. 2022, arXiv 2109.01134; KaiyangZhou/CoOp: trainers/coop.py",
    differs: EMBEDDED_ONCE,
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[],
    // 50 epochs are the authors' for one shot; they take 200 for 8 and more.
    recipe: SGD,
    prepare: None,
    build: |task, options| Ok(Box::new(CoOp::new(task, options, 16, "")?)),
};

/// What differs in all methods that learn words alone.
pub(super) const EMBEDDED_ONCE: Option<&str> =
    Some("images are embedded once, as they are; the authors crop and mirror them at random");

/// Learnt words. Other methods train them in other ways.
pub(super) struct CoOp {
    pub(super) ctx: Var,
    place: Place,
}

impl CoOp {
    /// Vectors as the options say; else `usual` many, or those of `phrase`.
    pub(super) fn new(task: &Task<'_>, options: &Options, usual: usize, phrase: &str) -> Result<Self> {
        let ctx = options.context(task, usual, phrase)?;
        let count = ctx.dim(ctx.rank() - 2)?;
        // What does not fit is said now, not at the first step.
        task.context(count, &[], options.place)?;
        Ok(Self { ctx, place: options.place })
    }

    /// The prompts of a task's classes, with room for the vectors.
    pub(super) fn context(&self, task: &Task<'_>) -> Result<Arc<Context>> {
        task.context(self.ctx.dim(self.ctx.rank() - 2)?, &[], self.place)
    }

    /// The classes' rows (classes, dim), not normalised, with these vectors in the shape of `ctx`.
    pub(super) fn rows(&self, task: &Task<'_>, ctx: &Tensor) -> Result<Tensor> {
        self.context(task)?.encode(&*task.text()?, ctx, &[])
    }
}

impl Method for CoOp {
    fn params(&self) -> BTreeMap<String, Var> {
        BTreeMap::from([("ctx".to_owned(), self.ctx.clone())])
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        Ok(normalize(&self.rows(task, self.ctx.as_tensor())?)?)
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![("ctx".to_owned(), self.ctx.as_detached_tensor())])
    }
}
