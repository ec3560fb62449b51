//! What lies between two sums of a transformer: `[residual +] fc2(act(fc1(norm(x))))`, all but `fc1` optional, as one
//! node of the tape.
//!
//! What is cheap to compute again is not kept: the normalised input and the activations, of which only the input,
//! before the function, stays. The gradient of the stream of tokens is added to in place.

use super::gemm::{Norm, Onto, Product};
use super::gradients::Parameters;
use super::layer_norm::{self, LayerNorm};
use super::scratch::{Buffer, buffer};
use super::{Activation, Linear, Numbers, is_fused, slice};
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// `residual + fc2(act(fc1(norm(x))))` for `x` of shape (…, inputs), without what is `None`.
pub fn mlp(
    x: &Tensor,
    norm: Option<&LayerNorm>,
    fc1: &Linear,
    act: Activation,
    fc2: Option<&Linear>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let chain = Chain::new(norm, fc1, act, fc2);
    if is_fused(x) && is_fused(fc1.weight()) { chain.forward(x, residual, None) } else { chain.composed(x, residual) }
}

/// Carries the gradient of a sum past a branch, from where the branch ends to where it began: candle's tape would make
/// zeros and add both to them.
#[derive(Clone, Debug, Default)]
pub struct Bypass(Arc<Mutex<Option<Tensor>>>);

impl Bypass {
    fn put(&self, gradient: Tensor) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }

    fn take(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// `linear(norm(x))`, where a branch beside `x` begins that [`rejoin`] ends.
pub fn branch(x: &Tensor, norm: Option<&LayerNorm>, linear: &Linear, bypass: &Bypass) -> Result<Tensor> {
    let chain = Chain::new(norm, linear, Activation::Identity, None);
    match is_fused(x) && is_fused(linear.weight()) {
        true => chain.forward(x, None, Some(Past::Begins(bypass.clone()))),
        false => chain.composed(x, None),
    }
}

/// `x + linear(norm(y))`, where a branch `y` that [`branch`] began comes back to `x`.
pub fn rejoin(y: &Tensor, norm: Option<&LayerNorm>, linear: &Linear, x: &Tensor, bypass: &Bypass) -> Result<Tensor> {
    let chain = Chain::new(norm, linear, Activation::Identity, None);
    match is_fused(y) && is_fused(linear.weight()) {
        true => chain.forward(y, Some(x), Some(Past::Ends(bypass.clone()))),
        false => chain.composed(y, Some(x)),
    }
}

/// Which end of a branch a chain is.
#[derive(Clone)]
pub(super) enum Past {
    Begins(Bypass),
    Ends(Bypass),
}

#[derive(Clone)]
pub(super) struct Chain {
    norm: Option<LayerNorm>,
    first: Linear,
    act: Activation,
    second: Option<Linear>,
}

impl Chain {
    pub(super) fn new(norm: Option<&LayerNorm>, first: &Linear, act: Activation, second: Option<&Linear>) -> Self {
        Self { norm: norm.cloned(), first: first.clone(), act, second: second.cloned() }
    }

    /// The same function from candle's differentiable ops.
    fn composed(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let normed = self.norm.as_ref().map(|norm| norm.composed(x)).transpose()?;
        let mut y = self.act.composed(&self.first.composed(normed.as_ref().unwrap_or(x))?)?;
        if let Some(second) = &self.second {
            y = second.composed(&y)?;
        }
        match residual {
            Some(residual) => residual + y,
            None => Ok(y),
        }
    }

    /// Applies it to `x`, f32 numbers on the CPU.
    pub(super) fn forward(&self, x: &Tensor, residual: Option<&Tensor>, past: Option<Past>) -> Result<Tensor> {
        let chain = Self {
            norm: match &self.norm {
                Some(norm) => {
                    let (weight, bias) = (norm.weight.contiguous()?, norm.bias.contiguous()?);
                    Some(LayerNorm { weight, bias, eps: norm.eps })
                }
                None => None,
            },
            first: self.first.contiguous()?,
            act: self.act,
            second: self.second.as_ref().map(Linear::contiguous).transpose()?,
        };
        chain.check(x, residual)?;
        let residual_place = match residual {
            None => Residual::None,
            Some(residual) if residual.id() == x.id() => Residual::Input,
            Some(_) => Residual::Other,
        };
        let nothing = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        let other = match residual {
            Some(residual) if residual_place == Residual::Other => residual.contiguous()?,
            _ => nothing,
        };
        let parameters = Parameters::default();
        let bundle = parameters.bundle(&chain.parameters())?;
        let x = x.contiguous()?;
        let tracked = x.track_op() || other.track_op() || bundle.track_op();
        let seeds = [Some(&chain.first), chain.second.as_ref()].map(|linear| linear.map_or(Vec::new(), Linear::seeds));
        let hidden = OnceLock::new();
        let op = Fused { chain, residual: residual_place, past, parameters, tracked, seeds, hidden };
        x.apply_op3(&other, &bundle, op)
    }

    fn parameters(&self) -> Vec<&Tensor> {
        let norm = self.norm.iter().flat_map(|norm| [&norm.weight, &norm.bias]);
        let linears = [Some(&self.first), self.second.as_ref()].into_iter().flatten().flat_map(Linear::parameters);
        norm.chain(linears).filter(|parameter| parameter.track_op()).collect()
    }

    /// The number of outputs.
    fn outputs(&self) -> Result<usize> {
        self.second.as_ref().unwrap_or(&self.first).weight().dim(0)
    }

    fn check(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<()> {
        let (hidden, inputs) = self.first.weight().dims2()?;
        let fits = self.second.as_ref().is_none_or(|second| second.weight().dims().last() == Some(&hidden));
        let norm = self.norm.as_ref().is_none_or(|norm| norm.weight.elem_count() == inputs);
        if x.dims().last() != Some(&inputs) || !fits || !norm {
            candle_core::bail!("linear maps from {inputs} numbers on input {:?}", x.dims());
        }
        let shape = output_shape(x.shape(), self.outputs()?);
        match residual {
            Some(residual) if residual.dims() != shape.dims() => {
                candle_core::bail!("a residual of {:?} for {:?}", residual.dims(), shape.dims())
            }
            _ => Ok(()),
        }
    }

    /// Calls `f` with the norm of the input, if there is one.
    fn with_norm<T>(&self, f: impl FnOnce(Option<Norm<'_>>) -> Result<T>) -> Result<T> {
        let Some(norm) = &self.norm else { return f(None) };
        let (weight, bias) = (Numbers::of(&norm.weight)?, Numbers::of(&norm.bias)?);
        f(Some(Norm { weight: &weight, bias: &bias, eps: norm.eps }))
    }

    /// The normalised input, if there is a norm.
    fn normed(&self, x: &[f32]) -> Result<Option<Buffer>> {
        self.with_norm(|norm| Ok(norm.map(|norm| norm.rows(x))))
    }
}

fn output_shape(input: &Shape, outputs: usize) -> Shape {
    let mut dims = input.dims().to_vec();
    dims.pop();
    dims.push(outputs);
    dims.into()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Residual {
    None,
    /// The chain's own input.
    Input,
    /// Another tensor.
    Other,
}

struct Fused {
    chain: Chain,
    residual: Residual,
    past: Option<Past>,
    parameters: Parameters,
    tracked: bool,
    seeds: [Vec<u64>; 2],
    /// The input of the activation, if the backward needs it.
    hidden: OnceLock<Vec<f32>>,
}

impl Fused {
    fn run(&self, x: &[f32], residual: Option<&[f32]>) -> Result<Vec<f32>> {
        let Chain { first, act, second, .. } = &self.chain;
        let onto = residual.map_or(Onto::Nothing, Onto::Numbers);
        let [first_seeds, second_seeds] = &self.seeds;
        let keeps = self.tracked && *act != Activation::Identity;
        if second.is_none() && !keeps {
            return self.chain.with_norm(|norm| first.make(x, norm, first_seeds, *act, onto));
        }
        if let (Some(second), false) = (second, keeps) {
            let through = self.chain.with_norm(|norm| first.make_through(x, norm, *act, second, onto).transpose())?;
            if let Some(out) = through {
                return Ok(out);
            }
        }
        let mut lent = None;
        if keeps {
            let kept =
                self.chain.with_norm(|norm| first.make(x, norm, first_seeds, Activation::Identity, Onto::Nothing))?;
            let copy = lent.insert(buffer(kept.len()));
            act.write_parallel(&kept, copy);
            let _ = self.hidden.set(kept);
        } else {
            let (width, inputs) = first.weight().dims2()?;
            let out = lent.insert(buffer(x.len() / inputs.max(1) * width));
            self.chain.with_norm(|norm| first.write(x, norm, first_seeds, *act, out))?;
        }
        let hidden = lent.as_deref().unwrap_or_default();
        match (second, residual) {
            (Some(second), _) => second.make(hidden, None, second_seeds, Activation::Identity, onto),
            (None, Some(residual)) => Ok(hidden.iter().zip(residual).map(|(y, residual)| y + residual).collect()),
            (None, None) => Ok(hidden.to_vec()),
        }
    }

    fn backward(&self, x: &[f32], grad: &[f32], wants_input: bool) -> Result<Option<Vec<f32>>> {
        let Chain { norm, first, act, second } = &self.chain;
        let hidden = self.hidden.get();
        let mut inner = None;
        if let Some(second) = second {
            let z: &[f32] = match hidden {
                Some(hidden) => hidden,
                None => candle_core::bail!("nothing was kept for the backward of an mlp"),
            };
            second.parameter_gradients(z, *act, grad, &self.parameters)?;
            let needs = self.needs_first(wants_input);
            let (mut dz, width) = (buffer(z.len()), second.weight().dim(1)?);
            if needs {
                second.input_gradient(grad, |product| product.run(&mut dz, width))?;
            }
            if !second.low_rank().is_empty() {
                let mut a = buffer(z.len());
                act.write_parallel(z, &mut a);
                for (update, seed) in second.low_rank().iter().zip(&self.seeds[1]) {
                    let stride = second.weight().dim(0)?;
                    update.backward(&a, *seed, grad, stride, needs.then_some(&mut *dz), &self.parameters)?;
                }
            }
            if !needs {
                return Ok(None);
            }
            act.times_derivative_parallel(z, &mut dz);
            inner = Some(dz);
        } else if let Some(z) = hidden {
            let mut dz = buffer(z.len());
            dz.copy_from_slice(grad);
            act.times_derivative_parallel(z, &mut dz);
            inner = Some(dz);
        }
        let through = inner.as_deref().unwrap_or(grad);
        {
            let normed = self.chain.normed(x)?;
            let input = normed.as_deref().unwrap_or(x);
            first.parameter_gradients(input, Activation::Identity, through, &self.parameters)?;
        }
        let trains_norm = norm.as_ref().is_some_and(|norm| norm.weight.track_op() || norm.bias.track_op());
        let wants_inside = wants_input || trains_norm;
        // The input's gradient starts as that of the sum which it is a part of.
        let past = match &self.past {
            Some(Past::Begins(bypass)) => bypass.take(),
            _ => None,
        };
        let past = past.as_ref().map(Numbers::of).transpose()?;
        let sum = if self.residual == Residual::Input { Some(grad) } else { past.as_deref() };
        let (mut dx, mut dh) = (Vec::new(), None);
        let width = first.weight().dim(1)?;
        if norm.is_none() {
            let onto = sum.map_or(Onto::Nothing, Onto::Numbers);
            if wants_inside {
                dx = first.input_gradient(through, |product| Product { onto, ..product }.make())?;
            }
        } else if wants_inside {
            dx = sum.map_or_else(|| vec![0.0; x.len()], <[f32]>::to_vec);
            let dh = dh.insert(buffer(x.len()));
            first.input_gradient(through, |product| product.run(dh, width))?;
        }
        let target = dh.as_deref_mut().unwrap_or(&mut dx);
        if !first.low_rank().is_empty() {
            let (normed, stride) = (self.chain.normed(x)?, first.weight().dim(0)?);
            for (update, seed) in first.low_rank().iter().zip(&self.seeds[0]) {
                let input = normed.as_deref().unwrap_or(x);
                let dx = wants_inside.then_some(&mut *target);
                update.backward(input, *seed, through, stride, dx, &self.parameters)?;
            }
        }
        if let (Some(norm), Some(dh), true) = (norm, &dh, wants_inside) {
            let weight = Numbers::of(&norm.weight)?;
            let sums = layer_norm::backward(x, &weight, norm.eps, dh, &mut dx, sum.is_some(), trains_norm);
            if let Some((dweight, dbias)) = sums {
                for (parameter, gradient) in [(&norm.weight, dweight), (&norm.bias, dbias)] {
                    if parameter.track_op() {
                        self.parameters.give(parameter, gradient)?;
                    }
                }
            }
        }
        Ok(wants_input.then_some(dx))
    }

    /// Whether a gradient must reach the first map's outputs.
    fn needs_first(&self, wants_input: bool) -> bool {
        let norm = self.chain.norm.as_ref();
        wants_input
            || self.chain.first.is_trained()
            || norm.is_some_and(|norm| norm.weight.track_op() || norm.bias.track_op())
    }
}

impl CustomOp3 for Fused {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        other: &CpuStorage,
        lo: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, lx)?;
        let residual = match self.residual {
            Residual::None => None,
            Residual::Input => Some(x),
            Residual::Other => Some(slice(other, lo)?),
        };
        Ok((CpuStorage::F32(self.run(x, residual)?), output_shape(lx.shape(), self.chain.outputs()?)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        other: &Tensor,
        bundle: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = self.backward(&Numbers::of(x)?, &Numbers::of(&grad)?, x.track_op())?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?;
        let other = match &self.past {
            Some(Past::Ends(bypass)) if other.track_op() => {
                bypass.put(grad.clone());
                None
            }
            _ => other.track_op().then(|| grad.clone()),
        };
        Ok((dx, other, bundle.track_op().then(|| bundle.zeros_like()).transpose()?))
    }
}
