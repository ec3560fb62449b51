//! JSON Lines: the language between commands. The fields are a contract, which `README.md` documents.

use super::{ErrorLine, Format, Header, OutputDtype, Sink, Target, write_line};
use crate::data::Embedded;
use crate::error::Result;
use half::f16;
use serde::Serialize;
use std::borrow::Cow;
use std::path::PathBuf;

/// JSON Lines, one record an item.
pub(super) struct Jsonl;

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

    fn needs_file(&self) -> bool {
        false
    }

    fn open(&self, target: Target, header: Header) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Lines { target, header }))
    }
}

struct Lines {
    target: Target,
    header: Header,
}

/// Numbers have the fewest digits that read back as the same f32.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    kind: &'static str,
    embedding: &'a [f32],
    dim: usize,
    model: &'a str,
}

impl Sink for Lines {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        let embedding = match &item.result {
            Ok(embedding) => embedding,
            Err(error) => return write_line(&mut self.target, &ErrorLine::new(&item.id, error)),
        };
        let embedding = match self.header.dtype {
            OutputDtype::F32 => Cow::Borrowed(embedding.as_slice()),
            OutputDtype::F16 => embedding.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        };
        let Header { model, dim, .. } = &self.header;
        let line = Line { id: &item.id, kind: item.kind.name(), embedding: &embedding, dim: *dim, model };
        write_line(&mut self.target, &line)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.target.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        self.target.keep()
    }
}
