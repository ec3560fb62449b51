//! Low-rank changes as PEFT has them on disk: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! PEFT knows a change by the module that it is made to: `base_model.model.MODULE.lora_A.weight` (rank, inputs) and
//! `….lora_B.weight` (outputs, rank) for the linear map whose weight the checkpoint calls `MODULE.weight` (PEFT 0.21,
//! `peft/utils/save_and_load.py`). What the checkpoint keeps in one matrix that is no module of its own, such as
//! open_clip's `in_proj_weight` and `visual.proj`, has no place there.

use super::save::{save_tensors, write_file};
use crate::error::{Error, Result};
use crate::model::{Clip, ModelFiles};
use crate::weights::{Adapter, Files, View};
use candle_core::Var;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder of a run with its low-rank changes.
pub const FOLDER: &str = "adapter";

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Why the low-rank changes of a model cannot be written for PEFT, if they cannot.
pub fn obstacle(clip: &Clip) -> Option<String> {
    let adapters = clip.store().trained().map(|trained| &trained.adapters)?;
    let name = adapters.keys().find(|name| module(name).is_none())?;
    Some(format!("PEFT has no place for a change of `{name}`, which is no module of its own"))
}

/// Writes the low-rank changes of a model into a directory. Returns whether there was something to write: there is not
/// if nothing has such a change, or [`obstacle`] says why.
pub fn save(clip: &Clip, view: View<'_>, directory: &Path) -> Result<bool> {
    let Some(trained) = clip.store().trained() else { return Ok(false) };
    let mut tensors = BTreeMap::new();
    let mut modules = Vec::new();
    let (mut rank, mut alpha) = (0, 0.0);
    for name in trained.adapters.keys() {
        let (Some(module), Some((a, b, scale))) = (module(name), trained.adapter(name, view)) else { return Ok(false) };
        rank = a.dim(0)?;
        alpha = scale * rank as f64;
        tensors.insert(format!("{PREFIX}{module}.lora_A.weight"), a);
        tensors.insert(format!("{PREFIX}{module}.lora_B.weight"), b);
        modules.push(module);
    }
    if modules.is_empty() {
        return Ok(false);
    }
    let (base, revision) = base(clip.files());
    let config = json!({
        "peft_type": "LORA",
        "task_type": null,
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) },
        "lora_dropout": trained.dropout.as_ref().map_or(0.0, |dropout| dropout.p),
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": null,
        // Whole names: PEFT takes the end of a name for enough, and no other module ends with one of these.
        "target_modules": modules,
    });
    std::fs::create_dir_all(directory).map_err(|e| Error::run(e).at(directory.display()))?;
    save_tensors(&directory.join(WEIGHTS), &tensors)?;
    let mut config = serde_json::to_vec_pretty(&config).map_err(Error::run)?;
    config.push(b'\n');
    write_file(&directory.join(CONFIG), &config)?;
    Ok(true)
}

/// What of PEFT's configuration the numbers depend on.
#[derive(Deserialize)]
struct Config {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    rank_pattern: Option<BTreeMap<String, usize>>,
    alpha_pattern: Option<BTreeMap<String, f64>>,
    bias: Option<String>,
    /// All else: some of it means that the weights are something else than low-rank changes.
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

/// Reads low-rank changes that PEFT, or [`save`], wrote for a checkpoint; by the names of its matrices. The directory may
/// be that of a run.
///
/// # Errors
/// If they are of another kind than plain LoRA, or do not fit the checkpoint.
pub fn load(clip: &Clip, directory: &Path) -> Result<BTreeMap<String, Adapter>> {
    let directory = find(directory)?;
    let at = |e: Error| e.at(directory.display());
    let text = std::fs::read(directory.join(CONFIG)).map_err(Error::run).map_err(at)?;
    let config: Config =
        serde_json::from_slice(&text).map_err(|e| at(Error::run(format!("{CONFIG} is not what PEFT writes: {e}"))))?;
    config.check().map_err(at)?;
    let files = Files::open(&directory.join(WEIGHTS))?;
    let mut factors: BTreeMap<String, [Option<Var>; 2]> = BTreeMap::new();
    for name in files.names() {
        let factor = name.strip_prefix(PREFIX).and_then(|rest| {
            let ends = [".lora_A.weight", ".lora_B.weight"];
            ends.iter().enumerate().find_map(|(place, end)| Some((rest.strip_suffix(end)?, place)))
        });
        let Some((module, place)) = factor else {
            return Err(at(Error::run(format!("`{name}` is no part of a low-rank change of a matrix"))
                .hint("adapters of embeddings, convolutions and other kinds are not read")));
        };
        let (dtype, device) = (clip.store().dtype(), clip.store().device());
        if let Some(tensor) = files.read(name, dtype, device)? {
            factors.entry(module.to_owned()).or_default()[place] = Some(Var::from_tensor(&tensor)?);
        }
    }
    let mut adapters = BTreeMap::new();
    for (module, factors) in factors {
        let [Some(a), Some(b)] = factors else {
            return Err(at(Error::run(format!("the change of `{module}` has one factor instead of two"))));
        };
        let name = format!("{module}.weight");
        let shapes = [a.dims(), b.dims()].concat();
        match (clip.store().files().shape(&name).as_deref(), &shapes[..]) {
            (Some([outputs, inputs]), [r, i, o, s]) if r == s && i == inputs && o == outputs => {}
            (Some(shape), _) => {
                let message = format!("a change of {:?} by {:?} does not fit `{name}`, {shape:?}", b.dims(), a.dims());
                return Err(at(Error::run(message).hint(config.advice())));
            }
            (None, _) => {
                let message = format!("{} has no matrix `{name}` to change", clip.name());
                return Err(at(Error::run(message).hint(config.advice())));
            }
        }
        let scale = config.scale(&module, a.dim(0)?).map_err(at)?;
        adapters.insert(name, Adapter { a, b, scale });
    }
    match adapters.is_empty() {
        true => Err(at(Error::run("there are no low-rank changes in it"))),
        false => Ok(adapters),
    }
}

/// A hash over the weights of low-rank changes: 64 hexadecimal digits.
pub fn sha(directory: &Path) -> Result<String> {
    Ok(Files::open(&find(directory)?.join(WEIGHTS))?.content_hash())
}

impl Config {
    /// Refuses what changes more, or in another way, than `W + scale · B A` does.
    fn check(&self) -> Result<()> {
        let other = |what: String| Err(Error::run(format!("{what}: only plain LoRA is read")));
        if self.peft_type != "LORA" {
            return other(format!("an adapter of type {}", self.peft_type));
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| *bias != "none") {
            return other(format!("an adapter that also trains biases ({bias:?})"));
        }
        let on = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && !is_empty(value);
        let kinds =
            ["use_dora", "fan_in_fan_out", "modules_to_save", "lora_bias", "target_parameters", "megatron_config"];
        match kinds.iter().find(|key| self.more.get(**key).is_some_and(on)) {
            Some(key) => other(format!("an adapter with {key}")),
            None => Ok(()),
        }
    }

    /// What the product of a module's factors is multiplied by.
    fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let expected = pattern(self.rank_pattern.as_ref(), module)?.unwrap_or(self.r);
        if rank != expected || rank == 0 {
            return Err(Error::run(format!("the change of `{module}` has rank {rank}, {CONFIG} says {expected}")));
        }
        let alpha = pattern(self.alpha_pattern.as_ref(), module)?.unwrap_or(self.lora_alpha);
        Ok(if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 })
    }

    fn advice(&self) -> String {
        match self.more.get("base_model_name_or_path").and_then(Value::as_str) {
            Some(base) => format!("it was made for {base}"),
            None => "name the model that it was made for".to_owned(),
        }
    }
}

/// What a pattern of PEFT's says of a module: its key is a regular expression for the end of the name
/// (`peft/utils/other.py`, `get_pattern_key`).
fn pattern<T: Copy>(patterns: Option<&BTreeMap<String, T>>, module: &str) -> Result<Option<T>> {
    for (key, value) in patterns.into_iter().flatten() {
        let expression = regex::Regex::new(&format!(r"^(.*\.)?(?:{key})$")).map_err(Error::run)?;
        if expression.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// The module whose weight a matrix of the checkpoint is.
fn module(name: &str) -> Option<&str> {
    name.strip_suffix(".weight")
}

/// The directory with the adapter: this one, or the one in the run that this is.
fn find(directory: &Path) -> Result<PathBuf> {
    let places = [directory.to_owned(), directory.join(FOLDER)];
    places.into_iter().find(|place| place.join(CONFIG).is_file()).ok_or_else(|| {
        Error::run(format!("there is no adapter here ({CONFIG} is missing)"))
            .at(directory.display())
            .hint("name what PEFT's save_pretrained wrote, or a run of `finetune --train lora`")
    })
}

/// What PEFT will call the model that is changed, and its commit.
fn base(files: &ModelFiles) -> (String, Option<String>) {
    if let Some((name, commit)) = files.origin().and_then(|origin| origin.split_once('@')) {
        return (name.to_owned(), Some(commit.to_owned()));
    }
    let place = files.directory().map(|place| place.canonicalize().unwrap_or_else(|_| place.to_owned()));
    (place.map_or_else(|| files.name().to_owned(), |place| place.display().to_string()), None)
}
