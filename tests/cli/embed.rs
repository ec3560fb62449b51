//! `embed`: records, order, and what must not change the numbers.

use super::{Sandbox, checkpoints, numbers, summary};

const PHOTOS: [&str; 8] =
    ["cmyk.jpg", "gray.jpg", "landscape.jpg", "odd-margin.png", "palette.png", "portrait.jpg", "rgba.png", "tiny.png"];

#[test]
fn records_keep_the_contract() {
    let sandbox = Sandbox::new();
    let ran = sandbox.embed(&["photos/tiny.png", "photos/none.png", "--text", "a photo of a dog"]).code(1);
    let records = ran.records();
    let keys = |index: usize| records[index].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(0), "dim embedding id kind model");
    assert_eq!(keys(1), "error id");
    assert_eq!(keys(2), "dim embedding id kind model");
    for (record, kind, id) in [(&records[0], "image", "photos/tiny.png"), (&records[2], "text", "a photo of a dog")] {
        assert_eq!((record["kind"].as_str(), record["id"].as_str()), (Some(kind), Some(id)));
        let model = record["model"].as_str().unwrap();
        let (name, sha) = model.split_once('@').unwrap();
        assert_eq!((name, sha.len()), ("hf-clip-quickgelu", 8), "{model}");
        let embedding = numbers(record);
        assert_eq!(record["dim"], embedding.len());
        let norm: f32 = embedding.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
    let error = serde_json::to_string(&records[1]).unwrap();
    insta::assert_snapshot!(error, @r#"{"error":{"kind":"not_found","message":"No such file or directory (os error 2)"},"id":"photos/none.png"}"#);
    insta::assert_snapshot!(ran.stderr, @"warning: 1 of 3 items failed; the first: photos/none.png: No such file or directory (os error 2)");
    let start = String::from_utf8_lossy(&ran.stdout[..40]).into_owned();
    assert!(start.starts_with(r#"{"id":"photos/tiny.png","kind":"image","#), "{start}");
}

#[test]
fn inputs_keep_their_order() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("photos/b")).unwrap();
    std::fs::create_dir(sandbox.path("photos/.hidden")).unwrap();
    for name in ["b/z.PNG", "b/a.jpeg", ".hidden/x.png", ".dot.png", "notes.txt", "a.png"] {
        std::fs::copy(sandbox.path("photos/tiny.png"), sandbox.path("photos").join(name)).unwrap();
    }
    let all = ["a.png", "b/a.jpeg", "b/z.PNG"].into_iter().chain(PHOTOS).map(|name| format!("photos/{name}"));
    let all: Vec<String> = all.collect();
    assert_eq!(sandbox.embed(&["photos"]).code(0).ids(), all);
    // A file that is named is always tried; nothing is left out for being there twice.
    let ran = sandbox.embed(&["photos/tiny.png", "--text", "two", "photos/notes.txt", "--text", "one", "photos/b"]);
    let ids = ["photos/tiny.png", "photos/notes.txt", "photos/b/a.jpeg", "photos/b/z.PNG", "two", "one"];
    assert_eq!(ran.code(0).ids(), ids);
}

#[test]
fn lists_on_standard_input() {
    let sandbox = Sandbox::new();
    let files = ["photos/rgba.png", "photos/tiny.png"];
    let ran = sandbox.embed_with(&["photos/gray.jpg", "-"], "photos/rgba.png\r\n\nphotos/tiny.png").code(0);
    assert_eq!(ran.ids(), ["photos/gray.jpg", files[0], files[1]]);
    let ran = sandbox.embed_with(&["-0", "-"], "photos/rgba.png\0photos/tiny.png\0").code(0);
    assert_eq!(ran.ids(), files);
    let ran = sandbox.embed_with(&["--texts", "-"], "\u{feff}one\ntwo words\r\n\n  three").code(0);
    assert_eq!(ran.ids(), ["one", "two words", "  three"]);
    let texts = sandbox.write("texts", "one\ntwo\0three");
    let ran = sandbox.embed(&["-0", "--text", "zero", "--texts", texts.to_str().unwrap()]).code(0);
    assert_eq!(ran.ids(), ["zero", "one\ntwo", "three"]);
    let ran = sandbox.embed(&["-"]).code(0);
    assert_eq!((ran.stdout.as_slice(), ran.stderr.as_str()), (&b""[..], "nothing to embed: the list is empty\n"));
}

#[test]
fn no_thread_worker_or_batch_changes_a_byte() {
    let sandbox = Sandbox::new();
    let long = "a very long caption of a photo ".repeat(20);
    let texts = ["a", "a photo of a dog", &long, "", "ünïcode ☃", "two dogs and a cat on a sofa", "b"];
    let texts: Vec<&str> = texts.iter().flat_map(|text| ["--text", text]).collect();
    for model in checkpoints() {
        let run = |settings: &str| {
            let inputs = ["embed", "photos", "photos/none.png", "photos", "--model", model.to_str().unwrap()];
            let settings = settings.split_whitespace();
            let args: Vec<&str> = inputs.into_iter().chain(texts.iter().copied()).chain(settings).collect();
            sandbox.run(&args).code(1)
        };
        let reference = run("--threads 1 --workers 1 --batch-size 1");
        assert_eq!(reference.records().len(), 24);
        for settings in ["", "--threads 3 --workers 2 --batch-size 5", "--threads 2 --workers 5 --batch-size 64"] {
            let ran = run(settings);
            let differing: Vec<String> = (reference.records().iter().zip(ran.records()))
                .filter(|(a, b)| *a != b)
                .map(|(a, _)| summary(a))
                .collect();
            assert!(differing.is_empty(), "{} {settings:?}: {differing:?}", model.display());
            assert!(reference.stdout == ran.stdout, "{} {settings:?}", model.display());
        }
    }
}

#[test]
fn embeddings_as_the_model_gives_them() {
    let sandbox = Sandbox::new();
    let unit = numbers(&sandbox.embed(&["photos/tiny.png"]).code(0).records()[0]);
    let raw = numbers(&sandbox.embed(&["photos/tiny.png", "--no-normalize"]).code(0).records()[0]);
    let again = numbers(&sandbox.embed(&["photos/tiny.png", "--no-normalize", "--normalize"]).code(0).records()[0]);
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() > 1e-3, "the tower gives unit vectors itself");
    assert!(raw.iter().zip(&unit).all(|(raw, unit)| (raw / length - unit).abs() < 1e-6));
    assert_eq!(again, unit);
}

#[test]
fn truncated_texts_are_counted_once() {
    let sandbox = Sandbox::new();
    let long = "word ".repeat(500);
    let ran = sandbox.embed(&["--text", &long, "--text", "short", "--text", &long]).code(0);
    insta::assert_snapshot!(ran.stderr, @"warning: 2 texts were longer than the model's 77 tokens and cut short");
    assert_eq!(sandbox.embed(&["--text", &long, "--quiet"]).code(0).stderr, "");
}

#[test]
fn exif_and_pixel_limits() {
    let sandbox = Sandbox::new();
    let ran = sandbox.embed(&["photos/tiny.png", "photos/rgba.png", "--max-pixels", "1000"]).code(1);
    assert_eq!(ran.ids(), ["photos/tiny.png", "photos/rgba.png: too_large"]);
}

#[test]
#[cfg(feature = "builtin")]
fn the_built_in_model_is_announced() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["embed", "photos/tiny.png"]).code(0);
    assert!(ran.stderr.starts_with("using the built-in model builtin@"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1);
    assert_eq!(sandbox.run(&["embed", "photos/tiny.png", "-q"]).code(0).stderr, "");
    assert_eq!(sandbox.run(&["embed", "photos/tiny.png", "--model", "builtin"]).code(0).stderr, "");
}
