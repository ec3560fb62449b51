//! Dual encoders in the names of open_clip's `CustomTextCLIP` with a text tower of transformers (`HFTextEncoder`): the
//! form of the built-in model. The image tower is open_clip's own vision transformer, or a trunk of timm: an
//! EfficientNet-Lite or a plain or DINOv2 vision transformer.

use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles, hf_text, open_clip, parts, timm};
use crate::error::{Error, Result};
use crate::model::spec::{
    BertSpec, EfficientNetSpec, Hidden, ImageSpec, MbConvSpec, Objective, Padding, Projection, Spec, TextPool,
    TextTowerSpec,
};
use crate::ops::Activation;
use crate::text::Clean;
use crate::weights::{Files, Layout};
use serde_json::{Value, json};

pub(super) struct CustomText;

const EFFICIENTNET: &str = "tf_efficientnet_lite";

impl Family for CustomText {
    fn name(&self) -> &'static str {
        "custom-text"
    }

    fn about(&self) -> &'static str {
        "open_clip with a BERT, RoBERTa or XLM-RoBERTa text tower (image tower: ViT, or EfficientNet-Lite, ViT, DINOv2 of timm)"
    }

    fn matches(&self, config: &Config) -> bool {
        let model = Section::root("open_clip_config.json", config.open_clip.as_ref()).sub("model_cfg");
        let vision = model.sub("vision_cfg");
        let known = match vision.string("timm_model_name").ok().flatten() {
            Some(trunk) => trunk.starts_with(EFFICIENTNET) || trunk.starts_with("vit_"),
            None => vision.raw("layers").is_none_or(|layers| layers.is_number()),
        };
        known && model.sub("text_cfg").has("hf_model_name")
    }

    fn plan(&self, config: &Config, files: &Files) -> Result<Plan> {
        let root = Section::root("open_clip_config.json", config.open_clip.as_ref());
        let model = root.sub("model_cfg");
        let (vision, text) = (model.sub("vision_cfg"), model.sub("text_cfg"));
        let size = vision.size("image_size")?.unwrap_or([224; 2]);
        let (image, layout) = match vision.string("timm_model_name")? {
            None => (ImageSpec::Vit(open_clip::image_tower(&model)?), open_clip::image_layout(Layout::default())),
            Some(trunk) if trunk.starts_with(EFFICIENTNET) => {
                (ImageSpec::EfficientNet(efficientnet(&vision, files)?), efficientnet_layout())
            }
            Some(_) => {
                let (vit, layout) = timm::vit(&vision, files, size)?;
                (ImageSpec::Vit(vit), layout)
            }
        };
        let directory = text.string("hf_model_name")?.unwrap_or_default().to_owned();
        let embed_dim = model.whole_or("embed_dim", 512)?;
        let bert = bert(config, &text, &directory, embed_dim)?;
        let layout = text_layout(layout, &bert);
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
                embed_dim,
                image,
                text: TextTowerSpec::Bert(bert),
                objective,
                preprocess: parts::open_clip_preprocess(&root.sub("preprocess_cfg"), size)?,
            },
            layout: parts::head(layout),
            text: text_plan,
        })
    }
}

/// Filter size and stride of the seven stages (Tan & Le 2019, table 1).
const STAGES: [(usize, usize); 7] = [(3, 1), (3, 2), (5, 2), (3, 2), (5, 1), (5, 2), (3, 1)];

/// EfficientNet-Lite: no squeeze-and-excite, ReLU6.
fn efficientnet(vision: &Section<'_>, files: &Files) -> Result<EfficientNetSpec> {
    let mut blocks = Vec::new();
    for (stage, (size, stride)) in STAGES.into_iter().enumerate() {
        let depth = parts::count_blocks(files, &format!("visual.trunk.blocks.{stage}"));
        if !(1..=1 << 10).contains(&depth) {
            return Err(Error::run(format!("stage {stage} of the image trunk has {depth} blocks"))
                .hint("check that the weights and the configuration file belong together"));
        }
        blocks.extend((0..depth).map(|i| MbConvSpec {
            name: format!("blocks.{stage}.{i}"),
            size,
            stride: if i == 0 { stride } else { 1 },
            padding: Padding::Same,
            expand: stage > 0,
            residual: true,
        }));
    }
    Ok(EfficientNetSpec {
        stem_padding: Padding::Same,
        blocks,
        head: true,
        squeeze: false,
        act: Activation::Relu6,
        eps: 1e-3,
        proj: timm::proj(vision)?,
    })
}

/// timm's names. The blocks of the first stage do not widen, so their parts have other numbers.
fn efficientnet_layout() -> Layout {
    let first = |part: &str| (format!("image.blocks.0.{{}}.{part}"), "visual.trunk.blocks.0.{}.");
    let other = |part: &str| (format!("image.blocks.{{}}.{{}}.{part}"), "visual.trunk.blocks.{}.{}.");
    let rule = |layout: Layout, (ours, theirs): (String, &str), part| layout.plain(ours, format!("{theirs}{part}"));
    let mut layout = Layout::default()
        .plain("image.stem.*", "visual.trunk.conv_stem.*")
        .plain("image.stem_norm.*", "visual.trunk.bn1.*")
        .plain("image.head.*", "visual.trunk.conv_head.*")
        .plain("image.head_norm.*", "visual.trunk.bn2.*")
        .plain("image.proj.*", "visual.head.proj.*")
        .ignoring("*.num_batches_tracked");
    layout = rule(layout, first("filter.*"), "conv_dw.*");
    layout = rule(layout, first("filter_norm.*"), "bn1.*");
    layout = rule(layout, first("project.*"), "conv_pw.*");
    layout = rule(layout, first("project_norm.*"), "bn2.*");
    layout = rule(layout, other("expand.*"), "conv_pw.*");
    layout = rule(layout, other("expand_norm.*"), "bn1.*");
    layout = rule(layout, other("filter.*"), "conv_dw.*");
    layout = rule(layout, other("filter_norm.*"), "bn2.*");
    layout = rule(layout, other("project.*"), "conv_pwl.*");
    rule(layout, other("project_norm.*"), "bn3.*")
}

/// open_clip's `HFTextEncoder`.
fn bert(config: &Config, text: &Section<'_>, directory: &str, embed_dim: usize) -> Result<BertSpec> {
    let known = known(directory);
    let Some(value) = config.text.as_ref().or(known.as_ref()) else {
        return Err(text.error("hf_model_name", format!("there is no {directory}/config.json beside the weights")));
    };
    let model = Section::root("text config.json", Some(value));
    let defaults = match model.string("model_type")? {
        Some("bert") => &hf_text::BERT,
        Some("roberta" | "xlm-roberta") => &hf_text::ROBERTA,
        Some(other) => return Err(model.error("model_type", format!("{other:?} is not supported as a text tower"))),
        None => return Err(model.error("model_type", "it is missing")),
    };
    let mut spec = hf_text::encoder(&model, defaults)?;
    spec.context = spec.context.min(text.whole_or("context_length", 77)?);
    spec.holes = true;
    let width = spec.blocks.width;
    // Absent, open_clip's CLIPTextCfg means the mean; null means what is usual for the kind of model.
    let named = if text.is_null("hf_pooler_type") && !defaults.roberta { Some("cls_pooler") } else { None };
    match named.or(text.string("hf_pooler_type")?).unwrap_or("mean_pooler") {
        "mean_pooler" => spec.pool = TextPool::Mean,
        "cls_last_hidden_state_pooler" => {}
        "cls_pooler" => spec.hidden.push(hf_text::pooler(width)),
        other => return Err(text.error("hf_pooler_type", format!("{other:?} is not supported"))),
    }
    // Absent it means "mlp"; null means none.
    let named = text.string("hf_proj_type")?;
    spec.proj = match named.or(if text.is_null("hf_proj_type") { Some("none") } else { None }).unwrap_or("mlp") {
        "linear" => Projection::Linear,
        "mlp" => {
            let width = width.saturating_add(embed_dim) / 2;
            spec.hidden.push(Hidden { width, bias: false, act: Activation::GeluErf });
            Projection::Linear
        }
        "none" => Projection::None,
        other => return Err(text.error("hf_proj_type", format!("{other:?} is not supported"))),
    };
    Ok(spec)
}

/// The configuration of a text tower that open_clip's own models name, and whose repositories need not repeat it.
fn known(name: &str) -> Option<Value> {
    let sizes = |base: bool| if base { [768, 12, 12, 3072] } else { [1024, 24, 16, 4096] };
    let (kind, base, [vocab, positions, types, pad], eps) = match name.rsplit('/').next()? {
        "bert-base-uncased" => ("bert", true, [30_522, 512, 2, 0], 1e-12),
        "roberta-base" => ("roberta", true, [50_265, 514, 1, 1], 1e-5),
        "roberta-large" => ("roberta", false, [50_265, 514, 1, 1], 1e-5),
        "xlm-roberta-base" => ("xlm-roberta", true, [250_002, 514, 1, 1], 1e-5),
        "xlm-roberta-large" => ("xlm-roberta", false, [250_002, 514, 1, 1], 1e-5),
        _ => return None,
    };
    let [width, layers, heads, mlp] = sizes(base);
    Some(json!({
        "model_type": kind, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": mlp, "vocab_size": vocab, "max_position_embeddings": positions,
        "type_vocab_size": types, "pad_token_id": pad, "layer_norm_eps": eps,
    }))
}

fn text_layout(layout: Layout, bert: &BertSpec) -> Layout {
    let layout = hf_text::layout(layout, "text.transformer", "encoder.layer");
    // The hidden layers are BERT's pooler, the first of two linear maps around an activation, or both.
    let pooler = bert.hidden.first().is_some_and(|layer| layer.act == Activation::Tanh);
    let layout = if pooler { layout.plain("text.hidden.0.*", "text.transformer.pooler.dense.*") } else { layout };
    match bert.hidden.len() - usize::from(pooler) {
        0 => layout.plain("text.proj.*", "text.proj.*"),
        _ => {
            let first = format!("text.hidden.{}.*", bert.hidden.len() - 1);
            layout.plain(first, "text.proj.0.*").plain("text.proj.*", "text.proj.2.*")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_of_the_hub_need_no_second_file() {
        let read = |json: Value| {
            let config = Config::default();
            let text = Section::root("text_cfg", Some(&json));
            let name = text.string("hf_model_name").unwrap().unwrap_or_default().to_owned();
            bert(&config, &text, &name, 512)
        };
        let spec = read(json!({"hf_model_name": "xlm-roberta-base", "hf_pooler_type": "mean_pooler"})).unwrap();
        assert_eq!((spec.vocab, spec.first_position, spec.context, spec.pool), (250_002, 2, 77, TextPool::Mean));
        assert_eq!(spec.hidden, [Hidden { width: 640, bias: false, act: Activation::GeluErf }]);
        let spec = read(json!({"hf_model_name": "FacebookAI/xlm-roberta-large", "hf_proj_type": "linear"})).unwrap();
        assert_eq!((spec.blocks.width, spec.blocks.layers, spec.blocks.heads), (1024, 24, 16));
        assert!(spec.hidden.is_empty() && spec.proj == Projection::Linear);
        let spec = read(json!({"hf_model_name": "bert-base-uncased", "hf_pooler_type": null})).unwrap();
        assert_eq!((spec.first_position, spec.hidden[0], spec.hidden.len()), (0, hf_text::pooler(768), 2));
        let refusal = read(json!({"hf_model_name": "google/mt5-base"})).unwrap_err().to_string();
        assert!(refusal.contains("no google/mt5-base/config.json"), "{refusal}");
    }
}
