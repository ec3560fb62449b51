//! Learnt tokens inside the towers: in front of the first block, and in front of those behind it.

use super::Task;
use super::context::{Context, Place};
use super::method::{Options, Setting};
use crate::error::{Error, Result};
use crate::model::spec::{BlocksSpec, ImageSpec, TextTowerSpec};
use crate::train::init::draw::Draw;
use candle_core::{Tensor, Var};
use std::sync::Arc;

/// What all learnt vectors but a phrase's are drawn from: N(0, 0.02).
const START: Draw = Draw::Normal(0.02);

/// In front of how many blocks there are learnt tokens.
pub const fn depth(default: f64) -> Setting {
    Setting { name: "depth", default, range: (1.0, 128.0), help: "in front of how many blocks, from the first on" }
}

/// The depth in a tower of so many blocks: what was said, else the usual one, or less where the tower has fewer blocks.
///
/// # Errors
/// Usage, when somebody says more than the tower has.
pub fn depth_in(options: &Options, tower: &str, blocks: usize) -> Result<usize> {
    let depth = options.count("depth");
    if options.is_said("depth") && depth > blocks {
        let message =
            format!("the {tower} tower has {blocks} blocks: there is no place for learnt tokens at depth {depth}");
        return Err(Error::usage(message).hint(format!("--method-opt depth={blocks} or less")));
    }
    Ok(depth.min(blocks))
}

/// The blocks of the text tower.
pub fn text_blocks<'a>(task: &'a Task<'_>) -> &'a BlocksSpec {
    match &task.clip.spec.text {
        TextTowerSpec::Transformer(text) => &text.blocks,
        TextTowerSpec::Bert(bert) => &bert.blocks,
    }
}

/// The blocks of the image tower.
///
/// # Errors
/// Usage, when it is no transformer.
pub fn image_blocks<'a>(task: &'a Task<'_>) -> Result<&'a BlocksSpec> {
    match &task.clip.spec.image {
        ImageSpec::Vit(vit) => Ok(&vit.blocks),
        _ => Err(Error::usage("the image tower is no transformer: learnt tokens have no place in it")),
    }
}

/// Learnt vectors in the text tower.
pub struct TextPrompts {
    /// In the place of words, (vectors, width).
    pub ctx: Var,
    /// In their place in front of block 1, 2, …: (vectors, width) each.
    pub deep: Vec<Var>,
    /// Tokens of words that stay, behind them.
    fixed: Vec<u32>,
}

impl TextPrompts {
    /// The first `usual` tokens of a phrase, the others of which stay as words; deeper ones N(0, 0.02). Other numbers and
    /// phrases as the options say: without a phrase of at least so many tokens all are N(0, 0.02) and no word stays
    /// (`trainers/maple.py` of muzairkhattak/multimodal-prompt-learning).
    ///
    /// # Errors
    /// Usage, when the options ask for what deep prompts have no place for, or a prompt does not fit.
    pub fn new(task: &Task<'_>, options: &Options, usual: usize, depth: usize) -> Result<Self> {
        if options.place != Place::End || options.class_specific {
            let message = "learnt tokens in front of deeper blocks stand at the beginning, the same for all classes";
            return Err(Error::usage(message).hint("coop has other places, and vectors for each class"));
        }
        let count = options.n_ctx.unwrap_or(usual);
        let phrase = options.ctx_init.as_deref().unwrap_or("a photo of a");
        let words = if phrase.is_empty() { Vec::new() } else { Context::tokens(task, phrase)? };
        let width = Context::width(task)?;
        let (ctx, fixed) = match words.get(count..) {
            Some(fixed) => (Var::from_tensor(&Context::phrase(task, phrase)?.narrow(0, 0, count)?.copy()?)?, fixed),
            None if options.ctx_init.is_some() && !words.is_empty() => {
                let message = format!("{count} learnt vectors and the phrase `{phrase}`, which has {}", words.len());
                return Err(Error::usage(message).hint("fewer vectors (--n-ctx), or a longer phrase"));
            }
            None => (options.draw(task, START, "ctx", &[count, width])?, &[][..]),
        };
        let deep = (1..depth).map(|i| options.draw(task, START, &format!("text.{i}"), &[count, width]));
        let prompts = Self { ctx, deep: deep.collect::<Result<_>>()?, fixed: fixed.to_vec() };
        // What does not fit is said now, not at the first step.
        prompts.context(task)?;
        Ok(prompts)
    }

    fn context(&self, task: &Task<'_>) -> Result<Arc<Context>> {
        task.context(self.ctx.dim(0)?, &self.fixed, Place::End)
    }

    /// The classes' rows (classes, dim), not normalised.
    pub fn rows(&self, task: &Task<'_>) -> Result<Tensor> {
        self.context(task)?.encode(&*task.text()?, &self.ctx, &tensors(&self.deep))
    }

    /// All vectors, by name.
    pub fn params(&self) -> impl Iterator<Item = (String, Var)> {
        let deep = (1..).zip(&self.deep).map(|(i, var)| (format!("text.{i}"), var.clone()));
        [("ctx".to_owned(), self.ctx.clone())].into_iter().chain(deep)
    }

    /// Where they stand in the space of token embeddings; deeper ones are in no such space.
    pub fn words(&self) -> Vec<(String, Tensor)> {
        vec![("ctx".to_owned(), self.ctx.as_detached_tensor())]
    }
}

/// `count` learnt tokens behind an image's patches in front of each of the first `depth` blocks, N(0, 0.02).
pub fn image_prompts(task: &Task<'_>, options: &Options, count: usize, depth: usize) -> Result<Vec<Var>> {
    let width = image_blocks(task)?.width;
    (0..depth).map(|i| options.draw(task, START, &format!("image.{i}"), &[count, width])).collect()
}

/// The same, by name.
pub fn image_params(prompts: &[Var]) -> impl Iterator<Item = (String, Var)> {
    prompts.iter().enumerate().map(|(i, var)| (format!("image.{i}"), var.clone()))
}

/// Variables, with their gradients.
pub fn tensors(vars: &[Var]) -> Vec<Tensor> {
    vars.iter().map(|var| var.as_tensor().clone()).collect()
}

/// Variables, as they are now.
pub fn constants(vars: &[Var]) -> Vec<Tensor> {
    vars.iter().map(Var::as_detached_tensor).collect()
}
