//! `eval`: whole evaluations, beside what the embeddings themselves say.

use super::{Sandbox, cosine, model, numbers, stable};
use insta::assert_snapshot;
use serde_json::{Value, json};

/// Images with captions, one image in two rows.
const TABLE: &str = "filepath\ttitle\n\
    photos/gray.jpg\ta photo of a cat\n\
    photos/palette.png\tan old house\n\
    photos/gray.jpg\ta grey picture\n\
    photos/portrait.jpg\tsomebody\n\
    photos/rgba.png\tblue and red\n";

fn tiny() -> String {
    model("hf-clip-gelu")
}

fn eval(sandbox: &Sandbox, args: &[&str]) -> super::Ran {
    sandbox.run(&[&["eval"], args, &["--model", &tiny()]].concat())
}

#[track_caller]
fn report(sandbox: &Sandbox, args: &[&str]) -> Value {
    serde_json::from_str(&eval(sandbox, args).ok()).unwrap()
}

/// Embeddings by image or text.
fn embed(sandbox: &Sandbox, args: &[&str]) -> Vec<Vec<f32>> {
    let ran = sandbox.run(&[&["embed", "--model", &tiny()], args].concat()).code(0);
    ran.records().iter().map(numbers).collect()
}

#[test]
fn retrieval() {
    let sandbox = Sandbox::new();
    let table = sandbox.file("t.tsv", TABLE);
    let found = report(&sandbox, &["retrieval", &table, "--recall-k", "1,3", "--dataset", "four"]);
    let images = ["gray.jpg", "palette.png", "portrait.jpg", "rgba.png"].map(|name| format!("photos/{name}"));
    let images = embed(&sandbox, &images.each_ref().map(String::as_str));
    let texts = ["a photo of a cat", "an old house", "a grey picture", "somebody", "blue and red"];
    let texts = embed(&sandbox, &texts.iter().flat_map(|text| ["--text", text]).collect::<Vec<_>>());
    let owner = [0, 1, 0, 2, 3];
    let rank = |query: &[f32], candidates: &[Vec<f32>], right: &dyn Fn(usize) -> bool| {
        let best =
            (0..candidates.len()).filter(|&i| right(i)).map(|i| cosine(query, &candidates[i])).fold(-2.0, f32::max);
        1 + candidates.iter().filter(|row| cosine(query, row) > best).count()
    };
    let of_texts: Vec<usize> = (0..5).map(|t| rank(&texts[t], &images, &|image| image == owner[t])).collect();
    let of_images: Vec<usize> = (0..4).map(|i| rank(&images[i], &texts, &|text| owner[text] == i)).collect();
    let share = |ranks: &[usize], k: usize| ranks.iter().filter(|&&rank| rank <= k).count() as f64 / ranks.len() as f64;
    for k in [1, 3] {
        assert_eq!(found["metrics"][format!("image_retrieval_recall@{k}")], json!(share(&of_texts, k)));
        assert_eq!(found["metrics"][format!("text_retrieval_recall@{k}")], json!(share(&of_images, k)));
    }
    let mean = of_texts.iter().sum::<usize>() as f64 / 5.0;
    assert_eq!(found["metrics"]["image_retrieval_mean_rank"], json!(mean));
    assert_eq!((&found["images"], &found["captions"]), (&json!(4), &json!(5)));
    assert_eq!((&found["dataset"], &found["task"]), (&json!("four"), &json!("zeroshot_retrieval")));
    assert_eq!(found["intervals"].as_object().unwrap().len(), 8);

    // Neither batches nor threads nor another run change a byte; nor does it matter when the rows were embedded.
    let args = ["retrieval", &table, "--recall-k", "1,3", "--dataset", "four"];
    let again = report(&sandbox, &[&args[..], &["--batch-size", "1", "--threads", "1"]].concat());
    assert_eq!(found, again);
    for file in ["pairs.jsonl", "pairs.npy"] {
        embed(&sandbox, &[&table, "--pairs", "--output", file]);
        let mut stored =
            report(&sandbox, &["retrieval", "--embeddings", file, "--recall-k", "3,1", "--dataset", "four"]);
        stored["model"] = found["model"].clone();
        assert_eq!(found, stored, "{file}");
    }
}

#[test]
fn retrieval_leaves_out_what_cannot_be_read() {
    let sandbox = Sandbox::new();
    let broken = format!("{TABLE}gone.jpg\tnothing\nphotos/tiny.png\t\nphotos/cmyk.jpg\tcolours\n");
    let ran = eval(&sandbox, &["retrieval", &sandbox.file("t.tsv", broken)]).code(1);
    let found: Value = serde_json::from_str(ran.text()).unwrap();
    let failed: Vec<_> = found["failed"].as_array().unwrap().iter().map(|failed| &failed["error"]["kind"]).collect();
    assert_eq!(failed, [&json!("not_found"), &json!("invalid")]);
    assert_eq!((&found["images"], &found["captions"]), (&json!(6), &json!(6)));
    assert!(ran.stderr.contains("1 captions belong to no image"), "{}", ran.stderr);

    let only = sandbox.file("only.tsv", "filepath\ttitle\ngone.jpg\tnothing\n");
    let error = eval(&sandbox, &["retrieval", &only]).fails(3);
    assert!(error.contains("no image with a caption; the first: ") && error.contains("gone.jpg"), "{error}");
    assert!(eval(&sandbox, &["retrieval"]).fails(2).contains("no images with captions"));
    assert!(eval(&sandbox, &["retrieval", "--embeddings", "none.npy"]).fails(3).contains("there is no such file"));
    embed(&sandbox, &["--text", "alone", "--output", "texts.npy"]);
    assert!(eval(&sandbox, &["retrieval", "--embeddings", "texts.npy"]).fails(3).contains("no image with a caption"));
}

/// Class folders with these images.
fn classes(sandbox: &Sandbox, name: &str) -> String {
    for (class, image) in [
        ("cat", "gray.jpg"),
        ("cat", "portrait.jpg"),
        ("cat", "tiny.png"),
        ("old_house", "landscape.jpg"),
        ("old_house", "palette.png"),
        ("old_house", "rgba.png"),
    ] {
        sandbox.file(&format!("{name}/{class}/{image}"), std::fs::read(sandbox.path("photos").join(image)).unwrap());
    }
    sandbox.path(name).display().to_string()
}

#[test]
fn classification_is_what_zeroshot_does() {
    let sandbox = Sandbox::new();
    let set = classes(&sandbox, "set");
    let one = eval(&sandbox, &["classification", &set, "--templates", "openai-7"]).ok();
    let model = tiny();
    let other = sandbox.run(&["zeroshot", "--eval", &set, "--templates", "openai-7", "--model", &model]).ok();
    assert_eq!(one, other);
    assert!(one.contains("\"task\":\"zeroshot_classification\""));
    let stray = sandbox.run(&["zeroshot", &set, "--labels", "a,b", "--dataset", "x", "--model", &model]).fails(2);
    assert!(stray.contains("--dataset says how images are evaluated: it goes with --eval"), "{stray}");
}

#[test]
fn order() {
    let sandbox = Sandbox::new();
    let rows = [
        ("photos/gray.jpg", "a photo of a cat", ["cat a of photo a", "of a a photo cat"]),
        ("photos/palette.png", "an old house", ["house old an", "an old house"]),
        ("photos/gray.jpg", "a grey picture", ["picture grey a", "grey a picture"]),
    ];
    let (mut right, mut lines) = (0, Vec::new());
    for (image, caption, wrong) in rows {
        let image_row = &embed(&sandbox, &[image])[0];
        let texts = embed(&sandbox, &["--text", caption, "--text", wrong[0], "--text", wrong[1]]);
        let scores: Vec<f32> = texts.iter().map(|text| cosine(image_row, text)).collect();
        // The one that is equal is left out.
        right += u32::from(scores[1] < scores[0] && (scores[2] < scores[0] || wrong[1] == caption));
        lines.push(json!({"image": image, "caption": caption, "neg_captions": wrong}).to_string());
    }
    let table = sandbox.file("t.jsonl", lines.join("\n"));
    let found = report(&sandbox, &["order", &table]);
    assert_eq!(found["metrics"]["acc"], json!(f64::from(right) / 3.0));
    assert_eq!((&found["captions"], &found["images"]), (&json!(3), &json!(2)));
    assert!((found["chance"].as_f64().unwrap() - (1.0 / 3.0 + 0.5 + 1.0 / 3.0) / 3.0).abs() < 1e-12);

    let row =
        |(image, caption, wrong): (&str, &str, [&str; 2])| format!("{image},{caption},{},{}\n", wrong[0], wrong[1]);
    let text = format!("image,caption,one,two\n{}", rows.map(row).concat());
    let table = sandbox.file("t.csv", &text);
    let same = report(&sandbox, &["order", &table, "--negative-key", "one;two"]);
    assert_eq!(same["metrics"], found["metrics"]);
    let error = eval(&sandbox, &["order", &table]).fails(3);
    assert!(error.contains("no column neg_caption") && error.contains("--negative-key"), "{error}");
    assert!(eval(&sandbox, &["order", "none.csv"]).fails(3).contains("nothing to choose from; the first: none.csv"));

    // Made of the captions: those that `negatives text` could have made, and the same again from the same seed.
    let captions = ["a photo of a cat on a table", "an old man near two dogs"];
    let table = sandbox.file(
        "plain.tsv",
        format!("filepath\ttitle\nphotos/gray.jpg\t{}\nphotos/tiny.png\t{}\n", captions[0], captions[1]),
    );
    let made = report(&sandbox, &["order", &table, "--wrong", "shuffle"]);
    assert_eq!((&made["captions"], &made["wrong"], &made["seed"]), (&json!(2), &json!("shuffle"), &json!(0)));
    assert!((made["chance"].as_f64().unwrap() - 0.2).abs() < 1e-12, "{made}");
    assert_eq!(report(&sandbox, &["order", &table, "--wrong", "shuffle"]), made);
    let two = report(&sandbox, &["order", &table, "--wrong", "shuffle-trigrams,shuffle-others", "--seed", "3"]);
    assert!((two["chance"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12, "{two}");
    assert!(eval(&sandbox, &["order", &table, "--wrong", "shufle"]).fails(2).contains("did you mean"));
    assert!(eval(&sandbox, &["order", &table, "--seed", "3"]).fails(2).contains("--wrong"));

    // A row without a wrong caption fails alone.
    let table = sandbox.file("gap.csv", format!("{text}photos/tiny.png,a picture,,\n"));
    let ran = eval(&sandbox, &["order", &table, "--negative-key", "one;two"]).code(1);
    assert!(ran.stderr.contains("photos/tiny.png: there is no wrong caption"), "{}", ran.stderr);
    assert!(ran.text().contains("\"captions\":3"), "{}", ran.text());
}

#[test]
fn sugarcrepe() {
    let sandbox = Sandbox::new();
    let entry = |image: &str, caption: &str, negative: &str| json!({"filename": image, "caption": caption, "negative_caption": negative});
    let swap =
        json!({"0": entry("gray.jpg", "a cat on a mat", "a mat on a cat"), "1": entry("rgba.png", "red", "blue")});
    let add = json!({"0": entry("gray.jpg", "a cat", "a cat and a dog")});
    let (swap_file, add_file) =
        (sandbox.file("swap_att.json", swap.to_string()), sandbox.file("add_obj.json", add.to_string()));
    let found = report(&sandbox, &["sugarcrepe", &swap_file, &add_file, "--images", "photos"]);
    let right = |set: &Value| -> f64 {
        let entries = set.as_object().unwrap();
        let right = entries.values().filter(|entry| {
            let image = embed(&sandbox, &[&format!("photos/{}", entry["filename"].as_str().unwrap())]);
            let texts = ["caption", "negative_caption"].map(|key| entry[key].as_str().unwrap());
            let texts = embed(&sandbox, &["--text", texts[0], "--text", texts[1]]);
            cosine(&image[0], &texts[0]) > cosine(&image[0], &texts[1])
        });
        right.count() as f64 / entries.len() as f64
    };
    let (of_swap, of_add) = (right(&swap), right(&add));
    assert_eq!(
        found["metrics"],
        json!({"acc": (of_swap + of_add) / 2.0, "swap_att_acc": of_swap, "add_obj_acc": of_add})
    );
    assert_eq!((&found["captions"], &found["images"]), (&json!(3), &json!(2)));

    let fails = |args: &[&str]| eval(&sandbox, &[&["sugarcrepe"], args].concat()).fails(3);
    assert!(fails(&[&swap_file, "--images", "nowhere"]).contains("nowhere: no folder of images"));
    assert!(fails(&["none.json", "--images", "photos"]).contains("none.json"));
    let bad = sandbox.file("bad.json", "[1, 2]");
    assert!(fails(&[&bad, "--images", "photos"]).contains("each file is a JSON object"));
    let empty = sandbox.file("empty.json", "{}");
    assert!(fails(&[&empty, "--images", "photos"]).contains("there are no entries"));
    let gone = sandbox.file("gone.json", json!({"0": entry("gone.jpg", "a", "b")}).to_string());
    assert!(fails(&[&gone, "--images", "photos"]).contains("nothing to choose from; the first: photos/gone.jpg"));
}

#[test]
fn geometry() {
    let sandbox = Sandbox::new();
    let (table, set) = (sandbox.file("t.tsv", TABLE), classes(&sandbox, "set"));
    let found = report(&sandbox, &["geometry", &table, "--labelled", &set]);
    let names: Vec<_> = found["metrics"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        names,
        [
            "alignment",
            "cross_uniformity",
            "image_effective_rank",
            "image_uniformity",
            "modality_gap",
            "modality_separability",
            "same_class_cosine",
            "text_effective_rank",
            "text_uniformity",
            "tolerance"
        ]
    );
    assert_eq!((&found["images"], &found["captions"], &found["labelled"]), (&json!(4), &json!(5), &json!(6)));
    let images = embed(&sandbox, &["photos/gray.jpg", "photos/palette.png", "photos/portrait.jpg", "photos/rgba.png"]);
    let of_pairs: Vec<f64> = (0..4)
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| (-4.0 * (1.0 - f64::from(cosine(&images[i], &images[j])))).exp())
        .collect();
    let want = (of_pairs.iter().sum::<f64>() / 6.0).ln();
    assert!((found["metrics"]["image_uniformity"].as_f64().unwrap() - want).abs() < 1e-5);
    let one = sandbox.file("one.tsv", "filepath\ttitle\nphotos/gray.jpg\ta cat\n");
    assert!(eval(&sandbox, &["geometry", &one]).fails(3).contains("two images at least"));
}

#[test]
fn neighbours_and_probes() {
    let sandbox = Sandbox::new();
    let (train, test) = (classes(&sandbox, "train"), classes(&sandbox, "test"));
    let found = report(&sandbox, &["knn", &train, &test, "-k", "1,50"]);
    assert_eq!((&found["metrics"]["acc1"], &found["metrics"]["mean_per_class_recall"]), (&json!(1.0), &json!(1.0)));
    assert!(found["metrics"]["acc1@k=50"].is_number());
    assert_eq!((&found["n"], &found["train"], &found["classes"]), (&json!(6), &json!(6), &json!(2)));

    let found = report(&sandbox, &["linear-probe", &train, &test, "--c", "1e6"]);
    assert_eq!((&found["metrics"]["acc1"], &found["c"]), (&json!(1.0), &json!(1e6)));
    let found = report(&sandbox, &["linear-probe", &train, &test, "--validation", "0.34"]);
    assert_eq!(found["validation"], json!(2));
    let swept = found["sweep"].as_array().unwrap();
    assert!(swept.len() >= 10 && swept.iter().any(|row| row[0] == found["c"]), "{found}");

    // Classes that the training set has not.
    sandbox.file("test/dog/x.jpg", "x");
    assert!(eval(&sandbox, &["knn", &train, &test]).fails(3).contains("\"dog\" is none of the given labels"));
    let one = sandbox.path("one");
    sandbox.file("one/cat/x.jpg", "x");
    let error = eval(&sandbox, &["linear-probe", &one.display().to_string(), &test]).fails(3);
    assert!(error.contains("none of the given labels") || error.contains("one class alone"), "{error}");
}

#[test]
fn retention() {
    let sandbox = Sandbox::new();
    let set = classes(&sandbox, "set");
    let labels = sandbox.file("labels.txt", "a cat\na house\na dog\nnothing\n");
    let args = |start: &str| {
        vec!["retention", "--images", "photos", "--labels-file", &labels, "--start"]
            .into_iter()
            .chain([start])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let run = |start: &str, more: &[&str]| {
        let args = args(start);
        report(&sandbox, &[&args.iter().map(String::as_str).collect::<Vec<_>>(), more].concat())
    };
    let found = run(&tiny(), &["--data", &set]);
    assert_eq!(found["metrics"]["agreement"], json!(1.0));
    assert_eq!(found["metrics"]["kl"], json!(0.0));
    assert!(found["metrics"]["text_drift"].as_f64().unwrap().abs() < 1e-6);
    assert_eq!(found["metrics"]["acc1"], found["metrics"]["acc1_start"]);
    assert_eq!((&found["images"], &found["classes"], &found["labelled"]), (&json!(8), &json!(4), &json!(6)));
    let found = run(&model("hf-clip-quickgelu"), &[]);
    assert!(found["metrics"]["kl"].as_f64().unwrap() > 0.0, "{found}");
    assert!(found["start"].as_str().unwrap().starts_with("hf-clip-quickgelu@"));
}

#[test]
#[cfg(feature = "builtin")]
fn the_built_in_model() {
    let sandbox = Sandbox::new();
    let table = sandbox.file("t.tsv", TABLE);
    let text = stable(&sandbox.run(&["eval", "retrieval", &table, "--format", "table", "--dataset", "four"]).ok());
    assert!(text.contains("image_retrieval_recall@1") && text.contains("four: 4 images, 5 captions"), "{text}");
    let found = sandbox.run(&["eval", "retention", "--images", "photos"]).ok();
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!((&found["metrics"]["agreement"], &found["classes"]), (&json!(1.0), &json!(1000)));
}

/// What the examples of the help texts name.
#[cfg(all(unix, feature = "builtin"))]
pub(super) fn data(sandbox: &Sandbox, photo: &[u8]) {
    sandbox.file("captions.tsv", "filepath\ttitle\na.jpg\ta cat\nb.jpg\ta cat on a table\n");
    sandbox.file("shuffled.tsv", "filepath\ttitle\tneg_caption\na.jpg\ta cat\tcat a\n");
    sandbox.file("aro.csv", "image,caption,shuffle1,shuffle2,shuffle3,shuffle4\na.jpg,a b c,c b a,b c a,a c b,b a c\n");
    let entry = json!({"0": {"filename": "x.jpg", "caption": "a cat", "negative_caption": "a dog"}}).to_string();
    sandbox.file("coco/val2017/x.jpg", photo);
    for file in ["swap_att.json", "sugarcrepe/swap_att.json", "sugarcrepe/add_obj.json"] {
        sandbox.file(file, &entry);
    }
    for set in ["train", "test"] {
        for image in ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"] {
            sandbox.file(&format!("pets/{set}/{image}"), photo);
        }
        sandbox.file(&format!("{set}.csv"), "image,breed\na.jpg,persian\nb.jpg,siamese\n");
    }
}

#[test]
fn formats() {
    let sandbox = Sandbox::new();
    let table = sandbox.file("t.tsv", TABLE);
    let csv = eval(&sandbox, &["retrieval", &table, "--recall-k", "5", "--format", "csv"]).ok();
    assert_eq!(csv.lines().next(), Some("metric,value,low,high"));
    assert!(csv.contains("image_retrieval_recall@5,1,1,1\n"), "{csv}");
    eval(&sandbox, &["retrieval", &table, "--output", "report.json"]).ok();
    assert!(serde_json::from_slice::<Value>(&sandbox.read("report.json")).is_ok());
}

#[test]
fn help() {
    let sandbox = Sandbox::new();
    let kinds = ["retrieval", "classification", "order", "sugarcrepe", "geometry", "knn", "linear-probe", "retention"];
    for kind in kinds {
        let help = sandbox.run(&["eval", kind, "--help"]).ok();
        assert!(help.contains("Examples:\n") && help.lines().all(|line| line.chars().count() <= 98), "{kind}: {help}");
    }
    assert_snapshot!(sandbox.run(&["eval", "-h"]).ok(), @r#"
    Measure how good a model is: retrieval, classification, word order, geometry and more

    Usage: clip-cli eval [OPTIONS] <COMMAND>

    Commands:
      retrieval       Recall between images and captions, both ways
      classification  Zero-shot accuracy over images whose class is known
      order           How often an image prefers its caption to wrong ones
      sugarcrepe      How often an image prefers its caption to a hard negative, by kind of change
      geometry        Modality gap, alignment, uniformity, effective rank of images and captions
      knn             Accuracy of the k nearest training images' votes
      linear-probe    Accuracy of logistic regression on the embeddings
      retention       How alike two models answer: what training has left of its start

    Options:
      -h, --help  Print help

    Global options:
          --device <DEVICE>  Where to compute: auto, cpu, cuda[:N] or metal [default: auto]
          --precision <HOW>  The numbers to compute with: auto, f32, int8 (faster, on the CPU), f16 or
                             bf16 (on GPUs) [default: auto]
          --threads <N>      How many threads compute [default: the processors that this process may
                             use]
          --offline          Never use the network
      -q, --quiet            Say nothing but errors
      -v, --verbose...       Say more: what was chosen, which items failed; twice for the libraries'
                             logs

    Reports are tables on a terminal and one JSON object anywhere else, with the fields of CLIP
    benchmark: {"dataset","model","pretrained","task","metrics","language"}, then 95 % "intervals".
    Items that cannot be read are left out, named, and make the exit code 1.

    Examples:
      clip-cli eval retrieval captions.tsv --model path/to/checkpoint
      clip-cli eval classification imagenet/val --classnames classes.tsv
      clip-cli eval sugarcrepe sugarcrepe/*.json --images coco/val2017
      clip-cli eval linear-probe pets/train pets/test
      clip-cli eval retention --model path/to/checkpoint --start builtin --images photos/
    "#);
}
