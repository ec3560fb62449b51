//! safetensors: the tensor `embeddings` with one row an item that succeeded, the tensor `ids`, the bytes of a JSON list of
//! their ids, and, if there are captions of pairs, `texts`: a list with the caption of each row, or null.

use super::errors::{ErrorLog, Place};
use super::{Counts, Format, Header, OutputDtype, Shape, Sink, Target, restore, state};
use crate::data::{Embedded, Kind};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Two tensors, and `NAME.errors.jsonl` if items failed.
pub(super) struct Safetensors;

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["safetensors"]
    }

    fn about(&self) -> &'static str {
        "the tensors `embeddings`, `ids` and, with captions, `texts` (bytes of JSON lists); NAME.errors.jsonl says which items failed"
    }

    fn shape(&self) -> Shape {
        Shape::File
    }

    fn open(&self, mut target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        let state: State = restore(state)?;
        // The ids come behind the embeddings, of which nobody knows yet how many there are: they wait in a file.
        let ids = target.beside(".ids", state.ids)?;
        let captions = target.beside(".texts", state.captions_bytes)?;
        let errors = ErrorLog::open(&target, Place::Beside, state.errors)?;
        let most = u64::MAX / 1_000_000;
        let counts = State {
            rows: most,
            texts: u64::MAX,
            failed: u64::MAX,
            ids: u64::MAX / 4,
            errors: 0,
            captions: 1,
            captions_bytes: u64::MAX / 4,
        };
        let room = head(header, &counts, 0)?.len();
        let row = header.dim as u64 * header.dtype.size();
        target.cut(if state.rows > 0 { room as u64 + state.rows.min(most) * row } else { 0 })?;
        let mut tensors =
            Tensors { target, ids, captions, errors, header: header.clone(), counts: state, room, bytes: Vec::new() };
        if tensors.counts.rows == 0 {
            tensors.target.write_all(&vec![0; room]).map_err(|error| tensors.target.error(error))?;
        }
        Ok(Box::new(tensors))
    }
}

struct Tensors {
    target: Target,
    ids: Target,
    /// Written as the ids are, whether there are any or not: the first may come last.
    captions: Target,
    errors: ErrorLog,
    header: Header,
    counts: State,
    room: usize,
    bytes: Vec<u8>,
}

/// What the header says of the items.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    rows: u64,
    texts: u64,
    failed: u64,
    /// The length of the tensor `ids`.
    ids: u64,
    /// The length of the log.
    errors: u64,
    /// How many rows are captions of pairs.
    captions: u64,
    /// The length of the tensor `texts`.
    captions_bytes: u64,
}

impl Tensors {
    /// Everything written, header and all.
    fn close(self) -> Result<(Target, [Target; 2], ErrorLog)> {
        let Self { mut target, mut ids, mut captions, errors, header, mut counts, room, .. } = self;
        for list in [&mut ids, &mut captions] {
            let last = list.write_all(if counts.rows == 0 { b"[]" } else { b"]" });
            last.map_err(|error| target.error(error))?;
        }
        (counts.ids, counts.captions_bytes) = (ids.length(), captions.length());
        let lists = [(&ids, counts.ids), (&captions, counts.captions_bytes)];
        for (list, length) in lists.into_iter().take(if counts.captions > 0 { 2 } else { 1 }) {
            let copied = io::copy(&mut list.read_back()?.take(length), &mut target);
            copied.map_err(|error| target.error(error))?;
        }
        target.rewrite_start(&head(&header, &counts, room)?)?;
        Ok((target, [ids, captions], errors))
    }
}

impl Sink for Tensors {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        let embedding = match &item.result {
            Ok(embedding) => embedding,
            Err(error) => {
                let before = self.counts.rows + self.counts.failed;
                self.errors.write(&self.target, before, item, error)?;
                self.counts.failed += 1;
                return Ok(());
            }
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.header.dtype.extend(&mut bytes, embedding);
        self.target.write_all(&bytes).map_err(|error| self.target.error(error))?;
        for (list, entry) in [(&mut self.ids, Some(&item.id)), (&mut self.captions, item.text.as_ref())] {
            bytes.clear();
            bytes.push(if self.counts.rows == 0 { b'[' } else { b',' });
            serde_json::to_writer(&mut bytes, &entry).map_err(Error::run)?;
            list.write_all(&bytes).map_err(|error| self.target.error(error))?;
        }
        self.bytes = bytes;
        self.counts.rows += 1;
        self.counts.captions += u64::from(item.text.is_some());
        self.counts.texts += u64::from(item.kind == Kind::Text);
        Ok(())
    }

    fn state(&self) -> Value {
        let (ids, captions_bytes) = (self.ids.length(), self.captions.length());
        state(&State { ids, captions_bytes, errors: self.errors.length(), ..self.counts })
    }

    fn sync(&mut self) -> Result<()> {
        for target in [&mut self.target, &mut self.ids, &mut self.captions] {
            target.sync()?;
        }
        self.errors.sync()
    }

    fn finish(self: Box<Self>, _: &Header, _: Counts) -> Result<()> {
        let (target, lists, errors) = self.close()?;
        errors.finish()?;
        target.commit()?;
        lists.into_iter().for_each(Target::discard);
        Ok(())
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        if self.counts.rows == 0 && self.counts.failed == 0 {
            return None;
        }
        let (target, lists, errors) = self.close().ok()?;
        for list in lists {
            list.keep();
        }
        errors.keep();
        target.keep()
    }
}

/// The header, filled with spaces up to `room` bytes.
fn head(header: &Header, counts: &State, room: usize) -> Result<Vec<u8>> {
    let dtype = match header.dtype {
        OutputDtype::F32 => "F32",
        OutputDtype::F16 => "F16",
    };
    let end = counts.rows * header.dim as u64 * header.dtype.size();
    let mut metadata = serde_json::Map::new();
    // The format has texts alone for values.
    if let Value::Object(fields) = serde_json::to_value(header).map_err(Error::run)? {
        metadata.extend(fields.into_iter().map(|(name, value)| match value {
            Value::String(_) => (name, value),
            other => (name, other.to_string().into()),
        }));
    }
    let images = counts.rows.saturating_sub(counts.texts);
    for (name, count) in [("images", images), ("texts", counts.texts), ("failed", counts.failed)] {
        metadata.insert(name.to_owned(), count.to_string().into());
    }
    let mut json = serde_json::json!({
        "__metadata__": metadata,
        "embeddings": { "dtype": dtype, "shape": [counts.rows, header.dim], "data_offsets": [0, end] },
        "ids": { "dtype": "U8", "shape": [counts.ids], "data_offsets": [end, end + counts.ids] },
    });
    if counts.captions > 0 {
        let (start, bytes) = (end + counts.ids, counts.captions_bytes);
        json["texts"] = serde_json::json!({ "dtype": "U8", "shape": [bytes], "data_offsets": [start, start + bytes] });
    }
    let mut json = serde_json::to_vec(&json).map_err(Error::run)?;
    json.resize(json.len().max(room.saturating_sub(8)).next_multiple_of(8), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.append(&mut json);
    Ok(head)
}
