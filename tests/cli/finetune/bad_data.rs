//! Data, options and places that no run can come of, and what is said about them.

use super::{finetune, pairs, steps};
use crate::cli::Sandbox;

#[test]
fn what_cannot_be_trained_says_so() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 8);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--batch-size", "64", "--output", "x"], 3, "a batch takes 64 pairs"),
        (&["--loss", "clop", "--output", "x"], 2, "did you mean `clip`"),
        (&["--loss", "clip:-1", "--output", "x"], 2, "weight above 0"),
        (&["--loss-opt", "dcl.tau=1", "--output", "x"], 2, "belongs to no objective"),
        (&["--loss", "negclip", "--output", "x"], 2, "--text-negatives"),
        (
            &["--lr", "1e30", "--grad-clip-norm", "0", "--epochs", "5", "--opt", "sgd", "--output", "diverged"],
            3,
            "diverged at step",
        ),
        (&["--train", "everything", "--output", "x"], 2, "expected all, image"),
        (
            &["--train", "all", "--lock-image", "--lock-text", "--lock-logit-scale", "--output", "x"],
            2,
            "nothing is left to train",
        ),
    ];
    for (args, code, message) in cases {
        let ran = finetune(&sandbox, args);
        assert_eq!(ran.code, Some(*code), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
        assert!(!sandbox.path("x").exists(), "{args:?} left something behind");
    }
}

/// Replaces the table of a sandbox.
fn table(sandbox: &Sandbox, header: &str, rows: impl Iterator<Item = String>) {
    sandbox.write("pairs.tsv", format!("{header}\n{}\n", rows.collect::<Vec<_>>().join("\n")));
}

#[test]
fn data_with_nothing_to_tell_apart() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let row = |n: usize| format!("pictures/{n}.ppm\tpicture {n}");
    table(&sandbox, "filepath\ttitle", (0..1).map(row));
    let said = finetune(&sandbox, &["--output", "x"]).fails(3);
    assert!(said.contains("1 image to train on") && said.contains("it needs at least two"), "{said}");
    // The same picture under many names.
    for n in 0..8 {
        std::fs::copy(sandbox.path("pictures/3.ppm"), sandbox.path(format!("pictures/copy-{n}.ppm"))).unwrap();
    }
    table(&sandbox, "filepath\ttitle", (0..8).map(|n| format!("pictures/copy-{n}.ppm\tpicture {n}")));
    let said = finetune(&sandbox, &["--output", "x"]).fails(3);
    assert!(said.contains("1 image to train on"), "{said}");
    table(&sandbox, "filepath\ttitle", (0..24).map(|n| format!("pictures/{n}.ppm\tThe same  text")));
    let said = finetune(&sandbox, &["--output", "x"]).fails(3);
    assert!(said.contains("every image has the same text"), "{said}");
    table(&sandbox, "filepath\ttitle", std::iter::empty());
    let said = finetune(&sandbox, &["--output", "x"]).fails(3);
    assert!(said.contains("no row can be used"), "{said}");
    let said = sandbox.run(&["finetune", "--train-data", "missing.tsv", "--output", "x"]).fails(3);
    assert!(said.contains("missing.tsv"), "{said}");
    assert!(!sandbox.path("x").exists(), "something was left behind");
}

#[test]
fn batches_of_duplicates_are_warned_of() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    type Row<'a> = &'a dyn Fn(usize) -> String;
    let cases: [(&str, &str, Row<'_>, &str); 2] = [
        (
            "texts",
            "filepath\ttitle",
            &|n| format!("pictures/{n}.ppm\ta picture of {}", ["one", "two"][n % 2]),
            "2 different texts for batches of 4: every batch has duplicates",
        ),
        (
            "label",
            "filepath\ttitle\tlabel",
            &|n| format!("pictures/{n}.ppm\tpicture {n}\tcat"),
            "all rows have the same class",
        ),
    ];
    for (output, header, row, message) in cases {
        table(&sandbox, header, (0..24).map(row));
        for duplicates in ["mask", "multi"] {
            let output = format!("{output}-{duplicates}");
            let args = ["--epochs", "1", "--duplicates", duplicates, "--output", &output];
            let ran = finetune(&sandbox, &args).code(0);
            assert!(ran.stderr.contains(message), "{}", ran.stderr);
            let losses = steps(&sandbox.path(&output));
            assert!(losses.len() == 3 && losses.iter().all(|(_, loss)| loss.is_finite()), "{losses:?}");
            // Said once.
            let said = ran.stderr.matches("no pair of the batch of step").count();
            assert!(said == 1 || !header.ends_with("label"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_negative_that_is_the_positive_is_none() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let header = "filepath\ttitle\tneg_caption";
    table(&sandbox, header, (0..24).map(|n| format!("pictures/{n}.ppm\tpicture {n}\tPicture  {n}")));
    let said = finetune(&sandbox, &["--loss", "negclip", "--output", "x"]).fails(2);
    assert!(said.contains("needs captions that do not fit"), "{said}");
    table(&sandbox, header, (0..24).map(|n| format!("pictures/{n}.ppm\tpicture {n}\tpicture {}", n / 2 * 2)));
    let ran = finetune(&sandbox, &["--loss", "negclip", "--epochs", "1", "-v", "--output", "run"]).code(0);
    let said = "a negative caption is the caption itself; it is left out";
    assert_eq!(ran.stderr.matches(said).count(), 12, "{}", ran.stderr);
}

#[test]
fn rows_that_cannot_be_used_are_skipped_counted_and_listed() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    sandbox.write("pictures/text.ppm", "no picture");
    sandbox.write("pictures/empty.ppm", "");
    let good = (0..24).map(|n| format!("pictures/{n}.ppm\tpicture {n}"));
    let bad = ["pictures/1.ppm\t", "pictures/gone.ppm\tgone", "pictures/text.ppm\ttext", "pictures/empty.ppm\tempty"];
    table(&sandbox, "filepath\ttitle", good.chain(bad.map(str::to_owned)));
    let ran = finetune(&sandbox, &["--epochs", "1", "-v", "--output", "run"]).code(0);
    assert!(ran.stderr.contains("4 rows are skipped; the first: "), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("skipped pairs.tsv").count(), 4, "{}", ran.stderr);
    assert_eq!(steps(&sandbox.path("run")).len(), 3);
    let said = finetune(&sandbox, &["--strict", "--output", "x"]).fails(3);
    assert!(said.contains("(3 more)") && said.contains("without --strict such rows are skipped"), "{said}");
    assert!(!sandbox.path("x").exists());
}

#[test]
fn places_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let said = finetune(&sandbox, &["--output", "pairs.tsv/run"]).fails(3);
    assert!(said.contains("pairs.tsv/run"), "{said}");
    let said = finetune(&sandbox, &["--output", "pairs.tsv"]).fails(3);
    assert!(said.contains("pairs.tsv"), "{said}");
    let said = finetune(&sandbox, &["--output", "pictures"]).fails(2);
    assert!(said.contains("there is something in the output directory"), "{said}");
}

#[test]
fn a_run_that_diverges_names_step_items_and_parameter() {
    let sandbox = Sandbox::new();
    pairs(&sandbox, 24);
    let args = "--lr 1e30 --grad-clip-norm 0 --warmup 0 --epochs 5 --opt sgd --save-every 1 --output diverged";
    let said = finetune(&sandbox, &args.split(' ').collect::<Vec<_>>()).fails(3);
    let pattern = r"training diverged at step \d+: .*`[a-z0-9_.]+`.* \(batch of pairs.tsv[^,]*, pairs.tsv";
    assert!(regex::Regex::new(pattern).unwrap().is_match(&said), "{said}");
    assert!(said.contains("the last checkpoint is untouched"), "{said}");
    assert!(sandbox.path("diverged/state.json").is_file());
}
