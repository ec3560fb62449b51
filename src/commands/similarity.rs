//! `similarity`: how near images and texts are to each other.

use super::args::{ImageArgs, ReadArgs, warn_failed, warn_truncated};
use super::ending::left_behind;
use super::{Command, Status};
use crate::app::{App, ModelArgs};
use crate::classifier::{dot, sigmoid, softmax};
use crate::data::{
    Embedded, Inputs, Kind, ReadOptions, Take, embed, embed_or_read, is_records, is_stdin, lines_of_text, read_records,
    records_on_stdin, same_model, texts,
};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::model::spec::Objective;
use crate::model::{Clip, Head};
use crate::ops::normalize::normalize_row;
use crate::output::{RowFormat, Similarities, Target};
use clap::Args;
use std::path::PathBuf;

/// Compare images and texts with each other
#[derive(Args, Debug)]
#[command(after_help = "\
Each input is compared with each text and everything named by --with; without those, with each other input. \
Inputs are images, folders, files with many images, and embeddings: a .jsonl file that `embed` wrote, or its output on standard input. \
Embeddings of different models are refused. If all inputs are embeddings, cosines need no model.

JSON Lines records are {\"id\",\"similarities\":[{\"id\",\"score\"}],\"model\"}, with --pairs \
{\"id\",\"other\",\"score\",\"model\"}; an input that failed is {\"id\",\"error\"}. Comma-separated values hold the matrix, \
an input a row.

Examples:
  clip-cli similarity cat.jpg dog.jpg --text 'a cat' --text 'a dog' --probs
  clip-cli similarity photos/ --texts captions.txt --pairs --format csv
  clip-cli similarity a.jpg b.jpg c.jpg
  clip-cli similarity photos.jsonl --with captions.jsonl
  clip-cli similarity pairs.csv --pairs --format csv")]
pub(super) struct Similarity {
    #[command(flatten)]
    images: ImageArgs,

    /// A text to compare with; may be given many times
    #[arg(long, value_name = "TEXT", help_heading = "Compare with")]
    text: Vec<String>,

    /// A file with one text a line, `-` for standard input
    #[arg(long, value_name = "FILE", help_heading = "Compare with")]
    texts: Option<PathBuf>,

    /// An image, a folder, or embeddings to compare with; may be given many times
    #[arg(long, value_name = "INPUT", help_heading = "Compare with")]
    with: Vec<PathBuf>,

    /// Compare the first input with the first text, the second with the second, and so on; without texts, each image
    /// with its own captions
    #[arg(long, help_heading = "Compare with")]
    pairs: bool,

    #[command(flatten)]
    model: ModelArgs,

    /// Give the model's logits: cosines times its scale, plus its bias
    #[arg(long, conflicts_with = "probs", help_heading = "Output")]
    logits: bool,

    /// Give probabilities: a softmax over a row, or for SigLIP models a sigmoid of each logit
    #[arg(long, help_heading = "Output")]
    probs: bool,

    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", help_heading = "Output")]
    output: PathBuf,

    /// The output's format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: RowFormat,

    #[command(flatten)]
    read: ReadArgs,
}

/// What a score is.
#[derive(Clone, Copy, Debug)]
enum Score {
    Cosine,
    Logit(Head),
    Probability(Head),
}

impl Command for Similarity {
    const NAME: &'static str = "similarity";

    fn run(self, app: &App) -> Result<Status> {
        self.check()?;
        let target = Target::open(&self.output)?;
        let mut reader = Reader::open(app, &self)?;
        let score = self.score(reader.clip.as_ref())?;

        // What rows are compared with must be at hand before the first row is.
        let mut columns = Vec::new();
        let mut keep = |item| {
            columns.push(item);
            Ok(())
        };
        reader.texts(&self, &mut keep)?;
        if !self.compares_own_captions() {
            let others = if self.has_columns() { &self.with } else { &self.images.inputs };
            reader.inputs(others, &mut keep)?;
        }
        let model = reader.model.as_ref().map(|(model, _)| model.clone()).unwrap_or_default();
        let format = self.format.resolve(&self.output);
        let shares = matches!(score, Score::Probability(_));
        let mut job = Job {
            app,
            score,
            out: Similarities::open(target, format, model, shares, self.pairs),
            items: columns.len() as u64,
            failed: 0,
            first: None,
        };
        let result = if self.compares_own_captions() {
            job.captions(&mut reader, &self.images.inputs)
        } else if self.pairs {
            job.pairs(&mut reader, &self.images.inputs, columns)
        } else {
            let rows = if self.has_columns() { &self.images.inputs[..] } else { &[] };
            job.matrix(&mut reader, rows, columns)
        };
        if let Err(error) = result {
            left_behind(app, job.out.abandon());
            return Err(error);
        }
        if job.items == 0 {
            return Err(self.images.none_found());
        }
        job.out.finish()?;
        warn_truncated(app, reader.truncated, reader.clip.as_ref().map_or(0, |clip| clip.spec.text.context()));
        warn_failed(app, job.failed, job.items, job.first.as_deref());
        Ok(if job.failed > 0 { Status::SomeFailed } else { Status::Done })
    }
}

/// What is written, and how it goes.
struct Job<'a> {
    app: &'a App,
    score: Score,
    out: Similarities,
    items: u64,
    failed: u64,
    first: Option<String>,
}

impl Job<'_> {
    /// Compares each row with all columns; without rows, each column with all.
    fn matrix(&mut self, reader: &mut Reader, rows: &[PathBuf], columns: Vec<Embedded>) -> Result<()> {
        let mut failed = Vec::new();
        let mut good: Vec<(String, Vec<f32>)> = Vec::with_capacity(columns.len());
        for column in columns {
            match column.result {
                Ok(embedding) => good.push((column.id, embedding)),
                Err(error) => failed.push((column.id, error)),
            }
        }
        let ids: Vec<&str> = good.iter().map(|(id, _)| id.as_str()).collect();
        self.out.header(&ids)?;
        for (id, error) in &failed {
            self.note(id, error);
            self.out.row(id, Err(error), &ids)?;
        }
        if rows.is_empty() {
            return good.iter().try_for_each(|(id, row)| self.row(id, row, &good, &ids));
        }
        reader.inputs(rows, &mut |item| {
            self.items += 1;
            match &item.result {
                Ok(row) => self.row(&item.id, row, &good, &ids),
                Err(error) => {
                    self.note(&item.id, error);
                    self.out.row(&item.id, Err(error), &ids)
                }
            }
        })
    }

    fn row(&mut self, id: &str, row: &[f32], columns: &[(String, Vec<f32>)], ids: &[&str]) -> Result<()> {
        let cosines: Vec<f64> = columns.iter().map(|(_, column)| cosine(row, column)).collect();
        self.out.row(id, Ok(&self.score.of(&cosines)), ids)
    }

    /// Compares the first row with the first column, and so on.
    fn pairs(&mut self, reader: &mut Reader, rows: &[PathBuf], columns: Vec<Embedded>) -> Result<()> {
        let uneven = |message| Err(Error::run(message).at("--pairs"));
        let mut others = columns.into_iter();
        reader.inputs(rows, &mut |row| {
            self.items += 1;
            let Some(other) = others.next() else { return uneven("there are more inputs than things to compare with") };
            let (failed, score) = match (&row.result, &other.result) {
                (Ok(a), Ok(b)) => (None, self.score.of(&[cosine(a, b)])[0]),
                (Err(error), _) => (Some((&row.id, error)), 0.0),
                (_, Err(error)) => (Some((&other.id, error)), 0.0),
            };
            if let Some((id, error)) = failed {
                self.note(id, error);
            }
            self.out.pair(&row.id, &other.id, failed.map_or(Ok(score), |(_, error)| Err(error)))
        })?;
        if others.next().is_some() { uneven("there are fewer inputs than things to compare with") } else { Ok(()) }
    }

    /// Compares each image with its own captions, which come behind it.
    fn captions(&mut self, reader: &mut Reader, inputs: &[PathBuf]) -> Result<()> {
        let mut image: Option<Embedded> = None;
        reader.inputs(inputs, &mut |item| {
            let Some(image) = image.as_ref().filter(|image| item.kind == Kind::Text && image.id == item.id) else {
                image = Some(item);
                return Ok(());
            };
            self.items += 1;
            let score = match (&image.result, &item.result) {
                (Ok(a), Ok(b)) => Ok(self.score.of(&[cosine(a, b)])[0]),
                (Err(error), _) | (_, Err(error)) => {
                    self.note(&item.id, error);
                    Err(error)
                }
            };
            self.out.pair(&item.id, item.text.as_deref().unwrap_or_default(), score)
        })?;
        if self.items == 0 {
            return Err(Error::run("no captions in the inputs")
                .at("--pairs")
                .hint("name texts with --text or --texts"));
        }
        Ok(())
    }

    fn note(&mut self, id: &str, error: &ItemError) {
        self.failed += 1;
        self.app.detail(format_args!("{id}: {error}"));
        self.first.get_or_insert_with(|| format!("{id}: {error}"));
    }
}

impl Similarity {
    fn has_columns(&self) -> bool {
        !self.text.is_empty() || self.texts.is_some() || !self.with.is_empty()
    }

    /// Whether each image is compared with the captions that come with it.
    fn compares_own_captions(&self) -> bool {
        self.pairs && !self.has_columns()
    }

    fn check(&self) -> Result<()> {
        let texts_on_stdin = self.texts.as_deref().is_some_and(is_stdin);
        self.images
            .check_stdin(&[("--texts", texts_on_stdin), ("--with", self.with.iter().any(|path| is_stdin(path)))])?;
        if self.images.inputs.is_empty() && !self.has_columns() {
            return Err(Error::usage("nothing to compare").hint("name images, and texts with --text"));
        }
        if self.pairs && self.images.inputs.is_empty() {
            return Err(Error::usage("--pairs needs inputs").hint("name images, or files with images and captions"));
        }
        Ok(())
    }

    fn score(&self, clip: Option<&Clip>) -> Result<Score> {
        let head = || clip.ok_or_else(|| Error::run("no model is open"))?.head();
        if self.logits {
            return Ok(Score::Logit(head()?));
        }
        if !self.probs {
            return Ok(Score::Cosine);
        }
        let head = head()?;
        if self.pairs && head.objective == Objective::Softmax {
            return Err(Error::usage("a pair alone has no probability: this model's are a softmax over several texts")
                .hint("leave out --pairs, or use --logits"));
        }
        Ok(Score::Probability(head))
    }
}

impl Score {
    /// The scores that belong to a row's cosines.
    fn of(self, cosines: &[f64]) -> Vec<f32> {
        let logits = |head: Head| cosines.iter().map(move |x| f64::from(head.scale) * x + f64::from(head.bias));
        let scores: Vec<f64> = match self {
            Self::Cosine => cosines.to_vec(),
            Self::Logit(head) => logits(head).collect(),
            Self::Probability(head) => match head.objective {
                Objective::Softmax => softmax(&logits(head).collect::<Vec<_>>()),
                Objective::Sigmoid => logits(head).map(sigmoid).collect(),
            },
        };
        scores.into_iter().map(|x| x as f32).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-12)
}

/// Makes or reads embeddings, all of one model.
struct Reader<'a> {
    app: &'a App,
    options: ReadOptions,
    images: &'a ImageArgs,
    /// The model, unless there are embeddings alone and nobody asks for more than cosines.
    clip: Option<Clip>,
    /// The model that made the embeddings, and their length.
    model: Option<(String, usize)>,
    truncated: u64,
    /// Which parts of the inputs are compared.
    take: Take,
}

impl<'a> Reader<'a> {
    fn open(app: &'a App, args: &'a Similarity) -> Result<Self> {
        let mut needs_model =
            args.logits || args.probs || args.model.model.is_some() || !args.text.is_empty() || args.texts.is_some();
        for path in args.images.inputs.iter().chain(&args.with) {
            let may_be_records = args.images.format().is_none() && !args.images.null;
            let recorded = if is_stdin(path) { may_be_records && records_on_stdin(app)? } else { is_records(path) };
            needs_model |= !recorded;
        }
        let clip = if needs_model { Some(app.open_model(&args.model)?) } else { None };
        let model = clip.as_ref().map(|clip| (clip.id(), clip.spec.embed_dim));
        let take = if args.compares_own_captions() { Take::Pairs } else { Take::Images };
        Ok(Self { app, options: args.read.options(), images: &args.images, clip, model, truncated: 0, take })
    }

    /// The embeddings of the command line's texts.
    fn texts(&mut self, args: &Similarity, each: &mut dyn FnMut(Embedded) -> Result<()>) -> Result<()> {
        let Some(clip) = self.clip.as_ref().filter(|_| !args.text.is_empty() || args.texts.is_some()) else {
            return Ok(());
        };
        let lines = match &args.texts {
            Some(path) => lines_of_text(path, args.images.separator())?,
            None => texts(Vec::new()),
        };
        let items = Box::new(texts(args.text.clone()).chain(lines));
        let progress = self.app.progress("texts");
        let result = embed(self.app, clip, &self.options, items, &progress, |mut item| {
            if let Ok(embedding) = &mut item.result {
                normalize_row(embedding);
            }
            each(item)
        });
        progress.finish();
        self.truncated += result?.truncated;
        Ok(())
    }

    /// The embeddings of images, or those in files.
    fn inputs(&mut self, paths: &[PathBuf], each: &mut dyn FnMut(Embedded) -> Result<()>) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        if let Some(clip) = &self.clip {
            let inputs = Inputs { paths: paths.to_vec(), ..self.images.inputs(self.take) };
            let progress = self.app.progress("items");
            let result = embed_or_read(self.app, clip, &self.options, inputs, &progress, each);
            progress.finish();
            return result.map(|_| ());
        }
        let known = &mut self.model;
        for path in paths {
            read_records(self.app, path, self.options.workers, |mut record| {
                if let (Some(model), Ok(embedding)) = (&record.model, &record.embedded.result) {
                    let (first, dim) = known.get_or_insert_with(|| (model.clone(), embedding.len()));
                    if !same_model(first, model) {
                        return Err(Error::run(format!(
                            "the embedding comes from the model {model}, others from {first}"
                        ))
                        .at(&record.embedded.id)
                        .hint("embed both sets with the same model"));
                    }
                    if embedding.len() != *dim {
                        let message = format!("the embedding has {} numbers, others have {dim}", embedding.len());
                        record.embedded.result = Err(ItemError::new(ItemKind::Invalid, message));
                    }
                }
                each(record.embedded)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores() {
        let head = |objective| Head { scale: 2.0, bias: -1.0, objective };
        assert_eq!(Score::Cosine.of(&[0.5, 1.0]), [0.5, 1.0]);
        assert_eq!(Score::Logit(head(Objective::Sigmoid)).of(&[0.5, 1.0]), [0.0, 1.0]);
        assert_eq!(Score::Probability(head(Objective::Sigmoid)).of(&[0.5]), [0.5]);
        assert_eq!(Score::Probability(head(Objective::Softmax)).of(&[0.5, 0.5]), [0.5, 0.5]);
        assert_eq!(cosine(&[3.0, 4.0], &[6.0, 8.0]), 1.0);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), 0.0);
    }
}
