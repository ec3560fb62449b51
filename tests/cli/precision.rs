//! `--precision int8`.

use super::{Sandbox, checkpoints, numbers, tiny};

#[test]
fn no_thread_worker_or_batch_changes_a_byte_of_int8() {
    let sandbox = Sandbox::new();
    let texts = ["a", "a photo of a dog", "", "two dogs and a cat on a sofa, all of them asleep", "ünïcode ☃"];
    for model in checkpoints() {
        let run = |settings: &str| {
            let before = ["embed", "photos", "--precision", "int8", "--model", model.to_str().unwrap()];
            let texts = texts.iter().flat_map(|text| ["--text", text]);
            let args: Vec<&str> = before.into_iter().chain(texts).chain(settings.split_whitespace()).collect();
            sandbox.run(&args).code(0)
        };
        let reference = run("--threads 1 --workers 1 --batch-size 1");
        for settings in ["--threads 2 --batch-size 5", "--threads 3 --workers 2 --batch-size 8"] {
            assert!(reference.stdout == run(settings).stdout, "{} {settings}", model.display());
        }
    }
}

#[test]
fn int8_is_near_f32_but_not_the_same() {
    let sandbox = Sandbox::new();
    let exact = sandbox.embed(&["photos", "--text", "a dog"]).code(0).records();
    let ran = sandbox.embed(&["photos", "--text", "a dog", "--precision", "int8"]).code(0).records();
    assert!(exact.iter().zip(&ran).any(|(a, b)| a["embedding"] != b["embedding"]));
    for (a, b) in exact.iter().zip(&ran) {
        let cosine: f32 = numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.998, "{cosine} for {}", a["id"]);
    }
    // The flag's other name.
    assert_eq!(sandbox.embed(&["photos", "--text", "a dog", "--dtype", "int8"]).code(0).records(), ran);
}

#[test]
fn outputs_of_int8_are_not_mixed_with_others() {
    let sandbox = Sandbox::new();
    sandbox.embed(&["photos", "--precision", "int8", "-o", "a.npy"]).code(0);
    let meta: serde_json::Value = serde_json::from_slice(&sandbox.read("a.npy.meta.json")).unwrap();
    assert_eq!(meta["compute_dtype"], "int8");
    for (shard, precision) in [("1/2", "f32"), ("2/2", "int8")] {
        sandbox.embed(&["photos", "--shard", shard, "--precision", precision, "-o", "part.npy"]).code(0);
    }
    let parts = ["part-00001-of-00002.npy", "part-00002-of-00002.npy"];
    let error = sandbox.run(&["merge", "-o", "b.npy", parts[0], parts[1]]).fails(3);
    assert!(error.contains("compute_dtype"), "{error}");
}

#[test]
fn what_trains_refuses_int8() {
    let sandbox = Sandbox::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    for args in [
        &["finetune", "--train-data", "none.tsv", "--output", "out", "--model", model][..],
        &["tune", "--method", "coop", "--data", "photos", "--output", "out", "--model", model],
        &["merge", model, model, "--output", "out"],
    ] {
        let error = sandbox.run(&[args, &["--precision", "int8"]].concat()).fails(2);
        assert!(error.starts_with("error: --precision int8: "), "{args:?}: {error}");
    }
}
