//! Low-rank changes of frozen matrices (LoRA, Hu et al. 2021, arXiv 2106.09685).

use super::config::LoraConfig;
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::weights::{Adapter, trained::lora_name};
use candle_core::{Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// The maps of a block that can be changed, by the names that the command line uses.
pub const TARGETS: &[&str] = &["q", "k", "v", "out", "fc1", "fc2", "proj"];

/// Adapters for the matrices that the configuration names, by their names on disk: A uniform as `torch.nn.Linear` begins
/// (Kaiming with a = √5), B zero, so that the model begins as it was.
///
/// # Errors
/// Usage, when no matrix is meant or a rank is larger than a matrix.
pub fn adapters(clip: &Clip, config: &LoraConfig, seed: u64) -> Result<BTreeMap<String, Adapter>> {
    let mut adapters = BTreeMap::new();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (name, ours, shape) in clip.store().tensors() {
        let tower = ours.split('.').next().unwrap_or_default();
        let (true, [outputs, inputs]) = (config.tower == "both" || config.tower == tower, shape.as_slice()) else {
            continue;
        };
        if !is_target(name, &ours, &config.targets) {
            continue;
        }
        if config.rank > (*outputs).min(*inputs) {
            let message = format!("a change of rank {} of `{name}`, which is {outputs} x {inputs}", config.rank);
            return Err(Error::usage(message).hint("choose a smaller --lora-rank"));
        }
        let bound = (*inputs as f64).sqrt().recip();
        let a: Vec<f64> = (0..config.rank * inputs).map(|_| rng.random_range(-bound..bound)).collect();
        let (dtype, device) = (clip.store().dtype(), clip.store().device());
        let a = Tensor::from_vec(a, (config.rank, *inputs), device)?.to_dtype(dtype)?;
        let b = Tensor::zeros((*outputs, config.rank), dtype, device)?;
        let scale = config.alpha / config.rank as f64;
        let adapter = Adapter { a: Var::from_tensor(&a)?, b: Var::from_tensor(&b)?, scale };
        adapters.insert(name.to_owned(), adapter);
    }
    match adapters.is_empty() {
        true => Err(Error::usage("the model has none of the matrices that --lora-targets names")
            .hint(format!("there are {}, in transformers", TARGETS.join(", ")))),
        false => Ok(adapters),
    }
}

/// What the settings of a run are that goes on with these changes.
///
/// # Errors
/// Usage, unless all are of one rank and one factor: what is saved has one of each.
pub fn settings(adapters: &BTreeMap<String, Adapter>, dropout: f64) -> Result<LoraConfig> {
    let mut found: Option<(usize, f64)> = None;
    let mut targets = BTreeSet::new();
    for (name, adapter) in adapters {
        let own = (adapter.a.dim(0)?, adapter.scale);
        if *found.get_or_insert(own) != own {
            return Err(Error::usage("low-rank changes of several ranks or factors cannot be trained on")
                .hint("`merge --lora` works them into the model, which can be trained with new ones"));
        }
        targets.extend(name.strip_suffix(".weight").unwrap_or(name).rsplit('.').next().map(str::to_owned));
    }
    let (rank, scale) = found.ok_or_else(|| Error::usage("there are no low-rank changes"))?;
    let (alpha, targets) = (scale * rank as f64, targets.into_iter().collect());
    Ok(LoraConfig { rank, alpha, dropout, targets, tower: "both".to_owned() })
}

/// Whether a parameter of a run is a factor of a low-rank change.
pub fn is_factor(name: &str) -> bool {
    name.ends_with(".lora_A") || name.ends_with(".lora_B")
}

/// The low-rank changes whose factors are among the parameters of a run.
///
/// # Errors
/// If a factor has no other.
pub fn of_factors(params: &BTreeMap<String, Tensor>, config: &LoraConfig) -> Result<BTreeMap<String, Adapter>> {
    let mut adapters = BTreeMap::new();
    for (name, a) in params {
        let Some(matrix) = name.strip_suffix(".lora_A") else { continue };
        let b = params.get(&lora_name(matrix, "lora_B"));
        let b = b.ok_or_else(|| Error::run(format!("the checkpoint has no second factor of `{matrix}`")))?;
        let scale = config.alpha / config.rank as f64;
        adapters.insert(matrix.to_owned(), Adapter { a: Var::from_tensor(a)?, b: Var::from_tensor(b)?, scale });
    }
    Ok(adapters)
}

/// Whether a matrix is one of those that are named. Queries, keys and values that are one matrix count if all three are.
fn is_target(name: &str, ours: &str, targets: &[String]) -> bool {
    let has = |target: &str| targets.iter().any(|t| t == target);
    let Some(layer) = ours.strip_suffix(".weight").and_then(|ours| ours.rsplit('.').next()) else { return false };
    // The attention that some towers pool with is none of a block.
    if layer != "proj" && !ours.contains(".blocks.") {
        return false;
    }
    if layer != "qkv" {
        return has(layer);
    }
    let part = name.strip_suffix(".weight").unwrap_or(name).rsplit('.').next().unwrap_or_default();
    match part {
        "q_proj" | "query" | "q" | "q_lin" => has("q"),
        "k_proj" | "key" | "k" | "k_lin" => has("k"),
        "v_proj" | "value" | "v" | "v_lin" => has("v"),
        _ => has("q") && has("k") && has("v"),
    }
}
