//! Labels become a classifier, with the help of the disk.

use super::super::args::warn_truncated;
use crate::app::App;
use crate::classifier::cache::Key;
use crate::classifier::{Cache, Classifier, Prompts, Scoring, Weights};
use crate::error::Result;
use crate::model::Clip;
use crate::text::TemplateSet;
use clap::Args;

/// What may be kept of a classifier.
#[derive(Args, Clone, Debug)]
pub(in crate::commands) struct HeadArgs {
    /// Compute the labels' embeddings even if an earlier run kept them, and keep none
    #[arg(long, help_heading = "Labels")]
    pub(in crate::commands) no_cache: bool,
}

/// The classifier of these labels.
pub(in crate::commands) fn classifier(
    app: &App,
    clip: &Clip,
    labels: Vec<String>,
    templates: &TemplateSet,
    scoring: Scoring,
    args: &HeadArgs,
) -> Result<Classifier> {
    let prompts = Prompts::new(&labels, templates, scoring == Scoring::AgainstNull)?;
    let weights = weights(app, clip, &prompts, args)?;
    Classifier::new(labels, weights, clip.head()?, scoring)
}

/// The rows of these prompts.
pub(in crate::commands) fn weights(app: &App, clip: &Clip, prompts: &Prompts, args: &HeadArgs) -> Result<Weights> {
    let directory = if args.no_cache { None } else { app.cache_dir() };
    let Some(cache) = directory.map(|directory| Cache::new(directory.join("heads"))) else {
        return embed(app, clip, prompts);
    };
    let numbers = clip.store().precision();
    let path = format!("{:?} {numbers} {}", app.device.location(), crate::ops::instruction_set(clip.store().is_int8()));
    let key = Key::new(&clip.text_sha()?, &path, prompts);
    if let Some(weights) = cache.load(&key, prompts.rows().len(), clip.spec.embed_dim) {
        app.detail(format_args!("the labels' embeddings were kept in {}", cache.directory().display()));
        return Ok(weights);
    }
    let weights = embed(app, clip, prompts)?;
    if let Err(error) = cache.save(&key, &weights) {
        // A full or read-only disk costs time at the next run, nothing else.
        app.detail(format_args!("cannot keep the labels' embeddings in {}: {error}", cache.directory().display()));
    }
    Ok(weights)
}

fn embed(app: &App, clip: &Clip, prompts: &Prompts) -> Result<Weights> {
    let progress = app.progress("prompts");
    progress.expect(prompts.count() as u64);
    let mut before = 0;
    let result = prompts.embed(clip, |done| {
        progress.add((done - before) as u64);
        before = done;
        app.interrupt.check()
    });
    progress.finish();
    let (weights, truncated) = result?;
    warn_truncated(app, truncated as u64, clip.spec.text.context());
    Ok(weights)
}
