//! The families of checkpoints that we read: one file a family, one line in [`FAMILIES`].
//!
//! A family looks at the configuration files of a checkpoint, says whether it is one of its own, and turns what the
//! files say (and, where they are silent, what the reference implementation assumes) into a [`Plan`].

mod align;
mod custom_text;
mod hf_altclip;
mod hf_chinese_clip;
mod hf_clip;
mod hf_siglip;
mod hf_text;
mod json;
mod open_clip;
mod open_clip_conv;
mod open_clip_siglip;
mod parts;
pub mod siglip_trunks;
mod timm;
mod unsupported;

pub use json::Section;
pub(crate) use {hf_clip::layout as hf_clip_names, hf_siglip::layout as hf_siglip_names};
pub(crate) use {open_clip::layout as open_clip_names, open_clip_siglip::layout as open_clip_siglip_names};

use super::spec::Spec;
use crate::error::{Error, Result};
use crate::text::Clean;
use crate::weights::{Files, Layout};

/// All families, the first match wins.
pub static FAMILIES: &[&dyn Family] = &[
    &hf_clip::HfClip,
    &hf_clip::MetaClip2,
    &hf_chinese_clip::HfChineseClip,
    &hf_altclip::HfAltClip,
    &hf_siglip::HfSiglip,
    &hf_siglip::NaFlex,
    &align::Align,
    &custom_text::CustomText,
    &open_clip_conv::OpenClipConv,
    &open_clip_siglip::OpenClipSiglip,
    &open_clip_siglip::OpenClipTimm,
    &open_clip::OpenClip,
];

/// A kind of checkpoint.
pub trait Family: Sync {
    /// Its name: what `models list` shows.
    fn name(&self) -> &'static str;

    /// One line on what it covers.
    fn about(&self) -> &'static str;

    /// Whether the configuration describes a checkpoint of this family.
    fn matches(&self, config: &Config) -> bool;

    /// What the configuration and the shapes of the tensors say.
    fn plan(&self, config: &Config, files: &Files) -> Result<Plan>;
}

/// What must be known to load a checkpoint.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The two towers and the preprocessing.
    pub spec: Spec,
    /// The names of the tensors.
    pub layout: Layout,
    /// How text becomes ids.
    pub text: TextPlan,
}

/// How text becomes ids, as far as the configuration says; the tokenizer's own files say the rest.
#[derive(Clone, Debug)]
pub struct TextPlan {
    /// What happens to a text before it is cut into tokens.
    pub clean: Clean,
    /// Whether rows are always filled up to the context length, because the tower looks at padding.
    pub fixed: bool,
    /// The padding token's id, if the tower's configuration names one.
    pub pad_id: Option<u32>,
    /// Whether the token that ends a text is blanked (open_clip's `strip_sep_token`).
    pub strip_sep: bool,
    /// Where the tokenizer's files are.
    pub tokenizer: TokenizerFiles,
}

/// Where a tokenizer's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerFiles {
    /// Beside the weights.
    Beside,
    /// In this directory beside the weights.
    Below(String),
    /// Beside the weights if there are any, else CLIP's own vocabulary, which is in the binary.
    BesideOrClip,
}

/// The configuration files of a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `config.json` of the transformers layout.
    pub hf: Option<serde_json::Value>,
    /// `preprocessor_config.json` of the transformers layout.
    pub preprocessor: Option<serde_json::Value>,
    /// `open_clip_config.json`.
    pub open_clip: Option<serde_json::Value>,
    /// The `config.json` of the text tower that `open_clip_config.json` names.
    pub text: Option<serde_json::Value>,
    /// `tokenizer_config.json`.
    pub tokenizer: Option<serde_json::Value>,
}

/// Finds the family of a checkpoint.
pub fn detect(config: &Config) -> Result<&'static dyn Family> {
    if let Some(family) = FAMILIES.iter().find(|family| family.matches(config)) {
        return Ok(*family);
    }
    let known = FAMILIES.iter().map(|family| family.name()).collect::<Vec<_>>().join(", ");
    let what = unsupported::explain(config);
    Err(Error::run(format!("this is no checkpoint of a supported family: {what}"))
        .hint(format!("supported families: {known}")))
}
