//! Training at another input size: the run is a model of that size.

use super::{finetune, pairs};
use crate::cli::{Sandbox, root};
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::collections::HashMap;

fn golden(name: &str) -> String {
    root().join("tests/golden/data").join(name).display().to_string()
}

fn run(sandbox: &Sandbox, args: &[&str]) -> String {
    let ran = finetune(sandbox, &[args, &["--epochs", "1"]].concat());
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
    ran.stderr
}

fn embedding(sandbox: &Sandbox, args: &[&str]) -> Value {
    let ran = sandbox.run(&[&["embed", "pictures/1.ppm"], args].concat());
    assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
    let line: Value = serde_json::from_slice(&ran.stdout).unwrap();
    line["embedding"].clone()
}

fn tensors(path: std::path::PathBuf) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

#[test]
fn a_run_says_its_own_input_size() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let models = [
        ("hf-clip-quickgelu", "48"),
        ("open_clip-vit", "32"),
        ("hf-siglip", "64"),
        ("open_clip-siglip", "64"),
        ("custom-text-dinov2", "56"),
        ("custom-text-effnet", "64"),
        ("hf-align", "64"),
        ("builtin", "64"),
    ];
    for (name, side) in models {
        let model = if name == "builtin" { name.to_owned() } else { golden(name) };
        let own = ["--model", &model, "--image-size", side];
        let run_name = &format!("run-{name}");
        run(&sandbox, &[&own[..], &["--train", "text", "--output", run_name]].concat());
        // The image tower is as it was: at that size, and without its being named again.
        assert_eq!(embedding(&sandbox, &["--model", run_name]), embedding(&sandbox, &own), "{name}");
        let info = sandbox.run(&["models", "info", run_name]);
        assert_eq!(info.code, Some(0), "{name}: {}", info.stderr);
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        let side: u64 = side.parse().unwrap();
        assert_eq!(info["files"]["image_size"], serde_json::json!([side, side]), "{name}");
    }
    // What open_clip builds by timm's names alone must be told.
    let said = run(
        &sandbox,
        &["--model", &golden("open_clip-siglip"), "--image-size", "32", "--train", "text", "--output", "told"],
    );
    assert!(said.contains("force_image_size=32"), "{said}");
}

#[test]
fn positions_are_trained_at_another_size_and_saved_at_it() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let (model, table) = (golden("hf-clip-quickgelu"), "vision_model.embeddings.position_embedding.weight");
    let args = ["--model", &model, "--image-size", "48", "--ema-decay", "0.5"];
    run(&sandbox, &[&args[..], &["--train", "text", "--output", "still"]].concat());
    run(&sandbox, &[&args[..], &["--train", "all", "--output", "moved"]].concat());
    let table = |run: &str| tensors(sandbox.path(run).join("model.safetensors"))[table].to_vec2::<f32>().unwrap();
    let (still, moved) = (table("still"), table("moved"));
    assert_eq!((still.len(), moved.len()), (37, 37));
    // Of all places, not of the class token's alone.
    assert!(still.iter().zip(&moved).all(|(a, b)| a != b));
    // The moving average is one of that size, too.
    let ran = sandbox.run(&["merge", "--ema", "moved", "--output", "average"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(table("average"), moved);
    let shown = |run: &str| embedding(&sandbox, &["--model", run]);
    assert_eq!(shown("average"), shown("moved"));
    // It goes on from where it is, as a model of that size.
    run(&sandbox, &["--model", "moved", "--output", "again"]);
    assert_eq!(table("again").len(), 37);
}
