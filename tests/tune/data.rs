//! Sets from every source, tests of their classes, and splits on disk.

use super::splits::shots;
use clip_cli::data::{ClassNames, LabelledOptions, SourceOptions};
use clip_cli::error::Result;
use clip_cli::image::DecodeOptions;
use clip_cli::tune::data::{Image, Part, Protocol, Seen, Set, Split, Subset, Test, check_names, decoded, read, usable};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Class folders with so many different small images.
    fn classes(&self, classes: &[(&str, usize)]) {
        for (class, n) in classes {
            (0..*n).for_each(|at| self.write(&format!("{class}/{at:02}.ppm"), photo(class, at)));
        }
    }

    fn open(&self, name: &str, options: &LabelledOptions) -> Result<Set> {
        Set::open(&self.path(name), options)
    }

    fn error(&self, name: &str, options: &LabelledOptions) -> String {
        self.message(self.open(name, options))
    }

    fn message<T>(&self, result: Result<T>) -> String {
        let error = result.err().expect("an error");
        format!("{error} | {}", error.advice().unwrap_or_default())
            .replace(&format!("{}/", self.0.path().display()), "")
            .replace(&self.0.path().display().to_string(), "")
    }
}

fn photo(class: &str, at: usize) -> Vec<u8> {
    let shade = class.bytes().fold(at as u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    [&b"P6\n2 1\n255\n"[..], &[shade, at as u8, 0, 1, 2, 3]].concat()
}

fn look(image: &Image) -> Result<Seen> {
    Ok(decoded(image, &DecodeOptions::default()))
}

fn protocol(many: usize) -> Protocol {
    Protocol { shots: shots(many), seed: 1, subset: Subset::All, strict: false }
}

fn listed(part: &Part) -> Vec<(&str, &str)> {
    part.images.iter().map(|image| (image.id.as_str(), part.classes[image.class].as_str())).collect()
}

fn names(text: &str) -> LabelledOptions {
    let file = Folder::new();
    file.write("names.txt", text);
    LabelledOptions { names: Some(ClassNames::load(&file.path("names.txt")).unwrap()), ..LabelledOptions::default() }
}

#[test]
fn folders_tables_and_lines_are_the_same_set() {
    let folder = Folder::new();
    folder.classes(&[("cat", 3), ("red_fox", 2)]);
    folder.write("empty/note.txt", "x");
    let rows = [
        "red fox,red_fox/01.ppm",
        "cat,cat/02.ppm",
        "cat,cat/00.ppm",
        "cat,cat/00.ppm",
        "red fox,red_fox/00.ppm",
        "cat,cat/01.ppm",
    ];
    folder.write("t.csv", format!("label,path\n{}\n", rows.join("\n")));
    let lines = rows.iter().rev().map(|row| {
        let (label, path) = row.split_once(',').unwrap();
        format!("{{\"image\":\"{path}\",\"label\":\"{label}\"}}\n")
    });
    folder.write("t.jsonl", lines.collect::<String>());
    let options = LabelledOptions::default();
    let [folders, table, json] = ["", "t.csv", "t.jsonl"].map(|name| folder.open(name, &options).unwrap());
    assert_eq!(
        listed(&folders.train),
        [
            ("cat/00.ppm", "cat"),
            ("cat/01.ppm", "cat"),
            ("cat/02.ppm", "cat"),
            ("red_fox/00.ppm", "red fox"),
            ("red_fox/01.ppm", "red fox")
        ]
    );
    assert_eq!(folders.empty, ["empty"]);
    assert_eq!((&table.train, &json.train), (&folders.train, &folders.train));
    assert_eq!((table.fingerprint(), json.fingerprint()), (folders.fingerprint(), folders.fingerprint()));
    let [a, b] = [&folders, &json].map(|set| protocol(1).split(set, &look).unwrap());
    assert_eq!((a.train, a.val), (b.train, b.val));
}

#[test]
fn archives_and_parquet_files() {
    let inputs = Path::new(GOLDEN).join("data/inputs");
    let set = Set::open(&inputs.join("benchmark"), &LabelledOptions::default()).unwrap();
    assert_eq!((set.train.classes.len(), set.train.images.len()), (2, 3), "{set:?}");
    assert!(set.train.images.iter().all(|image| look(image).unwrap().is_ok()));
    // Numbers of classes stand for names.
    let shards = inputs.join("benchmark/test/0.tar");
    let error = Set::open(&shards, &LabelledOptions::default()).unwrap_err().to_string();
    assert!(error.contains("the class is a number"), "{error}");
    let set = Set::open(&shards, &names("0\tzero\n1\tone\n2\ttwo\n")).unwrap();
    assert!(set.train.images.iter().all(|image| look(image).unwrap().is_ok()));
    assert!(set.train.classes.iter().all(|name| ["zero", "one", "two"].contains(&name.as_str())), "{set:?}");
    if cfg!(feature = "parquet") {
        let set = Set::open(&inputs.join("hf.parquet"), &LabelledOptions::default()).unwrap();
        assert!(set.train.classes.len() >= 2, "{set:?}");
        assert!(set.train.images.iter().all(|image| look(image).unwrap().is_ok()));
    }
}

#[test]
fn coops_splits() {
    let folder = Folder::new();
    for name in ["a/1.ppm", "a/2.ppm", "b/1.ppm", "b/2.ppm", "c/1.ppm", "v.ppm", "t.ppm"] {
        folder.write(&format!("images/{name}"), photo(name, 0));
    }
    let json = r#"{"train": [["b/1.ppm", 2, "big_dog"], ["a/1.ppm", "10", "ant"], ["b/2.ppm", 2, "big_dog"], ["a/2.ppm", 10, "ant"],
        ["c/1.ppm", 1, "cow"]], "val": [["v.ppm", 10, "ant"]], "test": [["t.ppm", 3, "emu"], ["a/1.ppm", 10, "ant"]]}"#;
    folder.write("split_zhou.json", json);
    let root = SourceOptions { root: Some(folder.path("images")), ..SourceOptions::default() };
    let options = LabelledOptions { source: root, ..LabelledOptions::default() };
    let set = folder.open("split_zhou.json", &options).unwrap();
    // By number of the label, not by name.
    assert_eq!(set.train.classes, ["cow", "big dog", "ant"]);
    assert_eq!(set.train.images.len(), 5);
    assert_eq!(listed(set.val.as_ref().unwrap()), [("v.ppm", "ant")]);
    let split = protocol(2).split(&set, &look).unwrap();
    assert_eq!((split.train.len(), split.val.len(), &split.val[0].id[..]), (5, 1, "v.ppm"));
    let test = Test::new(set.tested(), &set.train.classes, Subset::All).unwrap();
    assert_eq!(test.images.iter().map(|image| (&image.id[..], image.class)).collect::<Vec<_>>(), [("a/1.ppm", 2)]);
    assert_eq!(test.unseen.into_iter().collect::<Vec<_>>(), [("emu".to_owned(), 1)]);
    let shown = LabelledOptions { names: names("ant\tred ant\n2\thound\ncow\tcow\nemu\temu").names, ..options.clone() };
    assert_eq!(folder.open("split_zhou.json", &shown).unwrap().train.classes, ["cow", "hound", "red ant"]);

    assert!(
        folder.error("split_zhou.json", &LabelledOptions::default()).contains("images are not below  | --image-root")
    );
    for path in ["../x.ppm", "/etc/passwd", "a/../../x.ppm", "", "a\\u0000b"] {
        let json = format!("{{\"train\": [[\"a/1.ppm\", 0, \"ant\"], [\"{path}\", 0, \"ant\"]]}}");
        folder.write("bad.json", json);
        let error = folder.error("bad.json", &options);
        assert!(error.contains("leads out of the folder"), "{path}: {error}");
    }
    for (json, message) in [
        ("{\"train\": [[\"a/1.ppm\", 0]]}", "bad.json: not a split as CoOp has them"),
        ("[1]", "not a split as CoOp has them"),
        ("{\"train\": []}", "no images in here"),
        (
            "{\"train\": [[\"a/1.ppm\", 0, \"ant\"], [\"a/2.ppm\", 0, \"bee\"]]}",
            "the label 0 is both \"ant\" and \"bee\"",
        ),
        (
            "{\"train\": [[\"a/1.ppm\", 0, \"ant\"], [\"a/2.ppm\", 1, \"Ant\"]]}",
            "the classes \"ant\" and \"Ant\" are the same",
        ),
        ("{\"train\": [[\"a/1.ppm\", \"x\", \"ant\"]]}", "the label \"x\" is no whole number"),
    ] {
        folder.write("bad.json", json);
        let error = folder.error("bad.json", &options);
        assert!(error.contains(message), "{error}");
    }
    (0..json.len()).step_by(7).for_each(|end| {
        folder.write("bad.json", &json[..end]);
        assert!(folder.error("bad.json", &options).contains("not a split as CoOp has them"));
    });
}

#[test]
fn images_of_no_use_are_counted() {
    let folder = Folder::new();
    folder.classes(&[("set/cat", 6), ("set/dog", 6)]);
    let set = folder.open("set", &LabelledOptions::default()).unwrap();
    let first = protocol(2).split(&set, &look).unwrap().train[0].id.clone();
    folder.write(&format!("set/{first}"), "no image");
    let split = protocol(2).split(&set, &look).unwrap();
    assert_eq!((split.train.len(), split.left_out.count), (4, 1));
    assert!(split.train.iter().all(|image| image.id != first));
    // The same for images that are not drawn; those that were are known by their content.
    let found = usable(set.train.images.clone(), &look).unwrap();
    assert_eq!((found.0.len(), found.1.count), (11, 1));
    assert_eq!(split.overlap(&found.0).len(), split.train.len() + split.val.len());
    // Who only reads does not see it.
    let reads = |image: &Image| Ok(read(image, 1 << 20));
    assert_eq!(protocol(2).split(&set, &reads).unwrap().left_out.count, 0);

    folder.write(
        "t.csv",
        "path,label\nset/cat/00.ppm,cat\nset/cat/00.ppm,dog\nset/cat/01.ppm,\nset/cat/02.ppm,cat\nset/dog/00.ppm,dog\n",
    );
    let set = folder.open("t.csv", &LabelledOptions::default()).unwrap();
    assert_eq!(listed(&set.train), [("set/cat/02.ppm", "cat"), ("set/dog/00.ppm", "dog")]);
    assert_eq!(set.left_out.count, 2, "{:?}", set.left_out);
    assert!(
        set.left_out
            .first
            .iter()
            .any(|(id, error)| id == "set/cat/00.ppm" && error.message.contains("two classes, \"cat\" and \"dog\""))
    );
    folder.classes(&[("twins/hot_dog", 1), ("twins/Hot dog", 1)]);
    assert!(
        folder
            .error("twins", &LabelledOptions::default())
            .contains("the classes \"Hot dog\" and \"hot dog\" are the same")
    );
}

#[test]
fn tests_have_the_classes_that_were_learnt() {
    let folder = Folder::new();
    folder.classes(&[("train/ant", 2), ("train/bee", 2), ("train/cow", 2), ("train/dog", 2)]);
    folder.classes(&[("test/Ant", 3), ("test/cow", 1), ("test/dog", 1), ("test/emu", 2)]);
    let [train, test] = ["train", "test"].map(|name| folder.open(name, &LabelledOptions::default()).unwrap());
    let classes = &train.train.classes;
    let all = Test::new(test.tested(), classes, Subset::All).unwrap();
    assert_eq!((all.images.len(), all.other_half, &all.absent), (5, 0, &vec!["bee".to_owned()]));
    assert_eq!(all.unseen.get("emu"), Some(&2));
    let notes = all.notes().join("\n");
    assert!(notes.contains("test images with labels that were not learnt, left out: 2, \"emu\" (2)"), "{notes}");
    assert!(notes.contains("no test image of: bee"), "{notes}");
    let new = Test::new(test.tested(), classes, Subset::New).unwrap();
    assert_eq!((&new.classes[..], new.other_half), (&["cow".to_owned(), "dog".to_owned()][..], 3));
    assert_eq!(new.images.iter().map(|image| image.class).collect::<Vec<_>>(), [0, 1]);
    let error = Test::new(test.tested(), &["x".to_owned(), "y".to_owned()], Subset::All).unwrap_err();
    assert!(error.to_string().contains("x, y") && error.advice().unwrap().contains("Ant, cow"), "{error}");
}

#[test]
fn saved_splits_are_read_back_or_refused() {
    let folder = Folder::new();
    folder.classes(&[("set/ant", 5), ("set/bee", 2), ("set/cow", 9), ("set/dog", 9)]);
    let open = || folder.open("set", &LabelledOptions::default()).unwrap();
    let file = folder.path("split.json");
    for subset in [Subset::All, Subset::Base, Subset::New] {
        let split = Protocol { subset, ..protocol(3) }.split(&open(), &look).unwrap();
        split.write(&file).unwrap();
        let back = Split::load(&file, &open(), &look).unwrap();
        assert_eq!(back, split);
        assert_eq!(back.to_json(), split.to_json());
    }
    let split = protocol(3).split(&open(), &look).unwrap();
    split.write(&file).unwrap();
    let refused = || folder.message(Split::load(&file, &open(), &look));
    let drawn = &split.train[0].id;
    let before = fs::read(folder.path("set").join(drawn)).unwrap();
    folder.write(&format!("set/{drawn}"), photo("other", 9));
    assert!(refused().contains(&format!("the data changed since this split was drawn: {drawn} has another content")));
    folder.write(&format!("set/{drawn}"), "no image");
    assert!(refused().contains("the data changed since this split was drawn"));
    folder.write(&format!("set/{drawn}"), &before);
    assert_eq!(Split::load(&file, &open(), &look).unwrap(), split);
    folder.write("set/ant/99.ppm", photo("ant", 99));
    assert!(refused().contains("set has 26 images of 4 classes to learn from now"), "{}", refused());
    fs::remove_file(folder.path("set/ant/99.ppm")).unwrap();
    assert!(Split::load(&file, &open(), &look).is_ok());
    fs::remove_file(folder.path("set/ant/00.ppm")).unwrap();
    assert!(refused().contains("the data changed since"));
    folder.write("set/ant/00.ppm", photo("ant", 0));

    let text = split.to_json();
    (0..text.len()).step_by(97).for_each(|end| {
        folder.write("split.json", &text[..end]);
        assert!(refused().contains("split.json: no split of clip-cli's"));
    });
    folder.write("split.json", text.replace("split 1", "split 9"));
    assert!(refused().contains("its format is"));
    folder.write("split.json", text.replacen("\"ant/", "\"../ant/", 1));
    assert!(refused().contains("is no longer there"));
}

#[test]
fn names_that_a_model_cannot_tell_apart() {
    let tokens =
        |name: &str| -> Result<Vec<u32>> { Ok(name.bytes().filter(u8::is_ascii_alphabetic).map(u32::from).collect()) };
    let check = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        check_names(&names, &tokens).map_err(|error| error.to_string())
    };
    assert_eq!(check(&["cat", "dog"]), Ok(()));
    assert_eq!(check(&["C++", "C"]).unwrap_err(), "the model reads the class names \"C++\" and \"C\" as the same text");
    assert_eq!(check(&["cat", "42"]).unwrap_err(), "of the class name \"42\" nothing is left that the model reads");
}
