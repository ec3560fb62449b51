//! OpenAI's own `.pt` files: TorchScript archives without a configuration. Their sizes are in the shapes of the tensors,
//! the rest is known (open_clip reads them the same way: heads of 64, QuickGELU).

use crate::error::{Error, Result};
use crate::model::family::Config;
use crate::weights::Files;
use serde_json::json;

/// Numbers that the archives keep as tensors beside the weights.
const SIZES: [&str; 3] = ["input_resolution", "context_length", "vocab_size"];

/// The configuration of such an archive, and its weights.
pub(super) fn read(mut files: Files) -> Result<(Config, Files)> {
    let shape = |name: &str| {
        files.shape(name).ok_or_else(|| {
            Error::run(format!("a TorchScript archive without `{name}`, so no CLIP of OpenAI's with a ViT image tower"))
        })
    };
    let blocks = |prefix: &str| {
        let index = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        files.names().filter_map(index).max().map_or(0, |last| last + 1)
    };
    let kernel = shape("visual.conv1.weight")?;
    let [width, _, patch, _] = kernel[..] else {
        return Err(Error::run(format!("`visual.conv1.weight` has shape {kernel:?}")));
    };
    let (positions, projection) = (shape("visual.positional_embedding")?, shape("text_projection")?);
    let (tokens, context) = (shape("token_embedding.weight")?, shape("positional_embedding")?);
    let ([positions, _], [text_width, embed_dim], [vocab, _], [context, _]) =
        (&positions[..], &projection[..], &tokens[..], &context[..])
    else {
        return Err(Error::run("the shapes of the tensors are not those of a CLIP"));
    };
    let side = positions.saturating_sub(1).isqrt();
    let config = json!({
        "model_cfg": {
            "embed_dim": embed_dim,
            "quick_gelu": true,
            "vision_cfg": {
                "image_size": side * patch,
                "layers": blocks("visual.transformer.resblocks."),
                "width": width,
                "patch_size": patch,
            },
            "text_cfg": {
                "context_length": context,
                "vocab_size": vocab,
                "width": text_width,
                "heads": text_width / 64,
                "layers": blocks("transformer.resblocks."),
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    });
    files.retain(|name| !SIZES.contains(&name));
    Ok((Config { open_clip: Some(config), ..Config::default() }, files))
}
