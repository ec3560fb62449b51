//! Images whose class is known: folders of class folders, tables, archives, and CLIP benchmark's data sets.

use super::{
    Benchmark, Content, Input, Item, Kind, Label, Parts, Sample, Samples, Source, SourceOptions, folder, source_of,
};
use crate::error::{Error, ItemError, ItemKind, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Images with their classes.
pub struct Labelled {
    /// The names of the classes: of folders in the order of their names, of a table in alphabetical order (numbers by
    /// their size), unless the order was given.
    pub classes: Vec<String>,
    /// The images, each with the index of its class. An image without a class is a failed item, of class 0.
    pub items: Box<dyn Iterator<Item = (Result<Item>, usize)> + Send>,
}

/// How a labelled set is to be read.
#[derive(Clone, Debug, Default)]
pub struct LabelledOptions {
    /// The classes, if they are not those of the set.
    pub classes: Option<Vec<String>>,
    /// What folders, or labels of a table, stand for.
    pub names: Option<ClassNames>,
    /// The format of a file, if its name does not say.
    pub format: Option<&'static dyn Source>,
    /// How a file is read. Which of its parts is known here.
    pub source: SourceOptions,
}

impl Labelled {
    /// Opens a folder of class folders (as torchvision's `ImageFolder`), a data set of CLIP benchmark, or a file with
    /// images and labels.
    pub fn open(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let set = if !path.is_dir() {
            Self::file(path, options)
        } else if Benchmark::is_one(path) {
            Self::benchmark(path, options)
        } else {
            Self::folders(path, options)
        };
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
            return Err(Error::run("no folders in here").hint("a folder of images for each class is expected"));
        }
        let labels: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let (classes, index) = options.assign(&labels, "folder")?;
        let folders: Vec<(PathBuf, usize)> = names.iter().map(|name| path.join(name)).zip(index).collect();
        let images = |(path, class): (PathBuf, usize)| {
            folder(&path, &SourceOptions::default()).map(move |sample| (sample.map(Sample::into_image), class))
        };
        Ok(Self { classes, items: Box::new(folders.into_iter().flat_map(images)) })
    }

    fn benchmark(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let set = Benchmark::open(path)?;
        let classes = options.classes.clone().or(set.classes.clone());
        let classes =
            classes.ok_or_else(|| Error::run("no classnames.txt in here").hint("name the classes with --labels"))?;
        let samples = set.samples(&options.source(true))?;
        Self::with_classes(samples, classes, options)
    }

    /// A file is read twice where it alone knows its classes: first for these.
    fn file(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let format = options.format.or_else(|| source_of(path)).ok_or_else(|| match fs::metadata(path) {
            Err(error) => Error::from(error),
            Ok(_) => Error::run("neither a folder of class folders nor a table")
                .hint("a table's name ends in .csv, .tsv, .jsonl or .parquet; others need --input-format"),
        })?;
        let open = |image| format.open(Input::new(path.to_owned()), &options.source(image));
        if let Some(classes) = &options.classes {
            return Self::with_classes(open(true)?, classes.clone(), options);
        }
        let (mut labels, mut failed) = (BTreeSet::new(), None);
        for sample in open(false)? {
            let sample = sample?;
            match sample.label {
                Some(Label::Name(name)) => drop(labels.insert(name)),
                Some(Label::Index(index)) if options.names.is_some() => drop(labels.insert(index.to_string())),
                Some(Label::Index(index)) => {
                    return Err(Error::run(format!("{}: the class is a number, {index}", sample.id))
                        .hint("say what the numbers stand for with --labels-file"));
                }
                None => failed = failed.or(Some(sample)),
            }
        }
        if labels.is_empty() {
            let reason = failed.map(|sample| match sample.image {
                Some(Content::Failed(error)) => format!("{}: {error}", sample.id),
                _ => format!("{}: there is no label", sample.id),
            });
            return Err(Error::run(reason.unwrap_or_else(|| "no rows in this table".to_owned())));
        }
        let mut labels: Vec<String> = labels.into_iter().collect();
        if let Some(numbers) = labels.iter().map(|label| label.parse().ok()).collect::<Option<Vec<u64>>>() {
            // 10 comes behind 9.
            let mut ordered: Vec<_> = numbers.into_iter().zip(labels).collect();
            ordered.sort();
            labels = ordered.into_iter().map(|(_, label)| label).collect();
        }
        let (classes, index) = options.assign(&labels, "label")?;
        let index: HashMap<String, usize> = labels.into_iter().zip(index).collect();
        let class = move |label: Label| match label {
            Label::Name(name) => index.get(&name).copied(),
            Label::Index(number) => index.get(&number.to_string()).copied(),
        };
        // A file that changed meanwhile may have other classes.
        let unknown = || Err(ItemError::new(ItemKind::Invalid, "a class that was not there before"));
        let class = move |label| class(label).map_or_else(|| Ok(unknown()), |class| Ok(Ok(class)));
        Ok(Self { classes, items: items(open(true)?, class) })
    }

    /// Samples whose classes were given. A name among the samples that is none of them ends the job: all that came of it
    /// would be wrong.
    fn with_classes(samples: Samples, classes: Vec<String>, options: &LabelledOptions) -> Result<Self> {
        let (count, options, known) = (classes.len(), options.clone(), classes.clone());
        let class = move |label| match label {
            Label::Index(index) if options.names.is_none() => Ok(if index < count {
                Ok(index)
            } else {
                Err(ItemError::new(ItemKind::Invalid, format!("the class {index} of {count}, counted from 0")))
            }),
            Label::Index(index) => options.find(&known, &index.to_string(), "label").map(Ok),
            Label::Name(name) => options.find(&known, &name, "label").map(Ok),
        };
        Ok(Self { classes, items: items(samples, class) })
    }
}

/// The images of samples, with the index of their class. What `class` cannot place is an item that fails, or an error.
fn items(
    samples: Samples,
    class: impl Fn(Label) -> Result<Result<usize, ItemError>> + Send + 'static,
) -> Box<dyn Iterator<Item = (Result<Item>, usize)> + Send> {
    Box::new(samples.map(move |sample| {
        let mut sample = match sample {
            Ok(sample) => sample,
            Err(error) => return (Err(error), 0),
        };
        let index = match (sample.label.take(), &sample.image) {
            (Some(label), _) => match class(label) {
                Ok(index) => index,
                Err(error) => return (Err(error.at(&sample.id)), 0),
            },
            // It says itself what is wrong.
            (None, Some(Content::Failed(_))) => Ok(0),
            (None, _) => Err(ItemError::new(ItemKind::Invalid, "there is no label")),
        };
        match index {
            Ok(index) => (Ok(sample.into_image()), index),
            Err(error) => (Ok(Item::failed(sample.id, Kind::Image, error)), 0),
        }
    }))
}

impl LabelledOptions {
    /// The classes, and for each raw label (a folder's name, or what a table says) the index of its class.
    fn assign(&self, labels: &[String], unit: &str) -> Result<(Vec<String>, Vec<usize>)> {
        if let Some(classes) = &self.classes {
            let index = labels.iter().map(|raw| self.find(classes, raw, unit)).collect::<Result<Vec<_>>>()?;
            return Ok((classes.clone(), index));
        }
        let named = labels.iter().map(|label| self.name(label, unit)).collect::<Result<Vec<_>>>()?;
        let mut seen = BTreeMap::new();
        for (raw, name) in labels.iter().zip(&named) {
            if let Some(other) = seen.insert(name, raw) {
                return Err(Error::run(format!("the {unit}s {other:?} and {raw:?} both stand for the class {name:?}")));
            }
        }
        Ok((named, (0..labels.len()).collect()))
    }

    /// The index of the class that a folder or a label stands for, among these.
    fn find(&self, classes: &[String], raw: &str, unit: &str) -> Result<usize> {
        let name = self.name(raw, unit)?;
        let found = classes.iter().position(|class| *class == name || (self.names.is_none() && class == raw));
        found.ok_or_else(|| {
            Error::run(format!("the {unit} {raw:?} is none of the given labels"))
                .hint("name every class with --labels, or say what folders stand for with --classnames")
        })
    }

    fn source(&self, image: bool) -> SourceOptions {
        SourceOptions { parts: Parts { image, captions: false, label: true }, ..self.source.clone() }
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
    /// itself), a JSON object, or a file that ends in `.csv` with the two as its first columns.
    pub fn load(path: &Path) -> Result<Self> {
        let at = |error: Error| error.at(path.display());
        let text = fs::read(path).map_err(|error| at(error.into()))?;
        let text = String::from_utf8(text).map_err(|_| at(Error::run("not UTF-8 text")))?;
        let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        if is_csv { Self::parse_csv(&text) } else { Self::parse(&text) }.map_err(at)
    }

    /// Rows of a folder and a class name; a first row of headings is none.
    fn parse_csv(text: &str) -> Result<Self> {
        const HEADINGS: [&str; 4] = ["name", "classname", "class_name", "shown"];
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let mut names = HashMap::new();
        for (number, row) in (1..).zip(reader.records()) {
            let row = row.map_err(Error::run)?;
            let (folder, name) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
            if number == 1 && HEADINGS.iter().any(|heading| name.eq_ignore_ascii_case(heading)) {
                continue;
            }
            if folder.is_empty() || name.is_empty() {
                return Err(Error::run(format!("row {number} has no class name")));
            }
            if names.insert(folder.to_owned(), name.to_owned()).is_some() {
                return Err(Error::run(format!("row {number}: {folder:?} is there twice")));
            }
        }
        if names.is_empty() { Err(Error::run("no class names in this file")) } else { Ok(Self(names)) }
    }

    /// What this stands for, if the file says so.
    pub fn get(&self, raw: &str) -> Option<&str> {
        self.0.get(raw).map(String::as_str)
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
        let many =
            LabelledOptions { names: Some(ClassNames::parse("9 nine\n10 ten\n2 two").unwrap()), ..options.clone() };
        let found = rows("t.csv", "image,label\na,10\nb,9\nc,2\n", &many).unwrap();
        assert_eq!(found.0, strings(&["two", "nine", "ten"]));
        assert_eq!(found.1.iter().map(|(_, class)| *class).collect::<Vec<_>>(), [2, 1, 0]);
        let source = SourceOptions { label_key: vec!["kind".into()], ..SourceOptions::default() };
        let asked = LabelledOptions { source, ..options.clone() };
        assert_eq!(rows("t.csv", "id,label,kind\n1.jpg,x,dog\n\"2, 3.jpg\",y,cat\n", &asked).unwrap(), expected);
    }

    #[test]
    fn tables_that_cannot_be_used() {
        let error = |name, text| message(rows(name, text, &LabelledOptions::default()));
        assert!(error("t.csv", "file,what\n1.jpg,x\n").contains("no column label, class"));
        assert!(error("t.csv", "file,what\n1.jpg,x\n").contains("--label-key; the columns are file, what"));
        assert!(error("t.csv", "file,label\n1.jpg,\n").contains("there is no label"));
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
        let csv = |text| ClassNames::parse_csv(text).map(|names| names.0.into_iter().collect::<BTreeMap<_, _>>());
        assert_eq!(
            csv("label,name\nn01,\"hot dog, plain\"\nn02, tench ,more\n").unwrap(),
            pairs(&[("n01", "hot dog, plain"), ("n02", "tench")])
        );
        assert!(message(csv("n01,a\nn01,b")).contains("row 2: \"n01\" is there twice"));
        assert!(message(csv("n01\n")).contains("row 1 has no class name"));
        assert!(message(parse("a x\na y")).contains("line 2: \"a\" is there twice"));
        assert!(message(parse("a\t\n")).contains("line 1 has no class name"));
        assert!(message(parse("\n")).contains("no class names"));
    }
}
