//! `negatives`.

use super::Sandbox;
use insta::assert_snapshot;
use serde_json::Value;

const CAPTIONS: &str = "image\ttitle\tweight\n1.jpg\tA man riding a red horse.\t1\n2.jpg\t\"A \"\"small\"\" dog, and two cats\"\t2\n3.jpg\tHello\n";

fn rows(text: &[u8], delimiter: u8) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).from_reader(text);
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

#[test]
fn help() {
    let sandbox = Sandbox::new();
    assert_snapshot!(sandbox.run(&["negatives", "text", "-h"]).ok(), @r#"
    Change captions a little, so that they no longer fit their image

    Usage: clip-cli negatives text [OPTIONS] [CAPTIONS]

    Arguments:
      [CAPTIONS]  A table of captions, or a file with one a line, `-` for standard input

    Options:
          --caption-key <NAME>  The table's column with the captions [default: caption, captions,
                                text, title and the like]
          --kinds <KINDS>       What may be done: kinds, or groups of them (swap, replace, add,
                                shuffle, all) [default: swap,replace,add]
          --per-caption <K>     How many negatives of a caption, at most [default: 1]
          --seed <S>            Which of all possible negatives [default: 0]
          --list-kinds          List the kinds, and do nothing else
      -h, --help                Print help (see more with '--help')

    Output:
      -o, --output <FILE>    Where to write, `-` for standard output [default: -]
          --format <FORMAT>  The output's format [default: auto] [possible values: auto, table, jsonl,
                             csv, tsv]

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

    CAPTIONS is a table (.csv, .tsv) with a header, or any other file, or `-`, with one caption a
    line. Captions are English. --list-kinds says what can be done to them; shuffles give word salad,
    and are not among the defaults.

    A table is written as that table with a column neg_caption: the negative, or with --per-caption of
    more than 1 a JSON list of them. JSON Lines records are
    {"id","caption","negatives":[{"text","kind"}]}, with the image as the id if the table has one. No
    negative equals the caption or another one of it, up to case and space. A caption that offers
    nothing to change has none. What a seed gives depends on nothing else than the caption and its
    row.

    Negatives are made by rules, and some say what the image shows all the same: docs/negatives.md has
    the rates.

    Examples:
      clip-cli negatives text captions.tsv --output with-negatives.tsv
      clip-cli negatives text pairs.csv --kinds swap,replace --per-caption 4 --output pairs-neg.csv
      echo 'A man riding a horse' | clip-cli negatives text - --per-caption 5
      clip-cli negatives text --list-kinds
    "#);
    let help = sandbox.run(&["negatives", "text", "--help"]).ok();
    assert!(help.lines().all(|line| line.chars().count() <= 98), "{help}");
}

#[test]
fn a_table_gets_a_column() {
    let sandbox = Sandbox::new();
    let table = sandbox.file("captions.tsv", CAPTIONS);
    let ran = sandbox.run(&["negatives", "text", &table, "--output", "out.tsv"]);
    assert!(ran.stderr.contains("2 negatives of 3 captions; 1 offered nothing to change"), "{}", ran.stderr);
    ran.ok();
    let found = rows(&sandbox.read("out.tsv"), b'\t');
    assert_eq!(found[0], ["image", "title", "weight", "neg_caption"]);
    assert_eq!(found[1][..3], ["1.jpg", "A man riding a red horse.", "1"]);
    assert!(found[1][3].starts_with('A') && found[1][3].ends_with('.') && found[1][3] != found[1][1]);
    assert_eq!(found[2][1], "A \"small\" dog, and two cats");
    assert_eq!(found[3], ["3.jpg", "Hello", "", ""]);

    // The same seed gives the same file, another one another.
    sandbox.run(&["negatives", "text", &table, "--output", "again.tsv"]).ok();
    assert_eq!(sandbox.read("out.tsv"), sandbox.read("again.tsv"));
    sandbox.run(&["negatives", "text", &table, "--seed", "1", "--output", "other.tsv"]).ok();
    assert_ne!(sandbox.read("out.tsv"), sandbox.read("other.tsv"));
    // What a run added is replaced by the next.
    sandbox.run(&["negatives", "text", "other.tsv", "--output", "replaced.tsv"]).ok();
    assert_eq!(sandbox.read("out.tsv"), sandbox.read("replaced.tsv"));
}

#[test]
fn many_negatives_are_a_list() {
    let sandbox = Sandbox::new();
    let table = sandbox.file("captions.tsv", CAPTIONS);
    let kinds = "swap-noun,replace";
    let args = ["negatives", "text", &table, "--kinds", kinds, "--per-caption", "4", "--caption-key", "title"];
    sandbox.run(&[&args[..], &["--output", "out.csv"]].concat()).ok();
    let found = rows(&sandbox.read("out.csv"), b',');
    let list: Vec<String> = serde_json::from_str(&found[1][3]).unwrap();
    assert_eq!((list.len(), found[3][3].as_str()), (4, "[]"));

    let records = sandbox.run(&args).records();
    assert_eq!((&records[0]["id"], &records[2]["negatives"]), (&Value::from("1.jpg"), &Value::from([""; 0].to_vec())));
    let texts: Vec<&str> =
        records[0]["negatives"].as_array().unwrap().iter().map(|negative| negative["text"].as_str().unwrap()).collect();
    assert_eq!(texts, list);
    assert!(records[0]["negatives"][0]["kind"].as_str().unwrap().contains('-'));
}

#[test]
fn lines_of_standard_input() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run_with(&["negatives", "text", "-", "--kinds", "swap-noun"], "A dog chases a cat.\n\nok\r\n");
    assert_snapshot!(ran.ok(), @r#"
    {"caption":"A dog chases a cat.","negatives":[{"text":"A cat chases a dog.","kind":"swap-noun"}]}
    {"caption":"ok","negatives":[]}
    "#);
    let ran = sandbox
        .run_with(&["negatives", "text", "-", "--kinds", "swap-noun", "--format", "table"], "A dog chases a cat.");
    assert!(ran.ok().contains("A cat chases a dog."));
    let ran = sandbox.run_with(&["negatives", "text", "-"], b"a dog \xff\nA dog chases a cat\n".to_vec()).code(1);
    assert_eq!(ran.records().len(), 1);
}

#[test]
fn kinds_are_listed() {
    let records = Sandbox::new().run(&["negatives", "text", "--list-kinds"]).records();
    assert_eq!(records.len(), clip_cli::text::edit::EDITS.len());
    assert_eq!(records[0]["name"], "swap-noun");
}

#[test]
fn what_cannot_be_done_is_said() {
    let sandbox = Sandbox::new();
    let table = sandbox.file("captions.tsv", CAPTIONS);
    let fails = |args: &[&str], code| sandbox.run(&[&["negatives", "text"], args].concat()).fails(code);
    assert!(fails(&[&table, "--kinds", "swop"], 2).contains("did you mean swap?"));
    assert!(fails(&[&table, "--caption-key", "nothing"], 3).contains("the columns are image, title, weight"));
    assert!(fails(&[&table, "--per-caption", "0"], 2).contains("per-caption"));
    assert!(fails(&["nothing.tsv"], 3).contains("nothing.tsv"));
    assert!(fails(&[], 2).contains("CAPTIONS"));
    let long = sandbox.file("long.tsv", "caption\na dog\tand more\n");
    assert!(fails(&[&long], 3).contains("line 2 has 2 cells, and the header 1"));
    let empty = sandbox.file("empty.csv", "");
    assert!(fails(&[&empty], 3).contains("an empty table"));
    let open = sandbox.file("open.csv", format!("caption\n\"{}", "x".repeat(17 << 20)));
    assert!(fails(&[&open], 3).contains("a quote is not closed"));
    assert_eq!(sandbox.names().iter().filter(|name| name.ends_with(".part")).count(), 0);
}
