//! A student of another checkpoint (Yang et al. 2024, CLIP-KD): its logits, its embeddings, and contrast with them.

use super::apart::apart;
use super::contrast::{mean, needed, negative_entropy, scaled_cosines, softmax};
use super::cross_entropy::{Axis, Targets, cross_entropy};
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs, Setting, Settings};
use crate::error::{Error, Result};
use crate::ops::normalize;
use candle_core::{D, Device, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub(super) static ENTRY: Entry = Entry {
    name: "distill",
    equation: "a·KL(softmax(teacher) ‖ softmax(student)) both ways + b·mean|P(embedding) − teacher's|² + c·½ CE(scale'·cos of P(embedding) with the teacher's other modality)",
    source: "Yang et al. 2024, arXiv 2307.12732; winycg/CLIP-KD, src/open_clip/loss.py (CRD, FD, ICL)",
    fidelity: Fidelity::Style(
        "scale' is the exponential of a parameter; the authors' code multiplies by the parameter. P, a trained projection, only if the lengths differ",
    ),
    needs: Needs { teacher: true, ..Needs::NONE },
    options: &[
        Setting { name: "logits", default: 1.0, range: (0.0, 1e6), help: "a" },
        Setting { name: "features", default: 2000.0, range: (0.0, 1e9), help: "b" },
        Setting { name: "cross", default: 1.0, range: (0.0, 1e6), help: "c" },
    ],
    build: |settings| {
        let [logits, features, cross] = ["logits", "features", "cross"].map(|name| settings.get(name));
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let mut projection = || Projection::new(settings, &mut rng);
        let projections = match settings.teacher_dim {
            0 => None,
            dim if dim == settings.dim => None,
            _ => Some([projection()?, projection()?]),
        };
        let log_scale = Var::new((1.0f32 / 0.07).ln(), &Device::Cpu)?;
        Ok(Box::new(Distill { logits, features, cross, log_scale, projections }))
    },
};

struct Distill {
    logits: f64,
    features: f64,
    cross: f64,
    log_scale: Var,
    /// Of images and of texts, to the teacher's length.
    projections: Option<[Projection; 2]>,
}

struct Projection {
    weight: Var,
    bias: Var,
}

impl Projection {
    /// Uniform within 1/√inputs, as torch starts linear layers.
    fn new(settings: &Settings, rng: &mut ChaCha8Rng) -> Result<Self> {
        let (outputs, inputs) = (settings.teacher_dim, settings.dim);
        let bound = 1.0 / (inputs.max(1) as f32).sqrt();
        let mut draw = |count: usize| -> Vec<f32> {
            (0..count).map(|_| ((rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0) * bound).collect()
        };
        let weight = Var::from_vec(draw(outputs * inputs), (outputs, inputs), &Device::Cpu)?;
        Ok(Self { weight, bias: Var::from_vec(draw(outputs), outputs, &Device::Cpu)? })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.to_device(x.device())?.to_dtype(x.dtype())?;
        let bias = self.bias.to_device(x.device())?.to_dtype(x.dtype())?;
        Ok(x.matmul(&weight.t()?)?.broadcast_add(&bias)?)
    }
}

impl Objective for Distill {
    fn params(&self) -> Vec<(String, Var)> {
        let mut params = vec![("log_scale".to_owned(), self.log_scale.clone())];
        for (side, projection) in ["image", "text"].iter().zip(self.projections.iter().flatten()) {
            params.push((format!("{side}_proj.weight"), projection.weight.clone()));
            params.push((format!("{side}_proj.bias"), projection.bias.clone()));
        }
        params
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let teacher = needed(pairs.teacher.as_ref(), "distill", "a teacher")?;
        let (hidden, shares) = (pairs.relation().hidden(), pairs.shares()?);
        let (there_x, there_y) = (normalize(&teacher.images)?.detach(), normalize(&teacher.texts)?.detach());

        let (own_x, own_y, own_scale) = (normalize(&pairs.images)?, normalize(&pairs.texts)?, head.scale()?);
        let mut divergence = Tensor::zeros((), own_x.dtype(), own_x.device())?;
        for (axis, a, b) in [(Axis::Rows, &there_x, &there_y), (Axis::Columns, &there_y, &there_x)] {
            let one_way = apart([&own_x, &own_y, &own_scale], |[x, y, scale]| {
                let soft = softmax(&(a.matmul(&b.t()?)? * teacher.scale)?, hidden.as_ref())?;
                let entropy = negative_entropy(&soft)?;
                let student = x.broadcast_mul(&scale)?.matmul(&y.t()?)?;
                let rows = cross_entropy(&student, &Targets::Soft(soft), hidden.as_ref(), axis)?;
                mean(&(rows + entropy)?, &shares)
            })?;
            divergence = (divergence + one_way)?;
        }

        let (x, y) = match &self.projections {
            Some([of_images, of_texts]) => (of_images.apply(&pairs.images)?, of_texts.apply(&pairs.texts)?),
            None => (pairs.images.clone(), pairs.texts.clone()),
        };
        let (long, theirs) = (x.dim(1)?, there_x.dim(1)?);
        if long != theirs {
            return Err(Error::run(format!("the teacher's embeddings have length {theirs}, not {long}")));
        }
        let near = |x: &Tensor, there: &Tensor| Ok::<_, Error>((normalize(x)? - there)?.sqr()?.mean(D::Minus1)?);
        let near = mean(&(near(&x, &there_x)? + near(&y, &there_y)?)?, &shares)?;

        let scale = self.log_scale.to_device(x.device())?.to_dtype(x.dtype())?.exp()?;
        let contrast = |x: &Tensor, there: &Tensor| {
            apart([x, &scale], |[x, scale]| {
                let logits = scaled_cosines(&x, there, &scale)?;
                mean(&cross_entropy(&logits, &Targets::Diagonal, hidden.as_ref(), Axis::Rows)?, &shares)
            })
        };
        let contrast = (contrast(&x, &there_y)? + contrast(&y, &there_x)?)?;
        let sum = ((divergence * (0.5 * self.logits))? + (near * self.features)?)?;
        Ok((sum + (contrast * (0.5 * self.cross))?)?)
    }
}
