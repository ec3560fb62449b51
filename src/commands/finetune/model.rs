//! The models of a run: the one that is trained, what it began as, and what it learns from.

use super::args::FinetuneArgs;
use crate::app::{App, ModelArgs};
use crate::error::{Error, Result};
use crate::image::Resize;
use crate::model::Clip;
use crate::ops::Dropout;
use crate::train::config::Config;
use crate::train::group::Group;
use crate::train::objective::{Objective, Sum};
use crate::train::run_dir::{RunDir, START};
use crate::train::save::BIAS;
use crate::train::select::{Param, Selection, Train, select};
use crate::train::{init, lora, peft};
use crate::weights::Adapter;
use candle_core::Var;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens the model that is trained.
pub(super) fn open(app: &App, config: &Config) -> Result<Clip> {
    app.open_model(&ModelArgs { model: config.model.clone(), image_size: config.image_size })
}

/// Opens what training began with: the same model, with the low-rank changes that it was given.
pub(super) fn start(app: &App, config: &Config) -> Result<Clip> {
    let mut clip = open(app, config)?;
    if let Some(directory) = &config.init_lora {
        let adapters = peft::load(&clip, directory)?;
        clip.store_mut().train([])?.adapters = adapters;
    }
    Ok(clip)
}

/// Opens the model to learn from.
pub(super) fn teacher(app: &App, config: &Config, clip: &Clip) -> Result<Clip> {
    let Some(name) = &config.teacher else {
        return Err(Error::usage(format!("the objective `{}` needs a --teacher", config.loss)));
    };
    let teacher = app.open_model(&ModelArgs { model: Some(name.clone()), image_size: config.image_size })?;
    let [theirs, ours] = [&teacher, clip].map(|clip| clip.preprocess().size);
    if theirs != ours {
        let message = format!("the teacher takes images of {theirs:?} pixels, the model of {ours:?}");
        return Err(Error::usage(message));
    }
    Ok(teacher)
}

/// Fails when the model cannot be trained, or is not the one that the run began with.
pub(super) fn check(clip: &Clip, config: &mut Config) -> Result<()> {
    if matches!(clip.preprocess().resize, Resize::Patches { .. }) {
        return Err(Error::usage("a model that takes images of any size cannot be fine-tuned yet")
            .hint("choose a checkpoint with a fixed input size"));
    }
    if config.model_sha.is_empty() {
        clip.sha().clone_into(&mut config.model_sha);
    } else if config.model_sha != clip.sha() {
        return Err(Error::run("the model is not the one that the run began with")
            .hint("put the checkpoint back as it was, or begin a new run"));
    }
    Ok(())
}

/// The low-rank changes that are trained, if they are: new ones, or those of a directory, whose rank and factor then
/// become those of the run.
pub(super) fn adapters(clip: &Clip, config: &mut Config) -> Result<BTreeMap<String, Adapter>> {
    let (Train::Lora, Some(settings)) = (config.train(), &config.lora) else {
        return match &config.init_lora {
            Some(_) => Err(Error::usage("--init-lora goes with --train lora")),
            None => Ok(BTreeMap::new()),
        };
    };
    let Some(directory) = &config.init_lora else { return lora::adapters(clip, settings, config.seed) };
    let adapters = peft::load(clip, directory)?;
    let found = lora::settings(&adapters, settings.dropout).map_err(|e| e.at(directory.display()))?;
    let sha = peft::sha(directory)?;
    if !config.init_lora_sha.is_empty() && (config.init_lora_sha != sha || *settings != found) {
        return Err(Error::run("the low-rank changes are not those that the run began with")
            .at(directory.display())
            .hint("put them back as they were, or begin a new run"));
    }
    (config.lora, config.init_lora_sha) = (Some(found), sha);
    Ok(adapters)
}

/// Makes variables of what is trained; `bias` is a new parameter of the model.
pub(super) fn train(
    clip: &mut Clip,
    config: &Config,
    objective: &Sum,
    adapters: BTreeMap<String, Adapter>,
    bias: Option<Var>,
) -> Result<Vec<Param>> {
    let selection = Selection {
        train: config.train(),
        lock_image: config.lock_image,
        lock_text: config.lock_text,
        lock_scale: config.lock_scale,
        layer_decay: config.layer_decay,
    };
    clip.check()?;
    let mut params = select(clip, &selection)?;
    // What the objective does not look at is no parameter of this run.
    params.retain(|param| match param.ours.as_str() {
        "head.logit_bias" => objective.uses_bias(),
        ours => !ours.starts_with("head.") || objective.uses_scale(),
    });
    if config.train() == Train::Lora {
        // A packed copy of everything that stays would be most of the memory.
        crate::ops::linear::keep_packed(false);
    }
    let trained = clip.store_mut().train(params.iter().map(|param| param.name.as_str()))?;
    if let Some(bias) = bias {
        let (name, ours) = (BIAS.to_owned(), "head.logit_bias".to_owned());
        trained.vars.insert(name.clone(), bias);
        params.push(Param { name, ours, shape: Vec::new(), decays: false, rate: 1.0 });
    }
    trained.adapters = adapters;
    trained.checkpointing = config.grad_checkpointing;
    let share = config.lora.as_ref().map_or(0.0, |lora| lora.dropout);
    trained.dropout =
        (share > 0.0).then(|| Dropout { p: share as f32, seed: Arc::new(Dropout::OFF.into()), stream: 0 });
    Ok(params)
}

/// The random model that a run begins with, in a directory of the run's; it goes unless the run begins.
pub(super) struct Scratch {
    start: PathBuf,
    pub(super) keep: bool,
}

impl Scratch {
    /// Makes it, if the command line asks for one, and makes it the model of the run.
    pub(super) fn begin(
        app: &App,
        args: &FinetuneArgs,
        config: &mut Config,
        group: &dyn Group,
    ) -> Result<Option<Self>> {
        let (Some(source), Some(output)) = (&args.init, &args.output) else { return Ok(None) };
        if group.size() > 1 {
            return Err(Error::usage("--init is for one process")
                .hint("make the model first: `clip-cli models new CONFIG --output DIR`, then --model DIR"));
        }
        let scratch = Self::new(app, source, output, config.seed)?;
        config.model = Some(scratch.start.display().to_string());
        Ok(Some(scratch))
    }

    fn new(app: &App, source: &Path, output: &Path, seed: u64) -> Result<Self> {
        RunDir::check_free(output)?;
        let start = output.join(START);
        std::fs::create_dir_all(output).map_err(|e| Error::run(e).at(output.display()))?;
        let scratch = Self { start, keep: false };
        let made = init::create(source, &scratch.start, seed, || app.interrupt.is_set())?;
        app.note(format_args!("{} with {} random numbers in {}", made.family, made.numbers, scratch.start.display()));
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.start);
            // Only if there is nothing else in it.
            self.start.parent().map(std::fs::remove_dir);
        }
    }
}
