//! AltCLIP in the transformers layout (`AltCLIPModel`): CLIP's image tower and an XLM-RoBERTa text tower.

use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles, hf_clip, hf_text, parts};
use crate::error::Result;
use crate::model::spec::{Hidden, ImageSpec, Objective, Projection, Spec, TextTowerSpec};
use crate::ops::Activation;
use crate::text::Clean;
use crate::weights::{Files, Layout};

pub(super) struct HfAltClip;

/// transformers `AltCLIPTextConfig`.
const DEFAULTS: hf_text::Defaults =
    hf_text::Defaults { sizes: [1024, 24, 16, 4096], tables: [250_002, 514, 1], eps: 1e-5, ..hf_text::ROBERTA };

impl Family for HfAltClip {
    fn name(&self) -> &'static str {
        "altclip"
    }

    fn about(&self) -> &'static str {
        "AltCLIP in the transformers layout (config.json, model_type \"altclip\")"
    }

    fn matches(&self, config: &Config) -> bool {
        parts::model_type(config) == Some("altclip")
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        let root = Section::root("config.json", config.hf.as_ref());
        let part = hf_clip::part(&root, "text_config");
        let mut text = hf_text::encoder(&part, &DEFAULTS)?;
        // The tower reads as far as its tokenizer's file says, like transformers with truncation.
        let tokenizer = Section::root("tokenizer_config.json", config.tokenizer.as_ref());
        let most = tokenizer.number_or("model_max_length", f64::INFINITY)?;
        text.context = text.context.min(most.max(1.0) as usize);
        text.final_norm = true;
        text.hidden = vec![Hidden { width: part.whole_or("project_dim", 768)?, bias: true, act: Activation::Identity }];
        text.proj = Projection::Linear;
        let image = hf_clip::image(&hf_clip::part(&root, "vision_config"))?;
        // Transformers before version 5 wrote `layer`, as the files of the Hub have it.
        let new = files.contains("text_model.roberta.encoder.layers.0.output.dense.weight");
        let layout = hf_clip::image_layout(Layout::default())
            .plain("text.norm.*", "text_model.pre_LN.*")
            .plain("text.hidden.0.*", "text_model.transformation.*")
            .plain("text.proj.*", "text_projection.*")
            .ignoring("text_model.roberta.pooler.*");
        let layers = if new { "encoder.layers" } else { "encoder.layer" };
        let pad_id = text.pad_id;
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim: root.whole_or("projection_dim", 768)?,
                preprocess: hf_clip::preprocess(config, &image)?,
                image: ImageSpec::Vit(image),
                text: TextTowerSpec::Bert(text),
                objective: Objective::Softmax,
            },
            layout: parts::head(hf_text::layout(layout, "text_model.roberta", layers)),
            text: TextPlan {
                clean: Clean::AsIs,
                fixed: false,
                pad_id: Some(pad_id),
                strip_sep: false,
                tokenizer: TokenizerFiles::Beside,
            },
        })
    }
}
