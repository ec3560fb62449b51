//! Dual encoders in the names of open_clip's `CustomTextCLIP` with a BERT text tower: the form of the built-in model.
//! The image trunk is an EfficientNet-Lite or a plain or DINOv2 vision transformer.

use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles, parts, timm};
use crate::error::{Error, Result};
use crate::model::spec::{
    BertSpec, BlocksSpec, Branches, EfficientNetSpec, ImageSpec, NormPlace, Objective, Projection, Spec, TextPool,
    TextTowerSpec,
};
use crate::ops::Activation;
use crate::text::Clean;
use crate::weights::{Files, Layout};

pub(super) struct CustomText;

const EFFICIENTNET: &str = "tf_efficientnet_lite";

impl Family for CustomText {
    fn name(&self) -> &'static str {
        "custom-text"
    }

    fn about(&self) -> &'static str {
        "open_clip's CustomTextCLIP with a BERT text tower (image trunk: EfficientNet-Lite, ViT or DINOv2)"
    }

    fn matches(&self, config: &Config) -> bool {
        let model = Section::root("open_clip_config.json", config.open_clip.as_ref()).sub("model_cfg");
        let trunk = model.sub("vision_cfg").string("timm_model_name").ok().flatten().unwrap_or_default();
        let known = trunk.starts_with(EFFICIENTNET) || trunk.starts_with("vit_");
        known && model.sub("text_cfg").has("hf_model_name")
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        let root = Section::root("open_clip_config.json", config.open_clip.as_ref());
        let model = root.sub("model_cfg");
        let (vision, text) = (model.sub("vision_cfg"), model.sub("text_cfg"));
        let size = vision.size("image_size")?.unwrap_or([224; 2]);
        let trunk = vision.string("timm_model_name")?.unwrap_or_default();
        let (image, layout) = if trunk.starts_with(EFFICIENTNET) {
            let layout = Layout::default()
                .plain("image.trunk.*", "visual.trunk.*")
                .plain("image.proj.*", "visual.head.proj.*")
                .ignoring("*.num_batches_tracked");
            (ImageSpec::EfficientNet(efficientnet(&vision, files)?), layout)
        } else {
            let (vit, layout) = timm::vit(&vision, files, size)?;
            (ImageSpec::Vit(vit), layout)
        };
        let directory = text.string("hf_model_name")?.unwrap_or_default().to_owned();
        let bert = bert(config, &text, &directory)?;
        let kwargs = text.sub("tokenizer_kwargs");
        let objective = if files.contains("logit_bias") { Objective::Sigmoid } else { Objective::Softmax };
        let text_plan = TextPlan {
            clean: Clean::open_clip(kwargs.string("clean")?.unwrap_or("whitespace"))?,
            // Padding is masked, so it need not be there.
            fixed: false,
            pad_id: Some(bert.pad_id),
            strip_sep: kwargs.flag_or("strip_sep_token", false)?,
            tokenizer: TokenizerFiles::Below(text.string("hf_tokenizer_name")?.map_or(directory, str::to_owned)),
        };
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim: model.whole_or("embed_dim", 512)?,
                image,
                text: TextTowerSpec::Bert(bert),
                objective,
                preprocess: parts::open_clip_preprocess(&root.sub("preprocess_cfg"), size)?,
            },
            layout: parts::head(text_layout(layout)),
            text: text_plan,
        })
    }
}

fn efficientnet(vision: &Section<'_>, files: &Files) -> Result<EfficientNetSpec> {
    let mut depths = [0; 7];
    for (stage, depth) in depths.iter_mut().enumerate() {
        *depth = parts::count_blocks(files, &format!("visual.trunk.blocks.{stage}"));
    }
    if let Some(stage) = depths.iter().position(|&depth| depth == 0) {
        return Err(Error::run(format!("stage {stage} of the image trunk has no blocks"))
            .hint("check that the weights and the configuration file belong together"));
    }
    Ok(EfficientNetSpec { depths, eps: 1e-3, proj: timm::proj(vision)? })
}

fn bert(config: &Config, text: &Section<'_>, directory: &str) -> Result<BertSpec> {
    let Some(value) = &config.text else {
        return Err(text.error("hf_model_name", format!("there is no {directory}/config.json beside the weights")));
    };
    let bert = Section::root("text config.json", Some(value));
    match bert.string("model_type")? {
        Some("bert") => {}
        other => return Err(bert.error("model_type", format!("{other:?} is not supported as a text tower"))),
    }
    // Absent, open_clip's CLIPTextCfg means "mlp"; null means none.
    let named = text.string("hf_proj_type")?;
    let proj = match named.or(if text.is_null("hf_proj_type") { Some("none") } else { None }).unwrap_or("mlp") {
        "linear" => Projection::Linear,
        "none" => Projection::None,
        other => return Err(text.error("hf_proj_type", format!("{other:?} is not supported"))),
    };
    let pool = match text.string("hf_pooler_type")? {
        None | Some("mean_pooler") => TextPool::Mean,
        Some("cls_last_hidden_state_pooler") => TextPool::First,
        Some(other) => return Err(text.error("hf_pooler_type", format!("{other:?} is not supported"))),
    };
    let positions = bert.whole_or("max_position_embeddings", 512)?;
    Ok(BertSpec {
        blocks: BlocksSpec {
            width: bert.whole_or("hidden_size", 768)?,
            layers: bert.whole_or("num_hidden_layers", 12)?,
            heads: bert.whole_or("num_attention_heads", 12)?,
            mlp: bert.whole_or("intermediate_size", 3072)?,
            act: parts::hidden_act(&bert, Activation::GeluErf)?,
            eps: bert.number_or("layer_norm_eps", 1e-12)?,
            norm: NormPlace::After,
            layer_scale: false,
            branches: Branches::default(),
        },
        vocab: bert.whole_or("vocab_size", 30522)?,
        context: text.whole_or("context_length", 77)?.min(positions),
        positions,
        types: bert.whole_or("type_vocab_size", 2)?,
        pad_id: bert.whole_or("pad_token_id", 0)? as u32,
        pool,
        proj,
    })
}

fn text_layout(layout: Layout) -> Layout {
    let embeddings = "text.transformer.embeddings";
    let layer = |rest: &str| format!("text.transformer.encoder.layer.{{}}.{rest}");
    layout
        .plain("text.tokens.weight", format!("{embeddings}.word_embeddings.weight"))
        .plain("text.positions", format!("{embeddings}.position_embeddings.weight"))
        .plain("text.types", format!("{embeddings}.token_type_embeddings.weight"))
        .plain("text.embed_norm.*", format!("{embeddings}.LayerNorm.*"))
        .stacked("text.blocks.{}.qkv.*", ["query", "key", "value"].map(|x| layer(&format!("attention.self.{x}.*"))))
        .plain("text.blocks.{}.out.*", layer("attention.output.dense.*"))
        .plain("text.blocks.{}.norm1.*", layer("attention.output.LayerNorm.*"))
        .plain("text.blocks.{}.fc1.*", layer("intermediate.dense.*"))
        .plain("text.blocks.{}.fc2.*", layer("output.dense.*"))
        .plain("text.blocks.{}.norm2.*", layer("output.LayerNorm.*"))
        .plain("text.proj.*", "text.proj.*")
        .ignoring("*.position_ids")
}
