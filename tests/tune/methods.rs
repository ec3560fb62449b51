//! All methods against PyTorch (`tests/golden/tune.py`).

#![expect(clippy::print_stdout, reason = "figures, for `--nocapture`")]

use super::case::{self, Golden, apart, largest};
use candle_core::{DType, Var};
use clip_cli::train::optim::{Optimizer, Settings};
use clip_cli::tune::Task;
use clip_cli::tune::method::{Images, Method, Options, Tensors};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeMap;

/// Of forward and gradient in f64, relative to the largest of a tensor.
const EXACT: f64 = 1e-7;
/// Behind all steps.
const AFTER: f64 = 1e-6;
/// Of forward and gradient in f32.
const SINGLE: f64 = 1e-5;

/// What is compared, how far it is off, and how far it may be.
type Found = Vec<(String, f64, f64)>;

#[test]
fn methods_are_those_of_pytorch_in_f64() {
    report(DType::F64);
}

#[test]
fn methods_are_those_of_pytorch_in_f32() {
    report(DType::F32);
}

/// Runs all cases, and only then fails.
fn report(dtype: DType) {
    let mut broken = Vec::new();
    for case in Golden::all() {
        let name = case.text("name").to_owned();
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&case, dtype)));
        let found = run.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            vec![(said.unwrap_or_else(|| "it fails".to_owned()), f64::INFINITY, 0.0)]
        });
        let worst = |kind: &str| found.iter().filter(|x| x.0.starts_with(kind)).map(|x| x.1).fold(0.0, f64::max);
        let kinds = ["logits", "gradient", "after"].map(|kind| format!("{kind} {:.1e}", worst(kind)));
        println!("{dtype:?} {name}: {}", kinds.join(", "));
        let off = found.into_iter().filter(|(_, off, limit)| off.is_nan() || off > limit);
        broken.extend(off.map(|(what, off, limit)| format!("{name}: {what} is off by {off:.1e}, not {limit:.0e}")));
    }
    assert!(broken.is_empty(), "{dtype:?}\n{}", broken.join("\n"));
}

fn run(case: &Golden, dtype: DType) -> Found {
    let (entry, options, mut found) = (case.entry(), case.options(), Found::new());
    let clip = case::open(case.text("checkpoint"), dtype, entry, &options);
    let task = Task::new(&clip, &case.names(), &case.templates()).unwrap();
    let build = |options: &Options| -> Box<dyn Method> {
        let mut method = (entry.build)(&task, options).unwrap();
        if let Some(steps) = case.steps("support").or_else(|| case.steps("unlabelled")) {
            method.fit(&task, &case::support(&task, &steps)).unwrap();
        }
        method
    };
    let forward = if dtype == DType::F64 { EXACT } else { SINGLE };
    let mut method = build(&options);
    start(&method.params(), case);
    let mut compare = |what: &str, ours: &candle_core::Tensor, theirs: &candle_core::Tensor, limit: f64| {
        found.push((what.to_owned(), apart(ours, theirs) / largest(theirs), limit));
    };
    compare("logits", &case::logits(entry, &task, &*method, 0), case.get("logits").unwrap(), forward);
    for (i, pair) in case.about["settings"]["grid"].as_array().into_iter().flatten().enumerate() {
        let said = [("alpha", 0), ("beta", 1)].map(|(name, i)| (name.to_owned(), pair[i].as_f64().unwrap()));
        let method = build(&Options::new(entry, &said, 0).unwrap());
        let theirs = case.get(&format!("logits/{i}")).unwrap();
        compare(&format!("logits at {pair}"), &case::logits(entry, &task, &*method, 0), theirs, forward);
    }
    if let Some(starts_as) = case.about["starts_as"].as_str() {
        let plain =
            if starts_as == "zeroshot" { case::template_set(&[case.text("template")]) } else { case.templates() };
        let plain = Task::new(&clip, &case.names(), &plain).unwrap();
        let zero_shot = clip_cli::tune::method::entry("zeroshot").unwrap();
        let theirs = case::logits(zero_shot, &plain, &*(zero_shot.build)(&plain, &options).unwrap(), 0);
        compare("logits beside zero-shot's", &case::logits(entry, &task, &*method, 0), &theirs, forward);
    }
    if case.about["optimizer"].is_null() {
        return found;
    }

    // The first step.
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let batch = |step: usize| {
        let mut batch = case::batch(entry, &task, step);
        if let Some(noise) = case.get("noise/texts") {
            batch.images = Images::Features(noise.get(step).unwrap().to_dtype(dtype).unwrap());
        }
        batch
    };
    let (loss, gradients) = method.gradients(&task, &batch(0), &mut rng).unwrap();
    let losses: Vec<f64> = case.about["losses"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    found.push(("loss".to_owned(), (loss - losses[0]).abs() / losses[0].abs(), forward));
    found.extend(gradients_apart(&gradients, &case.of("grad"), dtype, forward));
    if dtype != DType::F64 {
        return found;
    }

    // All steps.
    let about = &case.about["optimizer"];
    let number = |name: &str, or: f64| about[name].as_f64().unwrap_or(or);
    let beta = |i: usize, or: f64| about["betas"][i].as_f64().unwrap_or(or);
    let settings = Settings {
        beta1: beta(0, number("momentum", 0.0)),
        beta2: beta(1, 0.999),
        eps: number("eps", 1e-8),
        weight_decay: number("weight_decay", 0.0),
    };
    let params = method.params().into_iter().map(|(name, var)| (name, var, true, 1.0));
    let mut optimizer = Optimizer::new(about["name"].as_str().unwrap(), settings, params).unwrap();
    let average = case.of("average");
    for (step, theirs) in losses.iter().enumerate() {
        let (loss, gradients) = method.gradients(&task, &batch(step), &mut rng).unwrap();
        found.push((format!("after {step} steps the loss"), (loss - theirs).abs() / theirs.abs(), AFTER));
        optimizer.step(&gradients, number("lr", 0.0), 1.0).unwrap();
        if !average.is_empty() {
            method.end_epoch(step + 1, losses.len()).unwrap();
        }
    }
    let ours = case::logits(entry, &task, &*method, 0);
    let theirs = case.get("logits_after").unwrap();
    found.push(("after all steps the logits".to_owned(), apart(&ours, theirs) / largest(theirs), AFTER));
    let mut behind = |kind: &str, method: &dyn Method| {
        let params = method.params();
        for (name, theirs) in case.of(kind) {
            let off = apart(&params[&name].as_detached_tensor(), &theirs) / largest(&theirs).max(1e-9);
            found.push((format!("after all steps {kind} `{name}`"), off, AFTER));
        }
    };
    behind("after", &*method);
    if !average.is_empty() {
        method.finish().unwrap();
        behind("average", &*method);
    }
    found
}

/// Sets parameters to those that the case begins with.
fn start(params: &BTreeMap<String, Var>, case: &Golden) {
    let golden = case.of("param");
    let names = |all: Vec<&String>| all.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(params.keys().collect()), names(golden.keys().collect()), "names of parameters");
    for (name, var) in params {
        assert_eq!(var.dims(), golden[name].dims(), "`{name}`");
        var.set(&golden[name].to_dtype(var.dtype()).unwrap()).unwrap();
    }
}

fn gradients_apart(ours: &Tensors, theirs: &Tensors, dtype: DType, limit: f64) -> Found {
    let all = theirs.values().map(largest).fold(0.0, f64::max);
    // Where the true gradient is zero (biases of keys) there is nothing but rounding.
    let floor = all * if dtype == DType::F64 { 1e-6 } else { 1e-3 };
    let one = |(name, theirs): (&String, &candle_core::Tensor)| {
        let off = ours.get(name).map_or(f64::INFINITY, |ours| apart(ours, theirs) / largest(theirs).max(floor));
        (format!("gradient of `{name}`"), off, limit)
    };
    theirs.iter().map(one).collect()
}
