//! Convolutional image towers in open_clip's layout, with open_clip's own text transformer: CLIP's ResNets, MobileCLIP's
//! FastViT and ConvNeXt (both as timm trunks).

use super::open_clip::text_tower;
use super::parts::{self, count_blocks, shape_of};
use super::{Config, Family, Plan, Section};
use crate::error::{Error, Result};
use crate::model::spec::{
    ConvNextSpec, FastVitSpec, FastVitStage, ImageSpec, Objective, Projection, ResNetSpec, Spec, TextTowerSpec,
};
use crate::weights::{Files, Layout};

pub(super) struct OpenClipConv;

impl Family for OpenClipConv {
    fn name(&self) -> &'static str {
        "open_clip-conv"
    }

    fn about(&self) -> &'static str {
        "CLIP's ResNets, MobileCLIP (FastViT) and ConvNeXt in open_clip's layout"
    }

    fn matches(&self, config: &Config) -> bool {
        let model = Section::root("open_clip_config.json", config.open_clip.as_ref()).sub("model_cfg");
        let vision = model.sub("vision_cfg");
        let known = match vision.string("timm_model_name").ok().flatten() {
            Some(trunk) => trunk.starts_with("fastvit_") || trunk.starts_with("convnext_"),
            None => vision.raw("layers").is_some_and(|layers| layers.is_array()),
        };
        known && !model.sub("text_cfg").has("hf_model_name")
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        let root = Section::root("open_clip_config.json", config.open_clip.as_ref());
        let model = root.sub("model_cfg");
        let vision = model.sub("vision_cfg");
        parts::refuse(&model, &["multimodal_cfg"])?;
        let size = vision.size("image_size")?.unwrap_or([224; 2]);
        // A timm trunk has its own activation; the text tower follows the flag in any case.
        let (text, text_plan) = text_tower(&model, model.flag_or("quick_gelu", false)?, files)?;
        let image = match vision.string("timm_model_name")? {
            Some(trunk) if trunk.starts_with("fastvit_") => ImageSpec::FastVit(fastvit(&vision, files)?),
            Some(trunk) => ImageSpec::ConvNext(convnext(&vision, trunk, files)?),
            None => ImageSpec::ResNet(resnet(&vision, files, size)?),
        };
        let custom = files.contains("text.token_embedding.weight");
        let layout = image_layout(&image);
        let layout = parts::open_clip_text(layout, if custom { "text." } else { "" }, text.proj == Projection::Affine);
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim: model.whole_or("embed_dim", 512)?,
                image,
                text: TextTowerSpec::Transformer(text),
                objective: if files.contains("logit_bias") { Objective::Sigmoid } else { Objective::Softmax },
                preprocess: parts::open_clip_preprocess(&root.sub("preprocess_cfg"), size)?,
            },
            layout: parts::head(layout).ignoring("*.num_batches_tracked"),
            text: text_plan,
        })
    }
}

/// The towers use the names of their own checkpoints; only the head moves.
fn image_layout(image: &ImageSpec) -> Layout {
    let layout = Layout::default();
    match image {
        // Its linear map to the embedding is the trunk's classifier unless there is a head of open_clip's.
        ImageSpec::FastVit(_) => layout
            .plain("image.proj.weight", "visual.trunk.head.fc.weight")
            .plain("image.proj.bias", "visual.trunk.head.fc.bias")
            .plain("image.trunk.*", "visual.trunk.*"),
        _ => layout.plain("image.*", "visual.*"),
    }
}

/// The sizes of a ResNet: open_clip's `CLIPVisionCfg`.
fn resnet(vision: &Section<'_>, files: &Files, [height, width]: [usize; 2]) -> Result<ResNetSpec> {
    let layers = vision.raw("layers").and_then(|layers| {
        let layers: Vec<usize> = layers.as_array()?.iter().filter_map(|n| Some(n.as_u64()? as usize)).collect();
        layers.try_into().ok()
    });
    let Some(layers) = layers else { return Err(vision.error("layers", "expected four whole numbers")) };
    let found = [1, 2, 3, 4].map(|layer| count_blocks(files, &format!("visual.layer{layer}")));
    if found != layers {
        return Err(vision.error("layers", format!("the weights have {found:?} blocks, not {layers:?}")));
    }
    if height != width {
        return Err(vision.error("image_size", "this tower needs square images"));
    }
    let channels = vision.whole_or("width", 64)?;
    let heads = channels.saturating_mul(32) / vision.whole_or("head_width", 64)?.max(1);
    Ok(ResNetSpec { layers, width: channels, heads, image_size: height })
}

/// The sizes of a FastViT, from its tensors; timm's names of the MobileCLIP trunks say nothing else.
fn fastvit(vision: &Section<'_>, files: &Files) -> Result<FastVitSpec> {
    let trunk = |name: &str| format!("visual.trunk.{name}");
    if !vision.string("timm_model_name")?.unwrap_or_default().starts_with("fastvit_mci") {
        return Err(vision.error("timm_model_name", "of the FastViTs only MobileCLIP's (fastvit_mci…) are supported"));
    }
    let first = |name: String| shape_of(files, &name).map(|shape| shape.first().copied().unwrap_or_default());
    let mut stages = Vec::new();
    let mut layer_norm = None;
    for i in 0..count_blocks(files, &trunk("stages")) {
        let stage = |name: &str| trunk(&format!("stages.{i}.{name}"));
        let attention = files.contains(&stage("blocks.0.token_mixer.qkv.weight"));
        if attention && !files.contains(&stage("blocks.0.norm.running_var")) {
            // LayerNorm2d with the epsilon of fastvit_mci3 and 4.
            layer_norm = Some(1e-5);
        }
        stages.push(FastVitStage {
            width: first(stage("blocks.0.mlp.fc2.weight"))?,
            depth: count_blocks(files, &stage("blocks")),
            mlp: first(stage("blocks.0.mlp.fc1.weight"))?,
            downsample: files.contains(&stage("downsample.proj.0.large_conv.conv.weight"))
                || files.contains(&stage("downsample.proj.0.reparam_conv.weight")),
            squeeze: files.contains(&stage("downsample.proj.0.se.fc1.weight")),
            positions: files.contains(&stage("pos_emb.pos_enc.weight"))
                || files.contains(&stage("pos_emb.reparam_conv.weight")),
            attention,
        });
    }
    if stages.is_empty() {
        return Err(Error::run("the image trunk has no stages")
            .hint("check that the weights and the configuration file belong together"));
    }
    // Without a projection of open_clip's the trunk's own classifier, which has a bias, makes the embedding.
    if vision.has("timm_proj") || !matches!(vision.string("timm_pool")?, Some("avg" | "")) {
        return Err(vision.error("timm_proj", "MobileCLIP's trunks average and project by themselves"));
    }
    Ok(FastVitSpec {
        stages,
        width: first(trunk("final_conv.se.fc2.weight"))?,
        stem_scale: files.contains(&trunk("stem.0.conv_scale.conv.weight")),
        layer_norm,
        proj: Projection::Affine,
    })
}

/// The sizes of a ConvNeXt, from its tensors.
fn convnext(vision: &Section<'_>, trunk: &str, files: &Files) -> Result<ConvNextSpec> {
    let known = ["tiny", "small", "base", "large", "xlarge", "xxlarge"].map(|size| format!("convnext_{size}"));
    if !known.iter().any(|name| name == trunk) {
        return Err(vision.error("timm_model_name", format!("{trunk:?} is not supported")));
    }
    if !matches!(vision.string("timm_pool")?.unwrap_or("avg"), "avg" | "") {
        return Err(vision.error("timm_pool", "only the trunk's own average is supported"));
    }
    let mut stages = [(0, 0); 4];
    for (i, (width, depth)) in stages.iter_mut().enumerate() {
        let norm = shape_of(files, &format!("visual.trunk.stages.{i}.blocks.0.norm.weight"))?;
        *width = norm.first().copied().unwrap_or_default();
        *depth = count_blocks(files, &format!("visual.trunk.stages.{i}.blocks"));
    }
    let bias = vision.flag_or("timm_proj_bias", false)?;
    let (head_mlp, proj) = match vision.string("timm_proj")?.unwrap_or("linear") {
        "linear" => (None, Projection::from_bias(bias)),
        "mlp" => {
            let hidden = shape_of(files, "visual.head.mlp.fc1.weight")?;
            (hidden.first().copied(), Projection::from_bias(bias))
        }
        "none" => (None, Projection::None),
        other => return Err(vision.error("timm_proj", format!("{other:?} is not supported"))),
    };
    // timm 1.0.31, convnext.py: 1e-6 everywhere but here.
    let eps = if trunk == "convnext_xxlarge" { 1e-5 } else { 1e-6 };
    Ok(ConvNextSpec { stages, eps, head_mlp, proj })
}
