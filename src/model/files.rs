//! The files of one checkpoint: a directory, or the model in the binary.

use super::family::{Config, TokenizerFiles};
use crate::error::{Error, Result};
use crate::text::Tokenizer;
use crate::weights::Files;
use std::path::{Path, PathBuf};

/// Where the files of a checkpoint are.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    name: String,
    place: Place,
    origin: Option<String>,
}

#[derive(Clone, Debug)]
enum Place {
    Directory {
        directory: PathBuf,
        weights: PathBuf,
        open_clip: bool,
    },
    #[cfg(feature = "builtin")]
    Builtin,
}

/// The names under which weights are looked for, in order, and whether they belong to open_clip's layout.
pub const WEIGHT_NAMES: &[(&str, bool)] = &[
    ("model.safetensors", false),
    ("model.safetensors.index.json", false),
    ("open_clip_model.safetensors", true),
    ("open_clip_model.safetensors.index.json", true),
    ("open_clip_pytorch_model.safetensors", true),
];

/// Which weights of a checkpoint are read, given which files it has, and whether they are in open_clip's layout.
///
/// `transformers` says whether its `config.json` is one of transformers': repositories that timm hosts have a
/// `config.json` and a `model.safetensors` of their own, which hold the image tower alone.
pub fn choose_weights(has: impl Fn(&str) -> bool, transformers: bool) -> Option<(&'static str, bool)> {
    choose_among(WEIGHT_NAMES, has, transformers)
}

/// Like [`choose_weights`], among other names.
pub(crate) fn choose_among(
    names: &'static [(&'static str, bool)],
    has: impl Fn(&str) -> bool,
    transformers: bool,
) -> Option<(&'static str, bool)> {
    let configured = has("open_clip_config.json");
    let found = |open_clip: bool| names.iter().find(|(name, layout)| *layout == open_clip && has(name));
    let (name, layout) = match (transformers, configured) {
        (true, true) => found(false).or_else(|| found(true))?,
        (true, false) => found(false)?,
        (false, true) => found(true).or_else(|| found(false))?,
        (false, false) => return None,
    };
    Some((name, *layout || !transformers))
}

/// Whether a `config.json` is one of transformers', which name the kind of model.
pub fn is_transformers(config: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(config).is_ok_and(|config| config.get("model_type").is_some())
}

/// The files that may hold a tokenizer.
const TOKENIZER_NAMES: &[&str] = &[
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "bpe_simple_vocab_16e6.txt.gz",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
];

impl ModelFiles {
    /// The small model that is part of the binary.
    #[cfg(feature = "builtin")]
    pub fn builtin() -> Self {
        Self { name: "builtin".to_owned(), place: Place::Builtin, origin: None }
    }

    /// A directory as the Hub has it, or one safetensors file with its configuration beside it.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.is_file() {
            let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
            let open_clip = !directory.join("config.json").is_file();
            let stem =
                name.file_name().map_or_else(|| name.display().to_string(), |n| n.to_string_lossy().into_owned());
            let place = Place::Directory { directory, weights: path.to_owned(), open_clip };
            return Ok(Self { name: stem, place, origin: None });
        }
        let stem = name.file_name().map_or_else(|| name.display().to_string(), |n| n.to_string_lossy().into_owned());
        Self::in_directory(path, stem)
    }

    /// The directory of a single image trunk, as timm's repositories have it: its `config.json` names an architecture.
    /// None if it is none.
    pub(crate) fn trunk(directory: &Path) -> Option<Self> {
        let config = std::fs::read(directory.join("config.json")).ok()?;
        let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
        let weights = directory.join("model.safetensors");
        let lone = !directory.join("open_clip_config.json").is_file() && config.get("model_type").is_none();
        let is_trunk = config.get("architecture").is_some() && lone && weights.is_file();
        let name = directory.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned();
        is_trunk.then(|| Self::with_weights(name, directory.to_owned(), weights, false))
    }

    /// Weights that were found in a directory, and whether they are in open_clip's layout.
    pub(crate) fn with_weights(name: String, directory: PathBuf, weights: PathBuf, open_clip: bool) -> Self {
        Self { name, place: Place::Directory { directory, weights, open_clip }, origin: None }
    }

    /// A directory as the Hub has it, known by another name.
    pub fn in_directory(directory: &Path, name: String) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::run("no such model file or directory").at(directory.display()).hint(
                "--model takes a directory, a .safetensors file, an alias from `clip-cli models list`, \
                 or org/name on the Hugging Face Hub",
            ));
        }
        let both = |name: &str| directory.join(name).is_file();
        let transformers = match (both("config.json"), both("open_clip_config.json")) {
            (true, true) => std::fs::read(directory.join("config.json")).is_ok_and(|config| is_transformers(&config)),
            (config, _) => config,
        };
        if let Some((weights, open_clip)) = choose_weights(both, transformers) {
            let weights = directory.join(weights);
            let place = Place::Directory { directory: directory.to_owned(), weights, open_clip };
            return Ok(Self { name, place, origin: None });
        }
        let names = WEIGHT_NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let found: Vec<&str> = WEIGHT_NAMES.iter().map(|(name, _)| *name).filter(|name| both(name)).collect();
        if let Some(weights) = found.first() {
            return Err(Error::run(format!("{weights} has no config.json or open_clip_config.json beside it"))
                .at(directory.display())
                .hint("copy the configuration files of the checkpoint beside its weights"));
        }
        let pickles: Vec<_> =
            ["pytorch_model.bin", "open_clip_pytorch_model.bin"].into_iter().filter(|n| both(n)).collect();
        let error = Error::run(format!("no weights in this directory (looked for {names})")).at(directory.display());
        Err(match pickles.first() {
            Some(pickle) => {
                error.hint(format!(
                "{pickle} is a pickle: `clip-cli models convert {} --output NEW` makes safetensors of it, running nothing",
                directory.display()
            ))
            }
            None => error.hint("is this the right directory?"),
        })
    }

    /// Notes where on the Hub they come from, as `org/name@commit`.
    #[must_use]
    pub fn from_hub(self, origin: String) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// Where on the Hub they come from, `org/name@commit`, if they do.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// The checkpoint's name, for records and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory, unless the model is part of the binary.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory { directory, .. } => Some(directory),
            #[cfg(feature = "builtin")]
            Place::Builtin => None,
        }
    }

    /// The name that weights of this layout have in one file.
    pub fn weights_name(&self) -> &'static str {
        match &self.place {
            Place::Directory { open_clip: false, .. } => "model.safetensors",
            _ => "open_clip_model.safetensors",
        }
    }

    /// What belongs to the checkpoint beside its weights: configuration, tokenizer and licences, with their names below
    /// its directory.
    pub fn companions(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let Some(directory) = self.directory() else {
            #[cfg(feature = "builtin")]
            return Ok(crate::builtin::FILES
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
                .collect());
            #[cfg(not(feature = "builtin"))]
            unreachable!("only the built-in model has no directory");
        };
        let mut found = Vec::new();
        let mut look = |below: &str| -> Result<Vec<String>> {
            let mut folders = Vec::new();
            let path = directory.join(below);
            for entry in std::fs::read_dir(&path).map_err(|e| Error::run(e).at(path.display()))? {
                let entry = entry.map_err(|e| Error::run(e).at(path.display()))?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let at = entry.path();
                if at.is_dir() {
                    folders.push(name);
                } else if is_companion(&name) {
                    let bytes = std::fs::read(&at).map_err(|e| Error::run(e).at(at.display()))?;
                    found.push((format!("{below}{name}"), bytes));
                }
            }
            Ok(folders)
        };
        // open_clip keeps the text tower's files in a directory of their own.
        for folder in look("")? {
            if directory.join(&folder).join("config.json").is_file() {
                look(&format!("{folder}/"))?;
            }
        }
        found.sort();
        Ok(found)
    }

    /// The configuration files, as far as they are there.
    pub fn config(&self) -> Result<Config> {
        let open_clip_layout = match &self.place {
            Place::Directory { open_clip, .. } => *open_clip,
            #[cfg(feature = "builtin")]
            Place::Builtin => true,
        };
        if open_clip_layout {
            let open_clip = self.json("open_clip_config.json")?;
            let named = open_clip.as_ref().and_then(|c| c.pointer("/model_cfg/text_cfg/hf_model_name")?.as_str());
            let text = match named {
                Some(directory) if is_below(directory) => self.json(&format!("{directory}/config.json"))?,
                _ => None,
            };
            return Ok(Config { open_clip, text, tokenizer: self.json("tokenizer_config.json")?, ..Config::default() });
        }
        let preprocessor = match self.json("preprocessor_config.json")? {
            Some(preprocessor) => Some(preprocessor),
            None => self.json("processor_config.json")?,
        };
        Ok(Config {
            hf: self.json("config.json")?,
            preprocessor,
            tokenizer: self.json("tokenizer_config.json")?,
            ..Config::default()
        })
    }

    /// The weights.
    pub fn weights(&self) -> Result<Files> {
        match &self.place {
            Place::Directory { weights, .. } if weights.extension().is_some_and(|e| e == "json") => {
                Files::open_index(weights)
            }
            Place::Directory { weights, .. } => Files::open(weights),
            #[cfg(feature = "builtin")]
            Place::Builtin => Files::from_static("builtin", crate::builtin::WEIGHTS),
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self, place: &TokenizerFiles) -> Result<Tokenizer> {
        let below = match place {
            TokenizerFiles::Below(directory) if is_below(directory) => format!("{directory}/"),
            _ => String::new(),
        };
        let Some(directory) = self.directory() else {
            #[cfg(feature = "builtin")]
            return Tokenizer::from_json_bytes(crate::builtin::TOKENIZER);
            #[cfg(not(feature = "builtin"))]
            unreachable!("only the built-in model has no directory");
        };
        // open_clip itself looks beside the weights even where the configuration names a directory.
        let lone = !directory.join(&below).is_dir();
        let below = if lone { String::new() } else { below };
        let at = |name: &str| directory.join(format!("{below}{name}"));
        if at("tokenizer.json").is_file() {
            return Tokenizer::from_json(&at("tokenizer.json"));
        }
        if at("vocab.json").is_file() && at("merges.txt").is_file() {
            return Tokenizer::from_bpe_files(&at("vocab.json"), &at("merges.txt"));
        }
        if at("bpe_simple_vocab_16e6.txt.gz").is_file() {
            return Tokenizer::from_merges_file(&at("bpe_simple_vocab_16e6.txt.gz"));
        }
        if at("vocab.txt").is_file() {
            return Tokenizer::from_wordpiece(&at("vocab.txt"));
        }
        if let Some(name) = ["sentencepiece.bpe.model", "spiece.model"].iter().find(|name| at(name).is_file()) {
            return Tokenizer::from_sentencepiece(&at(name));
        }
        if *place == TokenizerFiles::BesideOrClip {
            return Tokenizer::builtin();
        }
        Err(Error::run("no tokenizer.json, vocab.json with merges.txt, vocab.txt, or SentencePiece model")
            .at(directory.join(&below).display())
            .hint("copy the tokenizer files of the checkpoint beside its weights"))
    }

    /// A hash that names the checkpoint: of its weights, its configuration and the input size. That of the weights is
    /// kept in the directory `hashes`, if there is one.
    pub(super) fn sha(&self, weights: &Files, image_size: Option<usize>, hashes: Option<&Path>) -> String {
        let mut hasher = blake3::Hasher::new();
        let content = hashes.map_or_else(|| weights.content_hash(), |hashes| weights.content_hash_kept(hashes));
        hasher.update(content.as_bytes());
        for name in ["config.json", "preprocessor_config.json", "processor_config.json", "open_clip_config.json"] {
            if let Ok(Some(bytes)) = self.read(name) {
                hasher.update(name.as_bytes()).update(&bytes);
            }
        }
        if let Some(side) = image_size {
            hasher.update(&(side as u64).to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// A hash that names the checkpoint, whose own one is `sha`, together with its tokenizer.
    pub(super) fn text_sha(&self, sha: &str, place: &TokenizerFiles) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(sha.as_bytes());
        let mut directories = vec![String::new()];
        if let TokenizerFiles::Below(directory) = place
            && is_below(directory)
        {
            directories.push(format!("{directory}/"));
        }
        for directory in &directories {
            for name in TOKENIZER_NAMES.iter().chain(&["tokenizer_config.json", "config.json"]) {
                if let Some(bytes) = self.read(&format!("{directory}{name}"))? {
                    hasher.update(name.as_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
                }
            }
        }
        #[cfg(feature = "builtin")]
        if self.directory().is_none() {
            hasher.update(crate::builtin::TOKENIZER);
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn json(&self, name: &str) -> Result<Option<serde_json::Value>> {
        match self.read(name)? {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Error::run(format!("not valid JSON: {e}")).at(format!("{}/{name}", self.name))),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match &self.place {
            Place::Directory { directory, .. } => match std::fs::read(directory.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::run(e).at(directory.join(name).display())),
            },
            #[cfg(feature = "builtin")]
            Place::Builtin => Ok(crate::builtin::file(name).map(<[u8]>::to_vec)),
        }
    }
}

/// Whether a file of this name belongs to a checkpoint beside its weights.
fn is_companion(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "config.json",
        "open_clip_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer_config.json",
    ];
    NAMES.contains(&name) || TOKENIZER_NAMES.contains(&name) || name.starts_with("LICENSE")
}

/// Whether a directory name stays below the checkpoint's own directory.
pub(crate) fn is_below(directory: &str) -> bool {
    let mut parts = Path::new(directory).components();
    !directory.is_empty() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_configuration() {
        let choose = |files: &[&str], transformers| choose_weights(|name| files.contains(&name), transformers);
        let laion = ["config.json", "model.safetensors", "open_clip_config.json", "open_clip_model.safetensors"];
        assert_eq!(choose(&laion, true), Some(("model.safetensors", false)));
        // timm's config.json describes model.safetensors, an image tower without text.
        assert_eq!(choose(&laion, false), Some(("open_clip_model.safetensors", true)));
        assert_eq!(choose(&["open_clip_config.json", "model.safetensors"], false), Some(("model.safetensors", true)));
        assert_eq!(choose(&["config.json", "open_clip_model.safetensors"], true), None);
        assert_eq!(choose(&["model.safetensors"], false), None);
        let shards = ["config.json", "model.safetensors.index.json"];
        assert_eq!(choose(&shards, true), Some(("model.safetensors.index.json", false)));
    }

    #[test]
    fn configurations_of_timm_are_told_apart() {
        assert!(is_transformers(br#"{"model_type": "clip"}"#));
        assert!(!is_transformers(br#"{"architecture": "vit_base_patch32_clip_224"}"#));
        assert!(!is_transformers(b"{"));
    }
}
