//! `search` and `dedup`.

use super::{Sandbox, cosine, model, numbers, records, root, stable};
use insta::assert_snapshot;
use serde_json::Value;

/// Photos, embedded with a tiny model in every format that can be searched.
struct Library {
    sandbox: Sandbox,
    model: String,
}

const PHOTOS: [&str; 3] = ["photos/landscape.jpg", "photos/portrait.jpg", "photos/tiny.png"];

impl Library {
    fn new() -> Self {
        let library = Self { sandbox: Sandbox::new(), model: model("hf-clip-gelu") };
        let texts = ["--text", "a cat", "--text", "a dog"];
        for output in ["all.npy", "all.safetensors", "all.jsonl", "half.npy"] {
            let dtype = if output == "half.npy" { "f16" } else { "f32" };
            library.embed(&[&PHOTOS[..], &texts, &["--output", output, "--output-dtype", dtype]].concat());
        }
        library.embed(&["photos/landscape.jpg", "photos/portrait.jpg", "--output", "two.npy"]);
        library
    }

    fn embed(&self, arguments: &[&str]) -> String {
        self.sandbox.run(&[&["embed", "--model", &self.model], arguments].concat()).ok()
    }

    /// Searches with the model.
    fn search(&self, arguments: &[&str]) -> super::Ran {
        self.sandbox.run(&[&["search", "--model", &self.model], arguments].concat())
    }

    fn found(&self, arguments: &[&str]) -> Vec<(String, f32)> {
        pairs(&self.search(arguments).ok())
    }
}

fn pairs(output: &str) -> Vec<(String, f32)> {
    let pair = |record: &Value| (record["id"].as_str().unwrap().to_owned(), record["score"].as_f64().unwrap() as f32);
    records(output.as_bytes()).iter().map(pair).collect()
}

#[test]
fn every_format_gives_the_same_answer() {
    let library = Library::new();
    let embedded = records(&library.sandbox.read("all.jsonl"));
    let query = numbers(&records(library.embed(&["--text", "a bird"]).as_bytes())[0]);
    let mut expected: Vec<(String, f32)> = embedded
        .iter()
        .map(|record| (record["id"].as_str().unwrap().to_owned(), cosine(&query, &numbers(record))))
        .collect();
    expected.sort_by(|a, b| b.1.total_cmp(&a.1));

    let exact = library.found(&["all.npy", "--query", "a bird"]);
    assert_eq!(exact.len(), 5);
    for ((id, score), (other, other_score)) in exact.iter().zip(&expected) {
        assert_eq!(id, other);
        assert!((score - other_score).abs() < 1e-6);
    }
    for file in ["all.safetensors", "all.jsonl"] {
        assert_eq!(library.found(&[file, "--query", "a bird"]), exact, "{file}");
    }
    #[cfg(feature = "parquet")]
    {
        let texts = ["--text", "a cat", "--text", "a dog"];
        library.embed(&[&PHOTOS[..], &texts, &["--output", "all.parquet"]].concat());
        assert_eq!(library.found(&["all.parquet", "--query", "a bird"]), exact);
        let texts = library.found(&["all.parquet", "--query", "a bird", "--kind", "text"]);
        assert!(texts.iter().all(|(id, _)| !id.contains('/')) && texts.len() == 2);
        library.embed(&[&PHOTOS[..], &["--format", "clip-retrieval", "--output", "folder"]].concat());
        let found = library.found(&["folder", "--query", "a bird"]);
        let images: Vec<_> = exact.iter().map(|(id, _)| id).filter(|id| id.contains('/')).collect();
        assert_eq!(found.iter().map(|(id, _)| id).collect::<Vec<_>>(), images);
    }
    let halves = library.found(&["half.npy", "--query", "a bird"]);
    assert!(halves.iter().zip(&exact).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-3));
    let piped = library
        .sandbox
        .run_with(&["search", "--model", &library.model, "-", "--query", "a bird"], library.sandbox.read("all.jsonl"));
    assert_eq!(pairs(&piped.ok()), exact);
    // Neither threads nor batches change a byte.
    let once = library.search(&["all.npy", "--query", "a bird", "--query", "a fish"]).ok();
    for more in [&["--threads", "1"][..], &["--threads", "3", "--batch-size", "1"]] {
        assert_eq!(library.search(&[&["all.npy", "--query", "a bird", "--query", "a fish"], more].concat()).ok(), once);
    }
}

#[test]
fn records_need_no_model() {
    let library = Library::new();
    let queries = library.embed(&["photos/gray.jpg", "--text", "a bird"]);
    let found = library.sandbox.run_with(&["search", "all.npy", "--query", "-", "-k", "1"], queries.as_bytes()).code(0);
    assert!(!found.stderr.contains("model"), "{}", found.stderr);
    assert_snapshot!(stable(found.text()), @r#"
    {"query":"photos/gray.jpg","rank":1,"id":"photos/portrait.jpg","score":0.955,"kind":"image","file":"all.npy","row":1,"model":"hf-clip-gelu@SHA"}
    {"query":"a bird","rank":1,"id":"a dog","score":0.928,"kind":"text","file":"all.npy","row":4,"model":"hf-clip-gelu@SHA"}
    "#);
    let file = library.sandbox.file("queries.jsonl", &queries);
    for option in ["--query", "--queries"] {
        assert_eq!(library.sandbox.run(&["search", "all.npy", option, &file, "-k", "1"]).ok().as_bytes(), found.stdout);
    }

    // Records that are no queries are told of, and stop no others.
    let dim = numbers(&records(queries.as_bytes())[0]).len();
    let lines = format!("{{\"id\":\"short\",\"embedding\":[1.0],\"model\":\"m@1\"}}\n{{oops\n{queries}");
    let bad = library
        .sandbox
        .run_with(&["search", "all.npy", "--queries", "-", "-k", "1"], lines.replace("m@1", &id(&queries)));
    assert_eq!(bad.ids()[..2], ["short: invalid", "standard input, record 2: invalid"]);
    assert_eq!(bad.records().len(), 4);
    let stderr = bad.fails(1);
    let expected = format!("2 of 4 items failed; the first: short: the query has 1 numbers, the embeddings have {dim}");
    assert!(stderr.contains(&expected), "{stderr}");
}

fn id(records_of: &str) -> String {
    records(records_of.as_bytes())[0]["model"].as_str().unwrap().to_owned()
}

#[test]
fn queries_of_every_kind() {
    let library = Library::new();
    let found = |arguments: &[&str]| library.found(&[&["all.npy", "-k", "1"], arguments].concat());
    let first = |arguments: &[&str]| found(arguments)[0].clone();
    let (id, score) = first(&["--query", "photos/portrait.jpg"]);
    assert_eq!(id, "photos/portrait.jpg");
    assert!((score - 1.0).abs() < 1e-6);
    assert_eq!(first(&["--query", "text:a cat"]).0, "a cat");
    assert_eq!(first(&["--query", "a cat", "--kind", "image"]).0.split('/').next(), Some("photos"));
    // A sum with itself is itself.
    let (id, score) = first(&["--query", "a cat", "--plus", "a cat"]);
    assert!(id == "a cat" && (score - 1.0).abs() < 1e-6);
    let moved = library.search(&["all.npy", "--query", "a cat", "--plus", "a dog", "--minus", "photos/portrait.jpg"]);
    let moved = records(moved.ok().as_bytes());
    assert_eq!(moved[0]["query"], "a cat + a dog - photos/portrait.jpg");
    assert_eq!(moved.last().unwrap()["id"], "photos/portrait.jpg");
    // The sum of unit vectors, brought to unit length.
    let vectors = records(library.embed(&["photos/portrait.jpg", "--text", "a cat", "--text", "a dog"]).as_bytes());
    let [portrait, cat, dog] = [0, 1, 2].map(|i| numbers(&vectors[i]));
    let sum: Vec<f32> = cat.iter().zip(&dog).zip(&portrait).map(|((a, b), c)| a + b - c).collect();
    let length = cosine(&sum, &sum).sqrt();
    for record in &moved {
        let embedding = records(&library.sandbox.read("all.jsonl"));
        let embedding = embedding.iter().find(|other| other["id"] == record["id"]).unwrap();
        let expected = cosine(&sum, &numbers(embedding)) / length;
        assert!((record["score"].as_f64().unwrap() as f32 - expected).abs() < 1e-5);
    }

    let list = library.sandbox.file("queries.txt", "a cat\nphotos/portrait.jpg\n");
    let ids: Vec<_> = found(&["--queries", &list]).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["a cat", "photos/portrait.jpg"]);
    let failed = library.search(&["all.npy", "--query", "no.jpg", "--query", "a cat", "-k", "1"]);
    assert_eq!(failed.ids(), ["no.jpg: not_found", "a cat"]);
    failed.fails(1);
    let nothing = library.search(&["all.npy", "--query", "a cat", "--minus", "a cat"]).code(1);
    assert!(nothing.text().contains("what is subtracted from it are the same"), "{}", nothing.text());
}

#[test]
fn formats_and_limits() {
    let library = Library::new();
    let run =
        |more: &[&str]| stable(&library.search(&[&["two.npy", "all.npy", "--query", "a bird"], more].concat()).ok());
    assert_snapshot!(run(&["-k", "2"]), @r#"
    {"query":"a bird","rank":1,"id":"a dog","score":0.928,"kind":"text","file":"all.npy","row":4,"model":"hf-clip-gelu@SHA"}
    {"query":"a bird","rank":2,"id":"a cat","score":0.816,"kind":"text","file":"all.npy","row":3,"model":"hf-clip-gelu@SHA"}
    "#);
    assert_snapshot!(run(&["-k", "2", "--format", "csv"]), @r#"
    query,rank,id,score,kind,file,row,error
    a bird,1,a dog,0.928,text,all.npy,4,
    a bird,2,a cat,0.816,text,all.npy,3,
    "#);
    assert_snapshot!(run(&["-k", "3", "--format", "table"]), @r#"
    ────────────────────────────────────────
     query        score     found           
    ════════════════════════════════════════
     a bird   1    0.928   a dog           
     a bird   2    0.816   a cat           
     a bird   3   -0.079   photos/tiny.png 
    ────────────────────────────────────────
    "#);
    assert_snapshot!(run(&["--kind", "image", "--format", "paths"]), @r#"
    photos/tiny.png
    photos/landscape.jpg
    photos/landscape.jpg
    photos/portrait.jpg
    photos/portrait.jpg
    "#);
    assert_eq!(run(&["--kind", "text", "--format", "paths", "-0"]), "a dog\0a cat\0");
    assert_eq!(run(&["--threshold", "-1"]).lines().count(), 7);
    assert_eq!(run(&["--threshold", "1.5"]), "");
    // Stored lengths count for products, not for cosines.
    library.embed(&["photos/landscape.jpg", "--no-normalize", "--output", "long.npy"]);
    let score = |metric| library.found(&["long.npy", "--query", "photos/landscape.jpg", "--metric", metric])[0].1;
    assert!((score("cosine") - 1.0).abs() < 1e-6);
    assert!((score("dot") - 1.0).abs() > 1e-2);
}

/// A NumPy file of f32.
fn npy(rows: &[&[f32]]) -> Vec<u8> {
    let shape = format!("({}, {})", rows.len(), rows[0].len());
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    header.push_str(&" ".repeat(117 - header.len()));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(header.bytes());
    bytes.extend(rows.concat().iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

/// A list of ids for as many rows.
fn ids(names: &[&str]) -> String {
    names.iter().map(|name| format!("{{\"id\":\"{name}\",\"kind\":\"image\",\"model\":\"m@12345678\"}}\n")).collect()
}

#[test]
fn files_that_cannot_be_searched() {
    let sandbox = Sandbox::new();
    let query = "{\"id\":\"q\",\"embedding\":[1,0],\"model\":\"m@12345678\"}\n";
    let search = |file: &str| sandbox.run_with(&["search", file, "--query", "-"], query);
    sandbox.write("short.npy", &npy(&[&[1.0, 0.0], &[0.0, 1.0]])[..140]);
    assert_snapshot!(search("short.npy").fails(3), @r#"
    error: short.npy: the header promises 2 rows of 2 numbers, the file holds 1
    hint: the file was cut short: write or copy it again
    "#);
    sandbox.write("ids.npy", npy(&[&[1.0, 0.0], &[0.0, 1.0]]));
    sandbox.write("ids.ids.jsonl", ids(&["a"]));
    assert_snapshot!(search("ids.npy").fails(3), @r#"
    error: ids.npy: 2 embeddings, but 1 ids
    hint: the files do not belong together: write both again
    "#);
    sandbox.write("words.npy", npy(&[&[1.0, 0.0]]));
    sandbox.write("words.ids.jsonl", "a cat\n");
    assert_snapshot!(search("words.npy").fails(3), @r#"error: words.npy: words.ids.jsonl: line 1: no {"id", …}: expected value at line 1 column 1"#);
    sandbox.write("wide.npy", npy(&[&[1.0, 0.0, 0.0]]));
    assert_snapshot!(search("wide.npy").fails(1), @r#"warning: 1 of 1 items failed; the first: q: the query has 2 numbers, the embeddings have 3"#);
    sandbox.write("other.npy", npy(&[&[1.0, 0.0]]));
    sandbox.write("other.ids.jsonl", ids(&["a"]).replace("12345678", "87654321"));
    assert_snapshot!(search("other.npy").fails(3), @r#"
    error: q: the query comes from the model m@12345678, the embeddings from m@87654321
    hint: embed both with the same model
    "#);
    assert_snapshot!(search("no.npy").fails(3), @r#"error: no.npy: there is no such file"#);
    assert_snapshot!(search("photos").fails(3), @r#"
    error: photos: no embeddings in a format that can be searched
    hint: embed a folder of images first: clip-cli embed FOLDER --output FOLDER.npy
    "#);
    sandbox.write("x.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\xff{}");
    assert!(search("x.safetensors").fails(3).contains("x.safetensors: not a sound safetensors file"));
    sandbox.write("x.jsonl", "");
    assert!(search("x.jsonl").fails(3).contains("x.jsonl: there are no embeddings in there"));

    // Numbers that are none: the others are searched.
    sandbox.write("nan.npy", npy(&[&[f32::NAN, 0.0], &[1.0, 1.0], &[f32::INFINITY, 0.0]]));
    sandbox.write("nan.ids.jsonl", ids(&["a", "b", "c"]));
    let found = search("nan.npy").code(1);
    assert_eq!(found.ids(), ["b"]);
    let expected = "2 embeddings have numbers that are not finite and left out; the first: row 0 of nan.npy, a";
    assert!(found.stderr.contains(expected), "{}", found.stderr);
    // Rows without names have numbers.
    std::fs::remove_file(sandbox.path("nan.ids.jsonl")).unwrap();
    assert_eq!(search("nan.npy").ids(), ["nan.npy#1"]);
}

#[test]
fn command_lines_that_make_no_sense() {
    let library = Library::new();
    for (code, message, arguments) in [
        (2, "nothing to search for", &["all.npy"][..]),
        (2, "standard input cannot be read twice", &["-", "--query", "-"]),
        (2, "--plus and --minus take a text or an image", &["all.npy", "--query", "a", "--minus", "-"]),
        (2, "expected a number", &["all.npy", "--query", "a", "--threshold", "nan"]),
        (3, "--minus no.jpg: No such file", &["all.npy", "--query", "a", "--minus", "no.jpg"]),
        (2, "required", &["--query", "a"]),
    ] {
        let stderr = library.search(arguments).fails(code);
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
    let other = model("hf-clip-quickgelu");
    let stderr = library.sandbox.run(&["search", "all.npy", "--query", "a", "--model", &other]).fails(3);
    assert!(stderr.contains("the embeddings come from the model hf-clip-gelu@") && stderr.contains("--model"));
}

#[test]
fn duplicates() {
    let sandbox = Sandbox::new();
    let near = [0.999, 0.0447];
    sandbox.write("a.npy", npy(&[&[1.0, 0.0], &[0.0, 1.0], &[2.0, 0.0], &near, &[-1.0, 0.0]]));
    sandbox.write("a.ids.jsonl", ids(&["a.jpg", "b.jpg", "a2.jpg", "near.jpg", "c.jpg"]));
    sandbox.write("b.npy", npy(&[&[1.0, 0.0], &[0.0, 3.0]]));
    sandbox.write("b.ids.jsonl", ids(&["a.jpg", "b3.jpg"]));
    let run = |more: &[&str]| stable(&sandbox.run(&[&["dedup", "a.npy", "b.npy"], more].concat()).ok());
    // What is named twice is not its own duplicate.
    assert_snapshot!(run(&[]), @r#"
    {"keep":"a.jpg","duplicates":[{"id":"a2.jpg","score":1.0},{"id":"near.jpg","score":0.999}],"model":"m@SHA"}
    {"keep":"b.jpg","duplicates":[{"id":"b3.jpg","score":1.0}],"model":"m@SHA"}
    "#);
    assert_snapshot!(run(&["--format", "csv", "--threshold", "0.9999"]), @r#"
    keep,id,score
    a.jpg,a2.jpg,1.0
    b.jpg,b3.jpg,1.0
    "#);
    assert_snapshot!(run(&["--format", "table"]), @r#"
    ─────────────────────────────
     keep    duplicates   score  
    ═════════════════════════════
     a.jpg   a2.jpg       1.000 
             near.jpg     0.999 
    ─────────────────────────────
     b.jpg   b3.jpg       1.000 
    ─────────────────────────────
    "#);
    assert_eq!(run(&["--format", "paths"]), "a2.jpg\nnear.jpg\nb3.jpg\n");
    assert_eq!(run(&["--format", "paths", "-0", "--kind", "image"]), "a2.jpg\0near.jpg\0b3.jpg\0");
    assert_eq!(run(&["--kind", "text"]), "");
    assert_eq!(run(&["--threads", "1"]), run(&["--threads", "3"]));
    assert!(sandbox.run(&["dedup", "a.npy", "--threshold", "95"]).fails(2).contains("a cosine from 0 to 1"));
}

#[test]
#[cfg(unix)]
fn the_kept_file_is_never_among_the_duplicates() {
    let sandbox = Sandbox::new();
    sandbox.write("x.npy", npy(&[&[1.0, 0.0][..]; 4]));
    sandbox.write("x.ids.jsonl", ids(&["photos/tiny.png", "./photos/tiny.png", "link.png", "copy.png"]));
    std::os::unix::fs::symlink("photos/tiny.png", sandbox.path("link.png")).unwrap();
    std::fs::copy(sandbox.path("photos/tiny.png"), sandbox.path("copy.png")).unwrap();
    assert_eq!(sandbox.run(&["dedup", "x.npy", "--format", "paths"]).ok(), "copy.png\n");

    // Nor does an image go because its caption is there twice; a caption that stays keeps no image.
    let pair = |name, text| {
        let caption = format!("{{\"id\":\"{name}\",\"kind\":\"text\",\"text\":\"{text}\",\"model\":\"m@12345678\"}}\n");
        ids(&[name]) + &caption
    };
    sandbox.write("x.ids.jsonl", pair("a.png", "a cat") + &pair("b.png", "a cat"));
    sandbox.write("x.npy", npy(&[&[1.0, 0.0], &[0.0, 1.0], &[0.5, 0.5], &[0.0, 1.0]]));
    let ran = sandbox.run(&["dedup", "x.npy"]).code(0);
    assert_eq!(ran.records()[0]["duplicates"][0]["id"], "b.png");
    assert_eq!(sandbox.run(&["dedup", "x.npy", "--format", "paths"]).ok(), "");
    sandbox.write("x.npy", npy(&[&[1.0, 0.0], &[0.0, 1.0], &[1.0, 0.0], &[1.0, 1.0]]));
    assert_eq!(sandbox.run(&["dedup", "x.npy", "--format", "paths"]).ok(), "b.png\n");
}

#[test]
fn contact_sheets() {
    let sandbox = Sandbox::new();
    let evil = "<img src=x onerror='alert(1)'>.jpg";
    let names = ["photos/landscape.jpg", "photos/no.jpg", "javascript:alert(1)", evil];
    sandbox.write("x.npy", npy(&[&[1.0, 0.0], &[0.9, 0.1], &[0.5, 0.5], &[0.2, 0.8]]));
    let text = "{\"id\":\"a <b>\",\"kind\":\"text\",\"text\":\"\\u202e&\",\"model\":\"m@12345678\"}\n";
    sandbox.write("x.ids.jsonl", ids(&names[..3]) + text);
    let query = "{\"id\":\"</h2><script>\",\"embedding\":[1,0],\"model\":\"m@12345678\"}\n";
    let search = |more: &[&str]| {
        let arguments = [&["search", "x.npy", "--query", "-", "--html", "sheet.html"], more].concat();
        sandbox.run_with(&arguments, query).code(0);
        String::from_utf8(sandbox.read("sheet.html")).unwrap()
    };
    let page = search(&[]);
    let data = regex::Regex::new("base64,[A-Za-z0-9+/=]+").unwrap();
    let shown = data.replace_all(&page, "base64,DATA");
    let body = shown.split("<body>").nth(1).unwrap();
    assert_snapshot!(body, @r#"
    <header>
    <h1>Search</h1>
    <p>4 embeddings in x.npy, m@12345678</p>
    </header>
    <section>
    <div class="query">
    <div class="missing"><p>no such file here</p></div>
    <div><h2>&lt;/h2&gt;&lt;script&gt;</h2>
    <p>4 hits, best first</p></div>
    </div>
    <div class="cards">
    <figure>
    <a href="./photos/landscape.jpg"><img src="data:image/jpeg;base64,DATA" alt="photos/landscape.jpg" loading="lazy"></a>
    <p class="score"><span>#1</span><span>1.0000</span></p><p class="bar"><i style="width:100%"></i></p>
    <figcaption title="photos/landscape.jpg">photos/<wbr>landscape.jpg</figcaption>
    </figure>
    <figure>
    <div class="missing"><p>no such file here</p></div>
    <p class="score"><span>#2</span><span>0.9939</span></p><p class="bar"><i style="width:99%"></i></p>
    <figcaption title="photos/no.jpg">photos/<wbr>no.jpg</figcaption>
    </figure>
    <figure>
    <div class="missing"><p>no such file here</p></div>
    <p class="score"><span>#3</span><span>0.7071</span></p><p class="bar"><i style="width:71%"></i></p>
    <figcaption title="javascript:alert(1)">javascript:alert(1)</figcaption>
    </figure>
    <figure>
    <blockquote>a &lt;b&gt;</blockquote>
    <p class="score"><span>#4</span><span>0.2425</span></p><p class="bar"><i style="width:24%"></i></p>
    <p class="text">&amp;</p>
    </figure>
    </div>
    </section>
    </body>
    </html>
    "#);
    assert!(page.contains("default-src 'none'"));
    assert!(!body.contains("<script") && !body.contains("<b>"));
    let linked = search(&["--link"]);
    assert!(linked.contains("src=\"./photos/landscape.jpg\"") && !linked.contains("base64"));
    let elsewhere = search(&["--root", "photos"]);
    assert!(!elsewhere.contains("base64,"));

    sandbox.write("x.ids.jsonl", ids(&[names[0], names[1], names[2], "d.jpg"]));
    let ran = sandbox.run(&["dedup", "x.npy", "--html", "twice.html"]).code(0);
    assert_eq!(ran.records().len(), 1);
    let page = String::from_utf8(sandbox.read("twice.html")).unwrap();
    assert!(page.contains("kept") && page.contains("photos/no.jpg") && page.contains("no such file here"));
    assert!(sandbox.run(&["dedup", "x.npy", "--html", "-"]).fails(2).contains("--html needs the name of a file"));
}

#[test]
#[cfg(feature = "parquet")]
fn tables_of_python() {
    let sandbox = Sandbox::new();
    let golden = root().join("tests/golden/search");
    let query = "{\"id\":\"q\",\"embedding\":[1,0,0],\"model\":\"m@12345678\"}\n";
    let search = |file: &str, more: &[&str]| {
        let path = golden.join(file).display().to_string();
        let ran = sandbox.run_with(&[&["search", &path, "--query", "-"], more].concat(), query);
        let pair =
            |record: &Value| format!("{} {:.2}", record["id"].as_str().unwrap(), record["score"].as_f64().unwrap());
        (ran.code, ran.records().iter().map(pair).collect::<Vec<_>>(), ran.stderr)
    };
    for file in ["fixed-f32.parquet", "fixed-f16.parquet", "list-f64.parquet", "large.parquet"] {
        let (code, found, stderr) = search(file, &[]);
        assert_eq!(code, Some(0), "{file}: {stderr}");
        assert_eq!(found, ["a.jpg 1.00", "b.jpg 0.71", "a dog 0.00"], "{file}");
        assert!(stderr.contains(&format!("{file}: 1 item has no embedding")), "{stderr}");
        assert_eq!(search(file, &["--kind", "text"]).1, ["a dog 0.00"], "{file}");
    }
    let (code, _, stderr) = search("no-embedding.parquet", &[]);
    assert!(code == Some(3) && stderr.contains("no column `embedding`"), "{stderr}");
    let (code, found, stderr) = search("retrieval", &[]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(
        found,
        ["photos/0.jpg 1.00", "a cat 0.80", "photos/2.jpg 0.60", "a dog 0.50", "photos/1.jpg 0.00", "a bird -1.00"]
    );
    let hits = records(
        sandbox
            .run_with(&["search", &golden.join("retrieval").display().to_string(), "--query", "-"], query)
            .ok()
            .as_bytes(),
    );
    assert_eq!((&hits[0]["text"], &hits[2]["row"]), (&Value::from("a cat"), &Value::from(0)));

    // Whatever is cut off or turned around, nothing crashes.
    let whole = std::fs::read(golden.join("fixed-f32.parquet")).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 24) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        for bytes in [&bytes[..], &whole[..at]] {
            let path = sandbox.write("broken.parquet", bytes);
            let ran = sandbox.run_with(&["search", &path.display().to_string(), "--query", "-"], query);
            assert!(matches!(ran.code, Some(0 | 1 | 3)) && !ran.stderr.contains("panicked"), "{at}: {ran:?}");
        }
    }
}
