//! CLIP in open_clip's own layout: its vision transformer and its text transformer, also as timm hosts them. CLIPA,
//! MetaCLIP 2 and CoCa are built of the same parts.

use super::parts;
use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles};
use crate::error::Result;
use crate::model::spec::{
    BlocksSpec, Branches, ClassToken, ImagePool, ImageSpec, Interpolation, NormPlace, Objective, Projection, Spec,
    TextPool, TextTowerSpec, TransformerSpec, VitSpec,
};
use crate::text::Clean;
use crate::weights::{Files, Layout};
use serde_json::Value;

pub(super) struct OpenClip;

impl Family for OpenClip {
    fn name(&self) -> &'static str {
        "open_clip"
    }

    fn about(&self) -> &'static str {
        "CLIP, CLIPA, MetaCLIP 2 and CoCa's two towers in open_clip's layout (open_clip_config.json, ViT image tower)"
    }

    fn matches(&self, config: &Config) -> bool {
        let model = Section::root("open_clip_config.json", config.open_clip.as_ref()).sub("model_cfg");
        let (vision, text) = (model.sub("vision_cfg"), model.sub("text_cfg"));
        let vit = vision.raw("layers").is_none_or(|layers| layers.is_number());
        config.open_clip.is_some() && vit && !vision.has("timm_model_name") && !text.has("hf_model_name")
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        let root = Section::root("open_clip_config.json", config.open_clip.as_ref());
        let model = root.sub("model_cfg");
        let embed_dim = model.whole_or("embed_dim", 512)?;
        let image = image_tower(&model)?;
        let size = image.image_size;
        let custom = files.contains("text.token_embedding.weight");
        let (text, text_plan) = text_tower(&model, model.flag_or("quick_gelu", false)?, files)?;
        let layout = layout(if custom { "text." } else { "" }, text.proj == Projection::Affine);
        let objective = if files.contains("logit_bias") { Objective::Sigmoid } else { Objective::Softmax };
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim,
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

/// open_clip's own vision transformer (`CLIPVisionCfg`).
pub(super) fn image_tower(model: &Section<'_>) -> Result<VitSpec> {
    let (vision, quick) = (model.sub("vision_cfg"), model.flag_or("quick_gelu", false)?);
    parts::refuse(&vision, CUSTOM_BLOCKS)?;
    let width = vision.whole_or("width", 768)?;
    let size = vision.size("image_size")?.unwrap_or([224; 2]);
    let pool = vision.string("pool_type")?.unwrap_or("tok");
    let pool = match (vision.raw("attentional_pool"), pool) {
        // "parallel" and "cascade" are unfinished in open_clip, and no weights are known.
        (Some(how @ Value::String(_)), _) => {
            return Err(vision.error("attentional_pool", format!("{how} is not supported")));
        }
        (Some(Value::Bool(true)), "tok") => ImagePool::Queries {
            queries: vision.whole_or("attn_pooler_queries", 256)?,
            heads: vision.whole_or("attn_pooler_heads", 8)?,
        },
        (None | Some(Value::Bool(false)), "tok") => ImagePool::ClassToken,
        (None | Some(Value::Bool(false)), "avg") => ImagePool::Mean,
        (_, other) => return Err(vision.error("pool_type", format!("{other:?} is not supported"))),
    };
    Ok(VitSpec {
        blocks: BlocksSpec {
            width,
            layers: vision.whole_or("layers", 12)?,
            heads: width / vision.whole_or("head_width", 64)?.max(1),
            mlp: (width as f64 * vision.number_or("mlp_ratio", 4.0)?) as usize,
            act: parts::open_clip_act(quick, &vision)?,
            eps: vision.sub("norm_kwargs").number_or("eps", 1e-5)?,
            norm: NormPlace::Before,
            layer_scale: vision.has("ls_init_value"),
            branches: Branches::default(),
        },
        image_size: size,
        input_size: size,
        patch: vision.whole_or("patch_size", 16)?,
        patch_bias: false,
        patch_matrix: false,
        class_token: true,
        pre_norm: !vision.flag_or("no_ln_pre", false)?,
        interpolation: Interpolation::BicubicAntialias,
        rope: None,
        // CoCa's queries pool first, too.
        norm_after_pool: matches!(pool, ImagePool::Queries { .. }) || vision.flag_or("final_ln_after_pool", false)?,
        pool,
        proj: Projection::Linear,
    })
}

const CUSTOM_BLOCKS: &[&str] =
    &["block_type", "qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"];

/// open_clip's own text transformer (`CLIPTextCfg`).
pub(super) fn text_tower(model: &Section<'_>, quick: bool, files: &Files) -> Result<(TransformerSpec, TextPlan)> {
    let text = model.sub("text_cfg");
    parts::refuse(&text, CUSTOM_BLOCKS)?;
    parts::refuse(&text, &["tokenizer_mode"])?;
    let class_token = match text.flag_or("embed_cls", false)? {
        true => Some(ClassToken { pad_id: text.whole_or("pad_id", 0)? as u32 }),
        false => None,
    };
    let context = text.whole_or("context_length", 77)?;
    let stored = ["positional_embedding", "text.positional_embedding"].iter().find_map(|name| files.shape(name));
    let positions = stored.and_then(|shape| shape.first().copied());
    let width = text.whole_or("width", 512)?;
    let causal = !text.flag_or("no_causal_mask", false)?;
    let spec = TransformerSpec {
        blocks: BlocksSpec {
            width,
            layers: text.whole_or("layers", 12)?,
            heads: text.whole_or("heads", 8)?,
            mlp: (width as f64 * text.number_or("mlp_ratio", 4.0)?) as usize,
            act: parts::open_clip_act(quick, &text)?,
            eps: text.sub("norm_kwargs").number_or("eps", 1e-5)?,
            norm: NormPlace::Before,
            layer_scale: text.has("ls_init_value"),
            branches: Branches::default(),
        },
        vocab: text.whole_or("vocab_size", 49408)?,
        context,
        positions: positions.unwrap_or(context + usize::from(class_token.is_some())),
        causal,
        class_token,
        pool: match text.string("pool_type")?.unwrap_or("argmax") {
            "argmax" => TextPool::LargestId,
            "eos" => TextPool::FirstId(text.whole_or("eos_id", 2)? as u32),
            "first" => TextPool::First,
            "last" => TextPool::Last,
            other => return Err(text.error("pool_type", format!("{other:?} is not supported"))),
        },
        proj: match (text.string("proj_type")?.unwrap_or("linear"), text.flag_or("proj_bias", false)?) {
            ("none", _) => Projection::None,
            (_, true) => Projection::Affine,
            (_, false) => Projection::Linear,
        },
    };
    let kwargs = text.sub("tokenizer_kwargs");
    let named = text.has("hf_tokenizer_name");
    // open_clip's HFTokenizer cleans `whitespace` unless told otherwise, its SimpleTokenizer `lower`.
    let clean = kwargs.string("clean")?.unwrap_or(if named { "whitespace" } else { "lower" });
    let plan = TextPlan {
        clean: Clean::open_clip(clean)?,
        // A causal tower pooled at the end of the text cannot see padding; any other can.
        fixed: !causal || spec.pool == TextPool::Last || class_token.is_some(),
        pad_id: None,
        strip_sep: kwargs.flag_or("strip_sep_token", false)?,
        tokenizer: if named { TokenizerFiles::Beside } else { TokenizerFiles::BesideOrClip },
    };
    Ok((spec, plan))
}

/// The names of a checkpoint whose text tower's begin with `prefix` and whose text projection may be `affine`.
pub(crate) fn layout(prefix: &str, affine: bool) -> Layout {
    parts::head(parts::open_clip_text(image_layout(Layout::default()), prefix, affine))
}

/// The names of open_clip's vision transformer, and of CoCa's pooler if there is one.
pub(super) fn image_layout(layout: Layout) -> Layout {
    let pool = |rest: &str| format!("visual.attn_pool.{rest}");
    let layout = layout
        .plain("image.pool.query", pool("query"))
        .plain("image.pool.norm_q.*", pool("ln_q.*"))
        .plain("image.pool.norm_k.*", pool("ln_k.*"))
        .plain("image.pool.qkv.weight", pool("attn.in_proj_weight"))
        .plain("image.pool.qkv.bias", pool("attn.in_proj_bias"))
        .plain("image.pool.q.weight", pool("attn.q_proj_weight"))
        .plain("image.pool.k.weight", pool("attn.k_proj_weight"))
        .plain("image.pool.v.weight", pool("attn.v_proj_weight"))
        .plain("image.pool.out.*", pool("attn.out_proj.*"))
        // CoCa's decoder writes captions, which we do not.
        .ignoring("text_decoder.*")
        .plain("image.patch.*", "visual.conv1.*")
        .plain("image.class", "visual.class_embedding")
        .plain("image.positions", "visual.positional_embedding")
        .plain("image.pre_norm.*", "visual.ln_pre.*")
        .plain("image.norm.*", "visual.ln_post.*")
        .transposed("image.proj.weight", "visual.proj");
    parts::open_clip_blocks(layout, "image", "visual.transformer")
}
