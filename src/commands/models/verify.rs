//! `models verify`: whether the files of a model are sound, and belong together.

use crate::app::App;
use crate::commands::Status;
use crate::commands::show::{self, Shape, human};
use crate::error::{Error, Result};
use crate::hub::{self, Here};
use crate::model::{Clip, LoadOptions, ModelFiles};
use clap::Args;
use serde::Serialize;
use std::path::Path;

#[derive(Args, Debug)]
pub(super) struct Verify {
    /// An alias, org/name, a directory or a .safetensors file
    #[arg(value_name = "MODEL")]
    model: String,

    /// table or jsonl [default: a table on a terminal, else jsonl]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, hide_default_value = true)]
    format: Shape,
}

/// What was looked at, and what it is like.
#[derive(Serialize)]
struct Check {
    /// A file, or a part of the model.
    what: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Verify {
    pub(super) fn run(&self, app: &App) -> Result<Status> {
        if self.model == "builtin" {
            return Err(Error::usage("the built-in model has no files").hint("`clip-cli doctor` runs it and compares"));
        }
        let here = hub::here(&self.model)?;
        let mut checks = Vec::new();
        for file in here.files() {
            app.interrupt.check()?;
            checks.push(content(&here, &file, &self.model));
        }
        model(&here, app, &mut checks)?;
        let sound = checks.iter().all(|check| check.ok);
        if self.format.is_table() {
            write_table(&checks)?
        } else {
            show::write_jsonl(&checks)?
        }
        if !sound {
            app.warn(format_args!("{} is not sound", self.model));
        }
        Ok(if sound { Status::Done } else { Status::SomeFailed })
    }
}

/// Looks at one file: its checksum, if the cache knows it, and its form.
fn content(here: &Here, file: &Path, model: &str) -> Check {
    let path = here.directory.join(file);
    let what = file.display().to_string();
    let again = match &here.origin {
        Some(_) => {
            let blob = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            format!("delete {} and fetch it again: clip-cli models pull {model}", blob.display())
        }
        None => "copy or export the file again".to_owned(),
    };
    let bad =
        |bytes, message: String| Check { what: what.clone(), ok: false, bytes, message, hint: Some(again.clone()) };
    let bytes = match std::fs::metadata(&path) {
        Ok(data) => data.len(),
        Err(error) => return bad(None, error.to_string()),
    };
    let message = match hub::checksum(&path) {
        Some((digest, promised)) => match digest.of_file(&path) {
            Ok(found) if found == promised => format!("{} as the Hub lists it", digest.label()),
            Ok(found) => return bad(Some(bytes), format!("{} is {found}, not {promised}", digest.label())),
            Err(error) => return bad(Some(bytes), error.to_string()),
        },
        None => "no checksum is known".to_owned(),
    };
    if let Err(error) = form(&path) {
        return bad(Some(bytes), error);
    }
    Check { what, ok: true, bytes: Some(bytes), message, hint: None }
}

/// Whether a file has the form that its name promises.
fn form(path: &Path) -> Result<(), String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => {
            let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
            let value: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&bytes);
            value.map(drop).map_err(|e| format!("not valid JSON: {e}"))
        }
        Some("safetensors") => crate::weights::Files::open(path).map(drop).map_err(|e| e.to_string()),
        _ => Ok(()),
    }
}

/// Looks at the model as a whole: configuration, towers, tokenizer.
fn model(here: &Here, app: &App, checks: &mut Vec<Check>) -> Result<()> {
    let open = || -> Result<Clip> {
        let files = match &here.weights {
            Some(weights) => ModelFiles::open(weights)?,
            None => ModelFiles::in_directory(&here.directory, here.name.clone())?,
        };
        Clip::open(files, &LoadOptions::default())
    };
    let describe = |clip: &Clip| format!("{}, {} numbers an embedding", clip.spec.family, clip.spec.embed_dim);
    if !note(checks, "configuration", open().map(|clip| describe(&clip))) {
        return Ok(());
    }
    // Each tower in a model of its own, so that there is never more than one in memory.
    app.interrupt.check()?;
    note(checks, "image tower", open().and_then(|clip| image(&clip)));
    app.interrupt.check()?;
    note(checks, "text tower", open().and_then(|clip| text(&clip)));
    note(checks, "tokenizer", open().and_then(|clip| tokenizer(&clip)));
    Ok(())
}

/// Notes how a look at a part of the model went; returns whether it is sound.
fn note(checks: &mut Vec<Check>, what: &str, outcome: Result<String>) -> bool {
    let ok = outcome.is_ok();
    let (message, hint) = match outcome {
        Ok(message) => (message, None),
        Err(error) => (error.to_string(), error.advice().map(str::to_owned)),
    };
    checks.push(Check { what: what.to_owned(), ok, bytes: None, message, hint });
    ok
}

/// Every tensor is accounted for, and a grey image gives numbers.
fn image(clip: &Clip) -> Result<String> {
    clip.head()?;
    clip.image()?;
    let [height, width] = clip.spec.preprocess.size;
    all_finite(&clip.embed_pixels(vec![0.0; 3 * height * width])?)?;
    Ok(format!("all tensors are there, {} parameters", human(clip.store().parameters("image") as u64)))
}

/// Every tensor is accounted for, and a text gives numbers.
fn text(clip: &Clip) -> Result<String> {
    clip.text()?;
    all_finite(&clip.embed_texts(&["a photo of a cat"])?.0)?;
    Ok(format!("all tensors are there, {} parameters", human(clip.store().parameters("text") as u64)))
}

fn tokenizer(clip: &Clip) -> Result<String> {
    let (tokens, vocabulary) = (clip.tokenizer()?.0.vocab_size(), clip.spec.text.vocab());
    if tokens > vocabulary {
        return Err(Error::run(format!("it knows {tokens} tokens, the text tower {vocabulary}"))
            .hint("this tokenizer belongs to another model"));
    }
    Ok(format!("{tokens} tokens for a vocabulary of {vocabulary}"))
}

fn all_finite(numbers: &[f32]) -> Result<()> {
    if numbers.iter().all(|x| x.is_finite()) && numbers.iter().any(|&x| x != 0.0) {
        return Ok(());
    }
    Err(Error::run("it gives no usable numbers").hint("the weights are broken, though their form is sound"))
}

fn write_table(checks: &[Check]) -> Result<()> {
    let mut table = show::table(&["WHAT", "SIZE", "", "RESULT"]);
    for check in checks {
        let hint = check.hint.as_ref().filter(|_| !check.ok).map(|hint| format!("\n-> {hint}")).unwrap_or_default();
        table.add_row([
            check.what.clone(),
            check.bytes.map(human).unwrap_or_default(),
            if check.ok { "ok" } else { "BAD" }.to_owned(),
            format!("{}{hint}", check.message),
        ]);
    }
    show::write_table(&table)
}
