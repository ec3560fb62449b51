//! `doctor`.

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

fn doctor(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("clip-cli").unwrap();
    let output = command.arg("doctor").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn golden(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name).display().to_string()
}

#[test]
fn reports_one_object_in_a_pipe() {
    let (code, out, err) = doctor(&[]);
    assert_eq!((code, err.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["jpeg"], if cfg!(feature = "libjpeg") { "exact" } else { "not exact" });
    assert_eq!(report["devices"][0]["available"], true);
    assert!(report["threads"].as_u64().unwrap() > 0);
    if cfg!(feature = "builtin") {
        assert_eq!(report["builtin"]["ok"], true, "{report}");
    }
}

#[test]
fn draws_a_table() {
    let (code, out, _) = doctor(&["--format", "table"]);
    assert_eq!(code, 0);
    for word in ["instruction set", "JPEG", "cache", "not asked"] {
        assert!(out.contains(word), "{word}: {out}");
    }
}

#[test]
fn towers_agree_with_an_independent_implementation() {
    for (name, towers) in [("hf-clip-quickgelu", 2), ("hf-siglip", 2), ("custom-text-effnet", 1), ("open_clip-vit", 0)]
    {
        let (code, out, err) = doctor(&["--model", &golden(name)]);
        assert_eq!(code, 0, "{name}: {err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        let verdicts = report["cross_check"]["towers"].as_array().unwrap();
        let compared = verdicts.iter().filter(|verdict| verdict["largest"].is_number());
        assert_eq!(compared.count(), towers, "{name}: {report}");
        for verdict in verdicts.iter().filter(|verdict| !verdict["largest"].is_number()) {
            assert!(verdict["reason"].is_string(), "{name}: {report}");
        }
    }
}

#[test]
fn a_model_that_is_not_there_ends_with_an_error() {
    let (code, _, err) = doctor(&["--model", "/no/such/place"]);
    assert_eq!(code, 3);
    assert!(err.contains("/no/such/place"), "{err}");
}
