//! CLIP in the transformers layout (`CLIPModel`): OpenAI, LAION, DataComp, DFN, MetaCLIP and their kin; and MetaCLIP 2.

use super::parts::{self, OPENAI_MEAN, OPENAI_STD};
use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles};
use crate::error::Result;
use crate::image::{CropRounding, Filter, Preprocess, Resize, RgbWhen};
use crate::model::spec::{
    BlocksSpec, Branches, ImagePool, ImageSpec, Interpolation, NormPlace, Objective, Projection, Spec, TextPool,
    TextTowerSpec, TransformerSpec, VitSpec,
};
use crate::ops::Activation;
use crate::text::Clean;
use crate::weights::{Files, Layout};

pub(super) struct HfClip;

pub(super) struct MetaClip2;

impl Family for HfClip {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn about(&self) -> &'static str {
        "CLIP in the transformers layout (config.json, model_type \"clip\")"
    }

    fn matches(&self, config: &Config) -> bool {
        parts::model_type(config) == Some("clip")
    }

    fn plan(&self, config: &Config, _: &Files) -> Result<Plan> {
        // Configurations from before transformers 4.31 say 2 and mean the largest id (CLIPTextTransformer.forward).
        plan(self.name(), config, |end| if end == 2 { TextPool::LargestId } else { TextPool::FirstId(end) })
    }
}

impl Family for MetaClip2 {
    fn name(&self) -> &'static str {
        "metaclip_2"
    }

    fn about(&self) -> &'static str {
        "MetaCLIP 2 in the transformers layout (config.json, model_type \"metaclip_2\")"
    }

    fn matches(&self, config: &Config) -> bool {
        parts::model_type(config) == Some("metaclip_2")
    }

    fn plan(&self, config: &Config, _: &Files) -> Result<Plan> {
        // Its vocabulary, XLM-V's, really ends texts with id 2.
        plan(self.name(), config, TextPool::FirstId)
    }
}

/// What the configuration says; `pool` makes the pooled token of the end token's id.
fn plan(name: &'static str, config: &Config, pool: impl Fn(u32) -> TextPool) -> Result<Plan> {
    let root = Section::root("config.json", config.hf.as_ref());
    let embed_dim = root.whole_or("projection_dim", 512)?;
    let text = part(&root, "text_config");
    let image = image(&part(&root, "vision_config"))?;
    let context = text.whole_or("max_position_embeddings", 77)?;
    let text = TransformerSpec {
        blocks: blocks(&text, [512, 12, 8, 2048])?,
        vocab: text.whole_or("vocab_size", 49408)?,
        context,
        positions: context,
        causal: true,
        class_token: None,
        pool: pool(text.whole_or("eos_token_id", 49407)? as u32),
        proj: Projection::Linear,
    };
    let preprocess = preprocess(config, &image)?;
    Ok(Plan {
        spec: Spec {
            family: name,
            embed_dim,
            image: ImageSpec::Vit(image),
            text: TextTowerSpec::Transformer(text),
            objective: Objective::Softmax,
            preprocess,
        },
        layout: layout(),
        text: TextPlan {
            clean: Clean::AsIs,
            fixed: false,
            pad_id: None,
            strip_sep: false,
            tokenizer: TokenizerFiles::Beside,
        },
    })
}

/// A part of the configuration. Old files repeat it as `*_config_dict`, which then replaces it (transformers
/// CLIPConfig).
pub(super) fn part<'a>(root: &Section<'a>, name: &str) -> Section<'a> {
    let dict = format!("{name}_dict");
    root.sub(if root.has(&dict) { &dict } else { name })
}

/// CLIP's image tower, which other families of transformers took over.
pub(super) fn image(vision: &Section<'_>) -> Result<VitSpec> {
    let side = vision.whole_or("image_size", 224)?;
    Ok(VitSpec {
        blocks: blocks(vision, [768, 12, 12, 3072])?,
        image_size: [side; 2],
        input_size: [side; 2],
        patch: vision.whole_or("patch_size", 32)?,
        patch_bias: false,
        patch_matrix: false,
        class_token: true,
        pre_norm: true,
        interpolation: Interpolation::Bicubic,
        rope: None,
        pool: ImagePool::ClassToken,
        norm_after_pool: false,
        proj: Projection::Linear,
    })
}

/// The preprocessing of `preprocessor_config.json`, by default that of CLIP's processor.
pub(super) fn preprocess(config: &Config, image: &VitSpec) -> Result<Preprocess> {
    let size = image.image_size;
    let defaults = Preprocess {
        size,
        resize: Resize::Shortest { edge: size[0] },
        filter: Filter::Bicubic,
        rgb: RgbWhen::First,
        crop: CropRounding::Floor,
        mean: OPENAI_MEAN,
        std: OPENAI_STD,
    };
    let processor = Section::root("preprocessor_config.json", config.preprocessor.as_ref());
    parts::hf_preprocess(&processor, size, &defaults)
}

/// The blocks of a tower whose transformers defaults are width, layers, heads, MLP.
fn blocks(config: &Section<'_>, [width, layers, heads, mlp]: [usize; 4]) -> Result<BlocksSpec> {
    Ok(BlocksSpec {
        width: config.whole_or("hidden_size", width)?,
        layers: config.whole_or("num_hidden_layers", layers)?,
        heads: config.whole_or("num_attention_heads", heads)?,
        mlp: config.whole_or("intermediate_size", mlp)?,
        act: parts::hidden_act(config, Activation::QuickGelu)?,
        eps: config.number_or("layer_norm_eps", 1e-5)?,
        norm: NormPlace::Before,
        layer_scale: false,
        branches: Branches::default(),
    })
}

/// The names of a checkpoint.
pub(crate) fn layout() -> Layout {
    let layout = image_layout(Layout::default())
        .plain("text.tokens.weight", "text_model.embeddings.token_embedding.weight")
        .plain("text.positions", "text_model.embeddings.position_embedding.weight")
        .plain("text.norm.*", "text_model.final_layer_norm.*")
        .plain("text.proj.*", "text_projection.*");
    parts::head(parts::hf_blocks(layout, "text"))
}

/// The names of CLIP's image tower.
pub(super) fn image_layout(layout: Layout) -> Layout {
    let layout = layout
        .plain("image.patch.*", "vision_model.embeddings.patch_embedding.*")
        .plain("image.class", "vision_model.embeddings.class_embedding")
        .plain("image.positions", "vision_model.embeddings.position_embedding.weight")
        .plain("image.pre_norm.*", "vision_model.pre_layrnorm.*")
        .plain("image.norm.*", "vision_model.post_layernorm.*")
        .plain("image.proj.*", "visual_projection.*")
        .ignoring("*.position_ids");
    parts::hf_blocks(layout, "image")
}
