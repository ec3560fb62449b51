//! `negatives mine`: what lies near in embedding space and does not belong together.

mod pairs;
mod report;
mod table;

use crate::app::{App, ModelArgs};
use crate::commands::Status;
use crate::commands::args::{ReadArgs, warn_failed};
use crate::commands::search::{finite, warn_unusable};
use crate::data::{Inputs, SourceOptions, Take, is_stdin};
use crate::error::{Error, Result};
use crate::index::Collection;
use crate::output::Target;
use crate::train::negatives::{Mined, Options, Sampling, Side, mine};
use clap::{Args, ValueEnum};
use pairs::{Pairs, Unusable};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use table::Format;

/// Find hard negatives by nearest neighbours
#[derive(Args, Debug)]
#[command(after_help = "\
EMBEDDINGS are what `embed --pairs` wrote: images and captions under the same ids. Instead of them --train-data names \
a table or an archive of images with captions, which are embedded first.

The output has a row for each image and caption: filepath, title, neg_caption, neg_image (JSON lists, as NegCLIP's \
tables have them; images by their paths), and the cosines score, neg_caption_scores, neg_image_scores. `finetune` \
reads it as training data.

Never a negative is: another caption of the same image or another image of the same caption; the same text up to case \
and space; what has the same label or group (--label-key, --group-key); what is nearly the same as the positive. \
Ranks, margins and sampling are those of sentence-transformers' mine_hard_negatives; margins need a positive, which \
images have none of among images. What was found and what was left out is said at the end.

Examples:
  clip-cli negatives mine pairs.npy --output mined.tsv
  clip-cli negatives mine pairs.npy --mine text-image,image-text --range-min 5 --sampling random
  clip-cli negatives mine --train-data pairs.csv --mine image-image --output mined.jsonl")]
pub(crate) struct Mine {
    /// Files of embeddings, or `-`
    #[arg(value_name = "EMBEDDINGS", required_unless_present = "train_data")]
    embeddings: Vec<PathBuf>,

    /// Images with captions, to be embedded: tables, archives
    #[arg(long, value_name = "DATA", num_args = 1.., conflicts_with = "embeddings")]
    train_data: Vec<PathBuf>,

    /// What is mined: image-text and text-text give negative captions, text-image and image-image negative images
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        value_delimiter = ',',
        default_value = "image-text,text-image",
        help_heading = "Mining"
    )]
    mine: Vec<Direction>,

    #[command(flatten)]
    options: MiningArgs,

    /// The seed of what is drawn by lot
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Mining")]
    seed: u64,

    /// The column with the class: what has the same is no negative
    #[arg(long, value_name = "NAME", requires = "train_data", help_heading = "Inputs")]
    label_key: Option<String>,

    /// The column with the group: what has the same is no negative
    #[arg(long, value_name = "NAME", requires = "train_data", help_heading = "Inputs")]
    group_key: Option<String>,

    /// The column with images or paths; several with `;` in between, the first that is there counts
    #[arg(long, value_name = "NAME", value_delimiter = ';', alias = "csv-img-key", help_heading = "Inputs")]
    image_key: Vec<String>,

    /// The same for captions
    #[arg(long, value_name = "NAME", value_delimiter = ';', alias = "csv-caption-key", help_heading = "Inputs")]
    caption_key: Vec<String>,

    /// Where relative paths in tables start [default: the table's folder]
    #[arg(long, value_name = "DIR", help_heading = "Inputs")]
    image_root: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", help_heading = "Output")]
    output: PathBuf,

    /// The output's format [default: by the output's name, else tsv]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = "Output")]
    format: Option<Format>,

    #[command(flatten)]
    read: ReadArgs,
}

/// Which candidates are taken.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mining")]
struct MiningArgs {
    /// How many negatives each image or text gets at most
    #[arg(long, value_name = "N", default_value_t = 3)]
    num_negatives: usize,

    /// Leave out so many of the nearest that would do: some are positives that nobody marked
    #[arg(long, value_name = "N", default_value_t = 0)]
    range_min: usize,

    /// Look at so many of the nearest [default: ten times as many as are asked for, and some more]
    #[arg(long, value_name = "N")]
    range_max: Option<usize>,

    /// Instead, look at a band of all candidates by rank, 0 the farthest and 1 the nearest: 0.9,1
    #[arg(long, value_name = "LOW,HIGH", value_parser = band, conflicts_with = "range_max")]
    quantile: Option<(f64, f64)>,

    /// Leave out what is not farther than the positive by this much
    #[arg(long, value_name = "COSINE", value_parser = finite)]
    absolute_margin: Option<f32>,

    /// Leave out what is not farther than the farthest positive by this share of its cosine (0.05 is usual), or `off`
    #[arg(long, value_name = "SHARE", default_value = "off", value_parser = bound)]
    relative_margin: Bound,

    /// Leave out what is nearer
    #[arg(long, value_name = "COSINE", value_parser = finite, allow_hyphen_values = true)]
    max_score: Option<f32>,

    /// Leave out what is farther
    #[arg(long, value_name = "COSINE", value_parser = finite, allow_hyphen_values = true)]
    min_score: Option<f32>,

    /// Leave out what is as near as this to the positive itself, or `off`
    #[arg(long, value_name = "COSINE", default_value = "0.99", value_parser = bound)]
    near_duplicate: Bound,

    /// Which of the rest: the nearest, any, or any with the near ones more often
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    sampling: How,

    /// The temperature of --sampling softmax, in units of the cosine
    #[arg(long, value_name = "T", value_parser = finite, default_value = "0.07")]
    temperature: f32,
}

/// Whose negatives are found among what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    ImageText,
    TextImage,
    ImageImage,
    TextText,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum How {
    #[default]
    Top,
    Random,
    Softmax,
}

/// A number that may be switched off.
#[derive(Clone, Copy, Debug)]
struct Bound(Option<f32>);

fn bound(text: &str) -> Result<Bound, String> {
    match text {
        "off" => Ok(Bound(None)),
        _ => finite(text).map(|x| Bound(Some(x))).map_err(|_| "expected a number, or off".to_owned()),
    }
}

fn band(text: &str) -> Result<(f64, f64), String> {
    let parts =
        text.split_once(',').and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    parts.ok_or_else(|| "expected two numbers from 0 to 1 with a comma between them".to_owned())
}

impl Direction {
    /// Whether what is found are texts.
    fn finds_texts(self) -> bool {
        matches!(self, Self::ImageText | Self::TextText)
    }
}

impl Mine {
    pub(super) fn run(self, app: &App) -> Result<Status> {
        let options = self.options.options();
        options.check()?;
        self.check()?;
        let target = Target::open(&self.output)?;
        let (pairs, failed) = if self.train_data.is_empty() { self.read(app)? } else { self.embed(app)? };
        if pairs.captions.is_empty() {
            return Err(Error::run("there are no images with captions in there").hint(
                "embeddings of pairs come from: clip-cli embed captions.tsv --pairs --output pairs.npy (or .jsonl, .parquet, \
                 .safetensors)",
            ));
        }
        pairs.warn(app);
        let (image_keys, text_keys) = pairs.keys();
        let images = Side { embeddings: &pairs.images.numbers, dim: pairs.dim(), keys: &image_keys };
        let texts = Side { embeddings: &pairs.texts.numbers, dim: pairs.dim(), keys: &text_keys };
        let mut found: Vec<(Direction, Mined)> = Vec::new();
        for &direction in &self.mine {
            let (queries, among, unit) = match direction {
                Direction::ImageText => (images, Some(texts), "images"),
                Direction::TextImage => (texts, Some(images), "texts"),
                Direction::ImageImage => (images, None, "images"),
                Direction::TextText => (texts, None, "texts"),
            };
            // Each direction has a seed of its own, so that one does not depend on which others are mined.
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(direction as u64);
            let progress = app.progress(unit);
            progress.expect(queries.keys.items() as u64);
            let mined = mine(queries, among, &options, &mut rng, app.interrupt, &progress);
            progress.finish();
            let mined = mined?;
            app.note(report::report(direction, unit, &mined, &options));
            found.push((direction, mined));
        }
        table::write(app, target, self.format, &self.output, &pairs, &found)?;
        Ok(if failed { Status::SomeFailed } else { Status::Done })
    }

    fn check(&self) -> Result<()> {
        if self.embeddings.iter().chain(&self.train_data).filter(|path| is_stdin(path)).count() > 1 {
            return Err(Error::usage("standard input cannot be read twice"));
        }
        if self.train_data.iter().any(|path| is_stdin(path)) && (self.label_key.is_some() || self.group_key.is_some()) {
            return Err(Error::usage(
                "--label-key and --group-key read the data a second time, which a pipe cannot give",
            )
            .hint("name a file"));
        }
        for texts in [true, false] {
            if self.mine.iter().filter(|direction| direction.finds_texts() == texts).count() > 1 {
                let what = if texts { "image-text and text-text" } else { "text-image and image-image" };
                return Err(Error::usage(format!("--mine {what} fill the same column")).hint("run it once for each"));
            }
        }
        Ok(())
    }

    /// Reads embeddings; also whether some could not be used.
    fn read(&self, app: &App) -> Result<(Pairs, bool)> {
        let collection = Collection::open(app, &self.embeddings)?;
        let unusable = warn_unusable(app, &collection);
        let failed = collection.parts().iter().any(|part| part.failed > 0);
        Ok((Pairs::read(app, &collection)?, unusable || failed))
    }

    /// Embeds images and captions; also whether some could not be used.
    fn embed(&self, app: &App) -> Result<(Pairs, bool)> {
        let clip = app.open_model(&self.model)?;
        let options = SourceOptions {
            image_key: self.image_key.clone(),
            caption_key: self.caption_key.clone(),
            root: self.image_root.clone(),
            ..SourceOptions::default()
        };
        let inputs = Inputs { paths: self.train_data.clone(), format: None, options, take: Take::Pairs };
        let (mut pairs, Unusable { failed, items, first }) =
            Pairs::embed(app, &clip, &self.read.options(), inputs.clone())?;
        warn_failed(app, failed, items, first.as_deref());
        pairs.labels = self.label_key.as_deref().map(|key| pairs::column(&inputs, key)).transpose()?;
        pairs.groups = self.group_key.as_deref().map(|key| pairs::column(&inputs, key)).transpose()?;
        Ok((pairs, failed > 0))
    }
}

impl MiningArgs {
    fn options(&self) -> Options {
        Options {
            num_negatives: self.num_negatives,
            range_min: self.range_min,
            range_max: self.range_max,
            band: self.quantile,
            absolute_margin: self.absolute_margin,
            relative_margin: self.relative_margin.0,
            max_score: self.max_score,
            min_score: self.min_score,
            near_duplicate: self.near_duplicate.0,
            sampling: match self.sampling {
                How::Top => Sampling::Top,
                How::Random => Sampling::Random,
                How::Softmax => Sampling::Softmax { temperature: self.temperature },
            },
        }
    }
}
