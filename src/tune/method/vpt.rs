//! VPT: learnt tokens among an image's, the texts as they are (Jia et al. 2022).

use super::Recipe;
use super::{Entry, Method, Needs, SGD, Sees};
use crate::error::Result;
use crate::tune::{Task, deep};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "vpt",
    trains: "8 tokens behind an image's patches in front of each block (--n-ctx, depth; depth 1: shallow)",
    source: "Jia et al. 2022, arXiv 2203.12119; muzairkhattak/multimodal-prompt-learning: trainers/vpt.py, clip/model.py",
    differs: Some(
        "as the second of these has it: tokens behind the patches and not behind the class token, N(0, 0.02), no dropout of tokens, texts in place of a trained head",
    ),
    sees: Sees::Pixels,
    needs: Needs { image_tokens: true },
    new_classes: true,
    options: &[deep::depth(12.0)],
    // configs/trainers/VPT/vit_b16_c2_ep5_batch4_4.yaml
    recipe: Recipe { epochs: 5, batch: 4, lr: 2.5e-3, ..SGD },
    prepare: None,
    build: |task, options| {
        let depth = deep::depth_in(options, "image", deep::image_blocks(task)?.layers)?;
        Ok(Box::new(Vpt(deep::image_prompts(task, options, options.n_ctx.unwrap_or(8), depth)?)))
    },
};

/// For each of the first blocks its tokens, (tokens, width).
struct Vpt(Vec<Var>);

impl Method for Vpt {
    fn params(&self) -> BTreeMap<String, Var> {
        deep::image_params(&self.0).collect()
    }

    fn features(&self, task: &Task<'_>, pixels: &Tensor) -> Result<Tensor> {
        task.clip.image()?.forward_prompted(pixels, &deep::tensors(&self.0))
    }

    fn image_prompts(&self) -> Result<Vec<Tensor>> {
        Ok(deep::constants(&self.0))
    }
}
