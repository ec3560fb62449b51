//! Every shape in which people keep images and captions gives what the plain files give.

use super::{Ran, Sandbox, root, tiny};
use serde_json::Value;
use std::path::Path;

const PHOTOS: [&str; 3] = ["photos/gray.jpg", "photos/palette.png", "photos/tiny.png"];
const CAPTIONS: [&str; 3] = ["a photo of a cat, \"sleeping\"", "two lines\nof a caption", "a small ünïcode picture ☃"];

/// The sandbox with the files of `tests/golden/inputs.py` beside the photos.
pub(super) fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let golden = root().join("tests/golden/data/inputs");
    copy(&golden, &sandbox.path(""));
    sandbox
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The records without their ids.
fn results(ran: &Ran) -> Vec<Value> {
    let mut records = ran.records();
    records.iter_mut().for_each(|record| drop(record.as_object_mut().unwrap().remove("id")));
    records.iter_mut().for_each(|record| drop(record.as_object_mut().unwrap().remove("text")));
    records
}

/// What the photos give by their names, and the captions on the command line.
fn expected(sandbox: &Sandbox) -> (Vec<Value>, Vec<Value>) {
    let images = results(&sandbox.embed(&PHOTOS).code(0));
    let texts: Vec<&str> = CAPTIONS.iter().flat_map(|caption| ["--text", caption]).collect();
    (images, results(&sandbox.embed(&texts).code(0)))
}

#[test]
fn images_are_the_same_in_every_shape() {
    let sandbox = sandbox();
    let (images, _) = expected(&sandbox);
    let paths = PHOTOS.map(str::to_owned);
    let ids = |ids: [&str; 3]| ids.map(str::to_owned);
    for (input, more, expected_ids) in [
        ("photos/{gray.jpg,palette.png,tiny.png}", &[][..], paths.clone()),
        ("photos.list", &[], paths.clone()),
        ("pairs.csv", &[], paths.clone()),
        ("open_clip.csv", &["--csv-img-key", "filepath"], paths.clone()),
        ("open_clip.csv", &["--csv-separator", "\\t"], paths.clone()),
        ("pairs.tsv", &[], paths.clone()),
        ("pairs.tsv", &["--id-key", "title"], CAPTIONS.map(str::to_owned)),
        ("pairs.jsonl", &[], paths.clone()),
        ("paths.parquet", &["--image-key", "nothing;FilePath"], paths.clone()),
        ("bytes.parquet", &[], ids(["bytes.parquet#0", "bytes.parquet#1", "bytes.parquet#2"])),
        ("bytes.parquet", &["--id-key", "key"], ids(["x", "y", "z"])),
        ("shard-{00..01}.tar", &[], ids(["shard-00.tar#000", "shard-00.tar#001", "shard-01.tar#002"])),
        ("shard-*.tar", &["--id-key", "n"], ids(["0", "1", "2"])),
        ("shards.tar.gz", &[], ids(["shards.tar.gz#000", "shards.tar.gz#001", "shards.tar.gz#002"])),
        (
            "benchmark",
            &[],
            ids(["benchmark/test/0.tar#s0000000", "benchmark/test/0.tar#s0000001", "benchmark/test/1.tar#s0000002"]),
        ),
    ] {
        let ran = sandbox.embed(&[&[input], more].concat()).code(0);
        assert_eq!(ran.ids(), expected_ids, "{input} {more:?}");
        assert_eq!(results(&ran), images, "{input} {more:?}");
    }
}

#[test]
fn a_hugging_face_data_set() {
    let sandbox = sandbox();
    let (images, texts) = expected(&sandbox);
    let ran = sandbox.embed(&["hf.parquet"]).code(1);
    // The fourth row is a null.
    assert_eq!(ran.ids()[3..], ["hf.parquet#3: invalid"]);
    assert_eq!(results(&ran)[..3], images);
    let ran = sandbox.embed(&["hf.parquet", "--captions"]).code(1);
    assert_eq!(results(&ran)[..3], texts);
}

#[test]
fn arrays_of_pixels() {
    let sandbox = sandbox();
    let crops = results(&sandbox.embed(&["crop-0.png", "crop-1.png"]).code(0));
    for input in ["pixels.npy", "planes.npy"] {
        let ran = sandbox.embed(&[input]).code(0);
        assert_eq!(ran.ids(), [format!("{input}#0"), format!("{input}#1")]);
        assert_eq!(results(&ran), crops);
    }
}

#[test]
fn long_names_in_archives() {
    let sandbox = sandbox();
    let image = results(&sandbox.embed(&["photos/tiny.png"]).code(0));
    for input in ["long-gnu.tar", "long-pax.tar"] {
        let ran = sandbox.embed(&[input]).code(0);
        assert_eq!(ran.ids(), [format!("{input}#{}überlang/photo", "ordner/".repeat(40))]);
        assert_eq!(results(&ran), image);
    }
}

#[test]
fn pairs_come_in_one_pass() {
    let sandbox = sandbox();
    let (images, texts) = expected(&sandbox);
    let pairs: Vec<Value> = images.iter().zip(&texts).flat_map(|(image, text)| [image.clone(), text.clone()]).collect();
    for (photo, caption) in PHOTOS.iter().zip(CAPTIONS) {
        sandbox.write(Path::new(photo).with_extension("txt"), format!("{caption}\n"));
    }
    for input in [
        &PHOTOS[..],
        &["pairs.csv"],
        &["open_clip.csv"],
        &["pairs.tsv"],
        &["pairs.jsonl", "--caption-key", "title"],
        &["paths.parquet"],
        &["shard-{00..01}.tar"],
        &["shards.tar.gz"],
        &["photos.list"],
    ] {
        let ran = sandbox.embed(&[input, &["--pairs"]].concat()).code(0);
        assert_eq!(results(&ran), pairs, "{input:?}");
        let ids = ran.ids();
        assert!(ids.chunks(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
        let ran = sandbox.embed(&[input, &["--captions"]].concat()).code(0);
        assert_eq!(results(&ran), texts, "{input:?}");
    }
    // Several captions of an image follow it.
    let ran = sandbox.embed(&["bytes.parquet", "--pairs"]).code(0);
    let kinds: Vec<_> = ran.records().iter().map(|record| record["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["image", "text", "text"].repeat(3));
    assert_eq!(results(&ran)[1], texts[0]);
}

#[test]
fn pairs_do_not_depend_on_batches() {
    let sandbox = sandbox();
    sandbox.write("bad.csv", "image,caption\nphotos/tiny.png,\nphotos/none.png,a cat\nphotos/gray.jpg,a dog\n");
    let inputs =
        ["pairs.csv", "bad.csv", "bytes.parquet", "photos/rgba.png", "shards.tar.gz", "--pairs", "--text", "x"];
    let run = |settings: &str| {
        let args: Vec<&str> = inputs.into_iter().chain(settings.split_whitespace()).collect();
        sandbox.embed(&args).code(1).stdout
    };
    let reference = run("--batch-size 1 --workers 1 --threads 1");
    assert_eq!(super::records(&reference).len(), 30);
    for settings in ["", "--batch-size 2 --workers 3", "--batch-size 5", "--batch-size 64 --threads 3"] {
        assert!(run(settings) == reference, "{settings}");
    }
}

#[test]
fn many_texts_behind_an_image_do_not_pile_up() {
    let sandbox = sandbox();
    let captions: Vec<String> = (0..300).map(|n| format!("\"a photo number {n}\"")).collect();
    let record = format!("{{\"image\":\"photos/tiny.png\",\"captions\":[{}]}}\n", captions.join(","));
    sandbox.write("many.jsonl", record);
    let ran = sandbox.embed(&["many.jsonl", "--pairs", "--batch-size", "3"]).code(0);
    let kinds: Vec<_> = ran.records().iter().map(|record| record["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!((kinds.len(), kinds[0].as_str()), (301, "image"));
    assert!(kinds[1..].iter().all(|kind| kind == "text"));
}

#[test]
fn standard_input_in_every_format() {
    let sandbox = sandbox();
    let (images, _) = expected(&sandbox);
    for (format, file) in [
        ("csv", "pairs.csv"),
        ("tsv", "pairs.tsv"),
        ("jsonl", "pairs.jsonl"),
        ("tar", "shards.tar.gz"),
        ("list", "photos.list"),
    ] {
        let ran = sandbox.embed_with(&["-", "--input-format", format], sandbox.read(file)).code(0);
        assert_eq!(results(&ran), images, "{format}");
    }
    let ran = sandbox.embed_with(&["-", "--input-format", "npy"], sandbox.read("pixels.npy")).code(0);
    assert_eq!(ran.ids(), ["-#0", "-#1"]);
    let ran = sandbox.embed_with(&["-", "--input-format", "parquet"], sandbox.read("paths.parquet")).code(1);
    assert!(ran.stderr.contains("this format needs a file, not standard input"), "{}", ran.stderr);
    // The format counts for files with any name.
    sandbox.write("strange.name", sandbox.read("pairs.csv"));
    assert_eq!(results(&sandbox.embed(&["strange.name", "--input-format", "csv"]).code(0)), images);
}

#[test]
fn paths_in_tables_start_at_the_table() {
    let sandbox = sandbox();
    let table = sandbox.file("deep/er/table.csv", "image\n../../photos/tiny.png\n");
    assert_eq!(sandbox.embed(&[&table]).code(0).records().len(), 1);
    sandbox.write("deep/er/table.csv", "image\ntiny.png\n");
    let ran = sandbox.embed(&["deep/er/table.csv", "--image-root", "photos"]).code(0);
    assert_eq!(ran.ids(), ["photos/tiny.png"]);
    let absolute = sandbox.path("photos/tiny.png").display().to_string();
    sandbox.write("deep/er/table.csv", format!("image\n{absolute}\n"));
    assert_eq!(sandbox.embed(&["deep/er/table.csv", "--image-root", "photos"]).code(0).ids(), [absolute]);
}

#[test]
fn patterns() {
    let sandbox = sandbox();
    for name in ["a/1.png", "a/b/2.png", "a/.hidden/3.png", "a/[x].png"] {
        sandbox.file(name, sandbox.read("photos/tiny.png"));
    }
    let ids = |pattern: &str| sandbox.embed(&[pattern]).code(0).ids();
    assert_eq!(ids("a/*.png"), ["a/1.png", "a/[x].png"]);
    assert_eq!(ids("a/**/*.png"), ["a/1.png", "a/[x].png", "a/b/2.png"]);
    assert_eq!(ids("a/{1,b/2}.p?g"), ["a/1.png", "a/b/2.png"]);
    // A file is itself before it is a pattern.
    assert_eq!(ids("a/[x].png"), ["a/[x].png"]);
    let ran = sandbox.embed(&["a/*.gif", "a/{0..99999999}.png", "a/***"]).code(1);
    assert_eq!(ran.ids(), ["a/*.gif: not_found", "a/{0..99999999}.png: invalid", "a/***: invalid"]);
}

#[test]
fn tables_are_told_from_records() {
    let sandbox = sandbox();
    let model = tiny();
    let zeroshot = |input: &str| {
        let args = ["zeroshot", input, "--model", model.to_str().unwrap(), "--labels", "cat,dog", "--top-k", "1"];
        sandbox.run(&args).code(0).records()
    };
    let from_table = zeroshot("pairs.jsonl");
    sandbox.write("records.jsonl", sandbox.embed(&["pairs.jsonl"]).code(0).stdout);
    assert_eq!(from_table, zeroshot("records.jsonl"));
    assert_eq!(from_table.len(), 3);
}

#[test]
fn images_against_their_own_captions() {
    let sandbox = sandbox();
    let model = tiny();
    let run = |args: &[&str]| {
        let args: Vec<&str> = [&["similarity", "--model", model.to_str().unwrap(), "--pairs"], args].concat();
        sandbox.run(&args)
    };
    let texts: Vec<&str> = CAPTIONS.iter().flat_map(|caption| ["--text", caption]).collect();
    let expected = run(&[&PHOTOS[..], &texts].concat()).code(0).records();
    assert_eq!(run(&["pairs.csv"]).code(0).records(), expected);
    assert_eq!(run(&["bytes.parquet"]).code(0).records().len(), 6);
    let ran = run(&["photos/tiny.png"]).code(1);
    assert_eq!(ran.ids(), ["photos/tiny.png: not_found"]);
}

#[test]
fn labelled_sets_of_every_shape_agree() {
    let sandbox = sandbox();
    for (class, photo) in [("a_dog", PHOTOS[1]), ("a_cat", PHOTOS[0]), ("a_cat", PHOTOS[2])] {
        sandbox.file(&format!("folders/{class}/{}", &photo[7..]), sandbox.read(photo));
    }
    let rows = PHOTOS.iter().zip(["a cat", "a dog", "a cat"]).map(|(photo, label)| format!("{photo},{label}\n"));
    sandbox.write("labels.csv", format!("path,label\n{}", rows.collect::<String>()));
    let model = tiny();
    let report = |input: &str, more: &[&str]| {
        let before = ["zeroshot", "--eval", input, "--model", model.to_str().unwrap(), "--dataset", "x"];
        let ran = sandbox.run(&[&before[..], more].concat());
        let mut report = ran.records().pop().unwrap_or_else(|| panic!("{input}: {}", ran.stderr));
        report.as_object_mut().unwrap().remove("failed");
        (ran.code, report)
    };
    let labels = ["--labels", "a dog,a cat"];
    let templates = ["--templates", "./benchmark/zeroshot_classification_templates.txt"];
    let all = [&labels[..], &templates].concat();
    let (code, expected) = report("folders", &all);
    assert_eq!((code, &expected["n"]), (Some(0), &Value::from(3)), "{expected}");
    // The data set brings its classes and templates; so does the metadata of Hugging Face, whose last row is null.
    assert_eq!(report("benchmark", &[]), (Some(0), expected.clone()));
    assert_eq!(report("benchmark/test", &templates), (Some(0), expected.clone()));
    assert_eq!(report("labels.csv", &all), (Some(0), expected.clone()));
    assert_eq!(report("hf.parquet", &all).0, Some(1));
    assert_eq!(report("hf.parquet", &all).1["metrics"], expected["metrics"]);
    assert_eq!(report("benchmark/test/0.tar", &all).1["n"], 2);
    assert_eq!(report("labels.csv", &["--image-column", "path", "--label-column", "label"]).1["n"], 3);
}
