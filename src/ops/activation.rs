//! The point-wise functions between two linear maps.

use super::sigmoid::{Sigmoid, Swish, TanhGelu};
use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, SimdOp, SimdUnaryOp};
use rten_vecmath::{Erf, Exp, Gelu, Tanh};

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
        if self != Self::Identity {
            self.choose(Everywhere(x));
        }
    }

    /// The same on whole registers, within a kernel.
    #[inline(always)]
    pub(super) fn apply_vectors<I: Isa>(self, isa: I, x: &mut [f32]) {
        debug_assert!(x.len().is_multiple_of(isa.f32().len()));
        if self != Self::Identity {
            self.choose(Registers(isa, x));
        }
    }

    /// Calls `with` with the function.
    #[inline(always)]
    pub(super) fn choose<W: With>(self, with: W) {
        match self {
            Self::Identity => with.call(Same),
            Self::QuickGelu => with.call(Swish(QUICK as f32)),
            Self::GeluErf => with.call(Gelu {}),
            Self::GeluTanh => with.call(TanhGelu),
            Self::Relu => with.call(Clamp(f32::INFINITY)),
            Self::Relu6 => with.call(Clamp(6.0)),
            Self::Silu => with.call(Swish(1.0)),
            Self::Tanh => with.call(Tanh {}),
            Self::Sigmoid => with.call(Sigmoid),
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

    /// The same as [`Activation::apply`], on the pool.
    pub(super) fn apply_parallel(self, x: &mut [f32]) {
        if self != Self::Identity {
            pool::chunks(x, CHUNK, |_, chunk| self.apply(chunk));
        }
    }

    /// Writes the function of every number to `to`, on the pool.
    pub(super) fn write_parallel(self, x: &[f32], to: &mut [f32]) {
        pool::chunks(to, CHUNK, |i, to| {
            to.copy_from_slice(&x[i * CHUNK..][..to.len()]);
            self.apply(to);
        });
    }

    /// The same as [`Activation::times_derivative`], on the pool.
    pub(super) fn times_derivative_parallel(self, x: &[f32], grad: &mut [f32]) {
        pool::chunks(grad, CHUNK, |i, grad| self.times_derivative(&x[i * CHUNK..][..grad.len()], grad));
    }

    /// Multiplies a gradient by the derivative at `x`, in place.
    pub(super) fn times_derivative(self, x: &[f32], grad: &mut [f32]) {
        assert_eq!(x.len(), grad.len(), "a gradient for each number");
        Backward { act: self, x, grad }.dispatch();
    }
}

/// What is done with a function, compiled for each.
pub(super) trait With {
    /// Does it.
    fn call(self, f: impl SimdUnaryOp<f32>);
}

/// Replaces each number.
struct Everywhere<'a>(&'a mut [f32]);

impl With for Everywhere<'_> {
    fn call(self, f: impl SimdUnaryOp<f32>) {
        f.map_mut(self.0);
    }
}

/// Replaces each of whole registers.
struct Registers<'a, I>(I, &'a mut [f32]);

impl<I: Isa> With for Registers<'_, I> {
    #[inline(always)]
    fn call(self, f: impl SimdUnaryOp<f32>) {
        let ops = self.0.f32();
        for x in self.1.chunks_exact_mut(ops.len()) {
            ops.store(f.eval(self.0, ops.load(x)), x);
        }
    }
}

struct Same;

impl SimdUnaryOp<f32> for Same {
    #[inline(always)]
    fn eval<I: Isa>(&self, _: I, x: I::F32) -> I::F32 {
        x
    }
}

/// Between zero and this.
struct Clamp(f32);

impl SimdUnaryOp<f32> for Clamp {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        ops.min(ops.max(x, ops.zero()), ops.splat(self.0))
    }
}

/// Multiplies gradients by derivatives, a vector at a time.
struct Backward<'a> {
    act: Activation,
    x: &'a [f32],
    grad: &'a mut [f32],
}

impl SimdOp for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let [one, half] = [1.0, 0.5].map(|x| ops.splat(x));
        match self.act {
            Activation::Identity => {}
            Activation::QuickGelu | Activation::Silu => {
                // σ (1 + α x (1 - σ)) with σ = σ(α x).
                let alpha = ops.splat(if self.act == Activation::Silu { 1.0 } else { QUICK as f32 });
                self.each(isa, |x, g| {
                    let x = ops.mul(alpha, x);
                    let s = Sigmoid.eval(isa, x);
                    ops.mul(g, ops.mul(s, ops.mul_add(x, ops.sub(one, s), one)))
                });
            }
            Activation::GeluErf => {
                // Φ(x) + x φ(x).
                let root = ops.splat(std::f32::consts::FRAC_1_SQRT_2);
                let density = ops.splat(0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
                self.each(isa, |x, g| {
                    let phi = ops.mul(half, ops.add(one, Erf::apply(isa, ops.mul(x, root))));
                    let bell = Exp::apply(isa, ops.neg(ops.mul(half, ops.mul(x, x))));
                    ops.mul(g, ops.mul_add(ops.mul(x, density), bell, phi))
                });
            }
            Activation::GeluTanh => {
                let [a, c, c3] = [SQRT_2_OVER_PI, CUBIC, 3.0 * CUBIC].map(|x| ops.splat(x as f32));
                self.each(isa, |x, g| {
                    let square = ops.mul(x, x);
                    let t = Tanh::apply(isa, ops.mul(a, ops.mul_add(ops.mul(c, square), x, x)));
                    let inner = ops.mul(a, ops.mul_add(c3, square, one));
                    let slope = ops.mul(ops.mul(x, ops.sub(one, ops.mul(t, t))), inner);
                    ops.mul(g, ops.mul(half, ops.add(ops.add(one, t), slope)))
                });
            }
            Activation::Tanh => self.each(isa, |x, g| {
                let t = Tanh::apply(isa, x);
                ops.mul(g, ops.sub(one, ops.mul(t, t)))
            }),
            Activation::Sigmoid => self.each(isa, |x, g| {
                let s = Sigmoid.eval(isa, x);
                ops.mul(g, ops.mul(s, ops.sub(one, s)))
            }),
            Activation::Relu => {
                self.grad.iter_mut().zip(self.x).for_each(|(g, &x)| *g = if x > 0.0 { *g } else { 0.0 })
            }
            Activation::Relu6 => {
                self.grad.iter_mut().zip(self.x).for_each(|(g, &x)| *g = if x > 0.0 && x < 6.0 { *g } else { 0.0 });
            }
        }
    }
}

impl Backward<'_> {
    /// Replaces each gradient by `f(x, gradient)`.
    #[inline(always)]
    fn each<I: Isa>(self, isa: I, f: impl Fn(I::F32, I::F32) -> I::F32) {
        let ops = isa.f32();
        for (x, grad) in self.x.chunks(ops.len()).zip(self.grad.chunks_mut(ops.len())) {
            let ((x, mask), (g, _)) = (ops.load_pad(x), ops.load_pad(grad));
            // SAFETY: the mask keeps the store within the chunk.
            unsafe { ops.store_ptr_mask(f(x, g), grad.as_mut_ptr(), mask) };
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
        self.0.apply_parallel(&mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = super::to_vec(grad)?;
        super::with_slice(x, |x| self.0.times_derivative_parallel(x, &mut out))?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sets::Set;
    use candle_core::{Device, Var};

    const ALL: [Activation; 9] = [
        Activation::Identity,
        Activation::QuickGelu,
        Activation::GeluErf,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Relu6,
        Activation::Silu,
        Activation::Tanh,
        Activation::Sigmoid,
    ];

    struct Whole<'a>(Activation, &'a mut [f32]);

    impl SimdOp for Whole<'_> {
        type Output = ();

        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            self.0.apply_vectors(isa, self.1);
        }
    }

    /// A function of some numbers and its derivative, from the composed formula in f64.
    struct Exact {
        y: Vec<f64>,
        slope: Vec<f64>,
    }

    fn exact(act: Activation, x: &[f32]) -> Result<Exact> {
        let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let var = Var::from_vec(wide, x.len(), &Device::Cpu)?;
        let y = act.composed(&var)?;
        let grads = y.backward()?;
        let slope = grads.get(&var).map_or_else(|| Ok(vec![1.0; x.len()]), |grad| grad.to_vec1())?;
        Ok(Exact { y: y.to_vec1()?, slope })
    }

    fn close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= tolerance * want.abs().max(1.0), "{what} {i}: {got} for {want}");
        }
    }

    #[test]
    fn every_set_computes_the_composed_formula_and_its_derivative() -> Result<()> {
        // None of them at a corner.
        let x: Vec<f32> = (-480..480).map(|i| i as f32 / 40.0 + 0.003).collect();
        for act in ALL {
            let exact = exact(act, &x)?;
            for set in Set::available() {
                let mut y = x.clone();
                set.run(Whole(act, &mut y));
                close(&y, &exact.y, 2e-6, &format!("{act:?} {set:?}"));
                // Odd lengths, too.
                for len in [x.len(), x.len() - 3, 1] {
                    let mut grad = vec![1.0; len];
                    set.run(Backward { act, x: &x[..len], grad: &mut grad });
                    close(&grad, &exact.slope[..len], 5e-6, &format!("{act:?}, its derivative, {set:?}"));
                }
            }
        }
        Ok(())
    }
}
