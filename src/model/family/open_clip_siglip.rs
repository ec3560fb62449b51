//! CLIP and SigLIP in open_clip's layout with one of timm's vision transformers as image tower (SigLIP, fixed-resolution
//! SigLIP 2, EVA, PE-Core, ViT) and open_clip's own text transformer.

use super::open_clip::text_tower;
use super::{Config, Family, Plan, Section, parts, timm};
use crate::error::Result;
use crate::model::spec::{ImageSpec, Objective, Projection, Spec, TextTowerSpec};
use crate::weights::{Files, Layout};

pub(super) struct OpenClipSiglip;

pub(super) struct OpenClipTimm;

impl Family for OpenClipSiglip {
    fn name(&self) -> &'static str {
        "open_clip-siglip"
    }

    fn about(&self) -> &'static str {
        "SigLIP and fixed-resolution SigLIP 2 in open_clip's layout (timm ViT trunk)"
    }

    fn matches(&self, config: &Config) -> bool {
        trunk_name(config).contains("siglip")
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        plan(self.name(), config, files)
    }
}

impl Family for OpenClipTimm {
    fn name(&self) -> &'static str {
        "open_clip-timm"
    }

    fn about(&self) -> &'static str {
        "CLIP in open_clip's layout with a timm image trunk: EVA-CLIP, EVA02-CLIP, PE-Core, ViT"
    }

    fn matches(&self, config: &Config) -> bool {
        timm::is_vit(trunk_name(config))
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        plan(self.name(), config, files)
    }
}

/// The name of the image trunk beside open_clip's own text tower; empty if there is none.
fn trunk_name(config: &Config) -> &str {
    let model = Section::root("open_clip_config.json", config.open_clip.as_ref()).sub("model_cfg");
    match model.sub("text_cfg").has("hf_model_name") {
        true => "",
        false => model.sub("vision_cfg").string("timm_model_name").ok().flatten().unwrap_or_default(),
    }
}

fn plan(family: &'static str, config: &Config, files: &Files) -> Result<Plan> {
    let root = Section::root("open_clip_config.json", config.open_clip.as_ref());
    let model = root.sub("model_cfg");
    let vision = model.sub("vision_cfg");
    let size = vision.size("image_size")?.unwrap_or([224; 2]);
    let (image, layout) = timm::vit(&vision, files, size)?;
    let (text, text_plan) = text_tower(&model, model.flag_or("quick_gelu", false)?, files)?;
    let custom = files.contains("text.token_embedding.weight");
    let layout = parts::open_clip_text(layout, if custom { "text." } else { "" }, text.proj == Projection::Affine);
    let objective = if files.contains("logit_bias") { Objective::Sigmoid } else { Objective::Softmax };
    Ok(Plan {
        spec: Spec {
            family,
            embed_dim: model.whole_or("embed_dim", 512)?,
            image: ImageSpec::Vit(image),
            text: TextTowerSpec::Transformer(text),
            objective,
            preprocess: parts::open_clip_preprocess(&root.sub("preprocess_cfg"), size)?,
        },
        layout: parts::head(layout),
        text: text_plan,
    })
}

/// The names of a SigLIP checkpoint whose text tower's begin with `prefix` and whose text projection may be `affine`.
pub(crate) fn layout(prefix: &str, affine: bool) -> Layout {
    parts::head(parts::open_clip_text(timm::layout(|_| false, "head.proj"), prefix, affine))
}
