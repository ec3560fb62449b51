//! Kinds of models that people may take for CLIP and that are none of our families: why each is not read.

use super::{Config, Section};

/// Why a kind of model is not read.
struct Reason {
    /// The kinds, by transformers' `model_type`.
    kinds: &'static [&'static str],
    /// What is the matter with them.
    why: &'static str,
}

const REASONS: &[Reason] = &[
    Reason {
        kinds: &[
            "blip",
            "blip-2",
            "blip_2",
            "instructblip",
            "albef",
            "bridgetower",
            "vilt",
            "flava",
            "vilbert",
            "lxmert",
        ],
        why: "it reads an image and a text together, so that neither has an embedding of its own to compare",
    },
    Reason {
        kinds: &["clap", "clvp", "pe_audio", "pe_audio_video", "wav2vec2", "whisper"],
        why: "it embeds sound, which is not supported",
    },
    Reason { kinds: &["xclip", "pe_video", "videomae", "vivit"], why: "it embeds videos, which are not supported" },
    Reason {
        kinds: &["clipseg", "groupvit", "owlvit", "owlv2", "grounding-dino", "sam", "sam3", "detr"],
        why: "it finds regions of an image, while this program embeds whole images",
    },
    Reason {
        kinds: &[
            "gemma",
            "gemma3",
            "git",
            "gpt2",
            "idefics2",
            "idefics3",
            "internvl",
            "kosmos-2",
            "llama",
            "llava",
            "llava_next",
            "mistral",
            "mllama",
            "paligemma",
            "pix2struct",
            "qwen2",
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen3",
            "qwen3_vl",
            "smolvlm",
            "florence2",
            "vision-encoder-decoder",
        ],
        why: "it writes text; it has no pair of towers that embed",
    },
    Reason {
        kinds: &["colpali", "colqwen2", "colmodernvbert"],
        why: "it compares many vectors an item, while this program makes one",
    },
    Reason {
        kinds: &[
            "clip_vision_model",
            "siglip_vision_model",
            "chinese_clip_vision_model",
            "beit",
            "convnext",
            "deit",
            "dinov2",
            "dinov2_with_registers",
            "dinov3_vit",
            "resnet",
            "swin",
            "vit",
            "timm_wrapper",
        ],
        why: "it is an image tower alone, without a text tower",
    },
    Reason {
        kinds: &[
            "clip_text_model",
            "siglip_text_model",
            "bert",
            "distilbert",
            "mpnet",
            "nomic_bert",
            "roberta",
            "t5",
            "mt5",
            "xlm-roberta",
            "modernbert",
        ],
        why: "it is a text tower alone, without an image tower",
    },
    Reason {
        kinds: &["vision-text-dual-encoder"],
        why: "its two towers may be of any kind; convert it to open_clip's layout",
    },
    Reason { kinds: &["imagebind", "languagebind"], why: "it embeds six kinds of data with towers of its own" },
    Reason { kinds: &["aimv2", "jina_clip", "tipsv2"], why: "its towers are not built here" },
];

/// Why there is no family for a checkpoint, as far as its configuration tells.
pub(super) fn explain(config: &Config) -> String {
    if let Some(open_clip) = &config.open_clip {
        return format!("its open_clip_config.json describes {}", towers(open_clip));
    }
    let Some(hf) = &config.hf else {
        return "there is no config.json and no open_clip_config.json beside the weights".to_owned();
    };
    match hf.get("model_type").and_then(|kind| kind.as_str()) {
        None => "its config.json has no model_type".to_owned(),
        Some(kind) => match REASONS.iter().find(|reason| reason.kinds.contains(&kind)) {
            Some(reason) => format!("its config.json has model_type {kind:?}: {}", reason.why),
            None => format!("its config.json has model_type {kind:?}"),
        },
    }
}

/// What open_clip's configuration says of the two towers.
fn towers(open_clip: &serde_json::Value) -> String {
    let model = Section::root("open_clip_config.json", Some(open_clip)).sub("model_cfg");
    let (vision, text) = (model.sub("vision_cfg"), model.sub("text_cfg"));
    let name = |section: &Section<'_>, key: &str| section.string(key).ok().flatten().map(str::to_owned);
    let image = match (name(&vision, "timm_model_name"), vision.raw("layers")) {
        (Some(trunk), _) => format!("the image trunk {trunk:?} of timm"),
        (None, Some(serde_json::Value::Array(_))) => "a ResNet as its image tower".to_owned(),
        (None, _) if model.has("audio_cfg") => "a tower for sound".to_owned(),
        (None, _) if model.has("vision_cfg") => "open_clip's own vision transformer".to_owned(),
        (None, _) => "no image tower".to_owned(),
    };
    let text = match name(&text, "hf_model_name") {
        Some(model) => format!("the text tower {model:?}"),
        None => "open_clip's own text transformer".to_owned(),
    };
    format!("{image} with {text}, a pair that is not supported")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_has_one_reason() {
        let mut kinds: Vec<&str> = REASONS.iter().flat_map(|reason| reason.kinds).copied().collect();
        kinds.sort_unstable();
        assert!(kinds.windows(2).all(|pair| pair[0] != pair[1]), "{kinds:?}");
    }

    #[test]
    fn no_family_reads_what_has_a_reason_against_it() {
        for kind in REASONS.iter().flat_map(|reason| reason.kinds) {
            let config = Config { hf: Some(json!({ "model_type": kind })), ..Config::default() };
            assert!(super::super::detect(&config).is_err(), "{kind}");
        }
    }

    #[test]
    fn towers_are_named() {
        let explain = |model: serde_json::Value| {
            explain(&Config { open_clip: Some(json!({ "model_cfg": model })), ..Config::default() })
        };
        let said = explain(json!({"vision_cfg": {"timm_model_name": "swin_base"}, "text_cfg": {}}));
        assert!(said.contains("\"swin_base\"") && said.contains("own text transformer"), "{said}");
        let said = explain(json!({"vision_cfg": {"layers": [3, 4, 6, 3]}, "text_cfg": {"hf_model_name": "mt5"}}));
        assert!(said.contains("ResNet") && said.contains("\"mt5\""), "{said}");
        assert!(explain(json!({"audio_cfg": {}})).contains("sound"));
    }
}
