//! `zeroshot`.

use super::{Golden, Program, cosine, model, records, stable};
use crate::parity::checkpoints;
use clip_cli::model::spec::Objective;
use insta::assert_snapshot;
use std::collections::HashMap;

const LABELS: &str = "cat,dog,\"house, old\"";

/// The arguments of a small, quick run with softmax.
fn softmax<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["zeroshot", "--model", model, "--labels", LABELS], more].concat()
}

#[test]
fn scores_are_those_of_the_references() {
    for golden in checkpoints() {
        let program = Program::new();
        // An empty text makes no label; for softmax the others share its part.
        let all = golden.texts();
        let labels: Vec<&String> = all.iter().filter(|text| !text.is_empty()).collect();
        let file = program.file("labels.json", serde_json::to_string(&labels).unwrap());
        let model = golden.directory.display().to_string();
        let images: Vec<String> = golden.images.iter().map(|path| path.display().to_string()).collect();
        let mut arguments = vec!["zeroshot", "--model", &model, "--labels-file", &file, "--templates", "{}"];
        arguments.extend(images.iter().map(String::as_str));
        let found = records(&program.run(&arguments).ok());

        let head = golden.clip().head().unwrap();
        let (image_rows, text_rows) = (golden.numbers("image_embeds"), golden.numbers("text_embeds"));
        let dim = image_rows.len() / images.len();
        assert_eq!(found.len(), images.len());
        for ((record, id), image) in found.iter().zip(&images).zip(image_rows.chunks(dim)) {
            assert_eq!(record["id"], id.as_str());
            let logits: Vec<f32> = (all.iter().zip(text_rows.chunks(dim)))
                .filter(|(text, _)| !text.is_empty())
                .map(|(_, text)| head.scale * cosine(image, text) + head.bias)
                .collect();
            let sum: f32 = logits.iter().map(|x| x.exp()).sum();
            let score = |logit: f32| match head.objective {
                Objective::Softmax => logit.exp() / sum,
                Objective::Sigmoid => 1.0 / (1.0 + (-logit).exp()),
            };
            let predictions = record["predictions"].as_array().unwrap();
            assert_eq!(predictions.len(), labels.len().min(5));
            let mut before = f64::INFINITY;
            for prediction in predictions {
                let ours = prediction["score"].as_f64().unwrap();
                let at = labels.iter().position(|label| prediction["label"] == label.as_str()).unwrap();
                let theirs = f64::from(score(logits[at]));
                assert!((ours - theirs).abs() < 1e-4, "{}: {id}: {ours} {theirs}", golden.name());
                assert!(ours <= before, "{}: {id} is not in order", golden.name());
                before = ours;
            }
        }
        if head.objective == Objective::Sigmoid {
            // Here each label stands for itself, so the reference's own probabilities hold without the empty text.
            let probs = &golden.about["probs"];
            let first = &found[0]["predictions"][0];
            let at = all.iter().position(|text| first["label"] == text.as_str()).unwrap();
            let theirs = probs.get(0).and_then(|row| row[at].as_f64());
            let theirs = theirs.unwrap_or_else(|| f64::from(golden.numbers("probs")[at]));
            assert!((first["score"].as_f64().unwrap() - theirs).abs() < 1e-4, "{}", golden.name());
        }
    }
}

#[test]
fn formats() {
    let (program, model) = (Program::new(), model("hf-clip-gelu"));
    let run = |more: &[&str]| {
        let run = program.run(&softmax(&model, &[&["landscape.jpg", "no.jpg"], more].concat()));
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains("1 of 2 items failed"), "{}", run.stderr);
        stable(&run.stdout)
    };
    assert_snapshot!(run(&[]), @"");
    assert_snapshot!(run(&["--format", "csv", "-k", "2"]), @"");
    assert_snapshot!(run(&["--format", "tsv", "--top-k", "1"]), @"");
    assert_snapshot!(run(&["--format", "table", "-k", "2"]), @"");
}

#[test]
fn thresholds_and_ranks() {
    let (program, model) = (Program::new(), model("hf-clip-gelu"));
    let labels = |more: &[&str]| {
        let stdout = program.run(&softmax(&model, &[&["landscape.jpg"], more].concat())).ok();
        records(&stdout)[0]["predictions"].as_array().unwrap().len()
    };
    assert_eq!(labels(&[]), 3);
    assert_eq!(labels(&["-k", "2"]), 2);
    assert_eq!(labels(&["--threshold", "0"]), 3);
    assert_eq!(labels(&["--threshold", "1"]), 0);
    // No label reaches the threshold: the image is still there.
    let csv = program.run(&softmax(&model, &["landscape.jpg", "--threshold", "1", "--format", "csv"])).ok();
    assert_eq!(csv, "id,rank,label,score,error\nlandscape.jpg,,,,\n");
}

#[test]
fn embeddings_give_the_same_bytes_as_images() {
    for model in ["hf-clip-quickgelu", "open_clip-siglip"].map(model) {
        let program = Program::new();
        let list = "landscape.jpg\nno.jpg\ntiny.png\nportrait.jpg\n";
        let direct = program.run_with(&softmax(&model, &["-"]), list);
        assert_eq!(direct.code, Some(1));
        let embedded = program.run_with(&["embed", "--model", &model, "-"], list).stdout;
        let piped = program.run_with(&softmax(&model, &["-"]), embedded.as_str());
        assert_eq!((piped.code, &piped.stdout), (Some(1), &direct.stdout));
        let file = program.file("photos.jsonl", &embedded);
        assert_eq!(program.run(&softmax(&model, &[&file])).stdout, direct.stdout);
        // Images and embeddings in one run, in the order of the command line.
        let both = program.run(&softmax(&model, &["tiny.png", &file, "tiny.png"])).stdout;
        let lines: Vec<&str> = direct.stdout.lines().collect();
        let expected = [&lines[2..3], &lines[..], &lines[2..3]].concat();
        assert_eq!(both.lines().collect::<Vec<_>>(), expected);
        // Neither threads nor batches change a byte.
        let more = ["-", "--threads", "1", "--batch-size", "3", "--workers", "2"];
        assert_eq!(program.run_with(&softmax(&model, &more), list).stdout, direct.stdout);
    }
}

#[test]
fn embeddings_that_cannot_be_used() {
    let program = Program::new();
    let (own, other) = (model("hf-clip-gelu"), model("hf-clip-quickgelu"));
    let embedded = program.run(&["embed", "--model", &other, "landscape.jpg"]).ok();
    let stderr = program.run_with(&softmax(&own, &["-"]), embedded).fails(3);
    assert_snapshot!(stable(&stderr), @"");

    let id = records(&program.run(&["embed", "--model", &own, "tiny.png"]).ok())[0]["model"].clone();
    let lines = format!(
        "{{\"id\":\"a\",\"embedding\":[1,2],\"model\":{id}}}\n{{\"id\":\"b\"}}\n{{\"id\":\"c\",\"error\":{{\"kind\":\"truncated\",\"message\":\"short\"}}}}\n{{oops\n"
    );
    let run = program.run_with(&softmax(&own, &["-"]), lines);
    assert_eq!(run.code, Some(1));
    assert_snapshot!(stable(&run.stdout), @"");

    let texts = program.run(&["embed", "--model", &own, "--text", "a cat"]).ok();
    let run = program.run_with(&softmax(&own, &["-"]), texts);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("the embedding of a text"), "{}", run.stdout);
}

#[test]
fn several_labels() {
    let program = Program::new();
    let scores = |model: &str, labels: &str| -> HashMap<String, f64> {
        let arguments = ["zeroshot", "--model", model, "--labels", labels, "--multi-label", "landscape.jpg"];
        let record = &records(&program.run(&arguments).ok())[0];
        let pair = |p: &serde_json::Value| (p["label"].as_str().unwrap().to_owned(), p["score"].as_f64().unwrap());
        record["predictions"].as_array().unwrap().iter().map(pair).collect()
    };
    for model in ["hf-clip-gelu", "hf-siglip"].map(model) {
        // A label's score does not depend on the others.
        assert_eq!(scores(&model, "cat,dog")["cat"], scores(&model, "bird,house,cat")["cat"]);
    }
    let siglip = model("hf-siglip");
    let plain = program.run(&["zeroshot", "--model", &siglip, "--labels", "cat,dog", "landscape.jpg"]).ok();
    let multi =
        program.run(&["zeroshot", "--model", &siglip, "--labels", "cat,dog", "--multi-label", "landscape.jpg"]).ok();
    assert_eq!(plain, multi, "SigLIP scores labels one by one anyway");
    let run = program.run(&["zeroshot", "--model", &model("hf-clip-gelu"), "--labels", "cat", "landscape.jpg"]);
    assert!(run.stderr.contains("one label alone always gets the score 1"), "{}", run.stderr);
}

#[test]
fn prompts_of_each_class() {
    let (program, model) = (Program::new(), model("hf-clip-gelu"));
    let prompts = program.file("prompts.json", r#"{"dog": ["it barks", "a {} runs"], "cat": "it purrs"}"#);
    let run = |more: &[&str]| program.run(&[&["zeroshot", "--model", &model, "landscape.jpg"], more].concat());
    let own = run(&["--class-prompts", &prompts]).ok();
    assert_eq!(records(&own)[0]["predictions"].as_array().unwrap().len(), 2);
    assert_eq!(run(&["--templates", &prompts]).ok(), own);
    let stderr = run(&["--class-prompts", &prompts, "--labels", "dog,bird"]).fails(2);
    assert!(stderr.contains("no prompts for the class \"bird\""), "{stderr}");
    let templates = program.file("templates.txt", "a photo of a {}.\n");
    let stderr = run(&["--class-prompts", &templates]).fails(3);
    assert!(stderr.contains("no JSON object from labels to prompts"), "{stderr}");
    // The mean of several templates is not one of them, but has the same classes.
    let seven = run(&["--labels", "cat,dog", "--templates", "openai-7"]).ok();
    assert_ne!(seven, run(&["--labels", "cat,dog"]).ok());
}

#[test]
fn the_head_is_kept_and_damage_is_repaired() {
    let (program, model) = (Program::new(), model("hf-clip-gelu"));
    let run = |more: &[&str]| program.run(&softmax(&model, &[&["landscape.jpg", "-v"], more].concat()));
    let heads = program.directory().join("clip-cli/heads");
    let fresh = run(&["--no-cache"]).ok();
    assert!(!heads.exists());
    assert_eq!(run(&[]).ok(), fresh);
    let files: Vec<_> = std::fs::read_dir(&heads).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let kept = run(&[]);
    assert!(kept.stderr.contains("were kept in"), "{}", kept.stderr);
    assert_eq!(kept.ok(), fresh);

    let good = std::fs::read(&files[0]).unwrap();
    let mut bad = good.clone();
    bad[40] ^= 1;
    std::fs::write(&files[0], &bad).unwrap();
    assert_eq!(run(&[]).ok(), fresh);
    assert_eq!(std::fs::read(&files[0]).unwrap(), good);
    // Where the cache cannot be, nothing is lost.
    std::fs::remove_dir_all(&heads).unwrap();
    std::fs::write(&heads, "in the way").unwrap();
    assert_eq!(run(&[]).ok(), fresh);
}

#[test]
fn command_lines_that_make_no_sense() {
    let (program, model) = (Program::new(), model("hf-clip-gelu"));
    let twice = program.file("twice.txt", "cat\ndog\n\ncat\n");
    let empty = program.file("empty.txt", "\n");
    std::fs::create_dir(program.directory().join("nothing")).unwrap();
    let nothing = program.directory().join("nothing").display().to_string();
    for (code, message, arguments) in [
        (2, "no images", &["--labels", "cat"][..]),
        (2, "no labels given", &["landscape.jpg"]),
        (2, "label 2 is empty", &["landscape.jpg", "--labels", "cat,,dog"]),
        (2, "the label \"cat\" occurs twice, as label 1 and 3", &["landscape.jpg", "--labels", "cat,dog,cat"]),
        (3, "the label \"cat\" occurs twice, as line 1 and 4", &["landscape.jpg", "--labels-file", &twice]),
        (3, "no labels", &["landscape.jpg", "--labels-file", &empty]),
        (3, "no-file.txt: No such file", &["landscape.jpg", "--labels-file", "no-file.txt"]),
        (2, "cannot be used with", &["landscape.jpg", "--labels", "a", "--labels-file", &twice]),
        (2, "from 0 to 1", &["landscape.jpg", "--labels", "a,b", "--threshold", "1.5"]),
        (2, "from 0 to 1", &["landscape.jpg", "--labels", "a,b", "--threshold", "nan"]),
        (2, "from 1 up", &["landscape.jpg", "--labels", "a,b", "--top-k", "0"]),
        (2, "did you mean openai-80", &["landscape.jpg", "--labels", "a,b", "--templates", "openai80"]),
        (2, "cannot be read twice", &["-", "-", "--labels", "a,b"]),
        (3, "no images in", &[&nothing, "--labels", "a,b"]),
        (3, "mkdir -p", &["landscape.jpg", "--labels", "a,b", "--output", "no/such/place.jsonl"]),
        (2, "--eval", &["landscape.jpg", "--labels", "a,b", "--classnames", &twice]),
        (2, "one folder of class folders", &["landscape.jpg", "tiny.png", "--eval"]),
        (3, "neither a folder of class folders nor a table", &["landscape.jpg", "--eval"]),
        (3, "no folders in here", &[&nothing, "--eval"]),
    ] {
        let run = program.run(&[&["zeroshot", "--model", &model], arguments].concat());
        assert_eq!(run.stdout, "", "{arguments:?}");
        let stderr = run.fails(code);
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
    // An empty list is no mistake.
    assert_eq!(program.run(&softmax(&model, &["-"])).ok(), "");
}

/// A folder of two classes, and the prompts that tell them apart.
fn two_classes(program: &Program) -> String {
    for (class, image) in [
        ("n01", "landscape.jpg"),
        ("n01", "portrait.jpg"),
        ("n02", "tiny.png"),
        ("n02", "gray.jpg"),
        ("n02", "palette.png"),
    ] {
        let bytes = std::fs::read(super::golden_directory().join("images").join(image)).unwrap();
        program.file(&format!("set/{class}/{image}"), bytes);
    }
    program.directory().join("set").display().to_string()
}

#[test]
fn evaluation() {
    let (program, model) = (Program::new(), model("hf-clip-gelu"));
    let set = two_classes(&program);
    let names = program.file("names.tsv", "n01\ta cat\nn02\tan old house\n");
    let run = |more: &[&str]| {
        let arguments = ["zeroshot", "--eval", "--model", &model, "--dataset", "two"];
        program.run(&[&arguments[..], more].concat())
    };
    let report = run(&[&set, "--classnames", &names]).ok();
    assert_snapshot!(stable(&report), @"");
    assert_snapshot!(stable(&run(&[&set, "--classnames", &names, "--format", "csv"]).ok()), @"");
    assert_snapshot!(stable(&run(&[&set, "--classnames", &names, "--format", "table"]).ok()), @"");

    // The same images in a table give the same numbers, as predictions one by one do.
    let mut rows = "image,label\n".to_owned();
    let mut right = 0;
    for entry in ["n01/landscape.jpg", "n01/portrait.jpg", "n02/gray.jpg", "n02/palette.png", "n02/tiny.png"] {
        let (class, _) = entry.split_once('/').unwrap();
        rows += &format!("set/{entry},{class}\n");
        let image = format!("{set}/{entry}");
        let arguments = ["zeroshot", "--model", &model, "--labels", "a cat,an old house", &image];
        let first = records(&program.run(&arguments).ok())[0]["predictions"][0]["label"].clone();
        right += usize::from(first == if class == "n01" { "a cat" } else { "an old house" });
    }
    let table = program.file("table.csv", rows);
    assert_eq!(run(&[&table, "--classnames", &names]).ok(), report);
    assert_eq!(records(&report)[0]["metrics"]["acc1"], right as f64 / 5.0);

    // Without names the folders are the classes; images that cannot be read are named and left out.
    program.file("set/n02/broken.png", "");
    let run = run(&[&set]);
    assert_eq!(run.code, Some(1));
    let report = &records(&run.stdout)[0];
    assert_eq!((&report["n"], &report["classes"][0]["label"]), (&5.into(), &"n01".into()));
    assert!(report["failed"][0]["id"].as_str().unwrap().ends_with("set/n02/broken.png"));
    assert!(run.stderr.contains("broken.png"), "{}", run.stderr);
}

#[test]
fn golden_is_there() {
    assert!(!Golden::named("hf-siglip").texts().is_empty());
}
