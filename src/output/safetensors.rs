//! safetensors: the tensor `embeddings` with one row an item that succeeded, and the tensor `ids`, the bytes of a JSON
//! list of their ids.

use super::errors::ErrorLog;
use super::{Format, Header, OutputDtype, Sink, Target};
use crate::data::{Embedded, Kind};
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
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
        "the tensors `embeddings` and `ids` (bytes of a JSON list); NAME.errors.jsonl says which items failed"
    }

    fn needs_file(&self) -> bool {
        true
    }

    fn open(&self, target: Target, header: Header) -> Result<Box<dyn Sink>> {
        let path = target.path().ok_or_else(|| Error::usage("safetensors needs a regular file"))?;
        let errors = ErrorLog::beside(path);
        // The ids come behind the embeddings, of which nobody knows yet how many there are: they wait in a file
        // without a name.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let ids = match directory {
            Some(directory) => tempfile::tempfile_in(directory),
            None => tempfile::tempfile_in("."),
        };
        let ids = BufWriter::new(ids.map_err(|error| target.error(error))?);
        let counts = Counts { rows: u64::MAX / 1_000_000, texts: u64::MAX, failed: u64::MAX, ids: u64::MAX / 2 };
        let room = head(&header, &counts, 0)?.len();
        let mut tensors = Tensors {
            target: BufWriter::new(target),
            ids,
            errors,
            header,
            counts: Counts::default(),
            room,
            bytes: Vec::new(),
        };
        tensors.write_bytes(&vec![0; room])?;
        Ok(Box::new(tensors))
    }
}

struct Tensors {
    target: BufWriter<Target>,
    ids: BufWriter<File>,
    errors: ErrorLog,
    header: Header,
    counts: Counts,
    room: usize,
    bytes: Vec<u8>,
}

/// What the header says of the items.
#[derive(Default)]
struct Counts {
    rows: u64,
    texts: u64,
    failed: u64,
    /// The length of the tensor `ids`.
    ids: u64,
}

impl Tensors {
    fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.target.write_all(bytes).map_err(|error| self.target.get_ref().error(error))
    }

    fn write_id(&mut self, bytes: &[u8]) -> Result<()> {
        self.counts.ids += bytes.len() as u64;
        self.ids.write_all(bytes).map_err(|error| self.target.get_ref().error(error))
    }

    /// Everything written, header and all.
    fn close(mut self) -> Result<(Target, ErrorLog)> {
        self.write_id(if self.counts.rows == 0 { b"[]" } else { b"]" })?;
        let Self { target, ids, errors, header, counts, room, .. } = self;
        let failed = |error: io::Error, target: &Target| target.error(error);
        let mut target = target.into_inner().map_err(|error| {
            let (error, writer) = error.into_parts();
            failed(error, writer.get_ref())
        })?;
        let copied = ids.into_inner().map_err(io::IntoInnerError::into_error).and_then(|mut ids| {
            ids.seek(SeekFrom::Start(0))?;
            io::copy(&mut ids.take(counts.ids), &mut target)
        });
        copied.map_err(|error| failed(error, &target))?;
        target.rewrite_start(&head(&header, &counts, room)?)?;
        Ok((target, errors))
    }
}

impl Sink for Tensors {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        let embedding = match &item.result {
            Ok(embedding) => embedding,
            Err(error) => {
                self.counts.failed += 1;
                return self.errors.write(&item.id, error);
            }
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.header.dtype.extend(&mut bytes, embedding);
        self.write_bytes(&bytes)?;
        bytes.clear();
        bytes.push(if self.counts.rows == 0 { b'[' } else { b',' });
        serde_json::to_writer(&mut bytes, &item.id).map_err(Error::run)?;
        self.write_id(&bytes)?;
        self.bytes = bytes;
        self.counts.rows += 1;
        self.counts.texts += u64::from(item.kind == Kind::Text);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let (target, errors) = self.close()?;
        errors.finish()?;
        target.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        if self.counts.rows == 0 {
            return None;
        }
        let (target, errors) = self.close().ok()?;
        errors.keep();
        target.keep()
    }
}

/// The header, filled with spaces up to `room` bytes.
fn head(header: &Header, counts: &Counts, room: usize) -> Result<Vec<u8>> {
    let dtype = match header.dtype {
        OutputDtype::F32 => "F32",
        OutputDtype::F16 => "F16",
    };
    let end = counts.rows * header.dim as u64 * header.dtype.size();
    let json = serde_json::json!({
        "__metadata__": {
            "model": header.model,
            "normalized": header.normalized.to_string(),
            "images": (counts.rows.saturating_sub(counts.texts)).to_string(),
            "texts": counts.texts.to_string(),
            "failed": counts.failed.to_string(),
        },
        "embeddings": { "dtype": dtype, "shape": [counts.rows, header.dim], "data_offsets": [0, end] },
        "ids": { "dtype": "U8", "shape": [counts.ids], "data_offsets": [end, end + counts.ids] },
    });
    let mut json = serde_json::to_vec(&json).map_err(Error::run)?;
    json.resize(json.len().max(room.saturating_sub(8)).next_multiple_of(8), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.append(&mut json);
    Ok(head)
}
