//! SigLIP as big_vision saved it: an `.npz` of JAX arrays.
//!
//! JAX keeps kernels as (inputs, outputs), attention's as (inputs, heads, head width), and layers either under numbered
//! names or stacked in one array. All of that is a matter of strides, so the arrays are looked at as if they had the
//! names and shapes of transformers' layout, and nothing is copied. (transformers' `convert_siglip_to_hf.py` and
//! open_clip's `load_big_vision_weights` do the same with copies.)

use crate::error::{Error, Result};
use crate::model::family::{Config, hf_siglip_names};
use crate::weights::{Entry, Files, Layout};
use serde_json::{Value, json};

/// The configuration, the tensors under names like transformers', and how those make our parameters.
pub(super) fn read(files: Files, tokenizer: Option<Value>) -> Result<(Config, Files, Layout)> {
    let mut views = Vec::new();
    for (tower, encoder) in [("img", "img/Transformer"), ("txt", "txt/Encoder_0")] {
        let theirs = if tower == "img" { "vision_model" } else { "text_model" };
        for name in files.names() {
            let Some(rest) = name.strip_prefix("params/") else { continue };
            let Some(entry) = files.place_of(name) else { continue };
            let new = if let Some(rest) = rest.strip_prefix(encoder) {
                layers(rest, entry, theirs).map_err(|e| e.at(name))?
            } else if let Some(rest) = rest.strip_prefix(tower) {
                other(rest, entry, theirs).map_err(|e| e.at(name))?.into_iter().collect()
            } else {
                continue;
            };
            views.extend(new.into_iter().map(|(view, entry)| (view, name.to_owned(), entry)));
        }
    }
    for (name, view) in [("params/t", "logit_scale"), ("params/b", "logit_bias")] {
        if let Some(entry) = files.place_of(name) {
            views.push((view.to_owned(), name.to_owned(), flat(entry)?));
        }
    }
    let left = files.names().find(|name| {
        let training = ["opt/", "extra/", "chrono/"].iter().any(|part| name.starts_with(part));
        !training && !views.iter().any(|(_, of, _)| of == name)
    });
    if let Some(name) = left {
        return Err(Error::run(format!("the array `{name}` is no part of a SigLIP checkpoint of big_vision")));
    }
    let config = config(&files, tokenizer)?;
    let names = Layout::default()
        .stacked("image.pool.qkv.*", ["q", "k", "v"].map(|x| format!("vision_model.head.attention.{x}_proj.*")))
        .and(hf_siglip_names());
    Ok((config, files.with_views(views), names))
}

/// The views of an array below an encoder: one for each layer if layers are stacked.
fn layers(rest: &str, entry: &Entry, theirs: &str) -> Result<Vec<(String, Entry)>> {
    if let Some(part) = rest.strip_prefix("/encoder_norm/") {
        let name = if theirs == "vision_model" { "post_layernorm" } else { "final_layer_norm" };
        return Ok(vec![(format!("{theirs}.{name}.{}", part.replace("scale", "weight")), flat(entry)?)]);
    }
    let unknown = || Error::run("an unknown part of an encoder");
    let (layer, part) = rest.strip_prefix("/encoderblock").and_then(|rest| rest.split_once('/')).ok_or_else(unknown)?;
    let at = |layer: usize| format!("{theirs}.encoder.layers.{layer}");
    if let Some(layer) = layer.strip_prefix('_') {
        let layer = layer.parse().map_err(|_| unknown())?;
        return Ok(vec![block(part, entry, &at(layer), "self_attn", "layer_norm")?]);
    }
    let [count, shape @ ..] = entry.shape() else { return Err(unknown()) };
    let [step, strides @ ..] = entry.strides() else { return Err(unknown()) };
    let one = |layer: usize| {
        let entry = entry.view(shape.to_vec(), strides.to_vec(), layer.saturating_mul(*step))?;
        block(part, &entry, &at(layer), "self_attn", "layer_norm")
    };
    if *count > 1 << 10 {
        return Err(Error::run(format!("{count} layers")));
    }
    (0..*count).map(one).collect()
}

/// The view of a part of a block (or of the attention pool, which has the same parts).
fn block(part: &str, entry: &Entry, at: &str, attention: &str, norm: &str) -> Result<(String, Entry)> {
    let kind = part.rsplit('/').next().unwrap_or_default();
    let view = |name: String| -> Result<(String, Entry)> {
        match kind {
            "kernel" => Ok((format!("{at}.{name}.weight"), kernel(entry, name.ends_with("out_proj"))?)),
            "scale" => Ok((format!("{at}.{name}.weight"), flat(entry)?)),
            "bias" => Ok((format!("{at}.{name}.bias"), flat(entry)?)),
            _ => Err(Error::run("an unknown part of a block")),
        }
    };
    match part.rsplit_once('/').map_or("", |(owner, _)| owner) {
        "LayerNorm_0" if norm == "layernorm" => view("layernorm".to_owned()),
        "LayerNorm_0" => view(format!("{norm}1")),
        "LayerNorm_1" => view(format!("{norm}2")),
        "MlpBlock_0/Dense_0" => view("mlp.fc1".to_owned()),
        "MlpBlock_0/Dense_1" => view("mlp.fc2".to_owned()),
        "MultiHeadDotProductAttention_0/query" => view(format!("{attention}.q_proj")),
        "MultiHeadDotProductAttention_0/key" => view(format!("{attention}.k_proj")),
        "MultiHeadDotProductAttention_0/value" => view(format!("{attention}.v_proj")),
        "MultiHeadDotProductAttention_0/out" => view(format!("{attention}.out_proj")),
        _ => Err(Error::run("an unknown part of a block")),
    }
}

/// The view of an array outside the encoders.
fn other(rest: &str, entry: &Entry, theirs: &str) -> Result<Option<(String, Entry)>> {
    let named = |name: &str, entry: Entry| Ok(Some((format!("{theirs}.{name}"), entry)));
    match rest {
        "/embedding/kernel" => {
            // (rows, columns, channels, outputs) to (outputs, channels, rows, columns).
            let order = [3, 2, 0, 1];
            if entry.shape().len() != 4 {
                return Err(Error::run("a kernel of patches with other than four dimensions"));
            }
            let [shape, strides] = [entry.shape(), entry.strides()].map(|all| order.map(|axis| all[axis]).to_vec());
            named("embeddings.patch_embedding.weight", entry.view(shape, strides, 0)?)
        }
        "/embedding/bias" => named("embeddings.patch_embedding.bias", flat(entry)?),
        "/Embed_0/embedding" => named("embeddings.token_embedding.weight", entry.clone()),
        "/pos_embedding" => {
            let [1, shape @ ..] = entry.shape() else { return Err(Error::run("positions of an unknown shape")) };
            let view = entry.view(shape.to_vec(), entry.strides()[1..].to_vec(), 0)?;
            named("embeddings.position_embedding.weight", view)
        }
        "/head/kernel" => named("head.weight", kernel(entry, false)?),
        "/head/bias" => named("head.bias", flat(entry)?),
        "/MAPHead_0/probe" => named("head.probe", entry.clone()),
        _ => match rest.strip_prefix("/MAPHead_0/") {
            Some(part) => block(part, entry, &format!("{theirs}.head"), "attention", "layernorm").map(Some),
            None => Ok(None),
        },
    }
}

/// A kernel as a matrix (outputs, inputs). Attention's have a dimension for the heads, on the side of the outputs, or of
/// the inputs in the projection behind it.
fn kernel(entry: &Entry, heads_first: bool) -> Result<Entry> {
    let (shape, strides) = (entry.shape(), entry.strides());
    let (shape, strides) = match (shape, strides) {
        ([inputs, outputs], [a, b]) => ([*outputs, *inputs], [*b, *a]),
        ([heads, each, outputs], [a, b, c]) if heads_first && *a == b * each => ([*outputs, heads * each], [*c, *b]),
        ([inputs, heads, each], [a, b, c]) if !heads_first && *b == c * each => ([heads * each, *inputs], [*c, *a]),
        _ => return Err(Error::run(format!("a kernel of an unknown shape {shape:?}"))),
    };
    entry.view(shape.to_vec(), strides.to_vec(), 0)
}

/// A vector, whatever its shape.
fn flat(entry: &Entry) -> Result<Entry> {
    if !entry.is_contiguous() {
        return Err(Error::run(format!("a vector of shape {:?} that is not in one piece", entry.shape())));
    }
    entry.view(vec![entry.shape().iter().product()], vec![1], 0)
}

/// What the shapes say; the rest is SigLIP's (transformers fills it in).
fn config(files: &Files, tokenizer: Option<Value>) -> Result<Config> {
    let shape = |name: String| {
        let shape = files.shape(&name);
        shape.ok_or_else(|| Error::run(format!("an .npz without `{name}`, so no SigLIP checkpoint of big_vision")))
    };
    let tower = |encoder: &str| -> Result<Value> {
        let numbered = format!("params/{encoder}/encoderblock_");
        let index = |name: &str| name.strip_prefix(&numbered)?.split('/').next()?.parse::<usize>().ok();
        let last = files.names().filter_map(index).max();
        let block = format!("params/{encoder}/encoderblock{}", if last.is_some() { "_0" } else { "" });
        let query = shape(format!("{block}/MultiHeadDotProductAttention_0/query/kernel"))?;
        let fc1 = shape(format!("{block}/MlpBlock_0/Dense_0/kernel"))?;
        let (layers, query) = match (last, &query[..]) {
            (Some(last), query) => (last + 1, query),
            (None, [layers, query @ ..]) => (*layers, query),
            (None, []) => (0, &query[..]),
        };
        let [width, heads, _] = query else { return Err(Error::run(format!("a query kernel of shape {query:?}"))) };
        Ok(json!({
            "hidden_size": width,
            "intermediate_size": fc1.last(),
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
        }))
    };
    let (mut vision, mut text) = (tower("img/Transformer")?, tower("txt/Encoder_0")?);
    let patch = shape("params/img/embedding/kernel".to_owned())?.first().copied().unwrap_or_default();
    let positions = shape("params/img/pos_embedding".to_owned())?.get(1).copied().unwrap_or_default();
    vision["patch_size"] = patch.into();
    let side = positions.isqrt().saturating_mul(patch);
    vision["image_size"] = side.into();
    text["vocab_size"] = shape("params/txt/Embed_0/embedding".to_owned())?.first().copied().into();
    text["max_position_embeddings"] = shape("params/txt/pos_embedding".to_owned())?.get(1).copied().into();
    text["projection_size"] = shape("params/txt/head/kernel".to_owned())?.get(1).copied().into();
    let hf = json!({ "model_type": "siglip", "vision_config": vision, "text_config": text });
    Ok(Config { hf: Some(hf), tokenizer, ..Config::default() })
}
