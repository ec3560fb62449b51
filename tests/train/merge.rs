//! `merge` of models: interpolation, soups, low-rank changes, moving averages.

use candle_core::{DType, Device, Tensor};
use clip_cli::weights::Files;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn tiny() -> PathBuf {
    root().join("tests/golden/data/hf-clip-quickgelu")
}

/// A folder with photos in two classes, a table of captions, and models.
struct Folder(TempDir);

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let mut table = String::from("filepath\ttitle\n");
        for (class, names) in [("animal", ["cat", "astronaut"]), ("thing", ["coffee", "rocket"])] {
            std::fs::create_dir_all(folder.path("classes").join(class)).unwrap();
            for name in names {
                let place = folder.path("classes").join(class).join(format!("{name}.jpg"));
                std::fs::copy(root().join(format!("examples/photos/{name}.jpg")), &place).unwrap();
                table += &format!("{}\ta photo of a {name}\n", place.display());
            }
        }
        std::fs::write(folder.path("pairs.tsv"), table).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The tiny checkpoint with other numbers.
    fn other(&self, name: &str, seed: u64) -> String {
        std::fs::create_dir(self.path(name)).unwrap();
        for entry in std::fs::read_dir(tiny()).unwrap().map(Result::unwrap) {
            let file = entry.file_name().into_string().unwrap();
            if !file.starts_with("golden") && file != "model.safetensors" {
                std::fs::copy(entry.path(), self.path(name).join(file)).unwrap();
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let before = candle_core::safetensors::load(tiny().join("model.safetensors"), &Device::Cpu).unwrap();
        let mut all = HashMap::new();
        for (name, tensor) in before.into_iter().collect::<BTreeMap<_, _>>() {
            let other = match tensor.dtype() {
                DType::I64 => tensor,
                _ => {
                    let more: Vec<f32> = (0..tensor.elem_count()).map(|_| rng.random_range(-0.02..0.02)).collect();
                    let more = Tensor::from_vec(more, tensor.dims(), &Device::Cpu).unwrap();
                    (tensor.to_dtype(DType::F32).unwrap() + more).unwrap()
                }
            };
            all.insert(name, other);
        }
        candle_core::safetensors::save(&all, self.path(name).join("model.safetensors")).unwrap();
        self.path(name).display().to_string()
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clip-cli"));
        let output = command.args(args).current_dir(self.0.path()).env("XDG_CACHE_HOME", self.path("cache"));
        let output = output.env("HF_HUB_OFFLINE", "1").output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn merge(&self, args: &[&str]) -> Vec<Value> {
        let ran = self.run(&[&["merge"], args].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        // A report, or the name of what was written.
        if !args.contains(&"--val-data") && !args.contains(&"--eval") {
            let output = args.iter().skip_while(|arg| **arg != "--output").nth(1).unwrap();
            assert_eq!(ran.stdout.trim_end(), *output);
            return Vec::new();
        }
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn fails(&self, args: &[&str], code: i32) -> String {
        let before = self.names();
        let ran = self.run(&[&["merge"], args].concat());
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert_eq!(before, self.names(), "something is left behind");
        ran.stderr
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "cache");
        names.sort();
        names
    }
}

/// All tensors of a model: shape and numbers.
fn tensors(model: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let names = ["model.safetensors", "open_clip_model.safetensors"];
    let file = names.iter().map(|name| model.join(name)).find(|path| path.is_file()).unwrap();
    let files = Files::open(&file).unwrap();
    let read = |name: &str| {
        let tensor = files.read(name, DType::F64, &Device::Cpu).unwrap().unwrap();
        (tensor.dims().to_vec(), tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap())
    };
    files.names().map(|name| (name.to_owned(), read(name))).collect()
}

#[track_caller]
fn equal(a: &Path, b: &Path, most: f64) {
    let (a, b) = (tensors(a), tensors(b));
    assert!(a.keys().eq(b.keys()));
    for (name, (shape, numbers)) in &a {
        assert_eq!(*shape, b[name].0);
        let far = numbers.iter().zip(&b[name].1).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(far <= most, "{name}: {far}");
    }
}

#[test]
fn interpolation_goes_from_one_model_to_the_other() {
    let folder = Folder::new();
    let (a, b) = (tiny().display().to_string(), folder.other("b", 1));
    for (alpha, expected) in [("0", &a), ("1", &b)] {
        let out = format!("out-{alpha}");
        folder.merge(&[&a, &b, "--alpha", alpha, "--output", &out]);
        equal(&folder.path(&out), Path::new(expected), 0.0);
    }
    folder.merge(&[&a, &b, "--alpha", "0.25", "--output", "quarter"]);
    let (a, b, mixed) = (tensors(Path::new(&a)), tensors(Path::new(&b)), tensors(&folder.path("quarter")));
    for (name, (_, numbers)) in &mixed {
        for ((x, y), mixed) in a[name].1.iter().zip(&b[name].1).zip(numbers) {
            let exact = 0.75 * x + 0.25 * y;
            assert!((exact - mixed).abs() <= 6e-8 * exact.abs().max(1e-30), "{name}: {exact} {mixed}");
        }
    }
    let readme = std::fs::read_to_string(folder.path("quarter/README.md")).unwrap();
    assert!(readme.contains("| 0.7500 |") && readme.contains("alpha 0.25"), "{readme}");
    let ran = folder.run(&["embed", "--text", "a cat", "--model", "quarter"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_sweep_measures_and_keeps_the_best() {
    let folder = Folder::new();
    let (a, b) = (tiny().display().to_string(), folder.other("b", 2));
    let measured = ["--val-data", "pairs.tsv", "--eval", "classes"];
    let rows =
        folder.merge(&[&[&a, &b, "--alpha", "sweep", "--keep", "best", "--output", "best"], &measured[..]].concat());
    assert_eq!(rows.len(), 11);
    let score = |row: &Value| row["score"].as_f64().unwrap();
    for row in &rows {
        let recall = |way: &str| row[format!("{way}_retrieval_recall@1")].as_f64().unwrap();
        let expected = ((recall("image") + recall("text")) / 2.0 + row["acc1"].as_f64().unwrap()) / 2.0;
        assert!((score(row) - expected).abs() < 1e-12);
    }
    // As `eval` measures the model at the end of the curve.
    let ran = folder.run(&["eval", "classification", "classes", "--model", &b]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["metrics"]["acc1"], rows[10]["acc1"], "{}", ran.stderr);
    let ran = folder.run(&["eval", "retrieval", "pairs.tsv", "--model", &b]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["metrics"]["image_retrieval_recall@1"], rows[10]["image_retrieval_recall@1"], "{}", ran.stderr);
    // The first of the best.
    let best = rows.iter().map(score).fold(0.0, f64::max);
    let alpha = rows.iter().find(|row| score(row) == best).unwrap()["alpha"].to_string();
    folder.merge(&[&a, &b, "--alpha", &alpha, "--output", "again"]);
    equal(&folder.path("best"), &folder.path("again"), 0.0);
    // Nothing is written where nothing was asked for.
    let before = folder.names();
    assert_eq!(folder.merge(&[&[&a, &b, "--alpha", "0,1"], &measured[..2]].concat()).len(), 2);
    assert_eq!(before, folder.names());
}

#[test]
fn soups() {
    let folder = Folder::new();
    let (a, b, c) = (tiny().display().to_string(), folder.other("b", 3), folder.other("c", 4));
    folder.merge(&[&a, "--soup", "uniform", "--output", "alone"]);
    equal(&folder.path("alone"), &tiny(), 0.0);
    folder.merge(&[&a, &b, &c, "--soup", "uniform", "--output", "three"]);
    let all = [&a, &b, &c].map(|path| tensors(Path::new(path)));
    for (name, (_, numbers)) in tensors(&folder.path("three")) {
        for (i, mean) in numbers.iter().enumerate() {
            let exact = all.iter().map(|model| model[&name].1[i]).sum::<f64>() / 3.0;
            assert!((exact - mean).abs() < 1e-6);
        }
    }
    // Greedy: each model alone, then one soup for each model but the best.
    let rows = folder.merge(&[&a, &b, &c, "--soup", "greedy", "--val-data", "pairs.tsv", "--output", "greedy"]);
    assert_eq!(rows.len(), 5);
    let score = |row: &Value| row["score"].as_f64().unwrap();
    let measured = folder.merge(&["greedy", "greedy", "--alpha", "0", "--val-data", "pairs.tsv", "--output", "copy"]);
    let single = rows[..3].iter().map(score).fold(0.0, f64::max);
    assert!(score(&measured[0]) >= single, "a greedy soup is no worse than its best model");
    assert!(folder.fails(&[&a, &b, "--soup", "greedy", "-o", "x"], 2).contains("--val-data"));
}

#[test]
#[cfg(feature = "builtin")]
fn int8_is_multiplied_out() {
    let folder = Folder::new();
    folder.merge(&["builtin", "builtin", "--alpha", "0.5", "--output", "out"]);
    // Reading multiplies out, too.
    let builtin = tensors(&root().join("models/builtin"));
    let out = tensors(&folder.path("out"));
    assert!(out.keys().all(|name| !name.ends_with(".scale")));
    for (name, (_, numbers)) in &out {
        let far = numbers.iter().zip(&builtin[name].1).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(far < 1e-7, "{name}: {far}");
    }
    assert!(folder.path("out/LICENSE-MiniLM").is_file());
    let ran = folder.run(&["embed", "--text", "a cat", "--model", "out"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn what_cannot_be_merged() {
    let folder = Folder::new();
    let (a, b) = (tiny().display().to_string(), folder.other("b", 5));
    let golden = |name: &str| root().join("tests/golden/data").join(name).display().to_string();
    let fails = |args: &[&str], code| folder.fails(args, code);
    assert!(fails(&[&a, &b], 2).contains("how shall these models be merged"));
    assert!(fails(&[&a, "photos.npy"], 2).contains("photos.npy is none"));
    std::fs::write(folder.path("photos.npy"), "x").unwrap();
    assert!(fails(&[&a, "photos.npy", "--alpha", "0.5", "-o", "x"], 2).contains("photos.npy is none"));
    assert!(fails(&[&a, &b, "--alpha", "0.5"], 2).contains("--output is missing"));
    assert!(fails(&[&a, &b, "--alpha", "0.5", "-o", "b"], 2).contains("already there"));
    assert!(fails(&[&a, &b, "--alpha", "1.5", "-o", "x"], 2).contains("from 0 to 1"));
    assert!(fails(&[&a, &b, "--alpha", "0,1", "-o", "x"], 2).contains("nothing to measure them by"));
    assert!(fails(&[&a, &b, "--alpha", "0,1", "--val-data", "pairs.tsv", "-o", "x"], 2).contains("--keep best"));
    assert!(fails(&[&a, &b, &a, "--alpha", "0.5", "-o", "x"], 2).contains("two models"));
    assert!(fails(&[&a, &golden("open_clip-vit"), "--alpha", "0.5", "-o", "x"], 3).contains("layout"));
    assert!(fails(&[&a, &golden("hf-siglip"), "--alpha", "0.5", "-o", "x"], 3).contains("tensor"));
    assert!(fails(&[&a, "gone", "--alpha", "0.5", "-o", "x"], 2).contains("gone"));
    assert!(fails(&[&a, "--lora", "b", "-o", "x"], 3).contains("no adapter here"));
    assert!(fails(&["--ema", "b", "-o", "x"], 3).contains("there is no run here"));
    assert!(fails(&[&a, &b, "--soup", "uniform", "--format", "npy", "-o", "x"], 2).contains("--format"));
}

#[test]
fn runs_give_their_changes_and_averages() {
    let folder = Folder::new();
    let a = tiny().display().to_string();
    let usual =
        ["finetune", "--train-data", "pairs.tsv", "--val-data", "pairs.tsv", "--model", &a, "--batch-size", "4"];
    let tune = |more: &[&str]| {
        let ran = folder.run(&[&usual[..], &["--epochs", "1", "--lr", "1e-2", "--no-retention"], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    };
    tune(&["--train", "lora", "--lora-rank", "2", "--output", "low"]);
    folder.merge(&[&a, "--lora", "low", "--output", "baked"]);
    equal(&folder.path("baked"), &folder.path("low"), 0.0);
    assert!(!folder.path("baked/adapter").exists());
    // After the last step of an only epoch the model of a run is its average.
    tune(&["--ema-decay", "0.5", "--output", "averaged"]);
    folder.merge(&["--ema", "averaged", "--output", "average"]);
    equal(&folder.path("average"), &folder.path("averaged"), 0.0);
    tune(&["--ema-decay", "0.5", "--train", "lora", "--lora-rank", "2", "--output", "low-averaged"]);
    folder.merge(&["--ema", "low-averaged", "--output", "low-average"]);
    equal(&folder.path("low-average"), &folder.path("low-averaged"), 0.0);
    assert!(folder.fails(&["--ema", "low", "-o", "x"], 3).contains("no moving average"));
}

#[test]
fn a_bias_that_only_one_model_has_is_its_own() {
    let folder = Folder::new();
    let start = root().join("tests/golden/data/open_clip-vit").display().to_string();
    let usual = ["finetune", "--train-data", "pairs.tsv", "--val-data", "pairs.tsv", "--model", &start];
    let more = ["--batch-size", "4", "--epochs", "1", "--lr", "1e-2", "--no-retention", "--loss", "siglip"];
    let ran = folder.run(&[&usual[..], &more, &["--ema-decay", "0.5", "--output", "run"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let of = |model: &str| tensors(&folder.path(model));
    let config = |model: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.path(model).join("open_clip_config.json")).unwrap()).unwrap()
    };
    let run = of("run");
    let bias = run["logit_bias"].clone();
    let (parts, name) = ([&start[..], "run"], "visual.proj");
    let before = tensors(Path::new(&start));
    for (alpha, output) in [("0", "zero"), ("0.25", "part"), ("1", "one")] {
        folder.merge(&[&parts[..], &["--alpha", alpha, "--output", output]].concat());
        let (mixed, alpha) = (of(output), alpha.parse::<f64>().unwrap());
        for ((mixed, a), b) in mixed[name].1.iter().zip(&before[name].1).zip(&run[name].1) {
            assert!((mixed - ((1.0 - alpha) * a + alpha * b)).abs() < 1e-6);
        }
        // What has nothing of the run has no bias; what has some ranks with weights of both, and scores with that bias.
        let there = alpha > 0.0;
        assert_eq!(mixed.get("logit_bias"), there.then_some(&bias), "{alpha}");
        assert_eq!(config(output)["model_cfg"]["init_logit_bias"].is_number(), there, "{alpha}");
    }
    equal(&folder.path("one"), &folder.path("run"), 0.0);
    folder.merge(&["run", &start, &start, "--soup", "uniform", "--output", "three"]);
    assert_eq!(of("three")["logit_bias"], bias);
    for args in [["--alpha", "0.5"], ["--soup", "uniform"]] {
        // In either order.
        let output = args[0].trim_start_matches('-');
        folder.merge(&[&["run", &start], &args[..], &["--output", output]].concat());
        assert_eq!(of(output)["logit_bias"], bias);
    }
    let ran = folder.run(&["zeroshot", "--model", "part", "--labels", "cat,dog", "classes/animal/cat.jpg"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // The average of a bias that the start had no place for.
    folder.merge(&["--ema", "run", "--output", "average"]);
    equal(&folder.path("average"), &folder.path("run"), 0.0);
}
