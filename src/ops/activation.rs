//! The point-wise functions between two linear maps.

use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rten_simd::SimdUnaryOp;
use rten_vecmath::{ApproxGelu, Gelu, Sigmoid, Silu, Swish, Tanh};

/// A point-wise function, named as checkpoints name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `x · σ(1.702 x)` (OpenAI CLIP).
    QuickGelu,
    /// `x · Φ(x)` with the error function (Hendrycks & Gimpel 2016).
    GeluErf,
    /// The tanh approximation of GELU (`gelu_pytorch_tanh`, `gelu_new`).
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x · σ(x)`
    Silu,
    /// `tanh(x)` (BERT's pooler)
    Tanh,
    /// `σ(x) = 1 / (1 + exp(-x))`
    Sigmoid,
}

const QUICK: f64 = 1.702;
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

impl Activation {
    /// The function that a Hugging Face `hidden_act` names, if we know it.
    pub fn from_hidden_act(name: &str) -> Option<Self> {
        Some(match name {
            "quick_gelu" => Self::QuickGelu,
            "gelu" | "gelu_python" => Self::GeluErf,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluTanh,
            "relu" => Self::Relu,
            "relu6" => Self::Relu6,
            "silu" | "swish" => Self::Silu,
            "tanh" => Self::Tanh,
            "sigmoid" => Self::Sigmoid,
            "linear" => Self::Identity,
            _ => return None,
        })
    }

    /// The name that a Hugging Face `hidden_act` gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "linear",
            Self::QuickGelu => "quick_gelu",
            Self::GeluErf => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::Silu => "silu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
        }
    }

    /// Applies the function to every number, in place.
    pub fn apply(self, x: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::QuickGelu => Swish { alpha: QUICK as f32 }.map_mut(x),
            Self::GeluErf => Gelu {}.map_mut(x),
            Self::GeluTanh => ApproxGelu {}.map_mut(x),
            Self::Relu => x.iter_mut().for_each(|x| *x = x.max(0.0)),
            Self::Relu6 => x.iter_mut().for_each(|x| *x = x.clamp(0.0, 6.0)),
            Self::Silu => Silu {}.map_mut(x),
            Self::Tanh => Tanh {}.map_mut(x),
            Self::Sigmoid => Sigmoid {}.map_mut(x),
        }
    }

    /// Applies the function to a tensor of any shape.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(x.clone()),
            _ if is_fused(x) => x.contiguous()?.apply_op1(Fused(self)),
            _ => self.composed(x),
        }
    }

    /// The same function from candle's differentiable ops: the reference, and the path of other devices.
    pub fn composed(self, x: &Tensor) -> Result<Tensor> {
        let sigmoid = |x: Tensor| (x.neg()?.exp()? + 1.0)?.recip();
        match self {
            Self::Identity => Ok(x.clone()),
            Self::QuickGelu => x * sigmoid((x * QUICK)?)?,
            Self::GeluErf => (x * 0.5)? * ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?,
            Self::GeluTanh => {
                let inner = ((x + ((x * x)? * x)? * CUBIC)? * SQRT_2_OVER_PI)?;
                (x * 0.5)? * (inner.tanh()? + 1.0)?
            }
            Self::Relu => x.relu(),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Silu => x * sigmoid(x.clone())?,
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x.clone()),
        }
    }

    /// Multiplies a gradient by the derivative at `x`, in place.
    fn times_derivative(self, x: &[f32], grad: &mut [f32]) {
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let pairs = grad.iter_mut().zip(x);
        match self {
            Self::Identity => {}
            Self::QuickGelu | Self::Silu => {
                let alpha = if self == Self::Silu { 1.0 } else { QUICK as f32 };
                pairs.for_each(|(g, &x)| {
                    let s = sigmoid(alpha * x);
                    *g *= s * (1.0 + alpha * x * (1.0 - s));
                });
            }
            Self::GeluErf => {
                // Φ(x) + x φ(x). Φ comes from the vectorised GELU's own error function.
                let mut phi: Vec<f32> = x.iter().map(|x| x * std::f32::consts::FRAC_1_SQRT_2).collect();
                rten_vecmath::Erf {}.map_mut(&mut phi);
                let scale = (0.5 * std::f32::consts::FRAC_2_SQRT_PI) * std::f32::consts::FRAC_1_SQRT_2;
                for ((g, &x), erf) in pairs.zip(phi) {
                    *g *= 0.5 * (1.0 + erf) + x * scale * (-0.5 * x * x).exp();
                }
            }
            Self::GeluTanh => {
                let (a, c) = (SQRT_2_OVER_PI as f32, CUBIC as f32);
                pairs.for_each(|(g, &x)| {
                    let t = (a * (x + c * x * x * x)).tanh();
                    *g *= 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * a * (1.0 + 3.0 * c * x * x);
                });
            }
            Self::Tanh => pairs.for_each(|(g, &x)| *g *= 1.0 - x.tanh() * x.tanh()),
            Self::Relu => pairs.for_each(|(g, &x)| *g = if x > 0.0 { *g } else { 0.0 }),
            Self::Sigmoid => pairs.for_each(|(g, &x)| *g *= sigmoid(x) * (1.0 - sigmoid(x))),
            Self::Relu6 => pairs.for_each(|(g, &x)| *g = if x > 0.0 && x < 6.0 { *g } else { 0.0 }),
        }
    }
}

/// How many numbers one thread takes at a time.
const CHUNK: usize = 1 << 14;

struct Fused(Activation);

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = slice(storage, layout)?.to_vec();
        pool::chunks(&mut out, CHUNK, |_, chunk| self.0.apply(chunk));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = super::to_vec(grad)?;
        super::with_slice(x, |x| {
            pool::chunks(&mut out, CHUNK, |i, grad| {
                self.0.times_derivative(&x[i * CHUNK..i * CHUNK + grad.len()], grad);
            });
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}
