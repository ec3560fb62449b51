//! `finetune`, on tiny checkpoints and pictures of one colour.

mod bad_data;
mod image_size;
mod lora;
mod negatives;
#[cfg(unix)]
mod resume;

use super::{Ran, Sandbox, root, tiny};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Pictures with a gradient in their own colours, and a table with two captions each.
fn pairs(sandbox: &Sandbox, count: usize) -> PathBuf {
    std::fs::create_dir_all(sandbox.path("pictures")).unwrap();
    let mut table = String::from("filepath\ttitle\n");
    for n in 0..count {
        let mut bytes = b"P6\n40 36\n255\n".to_vec();
        for at in 0..40 * 36 {
            bytes.extend([(n * 37 % 256) as u8, (at % 40 * 6) as u8, (n * 91 % 256) as u8]);
        }
        sandbox.write(format!("pictures/{n}.ppm"), bytes);
        let colour = ["red", "green", "blue", "grey"][n % 4];
        table += &format!("pictures/{n}.ppm\ta {colour} picture of number {n}\n");
        table += &format!("pictures/{n}.ppm\tnumber {n} in {colour}\n");
    }
    sandbox.write("pairs.tsv", table)
}

/// Runs `finetune` with a tiny checkpoint, on one thread of decoding.
fn finetune(sandbox: &Sandbox, args: &[&str]) -> Ran {
    let mut all = vec!["finetune", "--train-data", "pairs.tsv", "--no-retention"];
    for (option, value) in [("--batch-size", "4"), ("--lr", "1e-3"), ("--train", "all")] {
        if !args.contains(&option) {
            all.extend([option, value]);
        }
    }
    let tiny = tiny();
    if !args.contains(&"--model") {
        all.extend(["--model", tiny.to_str().unwrap()]);
    }
    all.extend(args);
    sandbox.run(&all)
}

/// The files of the checkpoints of a run, and its model.
fn files(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.path().strip_prefix(run).unwrap().display().to_string();
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if name.ends_with(".safetensors") || name == "state.json" {
                files.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

#[track_caller]
fn same_files(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let differ: Vec<&String> = a.iter().filter(|(name, bytes)| b[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(differ.is_empty(), "{differ:?} differ");
}

/// The steps in a run's metrics that have a loss.
fn steps(run: &Path) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?))).collect()
}

#[test]
fn a_run_is_a_model_and_learns() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let ran = finetune(&sandbox, &["--epochs", "6", "--output", "run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let losses = steps(&sandbox.path("run"));
    assert_eq!(losses.len(), 6 * 3, "{}", ran.stderr);
    assert_eq!(losses.iter().map(|(step, _)| *step).collect::<Vec<_>>(), (1..=18).collect::<Vec<_>>());
    assert!(losses[15..].iter().map(|x| x.1).sum::<f64>() < losses[..3].iter().map(|x| x.1).sum::<f64>());
    assert!(sandbox.path("run/curve.html").is_file() && sandbox.path("run/events.out.tfevents.0.clip-cli").is_file());
    let before = sandbox.run(&["embed", "--model", tiny().to_str().unwrap(), "pictures/3.ppm"]);
    let after = sandbox.run(&["embed", "--model", "run", "pictures/3.ppm"]);
    assert_eq!(after.code, Some(0), "{}", after.stderr);
    assert_ne!(before.stdout, after.stdout);
    // It goes on from there as any model does.
    let ran = finetune(&sandbox, &["--model", "run", "--epochs", "1", "--output", "again"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn the_micro_batch_changes_nothing_but_rounding() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let others: &[&[&str]] = &[
        &["--micro-batch", "8"],
        &["--micro-batch", "3"],
        &["--micro-batch", "8", "--grad-checkpointing"],
        &["--batch-size", "2", "--accum-freq", "4"],
    ];
    let mut found = Vec::new();
    for (n, other) in others.iter().enumerate() {
        let output = format!("run{n}");
        let size: &[&str] = if other.contains(&"--accum-freq") { &[] } else { &["--batch-size", "8"] };
        let mut args = vec!["finetune", "--train-data", "pairs.tsv", "--no-retention", "--opt", "sgd", "--beta1", "0"];
        let tiny = tiny();
        args.extend([
            "--train",
            "all",
            "--model",
            tiny.to_str().unwrap(),
            "--lr",
            "0.01",
            "--epochs",
            "1",
            "--warmup",
            "0",
        ]);
        args.extend(["--grad-clip-norm", "0", "--output", &output]);
        args.extend(size);
        args.extend(*other);
        let ran = sandbox.run(&args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        found.push(steps(&sandbox.path(&output)));
    }
    for other in &found[1..] {
        assert_eq!(other.len(), found[0].len());
        for ((_, a), (_, b)) in found[0].iter().zip(other) {
            assert!((a - b).abs() <= 1e-5 * a.abs(), "{found:?}");
        }
    }
}

#[test]
fn results_do_not_depend_on_workers_and_threads() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let aug = ["--aug-cfg", "scale=0.5,1.0", "color_jitter=0.4,0.4,0.4,0.1", "--epochs", "1"];
    for (name, threads, workers) in [("a", "1", "1"), ("b", "2", "3")] {
        let mut args = aug.to_vec();
        args.extend(["--threads", threads, "--workers", workers, "--output", name]);
        let ran = finetune(&sandbox, &args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    same_files(&sandbox.path("a"), &sandbox.path("b"));
}

#[test]
fn parts_of_a_model_are_trained_and_the_rest_stays() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let start = candle_core::safetensors::load(tiny().join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    type Case = (&'static [&'static str], fn(&str) -> bool);
    let cases: &[Case] = &[
        (&["--train", "image"], |name| !name.starts_with("text")),
        (&["--train", "text"], |name| !name.starts_with("vis")),
        (&["--train", "layernorm"], |name| name.contains("norm")),
        (&["--train", "bias"], |name| name.ends_with("bias")),
        (&["--train", "projections"], |name| name.contains("projection") || name == "logit_scale"),
        (&["--train", "all", "--lock-image"], |name| !name.starts_with("vis")),
        (&["--train", "all", "--lock-image", "--lock-image-unlocked-groups", "1", "--lock-text"], |name| {
            name == "visual_projection.weight" || name == "logit_scale"
        }),
        (&["--train", "lora", "--lora-rank", "2"], |name| name.contains("self_attn") && name.ends_with("weight")),
    ];
    for (n, (args, may_change)) in cases.iter().enumerate() {
        let output = format!("run{n}");
        let ran = finetune(&sandbox, &[*args, &["--epochs", "1", "--output", &output]].concat());
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        let path = sandbox.path(&output).join("model.safetensors");
        let now = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        let mut changed = 0;
        for (name, before) in &start {
            if before.dtype() != candle_core::DType::F32 {
                continue;
            }
            let numbers = |x: &candle_core::Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            if numbers(before) != numbers(&now[name]) {
                changed += 1;
                assert!(may_change(name), "{args:?} changed {name}");
            }
        }
        assert!(changed > 0, "{args:?} changed nothing");
    }
}

#[test]
fn losses_are_listed() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["finetune", "--list-losses"]);
    assert_eq!(ran.code, Some(0));
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.lines().any(|line| line.contains("\"name\":\"clip\"") && line.contains("2103.00020")));
}

#[test]
fn a_dry_run_writes_nothing() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let ran = finetune(&sandbox, &["--dry-run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let shown: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(shown["samples"].as_array().unwrap().len(), 3);
    assert!(shown["peak_memory_bytes"].as_u64().unwrap() > 1_000_000 && shown["steps"] == 15);
    assert!(root().is_dir() && !sandbox.path("run").exists());
}
