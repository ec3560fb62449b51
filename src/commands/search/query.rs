//! What is searched for: texts, images and recorded embeddings, and sums of them.

use super::other_model;
use crate::app::{App, ModelArgs, Progress};
use crate::commands::args::ReadArgs;
use crate::data::{
    Content, IMAGE_EXTENSIONS, Item, Items, Kind, Separator, embed, is_records, is_stdin, lines_of_text, read_records,
    records_on_stdin, same_model,
};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::index::Collection;
use crate::model::Clip;
use crate::ops::normalize::normalize_row;
use clap::Args;
use std::path::{Path, PathBuf};

/// The queries of a command line.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Query")]
pub(in crate::commands) struct QueryArgs {
    /// A text or an image to search for, or embeddings (.jsonl, `-`); may be given many times
    #[arg(long, value_name = "TEXT|IMAGE")]
    query: Vec<String>,

    /// A file with one text or path a line, or embeddings; `-` for standard input
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,

    /// Add a text or an image to every query
    #[arg(long, value_name = "TEXT|IMAGE")]
    plus: Vec<String>,

    /// Subtract a text or an image from every query
    #[arg(long, value_name = "TEXT|IMAGE")]
    minus: Vec<String>,
}

/// One query.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// What it is called.
    pub(super) id: String,
    /// Where it is an image: its path.
    pub(super) image: Option<String>,
    /// Its vector of unit length, or why there is none.
    pub(super) result: Result<Vec<f32>, ItemError>,
}

/// How reading the queries went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// How many texts were longer than the model's context.
    pub(super) truncated: u64,
    /// The model's context, in tokens.
    pub(super) context: usize,
}

/// Where queries come from.
enum Source {
    Item(Item),
    Records(PathBuf),
    Lines(PathBuf),
}

type Each<'a> = &'a mut dyn FnMut(Asked) -> Result<()>;

impl QueryArgs {
    /// Refuses a command line without queries, or one that reads standard input twice (`others` do already).
    pub(super) fn check(&self, others: usize) -> Result<()> {
        if self.query.is_empty() && self.queries.is_none() {
            return Err(
                Error::usage("nothing to search for").hint("say what with --query 'a red car' or --query car.jpg")
            );
        }
        if let Some(term) = self.plus.iter().chain(&self.minus).find(|term| is_recorded(term)) {
            return Err(Error::usage(format!("--plus and --minus take a text or an image, not {term}")));
        }
        let stdin = |path: &&PathBuf| is_stdin(path);
        let readers =
            self.query.iter().filter(|query| *query == "-").count() + self.queries.iter().filter(stdin).count();
        if readers + others > 1 {
            return Err(Error::usage("standard input cannot be read twice"));
        }
        Ok(())
    }

    /// Calls `each` with all queries, in order.
    ///
    /// # Errors
    /// If the model cannot be used, is not the one of the embeddings, or an operand of --plus or --minus fails.
    pub(super) fn each(
        &self,
        app: &App,
        model: &ModelArgs,
        read: &ReadArgs,
        null: bool,
        collection: &Collection,
        each: Each<'_>,
    ) -> Result<Told> {
        let sources = self.sources(app, null)?;
        let recorded = sources.iter().all(|source| matches!(source, Source::Records(_)));
        let clip = if recorded && self.plus.is_empty() && self.minus.is_empty() {
            None
        } else {
            Some(open(app, model, collection)?)
        };
        let mut reader = Reader { app, clip, read, null, collection, shift: Shift::default(), told: Told::default() };
        reader.told.context = reader.clip.as_ref().map_or(0, |clip| clip.spec.text.context());
        for (terms, sign) in [(&self.plus, 1.0), (&self.minus, -1.0)] {
            reader.add_operands(terms, sign)?;
        }
        let mut items = Vec::new();
        for source in sources {
            match source {
                Source::Item(item) => items.push(Ok(item)),
                Source::Records(path) => {
                    reader.items(Box::new(std::mem::take(&mut items).into_iter()), each)?;
                    reader.records(&path, each)?;
                }
                Source::Lines(path) => {
                    reader.items(Box::new(std::mem::take(&mut items).into_iter()), each)?;
                    let lines = lines_of_text(&path, reader.separator())?;
                    reader.items(Box::new(lines.map(|item| item.map(line))), each)?;
                }
            }
        }
        reader.items(Box::new(items.into_iter()), each)?;
        Ok(reader.told)
    }

    fn sources(&self, app: &App, null: bool) -> Result<Vec<Source>> {
        let listed = |path: &PathBuf| -> Result<Source> {
            let records = if is_stdin(path) { !null && records_on_stdin(app)? } else { is_records(path) };
            Ok(if records { Source::Records(path.clone()) } else { Source::Lines(path.clone()) })
        };
        let named = self.query.iter().map(|query| {
            if is_recorded(query) { listed(&PathBuf::from(query)) } else { Ok(Source::Item(item(query))) }
        });
        named.chain(self.queries.iter().map(listed)).collect()
    }
}

/// Whether a query stands for recorded embeddings.
fn is_recorded(query: &str) -> bool {
    query == "-" || is_records(Path::new(query))
}

/// A query is an image if it ends like one or is the path of a file, else a text.
fn item(query: &str) -> Item {
    let image =
        |path: &str| Item { id: path.to_owned(), kind: Kind::Image, content: Content::File(PathBuf::from(path)) };
    if let Some(text) = query.strip_prefix("text:") {
        return Item::text(text.to_owned());
    }
    if let Some(path) = query.strip_prefix("image:") {
        return image(path);
    }
    let path = Path::new(query);
    let end = path.extension().unwrap_or_default();
    if IMAGE_EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known)) {
        return image(query);
    }
    // A word may happen to be the name of a file; a path with a slash is meant.
    if query.contains(['/', std::path::MAIN_SEPARATOR]) && path.is_file() {
        image(query)
    } else {
        Item::text(query.to_owned())
    }
}

/// A line of a list of queries.
fn line(line: Item) -> Item {
    match &line.content {
        Content::Text(text) => item(text),
        _ => line,
    }
}

fn open(app: &App, model: &ModelArgs, collection: &Collection) -> Result<Clip> {
    let clip = app.open_model(model)?;
    let own = clip.id();
    match collection.model() {
        Some(theirs) if !same_model(theirs, &own) => return Err(other_model(theirs, &own)),
        Some(_) => {}
        None => app.warn(format_args!("nothing says which model made the embeddings; searching with {own}")),
    }
    if clip.spec.embed_dim != collection.dim() {
        let (theirs, dim) = (collection.dim(), clip.spec.embed_dim);
        return Err(Error::run(format!("the embeddings have {theirs} numbers, those of {own} have {dim}"))
            .hint("use the model that made the embeddings: --model"));
    }
    Ok(clip)
}

/// What is added to every query.
#[derive(Default)]
struct Shift {
    sum: Vec<f32>,
    /// How it is written behind a query.
    name: String,
}

struct Reader<'a> {
    app: &'a App,
    clip: Option<Clip>,
    read: &'a ReadArgs,
    null: bool,
    collection: &'a Collection,
    shift: Shift,
    told: Told,
}

impl Reader<'_> {
    fn separator(&self) -> Separator {
        if self.null { Separator::Nul } else { Separator::Newline }
    }

    /// Adds unit vectors to what moves every query.
    fn add_operands(&mut self, terms: &[String], sign: f32) -> Result<()> {
        let items: Vec<_> = terms.iter().map(|term| Ok(item(term))).collect();
        let mut operands = Vec::new();
        self.embed(Box::new(items.into_iter()), &mut |asked| {
            operands.push(asked);
            Ok(())
        })?;
        self.shift.sum.resize(self.collection.dim(), 0.0);
        for Asked { id, result, .. } in operands {
            let option = if sign > 0.0 { "--plus" } else { "--minus" };
            let vector = result.map_err(|error| Error::run(error).at(format!("{option} {id}")))?;
            self.shift.sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += sign * x);
            self.shift.name += if sign > 0.0 { " + " } else { " - " };
            self.shift.name += &id;
        }
        Ok(())
    }

    fn items(&mut self, items: Items, each: Each<'_>) -> Result<()> {
        let shift = std::mem::take(&mut self.shift);
        let result = self.embed(items, &mut |asked| each(shift.apply(asked)));
        self.shift = shift;
        result
    }

    fn embed(&mut self, items: Items, each: Each<'_>) -> Result<()> {
        let Some(clip) = &self.clip else { return Ok(()) };
        let tally = embed(self.app, clip, &self.read.options(), items, &Progress::hidden(), |mut item| {
            if let Ok(embedding) = &mut item.result {
                normalize_row(embedding);
            }
            let image = (item.kind == Kind::Image).then(|| item.id.clone());
            each(Asked { id: item.id, image, result: item.result })
        })?;
        self.told.truncated += tally.truncated;
        Ok(())
    }

    fn records(&mut self, path: &Path, each: Each<'_>) -> Result<()> {
        let (dim, theirs) = (self.collection.dim(), self.collection.model());
        read_records(self.app, path, None, |record| {
            let item = record.embedded;
            if let (Some(model), Some(theirs)) = (&record.model, theirs)
                && !same_model(model, theirs)
            {
                let message = format!("the query comes from the model {model}, the embeddings from {theirs}");
                return Err(Error::run(message).at(&item.id).hint("embed both with the same model"));
            }
            let result = item.result.and_then(|mut embedding| {
                if embedding.len() != dim {
                    let message = format!("the query has {} numbers, the embeddings have {dim}", embedding.len());
                    return Err(ItemError::new(ItemKind::Invalid, message));
                }
                normalize_row(&mut embedding);
                Ok(embedding)
            });
            let image = (item.kind == Kind::Image).then(|| item.id.clone());
            each(self.shift.apply(Asked { id: item.id, image, result }))
        })
    }
}

impl Shift {
    /// Moves a query, and brings it to unit length again.
    fn apply(&self, mut asked: Asked) -> Asked {
        if self.name.is_empty() {
            return asked;
        }
        asked.id += &self.name;
        asked.result = asked.result.and_then(|mut vector| {
            vector.iter_mut().zip(&self.sum).for_each(|(x, y)| *x += y);
            let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            // What is left when a vector is taken from itself is rounding, which points nowhere.
            if square < 1e-10 {
                return Err(ItemError::new(ItemKind::Invalid, "the query and what is subtracted from it are the same"));
            }
            normalize_row(&mut vector);
            Ok(vector)
        });
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_images() {
        let kind = |query| (item(query).kind, item(query).id);
        assert_eq!(kind("a cat"), (Kind::Text, "a cat".to_owned()));
        assert_eq!(kind("cat.JPG"), (Kind::Image, "cat.JPG".to_owned()));
        assert_eq!(kind("text:cat.jpg"), (Kind::Text, "cat.jpg".to_owned()));
        assert_eq!(kind("image:cat"), (Kind::Image, "cat".to_owned()));
        assert_eq!(kind("day/night"), (Kind::Text, "day/night".to_owned()));
        assert_eq!(kind("./Cargo.toml"), (Kind::Image, "./Cargo.toml".to_owned()));
        assert!(is_recorded("-") && is_recorded("a.jsonl") && !is_recorded("a"));
    }

    #[test]
    fn sums_have_unit_length() {
        let shift = Shift { sum: vec![0.0, 1.0], name: " + b".to_owned() };
        let asked = |vector: [f32; 2]| Asked { id: "a".to_owned(), image: None, result: Ok(vector.to_vec()) };
        let moved = shift.apply(asked([1.0, 0.0]));
        assert_eq!(moved.id, "a + b");
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert!(moved.result.unwrap().iter().all(|x| (x - half).abs() < 1e-6));
        let gone = shift.apply(asked([0.0, -1.0]));
        assert!(gone.result.unwrap_err().message.contains("are the same"));
    }
}
