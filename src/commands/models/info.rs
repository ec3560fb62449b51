//! `models info`: a card, and what a checkpoint's files say.

use crate::app::App;
use crate::card::{self, Card};
use crate::commands::show::{self, Shape, human};
use crate::error::Result;
use crate::hub::{self, Origin};
use crate::image::{Filter, Preprocess, Resize};
use crate::model::spec::{ImageSpec, Objective, TextTowerSpec};
use crate::model::{Clip, LoadOptions, ModelFiles};
use clap::Args;
use serde::Serialize;
use std::path::Path;

#[derive(Args, Debug)]
pub(super) struct Info {
    /// An alias, org/name, a directory, a .safetensors file, or builtin
    #[arg(value_name = "MODEL")]
    model: String,

    /// table or jsonl [default: a table on a terminal, else jsonl]
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, hide_default_value = true)]
    format: Shape,
}

/// What is known about one model.
#[derive(Serialize)]
struct Known {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<FromFiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<&'static Card>,
}

/// What a checkpoint's files say.
#[derive(Serialize)]
struct FromFiles {
    model: String,
    sha: String,
    family: &'static str,
    embed_dim: usize,
    objective: &'static str,
    image: Tower,
    text: Tower,
    image_size: [usize; 2],
    context: usize,
    preprocessing: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
    files: Vec<File>,
}

#[derive(Serialize)]
struct Tower {
    kind: &'static str,
    parameters: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    activation: &'static str,
}

#[derive(Serialize)]
struct File {
    name: String,
    bytes: u64,
}

impl Info {
    pub(super) fn run(&self, app: &App) -> Result<()> {
        let known = self.look(app)?;
        if self.format.is_table() { known.write_table() } else { show::write_jsonl([known]) }
    }

    /// Looks on this machine alone: to be asked about a model is no reason to fetch it.
    fn look(&self, app: &App) -> Result<Known> {
        let offline = hub::Options { offline: true, ..hub::Options::default() };
        let card = card::find(&self.model).or_else(|| card::of_repository(&self.model));
        let name = self.model.clone();
        match hub::resolve_with(&self.model, &offline) {
            Ok(found) => {
                found.notes.iter().for_each(|note| app.warn(note));
                let files = Some(FromFiles::read(found.files)?);
                Ok(Known { name, files, origin: found.origin, card: found.card.or(card) })
            }
            Err(_) if card.is_some() => {
                app.note(format_args!("not on this machine; `clip-cli models pull {name}` fetches it"));
                Ok(Known { name, files: None, origin: None, card })
            }
            Err(error) => Err(error),
        }
    }
}

impl FromFiles {
    fn read(files: ModelFiles) -> Result<Self> {
        let directory = files.directory().map(Path::to_owned);
        let clip = Clip::open(files, &LoadOptions::default())?;
        let (spec, store) = (&clip.spec, clip.store());
        let blocks = match &spec.image {
            ImageSpec::Vit(vit) => Some(&vit.blocks),
            _ => None,
        };
        let image = Tower {
            kind: spec.image.kind(),
            parameters: store.parameters("image"),
            layers: blocks.map(|blocks| blocks.layers),
            width: blocks.map(|blocks| blocks.width),
            activation: spec.image.act().name(),
        };
        let (kind, blocks) = match &spec.text {
            TextTowerSpec::Transformer(text) => ("transformer", &text.blocks),
            TextTowerSpec::Bert(text) => ("bert", &text.blocks),
        };
        let text = Tower {
            kind,
            parameters: store.parameters("text"),
            layers: Some(blocks.layers),
            width: Some(blocks.width),
            activation: blocks.act.name(),
        };
        Ok(Self {
            model: clip.id(),
            sha: clip.sha().to_owned(),
            family: spec.family,
            embed_dim: spec.embed_dim,
            objective: match spec.objective {
                Objective::Softmax => "softmax",
                Objective::Sigmoid => "sigmoid",
            },
            image,
            text,
            image_size: spec.preprocess.size,
            context: spec.text.context(),
            preprocessing: describe(&spec.preprocess),
            files: directory.as_deref().map(list_files).unwrap_or_default(),
            directory: directory.map(|directory| directory.display().to_string()),
        })
    }

    fn rows(&self) -> Vec<[String; 2]> {
        let tower = |tower: &Tower| {
            let size = match (tower.layers, tower.width) {
                (Some(layers), Some(width)) => format!(", {layers} layers, width {width}"),
                _ => String::new(),
            };
            format!("{}{size}, {}, {} parameters", tower.kind, tower.activation, human(tower.parameters as u64))
        };
        let row = |key: &str, value: String| [key.to_owned(), value];
        let mut rows = vec![
            row("model", self.model.clone()),
            row("family", self.family.to_owned()),
            row("embedding", format!("{} numbers, {}", self.embed_dim, self.objective)),
            row("image", tower(&self.image)),
            row("text", tower(&self.text)),
            row("pixels", format!("{} x {}", self.image_size[0], self.image_size[1])),
            row("context", format!("{} tokens", self.context)),
            row("preprocessing", self.preprocessing.clone()),
            row("sha", self.sha.clone()),
        ];
        rows.extend(self.directory.iter().map(|directory| row("directory", directory.clone())));
        rows.extend(self.files.iter().map(|file| row("", format!("{} ({})", file.name, human(file.bytes)))));
        rows
    }
}

impl Known {
    fn write_table(&self) -> Result<()> {
        let mut table = show::table(&[]);
        table.add_row(["name", &self.name]);
        for row in self.files.iter().flat_map(FromFiles::rows) {
            table.add_row(row);
        }
        if let Some(Origin { repository, revision, sha }) = &self.origin {
            table.add_row(["origin".to_owned(), format!("{repository}@{revision}, commit {sha}")]);
        }
        for row in self.card.into_iter().flat_map(rows_of_card) {
            table.add_row(row);
        }
        show::write_table(&table)
    }
}

fn rows_of_card(card: &Card) -> Vec<[String; 2]> {
    let row = |key: &str, value: &str, source: &str, checked: bool| {
        let checked = if checked { "" } else { "; not checked" };
        [key.to_owned(), format!("{value}  [{source}{checked}]")]
    };
    let fact = |key, fact: &card::Fact<String>| row(key, &fact.value, &fact.source, fact.checked);
    let number = |key, fact: &card::Fact<usize>, unit: &str| {
        row(key, &format!("{} {unit}", fact.value), &fact.source, fact.checked)
    };
    let layout = match card.layout.value {
        card::Layout::Transformers => "transformers",
        card::Layout::OpenClip => "open_clip",
    };
    let (checked, count) = card.checked();
    let mut rows = vec![["card".to_owned(), format!("{} ({checked} of {count} facts checked)", card.title)]];
    rows.extend(card.repository.iter().map(|repository| fact("repository", repository)));
    rows.extend((!card.also.is_empty()).then(|| ["same weights".to_owned(), card.also.join(", ")]));
    rows.push(fact("family", &card.family));
    rows.push(row("layout", layout, &card.layout.source, card.layout.checked));
    rows.push(fact("activation", &card.activation));
    rows.push(number("image size", &card.image_size, "pixels"));
    rows.push(number("context", &card.context, "tokens"));
    rows.push(fact("preprocessing", &card.preprocessing));
    rows.push(fact("licence", &card.license));
    rows.extend(card.accuracy.iter().map(|score| {
        let interval = score.interval.map(|[low, high]| format!(" ({:.1} to {:.1})", 100.0 * low, 100.0 * high));
        let interval = interval.unwrap_or_default();
        let value = format!("{} {}: {:.1} %{interval}", score.set, score.metric, 100.0 * score.value);
        row("accuracy", &value, &score.source, score.checked)
    }));
    rows.extend(card.made_of.iter().map(|part| {
        ["made of".to_owned(), format!("{}, {} {}, {}", part.name, part.package, part.version, part.license)]
    }));
    rows.extend(card.note.iter().map(|note| ["note".to_owned(), note.clone()]));
    rows
}

/// The configuration, tokenizer and weight files of a directory.
fn list_files(directory: &Path) -> Vec<File> {
    let Ok(entries) = directory.read_dir() else { return Vec::new() };
    let mut files: Vec<File> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let extension = path.extension()?.to_str()?;
            let known = ["json", "safetensors", "txt", "gz"].contains(&extension);
            // Through links, as the cache has them.
            let data = std::fs::metadata(&path).ok().filter(|data| known && data.is_file())?;
            Some(File { name: entry.file_name().to_string_lossy().into_owned(), bytes: data.len() })
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// A preprocessing in words.
pub(in crate::commands) fn describe(preprocess: &Preprocess) -> String {
    let [height, width] = preprocess.size;
    let filter = match preprocess.filter {
        Filter::Nearest => "nearest",
        Filter::Lanczos => "lanczos",
        Filter::Bilinear => "bilinear",
        Filter::Bicubic => "bicubic",
    };
    let resize = match preprocess.resize {
        Resize::Shortest { edge } => format!("shortest side to {edge}, {filter}, centre crop to {height} x {width}"),
        Resize::Longest => format!("longest side to {height} x {width}, {filter}, padded"),
        Resize::Squash => format!("squashed to {height} x {width}, {filter}"),
        Resize::Patches { side, most } => {
            format!("proportions kept, to at most {most} patches of {side} x {side}, {filter}")
        }
        Resize::Exact { size: [h, w] } => format!("squashed to {h} x {w}, {filter}, centre crop to {height} x {width}"),
    };
    let three = |numbers: [f32; 3]| numbers.map(|x| format!("{x:.4}")).join(" ");
    format!("{resize}; mean {}, deviation {}", three(preprocess.mean), three(preprocess.std))
}
