//! Models by name, against a hub on loopback.
#![cfg(feature = "hub")]

use super::fake_hub::{FakeHub, Fault, SHA};
use assert_cmd::Command;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const NAME: &str = "org/tiny-clip";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

/// The program with a cache of its own and this hub.
fn program(endpoint: &str, home: &Path) -> Command {
    let mut command = Command::cargo_bin("clip-cli").unwrap();
    command.env_clear().env("HF_ENDPOINT", endpoint).env("HF_HOME", home).env("HF_HUB_DOWNLOAD_TIMEOUT", "2");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Pulls a model; returns the exit code, standard output and standard error.
fn pull(endpoint: &str, home: &Path, reference: &str) -> (i32, String, String) {
    run(program(endpoint, home).args(["models", "pull", reference]))
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// An address at which nobody listens.
fn dead() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn fetched_once_then_never_again() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    let (code, out, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    let snapshot = home.path().join("hub/models--org--tiny-clip/snapshots").join(SHA);
    assert_eq!(out.trim_end(), snapshot.to_str().unwrap());
    assert!(err.contains(SHA), "{err}");
    // What is needed is there, what is not needed is not, and Python finds all of it.
    assert!(snapshot.join("model.safetensors").is_file() && snapshot.join("tokenizer.json").is_file());
    assert!(!snapshot.join("vocab.json").exists());
    let root = home.path().join("hub/models--org--tiny-clip");
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), SHA);
    assert!(root.join(".no_exist").join(SHA).join("open_clip_config.json").is_file());

    let asked = hub.requests().len();
    for reference in [NAME, &format!("{NAME}@{SHA}")] {
        let (code, out, err) =
            run(program(&hub.endpoint, home.path()).args(["embed", "--text", "a cat", "--model", reference]));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("\"model\":\"org/tiny-clip@"), "{out}");
    }
    assert_eq!(hub.requests().len(), asked, "the cache holds all that is needed");
    let (code, _, err) =
        run(program(&dead(), home.path()).args(["embed", "--offline", "--text", "a cat", "--model", NAME]));
    assert_eq!(code, 0, "{err}");
}

#[test]
fn shards_and_open_clip_layout() {
    let home = tempfile::tempdir().unwrap();
    for name in ["hf-clip-gelu", "open_clip-vit", "open_clip-siglip2"] {
        let repository = format!("org/{name}");
        let hub = FakeHub::of_directory(&repository, &golden(name), Fault::None);
        let (code, _, err) =
            run(program(&hub.endpoint, home.path()).args(["embed", "--text", "a cat", "--model", &repository]));
        assert_eq!(code, 0, "{name}: {err}");
    }
}

#[test]
fn a_moved_branch_is_seen_by_pull_alone() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-siglip"), Fault::None);
    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    let asked = hub.requests().len();
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    let new = hub.requests().split_off(asked);
    assert!(!new.is_empty() && new.iter().all(|request| request.starts_with("GET /api/")), "{new:?}");
}

#[test]
fn broken_transfers_are_repeated() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Truncated(2));
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn a_file_that_came_short_is_never_used() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Short);
    let (code, out, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("model.safetensors arrived with"), "{err}");
    let snapshot = home.path().join("hub/models--org--tiny-clip/snapshots").join(SHA);
    assert!(!snapshot.join("model.safetensors").exists());
    assert!(!home.path().join("hub/models--org--tiny-clip/refs/main").exists());
}

#[test]
fn a_silent_hub_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Silent);
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 3);
    assert!(err.contains("said nothing for 2 seconds"), "{err}");
}

#[test]
fn a_dead_hub_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = dead();
    let (code, _, err) = pull(&endpoint, home.path(), NAME);
    assert_eq!(code, 3);
    assert!(err.contains("cannot be reached") && err.contains("hint: check the network"), "{err}");

    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    let (code, out, err) = pull(&endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(SHA) && err.contains("using the copy in the cache"), "{err}");
}

#[test]
fn refusals_say_what_to_do() {
    let cases = [
        (401, "", "login (401)", "HF_TOKEN"),
        (401, "RepoNotFound", "no such repository", "check the spelling"),
        (401, "GatedRepo", "login (401)", "accept the terms on https://huggingface.co/org/tiny-clip"),
        (403, "GatedRepo", "refuses the token (403)", "ask for access"),
        (404, "RepoNotFound", "no such repository", "check the spelling"),
        (404, "RevisionNotFound", "no revision \"main\"", "/branches"),
        (429, "", "no more requests (429)", "try again"),
        (500, "", "has a fault (500", "check the network"),
    ];
    for (status, code, message, hint) in cases {
        let home = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(NAME, BTreeMap::new(), Fault::Status(status, code));
        let (exit, out, err) = pull(&hub.endpoint, home.path(), NAME);
        assert_eq!((exit, out.as_str()), (3, ""), "{status} {code}: {err}");
        let (said, advised) = err.split_once("hint: ").unwrap_or_else(|| panic!("{status} {code}: {err}"));
        assert!(said.contains(message) && advised.contains(hint), "{status} {code}: {err}");
    }
}

#[test]
fn other_revisions_and_repositories() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    let (code, _, err) = pull(&hub.endpoint, home.path(), &format!("{NAME}@v9"));
    assert_eq!(code, 3);
    assert!(err.contains("no revision \"v9\""), "{err}");
    let (code, _, err) = pull(&hub.endpoint, home.path(), "org/nothing");
    assert_eq!(code, 3);
    assert!(err.contains("no such repository"), "{err}");
}

#[test]
fn pickles_lead_to_the_same_weights_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let pickled = || BTreeMap::from(["config.json", "pytorch_model.bin"].map(|n| (n.to_owned(), b"{}".to_vec())));
    let hub = FakeHub::start("openai/clip-vit-base-patch32", pickled(), Fault::None);
    let (code, _, err) = pull(&hub.endpoint, home.path(), "openai/clip-vit-base-patch32");
    assert_eq!(code, 3);
    assert!(err.contains("no safetensors") && err.contains("--model openai-b32"), "{err}");
    let hub = FakeHub::start(NAME, pickled(), Fault::None);
    let (_, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert!(err.contains("org/name@refs/pr/N"), "{err}");
}

#[test]
fn offline_asks_nobody() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    for set in [["--offline", ""], ["", "1"]] {
        let mut command = program(&hub.endpoint, home.path());
        command.args(["embed", "--text", "a", "--model", NAME]).env("HF_HUB_OFFLINE", set[1]);
        if !set[0].is_empty() {
            command.arg(set[0]);
        }
        let (code, _, err) = run(&mut command);
        assert_eq!(code, 3);
        assert!(err.contains("not in the cache") && err.contains("models pull org/tiny-clip"), "{err}");
    }
    assert_eq!(hub.requests(), Vec::<String>::new());
}

#[test]
fn unknown_names_get_a_suggestion() {
    let home = tempfile::tempdir().unwrap();
    let (code, _, err) = pull(&dead(), home.path(), "opnai-b32");
    assert_eq!(code, 2);
    assert!(err.contains("did you mean openai-b32?"), "{err}");
    let (code, _, err) = pull(&dead(), home.path(), "./nowhere");
    assert_eq!(code, 3);
    assert!(err.contains("no such model file or directory"), "{err}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    // A file where the cache should be: refused whoever runs the test.
    std::fs::write(home.path().join("hub"), "").unwrap();
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 3);
    assert!(err.contains("HF_HOME"), "{err}");
}

#[test]
fn two_processes_at_once() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    let (endpoint, home) = (hub.endpoint.clone(), home.path().to_owned());
    let pulls = [(); 2].map(|()| {
        let (endpoint, home) = (endpoint.clone(), home.clone());
        std::thread::spawn(move || pull(&endpoint, &home, NAME))
    });
    for pull in pulls {
        let (code, _, err) = pull.join().unwrap();
        assert_eq!(code, 0, "{err}");
    }
}
