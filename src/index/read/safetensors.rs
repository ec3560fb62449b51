//! safetensors: the tensor `embeddings`, and the tensor `ids` with the bytes of a JSON list.

use super::{Format, ends_with};
use crate::app::App;
use crate::data::Kind;
use crate::error::{Error, Result};
use crate::index::spill::IdList;
use crate::index::{Dtype, Ids, Matrix, Part};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{self, Metadata};
use serde::de::{Deserializer, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// Two tensors, and what the header says of them.
pub(super) struct Safetensors;

impl Format for Safetensors {
    fn name(&self) -> &'static str {
        "safetensors"
    }

    fn fits(&self, path: &Path) -> bool {
        ends_with(path, &["safetensors"]) && !path.is_dir()
    }

    fn open(&self, _: &App, path: &Path) -> Result<Vec<Part>> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(Error::run("the file is empty"));
        }
        // SAFETY: the usual bargain of mapped files: whoever truncates one while it is searched gets a crash.
        let map = unsafe { Mmap::map(&file) }?;
        // This also holds the header against the length of the file.
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| Error::run(format!("not a sound safetensors file: {error}")))?;
        let matrix = matrix(&file, header + 8, &metadata)?;
        let ids = match metadata.info("ids") {
            Some(info) if info.dtype == tensor::Dtype::U8 => {
                let bytes = &map[header + 8 + info.data_offsets.0..header + 8 + info.data_offsets.1];
                let notes = metadata.metadata().clone().unwrap_or_default();
                list(bytes, &notes).map_err(|error| error.at("the tensor `ids`"))?
            }
            _ => Ids::numbers(path.display().to_string(), Kind::Image, matrix.rows()),
        };
        Ok(vec![Part::new(path, matrix, ids)?])
    }
}

fn matrix(file: &File, start: usize, metadata: &Metadata) -> Result<Matrix> {
    let tensors = metadata.tensors();
    let info = tensors.get("embeddings").ok_or_else(|| {
        let mut names: Vec<_> = tensors.keys().map(String::as_str).take(8).collect();
        names.sort_unstable();
        Error::run("there is no tensor `embeddings`").hint(format!("it holds {}", names.join(", ")))
    })?;
    let dtype = match info.dtype {
        tensor::Dtype::F16 => Dtype::F16,
        tensor::Dtype::F32 => Dtype::F32,
        tensor::Dtype::F64 => Dtype::F64,
        other => return Err(Error::run(format!("embeddings of the kind {other:?}; F16, F32 and F64 can be searched"))),
    };
    let [rows, dim] = info.shape[..] else {
        return Err(Error::run(format!("`embeddings` has the shape {:?}, which is no matrix", info.shape)));
    };
    Matrix::map(file, start + info.data_offsets.0, rows, dim, dtype)
}

/// The items of a JSON list of names. The header says how many of them are images, which come first.
fn list(bytes: &[u8], notes: &HashMap<String, String>) -> Result<Ids> {
    let images = notes.get("images").and_then(|count| count.parse().ok()).unwrap_or(usize::MAX);
    let kind = |row| if row < images { Kind::Image } else { Kind::Text };
    let (mut ids, mut row) = (IdList::new()?, 0);
    let mut result = Ok(());
    let mut push = |id: &str| {
        if result.is_ok() {
            result = ids.push(id, kind(row), notes.get("model").map(String::as_str), None);
        }
        row += 1;
    };
    serde_json::Deserializer::from_slice(bytes)
        .deserialize_seq(Each(&mut push))
        .map_err(|error| Error::run(format!("not a JSON list of names: {error}")))?;
    result?;
    ids.finish()
}

/// Hands out the strings of a list, one by one: there may be millions.
struct Each<'a>(&'a mut dyn FnMut(&str));

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(id) = list.next_element::<Cow<'de, str>>()? {
            (self.0)(&id);
        }
        Ok(())
    }
}
