//! transformers' `SiglipModel`.

use super::{Target, Written, hf_blocks, hf_processor, is_siglip, pixel_differences, require, square, text_difference};
use crate::card::Layout;
use crate::convert::Source;
use crate::error::Result;
use crate::model::family::hf_siglip_names;
use crate::model::spec::{Objective, Projection, Spec, TransformerSpec, VitSpec};
use crate::weights::Kind;
use serde_json::json;

pub(super) struct HfSiglip;

impl Target for HfSiglip {
    fn layout(&self) -> Layout {
        Layout::Transformers
    }

    fn suits(&self, vit: &VitSpec, text: &TransformerSpec) -> bool {
        is_siglip(vit, text)
    }

    fn write(&self, source: &Source, spec: &Spec, vit: &VitSpec, text: &TransformerSpec) -> Result<Written> {
        require(
            "transformers' SiglipModel",
            &[
                (!vit.class_token && !vit.pre_norm, "image towers without a class token and a norm before the blocks"),
                (vit.patch_bias, "patches with a bias"),
                (vit.proj == Projection::None, "image towers without a projection"),
                (!vit.blocks.layer_scale && !text.blocks.layer_scale, "blocks without LayerScale"),
                (!text.causal, "text towers without a causal mask"),
                (text.proj == Projection::Affine, "text projections with a bias"),
                (spec.objective == Objective::Sigmoid, "scores with a bias"),
            ],
        )?;
        let mut vision = hf_blocks("siglip_vision_model", &vit.blocks);
        vision["image_size"] = square("input", vit.input_size)?.into();
        vision["patch_size"] = vit.patch.into();
        let mut words = hf_blocks("siglip_text_model", &text.blocks);
        words["vocab_size"] = text.vocab.into();
        words["max_position_embeddings"] = text.context.into();
        words["projection_size"] = spec.embed_dim.into();
        let tokenizer = source.tokenizer().ok();
        let frame = tokenizer.as_ref().map(|(tokenizer, _)| tokenizer.frame());
        words["eos_token_id"] = frame.and_then(|frame| frame.after.last().copied()).into();
        words["bos_token_id"] = frame.and_then(|frame| frame.before.first().copied()).into();
        words["pad_token_id"] = tokenizer.as_ref().map(|(_, pad)| *pad).or(source.plan.text.pad_id).into();
        let config = json!({
            "architectures": ["SiglipModel"],
            "model_type": "siglip",
            "initializer_factor": 1.0,
            "text_config": words,
            "vision_config": vision,
        });
        let mut differences = Vec::new();
        if source.files.kind() != Kind::Npz {
            differences = pixel_differences(&spec.preprocess);
            differences.push(text_difference());
        }
        let processor = hf_processor("Siglip", &spec.preprocess)?;
        let files = vec![("config.json", config), ("preprocessor_config.json", processor)];
        Ok(Written { files, names: hf_siglip_names(), differences })
    }

    fn shaped(&self) -> fn(&str, Vec<usize>) -> Vec<usize> {
        |ours, shape| if ours.starts_with("head.") { vec![1] } else { shape }
    }
}
