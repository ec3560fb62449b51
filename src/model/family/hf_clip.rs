//! CLIP in the transformers layout (`CLIPModel`): OpenAI, LAION, DataComp, DFN, MetaCLIP and their kin.

use super::parts::{self, OPENAI_MEAN, OPENAI_STD};
use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles};
use crate::error::Result;
use crate::image::{CropRounding, Filter, Preprocess, Resize, RgbWhen};
use crate::model::spec::{
    BlocksSpec, ImagePool, ImageSpec, Interpolation, NormPlace, Objective, Projection, Spec, TextPool, TextTowerSpec,
    TransformerSpec, VitSpec,
};
use crate::ops::Activation;
use crate::text::Clean;
use crate::weights::{Files, Layout};

pub(super) struct HfClip;

impl Family for HfClip {
    fn name(&self) -> &'static str {
        "clip"
    }

    fn about(&self) -> &'static str {
        "CLIP in the transformers layout (config.json, model_type \"clip\")"
    }

    fn matches(&self, config: &Config) -> bool {
        let root = Section::root("config.json", config.hf.as_ref());
        root.string("model_type").ok().flatten() == Some("clip")
    }

    fn plan(&self, config: &Config, _: &Files) -> Result<Plan> {
        let root = Section::root("config.json", config.hf.as_ref());
        // Old files repeat a part as `*_config_dict`, which then replaces it (transformers CLIPConfig).
        let part = |name: &str| {
            let dict = format!("{name}_dict");
            root.sub(if root.has(&dict) { &dict } else { name })
        };
        let embed_dim = root.whole_or("projection_dim", 512)?;
        let (text, vision) = (part("text_config"), part("vision_config"));
        let side = vision.whole_or("image_size", 224)?;
        let image = VitSpec {
            blocks: blocks(&vision, [768, 12, 12, 3072])?,
            image_size: [side; 2],
            input_size: [side; 2],
            patch: vision.whole_or("patch_size", 32)?,
            patch_bias: false,
            class_token: true,
            pre_norm: true,
            interpolation: Interpolation::Bicubic,
            pool: ImagePool::ClassToken,
            proj: Projection::Linear,
        };
        let vocab = text.whole_or("vocab_size", 49408)?;
        // Configurations from before transformers 4.31 say 2 and mean the largest id (CLIPTextTransformer.forward).
        let pool = match text.whole_or("eos_token_id", 49407)? {
            2 => TextPool::LargestId,
            id => TextPool::FirstId(id as u32),
        };
        let text = TransformerSpec {
            blocks: blocks(&text, [512, 12, 8, 2048])?,
            vocab,
            context: text.whole_or("max_position_embeddings", 77)?,
            causal: true,
            pool,
            proj: Projection::Linear,
        };
        let defaults = Preprocess {
            size: [side; 2],
            resize: Resize::Shortest { edge: side },
            filter: Filter::Bicubic,
            rgb: RgbWhen::First,
            crop: CropRounding::Floor,
            mean: OPENAI_MEAN,
            std: OPENAI_STD,
        };
        let processor = Section::root("preprocessor_config.json", config.preprocessor.as_ref());
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim,
                image: ImageSpec::Vit(image),
                text: TextTowerSpec::Transformer(text),
                objective: Objective::Softmax,
                preprocess: parts::hf_preprocess(&processor, [side; 2], &defaults)?,
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
    })
}

/// The names of a checkpoint.
pub(crate) fn layout() -> Layout {
    let layout = Layout::default()
        .plain("image.patch.*", "vision_model.embeddings.patch_embedding.*")
        .plain("image.class", "vision_model.embeddings.class_embedding")
        .plain("image.positions", "vision_model.embeddings.position_embedding.weight")
        .plain("image.pre_norm.*", "vision_model.pre_layrnorm.*")
        .plain("image.norm.*", "vision_model.post_layernorm.*")
        .plain("image.proj.*", "visual_projection.*")
        .plain("text.tokens.weight", "text_model.embeddings.token_embedding.weight")
        .plain("text.positions", "text_model.embeddings.position_embedding.weight")
        .plain("text.norm.*", "text_model.final_layer_norm.*")
        .plain("text.proj.*", "text_projection.*")
        .ignoring("*.position_ids");
    parts::head(parts::hf_blocks(parts::hf_blocks(layout, "image"), "text"))
}
