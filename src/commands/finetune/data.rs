//! The data of a run: what is trained on, and what is looked at.

use super::args::FinetuneArgs;
use super::show;
use crate::app::App;
use crate::commands::args::SourceArgs;
use crate::data::{ClassNames, SourceOptions};
use crate::error::{Error, Result};
use crate::eval::retention::imagenet_classes;
use crate::image::augment::Augment;
use crate::model::Clip;
use crate::text::templates;
use crate::train::config::Config;
use crate::train::data::{Check, Corpus, Options, Part, Sampler, Split, Transform};
use crate::train::embed::Reading;
use crate::train::run::captions;
use crate::train::validate::Validation;
use std::path::Path;
use std::sync::Arc;

/// What was read.
pub(super) struct Data {
    pub(super) corpus: Arc<Corpus>,
    pub(super) split: Split,
    pub(super) sampler: Sampler,
    /// What is looked at, if it is not held out.
    validation: Option<Arc<Corpus>>,
    labelled: Option<Corpus>,
}

impl Data {
    /// Reads what the command line names, and says what is wrong with it.
    ///
    /// # Errors
    /// If it cannot be trained on, and if a run goes on and the data are not what they were.
    pub(super) fn open(app: &App, args: &FinetuneArgs, config: &mut Config) -> Result<Self> {
        let open = |data: &str, factors: Option<&str>| Corpus::open(&options(app, args, config, data, factors)?);
        let corpus = Arc::new(open(&config.train_data, config.upsampling.as_deref())?);
        let validation = config.val_data.as_deref().map(|data| open(data, None)).transpose()?;
        let labelled = config.retention_data.as_deref().map(|data| open(data, None)).transpose()?;
        if let Some(row) = labelled.as_ref().and_then(|corpus| corpus.rows.iter().find(|row| row.label.is_none())) {
            return Err(Error::run("an image without a class")
                .at(&row.at)
                .hint("--retention-data needs class folders, or a column label"));
        }
        show::skipped(app, &corpus);
        let fingerprint = corpus.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if config.data.is_empty() {
            config.data = fingerprint;
        } else if config.data != fingerprint {
            return Err(Error::run("the training data are not those that the run began with")
                .hint("put them back as they were, or begin a new run from this one: --model RUN --output NEW"));
        }
        let common = validation.as_ref().map_or(0, |held| corpus.in_common(held));
        if common > 0 {
            app.warn(format_args!("{common} images are in the training and the validation data"));
        }
        let split = match &validation {
            Some(_) => Split { train: corpus.all(), held: Vec::new() },
            None => corpus.hold_out(config.seed),
        };
        let sampler = Sampler::new(&corpus, &split.train, captions(&config.caption_sampling), config.seed);
        for warning in corpus.advice(&split.train, sampler.len(), config.batch_size)? {
            app.warn(warning);
        }
        Ok(Self { corpus, split, sampler, validation: validation.map(Arc::new), labelled })
    }

    /// How many steps an epoch has.
    pub(super) fn epoch_steps(&self, config: &Config) -> usize {
        self.sampler.len() / config.batch_size
    }

    /// What is looked at after each epoch, if anything is.
    pub(super) fn validation(&self, config: &Config, reading: &Reading) -> Result<Option<Validation>> {
        let (corpus, rows) = match &self.validation {
            Some(corpus) => (corpus, corpus.all()),
            None if self.split.held.is_empty() => return Ok(None),
            None => (&self.corpus, self.split.held.clone()),
        };
        let prompts = if config.retention.is_none() { Vec::new() } else { class_prompts(&imagenet_classes())? };
        let validation = Validation::new(corpus, &rows, prompts, reading.clone());
        Ok(Some(match &self.labelled {
            Some(labelled) => validation.with_labelled(labelled.clone(), class_prompts(&labelled.labels)?),
            None => validation,
        }))
    }
}

fn options(app: &App, args: &FinetuneArgs, config: &Config, data: &str, factors: Option<&str>) -> Result<Options> {
    let source = SourceArgs::of(&config.source)?;
    let interrupt = app.interrupt;
    let named = |name: &str| config.columns.get(name).map(String::as_str);
    let keys = |name: &str| named(name).map(|keys| keys.split(';').map(str::to_owned).collect()).unwrap_or_default();
    Ok(Options {
        parts: Part::parse(data, factors)?,
        format: source.format(),
        source: SourceOptions { label_key: keys("label"), ..source.options() },
        group_key: keys("group"),
        neg_caption_key: keys("neg_caption"),
        neg_image_key: keys("neg_image"),
        weight_key: keys("weight"),
        names: named("classnames").map(|path| ClassNames::load(Path::new(path))).transpose()?,
        templates: named("templates").map(templates::load).transpose()?,
        check: match named("check") {
            Some("off") => Check::Off,
            Some("read") => Check::Read,
            _ => Check::Decode,
        },
        strict: args.data.strict,
        workers: args.data.workers.map(std::num::NonZeroUsize::get),
        watch: Some(Arc::new(move |_, _| interrupt.check())),
        ..Options::default()
    })
}

/// What the tower is given at inference.
pub(in crate::commands) fn plain_transform(clip: &Clip) -> Transform {
    let preprocess = clip.preprocess().clone();
    Arc::new(move |raster, _| Ok(preprocess.bytes(raster)?.values))
}

/// What the tower is given in training.
pub(super) fn transform(clip: &Clip, config: &Config) -> Result<Transform> {
    let settings: Vec<_> = config.aug_cfg.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let (augment, preprocess) = (Augment::parse(&settings)?, clip.preprocess().clone());
    Ok(Arc::new(move |raster, rng| Ok(augment.run(raster, &preprocess, rng)?.values)))
}

/// One prompt for each class.
pub(in crate::commands) fn class_prompts(classes: &[String]) -> Result<Vec<String>> {
    let templates = templates::load("simple")?;
    let prompts: Vec<Vec<String>> = classes.iter().map(|class| templates.fill(class)).collect::<Result<_>>()?;
    Ok(prompts.concat())
}
