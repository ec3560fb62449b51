//! JSON Lines: the language between commands. The fields are a contract, which `README.md` documents.

use super::{Counts, ErrorLine, Format, Header, Shape, Sink, Stored, StoredItem, Target, restore, state, write_line};
use crate::data::{Embedded, Kind, Line, Lines, Separator};
use crate::error::{Error, ItemError, ItemKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// JSON Lines, one record an item, and `NAME.meta.json`.
pub(super) struct Jsonl;

/// A record longer than this is refused.
const MAX_RECORD_BYTES: usize = 16 << 20;

impl Format for Jsonl {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["jsonl", "ndjson"]
    }

    fn about(&self) -> &'static str {
        "one JSON record an item, failed items included; what other commands read"
    }

    fn shape(&self) -> Shape {
        Shape::Stream
    }

    fn open(&self, mut target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        target.cut(restore(state)?)?;
        Ok(Box::new(Records { target, header: header.clone() }))
    }

    fn read(&self, path: &Path) -> Result<Stored> {
        let (header, counts) = Header::read_beside(path)?;
        let (name, dim) = (path.display().to_string(), header.dim);
        let file = File::open(path).map_err(|error| Error::run(error).at(&name))?;
        let lines = Lines::new(file, Separator::Newline, MAX_RECORD_BYTES);
        let items = (1..).zip(lines).map(move |(number, line)| {
            let broken = |message: String| Error::run(message).at(format!("{name}, record {number}"));
            match line.map_err(|error| Error::run(error).at(&name))? {
                Line::TooLong(_) => Err(broken(format!("longer than {MAX_RECORD_BYTES} bytes"))),
                Line::Whole(line) => {
                    let item = parse(&line).map_err(broken)?;
                    if item.result.as_ref().is_ok_and(|embedding| embedding.len() != dim) {
                        return Err(broken(format!("an embedding that is not of {dim} numbers")));
                    }
                    Ok(StoredItem { item, line: Some(line) })
                }
            }
        });
        Ok(Stored { header, counts, items: Box::new(items) })
    }

    fn reads_back(&self) -> bool {
        true
    }
}

/// What a record may hold.
#[derive(Deserialize)]
struct Fields {
    id: String,
    kind: Option<String>,
    text: Option<String>,
    embedding: Option<Vec<f32>>,
    error: Option<ErrorFields>,
}

#[derive(Deserialize)]
struct ErrorFields {
    kind: String,
    message: String,
}

fn parse(line: &[u8]) -> Result<Embedded, String> {
    let Fields { id, kind, text, embedding, error } =
        serde_json::from_slice(line).map_err(|error| format!("not one of `embed`'s records: {error}"))?;
    let kind = kind.map_or(Ok(Kind::Image), |kind| super::kind(&kind))?;
    let result = match (embedding, error) {
        (Some(embedding), None) => Ok(embedding),
        (None, Some(error)) => Err(ItemError::new(ItemKind::from_name(&error.kind), error.message)),
        _ => return Err("not one of `embed`'s records: neither an embedding nor an error".to_owned()),
    };
    Ok(Embedded { id, kind, text, result })
}

struct Records {
    target: Target,
    header: Header,
}

/// Numbers have the fewest digits that read back as the same f32.
#[derive(Serialize)]
struct Record<'a> {
    id: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    embedding: &'a [f32],
    dim: usize,
    model: &'a str,
}

impl Sink for Records {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        let embedding = match &item.result {
            Ok(embedding) => embedding,
            Err(error) => return write_line(&mut self.target, &ErrorLine::new(&item.id, error)),
        };
        let Header { model, dim, dtype, .. } = &self.header;
        let embedding: Cow<[f32]> = match dtype {
            super::OutputDtype::F32 => Cow::Borrowed(embedding.as_slice()),
            dtype => embedding.iter().map(|&x| dtype.round(x)).collect(),
        };
        let (kind, text) = (item.kind.name(), item.text.as_deref());
        let record = Record { id: &item.id, kind, text, embedding: &embedding, dim: *dim, model };
        write_line(&mut self.target, &record)
    }

    /// A line as it is: reading numbers back through decimals could change the last bit.
    fn copy(&mut self, stored: &StoredItem) -> Result<()> {
        let Some(line) = &stored.line else { return self.write(&stored.item) };
        let line = [line.as_slice(), b"\n"].concat();
        self.target.write_all(&line).map_err(|error| self.target.error(error))
    }

    fn state(&self) -> Value {
        state(&self.target.length())
    }

    fn sync(&mut self) -> Result<()> {
        self.target.sync()
    }

    fn finish(self: Box<Self>, header: &Header, counts: Counts) -> Result<()> {
        if let Some(path) = self.target.path() {
            header.write_beside(path, counts)?;
        }
        self.target.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        self.target.keep()
    }
}
