//! transformers' `CLIPModel`.

use super::{Target, Written, hf_blocks, hf_processor, is_siglip, pixel_differences, require, square, text_difference};
use crate::card::Layout;
use crate::convert::{Source, tokenizer};
use crate::error::Result;
use crate::model::family::hf_clip_names;
use crate::model::spec::{ImagePool, Objective, Projection, Spec, TextPool, TransformerSpec, VitSpec};
use serde_json::json;

pub(super) struct HfClip;

impl Target for HfClip {
    fn layout(&self) -> Layout {
        Layout::Transformers
    }

    fn suits(&self, vit: &VitSpec, text: &TransformerSpec) -> bool {
        !is_siglip(vit, text)
    }

    fn write(&self, source: &Source, spec: &Spec, vit: &VitSpec, text: &TransformerSpec) -> Result<Written> {
        let pooled = matches!(text.pool, TextPool::LargestId | TextPool::FirstId(_));
        let linear = vit.proj == Projection::Linear && text.proj == Projection::Linear;
        require(
            "transformers' CLIPModel",
            &[
                (vit.pool == ImagePool::ClassToken && vit.class_token, "image towers that end in a class token"),
                (vit.pre_norm, "image towers with a layer norm before the blocks"),
                (!vit.patch_bias, "patches without a bias"),
                (!vit.blocks.layer_scale && !text.blocks.layer_scale, "blocks without LayerScale"),
                (text.causal, "text towers with a causal mask"),
                (pooled, "texts pooled at their end token"),
                (linear, "projections without a bias"),
                (spec.objective == Objective::Softmax, "scores without a bias"),
            ],
        )?;
        let side = square("input", vit.input_size)?;
        let mut vision = hf_blocks("clip_vision_model", &vit.blocks);
        vision["image_size"] = side.into();
        vision["patch_size"] = vit.patch.into();
        vision["projection_dim"] = spec.embed_dim.into();
        let mut words = hf_blocks("clip_text_model", &text.blocks);
        words["vocab_size"] = text.vocab.into();
        words["max_position_embeddings"] = text.context.into();
        words["projection_dim"] = spec.embed_dim.into();
        let own = source.tokenizer().ok();
        let frame = own.as_ref().map(|(tokenizer, _)| tokenizer.frame());
        let end = frame.and_then(|frame| frame.after.last().copied());
        words["eos_token_id"] = match (text.pool, end) {
            (TextPool::FirstId(id), _) => id.into(),
            // The end token has the largest id of all, so it is the largest of any text.
            (_, Some(end)) if end as usize + 1 == text.vocab => end.into(),
            // With 2, transformers looks for the largest id.
            _ => 2.into(),
        };
        words["bos_token_id"] = frame.and_then(|frame| frame.before.first().copied()).into();
        // CLIP's own vocabulary is written with its end token as padding.
        let pad = if tokenizer::is_beside(source) { own.as_ref().map(|(_, pad)| *pad) } else { end };
        words["pad_token_id"] = pad.into();
        let config = json!({
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": spec.embed_dim,
            "logit_scale_init_value": 2.6592,
            "text_config": words,
            "vision_config": vision,
        });
        let mut differences = pixel_differences(&spec.preprocess);
        differences.push(text_difference());
        let processor = hf_processor("CLIP", &spec.preprocess)?;
        let files = vec![("config.json", config), ("preprocessor_config.json", processor)];
        Ok(Written { files, names: hf_clip_names(), differences })
    }

    fn shaped(&self) -> fn(&str, Vec<usize>) -> Vec<usize> {
        |_, shape| shape
    }
}
