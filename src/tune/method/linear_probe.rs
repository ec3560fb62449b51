//! A linear probe: logistic regression on what the image tower gives (Radford et al. 2021, appendix A.3).

use super::tip::broken;
use super::{Entry, Method, NONE, Needs, Options, Sees, Setting, Tensors};
use crate::error::{Error, Result};
use crate::eval::lbfgs::Stop;
use crate::eval::probe::{self, Sample};
use crate::ops::normalize;
use crate::tune::Task;
use crate::tune::photos::Support;
use candle_core::{DType, Device, Tensor};

pub(super) static ENTRY: Entry = Entry {
    name: "linear-probe",
    trains: "a linear classifier on image embeddings, to its optimum (L-BFGS)",
    source: "Radford et al. 2021, arXiv 2103.00020, appendix A.3; openai/CLIP: README.md",
    differs: Some("embeddings of unit length; the validation images choose C and are not trained on"),
    sees: Sees::Features,
    needs: Needs { image_tokens: false },
    new_classes: false,
    options: &[Setting {
        name: "C",
        default: 0.0,
        range: (0.0, 1e9),
        help: "the inverse strength of the penalty; 0: what does best on the validation images",
    }],
    recipe: NONE,
    prepare: None,
    build: |task, options| Ok(Box::new(LinearProbe::new(task, options))),
};

/// The strength where nothing was said and there are no validation images (openai/CLIP's README).
const USUAL_C: f64 = 0.316;

/// Few images let the optimum be met more closely than the sweep needs it.
const CLOSE: Stop = Stop { gradient: 1e-12, steps: 3000 };

struct LinearProbe {
    /// What was said; 0: nothing.
    c: f64,
    classes: usize,
    dim: usize,
    kind: (DType, Device),
    /// What was learnt: (classes, dim), (classes).
    learnt: Option<(Tensor, Tensor)>,
    /// The training images, until the strength is chosen.
    train: Option<Rows>,
}

/// Unit rows and their classes.
struct Rows {
    rows: Vec<f64>,
    dim: usize,
    labels: Vec<usize>,
}

impl Rows {
    fn of(support: &Support) -> Result<Self> {
        let unit = normalize(support.view(0)?)?.detach();
        let rows = unit.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        let labels = support.labels.iter().map(|&label| label as usize).collect();
        Ok(Self { rows, dim: unit.dim(1)?, labels })
    }

    fn sample(&self) -> Sample<'_, f64> {
        Sample { rows: &self.rows, dim: self.dim, labels: &self.labels }
    }
}

impl LinearProbe {
    fn new(task: &Task<'_>, options: &Options) -> Self {
        let kind = (task.dtype(), task.clip.store().device().clone());
        let (classes, dim) = (task.classes(), task.clip.spec.embed_dim);
        Self { c: options.get("C"), classes, dim, kind, learnt: None, train: None }
    }

    fn learn(&mut self, c: f64) -> Result<()> {
        let train = self.train.as_ref().ok_or_else(unfit)?;
        let found = probe::fit(&train.sample(), self.classes, c, CLOSE);
        let tensor = |numbers: Vec<f64>, shape: &[usize]| -> Result<Tensor> {
            Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(self.kind.0)?.to_device(&self.kind.1)?)
        };
        let weight = tensor(found.weights, &[self.classes, train.dim])?;
        self.learnt = Some((weight, tensor(found.intercepts, &[self.classes])?));
        Ok(())
    }
}

fn unfit() -> Error {
    Error::run("the linear probe has seen no training image yet")
}

impl Method for LinearProbe {
    /// The classes' weights: what people would write plays no part.
    fn texts(&self, _: &Task<'_>) -> Result<Tensor> {
        self.learnt.as_ref().map(|(weight, _)| weight.clone()).ok_or_else(unfit)
    }

    fn logits(&self, _: &Task<'_>, _: &Tensor, features: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.learnt.as_ref().ok_or_else(unfit)?;
        Ok(normalize(features)?.matmul(&weight.t()?)?.broadcast_add(bias)?)
    }

    fn fit(&mut self, _: &Task<'_>, support: &Support) -> Result<()> {
        self.train = Some(Rows::of(support)?);
        self.learn(if self.c > 0.0 { self.c } else { USUAL_C })
    }

    fn choose(&mut self, _: &Task<'_>, validation: &Support) -> Result<()> {
        if self.c > 0.0 || validation.labels.is_empty() {
            return Ok(());
        }
        let train = self.train.as_ref().ok_or_else(unfit)?;
        let found = probe::sweep(&train.sample(), &Rows::of(validation)?.sample(), self.classes);
        self.learn(found.c)
    }

    fn state(&self) -> Result<Tensors> {
        let Some((weight, bias)) = &self.learnt else { return Ok(Tensors::new()) };
        Ok(Tensors::from([("weight".to_owned(), weight.clone()), ("bias".to_owned(), bias.clone())]))
    }

    fn restore(&mut self, state: &Tensors) -> Result<()> {
        let part = |name: &str, shape: &[usize]| -> Result<Tensor> {
            let saved = state.get(name).filter(|x| x.dims() == shape);
            let saved = saved.ok_or_else(|| broken(&format!("has no `{name}` for {} classes", self.classes)))?;
            Ok(saved.to_dtype(self.kind.0)?.to_device(&self.kind.1)?)
        };
        self.learnt = Some((part("weight", &[self.classes, self.dim])?, part("bias", &[self.classes])?));
        Ok(())
    }
}
