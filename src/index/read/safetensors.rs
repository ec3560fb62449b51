//! safetensors: the tensor `embeddings`, and the tensors `ids` and `texts` with the bytes of JSON lists.

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
        let bytes = |name| {
            let info = metadata.info(name).filter(|info| info.dtype == tensor::Dtype::U8)?;
            Some(&map[header + 8 + info.data_offsets.0..header + 8 + info.data_offsets.1])
        };
        let ids = match bytes("ids") {
            Some(names) => {
                let notes = metadata.metadata().clone().unwrap_or_default();
                let captions = bytes("texts").map(serde_json::from_slice::<Vec<Option<String>>>).transpose();
                let captions = captions.map_err(|error| Error::run(error).at("the tensor `texts`"))?;
                list(names, captions.as_deref().unwrap_or_default(), &notes)
                    .map_err(|error| error.at("the tensor `ids`"))?
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

/// The items of a JSON list of names, with their captions. The header says how many of them are images. They come first,
/// unless each text comes behind its image, under the same name, or all texts are captions.
fn list(bytes: &[u8], captions: &[Option<String>], notes: &HashMap<String, String>) -> Result<Ids> {
    let count = |name| notes.get(name).and_then(|count| count.parse().ok());
    let (images, texts) = (count("images").unwrap_or(usize::MAX), count("texts").unwrap_or(0));
    let (mut previous, mut repeated) = (String::new(), 0);
    names(bytes, &mut |id| {
        repeated += usize::from(id == previous);
        id.clone_into(&mut previous);
        Ok(())
    })?;
    let pairs = texts > 0 && repeated == texts;
    let told = texts > 0 && captions.iter().flatten().count() == texts;
    previous.clear();
    let (mut ids, mut row) = (IdList::new()?, 0);
    names(bytes, &mut |id| {
        let caption = captions.get(row).and_then(Option::as_deref);
        let is_image = match (told, pairs) {
            (true, _) => caption.is_none(),
            (_, true) => id != previous,
            _ => row < images,
        };
        let kind = if is_image { Kind::Image } else { Kind::Text };
        id.clone_into(&mut previous);
        row += 1;
        ids.push(id, kind, notes.get("model").map(String::as_str), caption)
    })?;
    ids.finish()
}

/// Calls `each` with the strings of a JSON list.
fn names(bytes: &[u8], each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    let mut until_error = |id: &str| {
        if result.is_ok() {
            result = each(id);
        }
    };
    serde_json::Deserializer::from_slice(bytes)
        .deserialize_seq(Each(&mut until_error))
        .map_err(|error| Error::run(format!("not a JSON list of names: {error}")))?;
    result
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_say_which_are_texts() {
        let notes = [("images", "3"), ("texts", "2")].map(|(name, count)| (name.to_owned(), count.to_owned()));
        let captions = [None, Some("x".to_owned()), None, Some("y".to_owned()), None];
        let ids = list(br#"["a","a","a","a","b"]"#, &captions, &notes.into()).unwrap();
        let items: Vec<_> = (0..5).map(|row| ids.get(row).unwrap()).map(|id| (id.kind, id.text)).collect();
        let want = captions.map(|text| (if text.is_some() { Kind::Text } else { Kind::Image }, text));
        assert_eq!(items, want);
    }

    fn kinds(names: &str, images: &str, texts: &str) -> String {
        let notes = [("images", images), ("texts", texts)].map(|(name, count)| (name.to_owned(), count.to_owned()));
        let ids = list(names.as_bytes(), &[], &notes.into()).unwrap();
        (0..ids.rows()).map(|row| if ids.kind(row) == Kind::Text { 't' } else { 'i' }).collect()
    }

    #[test]
    fn images_come_first_or_before_their_captions() {
        assert_eq!(kinds(r#"["a","b","c"]"#, "2", "1"), "iit");
        assert_eq!(kinds(r#"["a","a","b","b","b"]"#, "2", "3"), "ititt");
        assert_eq!(kinds(r#"["a","a"]"#, "0", "2"), "tt");
        assert_eq!(kinds(r#"["a","a"]"#, "2", "0"), "ii");
        assert_eq!(kinds("[]", "0", "0"), "");
        let error = |text: &str| list(text.as_bytes(), &[], &HashMap::new()).unwrap_err().to_string();
        assert!(error("[1]").contains("not a JSON list of names"));
        assert!(error("[\"a\"").contains("not a JSON list of names"));
    }
}
