//! Embeddings that were made before: `embed`'s JSON Lines, from a file or standard input.

use super::ordered::{Next, Ordered};
use super::{Embedded, Inputs, Kind, Line, Lines, ReadOptions, Separator, Tally, embed, is_stdin};
use crate::app::{App, Progress};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::model::Clip;
use crate::ops::normalize::normalize_row;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A record longer than this is refused; embeddings have some thousand numbers at most.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// How many records are parsed ahead of whoever takes them.
const WINDOW: usize = 64;

/// How often a wait for input looks for Ctrl-C.
const POLL: Duration = Duration::from_millis(100);

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The embedding as recorded, or why there is none.
    pub embedded: Embedded,
    /// The model that made it, `name@sha8`; every embedding has one.
    pub model: Option<String>,
}

/// Embeddings of whatever a command line names, in order: images are embedded and brought to unit length, as `embed`
/// does by default; files that end in `.jsonl` or `.ndjson`, and a standard input that begins with `{`, are `embed`'s
/// records, whose embeddings are handed out as they are.
///
/// # Errors
/// As those of [`embed()`]; also for a record that another model made.
pub fn embed_or_read(
    app: &App,
    clip: &Clip,
    options: &ReadOptions,
    inputs: Inputs,
    progress: &Progress,
    mut each: impl FnMut(Embedded) -> Result<()>,
) -> Result<Tally> {
    let mut total = Tally::default();
    let mut images = Vec::new();
    let flush = |images: &mut Vec<PathBuf>, each: &mut dyn FnMut(Embedded) -> Result<()>| {
        let inputs = Inputs { paths: std::mem::take(images), ..inputs.clone() };
        if inputs.paths.is_empty() {
            return Ok(Tally::default());
        }
        embed(app, clip, options, inputs.items(), progress, |mut item| {
            if let Ok(embedding) = &mut item.result {
                normalize_row(embedding);
            }
            each(item)
        })
    };
    let mut add = |part: Tally| {
        total.items += part.items;
        total.failed += part.failed;
        total.truncated += part.truncated;
    };
    for path in &inputs.paths {
        if !is_stdin(path) && !is_records(path) {
            images.push(path.clone());
            continue;
        }
        add(flush(&mut images, &mut each)?);
        let may_be_records = inputs.format.is_none() && inputs.options.separator == Separator::Newline;
        if is_stdin(path) && !(may_be_records && records_on_stdin(app)?) {
            images.push(path.clone());
            continue;
        }
        let mut part = Tally::default();
        read_records(app, path, options.workers, |record| {
            let item = record.made_by(clip)?;
            part.items += 1;
            part.failed += u64::from(item.result.is_err());
            progress.add(1);
            each(item)
        })?;
        add(part);
    }
    add(flush(&mut images, &mut each)?);
    Ok(total)
}

/// Whether this is a file of records: JSON Lines, unless the first one has neither an embedding nor an error, as in a
/// table of paths and captions.
pub fn is_records(path: &Path) -> bool {
    let known = |end: &std::ffi::OsStr| end.eq_ignore_ascii_case("jsonl") || end.eq_ignore_ascii_case("ndjson");
    if !path.extension().is_some_and(known) || path.is_dir() {
        return false;
    }
    let Ok(file) = std::fs::File::open(path) else { return true };
    match Lines::new(file, Separator::Newline, MAX_RECORD_BYTES).next() {
        Some(Ok(Line::Whole(line))) => match serde_json::from_slice::<FirstFields>(&line) {
            Ok(first) => first.embedding.is_some() || first.error.is_some(),
            Err(_) => true,
        },
        _ => true,
    }
}

/// What tells a record from a row of a table.
#[derive(Deserialize)]
struct FirstFields {
    embedding: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

/// Reads the records of a file, or of standard input for `-`, and calls `each` with them in order. What is no record
/// becomes a failed item.
pub fn read_records(
    app: &App,
    path: &Path,
    workers: Option<usize>,
    mut each: impl FnMut(Record) -> Result<()>,
) -> Result<()> {
    let (name, lines) = if is_stdin(path) {
        ("standard input".to_owned(), Lines::stdin(Separator::Newline, MAX_RECORD_BYTES))
    } else {
        let file = std::fs::File::open(path).map_err(|error| Error::run(error).at(path.display()))?;
        (path.display().to_string(), Lines::new(file, Separator::Newline, MAX_RECORD_BYTES))
    };
    let work = move |(number, line): (u64, std::io::Result<Line>)| match line {
        Ok(line) => Ok(parse(&name, number, line)),
        Err(error) => Err(Error::run(error).at(&name)),
    };
    let weight = |(_, line): &(u64, std::io::Result<Line>)| match line {
        Ok(Line::Whole(bytes) | Line::TooLong(bytes)) => bytes.len(),
        Err(_) => 0,
    };
    let mut records = Ordered::new((1..).zip(lines), workers.unwrap_or(app.threads).max(1), WINDOW, weight, work)?;
    loop {
        match records.next(POLL)? {
            Next::Ready(record) => each(record?)?,
            Next::Late => {}
            Next::End => return Ok(()),
        }
        app.interrupt.check()?;
    }
}

impl Record {
    /// The embedding, if this model made it.
    ///
    /// # Errors
    /// If another model did: no number that follows would mean anything.
    pub fn made_by(mut self, clip: &Clip) -> Result<Embedded> {
        let own = clip.id();
        if let Some(model) = &self.model
            && !same_model(model, &own)
        {
            return Err(Error::run(format!("the embedding comes from the model {model}, but this is {own}"))
                .at(&self.embedded.id)
                .hint("use the model that made the embeddings: --model"));
        }
        let dim = clip.spec.embed_dim;
        if let Ok(embedding) = &self.embedded.result
            && embedding.len() != dim
        {
            let message = format!("the embedding has {} numbers, those of {own} have {dim}", embedding.len());
            self.embedded.result = Err(ItemError::new(ItemKind::Invalid, message));
        }
        Ok(self.embedded)
    }
}

/// Whether two models, `name@sha8` each, have the same weights; the names may differ.
pub fn same_model(a: &str, b: &str) -> bool {
    let sha = |id: &str| id.rsplit_once('@').map(|(_, sha)| sha.to_owned());
    match (sha(a), sha(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Whether standard input holds records, which begin with `{`. Nothing but blank space is taken from it.
///
/// Waits for the first byte on another thread, so that Ctrl-C is heard meanwhile.
pub fn records_on_stdin(app: &App) -> Result<bool> {
    let (answer, answered) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || answer.send(first_byte(std::io::stdin().lock())));
    loop {
        match answered.recv_timeout(POLL) {
            Ok(first) => {
                let first = first.map_err(|error| Error::run(error).at("standard input"))?;
                return Ok(first == Some(b'{'));
            }
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => app.interrupt.check()?,
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
}

/// The first byte that is no blank space. It stays in the reader's buffer, and so does a byte order mark before it.
fn first_byte(mut reader: impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        if let Some(first) = text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            return Ok(Some(*first));
        }
        let blank = bytes.len();
        reader.consume(blank);
    }
}

/// What a record may hold; fields that we do not know are left aside.
#[derive(Deserialize)]
struct Fields {
    id: String,
    kind: Option<String>,
    text: Option<String>,
    embedding: Option<Vec<f32>>,
    model: Option<String>,
    error: Option<ErrorFields>,
}

#[derive(Deserialize)]
struct ErrorFields {
    kind: String,
    message: String,
}

fn parse(name: &str, number: u64, line: Line) -> Record {
    let place = || format!("{name}, record {number}");
    let failed = |id: String, kind, message: String| Record {
        embedded: Embedded { id, kind: Kind::Image, text: None, result: Err(ItemError::new(kind, message)) },
        model: None,
    };
    let bytes = match line {
        Line::Whole(bytes) => bytes,
        Line::TooLong(_) => {
            return failed(place(), ItemKind::TooLarge, format!("longer than {MAX_RECORD_BYTES} bytes"));
        }
    };
    let fields: Fields = match serde_json::from_slice(&bytes) {
        Ok(fields) => fields,
        Err(error) => return failed(place(), ItemKind::Invalid, format!("not one of `embed`'s records: {error}")),
    };
    let kind = match fields.kind.as_deref() {
        None | Some("image") => Kind::Image,
        Some("text") => Kind::Text,
        Some(other) => return failed(fields.id, ItemKind::Invalid, format!("an embedding of unknown kind {other:?}")),
    };
    let invalid = |message: &str| Err(ItemError::new(ItemKind::Invalid, message));
    let result = match (fields.embedding, fields.error) {
        (_, Some(error)) => Err(ItemError::new(ItemKind::from_name(&error.kind), error.message)),
        (None, None) => invalid("the record has neither an embedding nor an error"),
        (Some(_), None) if fields.model.is_none() => invalid("the record does not say which model made the embedding"),
        (Some(embedding), None) if embedding.iter().all(|x| x.is_finite()) => Ok(embedding),
        (Some(_), None) => invalid("the embedding has numbers that are too large"),
    };
    // A record that failed says nothing about a model.
    let model = fields.model.filter(|_| result.is_ok());
    // The caption of a pair stands under the image's id; a text alone is its own id.
    let text = fields.text.filter(|text| kind == Kind::Text && *text != fields.id);
    Record { embedded: Embedded { id: fields.id, kind, text, result }, model }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn read(line: &str) -> (String, Result<Vec<f32>, String>, Option<String>) {
        let Record { embedded, model } = parse("x.jsonl", 7, Line::Whole(line.as_bytes().to_vec()));
        (embedded.id, embedded.result.map_err(|e| format!("{}: {e}", e.kind.name())), model)
    }

    #[test]
    fn records() {
        let line = r#"{"id":"a.jpg","kind":"image","embedding":[0.6,-0.8],"dim":2,"model":"m@12345678","new":1}"#;
        assert_eq!(read(line), ("a.jpg".to_owned(), Ok(vec![0.6, -0.8]), Some("m@12345678".to_owned())));
        let line = r#"{"id":"a.jpg","kind":"text","text":"a cat","embedding":[1],"dim":1,"model":"m"}"#;
        let record = parse("x.jsonl", 7, Line::Whole(line.as_bytes().to_vec()));
        assert_eq!((record.embedded.kind, record.embedded.text.as_deref()), (Kind::Text, Some("a cat")));
        let line = r#"{"id":"b.jpg","error":{"kind":"truncated","message":"ends early"}}"#;
        assert_eq!(read(line), ("b.jpg".to_owned(), Err("truncated: ends early".to_owned()), None));
        let invalid = |line| read(line).1.unwrap_err();
        assert!(invalid(r#"{"id":"c"}"#).contains("neither an embedding nor an error"));
        assert!(invalid(r#"{"id":"c","embedding":[1]}"#).contains("which model"));
        assert!(invalid(r#"{"id":"c","embedding":[1e39],"model":"m"}"#).contains("too large"));
        assert!(invalid(r#"{"id":"c","embedding":[1],"model":"m","kind":"sound"}"#).contains("\"sound\""));
        let (id, result, _) = read("{oops");
        assert_eq!(id, "x.jsonl, record 7");
        assert!(result.unwrap_err().starts_with("invalid: not one of `embed`'s records"));
    }

    #[test]
    fn models_are_told_apart_by_their_hash() {
        assert!(same_model("a@12345678", "b@12345678"));
        assert!(!same_model("a@12345678", "a@12345679"));
        assert!(!same_model("a", "b@12345678"));
    }

    #[test]
    fn the_first_byte_stays() {
        for (text, first) in
            [("", None), (" \n\n", None), ("\n {\"id\"", Some(b'{')), ("\u{feff}{", Some(b'{')), ("a{", Some(b'a'))]
        {
            let mut reader = BufReader::with_capacity(4, text.as_bytes());
            assert_eq!(first_byte(&mut reader).unwrap(), first, "{text:?}");
        }
    }
}
