//! CoOp: the words around a class name are learnt (Zhou et al. 2022).

use super::{Entry, Method, Needs, Options, SGD, Sees};
use crate::error::Result;
use crate::ops::normalize;
use crate::tune::Task;
use crate::tune::context::{Context, Place};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "coop",
    trains: "16 vectors in the place of the words around a class name",
    source: "Zhou et al. 2022, arXiv 2109.01134; KaiyangZhou/CoOp: trainers/coop.py",
    differs: None,
    sees: Sees::Features,
    needs: Needs { image_tokens: false, depth: 0 },
    new_classes: true,
    options: &[],
    recipe: SGD,
    prepare: None,
    build: |task, options| Ok(Box::new(CoOp::new(task, options, 16, "")?)),
};

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
        Context::new(task, count, "", options.place)?;
        Ok(Self { ctx, place: options.place })
    }

    /// The classes' rows (classes, dim), not normalised.
    pub(super) fn rows(&self, task: &Task<'_>, ctx: &Tensor) -> Result<Tensor> {
        let context = Context::new(task, ctx.dim(ctx.rank() - 2)?, "", self.place)?;
        context.encode(&*task.text()?, ctx, &[])
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
