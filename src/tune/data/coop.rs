//! CoOp's splits: `{"train": [[path, label, class name], …], "val": […], "test": […]}`.
//! <https://github.com/KaiyangZhou/CoOp> 1fbb1a6, `datasets/oxford_pets.py`: `read_split`, `subsample_classes`.

use super::gather::Gather;
use super::{Part, Set};
use crate::data::LabelledOptions;
use crate::error::{Error, Result};
use crate::train::data::Place;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// The largest of the published ones, SUN397's, has 10 MB.
const MAX_BYTES: u64 = 1 << 30;

/// So many paths are tried before it is said that the images are not there.
const TRIED: usize = 100;

#[derive(Deserialize)]
struct File {
    train: Vec<Row>,
    #[serde(default)]
    val: Vec<Row>,
    #[serde(default)]
    test: Vec<Row>,
}

/// Path, label, class name.
type Row = (String, Number, String);

/// Labels are numbers, which CoOp takes as texts too.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Text(String),
}

impl Number {
    fn value(&self) -> Result<i64> {
        match self {
            Self::Whole(number) => Ok(*number),
            Self::Text(text) => {
                text.trim().parse().map_err(|_| Error::run(format!("the label {text:?} is no whole number")))
            }
        }
    }
}

/// Whether this is meant to be such a file.
pub(super) fn is_one(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) && path.is_file()
}

/// Paths begin at `options.source.root`, else beside the file.
pub(super) fn open(path: &Path, options: &LabelledOptions) -> Result<Set> {
    let bytes = crate::data::read_file(path, MAX_BYTES).map_err(Error::run)?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| {
        Error::run(format!("not a split as CoOp has them: {error}"))
            .hint("it is a JSON object with \"train\", \"val\" and \"test\", each a list of [path, label, class name]")
    })?;
    drop(bytes);
    let root = options.source.root.clone().unwrap_or_else(|| path.parent().unwrap_or(Path::new("")).to_owned());
    let tried = &file.train[..file.train.len().min(TRIED)];
    if !tried.is_empty() && !tried.iter().any(|(name, ..)| root.join(name).is_file()) {
        return Err(Error::run(format!("its images are not below {}", root.display()))
            .hint("--image-root names the folder where its paths begin"));
    }
    let mut set = Set { name: path.display().to_string(), ..Set::default() };
    let mut part = |name: &str, rows: Vec<Row>| -> Result<Part> {
        let mut gather = Gather::new(root.clone());
        let classes = read(&mut gather, rows, &root, options).map_err(|error| error.at(name))?;
        let (part, _) = gather.part(classes);
        set.left_out.append(gather.left_out);
        Ok(part)
    };
    let train = part("train", file.train)?;
    let val = part("val", file.val)?;
    let test = part("test", file.test)?;
    let some = |part: Part| (!part.images.is_empty()).then_some(part);
    Ok(Set { train, val: some(val), test: some(test), ..set })
}

/// Puts rows among the images; gives the names of their classes in the order of the label numbers.
fn read(gather: &mut Gather, rows: Vec<Row>, root: &Path, options: &LabelledOptions) -> Result<Vec<String>> {
    let mut names: BTreeMap<i64, String> = BTreeMap::new();
    let mut numbers = Vec::with_capacity(rows.len());
    for (path, label, name) in &rows {
        let number = label.value().map_err(|error| error.at(path))?;
        match names.get(&number) {
            Some(known) if known == name => {}
            Some(known) => {
                return Err(Error::run(format!("the label {number} is both {known:?} and {name:?}")).at(path));
            }
            None => drop(names.insert(number, name.clone())),
        }
        numbers.push(number);
    }
    let index: BTreeMap<i64, usize> = names.keys().copied().zip(0..).collect();
    for ((path, ..), number) in rows.into_iter().zip(numbers) {
        let place = Path::new(&path);
        let inside = place.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || path.is_empty() || path.contains('\0') {
            return Err(Error::run(format!("the path {path:?} leads out of the folder of the images")));
        }
        let place = Place::File(root.join(place));
        gather.push(path, place, index[&number]);
    }
    let shown = |(number, name): (i64, String)| match &options.names {
        // As CoOp's trainers show them.
        None => Ok(name.replace('_', " ")),
        Some(names) => names
            .get(&name)
            .or_else(|| names.get(&number.to_string()))
            .map(str::to_owned)
            .ok_or_else(|| Error::run(format!("--classnames does not say what the class {name:?} stands for"))),
    };
    names.into_iter().map(shown).collect()
}
