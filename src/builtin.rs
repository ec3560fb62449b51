//! The small model in the binary; `models/builtin/README.md` says what it is made of.

/// The weights, as safetensors.
pub const WEIGHTS: &[u8] = include_bytes!("../models/builtin/model.safetensors");

/// The tokenizer, as `tokenizer.json`.
pub const TOKENIZER: &[u8] = include_bytes!("../models/builtin/text/tokenizer.json");

/// The configuration file of this name.
pub fn file(name: &str) -> Option<&'static [u8]> {
    Some(match name {
        "open_clip_config.json" => include_bytes!("../models/builtin/open_clip_config.json"),
        "text/config.json" => include_bytes!("../models/builtin/text/config.json"),
        _ => return None,
    })
}
