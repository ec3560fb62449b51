//! Which files of a repository a checkpoint needs.

use crate::model::files::{WEIGHT_NAMES, choose_weights, is_transformers};
use std::path::{Component, Path};

/// The configuration files; small, and all of them count in a checkpoint's hash.
pub(super) const CONFIGS: &[&str] = &[
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
    "tokenizer_config.json",
];

/// What stands for a tokenizer: the first group of which all files are there is enough.
const TOKENIZERS: &[&[&str]] = &[
    &["tokenizer.json"],
    &["vocab.json", "merges.txt"],
    &["vocab.txt"],
    &["bpe_simple_vocab_16e6.txt.gz"],
    &["sentencepiece.bpe.model"],
    &["spiece.model"],
];

/// What must be known about a repository before its weights can be chosen.
pub(super) struct Plan<'a> {
    /// The content of `config.json`, if there is one.
    pub(super) config: Option<&'a [u8]>,
    /// The content of `open_clip_config.json`, if there is one.
    pub(super) open_clip: Option<&'a [u8]>,
}

impl Plan<'_> {
    /// The directory beside the weights in which `open_clip_config.json` says the text tower's files are.
    pub(super) fn below(&self) -> Option<String> {
        let config: serde_json::Value = serde_json::from_slice(self.open_clip?).ok()?;
        let name = config.pointer("/model_cfg/text_cfg/hf_model_name")?.as_str()?;
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        (plain && !name.is_empty()).then(|| name.to_owned())
    }

    /// The weights, or the index of their shards, among the files that `has` knows.
    pub(super) fn weights(&self, has: impl Fn(&str) -> bool) -> Option<&'static str> {
        let transformers = match (self.config, self.open_clip) {
            (Some(config), Some(_)) => is_transformers(config),
            (config, _) => config.is_some(),
        };
        choose_weights(has, transformers).map(|(name, _)| name)
    }

    /// The weights that are a pickle, or the index of their shards, among the files that `has` knows.
    pub(super) fn pickle(&self, has: impl Fn(&str) -> bool) -> Option<&'static str> {
        let transformers = self.config.is_some_and(is_transformers);
        let mut names = ["pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin"];
        if !transformers {
            names.reverse();
        }
        names.into_iter().find(|name| has(name))
    }

    /// The tokenizer's files among those that `has` knows, and the directory's own configuration.
    pub(super) fn tokenizer(&self, has: impl Fn(&str) -> bool) -> Vec<String> {
        let mut wanted = Vec::new();
        for prefix in [String::new()].into_iter().chain(self.below().map(|below| format!("{below}/"))) {
            let group = TOKENIZERS.iter().find(|group| group.iter().all(|name| has(&format!("{prefix}{name}"))));
            wanted.extend(group.into_iter().copied().flatten().map(|name| format!("{prefix}{name}")));
            let config = format!("{prefix}config.json");
            if !prefix.is_empty() && has(&config) {
                wanted.push(config);
            }
        }
        wanted
    }

    /// Every name that could have been wanted: those that a repository lacks are remembered as absent.
    pub(super) fn candidates(&self) -> Vec<String> {
        let tokenizers = || TOKENIZERS.iter().copied().flatten().copied();
        let weights = WEIGHT_NAMES.iter().map(|(name, _)| *name);
        let mut names: Vec<String> =
            CONFIGS.iter().copied().chain(tokenizers()).chain(weights).map(str::to_owned).collect();
        if let Some(below) = self.below() {
            names.extend(["config.json"].into_iter().chain(tokenizers()).map(|name| format!("{below}/{name}")));
        }
        names
    }
}

/// The shards that an index lists: plain file names, each once.
pub(super) fn shards(index: &[u8]) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).ok()?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    names.iter().all(|name| Path::new(name).file_name().is_some_and(|file| file == name.as_str())).then_some(names)
}

/// The text of an error about weights that are there, but not as safetensors.
pub(super) fn pickles<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names = names.filter(|name| !name.contains('/'));
    names.find(|name| name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_wanted() {
        let files =
            ["config.json", "tokenizer.json", "vocab.json", "merges.txt", "model.safetensors", "flax_model.msgpack"];
        let plan = Plan { config: Some(br#"{"model_type": "clip"}"#), open_clip: None };
        assert_eq!(plan.tokenizer(|name| files.contains(&name)), ["tokenizer.json"]);
        assert_eq!(plan.tokenizer(|name| files[2..].contains(&name)), ["vocab.json", "merges.txt"]);
        assert_eq!(plan.weights(|name| files.contains(&name)), Some("model.safetensors"));
        assert!(plan.candidates().iter().any(|name| name == "processor_config.json"));
    }

    #[test]
    fn text_towers_in_a_directory_of_their_own() {
        let open_clip = br#"{"model_cfg": {"text_cfg": {"hf_model_name": "text"}}}"#;
        let plan = Plan { config: None, open_clip: Some(open_clip) };
        let files = ["open_clip_config.json", "text/config.json", "text/tokenizer.json"];
        assert_eq!(plan.tokenizer(|name| files.contains(&name)), ["text/tokenizer.json", "text/config.json"]);
        let open_clip = br#"{"model_cfg": {"text_cfg": {"hf_model_name": "../elsewhere"}}}"#;
        assert_eq!(Plan { config: None, open_clip: Some(open_clip) }.below(), None);
    }

    #[test]
    fn pickles_follow_the_configuration() {
        let both = |name: &str| name.ends_with("pytorch_model.bin");
        let pickle = |config| Plan { config, open_clip: None }.pickle(both);
        assert_eq!(pickle(Some(br#"{"model_type": "clip"}"#.as_slice())), Some("pytorch_model.bin"));
        assert_eq!(pickle(None), Some("open_clip_pytorch_model.bin"));
        assert_eq!(Plan { config: None, open_clip: None }.pickle(|name| name == "model.pt"), None);
    }

    #[test]
    fn shards_stay_in_the_directory() {
        let index = br#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
        assert_eq!(shards(index).unwrap(), ["m-1.safetensors", "m-2.safetensors"]);
        assert_eq!(shards(br#"{"weight_map": {"a": "../m.safetensors"}}"#), None);
        assert_eq!(shards(b"[]"), None);
    }
}
