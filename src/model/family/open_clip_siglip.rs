//! SigLIP and fixed-resolution SigLIP 2 in open_clip's layout: a timm vision transformer with attention pooling, and
//! open_clip's text transformer without a causal mask.

use super::open_clip::text_tower;
use super::parts;
use super::siglip_trunks;
use super::{Config, Family, Plan, Section};
use crate::error::Result;
use crate::model::spec::{
    BlocksSpec, ImagePool, ImageSpec, Interpolation, NormPlace, Objective, Projection, Spec, TextTowerSpec, VitSpec,
};
use crate::ops::Activation;
use crate::weights::{Files, Layout};

pub(super) struct OpenClipSiglip;

impl Family for OpenClipSiglip {
    fn name(&self) -> &'static str {
        "open_clip-siglip"
    }

    fn about(&self) -> &'static str {
        "SigLIP and fixed-resolution SigLIP 2 in open_clip's layout (timm ViT trunk)"
    }

    fn matches(&self, config: &Config) -> bool {
        let model = Section::root("open_clip_config.json", config.open_clip.as_ref()).sub("model_cfg");
        let trunk = model.sub("vision_cfg").string("timm_model_name").ok().flatten().unwrap_or_default();
        trunk.contains("siglip") && !model.sub("text_cfg").has("hf_model_name")
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        let root = Section::root("open_clip_config.json", config.open_clip.as_ref());
        let model = root.sub("model_cfg");
        let vision = model.sub("vision_cfg");
        let size = vision.size("image_size")?.unwrap_or([224; 2]);
        let image = timm_vit(&vision, files, size)?;
        let (text, text_plan) = text_tower(&model, false)?;
        let custom = files.contains("text.token_embedding.weight");
        let layout = layout(if custom { "text." } else { "" }, text.proj == Projection::Affine);
        let objective = if files.contains("logit_bias") { Objective::Sigmoid } else { Objective::Softmax };
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim: model.whole_or("embed_dim", 512)?,
                image: ImageSpec::Vit(image),
                text: TextTowerSpec::Transformer(text),
                objective,
                preprocess: parts::open_clip_preprocess(&root.sub("preprocess_cfg"), size)?,
            },
            layout,
            text: text_plan,
        })
    }
}

/// The names of a checkpoint whose text tower's begin with `prefix` and whose text projection may be `affine`.
pub(crate) fn layout(prefix: &str, affine: bool) -> Layout {
    parts::head(parts::open_clip_text(parts::timm_vit(Layout::default()), prefix, affine))
}

/// A timm vision transformer as open_clip's image trunk: its sizes from the weights, the rest from its name.
pub(super) fn timm_vit(vision: &Section<'_>, files: &Files, size: [usize; 2]) -> Result<VitSpec> {
    let name = vision.string("timm_model_name")?.unwrap_or_default();
    let siglip = name.contains("siglip");
    let kernel = parts::shape_of(files, "visual.trunk.patch_embed.proj.weight")?;
    let [width, patch] = match kernel.as_slice() {
        [width, _, patch, _] => [*width, *patch],
        other => return Err(vision.error("timm_model_name", format!("the patch kernel has shape {other:?}"))),
    };
    let mlp = parts::shape_of(files, "visual.trunk.blocks.0.mlp.fc1.weight")?.first().copied().unwrap_or_default();
    // Heads of 64 and the exact GELU everywhere but in some of SigLIP's.
    let (head_width, tanh) = match siglip_trunks::find(name) {
        Some((trunk, tanh)) => (trunk.width / trunk.heads, tanh),
        None => (64, false),
    };
    let pool = vision.string("timm_pool")?.unwrap_or("avg");
    Ok(VitSpec {
        blocks: BlocksSpec {
            width,
            layers: parts::count_blocks(files, "visual.trunk.blocks"),
            heads: width / head_width,
            mlp,
            act: if tanh { Activation::GeluTanh } else { Activation::GeluErf },
            eps: 1e-6,
            norm: NormPlace::Before,
            layer_scale: files.contains("visual.trunk.blocks.0.ls1.gamma"),
        },
        image_size: size,
        input_size: size,
        patch,
        patch_bias: true,
        class_token: files.contains("visual.trunk.cls_token"),
        pre_norm: false,
        interpolation: Interpolation::BicubicAntialias,
        pool: match pool {
            "map" => ImagePool::Attention,
            "token" => ImagePool::ClassToken,
            // Without a pool timm keeps the network's own: attention for SigLIP, the class token for DINOv2.
            "" if siglip => ImagePool::Attention,
            "" => ImagePool::ClassToken,
            other => return Err(vision.error("timm_pool", format!("{other:?} is not supported for this trunk"))),
        },
        proj: timm_proj(vision)?,
    })
}

/// The head that open_clip puts on a timm trunk.
pub(super) fn timm_proj(vision: &Section<'_>) -> Result<Projection> {
    match vision.string("timm_proj")?.unwrap_or("linear") {
        "linear" if vision.flag_or("timm_proj_bias", false)? => Ok(Projection::Affine),
        "linear" => Ok(Projection::Linear),
        "none" => Ok(Projection::None),
        other => Err(vision.error("timm_proj", format!("{other:?} is not supported"))),
    }
}
