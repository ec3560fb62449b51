//! Low-rank changes that training goes on with.

use super::{finetune, pairs, same_files, steps};
use crate::cli::{Sandbox, tiny};
use std::path::Path;

fn factors(run: &Path) -> Vec<(String, Vec<f32>)> {
    let path = run.join("adapter/adapter_model.safetensors");
    let all = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let numbers = |x: &candle_core::Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let mut all: Vec<_> = all.iter().map(|(name, x)| (name.clone(), numbers(x))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn training_goes_on_with_low_rank_changes() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let lora = ["--train", "lora", "--epochs", "1"];
    let first = "--lora-rank 2 --lora-alpha 6 --lora-targets q,v --lr 1e-2 --output first";
    let with = |more: &[&'static str]| [&lora[..], more].concat();
    finetune(&sandbox, &with(&first.split(' ').collect::<Vec<_>>())).code(0);
    // A rate of zero leaves them as they are.
    finetune(&sandbox, &with(&["--init-lora", "first", "--lr", "0", "--output", "same"])).code(0);
    assert_eq!(factors(&sandbox.path("first")), factors(&sandbox.path("same")));
    let embed = |run: &str| sandbox.run(&["embed", "--model", run, "pictures/3.ppm"]).ok();
    assert_eq!(embed("first").split("model").next(), embed("same").split("model").next());
    // In PEFT's folder itself, and with dropout.
    let more = ["--init-lora", "first/adapter", "--lora-dropout", "0.1", "--save-every", "1", "--output", "second"];
    finetune(&sandbox, &with(&more)).code(0);
    let config = std::fs::read_to_string(sandbox.path("second/adapter/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!((config["r"].as_f64(), config["lora_alpha"].as_f64()), (Some(2.0), Some(6.0)));
    assert_ne!(factors(&sandbox.path("first")), factors(&sandbox.path("second")));
    assert_eq!(steps(&sandbox.path("second")).len(), 3);
    // The same again.
    let again = [&more[..7], &["third"]].concat();
    finetune(&sandbox, &with(&again)).code(0);
    same_files(&sandbox.path("second"), &sandbox.path("third"));
    let refused = |args: &[&'static str], code, message: &str| {
        let said = finetune(&sandbox, args).fails(code);
        assert!(said.contains(message), "{said}");
    };
    refused(&["--init-lora", "first", "--output", "x"], 2, "--init-lora goes with --train lora");
    refused(&with(&["--init-lora", "pictures", "--output", "x"]), 3, "there is no adapter here");
    refused(&with(&["--init-lora", "first", "--lora-rank", "4", "--output", "x"]), 2, "cannot be used with");
    // Changed since.
    let (from, to) = (sandbox.path("second/adapter"), sandbox.path("first/adapter"));
    std::fs::copy(from.join("adapter_model.safetensors"), to.join("adapter_model.safetensors")).unwrap();
    let said = sandbox.run(&["finetune", "--resume", "--output", "same", "--model", tiny().to_str().unwrap()]).fails(3);
    assert!(said.contains("the low-rank changes are not those that the run began with"), "{said}");
}
