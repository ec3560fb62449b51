//! `zeroshot`.

use super::{Sandbox, cosine, model, records, stable};
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
        let sandbox = Sandbox::new();
        // An empty text makes no label; for softmax the others share its part.
        let all = golden.texts();
        let labels: Vec<&String> = all.iter().filter(|text| !text.is_empty()).collect();
        let file = sandbox.file("labels.json", serde_json::to_string(&labels).unwrap());
        let model = golden.directory.display().to_string();
        let images: Vec<String> = golden.images.iter().map(|path| path.display().to_string()).collect();
        let mut arguments = vec!["zeroshot", "--model", &model, "--labels-file", &file, "--templates", "{}"];
        arguments.extend(images.iter().map(String::as_str));
        let found = records(sandbox.run(&arguments).ok().as_bytes());

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
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let run = |more: &[&str]| {
        let run = sandbox.run(&softmax(&model, &[&["photos/landscape.jpg", "photos/no.jpg"], more].concat()));
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains("1 of 2 items failed"), "{}", run.stderr);
        stable(run.text())
    };
    assert_snapshot!(run(&[]), @r#"
    {"id":"photos/landscape.jpg","predictions":[{"label":"dog","score":0.604},{"label":"house, old","score":0.234},{"label":"cat","score":0.160}],"model":"hf-clip-gelu@SHA"}
    {"id":"photos/no.jpg","error":{"kind":"not_found","message":"No such file or directory (os error 2)"}}
    "#);
    assert_snapshot!(run(&["--format", "csv", "-k", "2"]), @r#"
    id,rank,label,score,error
    photos/landscape.jpg,1,dog,0.604,
    photos/landscape.jpg,2,"house, old",0.234,
    photos/no.jpg,,,,No such file or directory (os error 2)
    "#);
    assert_snapshot!(run(&["--format", "tsv", "--top-k", "1"]), @r#"
    id	rank	label	score	error
    photos/landscape.jpg	1	dog	0.604	
    photos/no.jpg				No such file or directory (os error 2)
    "#);
    assert_snapshot!(run(&["--format", "table", "-k", "2"]), @r#"
    ───────────────────────────────────────────────────────────────────────────────
     image                  label                                           score  
    ═══════════════════════════════════════════════════════════════════════════════
     photos/landscape.jpg   dog                                             60.5 % 
                            house, old                                      23.4 % 
    ───────────────────────────────────────────────────────────────────────────────
     photos/no.jpg          error: No such file or directory (os error 2)          
    ───────────────────────────────────────────────────────────────────────────────
    "#);
}

#[test]
fn thresholds_and_ranks() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let labels = |more: &[&str]| {
        let stdout = sandbox.run(&softmax(&model, &[&["photos/landscape.jpg"], more].concat())).ok();
        records(stdout.as_bytes())[0]["predictions"].as_array().unwrap().len()
    };
    assert_eq!(labels(&[]), 3);
    assert_eq!(labels(&["-k", "2"]), 2);
    assert_eq!(labels(&["--threshold", "0"]), 3);
    assert_eq!(labels(&["--threshold", "1"]), 0);
    // No label reaches the threshold: the image is still there.
    let csv = sandbox.run(&softmax(&model, &["photos/landscape.jpg", "--threshold", "1", "--format", "csv"])).ok();
    assert_eq!(csv, "id,rank,label,score,error\nphotos/landscape.jpg,,,,\n");
}

#[test]
fn embeddings_give_the_same_bytes_as_images() {
    for model in ["hf-clip-quickgelu", "open_clip-siglip"].map(model) {
        let sandbox = Sandbox::new();
        let list = "photos/landscape.jpg\nphotos/no.jpg\nphotos/tiny.png\nphotos/portrait.jpg\n";
        let direct = sandbox.run_with(&softmax(&model, &["-"]), list);
        assert_eq!(direct.code, Some(1));
        let embedded = sandbox.run_with(&["embed", "--model", &model, "-"], list).stdout;
        let piped = sandbox.run_with(&softmax(&model, &["-"]), embedded.clone());
        assert_eq!((piped.code, &piped.stdout), (Some(1), &direct.stdout));
        let file = sandbox.file("photos.jsonl", &embedded);
        assert_eq!(sandbox.run(&softmax(&model, &[&file])).stdout, direct.stdout);
        // Images and embeddings in one run, in the order of the command line.
        let both = sandbox.run(&softmax(&model, &["photos/tiny.png", &file, "photos/tiny.png"])).text().to_owned();
        let lines: Vec<&str> = direct.text().lines().collect();
        let expected = [&lines[2..3], &lines[..], &lines[2..3]].concat();
        assert_eq!(both.lines().collect::<Vec<_>>(), expected);
        // Neither threads nor batches change a byte.
        let more = ["-", "--threads", "1", "--batch-size", "3", "--workers", "2"];
        assert_eq!(sandbox.run_with(&softmax(&model, &more), list).stdout, direct.stdout);
    }
}

#[test]
fn embeddings_that_cannot_be_used() {
    let sandbox = Sandbox::new();
    let (own, other) = (model("hf-clip-gelu"), model("hf-clip-quickgelu"));
    let embedded = sandbox.run(&["embed", "--model", &other, "photos/landscape.jpg"]).ok();
    let stderr = sandbox.run_with(&softmax(&own, &["-"]), embedded).fails(3);
    assert_snapshot!(stable(&stderr), @r#"
    error: photos/landscape.jpg: the embedding comes from the model hf-clip-quickgelu@SHA, but this is hf-clip-gelu@SHA
    hint: use the model that made the embeddings: --model
    "#);

    let id = records(sandbox.run(&["embed", "--model", &own, "photos/tiny.png"]).ok().as_bytes())[0]["model"].clone();
    let lines = format!(
        "{{\"id\":\"a\",\"embedding\":[1,2],\"model\":{id}}}\n{{\"id\":\"b\"}}\n{{\"id\":\"c\",\"error\":{{\"kind\":\"truncated\",\"message\":\"short\"}}}}\n{{oops\n"
    );
    let run = sandbox.run_with(&softmax(&own, &["-"]), lines);
    assert_eq!(run.code, Some(1));
    assert_snapshot!(stable(run.text()), @r#"
    {"id":"a","error":{"kind":"invalid","message":"the embedding has 2 numbers, those of hf-clip-gelu@SHA have 48"}}
    {"id":"b","error":{"kind":"invalid","message":"the record has neither an embedding nor an error"}}
    {"id":"c","error":{"kind":"truncated","message":"short"}}
    {"id":"standard input, record 4","error":{"kind":"invalid","message":"not one of `embed`'s records: key must be a string at line 1 column 2"}}
    "#);

    let texts = sandbox.run(&["embed", "--model", &own, "--text", "a cat"]).ok();
    let run = sandbox.run_with(&softmax(&own, &["-"]), texts);
    assert_eq!(run.code, Some(1));
    assert!(run.text().contains("the embedding of a text"), "{}", run.text());
}

#[test]
fn several_labels() {
    let sandbox = Sandbox::new();
    let scores = |model: &str, labels: &str| -> HashMap<String, f64> {
        let arguments = ["zeroshot", "--model", model, "--labels", labels, "--multi-label", "photos/landscape.jpg"];
        let record = &records(sandbox.run(&arguments).ok().as_bytes())[0];
        let pair = |p: &serde_json::Value| (p["label"].as_str().unwrap().to_owned(), p["score"].as_f64().unwrap());
        record["predictions"].as_array().unwrap().iter().map(pair).collect()
    };
    for model in ["hf-clip-gelu", "hf-siglip"].map(model) {
        // A label's score does not depend on the others.
        assert_eq!(scores(&model, "cat,dog")["cat"], scores(&model, "bird,house,cat")["cat"]);
    }
    let siglip = model("hf-siglip");
    let plain = sandbox.run(&["zeroshot", "--model", &siglip, "--labels", "cat,dog", "photos/landscape.jpg"]).ok();
    let multi = sandbox
        .run(&["zeroshot", "--model", &siglip, "--labels", "cat,dog", "--multi-label", "photos/landscape.jpg"])
        .ok();
    assert_eq!(plain, multi, "SigLIP scores labels one by one anyway");
    let run = sandbox.run(&["zeroshot", "--model", &model("hf-clip-gelu"), "--labels", "cat", "photos/landscape.jpg"]);
    assert!(run.stderr.contains("one label alone always gets the score 1"), "{}", run.stderr);
}

#[test]
fn prompts_of_each_class() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let prompts = sandbox.file("prompts.json", r#"{"dog": ["It barks.", "a {} runs"], "cat": "a wet nose"}"#);
    let run = |more: &[&str]| sandbox.run(&[&["zeroshot", "--model", &model, "photos/landscape.jpg"], more].concat());
    let own = run(&["--class-prompts", &prompts]).ok();
    assert_eq!(records(own.as_bytes())[0]["predictions"].as_array().unwrap().len(), 2);
    assert_eq!(run(&["--templates", &prompts]).ok(), own);
    // A feature says something of a label, whatever the case of its name.
    let spelt = r#"{"Dog": ["It barks.", "a dog runs"], "cat": ["cat, which is a wet nose"]}"#;
    let spelt = sandbox.file("spelt.json", spelt);
    assert_eq!(run(&["--class-prompts", &spelt, "--labels", "cat,dog"]).ok(), own);
    let stderr = run(&["--class-prompts", &prompts, "--labels", "dog,bird"]).fails(2);
    assert!(stderr.contains("no prompts for the class \"bird\""), "{stderr}");
    let templates = sandbox.file("templates.txt", "a photo of a {}.\n");
    let stderr = run(&["--class-prompts", &templates]).fails(3);
    assert!(stderr.contains("no JSON object from labels to prompts"), "{stderr}");
    // The mean of several templates is not one of them, but has the same classes.
    let seven = run(&["--labels", "cat,dog", "--templates", "openai-7"]).ok();
    assert_ne!(seven, run(&["--labels", "cat,dog"]).ok());
}

#[test]
fn the_head_is_kept_and_damage_is_repaired() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let run = |more: &[&str]| sandbox.run(&softmax(&model, &[&["photos/landscape.jpg", "-v"], more].concat()));
    let heads = sandbox.path("cache/clip-cli/heads");
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
    // Another tokenizer is another text tower: nothing that was kept counts.
    let copy = sandbox.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(&model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let run_copy = || sandbox.run(&softmax(copy.to_str().unwrap(), &["photos/landscape.jpg"])).ok();
    let count = || std::fs::read_dir(&heads).unwrap().count();
    run_copy();
    assert_eq!(count(), 1, "the same files under another name");
    let tokenizer = copy.join("tokenizer.json");
    std::fs::write(&tokenizer, std::fs::read_to_string(&tokenizer).unwrap() + "\n").unwrap();
    run_copy();
    assert_eq!(count(), 2);
    // Where the cache cannot be, nothing is lost.
    std::fs::remove_dir_all(&heads).unwrap();
    std::fs::write(&heads, "in the way").unwrap();
    assert_eq!(run(&[]).ok(), fresh);
}

#[test]
fn command_lines_that_make_no_sense() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let twice = sandbox.file("twice.txt", "cat\ndog\n\ncat\n");
    let empty = sandbox.file("empty.txt", "\n");
    std::fs::create_dir(sandbox.path("nothing")).unwrap();
    let nothing = sandbox.path("nothing").display().to_string();
    for (code, message, arguments) in [
        (2, "no images", &["--labels", "cat"][..]),
        (2, "no labels given", &["photos/landscape.jpg"]),
        (2, "label 2 is empty", &["photos/landscape.jpg", "--labels", "cat,,dog"]),
        (2, "the label \"cat\" occurs twice, as label 1 and 3", &["photos/landscape.jpg", "--labels", "cat,dog,cat"]),
        (3, "the label \"cat\" occurs twice, as line 1 and 4", &["photos/landscape.jpg", "--labels-file", &twice]),
        (3, "no labels", &["photos/landscape.jpg", "--labels-file", &empty]),
        (3, "no-file.txt: No such file", &["photos/landscape.jpg", "--labels-file", "no-file.txt"]),
        (2, "cannot be used with", &["photos/landscape.jpg", "--labels", "a", "--labels-file", &twice]),
        (2, "from 0 to 1", &["photos/landscape.jpg", "--labels", "a,b", "--threshold", "1.5"]),
        (2, "from 0 to 1", &["photos/landscape.jpg", "--labels", "a,b", "--threshold", "nan"]),
        (2, "from 1 up", &["photos/landscape.jpg", "--labels", "a,b", "--top-k", "0"]),
        (2, "did you mean openai-80", &["photos/landscape.jpg", "--labels", "a,b", "--templates", "openai80"]),
        (2, "cannot be read twice", &["-", "-", "--labels", "a,b"]),
        (3, "no images in", &[&nothing, "--labels", "a,b"]),
        (3, "mkdir -p", &["photos/landscape.jpg", "--labels", "a,b", "--output", "no/such/place.jsonl"]),
        (2, "--eval", &["photos/landscape.jpg", "--labels", "a,b", "--classnames", &twice]),
        (2, "one folder of class folders", &["photos/landscape.jpg", "photos/tiny.png", "--eval"]),
        (3, "neither a folder of class folders nor a table", &["photos/landscape.jpg", "--eval"]),
        (3, "no folders in here", &[&nothing, "--eval"]),
    ] {
        let run = sandbox.run(&[&["zeroshot", "--model", &model], arguments].concat());
        assert_eq!(run.text(), "", "{arguments:?}");
        let stderr = run.fails(code);
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
    // An empty list is no mistake.
    assert_eq!(sandbox.run(&softmax(&model, &["-"])).ok(), "");
}

/// A folder of two classes, and the prompts that tell them apart.
fn two_classes(sandbox: &Sandbox) -> String {
    for (class, image) in [
        ("n01", "landscape.jpg"),
        ("n01", "portrait.jpg"),
        ("n02", "tiny.png"),
        ("n02", "gray.jpg"),
        ("n02", "palette.png"),
    ] {
        let bytes = std::fs::read(sandbox.path("photos").join(image)).unwrap();
        sandbox.file(&format!("set/{class}/{image}"), bytes);
    }
    sandbox.path("set").display().to_string()
}

#[test]
fn evaluation() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let set = two_classes(&sandbox);
    let names = sandbox.file("names.tsv", "n01\ta cat\nn02\tan old house\n");
    let run = |more: &[&str]| {
        let arguments = ["zeroshot", "--eval", "--model", &model, "--dataset", "two"];
        sandbox.run(&[&arguments[..], more].concat())
    };
    let report = run(&[&set, "--classnames", &names]).ok();
    assert_snapshot!(stable(&report), @r#"{"dataset":"two","model":"hf-clip-gelu","pretrained":"hf-clip-gelu@SHA","task":"zeroshot_classification","metrics":{"acc1":0.8,"acc5":null,"mean_per_class_recall":0.833},"language":"en","intervals":{"acc1":[0.375,0.963],"acc5":null,"mean_per_class_recall":[0.432,0.969]},"n":5,"templates":"simple","classes":[{"label":"a cat","n":2,"recall":1.0,"precision":0.666,"confused_with":null},{"label":"an old house","n":3,"recall":0.666,"precision":1.0,"confused_with":{"label":"a cat","n":1}}],"failed":[],"version":"VERSION"}"#);
    assert_snapshot!(stable(&run(&[&set, "--classnames", &names, "--format", "csv"]).ok()), @r#"
    label,n,recall,precision,confused_with,confused_n
    a cat,2,1,0.666,,
    an old house,3,0.666,1,a cat,1
    "#);
    assert_snapshot!(stable(&run(&[&set, "--classnames", &names, "--format", "table"]).ok()), @r#"
    ───────────────────────────────────────────────────────────────
     class          n   recall    precision   most often taken for 
    ═══════════════════════════════════════════════════════════════
     a cat          2   100.0 %      66.7 %                        
     an old house   3    66.7 %     100.0 %   a cat (1)            
    ───────────────────────────────────────────────────────────────
    ──────────────────────────────────────────────────
     metric                  value    95 % interval   
    ══════════════════════════════════════════════════
     acc1                    80.0 %   37.6 % – 96.4 % 
     acc5                         –                   
     mean_per_class_recall   83.3 %   43.2 % – 96.9 % 
    ──────────────────────────────────────────────────
    two: 5 images, 2 classes, hf-clip-gelu@SHA, templates simple
    "#);

    // The same images in a table give the same numbers, as predictions one by one do.
    let mut rows = "image,label\n".to_owned();
    let mut right = 0;
    for entry in ["n01/landscape.jpg", "n01/portrait.jpg", "n02/gray.jpg", "n02/palette.png", "n02/tiny.png"] {
        let (class, _) = entry.split_once('/').unwrap();
        rows += &format!("set/{entry},{class}\n");
        let image = format!("{set}/{entry}");
        let arguments = ["zeroshot", "--model", &model, "--labels", "a cat,an old house", &image];
        let first = records(sandbox.run(&arguments).ok().as_bytes())[0]["predictions"][0]["label"].clone();
        right += usize::from(first == if class == "n01" { "a cat" } else { "an old house" });
    }
    let table = sandbox.file("table.csv", rows);
    assert_eq!(run(&[&table, "--classnames", &names]).ok(), report);
    assert_eq!(records(report.as_bytes())[0]["metrics"]["acc1"], right as f64 / 5.0);

    // Without names the folders are the classes; images that cannot be read are named and left out.
    sandbox.file("set/n02/broken.png", "");
    let run = run(&[&set]);
    assert_eq!(run.code, Some(1));
    let report = &run.records()[0];
    assert_eq!((&report["n"], &report["classes"][0]["label"]), (&5.into(), &"n01".into()));
    assert!(report["failed"][0]["id"].as_str().unwrap().ends_with("set/n02/broken.png"));
    assert!(run.stderr.contains("broken.png"), "{}", run.stderr);
}
