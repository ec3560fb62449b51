//! IVLP: learnt tokens in both towers, independent of each other (Rasheed et al. 2023).

use super::{Entry, Method, Needs, Options, Recipe, SGD, Sees, Setting};
use crate::error::Result;
use crate::ops::normalize;
use crate::tune::Task;
use crate::tune::deep::{self, TextPrompts};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

pub(super) static ENTRY: Entry = Entry {
    name: "ivlp",
    trains: "2 vectors in the place of words and 2 tokens behind an image's patches, in front of each block (--n-ctx, n_image, depth)",
    source: "Rasheed et al. 2023, arXiv 2212.03640; muzairkhattak/multimodal-prompt-learning: trainers/independentVL.py, clip/model.py",
    differs: None,
    sees: Sees::Pixels,
    needs: Needs { image_tokens: true },
    new_classes: true,
    options: &[deep::depth(12.0), n_image(2.0)],
    // configs/trainers/IVLP/vit_b16_c2_ep5_batch4_2+2ctx.yaml
    recipe: Recipe { epochs: 5, batch: 4, lr: 3.5e-3, ..SGD },
    prepare: None,
    build: |task, options| Ok(Box::new(Ivlp::new(task, options, 2)?)),
};

/// How many learnt tokens an image has.
pub(super) const fn n_image(default: f64) -> Setting {
    Setting { name: "n_image", default, range: (1.0, 1024.0), help: "how many learnt tokens an image has" }
}

/// Learnt tokens in both towers. PromptSRC trains them in another way.
pub(super) struct Ivlp {
    texts: TextPrompts,
    image: Vec<Var>,
}

impl Ivlp {
    /// `usual` many in the text tower unless the options say otherwise.
    pub(super) fn new(task: &Task<'_>, options: &Options, usual: usize) -> Result<Self> {
        let text_depth = deep::depth_in(options, "text", deep::text_blocks(task).layers)?;
        let image_depth = deep::depth_in(options, "image", deep::image_blocks(task)?.layers)?;
        Ok(Self {
            texts: TextPrompts::new(task, options, usual, text_depth)?,
            image: deep::image_prompts(task, options, options.count("n_image"), image_depth)?,
        })
    }
}

impl Method for Ivlp {
    fn params(&self) -> BTreeMap<String, Var> {
        self.texts.params().chain(deep::image_params(&self.image)).collect()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        Ok(normalize(&self.texts.rows(task)?)?)
    }

    fn features(&self, task: &Task<'_>, pixels: &Tensor) -> Result<Tensor> {
        task.clip.image()?.forward_prompted(pixels, &deep::tensors(&self.image))
    }

    fn image_prompts(&self) -> Result<Vec<Tensor>> {
        Ok(deep::constants(&self.image))
    }

    fn words(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.texts.words())
    }
}
