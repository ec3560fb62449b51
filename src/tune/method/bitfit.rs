//! BitFit: everything that is added, nothing that is multiplied (Ben Zaken et al. 2022).

use super::inside::{Inside, TOWER, train_tensors};
use super::{Entry, Needs, Recipe, SGD, Sees};
use crate::train::select::Train;

pub(super) static ENTRY: Entry = Entry {
    name: "bitfit",
    trains: "all biases, those of normalisations among them",
    source: "Ben Zaken et al. 2022, arXiv 2106.10199",
    differs: Some("bitfit-style: in both towers of an image-text model, with zero-shot's classifier"),
    sees: Sees::Pixels,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[TOWER],
    recipe: Recipe { optimizer: "adamw", lr: 1e-4, wd: 0.0, warmup: 0, ..SGD },
    prepare: Some(|clip, options| train_tensors(clip, options, Train::Bias)),
    build: |task, _| Ok(Box::new(Inside::new(task)?)),
};
