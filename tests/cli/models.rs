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
fn list_filters_by_fact() {
    let names = |arguments: &[&str]| {
        let (code, out, err) = run(&[&["models", "list"], arguments].concat());
        assert_eq!(code, 0, "{err}");
        lines(&out)
    };
    let all = names(&[]).len();
    let clip = names(&["--family", "open_clip"]);
    assert!(!clip.is_empty() && clip.len() < all && clip.iter().all(|card| card["family"]["value"] == "open_clip"));
    let apache = names(&["siglip", "--license", "apache"]);
    assert!(apache.iter().all(|card| card["license"]["value"].as_str().unwrap().contains("Apache")), "{apache:?}");
    // Nothing was fetched: what is here is in the program.
    assert!(names(&["--cached"]).iter().all(|card| card["alias"] == "builtin"));
    assert_eq!(run(&["models", "list", "--family", "no-such-family"]).0, 2);
}

#[test]
fn info_shows_every_fact_of_a_card() {
    let (_, out, _) = run(&["models", "info", "openai-b32", "--format", "table"]);
    let facts =
        ["repository", "same weights", "family", "layout", "activation", "image size", "context", "preprocessing"];
    for fact in facts.iter().chain(&["licence", "accuracy"]) {
        assert!(out.lines().any(|line| line.trim_start().starts_with(fact)), "{fact}: {out}");
    }
    assert!(out.contains("pretrained.py]") && out.contains("facts checked)"), "{out}");
}

#[test]
fn verify_looks_at_the_whole_model() {
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name);
    let directory = tempfile::tempdir().unwrap();
    let copy =
        |from: &str, name: &str, to: &str| std::fs::copy(golden(from).join(name), directory.path().join(to)).unwrap();
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"] {
        copy("hf-siglip", name, name);
    }
    let verify = || {
        let (code, out, _) = run(&["models", "verify", directory.path().to_str().unwrap(), "--format", "jsonl"]);
        let bad = |row: &Value| (row["ok"] == false).then(|| row["what"].as_str().unwrap().to_owned());
        (code, lines(&out).iter().filter_map(bad).collect::<Vec<_>>())
    };
    assert_eq!(verify(), (0, vec![]));
    // The tokenizer of another model, whose vocabulary is larger.
    copy("hf-clip-quickgelu", "tokenizer.json", "tokenizer.json");
    let (code, bad) = verify();
    assert_eq!((code, bad.contains(&"tokenizer".to_owned())), (1, true), "{bad:?}");
    copy("hf-siglip", "tokenizer.json", "tokenizer.json");
    // The weights of another model.
    copy("hf-clip-quickgelu", "model.safetensors", "model.safetensors");
    let (code, bad) = verify();
    assert_eq!(code, 1);
    assert!(!bad.is_empty() && !bad.contains(&"model.safetensors".to_owned()), "{bad:?}");
    // Weights that end too early.
    let weights = std::fs::read(golden("hf-siglip").join("model.safetensors")).unwrap();
    std::fs::write(directory.path().join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    let (code, bad) = verify();
    assert_eq!((code, bad.contains(&"model.safetensors".to_owned())), (1, true), "{bad:?}");
    // Weights that are not numbers.
    let at = weights.len() - 4096;
    let nans = [&weights[..at], &f32::NAN.to_le_bytes().repeat(1024)].concat();
    std::fs::write(directory.path().join("model.safetensors"), nans).unwrap();
    let (code, bad) = verify();
    assert_eq!((code, bad.iter().any(|what| what.ends_with("tower"))), (1, true), "{bad:?}");

    let (code, out, err) = run(&["models", "verify", "siglip-b16-224"]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("not in the cache"), "{err}");
    assert_eq!(run(&["models", "verify", "builtin"]).0, 2);
}

#[test]
fn manual_pages_of_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("man1");
    let (code, out, err) = run(&["completions", "--man", place.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""));
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    for entry in clip_cli::commands::COMMANDS {
        let page = read(&format!("clip-cli-{}.1", entry.name));
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH OPTIONS"), "{}: {page}", entry.name);
    }
    assert!(
        read("clip-cli.1").contains(".TH clip-cli 1")
            && read("clip-cli-models-pull.1").contains("clip\\-cli\\-models\\-pull")
    );
    assert_eq!(out.lines().count(), place.read_dir().unwrap().count());
    assert!(out.lines().all(|path| Path::new(path).is_file()), "{out}");
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
