//! Gradients of parameters, without the copies that candle's tape makes of them.
//!
//! candle's `backward` writes zeros for each parameter and adds its gradient into a third buffer. Our ops hand
//! gradients of variables straight to the [`Gradients`] whose `backward` runs on this thread, which add in place over
//! micro-batches; and without one through the tape, as candle expects.
//!
//! candle ops have three inputs at most. Ours take their parameters as one more input, a number that depends on all
//! of them (`Parameters::bundle`): when its turn in the tape comes, it hands out what the op left for each.

use super::{is_fused, pool, with_slice, with_slice_mut};
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, TensorId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    static ACTIVE: RefCell<Option<HashMap<TensorId, Option<Tensor>>>> = const { RefCell::new(None) };
}

/// Gradients of some variables, summed over the calls of [`Gradients::backward`].
#[derive(Debug, Default)]
pub struct Gradients {
    all: HashMap<TensorId, Option<Tensor>>,
}

impl Gradients {
    /// Gradients of these variables, none yet.
    pub fn of<'a>(variables: impl IntoIterator<Item = &'a Tensor>) -> Self {
        Self { all: variables.into_iter().map(|variable| (variable.id(), None)).collect() }
    }

    /// Adds the gradient of `value`, a single number.
    ///
    /// # Errors
    /// What an op's backward fails with. What was added until then stays.
    pub fn backward(&mut self, value: &Tensor) -> Result<()> {
        let outer = ACTIVE.replace(Some(std::mem::take(&mut self.all)));
        let result = value.backward();
        self.all = ACTIVE.replace(outer).unwrap_or_default();
        let store = result?;
        for (id, sum) in &mut self.all {
            if let Some(gradient) = store.get_id(*id) {
                accumulate(sum, gradient.clone())?;
            }
        }
        Ok(())
    }

    /// The gradient of a variable, if one has flowed to it.
    pub fn get(&self, variable: &Tensor) -> Option<&Tensor> {
        self.all.get(&variable.id())?.as_ref()
    }

    /// Takes the gradient of a variable; the next [`Gradients::backward`] starts it anew.
    pub fn take(&mut self, variable: &Tensor) -> Option<Tensor> {
        self.all.get_mut(&variable.id())?.take()
    }
}

fn accumulate(sum: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        None => gradient,
        Some(sum) if is_fused(&sum) && sum.is_contiguous() && storage(&sum) != storage(&gradient) => {
            let gradient = gradient.contiguous()?;
            with_slice(&gradient, |from| {
                with_slice_mut(&sum, |to| {
                    pool::chunks(to, CHUNK, |i, to| {
                        to.iter_mut().zip(&from[i * CHUNK..]).for_each(|(sum, x)| *sum += x);
                    });
                })
            })??;
            sum
        }
        Some(sum) => (sum + gradient)?,
    });
    Ok(())
}

/// Where a tensor's numbers are: what two tensors share, if they share any.
fn storage(x: &Tensor) -> *const candle_core::Storage {
    &raw const *x.storage_and_layout().0
}

/// How many numbers one thread takes at a time.
const CHUNK: usize = 1 << 16;

/// Gradients that an op has computed and the tape has not asked for yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters(Arc<Mutex<HashMap<TensorId, Tensor>>>);

impl Parameters {
    /// Keeps or delivers the gradient of a parameter.
    pub(super) fn give(&self, parameter: &Tensor, gradient: Vec<f32>) -> Result<()> {
        self.give_tensor(parameter, Tensor::from_vec(gradient, parameter.shape(), parameter.device())?)
    }

    /// The same for a gradient that is a tensor.
    pub(super) fn give_tensor(&self, parameter: &Tensor, gradient: Tensor) -> Result<()> {
        if parameter.is_variable() {
            let added = ACTIVE.with_borrow_mut(|active| match active {
                Some(all) => {
                    all.get_mut(&parameter.id()).map_or(Ok(()), |sum| accumulate(sum, gradient.clone())).map(|()| true)
                }
                None => Ok(false),
            })?;
            if added {
                return Ok(());
            }
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gradient = match kept.remove(&parameter.id()) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        kept.insert(parameter.id(), gradient);
        Ok(())
    }

    /// A tensor of one number through which the tape reaches these parameters; tracked if one of them is.
    pub(super) fn bundle(&self, parameters: &[&Tensor]) -> Result<Tensor> {
        let mut bundle = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
        for pair in parameters.chunks(2) {
            bundle = bundle.apply_op3(pair[0], pair[pair.len() - 1], Bundle(self.clone()))?;
        }
        Ok(bundle)
    }

    fn take(&self, parameter: &Tensor) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&parameter.id())
    }
}

struct Bundle(Parameters);

impl CustomOp3 for Bundle {
    fn name(&self) -> &'static str {
        "parameters"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(
        &self,
        rest: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // The same parameter may stand in both places: the first has taken what there was.
        Ok((rest.track_op().then(|| grad.clone()), self.0.take(a), self.0.take(b)))
    }
}

/// What `run` makes of `x`, without keeping anything for the backward but `x`: it runs again when the gradient comes.
///
/// Only within [`Gradients::backward`], which collects what flows to the variables that `run` uses.
pub fn checkpoint(x: &Tensor, run: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Result<Tensor> {
    struct Op<F>(F);
    impl<F: Fn(&Tensor) -> Result<Tensor> + Send + Sync> candle_core::CustomOp2 for Op<F> {
        fn name(&self) -> &'static str {
            "checkpoint"
        }

        fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, y: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
            Ok((CpuStorage::F32(super::slice(y, l)?.to_vec()), l.shape().clone()))
        }

        fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let input = candle_core::Var::from_tensor(&x.detach())?;
            let y = (self.0)(&input)?;
            let store = (y * g)?.sum_all()?.backward()?;
            let inside = ACTIVE.with_borrow_mut(|active| {
                let all = active.as_mut()?;
                Some(all.iter_mut().try_for_each(|(id, sum)| match store.get_id(*id) {
                    Some(gradient) => accumulate(sum, gradient.clone()),
                    None => Ok(()),
                }))
            });
            match inside {
                Some(added) => added?,
                None => candle_core::bail!("a checkpoint needs `ops::Gradients::backward`"),
            }
            Ok((store.get(&input).cloned(), None))
        }
    }
    let y = run(&x.detach())?.detach();
    x.apply_op2(&y, Op(run))
}
