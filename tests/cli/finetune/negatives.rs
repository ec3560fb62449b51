//! Negatives from beyond the batch, mined captions, and the bias of a sigmoid.

use super::{files, finetune, pairs, steps};
use crate::cli::{Sandbox, root};

#[test]
fn extra_negatives_go_on_exactly_after_an_end() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    // albef's queue and a queue of the run's, captions mined in every second epoch.
    let options = ["--loss", "negclip:1,albef:0.5,siglip:0.1", "--mine", "columns", "--mine-captions", "2"];
    let extra = ["--mine-every", "2", "--extra-negatives", "queue=9", "--mochi", "4,2,3", "--epochs", "4"];
    let args = [&options[..], &extra, &["--keep-checkpoints", "--output", "run"]].concat();
    let ran = finetune(&sandbox, &args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let config: serde_json::Value = serde_json::from_slice(&sandbox.read("run/finetune.json")).unwrap();
    assert_eq!(config["extra_negatives"], serde_json::json!({"queue": 9, "sample": 0}));
    assert_eq!((&config["mochi"], &config["mochi_after"]), (&serde_json::json!([4, 2, 3]), &serde_json::json!([1, 1])));
    let whole = files(&sandbox.path("run"));
    let state: serde_json::Value = serde_json::from_slice(&sandbox.read("run/state.json")).unwrap();
    let steps = state["step"].as_u64().unwrap() / 4;
    // As if it had been killed in the second epoch.
    let mut earlier = state.clone();
    (earlier["step"], earlier["done"], earlier["best"]) = (steps.into(), false.into(), serde_json::Value::Null);
    sandbox.write("run/state.json", earlier.to_string());
    for step in [2 * steps, 3 * steps, 4 * steps] {
        std::fs::remove_dir_all(sandbox.path(format!("run/checkpoints/step-{step:08}"))).unwrap();
    }
    // The same command line goes on.
    let again: Vec<_> = args.iter().copied().chain(["--resume"]).collect();
    let ran = finetune(&sandbox, &again);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let again = files(&sandbox.path("run"));
    let kept: Vec<&String> = whole.keys().filter(|name| name.starts_with("checkpoints/")).collect();
    assert!(kept.len() >= 12, "{kept:?}");
    let differ: Vec<_> = kept.into_iter().filter(|name| again.get(*name) != whole.get(*name)).collect();
    assert!(differ.is_empty(), "{differ:?} differ");
    // What it was begun with, it goes on with.
    let ran = sandbox.run(&["finetune", "--resume", "--output", "run", "--extra-negatives", "queue=8"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("the run was begun with extra-negatives"), "{}", ran.stderr);
}

#[test]
fn mined_captions_are_no_captions_of_the_image() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    // A dry run takes a step without mining anything.
    let columns = ["--loss", "negclip", "--mine", "columns"];
    let ran = finetune(&sandbox, &[&columns[..], &["--dry-run"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // All of one class: nobody is anybody's negative, and the loss is that of clip.
    let table = std::fs::read_to_string(sandbox.path("pairs.tsv")).unwrap();
    let grouped: Vec<String> = table
        .lines()
        .enumerate()
        .map(|(n, line)| format!("{line}\t{}", if n == 0 { "group".to_owned() } else { "one".to_owned() }))
        .collect();
    sandbox.write("pairs.tsv", grouped.join("\n") + "\n");
    let losses = ["clip", "negclip"].map(|loss| {
        let mine: &[&str] = if loss == "clip" { &[] } else { &["--mine", "columns"] };
        let args = [&["--loss", loss, "--epochs", "1", "--duplicates", "off", "--output", loss], mine].concat();
        let ran = finetune(&sandbox, &args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        steps(&sandbox.path(loss))
    });
    assert!(losses[0].iter().zip(&losses[1]).all(|(a, b)| (a.1 - b.1).abs() <= 1e-4 * a.1.abs()), "{losses:?}");
    // Without the class there are negatives, and more to be apart from.
    sandbox.write("pairs.tsv", table);
    let losses = ["clip", "negclip"].map(|loss| {
        let mine: &[&str] = if loss == "clip" { &[] } else { &["--mine", "columns", "--mine-captions", "2"] };
        let output = format!("{loss}-free");
        let ran = finetune(&sandbox, &[&["--loss", loss, "--epochs", "1", "--output", &output], mine].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        steps(&sandbox.path(&output))[0].1
    });
    assert!(losses[1] > losses[0] + 1e-3, "{losses:?}");
}

#[test]
fn the_bias_of_siglip_is_saved_where_there_is_a_place_for_it() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let golden = |name: &str| root().join("tests/golden/data").join(name).display().to_string();
    let run = |model: &str, output: &str, more: &[&str]| {
        let model = golden(model);
        let args = [&["--loss", "siglip", "--epochs", "1", "--model", &model, "--output", output], more].concat();
        let ran = finetune(&sandbox, &args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stderr
    };
    let bias = |path: &str| {
        let tensors = candle_core::safetensors::load(sandbox.path(path), &candle_core::Device::Cpu).unwrap();
        tensors.get("logit_bias").map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0])
    };
    // open_clip's layout has a place, and its own library must be told of it.
    assert!(run("open_clip-vit", "open", &[]).contains("gets the bias of siglip"));
    let found = bias("open/open_clip_model.safetensors").unwrap();
    assert!((found + 4f32.ln()).abs() < 0.1 && found != -4f32.ln(), "{found}");
    let config: serde_json::Value = serde_json::from_slice(&sandbox.read("open/open_clip_config.json")).unwrap();
    assert!(config["model_cfg"]["init_logit_bias"].is_number(), "{config}");
    let ran = sandbox.run(&["zeroshot", "--model", "open", "--labels", "red,blue", "pictures/1.ppm"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // It is trained on as any model with a bias is, and resumed.
    let ran = finetune(&sandbox, &["--model", "open", "--loss", "siglip", "--epochs", "1", "--output", "again"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_ne!(bias("again/open_clip_model.safetensors"), Some(found));
    // A model that has one keeps its name for it.
    run("hf-siglip", "siglip", &[]);
    assert!(bias("siglip/model.safetensors").is_some());
    // transformers' CLIP has none.
    let said = run("hf-clip-gelu", "clip", &[]);
    assert!(said.contains("there is no place for it"), "{said}");
    assert!(bias("clip/model.safetensors").is_none());
    let config: serde_json::Value = serde_json::from_slice(&sandbox.read("clip/finetune.json")).unwrap();
    assert_eq!(config["bias"], "run");
}

#[test]
fn negatives_that_make_no_sense_are_refused() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 8);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--mine", "columns", "--output", "x"], 2, "--mine columns goes with --loss negclip or degla"),
        (&["--loss", "siglip", "--extra-negatives", "queue=8", "--output", "x"], 2, "takes no negatives from beyond"),
        (&["--loss", "albef", "--mochi", "4,2,2", "--output", "x"], 2, "--mochi goes with clip"),
        (&["--mochi", "4,2,2", "--mochi-after", "0,9999", "--output", "x"], 2, "mixing would begin after 9999 steps"),
        (&["--mochi", "4,0,0", "--output", "x"], 2, "not all mixes can be 0"),
        (&["--mochi-after", "4,0", "--output", "x"], 2, "--mochi"),
        (&["--extra-negatives", "queue=0", "--output", "x"], 2, "expected queue=N"),
        (&["--extra-negatives", "queue=8,queue=9", "--output", "x"], 2, "expected queue=N"),
    ];
    for (args, code, message) in cases {
        let ran = finetune(&sandbox, args);
        assert_eq!(ran.code, Some(*code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
        assert!(!sandbox.path("x").exists(), "{args:?} left something behind");
    }
}
