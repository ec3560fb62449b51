//! Ten steps of training against PyTorch (`tests/golden/trajectory.py`), and batches in micro-batches.

use candle_core::{DType, Device, Tensor, Var};
use clip_cli::error::Result;
use clip_cli::model::{Clip, LoadOptions, ModelFiles};
use clip_cli::ops::normalize;
use clip_cli::ops::optim::sum_of_squares;
use clip_cli::train::group::{Group, Local};
use clip_cli::train::negatives::Mochi;
use clip_cli::train::negatives::extra::{Extra, Sources};
use clip_cli::train::objective::{self, Progress, Settings, Sum};
use clip_cli::train::optim::{self, Optimizer};
use clip_cli::train::schedule::{SCHEDULES, Schedule};
use clip_cli::train::select::{Param, Selection, Train, select};
use clip_cli::train::{Batch, Features, Gradients, Parts, Step, Stepper};
use clip_cli::weights::View;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Barrier, Mutex};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

/// A checkpoint with all its parameters as variables.
fn open(name: &str, dtype: DType, checkpointing: bool) -> (Clip, Vec<Param>) {
    open_with(name, dtype, checkpointing, Train::All)
}

fn open_with(name: &str, dtype: DType, checkpointing: bool, train: Train) -> (Clip, Vec<Param>) {
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    let mut clip = Clip::open(ModelFiles::open(&data(name)).unwrap(), &options).unwrap();
    let selection = Selection { train, layer_decay: [1.0, 1.0], ..Selection::default() };
    let params = select(&clip, &selection).unwrap();
    let names = params.iter().map(|param| param.name.as_str());
    clip.store_mut().train(names).unwrap().checkpointing = checkpointing;
    (clip, params)
}

fn vars(clip: &Clip) -> BTreeMap<String, Var> {
    clip.store().trained().unwrap().params()
}

/// The batch that `trajectory.py` makes for a step.
fn batch(clip: &Clip, step: usize, texts: Vec<String>) -> Batch {
    let size = clip.preprocess().size[0];
    let pairs = texts.len();
    let mut pixels = Vec::new();
    for n in 0..pairs {
        for y in 0..size {
            for x in 0..size {
                for c in 0..3 {
                    let value = n * 37 + x * 7 + y * 13 + c * 29 + step * 11 + n * x * y / 5;
                    pixels.push((value % 256) as u8);
                }
            }
        }
    }
    Batch {
        share: 0..pairs,
        index: (0..pairs as u32).collect(),
        texts,
        image_ids: (0..pairs as u64).collect(),
        same: vec![false; pairs * pairs],
        pixels,
        ..Batch::default()
    }
}

fn take_step(clip: &Clip, batch: &Batch, micro_batch: usize, loss: &str) -> Step {
    let mut objective = objective(clip, batch, loss);
    step_of(clip, &Local, batch, micro_batch, &mut objective, 0, &Features::default())
}

fn objective(clip: &Clip, batch: &Batch, loss: &str) -> Sum {
    let sizes = Settings::sizes(64, batch.index.len(), clip.spec.embed_dim, 0, 0);
    objective::build(loss, &[], &sizes).unwrap()
}

fn step_of(
    clip: &Clip,
    group: &dyn Group,
    batch: &Batch,
    micro_batch: usize,
    objective: &mut Sum,
    step: usize,
    features: &Features,
) -> Step {
    let parts = Parts::of(clip).unwrap();
    let stepper = Stepper {
        clip,
        parts: &parts,
        group,
        micro_batch,
        duplicates: objective::Duplicates::Mask,
        start: None,
        teacher: None,
        average: None,
        features,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let progress = Progress { step, steps: 10, epoch_steps: 10 };
    stepper.step(batch, objective, progress, &mut rng).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Trains as the golden run did; returns losses, gradient norms, and the embeddings of the batch behind the last.
fn train(name: &str, dtype: DType, golden: &Value) -> (Vec<f64>, Vec<f64>, Vec<Vec<f64>>, f64) {
    let (clip, params) = open("hf-clip-quickgelu", dtype, false);
    let settings = &golden["settings"];
    let number = |key: &str| settings[key].as_f64().unwrap();
    let of = |name: &str| params.iter().find(|param| param.name == name).unwrap();
    let all = vars(&clip).into_iter().map(|(name, var)| (name.clone(), var, of(&name).decays, 1.0));
    // torch's SGD in the golden run has momentum 0.9, which is beta1.
    let beta2 = 0.98;
    let numbers_of = optim::Settings { beta1: 0.9, beta2, eps: 1e-6, weight_decay: number("wd") };
    let mut optimizer = Optimizer::new(name, numbers_of, all).unwrap();
    let shape = SCHEDULES.iter().find(|entry| entry.name == "cosine").unwrap().shape;
    let (steps, warmup) = (number("steps") as usize, number("warmup") as usize);
    let schedule = Schedule { rate: number("lr"), warmup, steps, shape };
    let texts = |step: usize| golden["texts"][step].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned());
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let batch = batch(&clip, step, texts(step).collect());
        // Cached in micro-batches from the fifth step on: it must make no difference.
        let Step { loss, gradients, .. } = take_step(&clip, &batch, if step < 5 { 6 } else { 4 }, "clip");
        let norm = gradients.values().map(|x| sum_of_squares(x).unwrap()).sum::<f64>().sqrt();
        let share = if norm > number("clip") { number("clip") / (norm + 1e-6) } else { 1.0 };
        optimizer.step(&gradients, schedule.at(step), share).unwrap();
        let scale = &vars(&clip)["logit_scale"];
        scale.set(&scale.as_detached_tensor().clamp(0.0, 100f64.ln()).unwrap()).unwrap();
        losses.push(loss);
        norms.push(norm);
    }
    let last = batch(&clip, steps, texts(steps).collect());
    let images =
        clip.build_image(View::Constant).unwrap().forward(&pixels(&clip, &last).to_dtype(dtype).unwrap()).unwrap();
    let tokenizer = clip.tokenizer().unwrap();
    let ids = tokenizer.0.batch(&last.texts, &tokenizer.1).unwrap();
    let captions = clip.build_text(View::Constant).unwrap().forward(&ids.ids, ids.len).unwrap();
    let rows = |x: &Tensor| {
        normalize(x).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let scale = vars(&clip)["logit_scale"].to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
    (losses, norms, vec![rows(&images), rows(&captions)], scale)
}

#[track_caller]
fn near(ours: &[f64], theirs: &[f64], relative: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (at, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= relative * b.abs().max(1.0), "{what} {at}: {a} and {b}");
    }
}

#[test]
fn ten_steps_are_those_of_pytorch() {
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(data("trajectory.json")).unwrap()).unwrap();
    for name in ["adamw", "sgd", "lion"] {
        let (losses, norms, embeddings, scale) = train(name, DType::F64, &golden);
        let run = &golden["runs"][name];
        near(&losses, &numbers(&run["losses"]), 1e-6, &format!("{name} loss"));
        near(&norms, &numbers(&run["norms"]), 1e-6, &format!("{name} norm"));
        near(&[scale], &[run["scale"].as_f64().unwrap()], 1e-6, &format!("{name} scale"));
        // Parameters whose true gradient is zero (biases of keys) wander in the last digits: the function counts.
        near(&embeddings[0], &numbers(&run["images"]), 1e-6, &format!("{name} image"));
        near(&embeddings[1], &numbers(&run["texts"]), 1e-6, &format!("{name} text"));
    }
    let (losses, ..) = train("adamw", DType::F32, &golden);
    near(&losses, &numbers(&golden["runs"]["adamw-f32"]["losses"]), 1e-4, "f32 loss");
}

#[track_caller]
fn same_gradients(a: &Gradients, b: &Gradients, relative: f64, what: &str) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}");
    let whole = a.values().map(|x| sum_of_squares(x).unwrap()).sum::<f64>().sqrt();
    let off = a.iter().map(|(name, x)| sum_of_squares(&(x - &b[name]).unwrap()).unwrap()).sum::<f64>().sqrt();
    assert!(off <= relative * whole, "{what}: off by {off} of {whole}");
    for (name, x) in a {
        let own = sum_of_squares(x).unwrap().sqrt();
        let off = sum_of_squares(&(x - &b[name]).unwrap()).unwrap().sqrt();
        assert!(off <= relative * own.max(1e-3 * whole), "{what}, `{name}`: off by {off} of {own}");
    }
}

#[test]
fn a_cached_batch_is_a_plain_batch() {
    for name in [
        "hf-clip-gelu",
        "hf-siglip",
        "open_clip-vit",
        "open_clip-siglip",
        "custom-text-effnet",
        "eva02-clip",
        "hf-chinese-clip",
    ] {
        let (clip, _) = open(name, DType::F32, false);
        let texts: Vec<String> = (0..7).map(|n| format!("number {n} of {}", "many ".repeat(n))).collect();
        let batch = batch(&clip, 3, texts);
        let plain = take_step(&clip, &batch, 7, "clip");
        for micro_batch in [1, 3] {
            let cached = take_step(&clip, &batch, micro_batch, "clip");
            assert!((plain.loss - cached.loss).abs() <= 1e-5 * plain.loss.abs(), "{name}");
            same_gradients(&plain.gradients, &cached.gradients, 1e-5, name);
        }
        let (again, _) = open(name, DType::F32, true);
        let checkpointed = take_step(&again, &batch, 3, "clip");
        same_gradients(&plain.gradients, &checkpointed.gradients, 1e-5, &format!("{name} checkpointed"));
    }
}

/// Pixels as the image tower takes them.
fn pixels(clip: &Clip, batch: &Batch) -> Tensor {
    let [height, width] = clip.preprocess().size;
    let images = batch.pixels.chunks(3 * height * width);
    let count = images.len();
    let numbers: Vec<f32> = images.flat_map(|image| clip.preprocess().normalize(image)).collect();
    Tensor::from_vec(numbers, (count, 3, height, width), &Device::Cpu).unwrap()
}

#[test]
fn features_that_are_kept_change_nothing() {
    for (name, loss) in [
        ("hf-clip-gelu", "clip"),
        ("hf-siglip", "siglip"),
        ("open_clip-resnet", "clip"),
        ("open_clip-convnext", "negclip"),
        ("open_clip-convnext-mlp", "clip"),
        ("open_clip-mobileclip", "clip"),
        ("open_clip-coca", "clip"),
        ("open_clip-roberta", "negclip"),
        ("hf-chinese-clip", "clip"),
        ("hf-align", "clip"),
        ("custom-text-effnet", "dcl"),
    ] {
        let (clip, params) = open_with(name, DType::F32, false, Train::Projections);
        assert!(!Parts::of(&clip).unwrap().trains_trunks().contains(&true), "{name}");
        let towers: BTreeSet<&str> = params.iter().filter_map(|param| param.ours.split('.').next()).collect();
        // Two image towers have none: SigLIP's ends with attention, ALIGN's with a mean.
        let expected = if ["hf-siglip", "hf-align"].contains(&name) { 2 } else { 3 };
        assert_eq!(towers.len(), expected, "{name}: {towers:?}");
        let texts: Vec<String> = (0..7).map(|n| format!("number {n} of {}", "many ".repeat(n))).collect();
        let mut batch = batch(&clip, 3, texts);
        if loss == "negclip" {
            batch.neg_texts = (0..7).map(|n| vec![format!("not {n}")]).collect();
        }
        let mut features = Features::default();
        let images = clip.image().unwrap().features(&pixels(&clip, &batch)).unwrap();
        features.keep_images(images.flatten_all().unwrap().to_vec1().unwrap(), images.dim(1).unwrap());
        features.keep_texts();
        let with = |features: &Features, batch: &Batch, micro_batch| {
            step_of(&clip, &Local, batch, micro_batch, &mut objective(&clip, batch, loss), 0, features)
        };
        let plain = with(&Features::default(), &batch, 7);
        // A second time texts are known; no pixel is looked at.
        let without = Batch { pixels: Vec::new(), ..batch.clone() };
        for micro_batch in [7, 3, 3] {
            let kept = with(&features, &without, micro_batch);
            assert!((plain.loss - kept.loss).abs() <= 1e-6 * plain.loss.abs(), "{name}");
            same_gradients(&plain.gradients, &kept.gradients, 1e-6, name);
        }
    }
}

/// Two steps with a queue, drawn negatives and mixes: of the second, the loss and the gradients.
fn with_extra(clip: &Clip, group: &dyn Group, share: Range<usize>, micro_batch: usize, loss: &str) -> Step {
    let mochi = Mochi { hardest: 5, of_negatives: 3, of_query: 2, negatives_after: 1, query_after: 0 };
    let mut extra = None;
    let mut last = None;
    for step in 0..2 {
        let texts: Vec<String> = (0..7).map(|n| format!("number {n} of {step} {}", "many ".repeat(n))).collect();
        let whole = batch(clip, step, texts);
        let each = whole.pixels.len() / 7;
        let row = |n: usize| (step * 5 + n) as i64;
        let batch = Batch {
            // The first pairs of the second batch were in the first one.
            keys: (0..7).map(|n| [row(n), 100 + row(n), -1, -1]).collect(),
            neg_texts: (0..7).map(|n| vec![format!("not {n}")]).collect(),
            pixels: whole.pixels[share.start * each..share.end * each].to_vec(),
            share: share.clone(),
            ..whole
        };
        let objective = extra.get_or_insert_with(|| {
            let sources = Sources { queue: 9, sample: 2, mochi: Some(mochi) };
            objective(clip, &batch, loss).with_extra(Extra::new(sources, 0).unwrap())
        });
        last = Some(step_of(clip, group, &batch, micro_batch, objective, step, &Features::default()));
    }
    last.unwrap()
}

#[test]
fn extra_negatives_work_with_cached_batches() {
    for (name, loss) in [("hf-clip-gelu", "clip"), ("open_clip-vit", "negclip"), ("hf-siglip", "dcl:1,siglip:0.5")] {
        let (clip, _) = open(name, DType::F32, false);
        let plain = with_extra(&clip, &Local, 0..7, 7, loss);
        for micro_batch in [1, 3] {
            let cached = with_extra(&clip, &Local, 0..7, micro_batch, loss);
            assert!((plain.loss - cached.loss).abs() <= 1e-5 * plain.loss.abs(), "{name}");
            same_gradients(&plain.gradients, &cached.gradients, 1e-5, name);
        }
        // And they matter.
        let texts: Vec<String> = (0..7).map(|n| format!("number {n} of 1 {}", "many ".repeat(n))).collect();
        assert!((take_step(&clip, &batch(&clip, 1, texts), 7, "clip").loss - plain.loss).abs() > 1e-3, "{name}");
    }
}

/// Processes that are threads.
struct Threads {
    rank: usize,
    size: usize,
    barrier: Arc<Barrier>,
    handed: Arc<Mutex<Vec<Vec<f32>>>>,
}

impl Group for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, own: &[f32]) -> Result<Vec<f32>> {
        self.handed.lock().unwrap()[self.rank] = own.to_vec();
        self.barrier.wait();
        let all = self.handed.lock().unwrap().concat();
        self.barrier.wait();
        Ok(all)
    }

    fn sum(&self, numbers: &mut [f32]) -> Result<()> {
        let all = self.gather(numbers)?;
        for (at, sum) in numbers.iter_mut().enumerate() {
            *sum = all.iter().skip(at).step_by(all.len() / self.size).sum();
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.barrier.wait();
        Ok(())
    }
}

#[test]
fn extra_negatives_work_with_several_processes() {
    let name = "hf-clip-gelu";
    let (clip, _) = open(name, DType::F32, false);
    let one = with_extra(&clip, &Local, 0..7, 7, "negclip");
    let (barrier, handed) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(vec![Vec::new(); 2])));
    let several = std::thread::scope(|scope| {
        let each = [0..3, 3..7].into_iter().enumerate().map(|(rank, share)| {
            let group = Threads { rank, size: 2, barrier: barrier.clone(), handed: handed.clone() };
            scope.spawn(move || with_extra(&open(name, DType::F32, false).0, &group, share, 2, "negclip"))
        });
        let each: Vec<_> = each.collect();
        each.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for step in &several {
        assert!((one.loss - step.loss).abs() <= 1e-5 * one.loss.abs());
        same_gradients(&one.gradients, &step.gradients, 1e-5, "two processes");
    }
}

#[test]
fn every_parameter_gets_the_gradient_of_finite_differences() {
    // Along a random direction through all parameters of both towers at once, in f64.
    for name in ["hf-clip-quickgelu", "hf-siglip", "open_clip-resnet", "open_clip-convnext", "open_clip-mobileclip"] {
        let (clip, _) = open(name, DType::F64, false);
        let texts: Vec<String> = (0..4).map(|n| format!("picture {n}")).collect();
        let batch = batch(&clip, 1, texts);
        let Step { gradients, .. } = take_step(&clip, &batch, 4, "clip");
        // What the objective does not look at (SigLIP's bias) has none.
        let all: BTreeMap<_, _> = vars(&clip).into_iter().filter(|(name, _)| gradients.contains_key(name)).collect();
        assert!(vars(&clip).keys().all(|name| all.contains_key(name) || name == "logit_bias"), "{name}");
        let direction = |name: &str, var: &Var| {
            let n = var.elem_count();
            let seed = name.bytes().map(usize::from).sum::<usize>();
            let size = sum_of_squares(&gradients[name]).unwrap().sqrt() / (n as f64).sqrt();
            let sign = |at: usize| if (at * 7919 + seed) % 13 < 7 { 1.0 } else { -1.0 };
            let numbers: Vec<f64> = (0..n).map(|at| size * sign(at)).collect();
            Tensor::from_vec(numbers, var.shape(), var.device()).unwrap()
        };
        let length = all.iter().map(|(name, var)| sum_of_squares(&direction(name, var)).unwrap()).sum::<f64>().sqrt();
        let h = 1e-5 / length;
        let at = |sign: f64| {
            let old: Vec<_> = all.values().map(|var| var.as_detached_tensor().copy().unwrap()).collect();
            for (name, var) in &all {
                var.set(&(var.as_detached_tensor() + (direction(name, var) * (sign * h)).unwrap()).unwrap()).unwrap();
            }
            let loss = take_step(&clip, &batch, 4, "clip").loss;
            all.values().zip(old).for_each(|(var, old)| var.set(&old).unwrap());
            loss
        };
        let measured = (at(1.0) - at(-1.0)) / (2.0 * h);
        let dot = |name: &String, var: &Var| {
            (&gradients[name] * direction(name, var)).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
        };
        let expected = all.iter().map(|(name, var)| dot(name, var)).sum::<f64>();
        assert!((measured - expected).abs() <= 1e-4 * expected.abs(), "{name}: {measured} and {expected}");
    }
}
