//! What must hold for every method in the registry, and for one that a test adds.

#![expect(clippy::print_stdout, reason = "figures, for `--nocapture`")]

use super::case::{self, Golden, apart, largest};
use candle_core::{DType, Tensor, Var};
use clip_cli::error::Result;
use clip_cli::model::Clip;
use clip_cli::tune::loss::cross_entropy;
use clip_cli::tune::method::{Batch, Method, Needs, Options, Recipe, SGD, Sees, Setting, Tensors, backward, number};
use clip_cli::tune::photos::{Photos, Support};
use clip_cli::tune::run::Run;
use clip_cli::tune::{Entry, METHODS, Task};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, BTreeSet};

const CHECKPOINT: &str = "hf-clip-quickgelu";

/// A method as it begins, with four learnt vectors where it has any.
fn options(entry: &Entry) -> Options {
    let mut options = Options::new(entry, &[], 7).unwrap();
    (options.n_ctx, options.ctx_init) = (Some(4), Some(String::new()));
    options
}

fn task(clip: &Clip) -> Task<'_> {
    let names = ["cat", "dog", "red fox"].map(str::to_owned);
    Task::new(clip, &names, &case::template_set(&["a photo of a {}.", "a drawing of the {}."])).unwrap()
}

fn build(entry: &Entry, task: &Task<'_>) -> Box<dyn Method> {
    let mut method = (entry.build)(task, &options(entry)).unwrap();
    let mut support = case::support(task, &[30, 31, 32]);
    if entry.sees == Sees::Unlabelled {
        support.labels.clear();
    }
    method.fit(task, &support).unwrap();
    method
}

fn loss(method: &mut dyn Method, task: &Task<'_>, batch: &Batch) -> Tensor {
    method.loss(task, batch, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
}

#[test]
fn the_registry_says_what_each_method_is() {
    let names: BTreeSet<&str> = METHODS.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), METHODS.len(), "two methods of one name");
    let compared: BTreeSet<&str> = Golden::all().iter().map(|case| case.entry().name).collect();
    assert_eq!(names, compared, "methods, and those that are compared with PyTorch");
    for entry in METHODS {
        let short = |text: &str| (10..250).contains(&text.len());
        assert!(short(entry.trains) && short(entry.source), "{}", entry.name);
        assert!(entry.source.contains("arXiv") || entry.source.contains('/'), "{}: {}", entry.name, entry.source);
        for Setting { name, default, range, help } in entry.options {
            assert!((range.0..=range.1).contains(default) && !help.is_empty(), "{}'s {name}", entry.name);
            let beyond = Options::new(entry, &[((*name).to_owned(), range.1 + 1.0)], 0);
            assert!(beyond.unwrap_err().to_string().contains(name), "{}'s {name}", entry.name);
        }
        assert!(Options::new(entry, &[("no such setting".to_owned(), 1.0)], 0).is_err());
    }
}

#[test]
fn no_two_methods_are_the_same() {
    let steps = [0, 1, 2];
    let mut all: Vec<(&str, Tensor, Vec<Tensors>)> = Vec::new();
    for entry in METHODS {
        let clip = case::open(CHECKPOINT, DType::F64, entry, &options(entry));
        let task = task(&clip);
        let mut method = build(entry, &task);
        let logits = case::logits(entry, &task, &*method, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let trained = !method.params().is_empty();
        // Batches of one class: they pull in other directions than zero-shot does.
        let mut gradients_of = |step: usize| {
            let mut batch = case::batch(entry, &task, step);
            if entry.sees != Sees::Texts {
                batch.labels.fill((step % task.classes()) as u32);
            }
            method.gradients(&task, &batch, &mut rng).unwrap().1
        };
        let gradients = steps.iter().filter(|_| trained).map(|&step| gradients_of(step)).collect();
        all.push((entry.name, logits, gradients));
    }
    // Vectors are drawn from their names: methods that share a name begin with the same.
    let same = |a: &Tensors, b: &Tensors| {
        a.keys().eq(b.keys()) && a.iter().all(|(name, x)| x.dims() == b[name].dims() && apart(x, &b[name]) < 1e-9)
    };
    let mut pairs = 0;
    for (i, (name, logits, gradients)) in all.iter().enumerate() {
        for (other, others_logits, others) in &all[..i] {
            let shared = gradients.iter().zip(others).any(|(a, b)| a.keys().any(|name| b.contains_key(name)));
            pairs += usize::from(shared);
            let alike = apart(logits, others_logits) < 1e-9 && gradients.iter().zip(others).all(|(a, b)| same(a, b));
            let untrained = gradients.is_empty() || others.is_empty();
            assert!(!alike || (untrained && !(gradients.is_empty() && others.is_empty())), "{name} is {other}");
        }
    }
    assert!(pairs >= 10, "{pairs} pairs share parameters");
}

#[test]
fn gradients_are_those_of_finite_differences() {
    const STEP: f64 = 1e-6;
    for entry in METHODS {
        let clip = case::open(CHECKPOINT, DType::F64, entry, &options(entry));
        let task = task(&clip);
        let mut method = build(entry, &task);
        let (params, batch) = (method.params(), case::batch(entry, &task, 2));
        if params.is_empty() {
            continue;
        }
        let gradients = backward(&loss(&mut *method, &task, &batch), &params).unwrap();
        let start: BTreeMap<&String, Tensor> = params.iter().map(|(name, var)| (name, var.copy().unwrap())).collect();
        let mut slope = 0.0;
        let mut direction = BTreeMap::new();
        for (n, (name, var)) in params.iter().enumerate() {
            let numbers = (0..var.elem_count()).map(|i| ((i * 31 + n * 17 + 5) % 97) as f32 / 48.0 - 1.0).collect();
            let way = task.tensor(numbers, var.dims()).unwrap();
            slope += number(&(&way * &gradients[name]).unwrap().sum_all().unwrap()).unwrap();
            direction.insert(name, way);
        }
        let mut at = |way: f64| {
            for (name, var) in &params {
                var.set(&(&start[name] + (&direction[name] * way).unwrap()).unwrap()).unwrap();
            }
            number(&loss(&mut *method, &task, &batch)).unwrap()
        };
        let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let off = (difference - slope).abs() / slope.abs();
        println!("{}: {slope:.6} and {difference:.6}, off by {off:.1e}", entry.name);
        assert!(off <= 1e-4, "{}: {slope} by its gradient, {difference} by differences", entry.name);
    }
}

#[test]
fn many_classes_go_through_the_tower_in_parts() {
    let entry = clip_cli::tune::method::entry("cocoop").unwrap();
    let clip = case::open(CHECKPOINT, DType::F64, entry, &options(entry));
    let names: Vec<String> = (0..150).map(|n| format!("thing {n}")).collect();
    let task = Task::new(&clip, &names, &case::template_set(&["a {}."])).unwrap();
    let mut method = build(entry, &task);
    let batch = case::batch(entry, &task, 0);
    let whole = loss(&mut *method, &task, &batch);
    let theirs = backward(&whole, &method.params()).unwrap();
    let (sum, gradients) = method.gradients(&task, &batch, &mut ChaCha8Rng::seed_from_u64(3)).unwrap();
    assert!((sum - number(&whole).unwrap()).abs() < 1e-12);
    for (name, x) in &theirs {
        assert!(apart(x, &gradients[name]) <= 1e-9 * largest(x), "{name}");
    }
    let logits = case::logits(entry, &task, &*method, 0);
    assert_eq!(logits.dims(), [case::BATCH, 150]);
    let again = number(&cross_entropy(&logits, &batch.labels).unwrap()).unwrap();
    assert!((again - number(&whole).unwrap()).abs() < 1e-12);
}

/// A method in one file: what is added to the rows of zero-shot is learnt.
struct Residual(Var);

static RESIDUAL: Entry = Entry {
    name: "residual",
    trains: "what is added to the classes' rows",
    source: "this test",
    differs: None,
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: false,
    options: &[],
    recipe: Recipe { epochs: 30, batch: case::BATCH, lr: 1e-3, ..SGD },
    prepare: None,
    build: |task, _| Ok(Box::new(Residual(Var::from_tensor(&task.zero_shot()?.zeros_like()?)?))),
};

impl Method for Residual {
    fn params(&self) -> BTreeMap<String, Var> {
        BTreeMap::from([("residual".to_owned(), self.0.clone())])
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        Ok(clip_cli::ops::normalize(&(task.zero_shot()? + self.0.as_tensor())?)?)
    }
}

#[test]
fn a_method_is_one_type_and_an_entry() {
    let clip = case::open(CHECKPOINT, DType::F32, &RESIDUAL, &Options::default());
    let task = task(&clip);
    let support: Support = case::support(&task, &[0]);
    let photos = Photos { labels: support.labels.clone(), ..super::runs::photos(support.labels.len()) };
    let method = (RESIDUAL.build)(&task, &Options::default()).unwrap();
    let mut run = Run::new(&RESIDUAL, RESIDUAL.recipe, &task, method, (&photos, &support), 0).unwrap();
    let before = case::logits(&RESIDUAL, &task, &*run.method, 0);
    let mut losses = Vec::new();
    run.run(&mut |report| {
        losses.push(report.loss);
        Ok(())
    })
    .unwrap();
    assert_eq!(losses.len(), RESIDUAL.recipe.epochs);
    assert!(losses[losses.len() - 1] < losses[0], "{losses:?}");
    assert!(apart(&before, &case::logits(&RESIDUAL, &task, &*run.method, 0)) > 1e-3);
}
