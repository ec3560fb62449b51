//! The options of `tune`, named as in CoOp where it has them.

use crate::app::ModelArgs;
use crate::commands::show::Shape;
use crate::error::{Error, Result};
use crate::text::{TemplateSet, templates};
use crate::tune::context::Place;
use crate::tune::data::{Shots, Subset};
use crate::tune::method::{Entry, Options, Recipe};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Clone, Debug)]
pub(super) struct TuneArgs {
    /// How to tune: a name from --list-methods
    #[arg(long, value_name = "METHOD", default_value = "coop")]
    pub(super) method: String,

    /// Images with their classes
    #[arg(long, value_name = "DATA", required_unless_present = "list_methods")]
    pub(super) data: Option<PathBuf>,

    /// The run's directory, which becomes a model
    #[arg(long, short, value_name = "DIR", required_unless_present_any = ["list_methods", "dry_run"])]
    pub(super) output: Option<PathBuf>,

    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// Go on with the run in --output; other options must be as they were
    #[arg(long)]
    pub(super) resume: bool,

    /// Show what would be done: the split, what is trained, how many steps
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Show the methods and end
    #[arg(long)]
    pub(super) list_methods: bool,

    /// How results are shown: table, jsonl [default: a table on a terminal]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, hide_default_value = true)]
    pub(super) shape: Shape,

    #[command(flatten)]
    pub(super) protocol: ProtocolArgs,

    #[command(flatten)]
    pub(super) classes: ClassArgs,

    #[command(flatten)]
    pub(super) how: HowArgs,
}

/// What is learnt from, and what is judged by.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Protocol")]
pub(super) struct ProtocolArgs {
    /// How many images of each class are learnt from, or all; a run for each of several (1,2,4)
    #[arg(long, value_name = "K", default_value = "16", value_delimiter = ',')]
    pub(super) shots: Vec<Shots>,

    /// A run for each of these seeds, which choose the images and all that is random
    #[arg(long, value_name = "SEEDS", default_value = "1", value_delimiter = ',')]
    pub(super) seeds: Vec<u64>,

    /// Which classes are learnt: all, base (the first half, rounded up), or new
    #[arg(long, value_name = "CLASSES", default_value = "all")]
    pub(super) split: Subset,

    /// Images to judge by; may be given several times, for other sets and domains
    #[arg(long, value_name = "DATA")]
    pub(super) eval_data: Vec<PathBuf>,

    /// Images that are of no use, and classes with too few, are errors
    #[arg(long)]
    pub(super) strict: bool,

    /// The column with the class, the extension of classes in archives
    #[arg(long, value_name = "NAME", value_delimiter = ';', alias = "label-column")]
    pub(super) label_key: Vec<String>,

    /// The folder that the paths of a table or of CoOp's split begin at [default: that of the file]
    #[arg(long, value_name = "DIR")]
    pub(super) image_root: Option<PathBuf>,
}

/// The classes in words.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Classes")]
pub(super) struct ClassArgs {
    /// What folders or labels stand for: lines of a folder, a tab or a space, and the class name; or a JSON object
    #[arg(long, value_name = "FILE")]
    pub(super) classnames: Option<PathBuf>,

    /// What people would write around a class name: openai-80, openai-7, simple, a file, or a template with {} in it
    #[arg(long, value_name = "TEMPLATES", default_value = "simple", alias = "template")]
    pub(super) templates: String,

    /// What is said of each class, in place of templates: a JSON object from classes to lists of sentences (CuPL), or of
    /// features, which become `hen, which has two legs`
    #[arg(long, value_name = "FILE", conflicts_with = "templates")]
    pub(super) class_prompts: Option<PathBuf>,
}

/// How it is tuned.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tuning [default: as the method's authors]")]
pub(super) struct HowArgs {
    /// How many vectors are learnt around a class name
    #[arg(long, value_name = "N")]
    pub(super) n_ctx: Option<usize>,

    /// The words that they begin as; empty for random ones
    #[arg(long, value_name = "WORDS")]
    pub(super) ctx_init: Option<String>,

    /// Where the class name stands among them
    #[arg(long, value_name = "PLACE", value_enum, default_value_t)]
    pub(super) class_token_position: Place,

    /// Learn vectors for each class apart
    #[arg(long)]
    pub(super) csc: bool,

    /// A number of the method's own, NAME=VALUE; --list-methods names them
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub(super) method_opt: Vec<(String, f64)>,

    /// How often each image is seen
    #[arg(long, value_name = "N")]
    pub(super) epochs: Option<usize>,

    /// How many images a step sees
    #[arg(long, value_name = "N")]
    pub(super) batch_size: Option<usize>,

    /// The highest learning rate
    #[arg(long, value_name = "RATE")]
    pub(super) lr: Option<f64>,

    /// The weight decay
    #[arg(long, value_name = "DECAY")]
    pub(super) wd: Option<f64>,

    /// How many augmented views of each image are embedded; 0 for the plain image alone
    #[arg(long, value_name = "N")]
    pub(super) views: Option<usize>,
}

fn setting(text: &str) -> Result<(String, f64), String> {
    let parts = text.split_once('=').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    parts.ok_or_else(|| "expected NAME=VALUE, with a number".to_owned())
}

impl TuneArgs {
    /// The method's numbers, with what was said about them.
    pub(super) fn options(&self, entry: &Entry, seed: u64) -> Result<Options> {
        let how = &self.how;
        if how.n_ctx == Some(0) {
            return Err(Error::usage("--n-ctx 0: there is nothing to learn"));
        }
        let mut options = Options::new(entry, &how.method_opt, seed)?;
        options.n_ctx = how.n_ctx;
        options.ctx_init.clone_from(&how.ctx_init);
        options.place = how.class_token_position;
        options.class_specific = how.csc;
        Ok(options)
    }

    /// How the method is trained.
    pub(super) fn recipe(&self, entry: &Entry) -> Result<Recipe> {
        let (how, usual) = (&self.how, entry.recipe);
        let recipe = Recipe {
            epochs: how.epochs.unwrap_or(usual.epochs),
            batch: how.batch_size.unwrap_or(usual.batch),
            lr: how.lr.unwrap_or(usual.lr),
            wd: how.wd.unwrap_or(usual.wd),
            views: how.views.unwrap_or(usual.views),
            ..usual
        };
        if recipe.batch == 0 || !(recipe.lr.is_finite() && recipe.lr > 0.0) || !recipe.wd.is_finite() || recipe.wd < 0.0
        {
            return Err(Error::usage("--batch-size and --lr must be above 0, --wd not below"));
        }
        if usual.epochs == 0 && how.epochs.is_some_and(|epochs| epochs > 0) {
            return Err(Error::usage(format!("{} takes no steps: --epochs has no meaning", entry.name)));
        }
        Ok(recipe)
    }

    /// What people wrote around class names.
    pub(super) fn templates(&self) -> Result<TemplateSet> {
        match &self.classes.class_prompts {
            Some(path) => templates::load_classes(path),
            None => templates::load(&self.template_name()),
        }
    }

    /// What that is called, so that it is found again.
    pub(super) fn template_name(&self) -> String {
        match &self.classes.class_prompts {
            Some(path) => path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string(),
            None => match PathBuf::from(&self.classes.templates) {
                path if path.is_file() => path.canonicalize().unwrap_or(path).display().to_string(),
                _ => self.classes.templates.clone(),
            },
        }
    }
}
