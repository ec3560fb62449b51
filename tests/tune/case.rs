//! What the tests of few-shot methods share: the tiny checkpoints, the images that `tests/golden/trajectory.py` makes of a
//! formula, and the cases of `tests/golden/tune.py`.

use candle_core::{DType, Device, Tensor};
use clip_cli::model::{Clip, LoadOptions, ModelFiles};
use clip_cli::text::{TemplateSet, templates};
use clip_cli::tune::method::{Batch, Images, Method, Options, Sees, Tensors};
use clip_cli::tune::photos::Support;
use clip_cli::tune::{Entry, Task, method};
use serde_json::Value;
use std::path::PathBuf;

/// How many images a batch has.
pub(super) const BATCH: usize = 6;

pub(super) fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

/// A checkpoint, as a method needs it.
pub(super) fn open(checkpoint: &str, dtype: DType, entry: &Entry, options: &Options) -> Clip {
    let load = LoadOptions { dtype, ..LoadOptions::default() };
    let mut clip = Clip::open(ModelFiles::open(&data(checkpoint)).unwrap(), &load).unwrap();
    entry.check(&clip).unwrap();
    if let Some(prepare) = entry.prepare {
        prepare(&mut clip, options).unwrap();
    }
    clip
}

/// The images of a step.
pub(super) fn pixels(task: &Task<'_>, step: usize) -> Tensor {
    let side = task.clip.preprocess().size[0];
    let mut bytes = Vec::new();
    for n in 0..BATCH {
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let value = |c: usize| n * 37 + x * 7 + y * 13 + c * 29 + step * 11 + n * x * y / 5;
            bytes.extend((0..3).map(|c| (value(c) % 256) as u8));
        }
    }
    let normal: Vec<f32> = bytes.chunks(3 * side * side).flat_map(|x| task.clip.preprocess().normalize(x)).collect();
    task.tensor(normal, &[BATCH, 3, side, side]).unwrap()
}

/// What the frozen tower makes of them.
pub(super) fn features(task: &Task<'_>, step: usize) -> Tensor {
    task.clip.image().unwrap().forward(&pixels(task, step)).unwrap().detach()
}

pub(super) fn labels(task: &Task<'_>, step: usize) -> Vec<u32> {
    (0..BATCH).map(|n| ((n + step) % task.classes()) as u32).collect()
}

/// Some steps as what a method learns from at once.
pub(super) fn support(task: &Task<'_>, steps: &[usize]) -> Support {
    let rows: Vec<Tensor> = steps.iter().map(|&step| features(task, step)).collect();
    let labels = steps.iter().flat_map(|&step| labels(task, step)).collect();
    Support { labels, views: vec![Tensor::cat(&rows, 0).unwrap()] }
}

/// The batch of a step, as a method sees it.
pub(super) fn batch(entry: &Entry, task: &Task<'_>, step: usize) -> Batch {
    let (index, labels) = ((0..BATCH as u32).collect(), labels(task, step));
    let classes: Vec<u32> = (0..task.classes() as u32).collect();
    match entry.sees {
        Sees::Texts => {
            let none = task.tensor(Vec::new(), &[0, 0]).unwrap();
            Batch { index: classes.clone(), labels: classes, images: Images::Features(none) }
        }
        Sees::Unlabelled => Batch { index, labels: Vec::new(), images: Images::Features(features(task, step)) },
        Sees::Features => Batch { index, labels, images: Images::Features(features(task, step)) },
        Sees::Pixels => Batch { index, labels, images: Images::Pixels(pixels(task, step)) },
    }
}

/// What a method says of the images of a step, (images, classes).
pub(super) fn logits(entry: &Entry, task: &Task<'_>, method: &dyn Method, step: usize) -> Tensor {
    let features = match entry.sees {
        Sees::Pixels => method.features(task, &pixels(task, step)).unwrap(),
        _ => features(task, step),
    };
    let texts = method.texts(task).unwrap();
    method.logits(task, &texts, &features).unwrap().detach()
}

/// Several templates, or one.
pub(super) fn template_set(all: &[&str]) -> TemplateSet {
    match all {
        [one] => TemplateSet::single(one).unwrap(),
        _ => {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("templates.json");
            std::fs::write(&path, serde_json::to_vec(all).unwrap()).unwrap();
            templates::load(path.to_str().unwrap()).unwrap()
        }
    }
}

/// A case of `tune.json`.
pub(super) struct Golden {
    pub(super) about: Value,
    tensors: Tensors,
}

impl Golden {
    pub(super) fn all() -> Vec<Self> {
        let all = std::fs::read(data("tune.json")).unwrap();
        let all: Vec<Value> = serde_json::from_slice(&all).unwrap();
        let read = |about: Value| {
            let mut tensors = Tensors::new();
            for file in about["files"].as_array().unwrap() {
                let path = data("tune").join(file.as_str().unwrap());
                tensors.extend(candle_core::safetensors::load(path, &Device::Cpu).unwrap());
            }
            Self { about, tensors }
        };
        all.into_iter().map(read).collect()
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.about[name].as_str().unwrap()
    }

    /// The registry's entry. An ensemble is zero-shot with several templates.
    pub(super) fn entry(&self) -> &'static Entry {
        let name = self.text("method");
        method::entry(if name == "ensemble" { "zeroshot" } else { name }).unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.about["classes"].as_array().unwrap().iter().map(|x| x.as_str().unwrap().to_owned()).collect()
    }

    /// The steps whose images a setting names.
    pub(super) fn steps(&self, setting: &str) -> Option<Vec<usize>> {
        let steps = self.about["settings"][setting].as_array()?;
        Some(steps.iter().map(|step| step.as_u64().unwrap() as usize).collect())
    }

    pub(super) fn templates(&self) -> TemplateSet {
        let settings = &self.about["settings"];
        match settings["templates"].as_array() {
            Some(all) => template_set(&all.iter().map(|x| x.as_str().unwrap()).collect::<Vec<_>>()),
            None => template_set(&[settings["template"].as_str().unwrap_or(self.text("template"))]),
        }
    }

    /// What a command line would say.
    pub(super) fn options(&self) -> Options {
        let (settings, entry) = (&self.about["settings"], self.entry());
        let own = |name: &str| entry.options.iter().any(|setting| setting.name == name);
        let numbers = settings.as_object().unwrap().iter().filter_map(|(name, x)| Some((name.clone(), x.as_f64()?)));
        let mut said: Vec<(String, f64)> = numbers.filter(|(name, _)| own(name)).collect();
        said.extend(own("mlp").then(|| ("mlp".to_owned(), f64::from(settings["encoder"] == "mlp"))));
        said.extend(own("dropout").then(|| ("dropout".to_owned(), 0.0)));
        let mut options = Options::new(entry, &said, 0).unwrap();
        options.ctx_init = Some(settings["init"].as_str().unwrap_or_default().to_owned());
        options.n_ctx = settings["n_ctx"].as_u64().map(|n| n as usize);
        if settings["zeros"].is_number() {
            options.n_ctx = self.get("param/ctx").map(|ctx| ctx.dim(0).unwrap());
        }
        options.place = serde_json::from_value(settings["position"].clone()).unwrap_or_default();
        options.class_specific = settings["class_specific"] == true;
        options
    }

    /// A tensor of the case.
    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{}/{name}", self.text("name")))
    }

    /// All of a kind, by the name behind it.
    pub(super) fn of(&self, kind: &str) -> Tensors {
        let prefix = format!("{}/{kind}/", self.text("name"));
        let own = self.tensors.iter().filter_map(|(name, x)| Some((name.strip_prefix(&prefix)?.to_owned(), x.clone())));
        own.collect()
    }
}

/// The largest difference.
pub(super) fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    largest(&(wide(a) - wide(b)).unwrap())
}

/// The largest of all numbers, without signs.
pub(super) fn largest(x: &Tensor) -> f64 {
    let numbers = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    numbers.iter().fold(0.0, |most, x| if x.is_nan() { f64::INFINITY } else { x.abs().max(most) })
}
