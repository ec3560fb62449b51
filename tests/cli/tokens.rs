//! `embed --layer`, `--tokens` and `--pool`.

use super::{Sandbox, model, numbers};
use serde_json::Value;

fn embed(sandbox: &Sandbox, model_name: &str, args: &str) -> super::Ran {
    let model = model(model_name);
    let args: Vec<&str> = ["embed", "--model", &model].into_iter().chain(args.split_whitespace()).collect();
    sandbox.run(&args)
}

fn tokens(record: &Value) -> Vec<Vec<f32>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    record["tokens"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_record_holds_the_tokens_of_an_item() {
    let sandbox = Sandbox::new();
    let ran = embed(&sandbox, "hf-clip-gelu", "photos/tiny.png photos/none.png photos/rgba.png --tokens").code(1);
    assert_eq!(ran.ids(), ["photos/tiny.png", "photos/none.png: not_found", "photos/rgba.png"]);
    let record = &ran.records()[0];
    assert_eq!(record["shape"], serde_json::json!([17, 80]));
    assert!(record["model"].as_str().unwrap().ends_with("/layer-1/tokens"), "{}", record["model"]);
    assert!(record.get("embedding").is_none());
    let all = tokens(record);
    assert!(all.len() == 17 && all.iter().all(|token| token.len() == 80));
    // One token alone is the same as that token among all of them.
    for (pool, at) in [("first", 0), ("cls", 0), ("last", 16)] {
        let one = embed(&sandbox, "hf-clip-gelu", &format!("photos/tiny.png --pool {pool}")).code(0);
        assert_eq!(numbers(&one.records()[0]), all[at], "{pool}");
        assert_eq!(one.records()[0]["dim"], 80);
    }
    let mean = numbers(&embed(&sandbox, "hf-clip-gelu", "photos/tiny.png --pool mean").code(0).records()[0]);
    let max = numbers(&embed(&sandbox, "hf-clip-gelu", "photos/tiny.png --pool max").code(0).records()[0]);
    for i in 0..80 {
        // The class token is no patch.
        let patches = all[1..].iter().map(|token| token[i]);
        assert!((mean[i] - patches.clone().sum::<f32>() / 16.0).abs() < 1e-6);
        assert_eq!(max[i], patches.fold(f32::NEG_INFINITY, f32::max));
    }
}

#[test]
fn layers_differ_and_count_from_both_ends() {
    let sandbox = Sandbox::new();
    let layer = |more: &str| {
        let ran = embed(&sandbox, "hf-clip-gelu", &format!("photos/tiny.png --text cat {more}")).code(0);
        ran.records().iter().map(|record| record["embedding"].clone()).collect::<Vec<_>>()
    };
    // The widths of both towers differ; their projections do not.
    let ran = embed(&sandbox, "hf-clip-gelu", "photos/tiny.png --text cat --layer 1");
    insta::assert_snapshot!(ran.fails(2), @"
    error: tokens of images are 80 numbers long, those of texts 72
    hint: embed images and texts in two runs
    ");
    let (projected, plain) = (layer("--project"), layer("--no-normalize"));
    for (projected, plain) in projected.iter().zip(&plain) {
        let [projected, plain] = [projected, plain].map(|x| serde_json::from_value::<Vec<f32>>(x.clone()).unwrap());
        assert!(projected.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5), "{projected:?} {plain:?}");
    }
    let one = |more: &str| embed(&sandbox, "hf-clip-gelu", &format!("--text cat {more}")).code(0).records()[0].clone();
    let vectors: Vec<Value> = ["0", "1", "2"].map(|n| one(&format!("--layer {n}"))["embedding"].clone()).into();
    assert!(vectors[0] != vectors[1] && vectors[1] != vectors[2]);
    assert_eq!(["-3", "-2", "-1"].map(|n| one(&format!("--layer {n}"))["embedding"].clone()).to_vec(), vectors);
    assert_ne!(one("--layer 2 --final-norm")["embedding"], vectors[2]);
    let unit = numbers(&one("--layer 2 --normalize"));
    assert!((unit.iter().map(|x| x * x).sum::<f32>().sqrt() - 1.0).abs() < 1e-5);
    insta::assert_snapshot!(embed(&sandbox, "hf-clip-gelu", "--text cat --layer 3").fails(2), @"
    error: there is no layer 3: the tower has 2
    hint: 0 to 2, or -1 to -3 from the end
    ");
}

#[test]
fn an_array_of_three_dimensions() {
    let sandbox = Sandbox::new();
    embed(&sandbox, "hf-siglip", "photos --tokens --layer 1 --output out.npy").code(0);
    assert_eq!(sandbox.names(), ["out.ids.jsonl", "out.npy", "out.npy.meta.json"]);
    let bytes = sandbox.read("out.npy");
    let header = String::from_utf8_lossy(&bytes[10..128]).into_owned();
    assert_eq!(header.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 9, 64), }");
    assert_eq!(bytes.len(), 128 + 8 * 9 * 64 * 4);
    let records = embed(&sandbox, "hf-siglip", "photos --tokens --layer 1").code(0).records();
    let numbers = bytes[128..].chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
    assert!(numbers.eq(records.iter().flat_map(|record| tokens(record).concat())));
    insta::assert_snapshot!(embed(&sandbox, "hf-siglip", "photos --tokens -o out.safetensors").fails(2), @"
    error: safetensors has no room for all tokens of an item
    hint: choose another with --format jsonl|npy, or one vector an item with --pool
    ");
}

#[test]
fn items_of_other_shapes_do_not_fit_into_an_array() {
    let sandbox = Sandbox::new();
    // NaFlex gives a portrait fewer patches than a landscape.
    let photos = "photos/landscape.jpg photos/portrait.jpg photos/tiny.png --tokens";
    let shapes = embed(&sandbox, "hf-siglip2-naflex", photos).code(0).records();
    let shapes: Vec<&Value> = shapes.iter().map(|record| &record["shape"]).collect();
    assert_eq!(serde_json::to_string(&shapes).unwrap(), "[[20,48],[18,48],[20,48]]");
    let ran = embed(&sandbox, "hf-siglip2-naflex", &format!("{photos} --output out.npy")).code(1);
    insta::assert_snapshot!(ran.stderr, @"warning: 1 of 3 items failed; the first: photos/portrait.jpg: its 18 tokens do not fit into an array of 20 an item; JSON Lines would take it");
    assert!(String::from_utf8_lossy(&sandbox.read("out.npy")).contains("'shape': (2, 20, 48)"));
    assert!(String::from_utf8(sandbox.read("out.errors.jsonl")).unwrap().contains("photos/portrait.jpg"));
}

#[test]
fn what_a_tower_cannot_give_is_refused() {
    let sandbox = Sandbox::new();
    let refused = |model: &str, args: &str| embed(&sandbox, model, args).fails(2);
    insta::assert_snapshot!(refused("custom-text-effnet", "photos --tokens"), @"error: this image tower is no transformer: it has no tokens to read");
    insta::assert_snapshot!(refused("hf-siglip", "photos --project"), @"error: this image tower pools by attention: its tokens have no projection of their own");
    insta::assert_snapshot!(refused("hf-siglip", "photos --pool cls"), @"
    error: this tower has no class token
    hint: choose another with --pool mean|max|first|last
    ");
    insta::assert_snapshot!(refused("hf-clip-gelu", "photos --project --layer 1"), @"
    error: --project maps the tokens of the last layer
    hint: leave --layer out
    ");
    // Without a class token the mean is taken.
    let mean = embed(&sandbox, "hf-siglip", "photos/tiny.png --layer 1").code(0).records();
    assert!(mean[0]["model"].as_str().unwrap().ends_with("/layer1/mean"));
}

#[test]
fn tokens_are_no_embeddings_for_other_commands() {
    let sandbox = Sandbox::new();
    let model = model("hf-clip-gelu");
    let records = embed(&sandbox, "hf-clip-gelu", "photos/tiny.png --project").code(0).stdout;
    let file = sandbox.file("tokens.jsonl", records);
    let stderr = sandbox.run(&["zeroshot", "--model", &model, "--labels", "cat,dog", &file]).fails(3);
    assert!(stderr.contains("layer-1+norm+project/cls"), "{stderr}");
}

#[test]
fn no_thread_or_batch_changes_a_byte_of_a_token() {
    let sandbox = Sandbox::new();
    for name in ["hf-clip-gelu", "hf-siglip2-naflex", "eva02-clip", "custom-text-dinov2"] {
        let run = |inputs: &str, more: &str| embed(&sandbox, name, &format!("{inputs} --tokens {more}")).code(0).stdout;
        for inputs in ["photos photos", "--text a --text a-long-text-of-more-tokens --text two-words"] {
            let one = run(inputs, "--threads 1 --workers 1 --batch-size 1");
            assert!(one == run(inputs, "--threads 3 --batch-size 3") && one == run(inputs, ""), "{name} {inputs}");
        }
    }
}
