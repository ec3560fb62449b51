//! `tune`, on tiny checkpoints and pictures of one colour.

use super::{Ran, Sandbox, root, tiny};
use serde_json::Value;
use std::path::{Path, PathBuf};

const COLOURS: [(&str, [u8; 3]); 4] =
    [("red", [220, 30, 40]), ("green", [30, 200, 60]), ("blue", [40, 50, 210]), ("grey", [120, 120, 120])];

/// Class folders with pictures that are nearly of one colour.
fn classes(sandbox: &Sandbox, place: &str, count: usize, shift: usize) {
    for (name, colour) in COLOURS {
        std::fs::create_dir_all(sandbox.path(format!("{place}/{name}"))).unwrap();
        for n in 0..count {
            let mut bytes = b"P6\n40 36\n255\n".to_vec();
            for at in 0..40 * 36 {
                bytes.extend(colour.map(|x| x.saturating_add(((at * (n + shift) * 7) % 25) as u8)));
            }
            sandbox.write(format!("{place}/{name}/{n}.ppm"), bytes);
        }
    }
}

/// Runs `tune` with a tiny checkpoint.
fn tune(sandbox: &Sandbox, args: &[&str]) -> Ran {
    let tiny = tiny();
    let mut all = vec!["tune", "--data", "train"];
    if !args.contains(&"--model") {
        all.extend(["--model", tiny.to_str().unwrap()]);
    }
    all.extend(args);
    sandbox.run(&all)
}

fn lines(ran: &Ran) -> Vec<Value> {
    let text = String::from_utf8(ran.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bytes(run: &Path, name: &str) -> Vec<u8> {
    std::fs::read(run.join(name)).unwrap()
}

/// A checkpoint whose towers are DINOv2 and BERT.
fn dinov2() -> PathBuf {
    root().join("tests/golden/data/custom-text-dinov2")
}

#[test]
fn a_run_is_a_model_that_labels() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 8, 1);
    classes(&sandbox, "test", 3, 9);
    let args = ["--shots", "4", "--epochs", "30", "--lr", "0.05", "--batch-size", "8", "--eval-data", "test"];
    let ran = tune(&sandbox, &[&args[..], &["--output", "run"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let [line] = &lines(&ran)[..] else { panic!("one line") };
    let (tuned, before) = (line["acc1"].as_f64().unwrap(), line["zeroshot_acc1"].as_f64().unwrap());
    assert!(tuned > before + 0.2, "{before} to {tuned}");
    assert_eq!((line["n"].as_u64(), line["method"].as_str()), (Some(12), Some("coop")));
    assert!(sandbox.path("run/report.html").is_file() && sandbox.path("run/results.json").is_file());
    assert!(!sandbox.path("run/checkpoint.safetensors").exists());

    // What labels with it agrees with what was said of it.
    let found = sandbox.run(&["zeroshot", "--model", "run", "--eval", "test"]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    assert_eq!(lines(&found)[0]["metrics"]["acc1"].as_f64(), Some(tuned));
    let found = sandbox.run(&["zeroshot", "--model", "run", "test/red/0.ppm"]);
    let labels = lines(&found)[0]["predictions"].as_array().unwrap().len();
    assert_eq!(labels, 4, "{}", found.stderr);
    // Other classes, too.
    let found = sandbox.run(&["zeroshot", "--model", "run", "--labels", "cat,dog", "test/red/0.ppm"]);
    assert_eq!(lines(&found)[0]["predictions"].as_array().unwrap().len(), 2, "{}", found.stderr);
    // The image tower is as it was, and so are its embeddings.
    let embed = |model: &str| sandbox.run(&["embed", "--model", model, "test/red/0.ppm"]).stdout;
    assert_eq!(embed("run"), embed(tiny().to_str().unwrap()));
}

#[test]
fn runs_of_the_same_seed_are_the_same_and_others_are_not() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 6, 1);
    let args = ["--shots", "2", "--epochs", "2", "--batch-size", "4"];
    let ran = tune(&sandbox, &[&args[..], &["--seeds", "1,2", "--output", "both"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(lines(&ran).len(), 2);
    let ran = tune(&sandbox, &[&args[..], &["--seeds", "2", "--output", "one", "--threads", "1"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for name in ["tune.safetensors", "split.json", "tune.json"] {
        assert_eq!(bytes(&sandbox.path("both/seed-2"), name), bytes(&sandbox.path("one"), name), "{name}");
        assert_ne!(bytes(&sandbox.path("both/seed-1"), name), bytes(&sandbox.path("one"), name), "{name}");
    }
}

#[test]
fn several_shots_are_runs_and_a_curve() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 6, 1);
    classes(&sandbox, "test", 2, 9);
    let args = ["--method", "linear-probe", "--eval-data", "test", "--seeds", "1,2"];
    let several = [&args[..], &["--shots", "1,2,4", "--output", "run"]].concat();
    let ran = tune(&sandbox, &several);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let of = |line: &Value| (line["shots"].as_u64().unwrap(), line["seed"].as_u64().unwrap());
    let order: Vec<_> = lines(&ran).iter().map(of).collect();
    assert_eq!(order, [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]);
    // Each is the run that it would be alone.
    let ran = tune(&sandbox, &[&args[..], &["--shots", "2", "--output", "two"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for name in ["seed-1/tune.safetensors", "seed-1/split.json", "seed-2/tune.safetensors"] {
        assert_eq!(bytes(&sandbox.path("run/shots-2"), name), bytes(&sandbox.path("two"), name), "{name}");
    }
    let page = |run: &str| String::from_utf8(bytes(&sandbox.path(run), "report.html")).unwrap();
    let curve = "Accuracy against shots";
    assert!(page("run").contains(curve) && page("run").contains("linear-probe, 4 shots:"), "the method's last point");
    assert!(!page("run/shots-2").contains(curve) && !page("two").contains(curve));
    let results = |run: &str| -> Value { serde_json::from_slice(&bytes(&sandbox.path(run), "results.json")).unwrap() };
    let accuracies =
        |run: &str| results(run)["lines"].as_array().unwrap().iter().map(|x| x["acc1"].clone()).collect::<Vec<_>>();
    assert_eq!(accuracies("run")[2..4], accuracies("two"));
    assert_eq!(accuracies("run/shots-2"), accuracies("two"));
    // The same run goes on only with its own shots.
    let other = ["--shots", "1", "--output", "two", "--resume"];
    let ran = tune(&sandbox, &[&args[..], &other].concat());
    assert!(ran.code == Some(2) && ran.stderr.contains("other --shots"), "{}", ran.stderr);
    let ran = tune(&sandbox, &[&args[..], &["--shots", "2,2", "--output", "twice"]].concat());
    assert!(ran.code == Some(2) && ran.stderr.contains("--shots names 2 twice"), "{}", ran.stderr);
}

#[test]
fn classes_in_words() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 4, 1);
    classes(&sandbox, "test", 2, 9);
    // CuPL's sentences and descriptors are read alike; the names may be spelt another way.
    let descriptors =
        r#"{"Red": ["a warm colour", "often seen at dusk"], "green": ["leaves"], "blue": ["water"], "grey": ["dust"]}"#;
    let sentences = r#"{"red": ["red, which is a warm colour", "red, which often seen at dusk"],
        "green": ["green, which has leaves"], "blue": ["blue, which has water"], "grey": ["grey, which has dust"]}"#;
    sandbox.write("descriptors.json", descriptors);
    sandbox.write("sentences.json", sentences);
    sandbox.write("few.json", r#"{"red": ["Red is warm."], "green": ["Green is not."]}"#);
    let run = |prompts: &[&str], output: &str| {
        let args = ["--method", "zeroshot", "--eval-data", "test", "--shots", "1", "--output", output];
        tune(&sandbox, &[&args[..], prompts].concat())
    };
    let accuracy = |prompts: &[&str], output: &str| {
        let ran = run(prompts, output);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        lines(&ran)[0]["acc1"].as_f64().unwrap()
    };
    let own = accuracy(&["--class-prompts", "descriptors.json"], "own");
    assert_eq!(accuracy(&["--class-prompts", "sentences.json"], "same"), own);
    // The run's own prompts label with it, and `zeroshot` reads the same file in the same way.
    let predictions = |args: &[&str]| -> Value {
        let ran = sandbox.run(&[&["zeroshot", "test/red/0.ppm"], args].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        lines(&ran)[0]["predictions"].clone()
    };
    let (tiny, labels) = (tiny(), ["--labels", "red,green,blue,grey", "--model"]);
    let model = tiny.to_str().unwrap();
    let scores = |found: Value| {
        let pair = |x: &Value| (x["label"].as_str().unwrap().to_owned(), (x["score"].as_f64().unwrap() * 1e4).round());
        let mut pairs: Vec<_> = found.as_array().unwrap().iter().map(pair).collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs
    };
    let plain = scores(predictions(&[&labels[..], &[model, "--class-prompts", "descriptors.json"]].concat()));
    assert_eq!(plain, scores(predictions(&[&labels[..], &[model, "--class-prompts", "sentences.json"]].concat())));
    assert_eq!(plain, scores(predictions(&["--model", "own"])));
    assert_ne!(plain, scores(predictions(&[&labels[..], &[model]].concat())));
    let ran = run(&["--class-prompts", "few.json"], "few");
    assert!(
        ran.code == Some(2) && ran.stderr.contains("no prompts for the classes \"blue\", \"grey\""),
        "{}",
        ran.stderr
    );
}

#[test]
fn low_rank_changes_of_texts_leave_images_alone() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 4, 1);
    classes(&sandbox, "test", 2, 9);
    let args = ["--method", "lora", "--method-opt", "tower=2", "--epochs", "4", "--batch-size", "4", "--lr", "0.01"];
    let ran = tune(&sandbox, &[&args[..], &["--shots", "2", "--eval-data", "test", "--output", "run"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let tuned = lines(&ran)[0]["acc1"].as_f64();
    let found = sandbox.run(&["zeroshot", "--model", "run", "--eval", "test"]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    assert_eq!(lines(&found)[0]["metrics"]["acc1"].as_f64(), tuned);
    let embed = |model: &str, what: &[&str]| {
        let ran = sandbox.run(&[&["embed", "--model", model], what].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        lines(&ran)[0]["embedding"].clone()
    };
    sandbox.write("red.txt", "red\n");
    let (tiny, photo, text) = (tiny(), ["test/red/0.ppm"], ["--texts", "red.txt"]);
    assert_eq!(embed("run", &photo), embed(tiny.to_str().unwrap(), &photo));
    assert_ne!(embed("run", &text), embed(tiny.to_str().unwrap(), &text));
}

#[test]
fn every_method_runs_and_labels() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 6, 1);
    classes(&sandbox, "test", 2, 9);
    sandbox.write("templates.txt", "a photo of a {}.\nan image of a {}.\n");
    let methods: Vec<&str> = clip_cli::tune::METHODS.iter().map(|entry| entry.name).collect();
    let model = dinov2();
    for method in methods {
        let run = format!("run-{method}");
        let mut args = vec!["--method", method, "--model", model.to_str().unwrap(), "--shots", "2"];
        args.extend(["--eval-data", "test", "--output", &run]);
        if method == "promptsrc" {
            // Its sixty templates have words that this tiny vocabulary lacks.
            args.extend(["--templates", "templates.txt"]);
        }
        let steps = clip_cli::tune::method::entry(method).unwrap().recipe.epochs > 0;
        if steps {
            args.extend(["--epochs", "2", "--batch-size", "4"]);
        }
        let ran = tune(&sandbox, &args);
        assert_eq!(ran.code, Some(0), "{method}: {}", ran.stderr);
        let tuned = lines(&ran)[0]["acc1"].as_f64();
        let found = sandbox.run(&["zeroshot", "--model", &run, "--eval", "test"]);
        assert_eq!(found.code, Some(0), "{method}: {}", found.stderr);
        assert_eq!(lines(&found)[0]["metrics"]["acc1"].as_f64(), tuned, "{method} says the same in another process");
    }
}

#[test]
fn half_of_the_classes_and_the_other_half() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 6, 1);
    classes(&sandbox, "test", 2, 9);
    let args = ["--shots", "2", "--epochs", "2", "--batch-size", "4", "--split", "base", "--eval-data", "test"];
    let ran = tune(&sandbox, &[&args[..], &["--output", "run"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let sets: Vec<String> = lines(&ran).iter().map(|line| line["set"].as_str().unwrap().to_owned()).collect();
    assert_eq!(sets, ["test, base classes", "test, new classes"]);
    assert_eq!(lines(&ran)[0]["n"].as_u64(), Some(4));
    let card: Value = serde_json::from_slice(&bytes(&sandbox.path("run"), "tune.json")).unwrap();
    assert_eq!(card["classes"], serde_json::json!(["blue", "green"]));
    // A method that knows only its own classes says so and judges those.
    let args = ["--method", "tip", "--shots", "2", "--split", "base", "--eval-data", "test", "--output", "tip"];
    let ran = tune(&sandbox, &args);
    assert_eq!((ran.code, lines(&ran).len()), (Some(0), 1), "{}", ran.stderr);
    let ran = sandbox.run(&["zeroshot", "--model", "tip", "--labels", "red,grey", "test/red/0.ppm"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("none of the 2 classes that were tuned"), "{}", ran.stderr);
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 6, 1);
    let args = ["--shots", "4", "--epochs", "6", "--batch-size", "4", "--seeds", "3"];
    let whole = tune(&sandbox, &[&args[..], &["--output", "whole"]].concat());
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    // Killed as soon as a checkpoint is there.
    let tiny = tiny();
    let mut command = sandbox.command(&["tune", "--data", "train", "--model", tiny.to_str().unwrap()]);
    let mut child = command.args(args).args(["--output", "cut"]).spawn().unwrap();
    let checkpoint = sandbox.path("cut/checkpoint.safetensors");
    while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    let resumed = tune(&sandbox, &[&args[..], &["--output", "cut", "--resume"]].concat());
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert_eq!(bytes(&sandbox.path("whole"), "tune.safetensors"), bytes(&sandbox.path("cut"), "tune.safetensors"));
    let steps = |run: &str| {
        let text = String::from_utf8(bytes(&sandbox.path(run), "metrics.jsonl")).unwrap();
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        text.lines().map(line).map(|line| (line["step"].as_u64(), line["loss"].as_f64())).collect::<Vec<_>>()
    };
    assert_eq!(steps("whole"), steps("cut"), "each step appears once");
    // Other options, or other data, are not the same run.
    std::fs::remove_file(sandbox.path("cut/tune.safetensors")).unwrap();
    let other = tune(&sandbox, &[&args[..], &["--output", "cut", "--resume", "--lr", "0.1"]].concat());
    assert!(other.code == Some(2) && other.stderr.contains("other options"), "{}", other.stderr);
    classes(&sandbox, "train", 7, 1);
    let other = tune(&sandbox, &[&args[..], &["--output", "cut", "--resume"]].concat());
    assert!(other.code == Some(3) && other.stderr.contains("data changed"), "{}", other.stderr);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 3, 1);
    let refused = |args: &[&str], code: i32, words: &str| {
        let ran = tune(&sandbox, &[args, &["--output", "run"]].concat());
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
        assert!(!sandbox.path("run/tune.safetensors").exists(), "{args:?}");
    };
    refused(&["--method", "coopp"], 2, "did you mean `coop`?");
    refused(&["--method", "tip", "--epochs", "3"], 2, "takes no steps");
    refused(&["--method-opt", "depth=3"], 2, "has no setting `depth`");
    refused(&["--method", "maple", "--model", "builtin"], 2, "the image tower of builtin has none");
    refused(&["--n-ctx", "2", "--ctx-init", "a photo of a"], 2, "tokens");
    refused(&["--n-ctx", "400"], 2, "the context has room for");
    refused(&["--shots", "0"], 2, "number of images");
    refused(&["--lr=-1"], 2, "above 0");
    refused(&["--model", "nowhere/"], 3, "no such model");

    // Fewer images than shots: those that there are, and it is said.
    let ran = tune(&sandbox, &["--method", "linear-probe", "--shots", "8", "--output", "few"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("fewer than 8 images"), "{}", ran.stderr);
    refused(&["--shots", "8", "--strict"], 3, "fewer than 8 images");
    // One that nothing can be judged by is left out, said, and makes the exit code 1.
    classes(&sandbox, "exam", 2, 5);
    sandbox.write("exam/red/broken.png", b"\x89PNG\r\n\x1a\n then nothing");
    let ran =
        tune(&sandbox, &["--method", "linear-probe", "--shots", "2", "--eval-data", "exam", "--output", "exam-run"]);
    assert_eq!((ran.code, lines(&ran)[0]["n"].as_u64()), (Some(1), Some(8)), "{}", ran.stderr);
    assert!(ran.stderr.contains("exam: 1 images cannot be read: red/broken.png"), "{}", ran.stderr);
    // A file that is no image costs no shot, and is said.
    sandbox.write("train/red/broken.png", b"\x89PNG\r\n\x1a\n then nothing");
    let ran = tune(&sandbox, &["--method", "linear-probe", "--shots", "all", "--output", "broken"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("broken.png"), "{}", ran.stderr);
    // A run is not overwritten.
    let ran = tune(&sandbox, &["--method", "linear-probe", "--output", "few"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("--resume"), "{}", ran.stderr);
    // One class alone; two that are the same.
    for name in ["green", "blue", "grey"] {
        std::fs::remove_dir_all(sandbox.path(format!("train/{name}"))).unwrap();
    }
    refused(&[], 3, "nothing to tell apart");
    std::fs::create_dir_all(sandbox.path("train/Red")).unwrap();
    std::fs::copy(sandbox.path("train/red/0.ppm"), sandbox.path("train/Red/0.ppm")).unwrap();
    refused(&[], 3, "are the same");
}

#[test]
fn a_run_belongs_to_its_model() {
    let sandbox = Sandbox::new();
    classes(&sandbox, "train", 4, 1);
    let model = sandbox.path("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap().map(Result::unwrap) {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
    }
    let args = ["--method", "clip-adapter", "--shots", "2", "--epochs", "1", "--model", "model", "--output", "run"];
    let ran = tune(&sandbox, &args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let label = || sandbox.run(&["zeroshot", "--model", "run", "train/red/0.ppm"]);
    assert_eq!(label().code, Some(0));
    // Its embeddings need their length: records have none.
    let records = sandbox.run(&["embed", "--model", "run", "train/red/0.ppm", "--output", "red.jsonl"]);
    assert_eq!(records.code, Some(0), "{}", records.stderr);
    let ran = sandbox.run(&["zeroshot", "--model", "run", "red.jsonl"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("name the images themselves"), "{}", ran.stderr);
    // Another model in its place is noticed.
    let mut config: Value = serde_json::from_slice(&bytes(&model, "config.json")).unwrap();
    config["note"] = "changed".into();
    sandbox.write("model/config.json", config.to_string());
    let ran = label();
    assert!(ran.code == Some(3) && ran.stderr.contains("tuned for another model"), "{}", ran.stderr);
    // What was learnt, damaged.
    sandbox.write("run/tune.safetensors", b"nothing");
    assert_eq!(label().code, Some(3));
}

#[test]
fn methods_are_listed() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["tune", "--list-methods"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let names: Vec<Value> = lines(&ran).iter().map(|line| line["name"].clone()).collect();
    assert_eq!(names.len(), clip_cli::tune::METHODS.len());
    let ran = sandbox.run(&["tune", "--list-methods", "--shape", "table"]);
    assert!(String::from_utf8(ran.stdout).unwrap().contains("promptsrc"));
    // What a run would do, without doing it.
    classes(&sandbox, "train", 4, 1);
    let ran = tune(&sandbox, &["--shots", "2", "--dry-run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(lines(&ran)[0]["images"].as_u64(), Some(8));
}
