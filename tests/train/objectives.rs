//! Every objective of the registry against PyTorch (`tests/golden/objectives.py`), finite differences, and its promises.

use candle_core::{DType, Device, Tensor, Var, safetensors};
use clip_cli::train::negatives::Columns;
use clip_cli::train::objective::{
    Duplicates, Embeddings, Entry, Head, Negatives, OBJECTIVES, Objective, Pairs, Progress, Settings, Tokens, entry,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[path = "objectives/blocks.rs"]
mod blocks;
#[path = "objectives/rules.rs"]
mod rules;
#[path = "objectives/sums.rs"]
mod sums;

type Tensors = BTreeMap<String, Tensor>;

/// What has a gradient, objectives' own parameters apart.
const LEAVES: [&str; 8] =
    ["images", "texts", "neg_texts", "neg_images", "token_images", "token_texts", "log_scale", "bias"];

struct Golden {
    tensors: Tensors,
    cases: serde_json::Map<String, Value>,
}

fn golden() -> Golden {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data");
    let tensors = safetensors::load(data.join("objectives.safetensors"), &Device::Cpu).unwrap();
    let cases = std::fs::read_to_string(data.join("objectives.json")).unwrap();
    Golden { tensors: tensors.into_iter().collect(), cases: serde_json::from_str(&cases).unwrap() }
}

/// One case: an objective with settings on some batches.
struct Case<'a> {
    name: &'a str,
    about: &'a Value,
    tensors: &'a Tensors,
}

impl Golden {
    fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        self.cases.iter().map(|(name, about)| Case { name, about, tensors: &self.tensors })
    }
}

/// A batch whose leaves are variables.
struct Batch {
    leaves: BTreeMap<&'static str, Var>,
    pairs: Pairs,
    head: Head,
}

impl Case<'_> {
    fn entry(&self) -> &'static Entry {
        entry(self.about["objective"].as_str().unwrap()).unwrap()
    }

    fn steps(&self) -> usize {
        self.about["steps"].as_u64().unwrap() as usize
    }

    fn flag(&self, name: &str) -> bool {
        self.about[name].as_bool().unwrap()
    }

    fn expected(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{}/{key}", self.name))
    }

    fn objective(&self) -> Box<dyn Objective> {
        let set = self.about["settings"].as_object().unwrap();
        let set: Vec<(&str, f64)> = set.iter().map(|(k, v)| (k.as_str(), v.as_f64().unwrap())).collect();
        let teacher_dim = self.about["teacher"].as_u64().unwrap() as usize;
        let sizes = sizes(teacher_dim);
        let objective = (self.entry().build)(&Settings::of(self.entry(), &set, &sizes).unwrap()).unwrap();
        for (name, var) in objective.params() {
            if let Some(value) = self.expected(&format!("param.{name}")) {
                var.set(&value.to_dtype(DType::F32).unwrap()).unwrap();
            }
        }
        objective
    }

    fn batch(&self, step: usize, dtype: DType) -> Batch {
        let raw = |key: &str| self.tensors[&format!("batch{step}.{key}")].clone();
        let number = |key: &str| raw(key).to_dtype(dtype).unwrap();
        let flags =
            |key: &str| raw(key).flatten_all().unwrap().to_vec1::<u8>().unwrap().iter().map(|x| *x != 0).collect();
        let ids = |key: &str| raw(key).to_vec1::<i64>().unwrap();
        let leaves: BTreeMap<_, _> = LEAVES.map(|key| (key, Var::from_tensor(&number(key)).unwrap())).into();
        let leaf = |key: &str| leaves[key].as_tensor().clone();
        let other = |name: &str, neg_texts: Option<Tensor>, scale| Embeddings {
            images: number(&format!("{name}_images")),
            texts: number(&format!("{name}_texts")),
            neg_texts,
            scale,
        };
        let negatives =
            |key: &str, there: &str| Negatives { embeddings: leaf(key), there: flags(there), fits: Vec::new() };
        let pairs = Pairs {
            images: leaf("images"),
            texts: leaf("texts"),
            neg_texts: Some(negatives("neg_texts", "neg_there")),
            neg_images: self.flag("neg_images").then(|| negatives("neg_images", "neg_images_there")),
            tokens: Some(Tokens { images: leaf("token_images"), texts: leaf("token_texts"), words: flags("words") }),
            // The first batch alone has some.
            extra: (self.flag("extra") && step == 0).then(|| {
                ["images", "texts"].map(|side| Columns {
                    shared: Some(number(&format!("shared_of_{side}"))),
                    own: Some(number(&format!("own_of_{side}"))),
                    there: flags(&format!("extra_there_of_{side}")),
                })
            }),
            start: Some(other("start", None, 10.0)),
            ema: Some(other("ema", Some(number("ema_neg_texts")), 10.0)),
            teacher: Some(other(&format!("teacher{}", self.about["teacher"]), None, 20.0)),
            index: ids("index").into_iter().map(|x| x as u32).collect(),
            image_ids: ids("image_ids").into_iter().map(|x| x as u64).collect(),
            keys: Vec::new(),
            labels: self.flag("labels").then(|| ids("labels").into_iter().map(|x| x as u32).collect()),
            same: flags("same"),
            duplicates: match self.about["duplicates"].as_str().unwrap() {
                "mask" => Duplicates::Mask,
                "multi" => Duplicates::Multi,
                _ => Duplicates::Off,
            },
            weights: self
                .flag("weights")
                .then(|| raw("weights").to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()),
            progress: Progress { step, steps: 3, epoch_steps: 2 },
        };
        let head = Head { log_scale: leaf("log_scale"), bias: self.flag("bias").then(|| leaf("bias")) };
        Batch { leaves, pairs, head }
    }
}

fn sizes(teacher_dim: usize) -> Settings {
    let mut sizes = Settings::default();
    (sizes.samples, sizes.batch, sizes.dim, sizes.teacher_dim, sizes.seed) = (9, 6, 12, teacher_dim, 3);
    sizes
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::from_seed([7; 32])
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// How far two tensors are apart, in parts of the larger one's length.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = length(&mut a.iter().zip(b).map(|(a, b)| a - b));
    difference / length(&mut a.iter().copied()).max(length(&mut b.iter().copied())).max(1e-12)
}

/// The worst distance of values and gradients from PyTorch, over all steps of a case, and where it is.
fn worst(case: &Case, dtype: DType) -> (f64, String) {
    let (mut objective, mut rng, mut worst) = (case.objective(), rng(), (0.0, String::new()));
    let mut note = |what: String, apart: f64| {
        // NaN is the worst, and stays.
        if apart.is_nan() || apart > worst.0 {
            worst = (apart, what);
        }
    };
    for step in 0..case.steps() {
        let batch = case.batch(step, dtype);
        let value = objective.value(&batch.pairs, &batch.head, &mut rng).unwrap();
        assert_eq!((value.rank(), value.dtype()), (0, dtype), "{}", case.name);
        let expected = case.expected(&format!("{step}.value")).expect("a value");
        note(format!("value of step {step}"), distance(&numbers(&value), &numbers(expected)));
        let gradients = value.backward().unwrap();
        let params = objective.params();
        let params = params.iter().map(|(name, var)| (format!("param.{name}"), var));
        for (name, var) in batch.leaves.iter().map(|(name, var)| ((*name).to_owned(), var)).chain(params) {
            let got = gradients.get(var).map(numbers);
            let wanted = case.expected(&format!("{step}.d.{name}")).map(numbers);
            let zero = vec![0.0; var.elem_count()];
            let apart = match (&got, &wanted) {
                (None, None) => 0.0,
                // A parameter without a gradient would not be trained.
                (None, Some(wanted)) if name.starts_with("param.") => panic!("{}: {name}: {wanted:?}", case.name),
                _ => {
                    let (got, wanted) = (got.unwrap_or(zero.clone()), wanted.unwrap_or(zero));
                    // Against the value where a gradient is nothing but rounding.
                    let size = wanted.iter().chain(&got).fold(0.0f64, |most, x| most.max(x.abs()));
                    if size < 1e-9 { 0.0 } else { distance(&got, &wanted) }
                }
            };
            note(format!("gradient of {name} at step {step}"), apart);
        }
    }
    worst
}

#[test]
fn objectives_agree_with_pytorch() {
    let golden = golden();
    for entry in OBJECTIVES {
        let cases: Vec<_> = golden.cases().filter(|case| case.entry().name == entry.name).collect();
        assert!(cases.len() >= 2, "{} has no golden cases", entry.name);
        for case in cases {
            for (dtype, tolerance) in [(DType::F64, 1e-7), (DType::F32, 1e-5)] {
                let (apart, what) = worst(&case, dtype);
                assert!(apart <= tolerance, "{} in {dtype:?}: the {what} is {apart:.1e} off", case.name);
            }
        }
    }
}
