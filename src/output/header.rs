//! How an output was made, which it carries with it: in its own metadata, or in `NAME.meta.json` beside it.

use super::target::longer;
use super::{OutputDtype, Target};
use crate::data::Shard;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// A file of metadata longer than this is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// What is known before the first embedding, and all that decides its bytes. There is no time and no machine in it:
/// equal runs give equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The program and its version.
    pub tool: String,
    /// The model's name and the start of its hash, `name@sha8`, as in records.
    pub model: String,
    /// The model's whole hash: weights, configuration, preprocessing.
    pub model_sha: String,
    /// Where on the Hub it comes from, `org/name@commit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The licence of the weights, if the model has a card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// What was done to images before the tower saw them, in words.
    pub preprocessing: String,
    /// Whether images were turned as their EXIF orientation says.
    pub exif: bool,
    /// The most pixels that an image may have.
    pub max_pixels: u64,
    /// The length of an embedding.
    pub dim: usize,
    /// The kind of numbers that the output holds.
    pub dtype: OutputDtype,
    /// Whether the embeddings have unit length.
    pub normalized: bool,
    /// The kind of device on which the towers computed.
    pub device: String,
    /// The kind of numbers that they computed with.
    pub compute_dtype: String,
    /// The vector instructions of the processor that computed: between them the last digits differ.
    pub instruction_set: String,
    /// Which part of the items it has, unless it has all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
}

/// How many items an output has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them.
    pub items: u64,
    /// Those without an embedding.
    pub failed: u64,
}

/// What is written.
#[derive(Serialize, Deserialize)]
struct Meta {
    #[serde(flatten)]
    header: Header,
    #[serde(flatten)]
    counts: Counts,
}

impl Header {
    /// The fields in which two headers differ, with both values.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let fields = |header: &Self| match serde_json::to_value(header) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (ours, others) = (fields(self), fields(other));
        let names: std::collections::BTreeSet<_> = ours.keys().chain(others.keys()).collect();
        let show = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "none".to_owned(),
        };
        let differing = names.into_iter().filter(|&name| ours.get(name) != others.get(name));
        differing.map(|name| (name.clone(), show(ours.get(name)), show(others.get(name)))).collect()
    }

    /// The header and the counts as JSON.
    pub(super) fn to_json(&self, counts: Counts) -> Result<String> {
        serde_json::to_string(&Meta { header: self.clone(), counts }).map_err(Error::run)
    }

    /// What [`Header::to_json`] wrote.
    pub(super) fn from_json(json: &[u8]) -> Result<(Self, Counts)> {
        let meta: Meta = serde_json::from_slice(json)
            .map_err(|error| Error::run(format!("this is not how an output of `embed` describes itself: {error}")))?;
        if meta.header.dim == 0 || meta.header.dim > 1 << 24 {
            return Err(Error::run(format!("embeddings of {} numbers", meta.header.dim)));
        }
        Ok((meta.header, meta.counts))
    }

    /// Writes `NAME.meta.json` beside an output that has no room for it.
    pub(super) fn write_beside(&self, output: &Path, counts: Counts) -> Result<()> {
        self.write_to(Target::open(&longer(output, ".meta.json"))?, counts)
    }

    /// Writes it to a file of its own.
    pub(super) fn write_to(&self, mut target: Target, counts: Counts) -> Result<()> {
        let json = self.to_json(counts)? + "\n";
        target.write_all(json.as_bytes()).map_err(|error| target.error(error))?;
        target.commit()
    }

    /// Reads `NAME.meta.json` beside an output.
    pub(super) fn read_beside(output: &Path) -> Result<(Self, Counts)> {
        let path = longer(output, ".meta.json");
        let mut json = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut json));
        read.map_err(|error| {
            Error::run(error)
                .at(path.display())
                .hint("it says how an output was made; `embed --output` writes it beside the output")
        })?;
        Self::from_json(&json).map_err(|error| error.at(path.display()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::output) fn header() -> Header {
        Header {
            tool: "clip-cli 1".into(),
            model: "m@01234567".into(),
            model_sha: "0123456789".into(),
            origin: None,
            license: Some("MIT".into()),
            preprocessing: "none".into(),
            exif: false,
            max_pixels: 1,
            dim: 3,
            dtype: OutputDtype::F32,
            normalized: true,
            device: "cpu".into(),
            compute_dtype: "f32".into(),
            instruction_set: "portable".into(),
            shard: None,
        }
    }

    #[test]
    fn headers_come_back() {
        let counts = Counts { items: 5, failed: 2 };
        let json = header().to_json(counts).unwrap();
        assert_eq!(Header::from_json(json.as_bytes()).unwrap(), (header(), counts));
        assert!(Header::from_json(b"{}").is_err());
        assert!(Header::from_json(json.replace("\"dim\":3", "\"dim\":0").as_bytes()).is_err());
    }

    #[test]
    fn differences_are_named() {
        let other = Header { license: None, normalized: false, ..header() };
        let shown: Vec<_> = header().differences(&other).into_iter().map(|(a, b, c)| format!("{a} {b} {c}")).collect();
        assert_eq!(shown, ["license MIT none", "normalized true false"]);
    }
}
