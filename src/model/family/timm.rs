//! timm's vision transformers as open_clip's image trunk (`TimmModel`): plain ones, EVA and PE-Core.
//!
//! Sizes come from the shapes of the weights; what shapes cannot tell comes from the trunk's name, by the tables below,
//! which a test compares with timm itself.

use super::parts::{self, block};
use super::{Section, siglip_trunks};
use crate::error::Result;
use crate::model::spec::{
    BlocksSpec, Branches, ImagePool, Interpolation, NormPlace, Projection, QkvBias, RopeSpec, VitSpec,
};
use crate::ops::Activation;
use crate::weights::{Files, Layout};

/// Whether a trunk of this name may be one that [`vit`] reads.
pub(super) fn is_vit(name: &str) -> bool {
    let plain = name.starts_with("vit_") && !["relpos", "rope", "rpn", "_reg"].iter().any(|other| name.contains(other));
    plain || name.starts_with("eva_") || (name.starts_with("eva02_") && name.contains("_clip_"))
}

/// A vision transformer as image trunk, for inputs of `size` pixels.
pub(super) fn vit(vision: &Section<'_>, files: &Files, size: [usize; 2]) -> Result<(VitSpec, Layout)> {
    let name = vision.string("timm_model_name")?.unwrap_or_default();
    let has = |tensor: &str| files.contains(&format!("visual.trunk.{tensor}"));
    // MobileCLIP-B embeds patches with three convolutions, of 4, 2 and 2 pixels.
    let stem = name.contains("_mci_");
    let kernel = if stem { "patch_embed.backbone.2.conv.weight" } else { "patch_embed.proj.weight" };
    let kernel = parts::shape_of(files, &format!("visual.trunk.{kernel}"))?;
    let [width, patch] = match kernel.as_slice() {
        [width, _, patch, _] => [*width, if stem { 16 } else { *patch }],
        other => return Err(vision.error("timm_model_name", format!("the patch kernel has shape {other:?}"))),
    };
    let rows = |tensor: &str| parts::shape_of(files, tensor).map(|shape| shape.first().copied().unwrap_or_default());
    let gate = has(GATE);
    let mlp = rows(&format!("visual.trunk.blocks.0.mlp.{}.weight", if gate { "fc1_x" } else { "fc1" }))?;
    let facts = facts(name, width);
    let proj = proj(vision)?;
    Ok((
        VitSpec {
            blocks: BlocksSpec {
                width,
                layers: parts::count_blocks(files, "visual.trunk.blocks"),
                heads: facts.heads,
                mlp,
                act: if gate { Activation::Silu } else { facts.act },
                eps: facts.eps,
                norm: if facts.norm_after { NormPlace::AfterBranch } else { NormPlace::Before },
                layer_scale: has("blocks.0.ls1.gamma"),
                branches: Branches {
                    qkv_bias: if has("blocks.0.attn.qkv.bias") {
                        QkvBias::All
                    } else if has("blocks.0.attn.q_bias") || has("blocks.0.attn.q_proj.bias") {
                        QkvBias::NoKeys
                    } else {
                        QkvBias::None
                    },
                    gate,
                    inner_norm: has("blocks.0.attn.norm.weight"),
                },
            },
            image_size: size,
            input_size: size,
            patch,
            patch_bias: has("patch_embed.proj.bias"),
            patch_matrix: false,
            class_token: has("cls_token"),
            pre_norm: has("norm_pre.weight"),
            interpolation: Interpolation::BicubicAntialias,
            rope: facts.rope,
            pool: match vision.string("timm_pool")? {
                Some("avg") => ImagePool::Mean,
                Some("token") => ImagePool::ClassToken,
                None | Some("map" | "") if has("attn_pool.latent") => ImagePool::Attention {
                    heads: facts.pool_heads,
                    mlp: rows("visual.trunk.attn_pool.mlp.fc1.weight")?,
                },
                // Without a pool timm keeps the network's own.
                None | Some("") if has("cls_token") => ImagePool::ClassToken,
                None | Some("") => ImagePool::Mean,
                Some(other) => {
                    return Err(vision.error("timm_pool", format!("{other:?} is not supported for this trunk")));
                }
            },
            norm_after_pool: has("fc_norm.weight"),
            proj,
        },
        layout(has, if vision.is_null("timm_proj") { "trunk.head" } else { "head.proj" }),
    ))
}

/// The head that open_clip puts on a timm trunk; where it says null, the trunk's own classifier.
pub(super) fn proj(vision: &Section<'_>) -> Result<Projection> {
    if vision.is_null("timm_proj") {
        return Ok(Projection::Affine);
    }
    match vision.string("timm_proj")?.unwrap_or("linear") {
        "linear" if vision.flag_or("timm_proj_bias", false)? => Ok(Projection::Affine),
        "linear" => Ok(Projection::Linear),
        "none" => Ok(Projection::None),
        other => Err(vision.error("timm_proj", format!("{other:?} is not supported"))),
    }
}

/// What the shapes of the weights do not tell.
#[derive(Debug, PartialEq)]
struct Facts {
    heads: usize,
    pool_heads: usize,
    act: Activation,
    eps: f64,
    norm_after: bool,
    rope: Option<RopeSpec>,
}

/// The facts about the trunk of this name (timm 1.0.31: `vision_transformer.py`, `eva.py`).
fn facts(name: &str, width: usize) -> Facts {
    let begins = |names: &[&str]| names.iter().any(|begin| name.starts_with(begin));
    let heads = if begins(SIXTEEN_HEADS) { 16 } else { width / 64 };
    let perception = name.starts_with("vit_pe_core_");
    Facts {
        heads,
        pool_heads: if perception { 8 } else { heads },
        act: if siglip_trunks::find(name).is_some_and(|(_, tanh)| tanh) {
            Activation::GeluTanh
        } else if name.contains("_quickgelu_") {
            Activation::QuickGelu
        } else {
            Activation::GeluErf
        },
        eps: if perception || (name.starts_with("vit_") && name.contains("_clip_")) { 1e-5 } else { 1e-6 },
        norm_after: name.starts_with("eva02_enormous_"),
        rope: ROPE.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, rope)| *rope),
    }
}

/// Trunks with sixteen heads; all others have heads of 64.
const SIXTEEN_HEADS: &[&str] = &[
    "vit_huge_",
    "vit_giant_patch14_2",
    "vit_giant_patch14_clip_",
    "vit_giant_patch16_",
    "vit_gigantic_",
    "vit_giantopt_",
    "vit_so400m_",
    "vit_base_patch16_gap_",
    "vit_pe_core_gigantic_",
    "eva_giant_",
    "eva02_enormous_",
];

/// Trunks with rotary positions.
const ROPE: &[(&str, RopeSpec)] = &[
    ("eva02_base_", EVA02),
    ("eva02_large_", EVA02),
    ("vit_pe_core_tiny_", RopeSpec { reference: [24; 2], offset: 1.0, columns_first: true }),
    ("vit_pe_core_small_", RopeSpec { reference: [24; 2], offset: 1.0, columns_first: true }),
    ("vit_pe_core_base_", RopeSpec { reference: [14; 2], offset: 1.0, columns_first: true }),
    ("vit_pe_core_large_", RopeSpec { reference: [24; 2], offset: 1.0, columns_first: true }),
    ("vit_pe_core_gigantic_", RopeSpec { reference: [32; 2], offset: 0.0, columns_first: true }),
];

const EVA02: RopeSpec = RopeSpec { reference: [16; 2], offset: 0.0, columns_first: false };

/// The names of a trunk's tensors, where `has` says which of its variants are there.
pub(super) fn layout(has: impl Fn(&str) -> bool, head: &str) -> Layout {
    let trunk = |rest: &str| format!("visual.trunk.{rest}");
    let at = |rest: &str| format!("visual.trunk.blocks.{{}}.{rest}");
    let layout = Layout::default()
        .plain("image.patch.*", trunk("patch_embed.proj.*"))
        .plain("image.stem.*", trunk("patch_embed.backbone.*"))
        .ignoring("*.num_batches_tracked")
        .plain("image.class", trunk("cls_token"))
        .plain("image.positions", trunk("pos_embed"))
        .plain("image.pre_norm.*", trunk("norm_pre.*"))
        .plain("image.norm.*", trunk(if has("fc_norm.weight") { "fc_norm.*" } else { "norm.*" }))
        .plain("image.proj.*", format!("visual.{head}.*"))
        .plain("image.pool.probe", trunk("attn_pool.latent"))
        .stacked("image.pool.qkv.*", ["q", "kv"].map(|x| trunk(&format!("attn_pool.{x}.*"))))
        .plain("image.pool.out.*", trunk("attn_pool.proj.*"))
        .plain("image.pool.norm.*", trunk("attn_pool.norm.*"))
        .plain("image.pool.fc1.*", trunk("attn_pool.mlp.fc1.*"))
        .plain("image.pool.fc2.*", trunk("attn_pool.mlp.fc2.*"));
    let layout = match has("blocks.0.attn.q_proj.weight") {
        true => layout
            .stacked(block("image", "qkv.weight"), ["q", "k", "v"].map(|x| at(&format!("attn.{x}_proj.weight"))))
            .plain(block("image", "q_bias"), at("attn.q_proj.bias"))
            .plain(block("image", "v_bias"), at("attn.v_proj.bias")),
        false => layout
            .plain(block("image", "qkv.*"), at("attn.qkv.*"))
            .plain(block("image", "q_bias"), at("attn.q_bias"))
            .plain(block("image", "v_bias"), at("attn.v_bias")),
    };
    layout
        .plain(block("image", "norm1.*"), at("norm1.*"))
        .plain(block("image", "out_norm.*"), at("attn.norm.*"))
        .plain(block("image", "out.*"), at("attn.proj.*"))
        .plain(block("image", "scale1"), at("ls1.gamma"))
        .plain(block("image", "norm2.*"), at("norm2.*"))
        .plain(block("image", "gate.*"), at("mlp.fc1_g.*"))
        .plain(block("image", "fc1.*"), at(if has(GATE) { "mlp.fc1_x.*" } else { "mlp.fc1.*" }))
        .plain(block("image", "fc2_norm.*"), at("mlp.norm.*"))
        .plain(block("image", "fc2.*"), at("mlp.fc2.*"))
        .plain(block("image", "scale2"), at("ls2.gamma"))
}

/// The tensor that a trunk with a gated MLP has.
const GATE: &str = "blocks.0.mlp.fc1_g.weight";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_those_of_timm() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/data/trunks.json");
        let trunks: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(trunks.len() >= 90, "only {} trunks", trunks.len());
        for (name, theirs) in trunks {
            assert!(is_vit(&name), "{name}");
            let ours = facts(&name, theirs["width"].as_u64().unwrap() as usize);
            assert_eq!(Some(ours.heads as u64), theirs["heads"].as_u64(), "{name}: heads");
            if let Some(heads) = theirs["pool_heads"].as_u64() {
                assert_eq!(ours.pool_heads as u64, heads, "{name}: heads of the pooling");
            }
            // A gated MLP has SiLU whatever the name says; its tensors tell.
            let act = theirs["act"].as_str().unwrap();
            assert!(act == "silu" || ours.act.name() == act, "{name}: {act}");
            assert_eq!(Some(ours.eps), theirs["eps"].as_f64(), "{name}: epsilon");
            assert_eq!(Some(ours.norm_after), theirs["norm_after"].as_bool(), "{name}: norm");
            let rope = theirs["rope"].as_object().map(|rope| RopeSpec {
                reference: serde_json::from_value(rope["reference"].clone()).unwrap(),
                offset: rope["offset"].as_f64().unwrap() as f32,
                columns_first: rope["columns_first"].as_bool().unwrap(),
            });
            assert_eq!(ours.rope, rope, "{name}: rotary positions");
        }
    }
}
