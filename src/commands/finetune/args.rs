//! The options of `finetune`, named as in open_clip where it has them.

use crate::app::ModelArgs;
use crate::commands::args::SourceArgs;
use crate::train::config::{Config, ExtraConfig, LoraConfig, MiningConfig};
use crate::train::optim::OPTIMIZERS;
use crate::train::schedule::SCHEDULES;
use crate::train::select::Train;
use clap::Args;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub(super) struct FinetuneArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// Train from scratch: a configuration with a tokenizer beside it, as `models new` takes it. The random weights
    /// that it begins with are kept in the run's directory `start`
    #[arg(long, value_name = "CONFIG", requires = "output", conflicts_with_all = ["model", "resume"])]
    pub(super) init: Option<PathBuf>,

    /// The run's directory, which becomes a model
    #[arg(long, short, value_name = "DIR", required_unless_present_any = ["list_losses", "dry_run"])]
    pub(super) output: Option<PathBuf>,

    /// Go on with the run in --output; other options must be as they were, or absent
    #[arg(long)]
    pub(super) resume: bool,

    /// Show what would be done: the configuration, what is trained, steps, memory, three samples
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Show the objectives and end
    #[arg(long)]
    pub(super) list_losses: bool,

    #[command(flatten)]
    pub(super) data: DataArgs,

    #[command(flatten)]
    pub(super) source: SourceArgs,

    #[command(flatten)]
    pub(super) what: WhatArgs,

    #[command(flatten)]
    pub(super) how: HowArgs,

    #[command(flatten)]
    pub(super) negatives: NegativeArgs,

    #[command(flatten)]
    pub(super) check: CheckArgs,
}

/// The data.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data")]
pub(super) struct DataArgs {
    /// Images with captions: tables, archives, class folders; `a::b` mixes
    #[arg(long, value_name = "DATA")]
    pub(super) train_data: Option<String>,

    /// Pairs to look at after each epoch [default: a tenth of the training images, held out]
    #[arg(long, value_name = "DATA")]
    pub(super) val_data: Option<String>,

    /// How often an epoch sees each source of a mixture: `1::2`
    #[arg(long, value_name = "FACTORS")]
    pub(super) train_data_upsampling_factors: Option<String>,

    /// Which of an image's captions an epoch sees: random (one), all (each as a pair), first
    #[arg(long, value_name = "HOW", default_value = "random", value_parser = ["random", "all", "first"])]
    pub(super) caption_sampling: String,

    /// Pairs of one image, text, class or group are: mask (left out), multi (positives), off (negatives)
    #[arg(long, value_name = "HOW", default_value = "mask", value_parser = ["mask", "multi", "off"])]
    pub(super) duplicates: String,

    /// How training images are changed, as open_clip names it: `scale=0.9,1.0 color_jitter=0.4,0.4,0.4,0.1 …`
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = key_value)]
    pub(super) aug_cfg: Vec<(String, String)>,

    /// The column with the class; several with `;` in between, the first that is there counts
    #[arg(long, value_name = "NAME", value_delimiter = ';')]
    pub(super) label_key: Vec<String>,

    /// The same for groups: rows of one group are never each other's negatives
    #[arg(long, value_name = "NAME", value_delimiter = ';')]
    pub(super) group_key: Vec<String>,

    /// The same for captions that do not fit the image
    #[arg(long, value_name = "NAME", value_delimiter = ';', alias = "csv-hard-captions-key")]
    pub(super) neg_caption_key: Vec<String>,

    /// The same for images that do not fit the caption
    #[arg(long, value_name = "NAME", value_delimiter = ';')]
    pub(super) neg_image_key: Vec<String>,

    /// The same for how much a row counts
    #[arg(long, value_name = "NAME", value_delimiter = ';')]
    pub(super) weight_key: Vec<String>,

    /// What class folders and labels stand for, as in `zeroshot --eval`
    #[arg(long, value_name = "FILE")]
    pub(super) classnames: Option<PathBuf>,

    /// Captions of classes: openai-80, openai-7, simple, a file, or a template with {} in it [default: openai-80]
    #[arg(long, value_name = "TEMPLATES")]
    pub(super) templates: Option<String>,

    /// How closely images are looked at beforehand: off, read (all bytes: equal images are found), decode (those that
    /// cannot be read are left out)
    #[arg(long, value_name = "HOW", default_value = "decode", value_parser = ["off", "read", "decode"])]
    pub(super) check_images: String,

    /// A row that cannot be used ends the run
    #[arg(long)]
    pub(super) strict: bool,

    /// How many threads decode images [default: as many as --threads]. Results do not depend on it
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<NonZeroUsize>,
}

/// What is trained.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is trained")]
pub(super) struct WhatArgs {
    /// all, image, text, projections, layernorm, bias, last-N (blocks) or lora. With text, images keep their embeddings,
    /// and are run once
    #[arg(long, value_name = "PARTS", default_value = "text")]
    pub(super) train: Train,

    /// Keep the image tower as it is; it is run once
    #[arg(long)]
    pub(super) lock_image: bool,

    /// Train the last N groups of layers of a locked image tower
    #[arg(long, value_name = "N", default_value_t = 0, requires = "lock_image")]
    pub(super) lock_image_unlocked_groups: usize,

    /// Keep the text tower as it is
    #[arg(long)]
    pub(super) lock_text: bool,

    /// Train the last N groups of layers of a locked text tower
    #[arg(long, value_name = "N", default_value_t = 0, requires = "lock_text")]
    pub(super) lock_text_unlocked_layers: usize,

    /// Keep the logits' scale and bias as they are
    #[arg(long)]
    pub(super) lock_logit_scale: bool,

    /// The learning rate of each layer over that of the next, in the image tower
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(super) image_layer_decay: f64,

    /// The same in the text tower
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(super) text_layer_decay: f64,

    /// Go on with these low-rank changes: PEFT's, or those of a run. Their rank and factor stay
    #[arg(long, value_name = "DIR", conflicts_with_all = ["lora_rank", "lora_alpha", "lora_targets", "lora_tower"])]
    pub(super) init_lora: Option<PathBuf>,

    /// The rank of low-rank changes
    #[arg(long, value_name = "R", default_value_t = 8)]
    pub(super) lora_rank: usize,

    /// Their factor is alpha / rank [default: twice the rank]
    #[arg(long, value_name = "ALPHA")]
    pub(super) lora_alpha: Option<f64>,

    /// The share of their inputs that is dropped in training
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(super) lora_dropout: f64,

    /// Which maps get one: q, k, v, out, fc1, fc2, proj
    #[arg(long, value_name = "MAPS", value_delimiter = ',', default_value = "q,k,v,out", value_parser = ["q", "k", "v", "out", "fc1", "fc2", "proj"])]
    pub(super) lora_targets: Vec<String>,

    /// In which tower: image, text or both
    #[arg(long, value_name = "TOWER", default_value = "both", value_parser = ["image", "text", "both"])]
    pub(super) lora_tower: String,
}

/// How it is trained.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Training")]
pub(super) struct HowArgs {
    /// The objective, or a weighted sum: `clip:1,cuaxu:0.5` (see --list-losses)
    #[arg(long, value_name = "LOSS", default_value = "clip")]
    pub(super) loss: String,

    /// A setting of an objective: `clip.smoothing=0.1`
    #[arg(long, value_name = "LOSS.KEY=VALUE", value_parser = loss_setting)]
    pub(super) loss_opt: Vec<(String, String, f64)>,

    /// The model to learn from, for objectives that have a teacher
    #[arg(long, value_name = "MODEL", alias = "distill-model")]
    pub(super) teacher: Option<String>,

    /// How many pairs are contrasted with each other
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(super) batch_size: usize,

    /// How many items go through a tower at once [default: the batch, 32 at most]. It decides the memory and, up to
    /// rounding, not the result
    #[arg(long, value_name = "N", conflicts_with = "accum_freq")]
    pub(super) micro_batch: Option<usize>,

    /// open_clip's: --batch-size times K pairs are contrasted, --batch-size at once
    #[arg(long, value_name = "K")]
    pub(super) accum_freq: Option<usize>,

    /// Compute activations again instead of keeping them: less memory, a third more time
    #[arg(long)]
    pub(super) grad_checkpointing: bool,

    /// How many times the data are seen
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(super) epochs: usize,

    #[arg(long, value_name = "NAME", default_value = "adamw", help = optimizers())]
    pub(super) opt: String,

    /// The highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 1e-5)]
    pub(super) lr: f64,

    /// The first moment's decay; SGD's momentum
    #[arg(long, value_name = "B", default_value_t = 0.9)]
    pub(super) beta1: f64,

    /// The second moment's decay [default: 0.98; Lion 0.99]
    #[arg(long, value_name = "B")]
    pub(super) beta2: Option<f64>,

    /// Added to the root of the second moment
    #[arg(long, value_name = "EPS", default_value_t = 1e-6)]
    pub(super) eps: f64,

    /// Weight decay, of matrices alone
    #[arg(long, value_name = "WD", default_value_t = 0.1)]
    pub(super) wd: f64,

    /// How many steps the rate rises [default: a tenth of them, 50 at most]
    #[arg(long, value_name = "STEPS")]
    pub(super) warmup: Option<usize>,

    #[arg(long, value_name = "NAME", default_value = "cosine", help = schedules())]
    pub(super) lr_scheduler: String,

    /// The largest norm of all gradients together; 0 for none
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub(super) grad_clip_norm: f64,

    /// Average the weights over steps with this decay, and keep the average
    #[arg(long, value_name = "DECAY")]
    pub(super) ema_decay: Option<f64>,

    /// What all randomness follows from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seed: u64,

    /// Write a checkpoint every N steps, beside the one after each epoch
    #[arg(long, value_name = "N")]
    pub(super) save_every: Option<usize>,

    /// Keep the checkpoints of all epochs
    #[arg(long)]
    pub(super) keep_checkpoints: bool,

    /// The processes that train together: local, or mpi under `mpirun`
    #[arg(long, value_name = "ENGINE", default_value = "local", value_parser = crate::train::group::names())]
    pub(super) dist: String,
}

/// Hard negatives.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Hard negatives")]
pub(super) struct NegativeArgs {
    /// Make captions that do not fit: kinds as in `negatives text`
    #[arg(long, value_name = "KINDS")]
    pub(super) text_negatives: Option<String>,

    /// How many of them for each caption
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub(super) per_caption: usize,

    /// How many of the data's negative captions a pair gets [default: 1, if there are any]
    #[arg(long, value_name = "K")]
    pub(super) neg_captions: Option<usize>,

    /// How many of the data's negative images a pair gets; those with captions become pairs
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(super) neg_images: usize,

    /// Mine the data themselves: hard (each pair beside a near one in the batch), cluster (each batch of one cluster) or
    /// columns (captions near to the image become captions that do not fit it, for negclip and degla)
    #[arg(long, value_name = "HOW", value_parser = ["hard", "cluster", "columns"])]
    pub(super) mine: Option<String>,

    /// Every how many epochs embeddings for it are made anew
    #[arg(long, value_name = "N", default_value_t = 1, requires = "mine")]
    pub(super) mine_every: usize,

    /// How many clusters
    #[arg(long, value_name = "N", default_value_t = 10, requires = "mine")]
    pub(super) mine_clusters: usize,

    /// How many mined captions a pair gets with --mine columns
    #[arg(long, value_name = "K", default_value_t = NonZeroUsize::MIN, requires = "mine")]
    pub(super) mine_captions: NonZeroUsize,

    /// Further columns of the softmax: queue=N (pairs of the last batches), sample=K (for each query, drawn from batch and
    /// queue, near ones more often), or both: queue=4096,sample=16
    #[arg(long, value_name = "WHAT", value_parser = extra)]
    pub(super) extra_negatives: Option<ExtraConfig>,

    /// MoCHi: of the N hardest of batch and queue mix S negatives of two and S2 of one and the query
    #[arg(long, value_name = "N,S,S2", value_parser = mochi)]
    pub(super) mochi: Option<[usize; 3]>,

    /// The steps before the first mixes of two, and before those with the query [default: a tenth of all steps]
    #[arg(long, value_name = "STEPS,STEPS", value_parser = mochi_after, requires = "mochi")]
    pub(super) mochi_after: Option<[usize; 2]>,
}

/// What is looked at.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Looking at it")]
pub(super) struct CheckArgs {
    /// The largest share of held-out images whose class among 1,000 names may change
    #[arg(long, value_name = "SHARE", default_value_t = 0.10)]
    pub(super) max_disagreement: f64,

    /// Images of known classes, in class folders or tables: their accuracy is watched, too
    #[arg(long, value_name = "DATA")]
    pub(super) retention_data: Option<String>,

    /// How much of that accuracy may be lost
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    pub(super) max_accuracy_loss: f64,

    /// Do not measure how much of zero-shot is kept
    #[arg(long)]
    pub(super) no_retention: bool,
}

impl FinetuneArgs {
    /// The run's configuration, as far as the command line decides it.
    pub(super) fn config(&self) -> Config {
        let Self { what, how, negatives, data, .. } = self;
        let (batch_size, micro_batch) = match how.accum_freq {
            Some(times) => (how.batch_size * times.max(1), how.batch_size),
            None => (how.batch_size, how.micro_batch.unwrap_or_else(|| how.batch_size.min(32))),
        };
        Config {
            train_data: data.train_data.clone().unwrap_or_default(),
            val_data: data.val_data.clone(),
            upsampling: data.train_data_upsampling_factors.clone(),
            source: self.source.values(),
            columns: data.columns(),
            retention_data: self.check.retention_data.clone(),
            retention: (!self.check.no_retention)
                .then_some([self.check.max_disagreement, self.check.max_accuracy_loss]),
            model: self.model.model.clone(),
            model_sha: String::new(),
            image_size: self.model.image_size,
            train: what.train.to_string(),
            lock_image: what.lock_image.then_some(what.lock_image_unlocked_groups),
            lock_text: what.lock_text.then_some(what.lock_text_unlocked_layers),
            lock_scale: what.lock_logit_scale,
            layer_decay: [what.image_layer_decay, what.text_layer_decay],
            lora: (what.train == Train::Lora).then(|| LoraConfig {
                rank: what.lora_rank,
                alpha: what.lora_alpha.unwrap_or(2.0 * what.lora_rank as f64),
                dropout: what.lora_dropout,
                targets: what.lora_targets.clone(),
                tower: what.lora_tower.clone(),
            }),
            init_lora: what.init_lora.clone(),
            init_lora_sha: String::new(),
            loss: how.loss.clone(),
            bias: None,
            loss_settings: how.loss_opt.clone(),
            teacher: how.teacher.clone(),
            duplicates: data.duplicates.clone(),
            batch_size,
            micro_batch: micro_batch.max(1),
            grad_checkpointing: how.grad_checkpointing,
            epochs: how.epochs,
            opt: how.opt.clone(),
            lr: how.lr,
            beta1: how.beta1,
            beta2: how.beta2.unwrap_or(if how.opt == "lion" { 0.99 } else { 0.98 }),
            eps: how.eps,
            wd: how.wd,
            warmup: how.warmup.unwrap_or(usize::MAX),
            lr_scheduler: how.lr_scheduler.clone(),
            grad_clip_norm: (how.grad_clip_norm > 0.0).then_some(how.grad_clip_norm),
            ema_decay: how.ema_decay,
            caption_sampling: data.caption_sampling.clone(),
            aug_cfg: data.aug_cfg.clone(),
            text_negatives: negatives.text_negatives.clone().map(|kinds| (kinds, negatives.per_caption)),
            negatives: [negatives.neg_captions.unwrap_or(usize::MAX), negatives.neg_images],
            mining: negatives.mine.clone().map(|batches| MiningConfig {
                every: negatives.mine_every,
                batches,
                clusters: negatives.mine_clusters,
                captions: negatives.mine_captions.get(),
            }),
            extra_negatives: negatives.extra_negatives,
            mochi: negatives.mochi,
            mochi_after: negatives.mochi_after.unwrap_or([usize::MAX; 2]),
            seed: how.seed,
            data: String::new(),
            processes: 1,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instruction_set: crate::ops::instruction_set(false).to_owned(),
        }
    }
}

impl DataArgs {
    /// The options about columns and classes that were given.
    fn columns(&self) -> BTreeMap<String, String> {
        let list = |keys: &[String]| (!keys.is_empty()).then(|| keys.join(";"));
        let all = [
            ("label", list(&self.label_key)),
            ("group", list(&self.group_key)),
            ("neg_caption", list(&self.neg_caption_key)),
            ("neg_image", list(&self.neg_image_key)),
            ("weight", list(&self.weight_key)),
            ("classnames", self.classnames.as_ref().map(|path| path.display().to_string())),
            ("templates", self.templates.clone()),
            ("check", (self.check_images != "decode").then(|| self.check_images.clone())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn loss_setting(text: &str) -> Result<(String, String, f64), String> {
    let expected = "expected LOSS.KEY=NUMBER";
    let (name, value) = text.split_once('=').ok_or(expected)?;
    let (loss, key) = name.split_once('.').ok_or(expected)?;
    let value = value.parse().map_err(|_| expected)?;
    Ok((loss.to_owned(), key.to_owned(), value))
}

fn extra(text: &str) -> Result<ExtraConfig, String> {
    let expected = || "expected queue=N, sample=K, or both with a comma between them, above 0".to_owned();
    let mut config = ExtraConfig::default();
    for part in text.split(',') {
        let (name, count) = part.split_once('=').ok_or_else(expected)?;
        let place = match name.trim() {
            "queue" => &mut config.queue,
            "sample" => &mut config.sample,
            _ => return Err(expected()),
        };
        *place = count.trim().parse().ok().filter(|count| *count > 0 && *place == 0).ok_or_else(expected)?;
    }
    Ok(config)
}

fn mochi(text: &str) -> Result<[usize; 3], String> {
    let found = counts(text).filter(|[hardest, pairs, query]: &[usize; 3]| *hardest > 0 && pairs + query > 0);
    found.ok_or_else(|| "expected three numbers with commas between them; not all mixes can be 0".to_owned())
}

fn mochi_after(text: &str) -> Result<[usize; 2], String> {
    counts(text).ok_or_else(|| "expected two numbers of steps with a comma between them".to_owned())
}

/// So many numbers with commas between them, each small enough that no sum of them overflows.
fn counts<const N: usize>(text: &str) -> Option<[usize; N]> {
    let counts: Option<Vec<u32>> = text.split(',').map(|count| count.trim().parse().ok()).collect();
    let counts: Vec<usize> = counts?.into_iter().map(|count| count as usize).collect();
    counts.try_into().ok()
}

fn optimizers() -> String {
    let all: Vec<_> = OPTIMIZERS.iter().map(|entry| format!("{} ({})", entry.name, entry.about)).collect();
    format!("The optimiser: {}", all.join("; "))
}

fn schedules() -> String {
    let all: Vec<_> = SCHEDULES.iter().map(|entry| format!("{} ({})", entry.name, entry.about)).collect();
    format!("The learning rate behind the warm-up: {}", all.join("; "))
}
