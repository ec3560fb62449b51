//! What is converted: a directory, or one file of weights with or without a configuration beside it.

use super::{big_vision, openai};
use crate::card::Layout;
use crate::error::{Error, Result};
use crate::model::family::{self, Config, Plan};
use crate::model::files::{choose_among, is_transformers};
use crate::model::{Clip, ModelFiles};
use crate::text::{Pad, Tokenizer};
use crate::weights::{Files, Kind};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The names under which weights are looked for, in order, and whether they belong to open_clip's layout.
const NAMES: &[(&str, bool)] = &[
    ("model.safetensors", false),
    ("model.safetensors.index.json", false),
    ("pytorch_model.bin", false),
    ("pytorch_model.bin.index.json", false),
    ("open_clip_model.safetensors", true),
    ("open_clip_model.safetensors.index.json", true),
    ("open_clip_pytorch_model.safetensors", true),
    ("open_clip_pytorch_model.bin", true),
];

/// A checkpoint that will be converted.
#[derive(Debug)]
pub struct Source {
    /// What people call it: `org/name`, or the name of the directory or file.
    pub name: String,
    /// Where its files are.
    pub directory: PathBuf,
    /// Its tensors.
    pub files: Files,
    /// Its configuration files; derived from the tensors where there are none.
    pub config: Config,
    /// The layout of its names.
    pub layout: Layout,
    /// What the configuration says.
    pub plan: Plan,
    model: ModelFiles,
}

impl Source {
    /// Opens a directory or a file of weights. `name` is what the model card will call it.
    ///
    /// # Errors
    /// If there are no weights, if they cannot be read, or if nothing says what they are.
    pub fn open(path: &Path, name: String) -> Result<Self> {
        let (directory, weights) = if path.is_dir() {
            (path.to_owned(), None)
        } else if path.is_file() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            (parent.unwrap_or(Path::new(".")).to_owned(), Some(path.to_owned()))
        } else {
            return Err(Error::run("no such file or directory").at(path.display()));
        };
        let has = |name: &str| directory.join(name).is_file();
        let transformers = has("config.json")
            && std::fs::read(directory.join("config.json")).is_ok_and(|config| is_transformers(&config));
        let configured = transformers || has("open_clip_config.json");
        let (weights, open_clip) = match weights {
            Some(weights) => {
                let named = weights.file_name().is_some_and(|name| name.to_string_lossy().starts_with("open_clip"));
                (weights, !transformers || named && has("open_clip_config.json"))
            }
            None => {
                let found = choose_among(NAMES, has, transformers).ok_or_else(|| nothing(&directory))?;
                (directory.join(found.0), found.1)
            }
        };
        let files = if weights.extension().is_some_and(|extension| extension == "json") {
            Files::open_any_index(&weights)?
        } else {
            Files::open_any(&weights)?
        };
        let model = ModelFiles::with_weights(name.clone(), directory.clone(), weights, open_clip);
        if files.kind() == Kind::Npz {
            let (config, files, names) = big_vision::read(files, model.config()?.tokenizer).map_err(|e| e.at(&name))?;
            let mut plan = family::detect(&config)?.plan(&config, &files)?;
            plan.layout = names;
            return Ok(Self { name, directory, files, config, layout: Layout::Transformers, plan, model });
        }
        let (config, files) = if configured {
            (model.config()?, files)
        } else if files.kind() == Kind::TorchScript {
            openai::read(files).map_err(|e| e.at(&name))?
        } else {
            return Err(Error::run("weights without a config.json or open_clip_config.json beside them")
                .at(&name)
                .hint(
                    "put the model's configuration beside the file; open_clip_config.json is \
                 {\"model_cfg\": …, \"preprocess_cfg\": …} with the model's entry from open_clip's model_configs",
                ));
        };
        let plan = family::detect(&config).and_then(|family| family.plan(&config, &files)).map_err(|e| e.at(&name))?;
        plan.spec.check().map_err(|e| e.at(&name))?;
        let layout = if open_clip || !configured { Layout::OpenClip } else { Layout::Transformers };
        Ok(Self { name, directory, files, config, layout, plan, model })
    }

    /// Whether the tensors already have the names of a layout.
    pub fn is_in(&self, layout: Layout) -> bool {
        self.layout == layout && self.files.kind() != Kind::Npz
    }

    /// The tokenizer, and the id that it pads with for this model.
    pub fn tokenizer(&self) -> Result<(Tokenizer, u32)> {
        let tokenizer = self.model.tokenizer(&self.plan.text.tokenizer)?;
        let (Pad::Fixed { id } | Pad::Longest { id }) = tokenizer.spec(self.plan.spec.text.context()).pad;
        Ok((tokenizer, self.plan.text.pad_id.unwrap_or(id)))
    }

    /// The files of weights with their SHA-256, as the Hub shows it.
    pub fn hashes(&self) -> Vec<(String, String)> {
        let hash = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let name =
            |path: &str| Path::new(path).file_name().map_or(path.to_owned(), |n| n.to_string_lossy().into_owned());
        self.files.contents().map(|(path, bytes)| (name(path), hash(bytes))).collect()
    }

    /// Opens the checkpoint as a model, which works for safetensors alone.
    pub fn model(&self) -> &ModelFiles {
        &self.model
    }
}

fn nothing(directory: &Path) -> Error {
    let names = NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    Error::run(format!("no weights with their configuration in this directory (looked for {names})"))
        .at(directory.display())
        .hint("name the file itself if it is called otherwise; config.json or open_clip_config.json must be beside it")
}

/// What a finished checkpoint says about itself.
pub(super) fn plan_of(directory: &Path) -> Result<Plan> {
    let files = ModelFiles::open(directory)?;
    Clip::plan(&files, &files.weights()?)
}
