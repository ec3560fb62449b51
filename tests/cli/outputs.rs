//! Where embeddings go: formats, names that appear at the end, places that cannot be written.

use super::{Sandbox, numbers, records, summary};
use safetensors::SafeTensors;
use serde_json::Value;

const INPUTS: [&str; 6] = ["photos", "none.png", "--text", "a dog", "--text", "a cat"];

fn with_output<'a>(more: &[&'a str]) -> Vec<&'a str> {
    INPUTS.into_iter().chain(more.iter().copied()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect()
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|&x| half::f16::from_le_bytes(x).to_f32()).collect()
}

/// The embeddings of the good items, one after the other, and their ids.
fn expected(sandbox: &Sandbox) -> (Vec<f32>, Vec<String>) {
    let records = sandbox.embed(&INPUTS).code(1).records();
    let good: Vec<_> = records.iter().filter(|record| record.get("error").is_none()).collect();
    assert_eq!(good.len(), 10);
    (good.iter().flat_map(|record| numbers(record)).collect(), good.iter().map(|record| summary(record)).collect())
}

#[test]
fn jsonl_files_hold_what_standard_output_would() {
    let sandbox = Sandbox::new();
    let stdout = sandbox.embed(&INPUTS).code(1).stdout;
    let ran = sandbox.embed(&with_output(&["-o", "out.jsonl"])).code(1);
    assert!(ran.stdout.is_empty());
    assert_eq!(sandbox.read("out.jsonl"), stdout);
    assert_eq!(sandbox.names(), ["out.jsonl", "out.jsonl.meta.json"]);
}

#[test]
fn every_format_says_how_it_was_made() {
    let sandbox = Sandbox::new();
    let meta = |name: &str, more: &[&str]| -> Value {
        sandbox.embed(&[&["photos/tiny.png", "none.png", "--no-normalize", "--exif", "-o"], more].concat()).code(1);
        serde_json::from_slice(&sandbox.read(name)).unwrap()
    };
    let jsonl = meta("out.jsonl.meta.json", &["out.jsonl"]);
    assert_eq!(jsonl["tool"], concat!("clip-cli ", env!("CARGO_PKG_VERSION")));
    assert!(jsonl["model"].as_str().unwrap().starts_with("hf-clip-quickgelu@"));
    assert_eq!(jsonl["model_sha"].as_str().unwrap().len(), 64);
    assert_eq!((jsonl["normalized"].as_bool(), jsonl["exif"].as_bool()), (Some(false), Some(true)));
    assert_eq!((jsonl["items"].as_u64(), jsonl["failed"].as_u64()), (Some(2), Some(1)));
    assert_eq!(jsonl["instruction_set"], clip_cli::ops::instruction_set(false));
    assert_eq!(meta("out.npy.meta.json", &["out.npy"]), jsonl);
    assert_eq!(meta("out.csv.meta.json", &["out.csv"]), jsonl);
    assert_eq!(meta("points/meta.json", &["points", "--format", "projector"]), jsonl);
    #[cfg(feature = "builtin")]
    {
        sandbox.run(&["embed", "photos/tiny.png", "-o", "builtin.npy"]).code(0);
        let builtin: Value = serde_json::from_slice(&sandbox.read("builtin.npy.meta.json")).unwrap();
        assert_eq!(builtin["license"], "Apache-2.0");
    }
}

#[test]
fn delimited_values() {
    let sandbox = Sandbox::new();
    let (embeddings, ids) = expected(&sandbox);
    for (name, delimiter) in [("out.csv", b','), ("out.tsv", b'\t')] {
        sandbox.embed(&with_output(&["-o", name])).code(1);
        let bytes = sandbox.read(name);
        let mut table = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes.as_slice());
        let heading = table.headers().unwrap().clone();
        assert_eq!(heading.iter().take(5).collect::<Vec<_>>(), ["id", "kind", "text", "error", "e0"]);
        let rows: Vec<_> = table.records().map(Result::unwrap).collect();
        let (good, bad): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row[3].is_empty());
        assert_eq!(good.iter().map(|row| row[0].to_owned()).collect::<Vec<_>>(), ids);
        let numbers = good.iter().flat_map(|row| row.iter().skip(4)).map(|x| x.parse().unwrap());
        assert_eq!(numbers.collect::<Vec<f32>>(), embeddings);
        assert_eq!((&bad[0][0], &bad[0][4]), ("none.png", ""));
        assert_eq!((&good[9][1], &good[9][2]), ("text", "a cat"));
    }
    assert_eq!(sandbox.names(), ["out.csv", "out.csv.meta.json", "out.tsv", "out.tsv.meta.json"]);
}

#[test]
#[cfg(feature = "parquet")]
fn parquet() {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float16Type, Float32Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let sandbox = Sandbox::new();
    let (embeddings, ids) = expected(&sandbox);
    let read = || {
        let file = std::fs::File::open(sandbox.path("out.parquet")).unwrap();
        let table = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let metadata = table.metadata().file_metadata().key_value_metadata().unwrap().clone();
        let ours = metadata.into_iter().find(|entry| entry.key == "clip-cli").unwrap().value.unwrap();
        (table.build().unwrap().next().unwrap().unwrap(), serde_json::from_str::<Value>(&ours).unwrap())
    };
    sandbox.embed(&with_output(&["-o", "out.parquet"])).code(1);
    assert_eq!(sandbox.names(), ["out.parquet"]);
    let (rows, about) = read();
    let names: Vec<_> = rows.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "kind", "text", "embedding", "error_kind", "error"]);
    assert_eq!((rows.num_rows(), about["items"].as_u64(), about["failed"].as_u64()), (11, Some(11), Some(1)));
    let text = |name: &str| {
        let column = rows.column_by_name(name).unwrap().as_string::<i32>().clone();
        column.iter().map(|text| text.unwrap_or("-").to_owned()).collect::<Vec<_>>()
    };
    let errors = text("error_kind");
    let place = errors.iter().position(|error| error != "-").unwrap();
    assert_eq!((errors[place].as_str(), text("id")[place].as_str()), ("not_found", "none.png"));
    let column = rows.column_by_name("embedding").unwrap().as_fixed_size_list();
    assert!(column.is_null(place));
    let found: Vec<f32> =
        column.iter().flatten().flat_map(|row| row.as_primitive::<Float32Type>().values().to_vec()).collect();
    assert_eq!(found, embeddings);
    let mut with_ids = text("id");
    with_ids.remove(place);
    assert_eq!(with_ids, ids);
    assert_eq!(text("text")[9..], ["a dog", "a cat"]);

    sandbox.embed(&["photos/tiny.png", "-o", "out.parquet", "--output-dtype", "f16"]).code(0);
    let (rows, about) = read();
    let column = rows.column_by_name("embedding").unwrap().as_fixed_size_list();
    assert_eq!((about["dtype"].as_str(), rows.num_rows()), (Some("f16"), 1));
    assert_eq!(column.value(0).as_primitive::<Float16Type>().len(), about["dim"].as_u64().unwrap() as usize);
}

#[test]
fn projector() {
    let sandbox = Sandbox::new();
    let (embeddings, ids) = expected(&sandbox);
    sandbox.embed(&with_output(&["-o", "points", "--format", "projector"])).code(1);
    assert_eq!(sandbox.names(), ["points"]);
    let text = |name: &str| String::from_utf8(sandbox.read(name)).unwrap();
    let numbers = text("points/tensors.tsv");
    assert_eq!(
        numbers.lines().flat_map(|row| row.split('\t')).map(|x| x.parse().unwrap()).collect::<Vec<f32>>(),
        embeddings
    );
    let rows: Vec<_> =
        text("points/metadata.tsv").lines().map(|row| row.split('\t').next().unwrap().to_owned()).collect();
    assert_eq!((rows[0].as_str(), &rows[1..]), ("id", &ids[..]));
    assert!(text("points/projector_config.pbtxt").contains("tensor_path: \"tensors.tsv\""));
    assert_eq!(records(&sandbox.read("points/errors.jsonl")).len(), 1);
    // A folder that holds something is never written to.
    let stderr = sandbox.embed(&with_output(&["-o", "points", "--format", "projector"])).fails(3);
    assert!(stderr.contains("points: there is something under this name"), "{stderr}");
    assert_eq!(text("points/tensors.tsv"), numbers);
    assert!(sandbox.embed(&["photos", "--format", "projector"]).fails(2).contains("not a pipe"));
}

#[test]
#[cfg(feature = "parquet")]
fn clip_retrieval() {
    use arrow_array::cast::AsArray;
    let sandbox = Sandbox::new();
    sandbox.write("pairs.csv", "image,caption\nphotos/tiny.png,small\nnone.png,nothing\nphotos/gray.jpg,grey\n");
    let table = |folder: &str| {
        let file = std::fs::File::open(sandbox.path(folder).join("metadata/metadata_0.parquet")).unwrap();
        let table = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let rows = table.build().unwrap().next().unwrap().unwrap();
        let names: Vec<_> = rows.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        let column = |n| rows.column(n).as_string::<i32>().iter().map(|x| x.unwrap().to_owned()).collect::<Vec<_>>();
        (names, (0..rows.num_columns()).map(column).collect::<Vec<_>>())
    };
    let shape = |name: &str| String::from_utf8_lossy(&sandbox.read(name)[10..128]).trim().to_owned();

    sandbox.embed(&["pairs.csv", "--pairs", "-o", "pairs", "--format", "clip-retrieval"]).code(1);
    let (names, columns) = table("pairs");
    assert_eq!(names, ["image_path", "caption"]);
    assert!(columns[0][0].contains("tiny") || columns[0][0].contains("pairs.csv"), "{columns:?}");
    assert_eq!(columns[1], ["small", "grey"]);
    for matrix in ["pairs/img_emb/img_emb_0.npy", "pairs/text_emb/text_emb_0.npy"] {
        assert!(
            shape(matrix).starts_with("{'descr': '<f2', 'fortran_order': False, 'shape': (2, "),
            "{}",
            shape(matrix)
        );
    }
    // Both halves of a pair are lost with one.
    assert_eq!(records(&sandbox.read("pairs/errors.jsonl")).len(), 2);
    assert!(!sandbox.path("pairs/metadata/rows.jsonl").exists());

    sandbox.embed(&["photos", "-o", "images", "--format", "clip-retrieval"]).code(0);
    let (names, columns) = table("images");
    assert_eq!((names, columns[0].len()), (vec!["image_path".to_owned()], 8));
    assert!(!sandbox.path("images/text_emb").exists());

    let ran = sandbox.embed(&["photos", "--text", "a dog", "-o", "mixed", "--format", "clip-retrieval"]);
    assert!(ran.fails(3).contains("a dog: a clip-retrieval folder holds images, texts or pairs"));
    assert!(!sandbox.path("mixed").exists());
}

#[test]
fn npy() {
    let sandbox = Sandbox::new();
    let (embeddings, ids) = expected(&sandbox);
    sandbox.embed(&with_output(&["-o", "out.npy"])).code(1);
    assert_eq!(sandbox.names(), ["out.errors.jsonl", "out.ids.jsonl", "out.npy", "out.npy.meta.json"]);
    let bytes = sandbox.read("out.npy");
    let (header, data) = bytes.split_at(128);
    assert_eq!(header[..10], *b"\x93NUMPY\x01\x00\x76\x00");
    let dim = embeddings.len() / 10;
    let about = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (10, {dim}), }}");
    assert_eq!(String::from_utf8_lossy(&header[10..]).trim_end(), about);
    assert_eq!(floats(data), embeddings);
    let rows = records(&sandbox.read("out.ids.jsonl"));
    assert_eq!(rows.iter().map(summary).collect::<Vec<_>>(), ids);
    assert_eq!((rows[0]["kind"].as_str(), rows[9]["kind"].as_str()), (Some("image"), Some("text")));
    let errors = records(&sandbox.read("out.errors.jsonl"));
    assert_eq!(errors.iter().map(summary).collect::<Vec<_>>(), ["none.png: not_found"]);

    // The errors of an earlier run do not stay.
    sandbox.embed(&["photos/tiny.png", "-o", "out.npy", "--output-dtype", "f16"]).code(0);
    assert_eq!(sandbox.names(), ["out.ids.jsonl", "out.npy", "out.npy.meta.json"]);
    let bytes = sandbox.read("out.npy");
    assert!(String::from_utf8_lossy(&bytes[10..128]).starts_with("{'descr': '<f2', "));
    assert_eq!(bytes.len(), 128 + 2 * dim);
    let tiny = &embeddings[7 * dim..8 * dim];
    assert!(halves(&bytes[128..]).iter().zip(tiny).all(|(a, b)| (a - b).abs() <= b.abs() / 1024.0 + 1e-7));
}

#[test]
fn safetensors() {
    let sandbox = Sandbox::new();
    let (embeddings, ids) = expected(&sandbox);
    sandbox.embed(&with_output(&["-o", "out.safetensors"])).code(1);
    assert_eq!(sandbox.names(), ["out.errors.jsonl", "out.safetensors"]);
    let bytes = sandbox.read("out.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let matrix = tensors.tensor("embeddings").unwrap();
    assert_eq!(matrix.shape(), [10, embeddings.len() / 10]);
    assert_eq!(floats(matrix.data()), embeddings);
    let names: Vec<String> = serde_json::from_slice(tensors.tensor("ids").unwrap().data()).unwrap();
    assert_eq!(names, ids);
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    assert!(metadata["model"].starts_with("hf-clip-quickgelu@"));
    let counts = ["images", "texts", "failed", "normalized"].map(|key| metadata[key].as_str());
    assert_eq!(counts, ["8", "2", "1", "true"]);

    sandbox.embed(&["--texts", "-", "-o", "out.safetensors", "--output-dtype", "f16"]).code(0);
    let bytes = sandbox.read("out.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("embeddings").unwrap().shape()[0], 0);
    assert_eq!(tensors.tensor("ids").unwrap().data(), b"[]");
}

#[test]
fn outputs_that_cannot_be_written_fail_at_once() {
    let sandbox = Sandbox::new();
    // The model is not even looked at.
    let run = |output: &str| sandbox.run(&["embed", "photos", "-m", "./no-model", "-o", output]).code(3).stderr;
    insta::assert_snapshot!(run("no/such/out.jsonl"), @r"
    error: no/such/out.jsonl: cannot write here: No such file or directory (os error 2)
    hint: make the directory first: mkdir -p no/such
    ");
    assert!(run("photos").ends_with("photos: a directory, not a file\n"), "{}", run("photos"));
    assert!(sandbox.names().is_empty());
    #[cfg(target_os = "linux")]
    assert!(run("/proc/out.jsonl").starts_with("error: /proc/out.jsonl: cannot write here: "));
}

#[test]
fn a_failed_run_leaves_the_old_output() {
    let sandbox = Sandbox::new();
    sandbox.write("out.jsonl", "old");
    sandbox.run(&["embed", "photos", "-m", "./no-model", "-o", "out.jsonl"]).code(3);
    assert_eq!(sandbox.read("out.jsonl"), b"old");
    assert_eq!(sandbox.names(), ["out.jsonl"]);
}

#[test]
#[cfg(unix)]
fn read_only_directories_and_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("kept")).unwrap();
    symlink("kept/real.jsonl", sandbox.path("link.jsonl")).unwrap();
    sandbox.write("kept/real.jsonl", "old");
    sandbox.embed(&["photos/tiny.png", "-o", "link.jsonl"]).code(0);
    assert!(sandbox.path("link.jsonl").is_symlink());
    assert_eq!(records(&sandbox.read("kept/real.jsonl")).len(), 1);

    std::fs::set_permissions(sandbox.path("kept"), std::fs::Permissions::from_mode(0o500)).unwrap();
    // SAFETY: reading our user id has no conditions.
    if unsafe { libc::geteuid() } != 0 {
        let ran = sandbox.embed(&["photos/tiny.png", "-o", "kept/out.jsonl"]).code(3);
        assert!(ran.stderr.contains("Permission denied"), "{}", ran.stderr);
    }
    std::fs::set_permissions(sandbox.path("kept"), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn full_disks() {
    let sandbox = Sandbox::new();
    let ran = sandbox.embed(&["photos", "-o", "/dev/full"]).code(3);
    insta::assert_snapshot!(ran.stderr, @"error: /dev/full: No space left on device (os error 28)");
    let mut command = sandbox.command(&["embed", "photos", "-m"]);
    command.arg(super::tiny()).stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8(output.stderr).unwrap();
    insta::assert_snapshot!(stderr, @"error: standard output: No space left on device (os error 28)");
}
