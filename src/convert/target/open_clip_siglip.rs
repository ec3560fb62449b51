//! SigLIP as open_clip has it: a trunk of timm's and open_clip's own text tower.

use super::{
    Target, Written, clean_name, is_siglip, open_clip_blocks, open_clip_processor, pixel_differences, require, square,
    text_difference,
};
use crate::card::Layout;
use crate::convert::Source;
use crate::error::{Error, Result};
use crate::model::family::open_clip_siglip_names;
use crate::model::family::siglip_trunks::TRUNKS;
use crate::model::spec::{Objective, Projection, Spec, TransformerSpec, VitSpec};
use crate::ops::Activation;
use crate::text::Clean;
use crate::weights::Kind;
use serde_json::json;

pub(super) struct OpenClipSiglip;

impl Target for OpenClipSiglip {
    fn layout(&self) -> Layout {
        Layout::OpenClip
    }

    fn suits(&self, vit: &VitSpec, text: &TransformerSpec) -> bool {
        is_siglip(vit, text)
    }

    fn write(&self, source: &Source, spec: &Spec, vit: &VitSpec, text: &TransformerSpec) -> Result<Written> {
        require(
            "open_clip's SigLIP",
            &[
                (!vit.class_token && !vit.pre_norm, "image towers without a class token and a norm before the blocks"),
                (vit.patch_bias, "patches with a bias"),
                (vit.proj == Projection::None, "image towers without a projection"),
                (vit.blocks.eps == 1e-6, "image towers with an epsilon of 1e-6"),
                (!vit.blocks.layer_scale && !text.blocks.layer_scale, "blocks without LayerScale"),
                (!text.causal, "text towers without a causal mask"),
                (text.proj == Projection::Affine, "text projections with a bias"),
                (text.blocks.act != Activation::QuickGelu, "GELU in the text tower"),
                (spec.objective == Objective::Sigmoid, "scores with a bias"),
            ],
        )?;
        let side = square("input", vit.input_size)?;
        let (trunk, mut differences) = trunk(vit, side)?;
        let mut words = json!({
            "context_length": text.context,
            "vocab_size": text.vocab,
            "hf_tokenizer_name": source.name,
            "tokenizer_kwargs": { "clean": clean_name(source.plan.text.clean) },
            "width": text.blocks.width,
            "heads": text.blocks.heads,
            "layers": text.blocks.layers,
            "no_causal_mask": true,
            "proj_bias": true,
            "pool_type": "last",
        });
        open_clip_blocks(&mut words, &text.blocks);
        let model = json!({
            "embed_dim": spec.embed_dim,
            "init_logit_bias": -10,
            "custom_text": true,
            "vision_cfg": {
                "image_size": side,
                "timm_model_name": trunk,
                "timm_model_pretrained": false,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": words,
        });
        let config = json!({ "model_cfg": model, "preprocess_cfg": open_clip_processor(&spec.preprocess)? });
        if source.files.kind() != Kind::Npz {
            differences.extend(pixel_differences(&spec.preprocess));
            differences.push(text_difference());
        }
        match source.plan.text.clean {
            Clean::Siglip => {
                differences.push("underscores in texts: a space in open_clip, nothing in transformers".to_owned())
            }
            Clean::LowerOnly | Clean::AsIs => {
                differences.push("runs of spaces in texts: open_clip makes one of them".to_owned());
            }
            _ => {}
        }
        let names = open_clip_siglip_names("text.", true);
        Ok(Written { files: vec![("open_clip_config.json", config)], names, differences })
    }

    fn shaped(&self) -> fn(&str, Vec<usize>) -> Vec<usize> {
        |ours, mut shape| match ours {
            "image.positions" => {
                shape.insert(0, 1);
                shape
            }
            _ => shape,
        }
    }
}

/// The name of timm's trunk for an image tower, and what it does differently.
fn trunk(vit: &VitSpec, side: usize) -> Result<(String, Vec<String>)> {
    let blocks = &vit.blocks;
    let alike = TRUNKS.iter().find(|trunk| {
        (trunk.patch, trunk.width, trunk.layers, trunk.heads, trunk.mlp)
            == (vit.patch, blocks.width, blocks.layers, blocks.heads, blocks.mlp)
    });
    let (name, tanh, mut differences) = match alike.map(|trunk| (trunk, trunk.tanh(side))) {
        Some((trunk, Some(tanh))) => (trunk.named(side), tanh, vec![]),
        _ if blocks.width != 64 * blocks.heads => {
            return Err(Error::run(format!(
                "timm has no SigLIP trunk with {} blocks of width {}, {} heads, patches of {} and inputs of {side} pixels, \
                 and open_clip builds image towers by timm's names alone",
                blocks.layers, blocks.width, blocks.heads, vit.patch
            )));
        }
        _ => {
            let name = format!("vit_base_patch{}_siglip_{side}", vit.patch);
            let message = format!(
                "timm has no trunk with {} blocks of width {}, patches of {} and inputs of {side} pixels: open_clip needs one \
                 registered as {name} to open this checkpoint",
                blocks.layers, blocks.width, vit.patch
            );
            let tanh = crate::model::family::siglip_trunks::find(&name).is_some_and(|(_, tanh)| tanh);
            (name, tanh, vec![message])
        }
    };
    let theirs = if tanh { Activation::GeluTanh } else { Activation::GeluErf };
    if blocks.act != theirs {
        differences.push(format!(
            "every image embedding, slightly: timm's {name} computes {} where this checkpoint's configuration says {}, and \
             open_clip cannot change it",
            theirs.name(),
            blocks.act.name()
        ));
    }
    Ok((name, differences))
}
