//! Chinese-CLIP in the transformers layout (`ChineseCLIPModel`): CLIP's image tower and a BERT text tower.

use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles, hf_clip, hf_text, parts};
use crate::error::Result;
use crate::model::spec::{ImageSpec, Objective, Projection, Spec, TextTowerSpec};
use crate::text::Clean;
use crate::weights::{Files, Layout};

pub(super) struct HfChineseClip;

/// Where its authors' own code cuts a text; the tower has more positions, which it never learnt to use.
const CONTEXT: usize = 52;

impl Family for HfChineseClip {
    fn name(&self) -> &'static str {
        "chinese_clip"
    }

    fn about(&self) -> &'static str {
        "Chinese-CLIP in the transformers layout (config.json, model_type \"chinese_clip\"; ViT image tower)"
    }

    fn matches(&self, config: &Config) -> bool {
        parts::model_type(config) == Some("chinese_clip")
    }

    fn plan(&self, config: &Config, _: &Files) -> Result<Plan> {
        let root = Section::root("config.json", config.hf.as_ref());
        let mut text = hf_text::encoder(&hf_clip::part(&root, "text_config"), &hf_text::BERT)?;
        text.context = text.context.min(CONTEXT);
        text.proj = Projection::Linear;
        let image = hf_clip::image(&hf_clip::part(&root, "vision_config"))?;
        let layout = hf_clip::image_layout(Layout::default()).plain("text.proj.*", "text_projection.*");
        let pad_id = text.pad_id;
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim: root.whole_or("projection_dim", 512)?,
                preprocess: hf_clip::preprocess(config, &image)?,
                image: ImageSpec::Vit(image),
                text: TextTowerSpec::Bert(text),
                objective: Objective::Softmax,
            },
            layout: parts::head(hf_text::layout(layout, "text_model", "encoder.layer")),
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
