//! CLIP-LoRA: low-rank changes of queries, keys and values (Zanella and Ben Ayed 2024).

use super::inside::{Inside, TOWER, tower};
use super::{Entry, Needs, Options, Recipe, SGD, Sees, Setting};
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::ops::Dropout;
use crate::train::config::LoraConfig;
use crate::train::lora::adapters;
use std::sync::Arc;

pub(super) static ENTRY: Entry = Entry {
    name: "lora",
    trains: "low-rank changes of the queries, keys and values of all blocks",
    source: "Zanella and Ben Ayed 2024, arXiv 2405.18541; MaxZanella/CLIP-LoRA: lora.py, loralib/layers.py",
    differs: Some(
        "50 epochs in place of 500 steps a shot; where a checkpoint keeps queries, keys and values in one matrix they share A",
    ),
    sees: Sees::Pixels,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[
        Setting { name: "r", default: 2.0, range: (1.0, 1024.0), help: "the rank" },
        Setting { name: "alpha", default: 1.0, range: (0.0, 1e4), help: "the change is multiplied by alpha / √r" },
        Setting {
            name: "dropout",
            default: 0.25,
            range: (0.0, 0.95),
            help: "the share of inputs that are dropped in training",
        },
        TOWER,
    ],
    recipe: Recipe { optimizer: "adamw", lr: 2e-4, wd: 1e-2, warmup: 0, ..SGD },
    prepare: Some(prepare),
    build: |task, _| Ok(Box::new(Inside::new(task)?)),
};

fn prepare(clip: &mut Clip, options: &Options) -> Result<()> {
    let config = LoraConfig {
        rank: options.count("r").max(1),
        alpha: options.get("alpha"),
        dropout: options.get("dropout"),
        targets: ["q", "k", "v"].map(str::to_owned).into(),
        tower: tower(options).to_owned(),
    };
    let mut adapters = adapters(clip, &config, options.seed).map_err(|_| {
        let towers = if config.tower == "both" { "both towers" } else { config.tower.as_str() };
        let message = format!(
            "no attention in the tower that is meant ({towers}) of {} fits a change of rank {}",
            clip.name(),
            config.rank
        );
        Error::usage(message).hint("choose a smaller r or another tower, or layernorm, which changes any")
    })?;
    // Rank-stabilised: not alpha / r.
    let scale = config.alpha / (config.rank as f64).sqrt();
    adapters.values_mut().for_each(|adapter| adapter.scale = scale);
    let trained = clip.store_mut().train([])?;
    trained.adapters = adapters;
    let p = config.dropout as f32;
    trained.dropout = (p > 0.0).then(|| Dropout { p, seed: Arc::new(Dropout::OFF.into()), stream: 0 });
    clip.check()
}
