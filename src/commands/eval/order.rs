//! `eval order`: does the model notice the order of words?

use super::ending::ReportArgs;
use super::trials::{self, Trial};
use crate::app::{App, ModelArgs};
use crate::commands::{ImageArgs, ReadArgs, Status};
use crate::data::{Content, Input, Parts, Sample, Samples, Source, SourceOptions, source_of};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::eval::Metric;
use crate::text::edit::Editor;
use clap::Args;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// The columns with wrong captions, unless the user names some; the first that is there counts.
const NEGATIVE_KEYS: &[&str] =
    &["neg_caption", "neg_captions", "negative_caption", "negative_captions", "negative", "negatives"];

/// The kinds of edits behind `--wrong`, and the generator that they are made with.
type Maker = (Editor, u64);

/// How often an image prefers its caption to wrong ones
#[derive(Args, Debug)]
#[command(after_help = "\
The table (.csv, .tsv, .jsonl, .parquet) has in each row an image, its caption, and wrong captions:
in the columns of --negative-key, or in one called neg_caption(s), negative_caption(s) or
negative(s), which in .jsonl and .parquet may hold a list. A row is right if the image lies nearer
to its caption than to every wrong one. ARO's COCO and Flickr order are such tables, with the same
words in four other orders. A wrong caption equal to the true one is left out.

With --wrong no table of wrong captions is needed: they are made of each caption as `negatives text`
makes them, one of each kind. `--wrong shuffle` has ARO's four orders.

Examples:
  clip-cli eval order shuffled.tsv
  clip-cli eval order captions.tsv --wrong shuffle
  clip-cli eval order aro.csv --negative-key 'shuffle1;shuffle2;shuffle3;shuffle4'")]
pub(super) struct Order {
    #[command(flatten)]
    images: ImageArgs,

    /// The columns with wrong captions, with `;` in between; all of them count
    #[arg(long, value_name = "NAME", value_delimiter = ';', help_heading = "Inputs")]
    negative_key: Vec<String>,

    /// Make the wrong captions instead: kinds as in `negatives text`, one of each where a caption offers it
    #[arg(long, value_name = "KINDS", value_delimiter = ',', conflicts_with = "negative_key", help_heading = "Inputs")]
    wrong: Vec<String>,

    /// The seed of what is made
    #[arg(long, value_name = "N", default_value_t = 0, requires = "wrong", help_heading = "Inputs")]
    seed: u64,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    read: ReadArgs,
}

impl Order {
    pub(super) fn run(self, app: &App) -> Result<Status> {
        if self.images.inputs.is_empty() || self.images.read_stdin() {
            return Err(Error::usage("no table").hint("name tables with images, captions and wrong captions"));
        }
        let maker = match &self.wrong[..] {
            [] => None,
            kinds => Some((Editor::new(kinds)?, self.seed)),
        };
        let mut all: Vec<Rows> = Vec::new();
        for path in &self.images.inputs {
            all.push(self.rows(path, maker.clone())?);
        }
        let report = self.report.open(&self.images.inputs)?;
        let clip = app.open_model(&self.model)?;
        let outcome = trials::run(app, &clip, &self.read, 1, Box::new(all.into_iter().flatten()))?;
        let mut findings = report.findings("image_caption_selection", Some(&clip));
        if let Some(found) = outcome.sets[0].accuracy() {
            findings.metrics.push(Metric::share("acc", found.acc, found.interval));
            findings.counts = vec![("captions", found.n), ("images", outcome.images)];
            findings.details = vec![("chance", found.chance.into())];
        }
        if maker.is_some() {
            findings.details.extend([("wrong", self.wrong.join(",").into()), ("seed", self.seed.into())]);
        }
        findings.failed = outcome.failed;
        report.finish(app, &findings)
    }

    /// The rows of a table. Each column of wrong captions is a reading of its own, row by row beside the first.
    fn rows(&self, path: &Path, maker: Option<Maker>) -> Result<Rows> {
        let format = self.images.format().or_else(|| source_of(path)).ok_or_else(|| {
            let error = if path.exists() { Error::run("no table") } else { Error::run("there is no such file") };
            error
                .at(path.display())
                .hint("a table's name ends in .csv, .tsv, .jsonl or .parquet; others need --input-format")
        })?;
        let open = |image, caption_key| open(format, path, &self.images, image, caption_key);
        let pairs = open(true, self.images.source_options().caption_key)?;
        if let Some((editor, seed)) = maker {
            return Ok(Rows { pairs, wrong: Wrong::Made { editor, seed, row: 0 } });
        }
        let columns: Vec<Vec<String>> = match &self.negative_key[..] {
            [] => vec![NEGATIVE_KEYS.iter().map(|&key| key.to_owned()).collect()],
            keys => keys.iter().map(|key| vec![key.clone()]).collect(),
        };
        let wrong = columns.into_iter().map(|keys| {
            open(false, keys).map_err(|error| match error.to_string().contains("no column") {
                true => Error::run(error).hint("name the columns with wrong captions: --negative-key"),
                false => error,
            })
        });
        Ok(Rows { pairs, wrong: Wrong::Columns(wrong.collect::<Result<_>>()?) })
    }
}

fn open(
    format: &'static dyn Source,
    path: &Path,
    images: &ImageArgs,
    image: bool,
    caption_key: Vec<String>,
) -> Result<Samples> {
    let parts = Parts { image, captions: true, label: false };
    format.open(Input::new(path.to_owned()), &SourceOptions { parts, caption_key, ..images.source_options() })
}

/// The rows of a table, each a trial.
struct Rows {
    pairs: Samples,
    wrong: Wrong,
}

/// Where the wrong captions come from.
enum Wrong {
    /// A reading for each column, row by row beside the pairs.
    Columns(Vec<Samples>),
    /// Edits of the caption. What a row gets follows from its number and the seed.
    Made { editor: Editor, seed: u64, row: u64 },
}

impl Wrong {
    /// Those of the next row, which has these captions.
    fn next(&mut self, captions: &[Content]) -> Result<Vec<Content>> {
        match self {
            Self::Columns(columns) => {
                let row: Result<Vec<Sample>> = columns.iter_mut().filter_map(Iterator::next).collect();
                Ok(row?.into_iter().flat_map(|sample| sample.captions).collect())
            }
            Self::Made { editor, seed, row } => {
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                rng.set_stream(*row);
                *row += 1;
                let [Content::Text(caption)] = captions else { return Ok(Vec::new()) };
                let made = editor.one_of_each(caption, &mut rng);
                Ok(made.into_iter().map(|negative| Content::Text(negative.text)).collect())
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Trial>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.pairs.next()?;
        let captions = pair.as_ref().map_or(&[][..], |pair| &pair.captions);
        let wrong = self.wrong.next(captions);
        Some(pair.and_then(|pair| Ok(trial(pair, wrong?))))
    }
}

fn trial(pair: Sample, mut wrong: Vec<Content>) -> Trial {
    let missing = |part: &str| Content::Failed(ItemError::new(ItemKind::Invalid, format!("there is no {part}")));
    let caption = match <[Content; 1]>::try_from(pair.captions) {
        Ok([caption]) => caption,
        Err(captions) if captions.is_empty() => missing("caption"),
        Err(_) => missing("one caption, but several"),
    };
    wrong.retain(|wrong| !matches!((wrong, &caption), (Content::Text(wrong), Content::Text(true_)) if wrong == true_));
    Trial { set: 0, image: pair.image.unwrap_or_else(|| missing("image")), id: pair.id, caption, wrong }
}
