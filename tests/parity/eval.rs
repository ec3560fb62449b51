//! Evaluation metrics beside Python's (`tests/golden/eval.py`).

use super::golden::golden_directory;
use clip_cli::eval::geometry::{Estimate, effective_rank, tolerance};
use clip_cli::eval::lbfgs::Stop;
use clip_cli::eval::paired::mcnemar;
use clip_cli::eval::{
    Interval, Pairs, Sample, Side, Spread, Tally, answers, geometry, harmonic_mean, knn, paired, probe, retention,
    retrieval,
};
use clip_cli::model::spec::Objective;
use serde_json::Value;

fn golden(part: &str) -> Value {
    let text = std::fs::read_to_string(golden_directory().join("data/eval.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[part].take()
}

fn rows(value: &Value) -> Vec<f32> {
    doubles(value).into_iter().map(|x| x as f32).collect()
}

fn doubles(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn places(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
}

fn place(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

#[track_caller]
fn close(got: f64, want: &Value, tolerance: f64) {
    let want = want.as_f64().unwrap();
    assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{got}, want {want}");
}

#[test]
fn retrieval_is_clip_benchmarks() {
    let golden = golden("retrieval");
    let owner = places(&golden["image_of_text"]);
    let (images, texts) = (rows(&golden["images"]), rows(&golden["texts"]));
    let found = retrieval(&images, &texts, place(&golden["dim"]), &owner, &places(&golden["ks"]));
    for (name, found) in [("image_retrieval", found.image_retrieval), ("text_retrieval", found.text_retrieval)] {
        let want = &golden[name];
        assert_eq!(found.ranks, places(&want["ranks"]), "{name}");
        assert_eq!(found.recall, doubles(&want["recall"]), "{name}");
        close(found.mean_rank, &want["mean_rank"], 1e-12);
        assert_eq!(found.median_rank, want["median_rank"].as_f64().unwrap(), "{name}");
    }
}

#[test]
fn classification_is_scikit_learns() {
    let golden = golden("classification");
    let classes = place(&golden["classes"]);
    let mut tally = Tally::new(classes);
    for (logits, label) in doubles(&golden["logits"]).chunks(classes).zip(places(&golden["labels"])) {
        tally.add(label, logits);
    }
    let found = tally.metrics().unwrap();
    close(found.acc1, &golden["acc1"], 1e-12);
    close(found.acc5.unwrap(), &golden["acc5"], 1e-12);
    close(found.mean_per_class_recall, &golden["mean_per_class_recall"], 1e-12);
    close(found.acc1_interval.0, &golden["acc1_interval"][0], 1e-9);
    close(found.acc1_interval.1, &golden["acc1_interval"][1], 1e-9);
}

#[test]
fn few_shot_metrics_are_scikit_learns_and_scipys() {
    let golden = golden("few_shot");
    let (classes, labels) = (place(&golden["classes"]), places(&golden["labels"]));
    let (first, second) = (rows(&golden["first"]), rows(&golden["second"]));
    let tally = Tally::of(&first, classes, &labels);
    let found = tally.metrics().unwrap();
    close(found.acc1, &golden["acc1"], 1e-12);
    close(found.macro_f1, &golden["macro_f1"], 1e-12);
    let confusion: Vec<usize> = tally.confusion().into_iter().map(|count| count as usize).collect();
    assert_eq!(confusion, places(&golden["confusion"]));
    assert_eq!(answers(&first, classes), places(&golden["answers"]));
    let right = |logits: &[f32]| -> Vec<bool> {
        answers(logits, classes).iter().zip(&labels).map(|(answer, label)| answer == label).collect()
    };
    let found = paired(&right(&first), &right(&second), 0);
    close(found.difference, &golden["difference"], 1e-12);
    // A thousand resamples: the ends move by a few hundredths of the width.
    close(found.interval.0, &golden["interval"][0], 0.02);
    close(found.interval.1, &golden["interval"][1], 0.02);
    assert_eq!([found.first_only as usize, found.second_only as usize].to_vec(), places(&golden["only"]));
    close(found.p, &golden["p"], 1e-12);
    for case in golden["mcnemar"].as_array().unwrap() {
        let p = mcnemar(place(&case[0]) as u64, place(&case[1]) as u64);
        let want = case[2].as_f64().unwrap();
        assert!((p / want - 1.0).abs() < 1e-9, "{case}: {p}");
    }
    let [base, new] = [0, 1].map(|at| golden["harmonic"][at].as_f64().unwrap());
    close(harmonic_mean(base, new), &golden["harmonic"][2], 1e-12);
    let spread = Spread::of(&[base, new, 0.5]).unwrap();
    close(spread.mean, &golden["spread"][0], 1e-12);
    close(spread.std.unwrap(), &golden["spread"][1], 1e-12);
}

#[test]
fn the_probe_is_scikit_learns() {
    for golden in golden("probe").as_array().unwrap() {
        let (classes, dim, c) = (place(&golden["classes"]), place(&golden["dim"]), golden["c"].as_f64().unwrap());
        let part = |name: &str| (rows(&golden[name]), places(&golden[format!("{name}_labels")]));
        let (train, test) = (part("train"), part("test"));
        let [train, test] = [&train, &test].map(|(rows, labels)| Sample { rows, dim, labels });
        let found = probe::fit(&train, classes, c, Stop { gradient: 1e-9, steps: 10_000 });
        assert!(found.converged, "C = {c}");
        let accuracy = found.tally(&test).metrics().unwrap().acc1;
        close(accuracy, &golden["accuracy"], 1e-12);
        // Of two classes scikit-learn has the difference of ours.
        let rows = |of: &[f64], width: usize| match classes {
            2 => of[width..].iter().zip(of).map(|(b, a)| b - a).collect(),
            _ => of.to_vec(),
        };
        let (weights, want) = (rows(&found.weights, dim), doubles(&golden["weights"]));
        let most = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        for (got, want) in weights.iter().zip(&want) {
            assert!((got - want).abs() < 1e-5 * most, "C = {c}: {weights:?}, want {want:?}");
        }
        // Intercepts of several classes are known but for a number that all share.
        let (found, want) = (rows(&found.intercepts, 1), doubles(&golden["intercepts"]));
        let mean = |x: &[f64]| if classes == 2 { 0.0 } else { x.iter().sum::<f64>() / x.len() as f64 };
        for (got, other) in found.iter().zip(&want) {
            assert!(
                (got - mean(&found) - other + mean(&want)).abs() < 1e-5 * most,
                "C = {c}: {found:?}, want {want:?}"
            );
        }
    }
}

#[test]
fn neighbours_are_dinos() {
    let golden = golden("knn");
    let (classes, dim) = (place(&golden["classes"]), place(&golden["dim"]));
    let part = |name: &str| (rows(&golden[name]), places(&golden[format!("{name}_labels")]));
    let (train, test) = (part("train"), part("test"));
    let [train, test] = [&train, &test].map(|(rows, labels)| Sample { rows, dim, labels });
    let ks = [1, 5, 20];
    for (k, tally) in ks.iter().zip(knn(&train, &test, classes, &ks, 0.07)) {
        close(tally.metrics().unwrap().acc1, &golden["acc1"][k.to_string()], 1e-12);
    }
}

#[test]
fn geometry_follows_its_formulas() {
    let golden = golden("geometry");
    let (images, texts, dim) = (rows(&golden["images"]), rows(&golden["texts"]), place(&golden["dim"]));
    let owner = places(&golden["image_of_text"]);
    let found = geometry(&Pairs { images: &images, texts: &texts, dim, image_of_text: &owner });
    let same = |name: &str, Estimate { value, interval: Interval(low, high) }: Estimate| {
        close(value, &golden["values"][name], 1e-6);
        close(low, &golden["intervals"][name][0], 1e-5);
        close(high, &golden["intervals"][name][1], 1e-5);
    };
    same("modality_gap", found.modality_gap);
    same("alignment", found.alignment);
    same("image_uniformity", found.image_uniformity);
    same("text_uniformity", found.text_uniformity);
    same("cross_uniformity", found.cross_uniformity);
    close(found.image_effective_rank, &golden["image_effective_rank"], 1e-6);
    close(found.text_effective_rank, &golden["text_effective_rank"], 1e-6);
    close(effective_rank(&images[..4 * dim], dim), &golden["few_rows_effective_rank"], 1e-6);
    let found = tolerance(&images, dim, &places(&golden["labels"]));
    close(found.tolerance.value, &golden["tolerance"], 1e-6);
    close(found.same_class_cosine.value, &golden["same_class_cosine"], 1e-6);
}

#[test]
fn retention_is_torchs() {
    let golden = golden("retention");
    let part = |name: &str| (rows(&golden[name]["images"]), rows(&golden[name]["head"]));
    let (start, now) = (part("start"), part("now"));
    for (objective, key) in [(Objective::Softmax, "kl_softmax"), (Objective::Sigmoid, "kl_sigmoid")] {
        let number = |name: &str, key: &str| golden[name][key].as_f64().unwrap() as f32;
        let [start, now] = [("start", &start), ("now", &now)].map(|(name, (images, head))| Side {
            images,
            head,
            dim: place(&golden["dim"]),
            scale: number(name, "scale"),
            bias: number(name, "bias"),
            objective,
        });
        let found = retention(&start, &now);
        close(found.agreement, &golden["agreement"], 1e-12);
        close(found.kl, &golden[key], 1e-5);
        close(found.text_drift, &golden["text_drift"], 1e-6);
        assert!(found.kl_interval.0 < found.kl && found.kl < found.kl_interval.1);
    }
}
