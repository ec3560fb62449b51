//! An independent second opinion on this machine: candle-transformers' own CLIP, SigLIP and BERT read the same weights
//! and see the same random inputs, and their unit embeddings are compared with those of our towers.
//!
//! It covers what candle-transformers computes rightly: CLIP with QuickGELU and SigLIP in the transformers layout, and
//! BERT text towers with mean pooling.

use crate::error::Result;
use crate::model::spec::{BertSpec, BlocksSpec, ImagePool, ImageSpec, Spec, TextPool, TextTowerSpec, TransformerSpec};
use crate::model::{Clip, LoadOptions, ModelFiles};
use crate::ops::Activation;
use crate::weights::Files;
use candle_core::{DType, Device, Module, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use candle_transformers::models::{bert, clip, siglip};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The largest difference between unit embeddings that two right implementations may show in f32.
pub const TOLERANCE: f32 = 1e-4;

/// How many random images, and how many random texts, are compared.
const ITEMS: usize = 3;

/// What the comparison of one tower says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// `image` or `text`.
    pub tower: &'static str,
    /// The other implementation, or nothing if there is none for this kind of tower.
    pub against: Option<&'static str>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// How many inputs were compared.
    pub items: usize,
    /// The largest difference between two numbers of a unit embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest: Option<f32>,
}

impl Verdict {
    /// Whether the two agree, or nobody disagrees.
    pub fn passed(&self) -> bool {
        // A NaN is no agreement.
        self.largest.is_none_or(|largest| largest <= TOLERANCE)
    }
}

/// Compares both towers of a checkpoint, on the CPU in f32; `seed` draws the inputs.
pub fn run(files: &ModelFiles, seed: u64) -> Result<Vec<Verdict>> {
    let clip = Clip::open(files.clone(), &LoadOptions::default())?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let weights = || -> Result<VarBuilder<'static>> {
        let backend: Box<dyn SimpleBackend> = Box::new(Tensors(files.weights()?));
        Ok(VarBuilder::from_backend(backend, DType::F32, Device::Cpu))
    };
    let image = match other_image_tower(&clip.spec, &weights)? {
        Ok((against, tower)) => {
            let [height, width] = clip.spec.preprocess.size;
            let shape = (ITEMS, 3, height, width);
            let pixels: Vec<f32> = (0..ITEMS * 3 * height * width).map(|_| rng.random_range(-2.0..2.0)).collect();
            let ours = clip.image()?.forward(&Tensor::from_slice(&pixels, shape, &Device::Cpu)?)?;
            let theirs = tower(&Tensor::from_vec(pixels, shape, &Device::Cpu)?)?;
            compared("image", against, &ours, &theirs)?
        }
        Err(reason) => missing("image", reason),
    };
    let text = match other_text_tower(&clip.spec, &weights)? {
        Ok((against, tower)) => {
            let (ids, len) = random_ids(&clip.spec.text, &mut rng);
            let ours = clip.text()?.forward(&ids, len)?;
            let theirs = tower(&Tensor::from_vec(ids, (ITEMS, len), &Device::Cpu)?)?;
            compared("text", against, &ours, &theirs)?
        }
        Err(reason) => missing("text", reason),
    };
    Ok(vec![image, text])
}

/// Another implementation's tower: its name, and inputs to embeddings.
type Other = (&'static str, Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>);

type Weights<'a> = &'a dyn Fn() -> Result<VarBuilder<'static>>;

const LAYOUT: &str = "candle-transformers reads the transformers layout alone";
const GELU: &str = "candle-transformers' CLIP knows no activation but QuickGELU";

fn other_image_tower(spec: &Spec, weights: Weights<'_>) -> Result<Result<Other, &'static str>> {
    let ImageSpec::Vit(vit) = &spec.image else {
        return Ok(Err("candle-transformers has no such image tower"));
    };
    Ok(match spec.family {
        "clip" if vit.blocks.act != Activation::QuickGelu => Err(GELU),
        "clip" => {
            let config = clip::vision_model::ClipVisionConfig {
                embed_dim: vit.blocks.width,
                activation: clip::text_model::Activation::QuickGelu,
                intermediate_size: vit.blocks.mlp,
                num_hidden_layers: vit.blocks.layers,
                num_attention_heads: vit.blocks.heads,
                projection_dim: spec.embed_dim,
                num_channels: 3,
                image_size: vit.image_size[0],
                patch_size: vit.patch,
            };
            let weights = weights()?;
            let tower = clip::vision_model::ClipVisionTransformer::new(weights.pp("vision_model"), &config)?;
            let head = candle_nn::linear_no_bias(vit.blocks.width, spec.embed_dim, weights.pp("visual_projection"))?;
            Ok(("candle_transformers::models::clip", Box::new(move |x| x.apply(&tower)?.apply(&head))))
        }
        "siglip" if matches!(vit.pool, ImagePool::Attention { .. }) => {
            let config = siglip::VisionConfig {
                hidden_size: vit.blocks.width,
                intermediate_size: vit.blocks.mlp,
                num_hidden_layers: vit.blocks.layers,
                num_attention_heads: vit.blocks.heads,
                num_channels: 3,
                image_size: vit.image_size[0],
                patch_size: vit.patch,
                hidden_act: their_activation(vit.blocks.act),
                layer_norm_eps: vit.blocks.eps,
            };
            let tower = siglip::VisionModel::new(&config, true, weights()?.pp("vision_model"))?;
            Ok(("candle_transformers::models::siglip", Box::new(move |x| x.apply(&tower))))
        }
        "siglip2" => Err("candle-transformers has no NaFlex image tower"),
        _ => Err(LAYOUT),
    })
}

fn other_text_tower(spec: &Spec, weights: Weights<'_>) -> Result<Result<Other, &'static str>> {
    Ok(match (&spec.text, spec.family) {
        (TextTowerSpec::Transformer(text), "clip") if text.blocks.act != Activation::QuickGelu => Err(GELU),
        (TextTowerSpec::Transformer(text), "clip") => {
            let config = clip::text_model::ClipTextConfig {
                vocab_size: text.vocab,
                embed_dim: text.blocks.width,
                activation: clip::text_model::Activation::QuickGelu,
                intermediate_size: text.blocks.mlp,
                max_position_embeddings: text.context,
                pad_with: None,
                num_hidden_layers: text.blocks.layers,
                num_attention_heads: text.blocks.heads,
                projection_dim: spec.embed_dim,
            };
            let weights = weights()?;
            let tower = clip::text_model::ClipTextTransformer::new(weights.pp("text_model"), &config)?;
            let head = candle_nn::linear_no_bias(text.blocks.width, spec.embed_dim, weights.pp("text_projection"))?;
            Ok(("candle_transformers::models::clip", Box::new(move |ids| ids.apply(&tower)?.apply(&head))))
        }
        (TextTowerSpec::Transformer(text), "siglip" | "siglip2") if text.blocks.width != spec.embed_dim => {
            Err("candle-transformers' SigLIP has no text projection to another width")
        }
        (TextTowerSpec::Transformer(text), "siglip" | "siglip2") => {
            let tower = siglip::TextModel::new(&siglip_text(text), weights()?.pp("text_model"))?;
            Ok(("candle_transformers::models::siglip", Box::new(move |ids| ids.apply(&tower))))
        }
        (TextTowerSpec::Transformer(_), _) => Err(LAYOUT),
        (TextTowerSpec::Bert(text), _) if text.pool != TextPool::Mean => {
            Err("only mean pooling is built from candle-transformers' BERT")
        }
        (TextTowerSpec::Bert(text), _) if text.first_position > 0 || !text.hidden.is_empty() || text.final_norm => {
            Err("only a plain BERT with a linear map is built from candle-transformers' BERT")
        }
        (TextTowerSpec::Bert(text), _) => {
            let weights = weights()?;
            let tower = bert::BertModel::load(weights.pp("text.transformer"), &bert_config(text))?;
            let shape = (spec.embed_dim, text.blocks.width);
            let head = match text.proj.parts() {
                None => None,
                Some(false) => Some(candle_nn::linear_no_bias(shape.1, shape.0, weights.pp("text.proj"))?),
                Some(true) => Some(candle_nn::linear(shape.1, shape.0, weights.pp("text.proj"))?),
            };
            let pad = text.pad_id;
            let forward = move |ids: &Tensor| {
                let mask = ids.ne(pad)?;
                let tokens = tower.forward(ids, &ids.zeros_like()?, Some(&mask))?;
                let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
                let mean = tokens.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?;
                match &head {
                    Some(head) => head.forward(&mean),
                    None => Ok(mean),
                }
            };
            Ok(("candle_transformers::models::bert", Box::new(forward)))
        }
    })
}

fn siglip_text(text: &TransformerSpec) -> siglip::TextConfig {
    let BlocksSpec { width, layers, heads, mlp, act, eps, .. } = text.blocks;
    siglip::TextConfig {
        vocab_size: text.vocab,
        hidden_size: width,
        intermediate_size: mlp,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        max_position_embeddings: text.context,
        hidden_act: their_activation(act),
        layer_norm_eps: eps,
        // Special tokens play no part in the tower.
        pad_token_id: 0,
        bos_token_id: 0,
        eos_token_id: 0,
    }
}

fn bert_config(text: &BertSpec) -> bert::Config {
    bert::Config {
        vocab_size: text.vocab,
        hidden_size: text.blocks.width,
        num_hidden_layers: text.blocks.layers,
        num_attention_heads: text.blocks.heads,
        intermediate_size: text.blocks.mlp,
        hidden_act: match text.blocks.act {
            Activation::GeluTanh => bert::HiddenAct::GeluApproximate,
            Activation::Relu => bert::HiddenAct::Relu,
            _ => bert::HiddenAct::Gelu,
        },
        max_position_embeddings: text.positions,
        type_vocab_size: text.types,
        layer_norm_eps: text.blocks.eps,
        pad_token_id: text.pad_id as usize,
        ..bert::Config::default()
    }
}

fn their_activation(act: Activation) -> candle_nn::Activation {
    match act {
        Activation::GeluTanh => candle_nn::Activation::GeluPytorchTanh,
        Activation::Relu => candle_nn::Activation::Relu,
        Activation::Silu => candle_nn::Activation::Silu,
        _ => candle_nn::Activation::Gelu,
    }
}

/// Texts of different lengths that end as the tower expects: rows of ids and their length.
fn random_ids(spec: &TextTowerSpec, rng: &mut ChaCha8Rng) -> (Vec<u32>, usize) {
    let (vocab, len, end, pad) = match spec {
        TextTowerSpec::Transformer(text) => {
            // candle-transformers pools CLIP at the largest id, so the end of the text must be that.
            let end = match text.pool {
                TextPool::FirstId(id) => Some(id),
                TextPool::LargestId => Some(text.vocab.saturating_sub(1) as u32),
                _ => None,
            };
            (end.map_or(text.vocab as u32, |id| id.max(1)), text.context, end, end.unwrap_or(0))
        }
        TextTowerSpec::Bert(text) => (text.vocab as u32, text.context.min(24), None, text.pad_id),
    };
    let mut ids = Vec::with_capacity(ITEMS * len);
    for item in 0..ITEMS {
        let words = (len * (item + 1) / ITEMS).clamp(1, len);
        let shorter = matches!(spec, TextTowerSpec::Bert(_)) || end.is_some();
        let words = if shorter { words } else { len };
        for at in 0..len {
            let word = loop {
                let word = rng.random_range(0..vocab.max(2));
                if word != pad || vocab < 3 {
                    break word;
                }
            };
            ids.push(match end {
                Some(end) if at + 1 == words => end,
                _ if at < words => word,
                _ => pad,
            });
        }
    }
    (ids, len)
}

fn compared(tower: &'static str, against: &'static str, ours: &Tensor, theirs: &Tensor) -> Result<Verdict> {
    let difference = (unit(ours)? - unit(theirs)?)?.abs()?.flatten_all()?.to_vec1::<f32>()?;
    // `max` would pass over a NaN.
    let largest = difference.into_iter().fold(0f32, |max, x| if x > max || x.is_nan() { x } else { max });
    Ok(Verdict { tower, against: Some(against), reason: None, items: ITEMS, largest: Some(largest) })
}

fn missing(tower: &'static str, reason: &'static str) -> Verdict {
    Verdict { tower, against: None, reason: Some(reason), items: 0, largest: None }
}

fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
}

/// A checkpoint's tensors under their own names, as candle's models ask for them.
struct Tensors(Files);

impl SimpleBackend for Tensors {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, dev)?;
        // Checkpoints differ in whether a scale is a number or a list of one.
        if tensor.elem_count() == s.elem_count() { tensor.reshape(s) } else { shape_error(name, &s, &tensor) }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.0.read(name, dtype, dev).map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        tensor.ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() })
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

fn shape_error(name: &str, wanted: &Shape, found: &Tensor) -> candle_core::Result<Tensor> {
    let (wanted, found) = (wanted.dims(), found.dims());
    Err(candle_core::Error::Msg(format!("tensor `{name}` has the shape {found:?}, expected {wanted:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn verdicts(name: &str) -> Vec<Verdict> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name);
        run(&ModelFiles::open(&directory).unwrap(), 1).unwrap()
    }

    #[test]
    fn towers_agree_with_candle_transformers() {
        for (name, compared) in
            [("hf-clip-quickgelu", [true; 2]), ("hf-siglip", [true; 2]), ("custom-text-effnet", [false, true])]
        {
            let verdicts = verdicts(name);
            for (verdict, compared) in verdicts.iter().zip(compared) {
                assert_eq!(verdict.largest.is_some(), compared, "{name}: {verdict:?}");
                assert!(verdict.passed(), "{name}: {verdict:?}");
            }
        }
    }

    #[test]
    fn what_has_no_second_implementation_says_so() {
        for name in ["hf-clip-gelu", "open_clip-vit", "open_clip-siglip"] {
            let verdicts = verdicts(name);
            assert!(verdicts.iter().all(|v| v.against.is_none() && v.reason.is_some() && v.passed()), "{verdicts:?}");
        }
    }

    #[test]
    fn a_disagreement_is_seen() {
        let x = Tensor::new(&[[3f32, 4.0]], &Device::Cpu).unwrap();
        let y = Tensor::new(&[[3f32, 4.01]], &Device::Cpu).unwrap();
        assert!(compared("image", "x", &x, &x).unwrap().passed());
        assert!(!compared("image", "x", &x, &y).unwrap().passed());
        let nan = Tensor::new(&[[f32::NAN, 1.0]], &Device::Cpu).unwrap();
        assert!(!compared("image", "x", &x, &nan).unwrap().passed());
    }
}
