//! ALIGN in the transformers layout (`AlignModel`): an EfficientNet with squeeze-and-excite and a BERT.

use super::{Config, Family, Plan, Section, TextPlan, TokenizerFiles, hf_text, parts};
use crate::error::Result;
use crate::image::{CropRounding, Filter, Preprocess, Resize, RgbWhen};
use crate::model::spec::{
    BertSpec, EfficientNetSpec, ImageSpec, MbConvSpec, Objective, Padding, Projection, Spec, TextTowerSpec,
};
use crate::ops::Activation;
use crate::text::Clean;
use crate::weights::{Files, Layout};

pub(super) struct Align;

impl Family for Align {
    fn name(&self) -> &'static str {
        "align"
    }

    fn about(&self) -> &'static str {
        "ALIGN in the transformers layout (config.json, model_type \"align\")"
    }

    fn matches(&self, config: &Config) -> bool {
        parts::model_type(config) == Some("align")
    }

    fn plan(&self, config: &Config, _: &Files) -> Result<Plan> {
        let root = Section::root("config.json", config.hf.as_ref());
        let (text, vision) = (root.sub("text_config"), root.sub("vision_config"));
        let text = bert(&text)?;
        let processor = Section::root("preprocessor_config.json", config.preprocessor.as_ref());
        Ok(Plan {
            spec: Spec {
                family: self.name(),
                embed_dim: root.whole_or("projection_dim", 640)?,
                image: ImageSpec::EfficientNet(efficientnet(&vision)?),
                text: TextTowerSpec::Bert(text.clone()),
                objective: Objective::Softmax,
                preprocess: preprocess(&processor)?,
            },
            layout: layout(),
            text: TextPlan {
                clean: Clean::AsIs,
                // Padding is masked, so it need not be there.
                fixed: false,
                pad_id: Some(text.pad_id),
                strip_sep: false,
                tokenizer: TokenizerFiles::Beside,
            },
        })
    }
}

/// The most tokens of a text: what `AlignProcessor` fills texts up to.
const CONTEXT: usize = 64;

fn bert(text: &Section<'_>) -> Result<BertSpec> {
    let spec = hf_text::encoder(text, &hf_text::BERT)?;
    Ok(BertSpec { context: spec.context.min(CONTEXT), proj: Projection::Affine, ..spec })
}

/// The blocks that transformers' `AlignVisionConfig` describes; their widths are read from the weights.
fn efficientnet(vision: &Section<'_>) -> Result<EfficientNetSpec> {
    if vision.string("pooling_type")?.is_some_and(|pool| pool != "mean") {
        return Err(vision.error("pooling_type", "only \"mean\" is supported"));
    }
    let repeats = vision.wholes_or("num_block_repeats", &[1, 2, 2, 3, 3, 4, 1])?;
    let sizes = vision.wholes_or("kernel_sizes", &[3, 3, 5, 3, 5, 5, 3])?;
    let strides = vision.wholes_or("strides", &[1, 2, 2, 2, 1, 2, 1])?;
    let widths = vision.wholes_or("expand_ratios", &[1, 6, 6, 6, 6, 6, 6])?;
    let symmetric = vision.wholes_or("depthwise_padding", &[])?;
    if [sizes.len(), strides.len(), widths.len()].iter().any(|&len| len != repeats.len()) {
        return Err(vision.error("num_block_repeats", "the lists that describe the stages differ in length"));
    }
    let depth = vision.number_or("depth_coefficient", 3.1)?;
    let mut blocks = Vec::new();
    for (((repeats, size), stride), expand) in repeats.into_iter().zip(sizes).zip(strides).zip(widths) {
        let repeats = (depth * repeats as f64).ceil();
        if !(0.0..=1024.0).contains(&repeats) {
            return Err(vision.error("depth_coefficient", format!("a stage cannot have {repeats} blocks")));
        }
        for i in 0..repeats as usize {
            let n = blocks.len();
            // With a stride of 2 there is one zero fewer above and left of the image, except where the list says so.
            let fewer = stride == 2 && i == 0 && !symmetric.contains(&n);
            let padding = Padding::Zeros { before: (size / 2).saturating_sub(usize::from(fewer)), after: size / 2 };
            blocks.push(MbConvSpec {
                name: format!("blocks.{n}"),
                size,
                stride: if i == 0 { stride } else { 1 },
                padding,
                expand: expand != 1,
                residual: i > 0,
            });
        }
    }
    Ok(EfficientNetSpec {
        stem_padding: Padding::Zeros { before: 0, after: 1 },
        blocks,
        head: false,
        squeeze: true,
        act: parts::hidden_act(vision, Activation::Silu)?,
        eps: vision.number_or("batch_norm_eps", 1e-3)?,
        proj: Projection::None,
    })
}

/// What transformers' `EfficientNetImageProcessor` does: squash, crop, scale, shift.
fn preprocess(config: &Section<'_>) -> Result<Preprocess> {
    let side = |key: &str, default: usize| -> Result<[usize; 2]> {
        let part = config.sub(key);
        Ok([part.whole_or("height", default)?, part.whole_or("width", default)?])
    };
    let filter = match config.whole("resample")?.unwrap_or(3) {
        0 => Filter::Nearest,
        1 => Filter::Lanczos,
        2 => Filter::Bilinear,
        3 => Filter::Bicubic,
        other => return Err(config.error("resample", format!("Pillow filter {other} is not supported"))),
    };
    let resized = side("size", 346)?;
    let (size, resize) = match config.flag_or("do_center_crop", false)? {
        true => (side("crop_size", 289)?, Resize::Exact { size: resized }),
        false => (resized, Resize::Squash),
    };
    // The scale is 1/127.5 with an offset of 1: bytes / 255 less ½, over ½.
    let factor = 255.0 * config.number_or("rescale_factor", 1.0 / 255.0)?;
    let offset = if config.flag_or("rescale_offset", false)? { 1.0 } else { 0.0 };
    let (mut mean, mut std) = ([offset / factor; 3], [1.0 / factor; 3]);
    let deviations = config.triple_or("image_std", [0.229, 0.224, 0.225])?.map(f64::from);
    if config.flag_or("do_normalize", true)? {
        let means = config.triple_or("image_mean", [0.485, 0.456, 0.406])?.map(f64::from);
        mean = std::array::from_fn(|i| mean[i] + means[i] / factor);
        std = std::array::from_fn(|i| std[i] * deviations[i]);
    }
    if config.flag_or("include_top", true)? {
        std = std::array::from_fn(|i| std[i] * deviations[i]);
    }
    Ok(Preprocess {
        size,
        resize,
        filter,
        rgb: RgbWhen::First,
        crop: CropRounding::Floor,
        mean: mean.map(|x| x as f32),
        std: std.map(|x| x as f32),
    })
}

fn layout() -> Layout {
    let block = |rest: &str| format!("vision_model.encoder.blocks.{{}}.{rest}");
    let ours = |part: &str| format!("image.blocks.{{}}.{part}.*");
    hf_text::layout(Layout::default(), "text_model", "encoder.layer")
        .plain("image.stem.*", "vision_model.embeddings.convolution.*")
        .plain("image.stem_norm.*", "vision_model.embeddings.batchnorm.*")
        .plain(ours("expand"), block("expansion.expand_conv.*"))
        .plain(ours("expand_norm"), block("expansion.expand_bn.*"))
        .plain(ours("filter"), block("depthwise_conv.depthwise_conv.*"))
        .plain(ours("filter_norm"), block("depthwise_conv.depthwise_norm.*"))
        .plain(ours("squeeze"), block("squeeze_excite.reduce.*"))
        .plain(ours("excite"), block("squeeze_excite.expand.*"))
        .plain(ours("project"), block("projection.project_conv.*"))
        .plain(ours("project_norm"), block("projection.project_bn.*"))
        .plain("text.proj.*", "text_projection.*")
        .plain("head.temperature", "temperature")
        // BERT's own pooler, which ALIGN does not use.
        .ignoring("text_model.pooler.dense.weight")
        .ignoring("text_model.pooler.dense.bias")
        .ignoring("*.num_batches_tracked")
        .ignoring("*.token_type_ids")
}
