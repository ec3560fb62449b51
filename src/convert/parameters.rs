//! The parameters that towers have, by our names: what a checkpoint must hold, no more and no less.

use crate::error::{Error, Result};
use crate::model::Spec;
use crate::model::spec::{BlocksSpec, ImagePool, ImageSpec, Objective, Projection, TextTowerSpec, VitSpec};
use std::collections::BTreeMap;

/// Our parameters and their shapes.
pub(super) type Parameters = BTreeMap<String, Vec<usize>>;

/// The parameters of a vision transformer and a text transformer.
///
/// # Errors
/// If the towers are of another kind; such checkpoints exist in one layout alone.
pub(super) fn parameters(spec: &Spec) -> Result<Parameters> {
    let (ImageSpec::Vit(vit), TextTowerSpec::Transformer(text)) = (&spec.image, &spec.text) else {
        return Err(Error::run(format!("checkpoints of the family {} exist in one layout alone", spec.family)));
    };
    let mut out = Parameters::new();
    image(&mut out, vit, spec.embed_dim);
    let width = text.blocks.width;
    out.insert("text.tokens.weight".to_owned(), vec![text.vocab, width]);
    out.insert("text.positions".to_owned(), vec![text.context, width]);
    blocks(&mut out, "text", &text.blocks);
    norm(&mut out, "text.norm", width);
    projection(&mut out, "text", text.proj, spec.embed_dim, width);
    out.insert("head.logit_scale".to_owned(), vec![]);
    if spec.objective == Objective::Sigmoid {
        out.insert("head.logit_bias".to_owned(), vec![]);
    }
    Ok(out)
}

fn image(out: &mut Parameters, vit: &VitSpec, embed_dim: usize) {
    let width = vit.blocks.width;
    out.insert("image.patch.weight".to_owned(), vec![width, 3, vit.patch, vit.patch]);
    if vit.patch_bias {
        out.insert("image.patch.bias".to_owned(), vec![width]);
    }
    if vit.class_token {
        out.insert("image.class".to_owned(), vec![width]);
    }
    let patches: usize = vit.image_size.iter().map(|side| side / vit.patch).product();
    out.insert("image.positions".to_owned(), vec![usize::from(vit.class_token) + patches, width]);
    if vit.pre_norm {
        norm(out, "image.pre_norm", width);
    }
    blocks(out, "image", &vit.blocks);
    norm(out, "image.norm", width);
    if let ImagePool::Attention { mlp, .. } = vit.pool {
        out.insert("image.pool.probe".to_owned(), vec![1, 1, width]);
        linear(out, "image.pool.qkv", 3 * width, width);
        linear(out, "image.pool.out", width, width);
        norm(out, "image.pool.norm", width);
        linear(out, "image.pool.fc1", mlp, width);
        linear(out, "image.pool.fc2", width, mlp);
    }
    projection(out, "image", vit.proj, embed_dim, width);
}

fn blocks(out: &mut Parameters, tower: &str, spec: &BlocksSpec) {
    let (width, mlp) = (spec.width, spec.mlp);
    for layer in 0..spec.layers {
        let at = |part: &str| format!("{tower}.blocks.{layer}.{part}");
        norm(out, &at("norm1"), width);
        linear(out, &at("qkv"), 3 * width, width);
        linear(out, &at("out"), width, width);
        norm(out, &at("norm2"), width);
        linear(out, &at("fc1"), mlp, width);
        linear(out, &at("fc2"), width, mlp);
        if spec.layer_scale {
            out.insert(at("scale1"), vec![width]);
            out.insert(at("scale2"), vec![width]);
        }
    }
}

fn projection(out: &mut Parameters, tower: &str, projection: Projection, embed_dim: usize, width: usize) {
    if let Some(bias) = projection.parts() {
        out.insert(format!("{tower}.proj.weight"), vec![embed_dim, width]);
        if bias {
            out.insert(format!("{tower}.proj.bias"), vec![embed_dim]);
        }
    }
}

fn norm(out: &mut Parameters, name: &str, width: usize) {
    for part in ["weight", "bias"] {
        out.insert(format!("{name}.{part}"), vec![width]);
    }
}

fn linear(out: &mut Parameters, name: &str, outputs: usize, inputs: usize) {
    out.insert(format!("{name}.weight"), vec![outputs, inputs]);
    out.insert(format!("{name}.bias"), vec![outputs]);
}
