//! What the README and the help texts show does run.

use super::{Sandbox, root, tiny};
use std::path::Path;
use std::process::Command;

/// Runs a line as a shell would, with the program on its path.
#[track_caller]
fn shell(directory: &Path, line: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_clip-cli"));
    let line = format!("PATH='{}':\"$PATH\"; {line}", program.parent().unwrap().display());
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", &line]).current_dir(directory);
    command.env("HOME", directory).env("XDG_CACHE_HOME", directory.join("cache")).env("HF_HUB_OFFLINE", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    let writes_a_file = line.contains("--output") || line.contains('>');
    assert!(writes_a_file || !output.stdout.is_empty(), "{line}\nprints nothing");
}

/// Runs the lines of a document's blocks of shell, and returns how many there are.
#[cfg(feature = "builtin")]
fn run_blocks(sandbox: &Sandbox, document: &str) -> usize {
    let blocks = document.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(|line| shell(&sandbox.path(""), line)).count()
}

#[test]
#[cfg(all(feature = "builtin", feature = "parquet"))]
fn every_shape_of_input() {
    let sandbox = super::inputs::sandbox();
    let lines = run_blocks(&sandbox, &std::fs::read_to_string(root().join("docs/inputs.md")).unwrap());
    assert!(lines >= 19, "only {lines} commands found");
}

#[test]
#[cfg(feature = "builtin")]
fn evaluations() {
    let sandbox = Sandbox::new();
    let photo = std::fs::read(root().join("examples/photos/cat.jpg")).unwrap();
    for name in ["a.jpg", "b.jpg"] {
        sandbox.write(name, &photo);
    }
    super::eval::data(&sandbox, &photo);
    let lines = run_blocks(&sandbox, &std::fs::read_to_string(root().join("docs/evaluation.md")).unwrap());
    assert!(lines >= 8, "only {lines} commands found");
}

#[test]
#[cfg(feature = "builtin")]
fn the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink(root().join("examples"), sandbox.path("examples")).unwrap();
    let lines = run_blocks(&sandbox, &readme);
    // The one command that begins with cargo, through the program itself.
    let first = readme.lines().find_map(|line| line.strip_prefix("$ cargo run --release -- ")).unwrap();
    shell(&sandbox.path(""), &format!("clip-cli {first}"));
    assert!(lines >= 9, "only {lines} commands found in the README");
}

#[test]
#[cfg(feature = "builtin")]
fn the_examples_of_every_help_text() {
    let sandbox = Sandbox::new();
    let photo = std::fs::read(root().join("examples/photos/cat.jpg")).unwrap();
    for name in ["a.jpg", "b.jpg", "c.jpg", "cat.jpg", "dog.jpg", "beach.jpg"] {
        sandbox.write(name, &photo);
    }
    for class in ["n01", "n02"] {
        sandbox.file(&format!("imagenet/val/{class}/x.jpg"), &photo);
    }
    sandbox.write("pairs.csv", "image,caption\na.jpg,a cat\nb.jpg,a cat on a table\n");
    sandbox.write("captions.tsv", "image\tcaption\na.jpg\ta black cat on a table\n");
    let mut training = "filepath\ttitle\n".to_owned();
    for n in 1..14u8 {
        let pixels: Vec<u8> = (0..32 * 32 * 3).map(|at| (at as u8).wrapping_mul(n)).collect();
        sandbox.write(format!("{n}.ppm"), [b"P6\n32 32\n255\n".as_slice(), &pixels].concat());
        training += &format!("{n}.ppm\ttwo red birds beside {n} small tables\n");
    }
    sandbox.write("training.tsv", training);
    for shard in 0..12 {
        let tar = std::fs::read(root().join(format!("tests/golden/data/inputs/shard-0{}.tar", shard % 2))).unwrap();
        sandbox.file(&format!("shards/{shard:03}.tar"), tar);
    }
    let tiny_config = std::fs::read(root().join("tests/golden/data/open_clip-vit/open_clip_config.json")).unwrap();
    let tiny_config: serde_json::Value = serde_json::from_slice(&tiny_config).unwrap();
    sandbox.write("ViT-B-32.json", tiny_config["model_cfg"].to_string());
    sandbox.write("train.csv", "filepath,title\na.jpg,two cats on a table\n");
    for shard in ["00", "01"] {
        let tar = std::fs::read(root().join(format!("tests/golden/data/inputs/shard-{shard}.tar"))).unwrap();
        sandbox.file(&format!("shards/{shard}.tar"), tar);
    }
    sandbox.write("classes.tsv", "n01\ta cat\nn02\ta dog\n");
    sandbox.write("classes.txt", "cat\ndog\n");
    let photos = std::fs::read_dir(sandbox.path("photos")).unwrap().count();
    sandbox.write("captions.txt", "a cat on a sofa\n".repeat(photos));
    std::fs::create_dir_all(sandbox.path("path/to")).unwrap();
    std::os::unix::fs::symlink(tiny(), sandbox.path("path/to/checkpoint")).unwrap();
    std::os::unix::fs::symlink(super::model("open_clip-siglip"), sandbox.path("path/to/other")).unwrap();
    for directory in [".local/share/bash-completion/completions", ".config/fish/completions"] {
        std::fs::create_dir_all(sandbox.path(directory)).unwrap();
    }
    shell(&sandbox.path(""), "clip-cli embed --texts captions.txt > captions.jsonl");
    shell(&sandbox.path(""), "clip-cli embed photos/ cat.jpg dog.jpg --output photos.npy");
    super::eval::data(&sandbox, &photo);
    shell(&sandbox.path(""), "clip-cli embed pairs.csv --pairs --output pairs.npy");
    few_shot(&sandbox);
    let mut lines = 0;
    let commands = [
        "",
        "embed",
        // It makes the run that the next one labels with.
        "tune",
        "zeroshot",
        "eval",
        "eval retrieval",
        "eval classification",
        "eval order",
        "eval sugarcrepe",
        "eval geometry",
        "eval knn",
        "eval linear-probe",
        "eval retention",
        "similarity",
        "search",
        "dedup",
        "merge",
        "negatives",
        "negatives text",
        "negatives mine",
        "models",
        "models convert",
        "models new",
        "models assemble",
        "finetune",
        "doctor",
        "completions",
    ];
    for command in commands {
        let ran = sandbox.run(&[&command.split_whitespace().collect::<Vec<_>>()[..], &["--help"]].concat());
        let help = String::from_utf8(ran.stdout).unwrap();
        for line in help.lines().filter_map(|line| line.strip_prefix("  ")) {
            let runs = ["clip-cli ", "find ", "for ", "echo "].iter().any(|start| line.starts_with(start));
            // The Hub and zsh's own variable are not there.
            if !runs
                || line.contains("models pull")
                || line.contains("--online")
                || line.contains("ViT-B-32.pt")
                || line.contains("${fpath")
                // Two towers of the Hub.
                || line.contains("dinov2-small")
            {
                continue;
            }
            shell(&sandbox.path(""), &small(&sandbox, line));
            lines += 1;
        }
    }
    assert!(lines >= 16, "only {lines} examples found in the help texts");
}

/// Images of four classes in folders, and as one of CoOp's splits.
#[cfg(feature = "builtin")]
fn few_shot(sandbox: &Sandbox) {
    let mut split = [Vec::new(), Vec::new(), Vec::new()];
    for (label, class) in ["bags", "hats", "shirts", "shoes"].into_iter().enumerate() {
        for n in 0..4u8 {
            let pixels: Vec<u8> = (0..32 * 32 * 3).map(|at| (at as u8).wrapping_mul(4 * label as u8 + n + 1)).collect();
            let image = [b"P6\n32 32\n255\n".as_slice(), &pixels].concat();
            let places: &[&str] = if n == 3 { &["pets/test"] } else { &["clothing10/train", "pets/train"] };
            for place in places {
                sandbox.file(&format!("{place}/{class}/{n}.ppm"), &image);
            }
            let path = format!("pets/{}/{class}/{n}.ppm", if n == 3 { "test" } else { "train" });
            split[usize::from(n).saturating_sub(1)].push((path, label, class));
        }
    }
    let [train, val, test] = split;
    let split = serde_json::json!({"train": train, "val": val, "test": test});
    sandbox.write("split_zhou_Caltech101.json", split.to_string());
}

/// An example that makes or trains a model, as one that is done soon: with tiny models and batches, and a place to write
/// that an earlier one did not take.
#[cfg(feature = "builtin")]
fn small(sandbox: &Sandbox, line: &str) -> String {
    let mut line = line.replace("--image laion-b32", &format!("--image {}", super::model("open_clip-vit")));
    if line.contains("tune ") || line.contains("models new") || line.contains("models assemble") {
        let output = line.split("--output ").nth(1).and_then(|rest| rest.split(' ').next());
        if let (Some(output), false) = (output, line.contains("--resume")) {
            let _ = std::fs::remove_dir_all(sandbox.path(output));
        }
    }
    if line.contains("finetune --") && line.contains("--train-data") {
        line = line.replace("--model laion-b32", "--model path/to/checkpoint");
        line = line.replace("captions.tsv", "training.tsv");
        if !line.contains("--model") && !line.contains("--init ") {
            line += " --model path/to/checkpoint";
        }
        line += " --batch-size 2 --epochs 1 --no-retention";
    }
    if line.contains("tune --method") && !line.contains("--method tip") {
        line += " --epochs 1";
    }
    if line.contains("merge builtin") && line.contains("--val-data") {
        // A thousand prompts for each model.
        line += " --no-retention";
    }
    line
}
