//! SigLIP and SigLIP 2 in the transformers layout: at a fixed resolution (`SiglipModel`), and NaFlex (`Siglip2Model`),
//! which gives each image a size of its own.

use super::parts;
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

pub(super) struct HfSiglip;

pub(super) struct NaFlex;

impl Family for HfSiglip {
    fn name(&self) -> &'static str {
        "siglip"
    }

    fn about(&self) -> &'static str {
        "SigLIP and fixed-resolution SigLIP 2 in the transformers layout (config.json, model_type \"siglip\")"
    }

    fn matches(&self, config: &Config) -> bool {
        let root = Section::root("config.json", config.hf.as_ref());
        root.string("model_type").ok().flatten() == Some("siglip")
    }

    fn plan(&self, config: &Config, _: &Files) -> Result<Plan> {
        let vision = Section::root("config.json", config.hf.as_ref()).sub("vision_config");
        parts::refuse(&vision, &["num_patches"])?;
        let side = vision.whole_or("image_size", 224)?;
        let defaults = Preprocess {
            size: [side; 2],
            resize: Resize::Squash,
            filter: Filter::Bicubic,
            rgb: RgbWhen::First,
            crop: CropRounding::Floor,
            mean: [0.5; 3],
            std: [0.5; 3],
        };
        let processor = Section::root("preprocessor_config.json", config.preprocessor.as_ref());
        let preprocess = parts::hf_preprocess(&processor, [side; 2], &defaults)?;
        plan(self.name(), config, side, preprocess)
    }
}

impl Family for NaFlex {
    fn name(&self) -> &'static str {
        "siglip2"
    }

    fn about(&self) -> &'static str {
        "NaFlex SigLIP 2 in the transformers layout (config.json, model_type \"siglip2\")"
    }

    fn matches(&self, config: &Config) -> bool {
        Section::root("config.json", config.hf.as_ref()).string("model_type").ok().flatten() == Some("siglip2")
    }

    fn plan(&self, config: &Config, _: &Files) -> Result<Plan> {
        let vision = Section::root("config.json", config.hf.as_ref()).sub("vision_config");
        if !vision.flag_or("vision_use_head", true)? {
            return Err(vision.error("vision_use_head", "a tower without its pooling head is not supported"));
        }
        let patches = vision.whole_or("num_patches", 256)?;
        let patch = vision.whole_or("patch_size", 16)?;
        // The positions that are stored are those of a square image.
        let side = patches.isqrt().saturating_mul(patch);
        if patches.isqrt().pow(2) != patches {
            return Err(vision.error("num_patches", format!("{patches} is no square")));
        }
        let processor = Section::root("preprocessor_config.json", config.preprocessor.as_ref());
        let most = processor.whole_or("max_num_patches", 256)?;
        if processor.whole_or("patch_size", 16)? != patch {
            return Err(processor.error("patch_size", format!("it is not the image tower's {patch}")));
        }
        let (size, resize) = ([most.isqrt().saturating_mul(patch); 2], Resize::Patches { side: patch, most });
        let defaults = Preprocess {
            size,
            resize,
            filter: Filter::Bilinear,
            rgb: RgbWhen::First,
            crop: CropRounding::Floor,
            mean: [0.5; 3],
            std: [0.5; 3],
        };
        let preprocess = Preprocess { size, resize, ..parts::hf_preprocess(&processor, size, &defaults)? };
        let mut plan = plan(self.name(), config, side, preprocess)?;
        if let ImageSpec::Vit(vit) = &mut plan.spec.image {
            vit.input_size = plan.spec.preprocess.size;
            vit.patch_matrix = true;
            vit.interpolation = Interpolation::BilinearAntialias;
        }
        Ok(plan)
    }
}

/// The plan of a SigLIP whose stored positions are those of images of `side` pixels.
fn plan(family: &'static str, config: &Config, side: usize, preprocess: Preprocess) -> Result<Plan> {
    let root = Section::root("config.json", config.hf.as_ref());
    let (text, vision) = (root.sub("text_config"), root.sub("vision_config"));
    let vision_blocks = blocks(&vision)?;
    let text_blocks = blocks(&text)?;
    // The embedding is as long as an image token; the text head maps to it (`projection_size`).
    let embed_dim = vision_blocks.width;
    let projected = text.whole_or("projection_size", text_blocks.width)?;
    if projected != embed_dim {
        return Err(text.error("projection_size", format!("{projected} is not the image tower's {embed_dim}")));
    }
    let pool = ImagePool::Attention { heads: vision_blocks.heads, mlp: vision_blocks.mlp };
    let image = VitSpec {
        blocks: vision_blocks,
        image_size: [side; 2],
        input_size: [side; 2],
        patch: vision.whole_or("patch_size", 16)?,
        patch_bias: true,
        patch_matrix: false,
        class_token: false,
        pre_norm: false,
        interpolation: Interpolation::Bicubic,
        rope: None,
        pool,
        norm_after_pool: false,
        proj: Projection::None,
    };
    let context = text.whole_or("max_position_embeddings", 64)?;
    let text_tower = TransformerSpec {
        vocab: text.whole_or("vocab_size", 32000)?,
        context,
        positions: context,
        blocks: text_blocks,
        causal: false,
        class_token: None,
        pool: TextPool::Last,
        proj: Projection::Affine,
    };
    // SigLIP 2 reads with Gemma's tokenizer and only lower-cases; its vocabulary has 256,000 tokens.
    let tokenizer = Section::root("tokenizer_config.json", config.tokenizer.as_ref());
    let class = tokenizer.string("tokenizer_class")?.unwrap_or_default();
    let gemma = class.contains("Gemma") || (!class.contains("Siglip") && text_tower.vocab >= 100_000);
    // A tokenizer of no particular class does what its file says and nothing else.
    let plain = ["PreTrainedTokenizerFast", "TokenizersBackend"].contains(&class);
    let pad_id = text.whole("pad_token_id")?.map(|id| id as u32);
    Ok(Plan {
        spec: Spec {
            family,
            embed_dim,
            image: ImageSpec::Vit(image),
            text: TextTowerSpec::Transformer(text_tower),
            objective: Objective::Sigmoid,
            preprocess,
        },
        layout: layout(),
        text: TextPlan {
            clean: match (plain, gemma) {
                (true, _) => Clean::AsIs,
                (false, true) => Clean::LowerOnly,
                (false, false) => Clean::Siglip,
            },
            fixed: true,
            pad_id: pad_id.or(Some(if gemma { 0 } else { 1 })),
            strip_sep: false,
            tokenizer: TokenizerFiles::Beside,
        },
    })
}

fn blocks(config: &Section<'_>) -> Result<BlocksSpec> {
    Ok(BlocksSpec {
        width: config.whole_or("hidden_size", 768)?,
        layers: config.whole_or("num_hidden_layers", 12)?,
        heads: config.whole_or("num_attention_heads", 12)?,
        mlp: config.whole_or("intermediate_size", 3072)?,
        act: parts::hidden_act(config, Activation::GeluTanh)?,
        eps: config.number_or("layer_norm_eps", 1e-6)?,
        norm: NormPlace::Before,
        layer_scale: false,
        branches: Branches::default(),
    })
}

/// The names of a checkpoint.
pub(crate) fn layout() -> Layout {
    let layout = Layout::default()
        .plain("image.patch.*", "vision_model.embeddings.patch_embedding.*")
        .plain("image.positions", "vision_model.embeddings.position_embedding.weight")
        .plain("image.norm.*", "vision_model.post_layernorm.*")
        .plain("image.pool.probe", "vision_model.head.probe")
        .plain("image.pool.qkv.weight", "vision_model.head.attention.in_proj_weight")
        .plain("image.pool.qkv.bias", "vision_model.head.attention.in_proj_bias")
        .plain("image.pool.out.*", "vision_model.head.attention.out_proj.*")
        .plain("image.pool.norm.*", "vision_model.head.layernorm.*")
        .plain("image.pool.fc1.*", "vision_model.head.mlp.fc1.*")
        .plain("image.pool.fc2.*", "vision_model.head.mlp.fc2.*")
        .plain("text.tokens.weight", "text_model.embeddings.token_embedding.weight")
        .plain("text.positions", "text_model.embeddings.position_embedding.weight")
        .plain("text.norm.*", "text_model.final_layer_norm.*")
        .plain("text.proj.*", "text_model.head.*")
        .ignoring("*.position_ids");
    parts::head(parts::hf_blocks(parts::hf_blocks(layout, "image"), "text"))
}
