//! `search`: the embeddings that are nearest to a text, an image or both.

mod query;

use super::args::{ReadArgs, warn_failed, warn_truncated};
use super::ending::left_behind;
use super::sheet::SheetArgs;
use super::{Command, Status};
use crate::app::{App, ModelArgs, Progress};
use crate::data::{Kind, is_stdin};
use crate::error::{Error, Result};
#[cfg(feature = "ann")]
use crate::index::approximate;
use crate::index::{Collection, Found, Metric, Question, Searched};
use crate::output::html::{Card, Heading, Sheet};
use crate::output::{Hits, ListFormat, Row, Target};
use clap::Args;
use query::{Asked, QueryArgs};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Find the images and texts that are nearest to a query
#[derive(Args, Debug)]
#[command(after_help = "\
EMBEDDINGS are what `embed` wrote: .npy with its .ids.jsonl, .safetensors, .jsonl, .parquet, `-` for its output on \
standard input, or a folder that clip-retrieval wrote. Every one of them is compared with the query. Large files \
should be .npy or .safetensors, which are mapped and not read.

A query that ends like an image file, or is the path of a file, is an image; one that ends with .jsonl, and `-`, \
is `embed`'s output, and no model is needed; anything else is a text. `text:` and `image:` in front leave no doubt. \
--plus and --minus move all queries: unit vectors are added and subtracted, and the sum is the query.

JSON Lines records are {\"query\",\"rank\",\"id\",\"score\",\"kind\",\"file\",\"row\",\"model\"}, a query that failed is \
{\"id\",\"error\"}. Of equal scores the first embedding wins.

Examples:
  clip-cli search photos.npy --query 'a cat on a sofa' --top-k 5
  clip-cli search photos.npy --query cat.jpg --minus 'a sofa' --html cats.html
  clip-cli search photos.npy --query 'a dog' --format paths --null | xargs -0 ls -l
  clip-cli search photos.npy --queries captions.txt --top-k 1 --format csv
  clip-cli embed --text 'a cat' | clip-cli search photos.npy --query -")]
pub(super) struct Search {
    /// Files of embeddings, or `-`
    #[arg(value_name = "EMBEDDINGS", required = true)]
    embeddings: Vec<PathBuf>,

    #[command(flatten)]
    query: QueryArgs,

    #[command(flatten)]
    model: ModelArgs,

    /// How many hits a query gets at most [default: 10, or all that reach the --threshold]
    #[arg(long, short = 'k', value_name = "K", help_heading = "Search")]
    top_k: Option<NonZeroUsize>,

    /// Leave out lower scores
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, help_heading = "Search", value_parser = finite)]
    threshold: Option<f32>,

    /// Look among images or texts alone
    #[arg(long, value_name = "KIND", help_heading = "Search")]
    kind: Option<KindArg>,

    /// What a score is
    #[arg(long, value_name = "METRIC", value_enum, default_value_t, help_heading = "Search")]
    metric: Metric,

    /// Ask an index that `index` built from the same files: faster, and it may miss some
    #[arg(long, value_name = "FILE", help_heading = "Search")]
    index: Option<PathBuf>,

    /// Say how much of what exact search finds the index found for these queries
    #[arg(long, requires = "index", help_heading = "Search")]
    recall: bool,

    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", help_heading = "Output")]
    output: PathBuf,

    /// The output's format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: ListFormat,

    /// End paths with a NUL byte, for `xargs -0`; --queries ends its lines so, too
    #[arg(long = "null", short = '0', help_heading = "Output")]
    null: bool,

    #[command(flatten)]
    sheet: SheetArgs,

    #[command(flatten)]
    read: ReadArgs,
}

/// Images or texts.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum KindArg {
    Image,
    Text,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Image => Self::Image,
            KindArg::Text => Self::Text,
        }
    }
}

/// A score that can be compared.
pub(super) fn finite(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite()).ok_or_else(|| "expected a number".to_owned())
}

/// So many queries go through the embeddings together.
const TOGETHER: usize = 256;

impl Command for Search {
    const NAME: &'static str = "search";

    fn run(self, app: &App) -> Result<Status> {
        self.query.check(self.embeddings.iter().filter(|path| is_stdin(path)).count())?;
        let target = Target::open(&self.output)?;
        let format = self.format.resolve(&self.output);
        let collection = Collection::open(app, &self.embeddings)?;
        let mut failed = warn_unusable(app, &collection);
        let note = summary(&collection);
        let sheet = self.sheet.open(app, "Search", &note)?;
        let engine = Engine::open(app, self.index.as_deref(), &collection)?;
        let mut job = Job {
            app,
            args: &self,
            engine,
            collection: &collection,
            out: Hits::open(target, format, self.null)?,
            sheet,
            waiting: Vec::new(),
            queries: 0,
            failed: 0,
            first: None,
            broken: None,
        };
        let asked = self.query.each(app, &self.model, &self.read, self.null, &collection, &mut |asked| job.ask(asked));
        let result = asked.and_then(|asked| job.answer().map(|()| asked));
        let asked = match result {
            Ok(asked) => asked,
            Err(error) => {
                left_behind(app, job.out.abandon());
                return Err(error);
            }
        };
        job.out.finish()?;
        if let Some(sheet) = job.sheet {
            sheet.finish()?;
        }
        if job.queries == 0 {
            app.note("nothing to search for: the list of queries is empty");
        }
        failed |= warn_broken(app, &collection, job.broken)?;
        warn_truncated(app, asked.truncated, asked.context);
        warn_failed(app, job.failed, job.queries, job.first.as_deref());
        Ok(if job.failed > 0 || failed { Status::SomeFailed } else { Status::Done })
    }
}

/// How the nearest are found.
enum Engine<'a> {
    /// By comparing all; of these embeddings.
    Exact(&'a Collection),
    #[cfg(feature = "ann")]
    Graph(approximate::Graph<'a>),
}

impl<'a> Engine<'a> {
    #[cfg(not(feature = "ann"))]
    fn open(_: &App, index: Option<&Path>, collection: &'a Collection) -> Result<Self> {
        if index.is_some() { Err(super::index::not_built_in("--index")) } else { Ok(Self::Exact(collection)) }
    }

    #[cfg(feature = "ann")]
    fn open(app: &App, index: Option<&Path>, collection: &'a Collection) -> Result<Self> {
        let Some(index) = index else { return Ok(Self::Exact(collection)) };
        let graph = approximate::Graph::open(index, collection)?;
        let recall = graph.about.recall.iter().map(recall).collect::<Vec<_>>().join(", ");
        app.note(format_args!("approximate search; measured when the index was built: {recall}"));
        Ok(Self::Graph(graph))
    }

    fn search(&self, job: &Job<'_>, question: &Question<'_>, progress: &Progress) -> Result<Searched> {
        let interrupt = job.app.interrupt;
        match self {
            Self::Exact(collection) => crate::index::search(collection, question, interrupt, progress),
            #[cfg(feature = "ann")]
            Self::Graph(graph) => {
                let found = graph.search(question, interrupt)?;
                if job.args.recall {
                    let measured = graph.recall(question, &found, interrupt)?;
                    job.app.note(format_args!("for these queries: {}", recall(&measured)));
                }
                Ok(found)
            }
        }
    }
}

/// Recall in words.
#[cfg(feature = "ann")]
fn recall(recall: &approximate::Recall) -> String {
    let approximate::Recall { k, recall, interval: (low, high), queries } = recall;
    format!("recall@{k} {recall:.3} ({low:.3} to {high:.3}, {queries} queries)")
}

/// What is written, and how it goes.
struct Job<'a> {
    app: &'a App,
    args: &'a Search,
    engine: Engine<'a>,
    collection: &'a Collection,
    out: Hits,
    sheet: Option<Sheet>,
    waiting: Vec<Asked>,
    queries: u64,
    failed: u64,
    first: Option<String>,
    broken: Option<(usize, usize)>,
}

impl Job<'_> {
    fn ask(&mut self, asked: Asked) -> Result<()> {
        self.waiting.push(asked);
        if self.waiting.len() >= TOGETHER { self.answer() } else { Ok(()) }
    }

    /// Answers the queries that wait, in order.
    fn answer(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let queries: Vec<f32> =
            waiting.iter().filter_map(|asked| asked.result.as_ref().ok()).flatten().copied().collect();
        let mut hits = Vec::new();
        if !queries.is_empty() {
            let question = Question {
                queries: &queries,
                top_k: match (self.args.top_k, self.args.threshold) {
                    (Some(k), _) => k.get(),
                    (None, Some(_)) => usize::MAX,
                    (None, None) => 10,
                },
                threshold: self.args.threshold,
                kind: self.args.kind.map(Kind::from),
                metric: self.args.metric,
            };
            let progress = self.app.progress("embeddings");
            progress.expect(self.collection.len() as u64);
            let found = self.engine.search(self, &question, &progress);
            progress.finish();
            let found = found?;
            self.broken = found.broken;
            hits = found.hits;
        }
        let mut hits = hits.into_iter();
        for asked in waiting {
            self.queries += 1;
            match &asked.result {
                Ok(_) => {
                    let hits = hits.next().unwrap_or_default();
                    let found = hits.iter().map(|hit| Ok((self.collection.get(hit.position)?, hit.score)));
                    self.write(&asked, &found.collect::<Result<Vec<_>>>()?)?;
                }
                Err(error) => {
                    self.failed += 1;
                    self.app.detail(format_args!("{}: {error}", asked.id));
                    self.first.get_or_insert_with(|| format!("{}: {error}", asked.id));
                    self.out.failed(&asked.id, error)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, asked: &Asked, found: &[(Found<'_>, f32)]) -> Result<()> {
        for (rank, (found, score)) in (1..).zip(found) {
            self.out.write(&Row {
                query: &asked.id,
                rank,
                id: &found.id.id,
                score: *score,
                kind: found.id.kind.name(),
                text: found.id.text.as_deref(),
                file: &found.file.to_string_lossy(),
                row: found.row,
                model: self.collection.model(),
            })?;
        }
        let Some(sheet) = &mut self.sheet else { return Ok(()) };
        let badges: Vec<_> = (1..=found.len()).map(|rank| format!("#{rank}")).collect();
        let cards: Vec<_> = found
            .iter()
            .zip(&badges)
            .map(|((found, score), badge)| Card {
                id: &found.id.id,
                kind: found.id.kind,
                text: found.id.text.as_deref(),
                score: Some(*score),
                badge,
            })
            .collect();
        let note = match found.len() {
            0 => "nothing found".to_owned(),
            1 => "1 hit".to_owned(),
            n => format!("{n} hits, best first"),
        };
        sheet.section(&Heading { title: &asked.id, image: asked.image.as_deref(), note: &note }, &cards)
    }
}

/// What was searched, in a line.
pub(super) fn summary(collection: &Collection) -> String {
    let files = match collection.parts() {
        [part] => part.path.display().to_string(),
        parts => format!("{} files", parts.len()),
    };
    let model = collection.model().map(|model| format!(", {model}")).unwrap_or_default();
    let what = if collection.len() == 1 { "embedding" } else { "embeddings" };
    format!("{} {what} in {files}{model}", collection.len())
}

/// Warns of records that are no embeddings; says whether there are any.
pub(super) fn warn_unusable(app: &App, collection: &Collection) -> bool {
    let mut any = false;
    for part in collection.parts() {
        if part.failed > 0 {
            let items = if part.failed == 1 { "1 item has".to_owned() } else { format!("{} items have", part.failed) };
            app.note(format_args!("{}: {items} no embedding", part.path.display()));
        }
        if let Some((count, first)) = &part.unusable {
            let records = if *count == 1 { "1 record is".to_owned() } else { format!("{count} records are") };
            app.warn(format_args!("{}: {records} left out; the first: {first}", part.path.display()));
            any = true;
        }
    }
    any
}

/// Warns of embeddings with numbers that are none; says whether there are any.
pub(super) fn warn_broken(app: &App, collection: &Collection, broken: Option<(usize, usize)>) -> Result<bool> {
    let Some((count, first)) = broken else { return Ok(false) };
    let Found { id, file, row } = collection.get(first)?;
    let embeddings = if count == 1 { "1 embedding has".to_owned() } else { format!("{count} embeddings have") };
    let place = format!("row {row} of {}, {}", file.display(), id.id);
    app.warn(format_args!("{embeddings} numbers that are not finite and left out; the first: {place}"));
    Ok(true)
}

/// The error of embeddings that are not the model's.
pub(super) fn other_model(theirs: &str, own: &str) -> Error {
    Error::run(format!("the embeddings come from the model {theirs}, but this is {own}"))
        .hint("use the model that made the embeddings: --model")
}
