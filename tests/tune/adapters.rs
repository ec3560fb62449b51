//! What the comparison of logits and gradients does not see of memories, probes and changed towers.

use super::case::{self, Golden, apart, largest};
use candle_core::DType;
use clip_cli::tune::Task;
use clip_cli::tune::method::{Method, Options};
use clip_cli::tune::photos::Support;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn golden(name: &str) -> Golden {
    Golden::all().into_iter().find(|case| case.text("name") == name).unwrap()
}

/// The case's options with another number.
fn with(case: &Golden, name: &str, value: f64) -> Options {
    let own = case.options();
    let mut said: Vec<(String, f64)> = own.numbers().map(|(name, value)| (name.to_owned(), value)).collect();
    said.retain(|(other, _)| other != name);
    said.push((name.to_owned(), value));
    Options::new(case.entry(), &said, 0).unwrap()
}

#[test]
fn what_is_remembered_is_what_the_authors_remember() {
    for (name, kind) in [("tip", "keys"), ("tfup", "cache_keys"), ("tfup-few", "cache_keys")] {
        let (case, options) = (golden(name), golden(name).options());
        let clip = case::open(case.text("checkpoint"), DType::F64, case.entry(), &options);
        let task = Task::new(&clip, &case.names(), &case.templates()).unwrap();
        let mut method = (case.entry().build)(&task, &options).unwrap();
        let unlabelled = case.steps("unlabelled");
        let images = case::support(&task, &unlabelled.clone().or_else(|| case.steps("support")).unwrap());
        // Of unlabelled images no class is known.
        let labels = if unlabelled.is_some() { Vec::new() } else { images.labels.clone() };
        method.fit(&task, &Support { labels, ..images }).unwrap();
        let theirs = case.get(kind).unwrap();
        let off = apart(&method.state().unwrap()["keys"], theirs) / largest(theirs);
        assert!(off <= 1e-7, "{name}: {off}");
    }
}

#[test]
fn the_probe_is_at_its_optimum_and_validation_chooses_its_strength() {
    for name in ["linear-probe", "linear-probe-loose"] {
        let (case, options) = (golden(name), golden(name).options());
        let clip = case::open(case.text("checkpoint"), DType::F64, case.entry(), &options);
        let task = Task::new(&clip, &case.names(), &case.templates()).unwrap();
        let support = case::support(&task, &case.steps("support").unwrap());
        let learn = |options: &Options| -> Box<dyn Method> {
            let mut method = (case.entry().build)(&task, options).unwrap();
            method.fit(&task, &support).unwrap();
            method
        };
        let mut said = learn(&options);
        let before = said.state().unwrap();
        for part in ["weight", "bias"] {
            let theirs = case.get(&format!("optimum/{part}")).unwrap();
            let off = apart(&before[part], theirs) / largest(theirs);
            assert!(off <= 1e-6, "{name} {part}: {off}");
        }
        // What was said stays, what was not is looked for: on these very images nothing is too strong.
        said.choose(&task, &support).unwrap();
        assert_eq!(apart(&said.state().unwrap()["weight"], &before["weight"]), 0.0);
        let mut free = learn(&with(&case, "C", 0.0));
        let first = free.state().unwrap();
        free.choose(&task, &Support::default()).unwrap();
        assert_eq!(apart(&free.state().unwrap()["weight"], &first["weight"]), 0.0);
        free.choose(&task, &support).unwrap();
        assert!(largest(&free.state().unwrap()["weight"]) > largest(&first["weight"]));
    }
}

#[test]
fn a_memory_is_weighed_by_validation() {
    let (case, options) = (golden("tip"), golden("tip").options());
    let clip = case::open(case.text("checkpoint"), DType::F64, case.entry(), &options);
    let task = Task::new(&clip, &case.names(), &case.templates()).unwrap();
    let support = case::support(&task, &case.steps("support").unwrap());
    let mut method = (case.entry().build)(&task, &options).unwrap();
    method.fit(&task, &support).unwrap();
    let numbers = |method: &dyn Method| method.state().unwrap()["alpha_beta"].to_vec1::<f64>().unwrap();
    method.choose(&task, &Support::default()).unwrap();
    assert_eq!(numbers(&*method), [1.17, 1.0]);
    // Of the images that it remembers itself, the memory cannot know too much.
    method.choose(&task, &support).unwrap();
    let [alpha, beta] = numbers(&*method)[..] else { panic!() };
    assert!(alpha > 4.0 && alpha < 5.0 && beta > 11.0 && beta < 12.0, "{alpha} {beta}");
}

#[test]
fn one_tower_can_be_changed_alone() {
    for name in ["lora", "layernorm", "bitfit"] {
        let case = golden(name);
        for (tower, ours) in [(1.0, "image."), (2.0, "text.")] {
            let options = with(&case, "tower", tower);
            let clip = case::open(case.text("checkpoint"), DType::F32, case.entry(), &options);
            let task = Task::new(&clip, &case.names(), &case.templates()).unwrap();
            let mut method = (case.entry().build)(&task, &options).unwrap();
            let names: Vec<String> = method.params().keys().map(|name| clip.store().ours(name).unwrap()).collect();
            assert!(!names.is_empty() && names.iter().all(|name| name.starts_with(ours)), "{names:?}");
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            let (_, gradients) = method.gradients(&task, &case::batch(case.entry(), &task, 0), &mut rng).unwrap();
            assert_eq!(gradients.len(), names.len(), "{name}");
        }
    }
}

#[test]
fn a_changed_model_embeds_without_the_method_and_without_a_tape() {
    for name in ["lora", "layernorm", "bitfit"] {
        let (case, options) = (golden(name), golden(name).options());
        let open = || case::open(case.text("checkpoint"), DType::F32, case.entry(), &options);
        let (clip, other) = (open(), open());
        let task = Task::new(&clip, &case.names(), &case.templates()).unwrap();
        let method = (case.entry().build)(&task, &options).unwrap();
        for (name, var) in method.params() {
            var.set(&case.get(&format!("after/{name}")).unwrap().to_dtype(DType::F32).unwrap()).unwrap();
        }
        let theirs = Task::new(&other, &case.names(), &case.templates()).unwrap();
        (case.entry().build)(&theirs, &options).unwrap().restore(&method.state().unwrap()).unwrap();
        let pixels = case::pixels(&task, 1);
        let (image, text) = (other.forward_images(&pixels).unwrap(), theirs.zero_shot().unwrap());
        assert_eq!(apart(&image, &method.features(&task, &pixels).unwrap()), 0.0, "{name}");
        assert!(apart(&text, &method.texts(&task).unwrap()) < 1e-6, "{name}");
        assert!(!image.track_op() && !text.track_op(), "{name}");
    }
}

#[test]
fn dropout_is_for_training_alone_and_follows_from_the_generator() {
    for dtype in [DType::F32, DType::F64] {
        let case = golden("lora");
        let options = with(&case, "dropout", 0.5);
        let clip = case::open(case.text("checkpoint"), dtype, case.entry(), &options);
        let task = Task::new(&clip, &case.names(), &case.templates()).unwrap();
        let mut method = (case.entry().build)(&task, &options).unwrap();
        for (name, var) in method.params() {
            var.set(&case.get(&format!("after/{name}")).unwrap().to_dtype(dtype).unwrap()).unwrap();
        }
        let batch = case::batch(case.entry(), &task, 0);
        let mut gradients = |seed| method.gradients(&task, &batch, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        let [(a, one), (b, same), (c, _)] = [1, 1, 2].map(&mut gradients);
        assert!(a == b && a != c, "{a} {b} {c}");
        assert!(one.iter().all(|(name, x)| apart(x, &same[name]) == 0.0));
        let theirs = case.get("logits_after").unwrap();
        let off = apart(&case::logits(case.entry(), &task, &*method, 0), theirs) / largest(theirs);
        assert!(off < 1e-5, "{off}");
    }
}
