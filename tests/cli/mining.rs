//! `negatives mine`.

use super::{Sandbox, tiny};
use serde_json::Value;
use std::collections::BTreeMap;

/// A table in a folder of its own: six images, some with two captions, one caption under two images.
fn table(sandbox: &Sandbox) -> String {
    let rows = [
        ("cmyk", "a red square", "shapes", "x"),
        ("cmyk", "a square", "shapes", "x"),
        ("gray", "a grey hill", "land", "y"),
        ("landscape", "a wide field", "land", "x"),
        ("landscape", "A grey  HILL", "land", "x"),
        ("palette", "some colours", "shapes", "z"),
        ("portrait", "a tall tower", "people", "z"),
        ("tiny", "nearly nothing", "dots", "w"),
    ];
    let mut text = "filepath\ttitle\tkind\tshoot\n".to_owned();
    for (image, title, kind, shoot) in rows {
        let name = ["jpg", "png"].into_iter().find_map(|end| {
            let name = format!("{image}.{end}");
            sandbox.path(format!("photos/{name}")).exists().then_some(name)
        });
        text += &format!("{}\t{title}\t{kind}\t{shoot}\n", name.unwrap());
    }
    sandbox.file("photos/captions.tsv", text)
}

fn mine(sandbox: &Sandbox, args: &[&str]) -> super::Ran {
    let model = tiny().display().to_string();
    let fixed =
        ["negatives", "mine", "--train-data", "photos/captions.tsv", "--model", &model, "--near-duplicate", "off"];
    sandbox.run(&[&fixed[..], args].concat())
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|x| x.as_str().unwrap()).collect()
}

#[test]
fn a_table_of_pairs_becomes_one_with_negatives() {
    let sandbox = Sandbox::new();
    table(&sandbox);
    let all = ["--relative-margin", "off", "--num-negatives", "9", "--format", "jsonl"];
    let ran = mine(&sandbox, &all).code(0);
    let records = ran.records();
    assert_eq!(records.len(), 8);
    for record in &records {
        let (image, title) = (record["filepath"].as_str().unwrap(), record["title"].as_str().unwrap());
        // All other texts, and all other images, but for those that share a text or an image.
        let shared = image.ends_with("gray.jpg") || image.ends_with("landscape.jpg");
        let texts = strings(&record["neg_caption"]);
        assert_eq!(texts.len(), if image.contains("landscape") || image.contains("cmyk") { 5 } else { 6 }, "{image}");
        assert!(!texts.contains(&title));
        assert!(!shared || !texts.contains(&"a grey hill"));
        let images = strings(&record["neg_image"]);
        assert_eq!(images.len(), if title.to_lowercase().starts_with("a grey") { 4 } else { 5 });
        assert!(!images.contains(&image) && images.iter().all(|image| sandbox.path(image).is_file()));
        for (list, scores) in [(texts.len(), "neg_caption_scores"), (images.len(), "neg_image_scores")] {
            let scores: Vec<f64> = record[scores].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert!(scores.len() == list && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        }
    }
    assert!(ran.stderr.contains("texts for images"), "{}", ran.stderr);
    assert!(ran.stderr.contains("images for texts") && ran.stderr.contains("got fewer than 9 negatives"));
    // The same through embeddings that were made before.
    let lists = |record: &Value| ["filepath", "title", "neg_caption", "neg_image"].map(|key| record[key].clone());
    for pairs in ["pairs.npy", "pairs.jsonl", "pairs.safetensors", "pairs.parquet"] {
        sandbox.embed(&["photos/captions.tsv", "--pairs", "--output", pairs]).code(0);
        let fixed = ["negatives", "mine", pairs, "--near-duplicate", "off"];
        let again = sandbox.run(&[&fixed[..], &all].concat()).code(0).records();
        let [again, records] = [&again, &records].map(|all| all.iter().map(lists).collect::<Vec<_>>());
        assert_eq!(again, records, "{pairs}");
    }
    // And from a table of another kind.
    let rows: Vec<String> = records
        .iter()
        .map(|r| serde_json::json!({"filepath": r["filepath"], "title": r["title"]}).to_string())
        .collect();
    sandbox.write("captions.jsonl", rows.join("\n"));
    let model = tiny().display().to_string();
    let fixed = ["negatives", "mine", "--train-data", "captions.jsonl", "--model", &model, "--near-duplicate", "off"];
    let again = sandbox.run(&[&fixed[..], &all].concat()).code(0).records();
    assert_eq!(again.iter().map(lists).collect::<Vec<_>>(), records.iter().map(lists).collect::<Vec<_>>());
}

#[test]
fn labels_groups_and_margins_keep_negatives_apart() {
    let sandbox = Sandbox::new();
    table(&sandbox);
    let args = ["--relative-margin", "off", "--num-negatives", "9", "--label-key", "kind", "--group-key", "shoot"];
    let ran = mine(&sandbox, &[&args[..], &["--format", "jsonl"]].concat()).code(0);
    let records = ran.records();
    let of: BTreeMap<&str, (&str, &str)> = records
        .iter()
        .map(|r| (r["filepath"].as_str().unwrap(), (r["label"].as_str().unwrap(), r["group"].as_str().unwrap())))
        .collect();
    let mut negatives = 0;
    for record in &records {
        let (label, group) = of[record["filepath"].as_str().unwrap()];
        for image in strings(&record["neg_image"]) {
            negatives += 1;
            assert!(of[image].0 != label && of[image].1 != group, "{record}");
        }
    }
    assert!(negatives > 8 && ran.stderr.contains("for the same label"), "{}", ran.stderr);
    // A margin of its whole cosine leaves what points away.
    let ran = mine(&sandbox, &["--absolute-margin", "2", "--format", "jsonl"]).code(0);
    assert!(ran.records().iter().all(|record| strings(&record["neg_caption"]).is_empty()));
    assert!(ran.stderr.contains("for the absolute margin of 2"), "{}", ran.stderr);
    assert!(mine(&sandbox, &["--label-key", "sort"]).fails(3).contains("no column sort"));
}

#[test]
fn the_table_is_training_data_where_it_lies() {
    let sandbox = Sandbox::new();
    table(&sandbox);
    let mined = |output: &str, more: &[&str]| {
        mine(&sandbox, &[&["--relative-margin", "off", "--output", output][..], more].concat()).code(0);
        String::from_utf8(sandbox.read(output)).unwrap()
    };
    let text = mined("photos/mined.tsv", &["--sampling", "random", "--seed", "4"]);
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(text.as_bytes());
    let names = ["filepath", "title", "neg_caption", "neg_image", "score", "neg_caption_scores", "neg_image_scores"];
    assert_eq!(reader.headers().unwrap(), &names[..]);
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 8);
    for row in &rows {
        let images: Vec<String> = serde_json::from_str(&row[3]).unwrap();
        assert_eq!(images.len(), 3);
        // Beside the table, paths start at it.
        assert!(images.iter().chain([&row[0].to_owned()]).all(|image| sandbox.path("photos").join(image).is_file()));
    }
    // A seed gives the same bytes on any number of threads, another one others.
    assert_eq!(mined("photos/b.tsv", &["--sampling", "random", "--seed", "4", "--threads", "1"]), text);
    assert_ne!(mined("photos/c.tsv", &["--sampling", "random", "--seed", "5"]), text);
    // Elsewhere they are absolute.
    std::fs::create_dir(sandbox.path("out")).unwrap();
    let elsewhere = mined("out/mined.csv", &["--mine", "image-image"]);
    let mut reader = csv::Reader::from_reader(elsewhere.as_bytes());
    assert_eq!(reader.headers().unwrap(), &["filepath", "title", "neg_image", "score", "neg_image_scores"][..]);
    assert!(reader.records().all(|row| row.unwrap()[0].starts_with('/')));
    // And `embed` reads the table as any other.
    assert_eq!(sandbox.embed(&["photos/mined.tsv", "--pairs"]).code(0).records().len(), 16);
}

#[test]
fn what_cannot_be_mined() {
    let sandbox = Sandbox::new();
    table(&sandbox);
    let refused = |args: &[&str], code| mine(&sandbox, args).fails(code);
    assert!(refused(&["--mine", "image-text,text-text"], 2).contains("fill the same column"));
    assert!(refused(&["--num-negatives", "0"], 2).contains("at least one negative"));
    assert!(refused(&["--quantile", "0.9"], 2).contains("two numbers"));
    assert!(refused(&["--quantile", "0.9,0.1"], 2).contains("a band goes from"));
    assert!(refused(&["--range-max", "2"], 2).contains("no 3 negatives"));
    assert!(sandbox.run(&["negatives", "mine"]).fails(2).contains("required"));
    // Texts without images are no pairs.
    std::fs::write(sandbox.path("texts.jsonl"), sandbox.embed(&["--text", "a cat"]).stdout).unwrap();
    let error = sandbox.run(&["negatives", "mine", "texts.jsonl"]).fails(3);
    assert!(error.contains("no images with captions") && error.contains("embed captions.tsv --pairs"), "{error}");
    // An image that cannot be read is left out and said.
    let text = std::fs::read_to_string(sandbox.path("photos/captions.tsv")).unwrap();
    sandbox.write("photos/captions.tsv", text + "missing.jpg\tnot there\tx\ty\n");
    let ran = mine(&sandbox, &[]).code(1);
    assert!(ran.stderr.contains("1 of 16 items failed"), "{}", ran.stderr);
    assert!(!ran.text().contains("missing.jpg"));
}
