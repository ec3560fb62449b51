//! What several families share: preprocessing, activations, and the naming of towers in each layout.

use super::{Config, Section};
use crate::error::Result;
use crate::image::{CropRounding, Filter, Preprocess, Resize, RgbWhen};
use crate::ops::Activation;
use crate::weights::{Files, Layout};

/// The channel means of OpenAI's CLIP (transformers `OPENAI_CLIP_MEAN`).
pub(super) const OPENAI_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// The channel deviations of OpenAI's CLIP.
pub(super) const OPENAI_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The `model_type` of a transformers configuration.
pub(super) fn model_type(config: &Config) -> Option<&str> {
    config.hf.as_ref()?.get("model_type")?.as_str()
}

/// The preprocessing of `preprocessor_config.json`, for an image tower with input `size` whose processor has the
/// given defaults.
pub(super) fn hf_preprocess(config: &Section<'_>, size: [usize; 2], defaults: &Preprocess) -> Result<Preprocess> {
    let nested = config.sub("image_processor");
    let config = if config.has("image_processor") { &nested } else { config };
    let filter = match config.whole("resample")? {
        None => defaults.filter,
        Some(0) => Filter::Nearest,
        Some(1) => Filter::Lanczos,
        Some(2) => Filter::Bilinear,
        Some(3) => Filter::Bicubic,
        Some(other) => return Err(config.error("resample", format!("Pillow filter {other} is not supported"))),
    };
    // Old files have a bare number: the shortest edge where a crop follows.
    let crops = config.flag_or("do_center_crop", defaults.resize != Resize::Squash)?;
    let target = config.sub("size");
    let shortest = target.whole("shortest_edge").ok().flatten().or(config.whole("size").ok().flatten());
    let exact = target.whole("height").ok().flatten().zip(target.whole("width").ok().flatten());
    let (resize, size) = match (exact, shortest) {
        (Some((height, width)), _) => (Resize::Squash, [height, width]),
        (None, Some(edge)) if crops => {
            let crop = config.sub("crop_size");
            let both = crop.whole("height").ok().flatten().zip(crop.whole("width").ok().flatten());
            let one = config.whole("crop_size").ok().flatten();
            let size = both.map(|(h, w)| [h, w]).or(one.map(|n| [n; 2])).unwrap_or(size);
            (Resize::Shortest { edge }, size)
        }
        (None, Some(edge)) => (Resize::Squash, [edge; 2]),
        (None, None) => (defaults.resize, size),
    };
    Ok(Preprocess {
        size,
        resize,
        filter,
        rgb: RgbWhen::First,
        crop: CropRounding::Floor,
        mean: config.triple_or("image_mean", defaults.mean)?,
        std: config.triple_or("image_std", defaults.std)?,
    })
}

/// The preprocessing of open_clip's `preprocess_cfg` for an image tower with input `size`.
pub(super) fn open_clip_preprocess(config: &Section<'_>, size: [usize; 2]) -> Result<Preprocess> {
    let filter = match config.string("interpolation")?.unwrap_or("bicubic") {
        "bicubic" | "random" => Filter::Bicubic,
        "bilinear" => Filter::Bilinear,
        other => return Err(config.error("interpolation", format!("{other:?} is not supported"))),
    };
    let resize = match config.string("resize_mode")?.unwrap_or("shortest") {
        "shortest" => Resize::Shortest { edge: size[0].min(size[1]) },
        "longest" => Resize::Longest,
        "squash" => Resize::Squash,
        other => return Err(config.error("resize_mode", format!("{other:?} is not supported"))),
    };
    Ok(Preprocess {
        size,
        resize,
        filter,
        rgb: RgbWhen::Last,
        crop: CropRounding::HalfEven,
        mean: config.triple_or("mean", OPENAI_MEAN)?,
        std: config.triple_or("std", OPENAI_STD)?,
    })
}

/// The `hidden_act` of a transformers configuration.
pub(super) fn hidden_act(config: &Section<'_>, default: Activation) -> Result<Activation> {
    match config.string("hidden_act")? {
        None => Ok(default),
        Some(name) => Activation::from_hidden_act(name)
            .ok_or_else(|| config.error("hidden_act", format!("the activation {name:?} is not supported"))),
    }
}

/// The activation of an open_clip tower: `quick_gelu`, or GELU with its `act_kwargs`.
pub(super) fn open_clip_act(quick: bool, tower: &Section<'_>) -> Result<Activation> {
    Ok(match (quick, tower.sub("act_kwargs").string("approximate")?) {
        (true, _) => Activation::QuickGelu,
        (false, Some("tanh")) => Activation::GeluTanh,
        (false, _) => Activation::GeluErf,
    })
}

/// Fails when a part asks for something that we do not build.
pub(super) fn refuse(section: &Section<'_>, keys: &[&str]) -> Result<()> {
    for key in keys {
        let on = section
            .raw(key)
            .is_some_and(|value| value.as_bool().unwrap_or(!value.is_null() && value.as_str() != Some("default")));
        if on {
            return Err(section.error(key, "this architecture option is not supported"));
        }
    }
    Ok(())
}

/// Blocks of a transformers model (CLIP, SigLIP) below `theirs.{}`.
pub(super) fn hf_blocks(layout: Layout, tower: &str) -> Layout {
    let theirs = if tower == "image" { "vision_model" } else { "text_model" };
    let at = |rest: &str| format!("{theirs}.encoder.layers.{{}}.{rest}");
    layout
        .plain(block(tower, "norm1.*"), at("layer_norm1.*"))
        .stacked(block(tower, "qkv.*"), ["q", "k", "v"].map(|x| at(&format!("self_attn.{x}_proj.*"))))
        .plain(block(tower, "out.*"), at("self_attn.out_proj.*"))
        .plain(block(tower, "norm2.*"), at("layer_norm2.*"))
        .plain(block(tower, "fc1.*"), at("mlp.fc1.*"))
        .plain(block(tower, "fc2.*"), at("mlp.fc2.*"))
}

/// Blocks of open_clip's own transformer below `theirs.{}`.
pub(super) fn open_clip_blocks(layout: Layout, tower: &str, transformer: &str) -> Layout {
    let at = |rest: &str| format!("{transformer}.resblocks.{{}}.{rest}");
    layout
        .plain(block(tower, "norm1.*"), at("ln_1.*"))
        .plain(block(tower, "qkv.*"), at("attn.in_proj_*"))
        .plain(block(tower, "out.*"), at("attn.out_proj.*"))
        .plain(block(tower, "scale1"), at("ls_1.gamma"))
        .plain(block(tower, "norm2.*"), at("ln_2.*"))
        .plain(block(tower, "fc1.*"), at("mlp.c_fc.*"))
        .plain(block(tower, "fc2.*"), at("mlp.c_proj.*"))
        .plain(block(tower, "scale2"), at("ls_2.gamma"))
}

/// open_clip's own text tower: its names begin with `prefix` (`text.` in a CustomTextCLIP).
pub(super) fn open_clip_text(layout: Layout, prefix: &str, affine: bool) -> Layout {
    let at = |rest: &str| format!("{prefix}{rest}");
    let layout = layout
        .plain("text.tokens.weight", at("token_embedding.weight"))
        .plain("text.positions", at("positional_embedding"))
        .plain("text.norm.*", at("ln_final.*"));
    let layout = match affine {
        true => layout.plain("text.proj.*", at("text_projection.*")),
        false => layout.transposed("text.proj.weight", at("text_projection")),
    };
    let layout = layout.plain("text.class", at("cls_emb"));
    open_clip_blocks(layout, "text", &at("transformer")).ignoring("attn_mask").ignoring("text.attn_mask")
}

/// The scale and bias of the scores, which every layout calls the same.
pub(super) fn head(layout: Layout) -> Layout {
    layout.plain("head.logit_scale", "logit_scale").plain("head.logit_bias", "logit_bias")
}

/// The shape of a tensor that decides a width or depth, or an error that names it.
pub(super) fn shape_of(files: &Files, name: &str) -> Result<Vec<usize>> {
    files.shape(name).ok_or_else(|| {
        crate::error::Error::run(format!("missing tensor `{name}`"))
            .hint("check that the weights and the configuration file belong together")
    })
}

/// How many blocks there are below `prefix.0.`, `prefix.1.`, ….
pub(super) fn count_blocks(files: &Files, prefix: &str) -> usize {
    let index = |name: &str| name.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok();
    files.names().filter_map(index).max().map_or(0, |last| last.saturating_add(1))
}

/// Our name for a part of every block of a tower.
pub(super) fn block(tower: &str, part: &str) -> String {
    format!("{tower}.blocks.{{}}.{part}")
}
