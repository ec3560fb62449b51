//! Objectives by name, and weighted sums of them.

use super::{golden, numbers, rng, sizes};
use candle_core::DType;
use clip_cli::train::negatives::Mochi;
use clip_cli::train::negatives::extra::{Extra, Sources};
use clip_cli::train::objective::{OBJECTIVES, Objective, Pairs, build};
use std::path::Path;

fn refused(text: &str, set: &[(&str, &str, f64)]) -> String {
    let set: Vec<_> = set.iter().map(|(name, key, value)| ((*name).to_owned(), (*key).to_owned(), *value)).collect();
    let error = build(text, &set, &sizes(12)).err().expect("an error");
    format!("{error} ({})", error.advice().unwrap_or("no hint"))
}

#[test]
fn a_sum_is_what_its_terms_are() {
    let golden = golden();
    let case = golden.cases().find(|case| case.entry().name == "clip").unwrap();
    let batch = case.batch(0, DType::F64);
    let value = |text: &str| {
        let mut sum = build(text, &[], &sizes(12)).unwrap();
        let value = numbers(&sum.value(&batch.pairs, &batch.head, &mut rng()).unwrap())[0];
        (value, sum.last().unwrap())
    };
    let ((clip, _), (cuaxu, _)) = (value("clip"), value("cuaxu"));
    let (sum, terms) = value("clip:2, cuaxu:0.5");
    assert!((sum - 2.0 * clip - 0.5 * cuaxu).abs() < 1e-12);
    assert_eq!(terms, [("clip", clip), ("cuaxu", cuaxu)]);
}

#[test]
fn a_sum_keeps_its_terms_apart() {
    let golden = golden();
    let case = golden.cases().find(|case| case.entry().name == "albef").unwrap();
    let batch = case.batch(0, DType::F32);
    let mut sum = build("albef,isogclr,siglip", &[], &sizes(12)).unwrap();
    assert!(sum.needs().ema && sum.needs().per_sample && !sum.needs().teacher);
    assert!(sum.uses_scale() && sum.uses_bias());
    assert_eq!(sum.params().len(), 1);
    assert_eq!(sum.params()[0].0, "siglip.bias");
    sum.value(&batch.pairs, &batch.head, &mut rng()).unwrap();
    let state = sum.state().unwrap();
    assert!(state.contains_key("albef.ids") && state.contains_key("isogclr.texts.tau"));
    let mut again = build("albef,isogclr,siglip", &[], &sizes(12)).unwrap();
    again.restore(&state).unwrap();
    let [a, b] = [&mut sum, &mut again].map(|sum| sum.value(&batch.pairs, &batch.head, &mut rng()).unwrap());
    assert_eq!(numbers(&a), numbers(&b));
}

#[test]
fn a_sum_gives_its_terms_what_it_remembers() {
    let golden = golden();
    let case = golden.cases().find(|case| case.entry().name == "clip").unwrap();
    let batches = [0, 1, 2].map(|step| {
        let batch = case.batch(step, DType::F64);
        let keys = batch.pairs.index.iter().map(|&row| [i64::from(row), 100 + i64::from(row), -1, -1]).collect();
        (Pairs { keys, ..batch.pairs.clone() }, batch.head)
    });
    let mochi = Mochi { hardest: 4, of_negatives: 2, of_query: 2, negatives_after: 1, query_after: 2 };
    let sources = Sources { queue: 8, sample: 0, mochi: Some(mochi) };
    let new = || build("clip,cuaxu", &[], &sizes(12)).unwrap().with_extra(Extra::new(sources, 9).unwrap());
    let (mut sum, mut plain, mut random) = (new(), build("clip,cuaxu", &[], &sizes(12)).unwrap(), rng());
    for (step, (pairs, head)) in batches.iter().enumerate().take(2) {
        let [with, without] = [
            numbers(&sum.value(pairs, head, &mut random).unwrap()),
            numbers(&plain.value(pairs, head, &mut rng()).unwrap()),
        ];
        // More columns, more to be apart from; before the first push there are none.
        assert!(if step == 0 { (with[0] - without[0]).abs() < 1e-12 } else { with[0] > without[0] + 1e-3 });
    }
    let state = sum.state().unwrap();
    assert!(state["extra.images.features"].dims() == [8, 12] && state["extra.keys.features"].dtype() == DType::I64);
    let mut again = new();
    again.restore(&state).unwrap();
    let (pairs, head) = &batches[2];
    let mut other = random.clone();
    let [a, b] = [sum.value(pairs, head, &mut random), again.value(pairs, head, &mut other)];
    assert_eq!(numbers(&a.unwrap()), numbers(&b.unwrap()));
}

#[test]
fn settings_reach_their_objective() {
    let set = [("clip".to_owned(), "smoothing".to_owned(), 0.1)];
    assert!(build("clip", &set, &sizes(12)).is_ok());
    assert!(refused("clip", &[("clip", "smoothing", 1.5)]).contains("from 0 to 1"));
    assert!(refused("clip", &[("clip", "smoothing", f64::NAN)]).contains("from 0 to 1"));
    assert!(refused("clip", &[("clip", "smooth", 0.1)]).contains("it has smoothing"));
    assert!(refused("clip", &[("siglip", "bias", 1.0)]).contains("belongs to no objective"));
    assert!(refused("clipp", &[]).contains("did you mean `clip`"));
    assert!(refused("clip:0", &[]).contains("above 0"));
    assert!(refused("clip,clip", &[]).contains("twice"));
}

#[test]
fn what_is_missing_is_named() {
    let golden = golden();
    let case = golden.cases().find(|case| case.entry().name == "clip").unwrap();
    let mut pairs = case.batch(0, DType::F32).pairs;
    (pairs.neg_texts, pairs.start, pairs.ema, pairs.teacher, pairs.tokens) = (None, None, None, None, None);
    let head = case.batch(0, DType::F32).head;
    for (name, what) in [
        ("negclip", "neg_caption"),
        ("degla", "neg_caption"),
        ("cwcl", "before training"),
        ("clip-refine", "before training"),
        ("albef", "moving average"),
        ("distill", "a teacher"),
        ("filip", "each token"),
        ("supcon", "a label"),
    ] {
        let error = build(name, &[], &sizes(12)).unwrap().value(&pairs, &head, &mut rng()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(what), "{error}");
    }
}

#[test]
fn the_document_names_everything() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/objectives.md")).unwrap();
    for entry in OBJECTIVES {
        let line = text.lines().find(|line| line.starts_with(&format!("| `{}` |", entry.name)));
        let line = line.unwrap_or_else(|| panic!("{} is not in the document", entry.name));
        for setting in entry.options {
            assert!(line.contains(setting.name), "{}.{} is not in the document", entry.name, setting.name);
        }
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("| `")).count(), OBJECTIVES.len());
}
