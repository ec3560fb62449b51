//! `models` and `completions`.

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

fn run(arguments: &[&str]) -> (i32, String, String) {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("clip-cli").unwrap();
    let output = command.args(arguments).env("HF_HOME", cache.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn list_is_json_lines_in_a_pipe() {
    let (code, out, err) = run(&["models", "list"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let cards = lines(&out);
    assert!(cards.len() >= 20);
    let card = cards.iter().find(|card| card["alias"] == "openai-b32").unwrap();
    assert_eq!(card["activation"]["value"], "quick_gelu");
    assert_eq!(card["license"]["checked"], true);
    assert_eq!(card["here"], false);
}

#[test]
fn list_filters_and_draws_tables() {
    let (_, out, _) = run(&["models", "list", "SigLIP", "--format", "table"]);
    assert!(out.starts_with(" NAME") || out.starts_with("NAME"), "{out}");
    assert!(out.contains("siglip2-b16-224") && !out.contains("openai"), "{out}");
    let (code, out, err) = run(&["models", "list", "no-such-model"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("hint:"), "{err}");
}

#[test]
fn families_come_from_the_registry() {
    let (_, out, _) = run(&["models", "list", "--families"]);
    let names: Vec<_> = lines(&out).iter().map(|row| row["family"].as_str().unwrap().to_owned()).collect();
    let known: Vec<_> = clip_cli::model::family::FAMILIES.iter().map(|family| family.name().to_owned()).collect();
    assert_eq!(names, known);
}

#[test]
fn info_on_a_directory_and_on_a_card() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/hf-siglip");
    let (code, out, err) = run(&["models", "info", directory.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""));
    let known = &lines(&out)[0]["files"];
    assert_eq!((known["family"].as_str(), known["objective"].as_str()), (Some("siglip"), Some("sigmoid")));
    assert!(known["image"]["parameters"].as_u64().unwrap() > 1000 && known["sha"].as_str().unwrap().len() == 64);

    let (code, out, err) = run(&["models", "info", "siglip-b16-224", "--format", "table"]);
    assert_eq!(code, 0);
    assert!(out.contains("Apache-2.0") && out.contains("not checked"), "{out}");
    assert!(err.contains("models pull siglip-b16-224"), "{err}");

    let (code, _, err) = run(&["models", "info", "siglip-b16-244"]);
    assert_eq!(code, 2);
    assert!(err.contains("did you mean siglip-b16-224?"), "{err}");
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (code, out, err) = run(&["completions", shell]);
        assert_eq!((code, err.as_str()), (0, ""), "{shell}");
        assert!(out.contains("doctor") && out.contains("embed"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).0, 2);
}
