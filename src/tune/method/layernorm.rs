//! Scales and shifts of normalisations.

use super::inside::{Inside, TOWER, train_tensors};
use super::{Entry, Needs, Recipe, SGD, Sees};
use crate::train::select::Train;

pub(super) static ENTRY: Entry = Entry {
    name: "layernorm",
    trains: "the scales and shifts of all normalisations",
    source: "Frankle et al. 2021, arXiv 2003.00152 (batch norms of ResNets)",
    differs: Some("layernorm-style: in both towers of a trained model, with zero-shot's classifier"),
    sees: Sees::Pixels,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[TOWER],
    recipe: Recipe { optimizer: "adamw", lr: 1e-4, wd: 0.0, warmup: 0, ..SGD },
    prepare: Some(|clip, options| train_tensors(clip, options, Train::LayerNorm)),
    build: |task, _| Ok(Box::new(Inside::new(task)?)),
};
