//! Images whose class is known: folders of class folders, and tables with a path and a label in each row.

use super::{Item, folder};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Images with their classes.
pub struct Labelled {
    /// The names of the classes: of folders in the order of their names, of a table in alphabetical order, unless the
    /// order was given.
    pub classes: Vec<String>,
    /// The images, each with the index of its class.
    pub items: Box<dyn Iterator<Item = (Result<Item>, usize)> + Send>,
}

/// How a labelled set is to be read.
#[derive(Clone, Debug, Default)]
pub struct LabelledOptions {
    /// The classes, if they are not those of the set.
    pub classes: Option<Vec<String>>,
    /// What folders, or labels of a table, stand for.
    pub names: Option<ClassNames>,
    /// The table's column with the path, if it is not one of [`IMAGE_COLUMNS`].
    pub image_column: Option<String>,
    /// The table's column with the label, if it is not one of [`LABEL_COLUMNS`].
    pub label_column: Option<String>,
}

/// The columns that hold a path, unless the user names one; the first that is there counts.
pub const IMAGE_COLUMNS: &[&str] = &["image", "path", "filepath", "file", "filename", "impath", "image_path", "id"];

/// The columns that hold a label, unless the user names one; the first that is there counts.
pub const LABEL_COLUMNS: &[&str] = &["label", "class", "classname", "class_name", "name", "title"];

impl Labelled {
    /// Opens a folder of class folders (as torchvision's `ImageFolder`), or a table: CSV, TSV or JSON Lines.
    pub fn open(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let set = if path.is_dir() { Self::folders(path, options) } else { Self::table(path, options) };
        set.map_err(|error| error.at(path.display()))
    }

    fn folders(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.path().is_dir() && !name.as_encoded_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        names.sort();
        if names.is_empty() {
            return Err(Error::run("no folders in here").hint("--eval expects a folder of images for each class"));
        }
        let labels: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let (classes, index) = options.assign(&labels, "folder")?;
        let folders: Vec<(PathBuf, usize)> = names.iter().map(|name| path.join(name)).zip(index).collect();
        let images = |(folder_path, class): (PathBuf, usize)| folder(&folder_path).map(move |item| (item, class));
        Ok(Self { classes, items: Box::new(folders.into_iter().flat_map(images)) })
    }

    fn table(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let rows = read_table(path, options)?;
        if rows.is_empty() {
            return Err(Error::run("no rows in this table"));
        }
        let labels: Vec<String> =
            rows.iter().map(|(_, label)| label.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        let (classes, index) = options.assign(&labels, "label")?;
        let index: HashMap<String, usize> = labels.into_iter().zip(index).collect();
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        let items = rows.into_iter().map(move |(image, label)| (Ok(Item::file(base.join(image))), index[&label]));
        Ok(Self { classes, items: Box::new(items) })
    }
}

impl LabelledOptions {
    /// The classes, and for each raw label (a folder's name, or what a table says) the index of its class.
    fn assign(&self, labels: &[String], unit: &str) -> Result<(Vec<String>, Vec<usize>)> {
        let named = labels.iter().map(|label| self.name(label, unit)).collect::<Result<Vec<_>>>()?;
        if let Some(classes) = &self.classes {
            let find = |(raw, name): (&String, &String)| {
                let at = classes.iter().position(|class| class == name || (self.names.is_none() && class == raw));
                at.ok_or_else(|| {
                    Error::run(format!("the {unit} {raw:?} is none of the given labels"))
                        .hint("name every class with --labels, or say what folders stand for with --classnames")
                })
            };
            let index = labels.iter().zip(&named).map(find).collect::<Result<Vec<_>>>()?;
            return Ok((classes.clone(), index));
        }
        let mut seen = BTreeMap::new();
        for (raw, name) in labels.iter().zip(&named) {
            if let Some(other) = seen.insert(name, raw) {
                return Err(Error::run(format!("the {unit}s {other:?} and {raw:?} both stand for the class {name:?}")));
            }
        }
        Ok((named, (0..labels.len()).collect()))
    }

    /// The class that a folder or a label stands for.
    fn name(&self, raw: &str, unit: &str) -> Result<String> {
        match &self.names {
            Some(names) => names.0.get(raw).cloned().ok_or_else(|| {
                Error::run(format!("--classnames does not say what the {unit} {raw:?} stands for"))
                    .hint("each of its lines is a folder, a tab or a space, and the class name")
            }),
            // `hot_dog` is how people write a space in a file's name.
            None if unit == "folder" => Ok(raw.replace('_', " ")),
            None => Ok(raw.to_owned()),
        }
    }
}

/// What folders stand for: `n01443537` is a goldfish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassNames(HashMap<String, String>);

impl ClassNames {
    /// Reads lines of a folder and a class name with a tab or else a space between them (a lone word stands for
    /// itself), or a JSON object.
    pub fn load(path: &Path) -> Result<Self> {
        let at = |error: Error| error.at(path.display());
        let text = fs::read(path).map_err(|error| at(error.into()))?;
        let text = String::from_utf8(text).map_err(|_| at(Error::run("not UTF-8 text")))?;
        Self::parse(&text).map_err(at)
    }

    fn parse(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_start().starts_with('{')
            && let Ok(names) = serde_json::from_str(text)
        {
            return Ok(Self(names));
        }
        let mut names = HashMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let (folder, name) = match line.split_once('\t') {
                Some((folder, rest)) => (folder.trim(), rest.split('\t').next().unwrap_or_default().trim()),
                None => line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), line.trim())),
            };
            if folder.is_empty() || name.trim().is_empty() {
                return Err(Error::run(format!("line {number} has no class name")));
            }
            if names.insert(folder.to_owned(), name.trim().to_owned()).is_some() {
                return Err(Error::run(format!("line {number}: {folder:?} is there twice")));
            }
        }
        if names.is_empty() { Err(Error::run("no class names in this file")) } else { Ok(Self(names)) }
    }
}

/// The path and the label of each row.
fn read_table(path: &Path, options: &LabelledOptions) -> Result<Vec<(String, String)>> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let file = fs::File::open(path)?;
    match extension.as_str() {
        "csv" => read_delimited(file, b',', options),
        "tsv" | "txt" => read_delimited(file, b'\t', options),
        "jsonl" | "ndjson" => read_json_lines(file, options),
        _ => Err(Error::run("neither a folder of class folders nor a table")
            .hint("a table's name ends in .csv, .tsv or .jsonl")),
    }
}

fn read_delimited(file: fs::File, delimiter: u8, options: &LabelledOptions) -> Result<Vec<(String, String)>> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(file);
    let headers: Vec<String> = reader
        .headers()
        .map_err(Error::run)?
        .iter()
        .map(|header| header.trim_start_matches('\u{feff}').trim().to_owned())
        .collect();
    let image = column(&headers, options.image_column.as_deref(), IMAGE_COLUMNS, "--image-column")?;
    let label = column(&headers, options.label_column.as_deref(), LABEL_COLUMNS, "--label-column")?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(Error::run)?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |index: usize| record.get(index).unwrap_or_default().trim().to_owned();
        rows.push(checked(cell(image), cell(label), &format!("line {line}"))?);
    }
    Ok(rows)
}

fn read_json_lines(file: fs::File, options: &LabelledOptions) -> Result<Vec<(String, String)>> {
    use std::io::BufRead;
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(std::io::BufReader::new(file).lines()) {
        let place = format!("line {number}");
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let record: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line)
            .map_err(|error| Error::run(format!("not a JSON object: {error}")).at(&place))?;
        let keys: Vec<String> = record.keys().cloned().collect();
        let cell = |asked: Option<&String>, usual, option| -> Result<String> {
            let key =
                &keys[column(&keys, asked.map(String::as_str), usual, option).map_err(|error| error.at(&place))?];
            match &record[key] {
                serde_json::Value::String(text) => Ok(text.trim().to_owned()),
                serde_json::Value::Number(number) => Ok(number.to_string()),
                _ => Err(Error::run(format!("{key:?} is neither a text nor a number")).at(&place)),
            }
        };
        let image = cell(options.image_column.as_ref(), IMAGE_COLUMNS, "--image-column")?;
        let label = cell(options.label_column.as_ref(), LABEL_COLUMNS, "--label-column")?;
        rows.push(checked(image, label, &place)?);
    }
    Ok(rows)
}

fn checked(image: String, label: String, place: &str) -> Result<(String, String)> {
    match (image.is_empty(), label.is_empty()) {
        (true, _) => Err(Error::run(format!("{place} names no image"))),
        (_, true) => Err(Error::run(format!("{place} has no label"))),
        _ => Ok((image, label)),
    }
}

/// The index of the column that was asked for, or of the first of the usual ones.
fn column(headers: &[String], asked: Option<&str>, usual: &[&str], option: &str) -> Result<usize> {
    let find = |name: &str| headers.iter().position(|header| header.eq_ignore_ascii_case(name));
    let found = match asked {
        Some(name) => find(name).ok_or_else(|| format!("no column {name:?}")),
        None => usual.iter().find_map(|name| find(name)).ok_or_else(|| format!("no column {}", usual.join(", "))),
    };
    found.map_err(|message| {
        Error::run(message).hint(format!("name one with {option}; the columns are {}", headers.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn message<T>(result: Result<T>) -> String {
        result.err().map(|error| format!("{error} | {}", error.advice().unwrap_or_default())).unwrap_or_default()
    }

    /// The classes, and each image with the index of its class.
    type Content = (Vec<String>, Vec<(String, usize)>);

    fn rows(name: &str, text: &str, options: &LabelledOptions) -> Result<Content> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        let Labelled { classes, items } = Labelled::open(&path, options)?;
        let base = format!("{}/", directory.path().display());
        Ok((classes, items.map(|(item, class)| (item.unwrap().id.replace(&base, ""), class)).collect()))
    }

    #[test]
    fn class_folders() {
        let directory = tempfile::tempdir().unwrap();
        for file in ["b_c/2.png", "b_c/1.jpg", "a/deep/er.png", "a/note.txt", ".hidden/x.png", "top.png", "empty/x.md"]
        {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let read = |options: &LabelledOptions| -> Result<Content> {
            let Labelled { classes, items } = Labelled::open(directory.path(), options)?;
            let name = |id: String| Path::new(&id).file_name().unwrap().to_string_lossy().into_owned();
            Ok((classes, items.map(|(item, class)| (name(item.unwrap().id), class)).collect()))
        };
        let files =
            |a, b| [("er.png", a), ("1.jpg", b), ("2.png", b)].map(|(name, class)| (name.to_owned(), class)).to_vec();
        assert_eq!(read(&LabelledOptions::default()).unwrap(), (strings(&["a", "b c", "empty"]), files(0, 1)));

        let classes = Some(strings(&["b_c", "x", "a", "empty"]));
        let options = LabelledOptions { classes, ..LabelledOptions::default() };
        assert_eq!(read(&options).unwrap().1, files(2, 0));
        let options = LabelledOptions { classes: Some(strings(&["a"])), ..LabelledOptions::default() };
        assert!(message(read(&options)).contains("the folder \"b_c\" is none of the given labels"));

        let named =
            |text| LabelledOptions { names: Some(ClassNames::parse(text).unwrap()), ..LabelledOptions::default() };
        assert_eq!(read(&named("a\tant hill\nb_c beech\nempty")).unwrap().0, strings(&["ant hill", "beech", "empty"]));
        assert!(message(read(&named("a ant"))).contains("does not say what the folder \"b_c\" stands for"));
        assert!(
            message(read(&named("a x\nb_c x\nempty"))).contains("\"a\" and \"b_c\" both stand for the class \"x\"")
        );
    }

    #[test]
    fn tables() {
        let expected = (strings(&["cat", "dog"]), vec![("1.jpg".to_owned(), 1), ("2, 3.jpg".to_owned(), 0)]);
        let options = LabelledOptions::default();
        assert_eq!(rows("t.csv", "\u{feff}label,Path\ndog,1.jpg\ncat,\"2, 3.jpg\"\n", &options).unwrap(), expected);
        assert_eq!(rows("t.tsv", "filepath\ttitle\n1.jpg\tdog\n2, 3.jpg\tcat\n", &options).unwrap(), expected);
        let json = "{\"image\":\"1.jpg\",\"label\":\"dog\"}\n\n{\"image\":\"2, 3.jpg\",\"label\":\"cat\"}\n";
        assert_eq!(rows("t.jsonl", json, &options).unwrap(), expected);
        let numbers = LabelledOptions { names: Some(ClassNames::parse("0 cat\n1 dog").unwrap()), ..options.clone() };
        assert_eq!(rows("t.csv", "image,label\n1.jpg,1\n\"2, 3.jpg\",0\n", &numbers).unwrap(), expected);
        let asked = LabelledOptions { label_column: Some("kind".into()), ..options.clone() };
        assert_eq!(rows("t.csv", "id,label,kind\n1.jpg,x,dog\n\"2, 3.jpg\",y,cat\n", &asked).unwrap(), expected);
    }

    #[test]
    fn tables_that_cannot_be_used() {
        let error = |name, text| message(rows(name, text, &LabelledOptions::default()));
        assert!(error("t.csv", "file,what\n1.jpg,x\n").contains("no column label, class"));
        assert!(error("t.csv", "file,what\n1.jpg,x\n").contains("--label-column; the columns are file, what"));
        assert!(error("t.csv", "file,label\n1.jpg,\n").contains("line 2 has no label"));
        assert!(error("t.csv", "file,label\n").contains("no rows"));
        assert!(error("t.jsonl", "{\"image\":\"x\"\n").contains("line 1: not a JSON object"));
        assert!(error("t.jsonl", "{\"image\":\"x\",\"label\":[]}").contains("neither a text nor a number"));
        assert!(error("t.png", "x").contains("neither a folder of class folders nor a table"));
    }

    #[test]
    fn class_names() {
        let parse = |text| ClassNames::parse(text).map(|names| names.0.into_iter().collect::<BTreeMap<_, _>>());
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        assert_eq!(
            parse("n01\tAmerican bullfrog\textra\nn02\tgoldfish\n").unwrap(),
            pairs(&[("n01", "American bullfrog"), ("n02", "goldfish")])
        );
        assert_eq!(parse("n01 hot dog\r\ncat\n").unwrap(), pairs(&[("n01", "hot dog"), ("cat", "cat")]));
        assert_eq!(parse("{\"n01\": \"tench\"}").unwrap(), pairs(&[("n01", "tench")]));
        assert!(message(parse("a x\na y")).contains("line 2: \"a\" is there twice"));
        assert!(message(parse("a\t\n")).contains("line 1 has no class name"));
        assert!(message(parse("\n")).contains("no class names"));
    }
}
