//! `embed --shard` and `merge`.

use super::Sandbox;

const FORMATS: &[&str] = &[
    "jsonl",
    "npy",
    #[cfg(feature = "parquet")]
    "parquet",
];

/// Inputs with images, texts and failed items.
const INPUTS: [&str; 9] =
    ["none.png", "photos", "gone.png", "photos/tiny.png", "--text", "a dog", "--text", "a cat", "--format"];

fn embed(sandbox: &Sandbox, format: &str, more: &[&str]) {
    sandbox.embed(&[&INPUTS[..], &[format], more].concat());
}

/// Makes the shards and returns their names.
fn shards(sandbox: &Sandbox, format: &str, count: usize, more: &[&str]) -> Vec<String> {
    let name = |index: usize| format!("part-{index:05}-of-{count:05}.{format}");
    for index in 1..=count {
        let (shard, output) = (format!("{index}/{count}"), format!("part.{format}"));
        embed(sandbox, format, &[&["--shard", &shard, "-o", &output], more].concat());
        assert!(sandbox.path(name(index)).exists(), "{}", name(index));
    }
    (1..=count).rev().map(name).collect()
}

#[test]
fn merged_shards_have_the_bytes_of_a_single_run() {
    for format in FORMATS {
        for (count, more) in
            [(1, &[][..]), (2, &["--output-dtype", "f16"]), (3, &[]), (7, &["--no-normalize"]), (20, &[])]
        {
            let sandbox = Sandbox::new();
            let single = format!("out.{format}");
            embed(&sandbox, format, &[&["-o", &single], more].concat());
            let names: Vec<_> = sandbox.names().into_iter().filter(|name| name != "cache").collect();
            let before: Vec<_> = names.iter().map(|name| sandbox.read(name)).collect();
            for name in &names {
                std::fs::remove_file(sandbox.path(name)).unwrap();
            }
            let parts = shards(&sandbox, format, count, more);
            let args = ["merge", "--output", &single].into_iter().chain(parts.iter().map(String::as_str));
            sandbox.run(&args.collect::<Vec<_>>()).code(1);
            let after: Vec<_> = names.iter().map(|name| sandbox.read(name)).collect();
            assert!(before == after, "{format}, {count} shards");
        }
    }
}

#[test]
fn shards_that_do_not_belong_together() {
    let sandbox = Sandbox::new();
    let parts = shards(&sandbox, "npy", 3, &[]);
    let merge = |parts: &[&str]| sandbox.run(&[&["merge", "-o", "out.npy"], parts].concat());
    let (a, b, c) = (parts[0].as_str(), parts[1].as_str(), parts[2].as_str());
    assert!(merge(&[a, c]).fails(3).starts_with("error: shard 2/3 is missing (1 of 3 are)"));
    assert!(merge(&[a, b, a, c]).fails(3).contains("shard 3/3 is there twice"));
    sandbox.embed(&["photos", "-o", "whole.npy"]).code(0);
    assert!(merge(&["whole.npy"]).fails(3).contains("this is no shard, but a whole output"));
    assert!(merge(&["none-00001-of-00001.npy"]).fails(3).contains("none-00001-of-00001.npy.meta.json"));
    assert!(sandbox.run(&["merge", "-o", a, a, b, c]).fails(2).contains("the output is one of the shards"));
    assert!(sandbox.run(&["merge", "x.csv"]).fails(2).contains("csv cannot be read back"));
    assert!(sandbox.run(&["merge"]).fails(2).contains("SHARDS"));
    assert!(sandbox.embed(&["photos", "--shard", "0/3"]).fails(2).contains("such as 3/16"));

    // Another list, another option, an unfinished shard.
    sandbox.embed(&["photos", "--shard", "2/3", "--no-normalize", "-o", "part.npy"]).code(0);
    assert!(merge(&[a, b, c]).fails(3).contains("normalized"));
    sandbox.embed(&["photos", "--shard", "2/3", "-o", "part.npy"]).code(0);
    let stderr = merge(&[a, b, c]).fails(3);
    assert!(stderr.contains("items find a place among those of the others"), "{stderr}");
    sandbox.write("part-00002-of-00003.ids.jsonl", "");
    assert!(merge(&[a, b, c]).fails(3).contains("fewer lines than the matrix has rows"));
    sandbox.write(b, "no matrix");
    assert!(merge(&[a, b, c]).fails(3).starts_with(&format!("error: {b}: ")));
    assert!(!sandbox.path("out.npy").exists() && !sandbox.path("out.npy.part").exists());
}

#[test]
#[cfg(feature = "parquet")]
fn parquet_files_that_are_none() {
    let sandbox = Sandbox::new();
    for bytes in [&b""[..], b"PAR1", b"PAR1 and more, but no table PAR1"] {
        sandbox.write("x.parquet", bytes);
        let stderr = sandbox.run(&["merge", "x.parquet", "-o", "y.parquet"]).fails(3);
        assert!(stderr.starts_with("error: x.parquet: "), "{stderr}");
    }
}

#[test]
fn shards_of_a_pipe() {
    let sandbox = Sandbox::new();
    let list = "photos/tiny.png\nphotos/gray.jpg\nphotos/rgba.png\n";
    let ids = |shard: &str| sandbox.embed_with(&["-", "--shard", shard], list).code(0).ids();
    assert_eq!(ids("1/2"), ["photos/tiny.png", "photos/gray.jpg"]);
    assert_eq!(ids("2/2"), ["photos/rgba.png"]);
}
