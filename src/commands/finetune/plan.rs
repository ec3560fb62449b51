//! From the command line to a run.

use super::args::FinetuneArgs;
use super::data::{Data, plain_transform, transform};
use super::model::{self, Scratch};
use super::{bias, extra, resume, show, together, watch::Watching};
use crate::app::App;
use crate::commands::Status;
use crate::error::{Error, Result};
use crate::text::edit::Editor;
use crate::train::config::Config;
use crate::train::ema::Ema;
use crate::train::embed::Reading;
use crate::train::group::Group;
use crate::train::objective::{self, Objective, Settings, Sum};
use crate::train::optim::{self, Optimizer};
use crate::train::run::{MakeNegatives, Run, images_stay};
use crate::train::run_dir::{RunDir, State};
use crate::train::schedule::{SCHEDULES, Schedule};
use crate::train::select::Param;
use crate::train::{Features, Fits, Parts, input_size, objective_param};
use std::sync::Arc;

/// Prepares a run, and does it.
pub(super) fn run(app: &App, args: FinetuneArgs, group: &dyn Group) -> Result<Status> {
    let (directory, mut config, state) = resume::directory(&args, group)?;
    let scratch = Scratch::begin(app, &args, &mut config, group)?;
    let mut clip = model::open(app, &config)?;
    model::check(&clip, &mut config)?;
    if let Some(difference) = input_size::check(&clip)? {
        app.warn(difference);
    }
    let adapters = model::adapters(&clip, &mut config)?;
    let data = Data::open(app, &args, &mut config)?;
    resolve(&mut config, &data, group.size());
    together::check(group, &config, &state)?;

    let needs = objective::needs(&config.loss)?;
    let start = if needs.start { Some(model::start(app, &config)?) } else { None };
    let teacher = if needs.teacher { Some(model::teacher(app, &config, &clip)?) } else { None };
    let teacher_dim = teacher.as_ref().map_or(0, |teacher| teacher.spec.embed_dim);
    let rows = data.corpus.rows.len();
    let sizes = Settings::sizes(rows, config.batch_size, clip.spec.embed_dim, teacher_dim, config.seed);
    let (objective, bias) = bias::objective(app, &mut config, &clip, sizes)?;
    let steps = data.epoch_steps(&config) * config.epochs;
    let objective = extra::with_extra(app, objective, &config, data.sampler.len(), steps)?;
    extra::check_captions(&config, needs)?;
    let params = model::train(&mut clip, &config, &objective, adapters, bias)?;
    let parts = Parts::of(&clip)?;
    let optimizer = optimizer(&config, &params, &parts, &objective)?;
    let ema = match (config.ema_decay, needs.ema) {
        (None, false) => None,
        // ALBEF's.
        (decay, _) => Some(Ema::new(&parts.params, decay.unwrap_or(0.995))?),
    };
    let schedule = schedule(&config, data.epoch_steps(&config))?;
    let workers = args.data.workers.map_or(app.threads, std::num::NonZeroUsize::get);
    let reading = Reading { transform: plain_transform(&clip), workers, micro_batch: config.micro_batch };
    let transform = match images_stay(&parts, &config) {
        true => reading.transform.clone(),
        false => transform(&clip, &config)?,
    };
    // The first process looks at the model; the others wait for it.
    let validation = if group.rank() == 0 { data.validation(&config, &reading)? } else { None };
    let Data { corpus, split, sampler, .. } = data;
    let run = Run {
        config: &config,
        clip: &clip,
        parts,
        start: start.as_ref(),
        teacher: teacher.as_ref(),
        corpus,
        sampler,
        transform,
        negatives: negatives(&config)?,
        features: Features::default(),
        composition: None,
        fits: Fits::default(),
        validation,
        group,
        objective,
        optimizer,
        ema,
        schedule,
        reading,
        interrupt: app.interrupt,
        save_every: args.how.save_every,
        keep_all: args.how.keep_checkpoints,
        limits: config.retention.unwrap_or([f64::INFINITY; 2]),
    };
    if args.dry_run {
        return show::dry_run(app, run, &params, &split);
    }
    show::plan(app, &run, &split);
    Begin { app, args: &args, directory, scratch, state }.run(run)
}

/// Where a run begins, or goes on.
struct Begin<'a> {
    app: &'a App,
    args: &'a FinetuneArgs,
    /// Of a run that goes on.
    directory: Option<RunDir>,
    /// Of a run from scratch.
    scratch: Option<Scratch>,
    state: State,
}

impl Begin<'_> {
    fn run(self, mut run: Run<'_>) -> Result<Status> {
        let Self { app, args, directory, scratch, state } = self;
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
                _ => validation.begin(&model::start(app, run.config)?, &tick)?,
            }
            run.validation = Some(validation);
        }
        run.keep_features(&tick)?;
        let ended = run.run(&directory, state, &watching);
        let drawn = watching.finish(&directory, &run, ended.as_ref().ok());
        // What ended the run is worth more than what became of its curves.
        ended?;
        drawn.map(|()| Status::Done)
    }
}

/// Fills in what follows from the data.
fn resolve(config: &mut Config, data: &Data, processes: usize) {
    let steps = data.epoch_steps(config) * config.epochs;
    if config.warmup == usize::MAX {
        config.warmup = (steps / 10).min(50);
    }
    if config.negatives[0] == usize::MAX {
        config.negatives[0] = usize::from(data.corpus.rows.iter().any(|row| !row.neg_captions.is_empty()));
    }
    let usual = if config.mochi.is_some() { steps / 10 } else { 0 };
    config.mochi_after = config.mochi_after.map(|after| if after == usize::MAX { usual } else { after });
    config.processes = processes;
}

/// The optimiser of everything that is trained, what the objective itself trains included.
fn optimizer(config: &Config, params: &[Param], parts: &Parts, objective: &Sum) -> Result<Optimizer> {
    let towers = parts.params.iter().map(|(name, var)| {
        // Factors of low-rank changes are no tensors of the checkpoint.
        let param = params.iter().find(|param| param.name == *name);
        let (decays, rate) = param.map_or((true, 1.0), |param| (param.decays, param.rate));
        (name.clone(), var.clone(), decays, rate)
    });
    let own = objective.params().into_iter().map(|(name, var)| {
        let decays = var.rank() > 1;
        (objective_param(&name), var, decays, 1.0)
    });
    let Config { beta1, beta2, eps, wd: weight_decay, .. } = *config;
    Optimizer::new(&config.opt, optim::Settings { beta1, beta2, eps, weight_decay }, towers.chain(own))
}

fn schedule(config: &Config, epoch_steps: usize) -> Result<Schedule> {
    let entry = SCHEDULES.iter().find(|entry| entry.name == config.lr_scheduler).ok_or_else(|| {
        let names = SCHEDULES.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
        Error::usage(format!("there is no schedule `{}`", config.lr_scheduler)).hint(names)
    })?;
    let steps = epoch_steps * config.epochs;
    Ok(Schedule { rate: config.lr, warmup: config.warmup, steps, shape: entry.shape })
}

/// What makes captions that do not fit, if they are asked for.
fn negatives(config: &Config) -> Result<Option<MakeNegatives>> {
    let Some((kinds, count)) = config.text_negatives.clone() else { return Ok(None) };
    let editor = Editor::new(&kinds.split(',').collect::<Vec<_>>())?;
    Ok(Some(Arc::new(move |caption, rng| {
        editor.negatives(caption, count, rng).into_iter().map(|negative| negative.text).collect()
    })))
}
