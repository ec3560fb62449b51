//! `similarity`.

use super::{Sandbox, cosine, model, records, stable};
use crate::parity::Golden;
use clip_cli::model::spec::Objective;
use insta::assert_snapshot;

#[test]
fn cosines_logits_and_probabilities_of_the_references() {
    for golden in ["hf-clip-quickgelu", "hf-siglip"].map(Golden::named) {
        let sandbox = Sandbox::new();
        let model = golden.directory.display().to_string();
        let texts: Vec<String> = golden.texts().into_iter().filter(|text| !text.is_empty()).collect();
        let mut arguments = vec!["similarity", "--model", &model, "photos/landscape.jpg", "photos/portrait.jpg"];
        texts.iter().for_each(|text| arguments.extend(["--text", text]));
        let (images, rows) = (golden.numbers("image_embeds"), golden.numbers("text_embeds"));
        let dim = golden.clip().spec.embed_dim;
        let head = golden.clip().head().unwrap();
        for (option, tolerance) in [(None, 1e-5), (Some("--logits"), 1e-3), (Some("--probs"), 1e-4)] {
            let found = records(sandbox.run(&[&arguments[..], option.as_slice()].concat()).ok().as_bytes());
            for (record, image) in found.iter().zip(images.chunks(dim)) {
                let cosines: Vec<f32> = rows.chunks(dim).take(texts.len()).map(|text| cosine(image, text)).collect();
                let logits: Vec<f32> = cosines.iter().map(|x| head.scale * x + head.bias).collect();
                let sum: f32 = logits.iter().map(|x| x.exp()).sum();
                for (i, similar) in record["similarities"].as_array().unwrap().iter().enumerate() {
                    assert_eq!(similar["id"], texts[i].as_str());
                    let theirs = match (option, head.objective) {
                        (None, _) => cosines[i],
                        (Some("--logits"), _) => logits[i],
                        (_, Objective::Softmax) => logits[i].exp() / sum,
                        (_, Objective::Sigmoid) => 1.0 / (1.0 + (-logits[i]).exp()),
                    };
                    let ours = similar["score"].as_f64().unwrap();
                    assert!((ours - f64::from(theirs)).abs() < tolerance, "{option:?}: {ours} {theirs}");
                }
            }
        }
    }
}

#[test]
fn formats() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let run = |more: &[&str]| {
        let arguments = [
            "similarity",
            "--model",
            &model,
            "photos/landscape.jpg",
            "photos/no.jpg",
            "--text",
            "a cat",
            "--text",
            "a, dog",
        ];
        let run = sandbox.run(&[&arguments, more].concat());
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        stable(run.text())
    };
    assert_snapshot!(run(&[]), @r#"
    {"id":"photos/landscape.jpg","similarities":[{"id":"a cat","score":-0.255},{"id":"a, dog","score":-0.169}],"model":"hf-clip-gelu@SHA"}
    {"id":"photos/no.jpg","error":{"kind":"not_found","message":"No such file or directory (os error 2)"}}
    "#);
    assert_snapshot!(run(&["--format", "csv"]), @r#"
    id,a cat,"a, dog",error
    photos/landscape.jpg,-0.255,-0.169,
    photos/no.jpg,,,No such file or directory (os error 2)
    "#);
    assert_snapshot!(run(&["--format", "table", "--probs"]), @r#"
    ───────────────────────────────────────────────────────────────────────────────
                            a cat                                           a, dog 
    ═══════════════════════════════════════════════════════════════════════════════
     photos/landscape.jpg                                          28.4 %   71.6 % 
     photos/no.jpg          error: No such file or directory (os error 2)          
    ───────────────────────────────────────────────────────────────────────────────
    "#);
    assert_snapshot!(run(&["--pairs"]), @r#"
    {"id":"photos/landscape.jpg","other":"a cat","score":-0.255,"model":"hf-clip-gelu@SHA"}
    {"id":"photos/no.jpg","error":{"kind":"not_found","message":"No such file or directory (os error 2)"}}
    "#);
    assert_snapshot!(run(&["--pairs", "--format", "csv"]), @r#"
    id,other,score,error
    photos/landscape.jpg,a cat,-0.255,
    photos/no.jpg,"a, dog",,No such file or directory (os error 2)
    "#);
}

#[test]
fn embeddings_alone_need_no_model() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    let embed = |more: &[&str]| sandbox.run(&[&["embed", "--model", &model], more].concat()).ok();
    let photos = sandbox.file("photos.jsonl", embed(&["photos/landscape.jpg", "photos/portrait.jpg"]));
    let texts = sandbox.file("texts.jsonl", embed(&["--text", "a cat", "--text", "a dog"]));
    let recorded = sandbox.run(&["similarity", &photos, "--with", &texts]).ok();
    let arguments = [
        "similarity",
        "--model",
        &model,
        "photos/landscape.jpg",
        "photos/portrait.jpg",
        "--text",
        "a cat",
        "--text",
        "a dog",
    ];
    assert_eq!(recorded, sandbox.run(&arguments).ok());
    let piped = sandbox.run_with(&["similarity", "-", "--with", &texts], std::fs::read(&photos).unwrap()).ok();
    assert_eq!(piped, recorded);

    // Without anything to compare with, inputs are compared with each other.
    let all = records(sandbox.run(&["similarity", &photos]).ok().as_bytes());
    assert_eq!(all.len(), 2);
    assert!((all[0]["similarities"][0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    assert_eq!(all[0]["similarities"][1]["score"], all[1]["similarities"][0]["score"]);

    let other = super::model("hf-clip-quickgelu");
    let other = sandbox.file("other.jsonl", sandbox.run(&["embed", "--model", &other, "photos/tiny.png"]).ok());
    let stderr = sandbox.run(&["similarity", &photos, "--with", &other]).fails(3);
    assert!(stderr.contains("hf-clip-gelu@") && stderr.contains("hf-clip-quickgelu@"), "{stderr}");
}

#[test]
fn command_lines_that_make_no_sense() {
    let (sandbox, model) = (Sandbox::new(), model("hf-clip-gelu"));
    for (code, message, arguments) in [
        (2, "nothing to compare", &[][..]),
        (2, "--pairs needs inputs", &["--text", "a", "--pairs"]),
        (2, "a pair alone has no probability", &["photos/landscape.jpg", "--text", "a", "--pairs", "--probs"]),
        (2, "cannot be used with", &["photos/landscape.jpg", "--text", "a", "--logits", "--probs"]),
        (2, "cannot be read twice", &["-", "--texts", "-"]),
        (3, "more inputs than things", &["photos/landscape.jpg", "photos/tiny.png", "--text", "a", "--pairs"]),
        (3, "fewer inputs than things", &["photos/landscape.jpg", "--text", "a", "--text", "b", "--pairs"]),
        (3, "no-file.txt", &["photos/landscape.jpg", "--texts", "no-file.txt"]),
    ] {
        let stderr = sandbox.run(&[&["similarity", "--model", &model], arguments].concat()).fails(code);
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
}
