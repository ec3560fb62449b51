//! Checkpoints that lie: the message says what and where, and nothing crashes.

use super::{Sandbox, tiny};
use serde_json::{Value, json};

/// A copy of a tiny checkpoint, with its configuration or its weights changed.
struct Broken {
    sandbox: Sandbox,
    weights: Vec<u8>,
}

impl Broken {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        for entry in std::fs::read_dir(tiny()).unwrap() {
            let entry = entry.unwrap();
            std::fs::create_dir_all(sandbox.path("model")).unwrap();
            std::fs::copy(entry.path(), sandbox.path("model").join(entry.file_name())).unwrap();
        }
        let weights = std::fs::read(sandbox.path("model/model.safetensors")).unwrap();
        Self { sandbox, weights }
    }

    /// What `embed` says about it; it must refuse with exit code 3.
    #[track_caller]
    fn refusal(&self) -> String {
        let args = ["embed", "-q", "--model", "model", "photos/landscape.jpg", "--text", "a cat"];
        // Towers load when they are needed, so the image's record may stand before a text tower is refused.
        self.sandbox.run(&args).code(3).stderr
    }

    #[track_caller]
    fn with_config(&self, pointer: &str, value: Value) -> String {
        let original = std::fs::read(tiny().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&original).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        self.sandbox.write("model/config.json", config.to_string());
        let refusal = self.refusal();
        self.sandbox.write("model/config.json", original);
        refusal
    }

    /// The weights with another header before the same data.
    #[track_caller]
    fn with_header(&self, change: impl FnOnce(&mut Value)) -> String {
        let length = u64::from_le_bytes(self.weights[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&self.weights[8..8 + length]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(&self.weights[8 + length..]);
        self.with_weights(&bytes)
    }

    #[track_caller]
    fn with_weights(&self, bytes: &[u8]) -> String {
        self.sandbox.write("model/model.safetensors", bytes);
        let refusal = self.refusal();
        self.sandbox.write("model/model.safetensors", &self.weights);
        refusal
    }
}

#[test]
fn sizes_that_no_tower_has() {
    let broken = Broken::new();
    for (pointer, value) in [
        ("/vision_config/num_attention_heads", json!(7)),
        ("/vision_config/num_attention_heads", json!(0)),
        ("/vision_config/patch_size", json!(0)),
        ("/vision_config/image_size", json!(1u64 << 40)),
        ("/text_config/hidden_size", json!(0)),
        ("/text_config/num_hidden_layers", json!(1u64 << 50)),
        ("/text_config/vocab_size", json!(1u64 << 40)),
        ("/text_config/vocab_size", json!(4_000_000)),
        ("/projection_dim", json!(0)),
        ("/projection_dim", json!("many")),
        ("/text_config/hidden_act", json!("sine")),
        ("/model_type", json!("blip")),
    ] {
        let refusal = broken.with_config(pointer, value.clone());
        assert!(refusal.starts_with("error: "), "{pointer} = {value}: {refusal}");
        assert!(!refusal.contains("panicked"), "{pointer} = {value}: {refusal}");
    }
}

#[test]
fn every_tensor_is_accounted_for() {
    let broken = Broken::new();
    let refusal = broken.with_config("/vision_config/intermediate_size", json!(161));
    assert!(refusal.contains("`vision_model.encoder.layers.0.mlp.fc1.weight` has shape [160, 64]"), "{refusal}");
    assert!(refusal.contains("asks for [161, 64]"), "{refusal}");
    let refusal = broken.with_config("/vision_config/num_hidden_layers", json!(3));
    assert!(refusal.contains("missing tensor `vision_model.encoder.layers.2.layer_norm1.weight` [64]"), "{refusal}");
    let refusal = broken.with_config("/vision_config/num_hidden_layers", json!(1));
    assert!(refusal.contains("unexpected tensor `vision_model.encoder.layers.1."), "{refusal}");
    let refusal = broken.with_header(|header| {
        let tensor = header.as_object_mut().unwrap().remove("visual_projection.weight").unwrap();
        header["visual_projektion.weight"] = tensor;
    });
    assert!(refusal.contains("missing tensor `visual_projection.weight` [40, 64]"), "{refusal}");
    assert!(refusal.contains("unexpected tensor `visual_projektion.weight` [40, 64]"), "{refusal}");
}

#[test]
fn weights_with_lying_headers() {
    let broken = Broken::new();
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let refusals = [
        broken.with_weights(&huge),
        broken.with_weights(&[]),
        broken.with_weights(b"{\"not\": \"safetensors\"}"),
        broken.with_weights(&broken.weights[..broken.weights.len() - 100]),
        broken.with_header(|header| header["visual_projection.weight"]["shape"] = json!([1u64 << 62, 4])),
        broken.with_header(|header| header["visual_projection.weight"]["data_offsets"] = json!([0, 1u64 << 60])),
        broken.with_header(|header| header["visual_projection.weight"]["data_offsets"] = json!([8, 4])),
        broken.with_header(|header| header["visual_projection.weight"]["dtype"] = json!("F1")),
    ];
    for refusal in refusals {
        assert!(refusal.starts_with("error: ") && refusal.contains("model.safetensors"), "{refusal}");
    }
}
