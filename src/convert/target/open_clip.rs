//! open_clip's `CLIP`.

use super::{
    Target, Written, clean_name, is_siglip, open_clip_blocks, open_clip_processor, pixel_differences, require, square,
    text_difference,
};
use crate::card::Layout;
use crate::convert::Source;
use crate::convert::tokenizer;
use crate::error::Result;
use crate::model::family::open_clip_names;
use crate::model::spec::{ImagePool, Projection, Spec, TextPool, TransformerSpec, VitSpec};
use crate::ops::Activation;
use crate::text::Clean;
use serde_json::json;

pub(super) struct OpenClip;

impl Target for OpenClip {
    fn layout(&self) -> Layout {
        Layout::OpenClip
    }

    fn suits(&self, vit: &VitSpec, text: &TransformerSpec) -> bool {
        !is_siglip(vit, text)
    }

    fn write(&self, source: &Source, spec: &Spec, vit: &VitSpec, text: &TransformerSpec) -> Result<Written> {
        let (image_act, text_act) = (vit.blocks.act, text.blocks.act);
        let quick = image_act == Activation::QuickGelu;
        let known = [image_act, text_act]
            .iter()
            .all(|act| matches!(act, Activation::QuickGelu | Activation::GeluErf | Activation::GeluTanh));
        let pooled = matches!(text.pool, TextPool::LargestId | TextPool::FirstId(_));
        let linear = vit.proj == Projection::Linear && text.proj == Projection::Linear;
        require(
            "open_clip's CLIP",
            &[
                (vit.pool == ImagePool::ClassToken && vit.class_token, "image towers that end in a class token"),
                (
                    vit.pre_norm && !vit.patch_bias,
                    "image towers with a norm before the blocks, and patches without a bias",
                ),
                (!vit.blocks.layer_scale && !text.blocks.layer_scale, "blocks without LayerScale"),
                (known, "QuickGELU and GELU as activations"),
                (quick == (text_act == Activation::QuickGelu), "QuickGELU in both towers or in none"),
                (text.causal, "text towers with a causal mask"),
                (pooled, "texts pooled at their end token"),
                (linear, "projections without a bias"),
            ],
        )?;
        let mut vision = json!({
            "image_size": square("input", vit.input_size)?,
            "layers": vit.blocks.layers,
            "width": vit.blocks.width,
            "head_width": vit.blocks.width / vit.blocks.heads,
            "patch_size": vit.patch,
        });
        open_clip_blocks(&mut vision, &vit.blocks);
        let mut words = json!({
            "context_length": text.context,
            "vocab_size": text.vocab,
            "width": text.blocks.width,
            "heads": text.blocks.heads,
            "layers": text.blocks.layers,
        });
        open_clip_blocks(&mut words, &text.blocks);
        if let TextPool::FirstId(id) = text.pool
            && id as usize + 1 != text.vocab
        {
            words["pool_type"] = "eos".into();
            words["eos_id"] = id.into();
        }
        if tokenizer::is_beside(source) {
            words["hf_tokenizer_name"] = source.name.clone().into();
            if !matches!(source.plan.text.clean, Clean::AsIs | Clean::Whitespace) {
                words["tokenizer_kwargs"] = json!({ "clean": clean_name(source.plan.text.clean) });
            }
        }
        let mut model = json!({ "embed_dim": spec.embed_dim, "vision_cfg": vision, "text_cfg": words });
        if quick {
            model["quick_gelu"] = true.into();
        }
        let config = json!({ "model_cfg": model, "preprocess_cfg": open_clip_processor(&spec.preprocess)? });
        let mut differences = pixel_differences(&spec.preprocess);
        differences.push(text_difference());
        Ok(Written { files: vec![("open_clip_config.json", config)], names: open_clip_names("", false), differences })
    }

    fn shaped(&self) -> fn(&str, Vec<usize>) -> Vec<usize> {
        |_, shape| shape
    }
}
