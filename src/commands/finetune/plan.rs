//! From the command line to a run.

use super::args::FinetuneArgs;
use super::{extra, show, together, watch::Watching};
use crate::app::{App, ModelArgs};
use crate::commands::Status;
use crate::commands::args::SourceArgs;
use crate::data::{ClassNames, SourceOptions};
use crate::error::{Error, Result};
use crate::eval::retention::imagenet_classes;
use crate::image::Resize;
use crate::image::augment::Augment;
use crate::model::Clip;
use crate::ops::Dropout;
use crate::text::edit::Editor;
use crate::text::templates;
use crate::train::config::Config;
use crate::train::data::{Check, Corpus, Options, Part, Sampler, Split, Transform};
use crate::train::ema::Ema;
use crate::train::init;
use crate::train::lora;
use crate::train::objective::{self, Objective, Settings, Sum};
use crate::train::optim::{self, Optimizer};
use crate::train::run::{MakeNegatives, Run, captions};
use crate::train::run_dir::{RunDir, START, State};
use crate::train::schedule::{SCHEDULES, Schedule};
use crate::train::select::{Param, Selection, Train, select};
use crate::train::validate::Validation;
use crate::train::{group::Group, objective_param};
use clap::{Args, FromArgMatches};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Prepares a run, and does it.
pub(super) fn run(app: &App, args: FinetuneArgs, group: &dyn Group) -> Result<Status> {
    let (directory, config, state) = directory(&args, group)?;
    let mut config = config;
    let scratch = match (&args.init, &args.output) {
        (Some(_), _) if group.size() > 1 => {
            return Err(Error::usage("--init is for one process")
                .hint("make the model first: `clip-cli models new CONFIG --output DIR`, then --model DIR"));
        }
        (Some(source), Some(output)) => Some(Scratch::new(app, source, output, config.seed)?),
        _ => None,
    };
    if let Some(scratch) = &scratch {
        config.model = Some(scratch.start.display().to_string());
    }
    let mut clip = open(app, &config)?;
    check_model(&clip, &mut config)?;
    let sources = sources(app, &args, &mut config)?;
    let corpus = Arc::new(sources.corpus);
    show::skipped(app, &corpus);
    let fingerprint = corpus.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if config.data.is_empty() {
        config.data = fingerprint;
    } else if config.data != fingerprint {
        return Err(Error::run("the training data are not those that the run began with")
            .hint("put them back as they were, or begin a new run from this one: --model RUN --output NEW"));
    }
    if let Some(held) = &sources.validation {
        let common = corpus.in_common(held);
        if common > 0 {
            app.warn(format_args!("{common} images are in the training and the validation data"));
        }
    }
    let split = match &sources.validation {
        Some(_) => Split { train: corpus.all(), held: Vec::new() },
        None => corpus.hold_out(config.seed),
    };
    let sampler = Sampler::new(&corpus, &split.train, captions(&config.caption_sampling), config.seed);
    for warning in corpus.advice(&split.train, sampler.len(), config.batch_size)? {
        app.warn(warning);
    }
    let epoch_steps = sampler.len() / config.batch_size;
    resolve(&mut config, &corpus, epoch_steps, group.size());
    together::check(group, &config, &state)?;

    let needs = objective::needs(&config.loss)?;
    let start = if needs.start { Some(open(app, &config)?) } else { None };
    let teacher = match (needs.teacher, &config.teacher) {
        (true, Some(name)) => {
            let model = ModelArgs { model: Some(name.clone()), image_size: config.image_size };
            let teacher = app.open_model(&model)?;
            if teacher.preprocess().size != clip.preprocess().size {
                let sizes = [teacher.preprocess().size, clip.preprocess().size];
                return Err(Error::usage(format!(
                    "the teacher takes images of {:?} pixels, the model of {:?}",
                    sizes[0], sizes[1]
                )));
            }
            Some(teacher)
        }
        (true, None) => return Err(Error::usage(format!("the objective `{}` needs a --teacher", config.loss))),
        (false, _) => None,
    };
    let teacher_dim = teacher.as_ref().map_or(0, |teacher| teacher.spec.embed_dim);
    let sizes = Settings::sizes(corpus.rows.len(), config.batch_size, clip.spec.embed_dim, teacher_dim, config.seed);
    let objective = objective::build(&config.loss, &config.loss_settings, &sizes)?;
    let objective = extra::with_extra(app, objective, &config, sampler.len(), epoch_steps * config.epochs)?;
    let params = train_parameters(&mut clip, &config, &objective)?;
    extra::check_captions(&config, needs)?;
    let trained = clip.store().trained().map(crate::weights::Trained::params).unwrap_or_default();
    let rate_of = |name: &str| params.iter().find(|param| param.name == name);
    let towers = trained.iter().map(|(name, var)| {
        let (decays, rate) = rate_of(name).map_or((true, 1.0), |param| (param.decays, param.rate));
        (name.clone(), var.clone(), decays, rate)
    });
    let own = objective.params().into_iter().map(|(name, var)| {
        let decays = var.rank() > 1;
        (objective_param(&name), var, decays, 1.0)
    });
    let settings =
        optim::Settings { beta1: config.beta1, beta2: config.beta2, eps: config.eps, weight_decay: config.wd };
    let optimizer = Optimizer::new(&config.opt, settings, towers.chain(own))?;
    let ema = match (config.ema_decay, needs.ema) {
        (None, false) => None,
        // ALBEF's.
        (decay, _) => Some(Ema::new(&trained, decay.unwrap_or(0.995))?),
    };
    let shape = SCHEDULES.iter().find(|entry| entry.name == config.lr_scheduler).map(|entry| entry.shape);
    let shape = shape.ok_or_else(|| {
        let names = SCHEDULES.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
        Error::usage(format!("there is no schedule `{}`", config.lr_scheduler)).hint(names)
    })?;
    let schedule = Schedule { rate: config.lr, warmup: config.warmup, steps: epoch_steps * config.epochs, shape };

    let workers = args.data.workers.map_or(app.threads, std::num::NonZeroUsize::get);
    let plain = plain_transform(&clip);
    let frozen_images = !trained.keys().any(|name| clip.store().ours(name).is_some_and(|o| o.starts_with("image.")));
    let transform = if frozen_images { plain.clone() } else { transform(&clip, &config)? };
    let prompts = if args.check.no_retention { Vec::new() } else { prompts()? };
    let validation = match sources.validation {
        Some(held) => {
            let held = Arc::new(held);
            let rows = held.all();
            Some(Validation::new(&held, &rows, prompts, plain.clone(), workers, config.micro_batch))
        }
        None if split.held.is_empty() => None,
        None => Some(Validation::new(&corpus, &split.held, prompts, plain.clone(), workers, config.micro_batch)),
    };
    let validation = match (validation, sources.labelled) {
        (Some(validation), Some(labelled)) => {
            let prompts = class_prompts(&labelled.labels)?;
            Some(validation.with_labelled(labelled, prompts))
        }
        (validation, _) => validation,
    };
    let run = Run {
        config: &config,
        clip: &clip,
        start: start.as_ref(),
        teacher: teacher.as_ref(),
        corpus: corpus.clone(),
        sampler,
        transform,
        negatives: negatives(&config)?,
        image_cache: None,
        composition: None,
        validation,
        group,
        objective,
        optimizer,
        ema,
        schedule,
        plain,
        interrupt: app.interrupt,
        workers,
        save_every: args.how.save_every,
        keep_all: args.how.keep_checkpoints,
        limit: args.check.max_disagreement,
        limit_lost: args.check.max_accuracy_loss,
    };
    if args.dry_run {
        return show::dry_run(app, run, &params, &split);
    }
    begin(app, &args, directory, scratch, state, run, &split, frozen_images)
}

#[allow(clippy::too_many_arguments)]
fn begin(
    app: &App,
    args: &FinetuneArgs,
    directory: Option<RunDir>,
    scratch: Option<Scratch>,
    state: State,
    mut run: Run<'_>,
    split: &Split,
    frozen_images: bool,
) -> Result<Status> {
    show::plan(app, &run, split);
    if state.done {
        app.note("the run is at its end already");
        return Ok(Status::Done);
    }
    let directory = match (directory, &args.output) {
        (Some(directory), _) => directory,
        (None, Some(path)) if run.group.rank() == 0 => RunDir::create(path, run.config)?,
        (None, Some(path)) => RunDir::follow(path),
        (None, None) => return Err(Error::usage("--output is missing")),
    };
    if let Some(mut scratch) = scratch {
        scratch.keep = true;
    }
    let watching = Watching::new(app, &directory, &run, state.step)?;
    let tick = || app.interrupt.check();
    if let Some(mut validation) = run.validation.take() {
        // The start is what the checkpoint on disk gives, also when a run goes on.
        match state.step {
            0 => validation.begin(run.clip, &tick)?,
            _ => validation.begin(&open(app, run.config)?, &tick)?,
        }
        run.validation = Some(validation);
    }
    if frozen_images && !run.needs_pixels() {
        run.image_cache = Some(run.embed_all(&tick)?);
    }
    let status = run.run(&directory, state, &watching);
    watching.finish(&directory, &run, status.as_ref().ok())?;
    status.map(|_| Status::Done)
}

/// The random model that a run begins with, in a directory of the run's; it goes unless the run begins.
struct Scratch {
    start: PathBuf,
    keep: bool,
}

impl Scratch {
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

/// The directory of a run that goes on, what it does and where it stands; of a new one the configuration alone.
fn directory(args: &FinetuneArgs, group: &dyn Group) -> Result<(Option<RunDir>, Config, State)> {
    let asked = args.config();
    if !args.resume {
        if asked.train_data.is_empty() {
            return Err(Error::usage("--train-data is missing")
                .hint("a table with columns filepath and title, archives, or class folders"));
        }
        return Ok((None, asked, State::default()));
    }
    let Some(path) = &args.output else { return Err(Error::usage("--resume needs --output: the run to go on with")) };
    let (directory, saved, state) = match group.rank() {
        0 => RunDir::open(path)?,
        _ => RunDir::follow_open(path)?,
    };
    same_options(&asked, &saved)?;
    // The data may have moved.
    let data = if asked.train_data.is_empty() { saved.train_data.clone() } else { asked.train_data };
    Ok((Some(directory), Config { train_data: data, ..saved }, state))
}

/// Fails when the command line asks for something else than the run does.
fn same_options(asked: &Config, saved: &Config) -> Result<()> {
    let command = FinetuneArgs::augment_args(clap::Command::new("finetune"));
    let matches = command.try_get_matches_from(["finetune", "--dry-run"]).map_err(Error::run)?;
    let usual = FinetuneArgs::from_arg_matches(&matches).map_err(Error::run)?.config();
    let [asked, saved, usual] = [asked, saved, &usual].map(|config| serde_json::to_value(config).unwrap_or_default());
    for (key, value) in asked.as_object().into_iter().flatten() {
        let given = usual.get(key) != Some(value);
        if given && saved.get(key) != Some(value) && key != "train_data" {
            let was = saved.get(key).map(ToString::to_string).unwrap_or_default();
            return Err(Error::usage(format!("the run was begun with {} {was}, not {value}", key.replace('_', "-")))
                .hint("a run goes on as it began; leave the option away"));
        }
    }
    Ok(())
}

fn open(app: &App, config: &Config) -> Result<Clip> {
    app.open_model(&ModelArgs { model: config.model.clone(), image_size: config.image_size })
}

fn check_model(clip: &Clip, config: &mut Config) -> Result<()> {
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

/// What was read.
struct Sources {
    corpus: Corpus,
    validation: Option<Corpus>,
    labelled: Option<Corpus>,
}

fn sources(app: &App, args: &FinetuneArgs, config: &mut Config) -> Result<Sources> {
    let source = SourceArgs::of(&config.source)?;
    let options = |data: &str, factors: Option<&str>| -> Result<Options> {
        let interrupt = app.interrupt;
        let keys = |name: &str| config.columns.get(name).map(|keys| keys.split(';').map(str::to_owned).collect());
        let keys = |name: &str| keys(name).unwrap_or_default();
        Ok(Options {
            parts: Part::parse(data, factors)?,
            format: source.format(),
            source: SourceOptions { label_key: keys("label"), ..source.options() },
            group_key: keys("group"),
            neg_caption_key: keys("neg_caption"),
            neg_image_key: keys("neg_image"),
            weight_key: keys("weight"),
            names: config.columns.get("classnames").map(|path| ClassNames::load(Path::new(path))).transpose()?,
            templates: config.columns.get("templates").map(|name| templates::load(name)).transpose()?,
            check: match config.columns.get("check").map(String::as_str) {
                Some("off") => Check::Off,
                Some("read") => Check::Read,
                _ => Check::Decode,
            },
            strict: args.data.strict,
            workers: args.data.workers.map(std::num::NonZeroUsize::get),
            watch: Some(Arc::new(move |_, _| interrupt.check())),
            ..Options::default()
        })
    };
    let corpus = Corpus::open(&options(&config.train_data, config.upsampling.as_deref())?)?;
    let validation = config.val_data.as_deref().map(|data| Corpus::open(&options(data, None)?)).transpose()?;
    let labelled = config.retention_data.as_deref().map(|data| Corpus::open(&options(data, None)?)).transpose()?;
    if let Some(row) = labelled.as_ref().and_then(|corpus| corpus.rows.iter().find(|row| row.label.is_none())) {
        return Err(Error::run("an image without a class")
            .at(&row.at)
            .hint("--retention-data needs class folders, or a column label"));
    }
    Ok(Sources { corpus, validation, labelled })
}

/// Fills in what follows from the data.
fn resolve(config: &mut Config, corpus: &Corpus, epoch_steps: usize, processes: usize) {
    let steps = epoch_steps * config.epochs;
    if config.warmup == usize::MAX {
        config.warmup = (steps / 10).min(50);
    }
    if config.negatives[0] == usize::MAX {
        config.negatives[0] = usize::from(corpus.rows.iter().any(|row| !row.neg_captions.is_empty()));
    }
    let usual = if config.mochi.is_some() { steps / 10 } else { 0 };
    config.mochi_after = config.mochi_after.map(|after| if after == usize::MAX { usual } else { after });
    config.processes = processes;
}

/// Makes variables of what is trained.
fn train_parameters(clip: &mut Clip, config: &Config, objective: &Sum) -> Result<Vec<Param>> {
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
    let adapters = match (&config.lora, config.train()) {
        (Some(settings), Train::Lora) => lora::adapters(clip, settings, config.seed)?,
        _ => Default::default(),
    };
    if config.train() == Train::Lora {
        // A packed copy of everything that stays would be most of the memory.
        crate::ops::linear::keep_packed(false);
    }
    let trained = clip.store_mut().train(params.iter().map(|param| param.name.as_str()))?;
    trained.adapters = adapters;
    trained.checkpointing = config.grad_checkpointing;
    let share = config.lora.as_ref().map_or(0.0, |lora| lora.dropout);
    trained.dropout =
        (share > 0.0).then(|| Dropout { p: share as f32, seed: Arc::new(Dropout::OFF.into()), stream: 0 });
    Ok(params)
}

/// What the tower is given at inference.
fn plain_transform(clip: &Clip) -> Transform {
    let preprocess = clip.preprocess().clone();
    Arc::new(move |raster, _| Ok(preprocess.bytes(raster)?.values))
}

fn transform(clip: &Clip, config: &Config) -> Result<Transform> {
    let settings: Vec<_> = config.aug_cfg.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let (augment, preprocess) = (Augment::parse(&settings)?, clip.preprocess().clone());
    Ok(Arc::new(move |raster, rng| Ok(augment.run(raster, &preprocess, rng)?.values)))
}

/// What makes captions that do not fit, if they are asked for.
fn negatives(config: &Config) -> Result<Option<MakeNegatives>> {
    let Some((kinds, count)) = config.text_negatives.clone() else { return Ok(None) };
    let editor = Editor::new(&kinds.split(',').collect::<Vec<_>>())?;
    Ok(Some(Arc::new(move |caption, rng| {
        editor.negatives(caption, count, rng).into_iter().map(|negative| negative.text).collect()
    })))
}

/// What retention is measured over: 1,000 classes, each in one prompt.
fn prompts() -> Result<Vec<String>> {
    class_prompts(&imagenet_classes())
}

/// One prompt for each class.
fn class_prompts(classes: &[String]) -> Result<Vec<String>> {
    let templates = templates::load("simple")?;
    let prompts: Vec<Vec<String>> = classes.iter().map(|class| templates.fill(class)).collect::<Result<_>>()?;
    Ok(prompts.concat())
}
