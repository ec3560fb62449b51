//! Which of open_clip's own model configurations we read: `docs/families.md` says the truth.

use super::golden_directory;
use clip_cli::model::family::{Config, detect};
use clip_cli::weights::Files;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why a configuration is not read, by how its name begins.
const REASONS: &[(&str, &str)] = &[
    ("ViTamin", "ViTamin image tower"),
    ("swin", "Swin image tower"),
    ("vit_relpos", "relative positions in the image tower"),
    ("mt5", "mT5 text tower"),
    ("nllb", "NLLB text tower"),
];

/// One row for each family, then one for each reason.
fn table() -> String {
    let text = std::fs::read_to_string(golden_directory().join("data/open_clip_configs.json")).unwrap();
    let configs: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(configs.len() >= 140);
    let weights = Files::open(&golden_directory().join("data/ops.safetensors")).unwrap();
    let (mut read, mut not_read) = (BTreeMap::<_, Vec<String>>::new(), BTreeMap::<_, Vec<String>>::new());
    for (name, model) in configs {
        let config = json!({ "model_cfg": model, "preprocess_cfg": {} });
        let config = Config { open_clip: Some(config), ..Config::default() };
        // Without weights a family comes as far as the first tensor that it looks for, or refuses the configuration.
        let plan = detect(&config).and_then(|family| match family.plan(&config, &weights) {
            // It reads the sizes of all stages off the weights.
            Err(_) if family.name() == "open_clip-conv" => Ok(family.name()),
            Err(error) if !error.advice().is_some_and(|advice| advice.contains("belong together")) => Err(error),
            _ => Ok(family.name()),
        });
        let text_model = ["nllb", "mt5"].iter().all(|kind| !name.starts_with(kind));
        match plan {
            Ok(family) if text_model => read.entry(family).or_default().push(name),
            _ => {
                let reason = REASONS.iter().find(|(begin, _)| name.starts_with(begin));
                let (_, reason) = reason.unwrap_or_else(|| panic!("no family reads {name}, and nobody says why"));
                not_read.entry(*reason).or_default().push(name);
            }
        }
    }
    let rows = |kind: &str, rows: BTreeMap<&str, Vec<String>>| {
        let row = |(what, names): (&str, Vec<String>)| format!("| {kind} | {what} | {} |\n", names.join(", "));
        rows.into_iter().map(row).collect::<String>()
    };
    format!(
        "| | family, or why not | configurations |\n|---|---|---|\n{}{}",
        rows("read", read),
        rows("not read", not_read)
    )
}

#[test]
fn the_documentation_knows_what_we_read() {
    let path = golden_directory().join("../../docs/families.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (begin, end) = ("<!-- configurations -->\n", "<!-- /configurations -->");
    let start = document.find(begin).expect("no table of configurations") + begin.len();
    let written = &document[start..start + document[start..].find(end).expect("no end of the table")];
    let table = table();
    assert!(written == table, "docs/families.md should hold this between its marks:\n\n{table}");
}
