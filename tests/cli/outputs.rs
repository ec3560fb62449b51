//! Where embeddings go: formats, names that appear at the end, places that cannot be written.

use super::{Sandbox, numbers, records, summary};
use safetensors::SafeTensors;

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
    assert_eq!(sandbox.names(), ["out.jsonl"]);
}

#[test]
fn npy() {
    let sandbox = Sandbox::new();
    let (embeddings, ids) = expected(&sandbox);
    sandbox.embed(&with_output(&["-o", "out.npy"])).code(1);
    assert_eq!(sandbox.names(), ["out.errors.jsonl", "out.ids.jsonl", "out.npy"]);
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
    assert_eq!(sandbox.names(), ["out.ids.jsonl", "out.npy"]);
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
