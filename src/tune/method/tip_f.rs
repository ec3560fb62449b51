//! Tip-Adapter-F: the memory of Tip-Adapter, trained (Zhang et al. 2022).

use super::tip::{Cache, OPTIONS};
use super::{Entry, Needs, Recipe, Sees};

pub(super) static ENTRY: Entry = Entry {
    name: "tip-f",
    trains: "the keys of a memory of the training images",
    source: "Zhang et al. 2022, arXiv 2207.09519; gaopengcuhk/Tip-Adapter: main.py, utils.py",
    differs: Some("the last epoch counts, not the best on test images; alpha and beta come from the validation images"),
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: false,
    options: OPTIONS,
    // The weight decay is torch's default.
    recipe: Recipe { epochs: 20, batch: 256, optimizer: "adamw", lr: 1e-3, wd: 1e-2, eps: 1e-4, warmup: 0, views: 10 },
    prepare: None,
    build: |task, options| Ok(Box::new(Cache::new(task, options, true))),
};
