//! The configuration of a checkpoint that keeps its layout: its own files, changed where sizes or kinds changed.

use super::{Options, Source, dtype_name};
use crate::card::Layout;
use crate::model::family::siglip_trunks;
use serde_json::{Value, json};

/// The configuration files by name, and what they cannot say.
pub(super) fn configuration(source: &Source, options: &Options) -> (Vec<(&'static str, Value)>, Vec<String>) {
    let mut files = Vec::new();
    let mut differences = Vec::new();
    let old = source.plan.spec.preprocess.size[0];
    let resized = |name: &str, config: &mut Value| resize(name, config, old, options.image_size?);
    match source.layout {
        Layout::Transformers => {
            if let Some(mut config) = source.config.hf.clone() {
                if let Some(dtype) = options.dtype {
                    // Newer versions call it `dtype`, and all read the old name.
                    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
                    config[key] = dtype_name(dtype).into();
                }
                resized("config.json", &mut config);
                files.push(("config.json", config));
            }
            if let Some(mut processor) = source.config.preprocessor.clone() {
                let name = if source.directory.join("preprocessor_config.json").is_file() {
                    "preprocessor_config.json"
                } else {
                    "processor_config.json"
                };
                resized(name, &mut processor);
                files.push((name, processor));
            }
        }
        Layout::OpenClip => {
            if let Some(mut config) = source.config.open_clip.clone() {
                differences.extend(resized("open_clip_config.json", &mut config));
                files.push(("open_clip_config.json", config));
            }
        }
    }
    (files, differences)
}

/// Writes another input size, in place of `old`, into the configuration file of this name; gives what it cannot say.
pub(crate) fn resize(name: &str, config: &mut Value, old: usize, side: usize) -> Option<String> {
    match name {
        "config.json" => {
            for part in ["vision_config", "vision_config_dict"] {
                if config.get(part).is_some_and(Value::is_object) {
                    config[part]["image_size"] = side.into();
                }
            }
        }
        "preprocessor_config.json" | "processor_config.json" => {
            let nested = config.get("image_processor").is_some();
            resize_processor(if nested { &mut config["image_processor"] } else { config }, old.max(1), side);
        }
        "open_clip_config.json" => return resize_open_clip(config, side),
        _ => {}
    }
    None
}

/// Another input size in `preprocessor_config.json`; a crop keeps its share of the resized edge.
fn resize_processor(processor: &mut Value, old: usize, side: usize) {
    let both = json!({ "height": side, "width": side });
    match processor.get_mut("size") {
        Some(size @ Value::Number(_)) => *size = (size.as_u64().unwrap_or_default() as usize * side / old).into(),
        Some(size) if size.get("shortest_edge").is_some() => {
            let edge = size["shortest_edge"].as_u64().unwrap_or_default() as usize;
            size["shortest_edge"] = (edge * side / old).into();
        }
        Some(size) => {
            for key in ["height", "width"] {
                let own = size.get(key).and_then(Value::as_u64).map_or(side, |own| own as usize * side / old);
                size[key] = own.into();
            }
        }
        None => {}
    }
    if let Some(crop) = processor.get_mut("crop_size") {
        *crop = if crop.is_number() { side.into() } else { both };
    }
}

/// Another input size in `open_clip_config.json`.
fn resize_open_clip(config: &mut Value, side: usize) -> Option<String> {
    if config.pointer("/preprocess_cfg/size").is_some() {
        config["preprocess_cfg"]["size"] = json!([side, side]);
    }
    let vision = config.pointer_mut("/model_cfg/vision_cfg")?;
    vision["image_size"] = side.into();
    let name = vision.get("timm_model_name")?.as_str()?.to_owned();
    // timm's names carry the size, and open_clip builds what the name says.
    let (stem, _) = name.rsplit_once('_').filter(|_| name.contains("_siglip_"))?;
    let resized = format!("{stem}_{side}");
    match siglip_trunks::find(&resized) {
        Some((_, tanh)) if Some(tanh) == siglip_trunks::find(&name).map(|(_, tanh)| tanh) => {
            vision["timm_model_name"] = resized.into();
            None
        }
        _ => Some(format!(
            "open_clip builds {name} for its own input size: give its create_model `force_image_size={side}` to open this \
             checkpoint"
        )),
    }
}
