//! `finetune`, on tiny checkpoints and pictures of one colour.

use super::{Ran, Sandbox, root, tiny};
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

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

/// Starts a run that may be killed.
#[cfg(unix)]
fn start(sandbox: &Sandbox, args: &[&str]) -> Child {
    let mut command = sandbox.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn a_run_that_is_killed_goes_on_to_the_same_bytes() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let tiny = tiny();
    let options = [
        "--train",
        "all",
        "--lr",
        "1e-3",
        "--batch-size",
        "4",
        "--epochs",
        "4",
        "--save-every",
        "1",
        "--ema-decay",
        "0.9",
    ];
    let more = ["--text-negatives", "swap,replace", "--loss", "negclip", "--mine", "hard", "--no-retention"];
    let extra = ["--extra-negatives", "queue=7,sample=2", "--mochi", "4,2,3", "--mochi-after", "2,5"];
    let whole = |output: &'static str| {
        let mut args = vec!["finetune", "--train-data", "pairs.tsv", "--model", tiny.to_str().unwrap()];
        args.extend(options.iter().chain(&more).chain(&extra));
        args.extend(["--output", output]);
        args
    };
    let ran = sandbox.run(&whole("whole"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut child = start(&sandbox, &whole("killed"));
    let mut kills = 0;
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(rng.random_range(30..700)));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        // Not before there is anything to go on with.
        if kills < 10 && sandbox.path("killed/finetune.json").is_file() {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            child =
                start(&sandbox, &["finetune", "--resume", "--output", "killed", "--no-retention", "--save-every", "1"]);
        }
    }
    child.wait().unwrap();
    let ran = sandbox.run(&["finetune", "--resume", "--output", "killed", "--no-retention", "--save-every", "1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(kills > 0);
    same_files(&sandbox.path("whole"), &sandbox.path("killed"));
    let values = |run| steps(&sandbox.path(run));
    assert_eq!(values("whole"), values("killed"));
}

#[test]
fn extra_negatives_go_on_exactly_after_an_end() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    // albef's queue and a queue of the run's, captions mined in every second epoch.
    let options = ["--loss", "negclip:1,albef:0.5,siglip:0.1", "--mine", "columns", "--mine-captions", "2"];
    let extra = ["--mine-every", "2", "--extra-negatives", "queue=9", "--mochi", "4,2,3", "--epochs", "3"];
    let args = [&options[..], &extra, &["--keep-checkpoints", "--output", "run"]].concat();
    let ran = finetune(&sandbox, &args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let config: serde_json::Value = serde_json::from_slice(&sandbox.read("run/finetune.json")).unwrap();
    assert_eq!(config["extra_negatives"], serde_json::json!({"queue": 9, "sample": 0}));
    assert_eq!((&config["mochi"], &config["mochi_after"]), (&serde_json::json!([4, 2, 3]), &serde_json::json!([1, 1])));
    let whole = files(&sandbox.path("run"));
    let state: serde_json::Value = serde_json::from_slice(&sandbox.read("run/state.json")).unwrap();
    let steps = state["step"].as_u64().unwrap() / 3;
    // As if it had been killed in the second epoch.
    let mut earlier = state.clone();
    (earlier["step"], earlier["done"], earlier["best"]) = (steps.into(), false.into(), serde_json::Value::Null);
    sandbox.write("run/state.json", earlier.to_string());
    for step in [2 * steps, 3 * steps] {
        std::fs::remove_dir_all(sandbox.path(format!("run/checkpoints/step-{step:08}"))).unwrap();
    }
    // The same command line goes on.
    let again: Vec<_> = args.iter().copied().chain(["--resume"]).collect();
    let ran = finetune(&sandbox, &again);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let again = files(&sandbox.path("run"));
    let kept: Vec<&String> = whole.keys().filter(|name| name.starts_with("checkpoints/")).collect();
    assert!(kept.len() >= 9, "{kept:?}");
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
    assert!(losses[0].iter().zip(&losses[1]).all(|(a, b)| (a.1 - b.1).abs() <= 1e-6 * a.1.abs()), "{losses:?}");
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
fn a_resumed_run_stays_what_it_was() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let ran = finetune(&sandbox, &["--epochs", "1", "--output", "run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = sandbox.run(&["finetune", "--resume", "--output", "run", "--lr", "1"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("the run was begun with lr 0.001, not 1"), "{}", ran.stderr);
    let text = std::fs::read_to_string(sandbox.path("pairs.tsv")).unwrap();
    sandbox.write("pairs.tsv", text.replace("number 5", "number five"));
    let ran = sandbox.run(&["finetune", "--resume", "--output", "run"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.contains("the training data are not those that the run began with"), "{}", ran.stderr);
    let ran = finetune(&sandbox, &["--epochs", "1", "--output", "run"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--resume goes on"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_trained_says_so() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 8);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--batch-size", "64", "--output", "x"], 3, "a batch takes 64 pairs"),
        (&["--loss", "clop", "--output", "x"], 2, "did you mean `clip`"),
        (&["--loss", "clip:-1", "--output", "x"], 2, "weight above 0"),
        (&["--loss-opt", "dcl.tau=1", "--output", "x"], 2, "belongs to no objective"),
        (&["--loss", "negclip", "--output", "x"], 2, "--text-negatives"),
        (&["--mine", "columns", "--output", "x"], 2, "--mine columns goes with --loss negclip or degla"),
        (&["--loss", "siglip", "--extra-negatives", "queue=8", "--output", "x"], 2, "takes no negatives from beyond"),
        (&["--loss", "albef", "--mochi", "4,2,2", "--output", "x"], 2, "--mochi goes with clip"),
        (&["--mochi", "4,2,2", "--mochi-after", "0,9999", "--output", "x"], 2, "mixing would begin after 9999 steps"),
        (&["--mochi", "4,0,0", "--output", "x"], 2, "not all mixes can be 0"),
        (&["--mochi-after", "4,0", "--output", "x"], 2, "--mochi"),
        (&["--extra-negatives", "queue=0", "--output", "x"], 2, "expected queue=N"),
        (&["--extra-negatives", "queue=8,queue=9", "--output", "x"], 2, "expected queue=N"),
        (
            &["--lr", "1e30", "--grad-clip-norm", "0", "--epochs", "5", "--opt", "sgd", "--output", "diverged"],
            3,
            "diverged at step",
        ),
        (&["--train", "everything", "--output", "x"], 2, "expected all, image"),
        (
            &["--train", "all", "--lock-image", "--lock-text", "--lock-logit-scale", "--output", "x"],
            2,
            "nothing is left to train",
        ),
    ];
    for (args, code, message) in cases {
        let ran = finetune(&sandbox, args);
        assert_eq!(ran.code, Some(*code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
        assert!(!sandbox.path("x").exists(), "{args:?} left something behind");
    }
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
