//! `y = act(x Wᵀ + b)`, with weights that may be frozen and low-rank updates.

use super::chain::Chain;
use super::gemm::{Norm, Onto, Packed, Product, View};
use super::gradients::Parameters;
use super::scratch::with_packed;
use super::{Activation, LowRank, Numbers, columns, int8, is_fused, slice};
use candle_core::{CpuStorage, CustomOp2, D, DType, Device, Layout, Result, Shape, Tensor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A linear map in checkpoint layout: weight (outputs, inputs), bias (outputs).
///
/// Weight, bias and low-rank updates are trained each for itself: what is a candle variable, or computed from one, gets
/// a gradient, and what is frozen costs none. A frozen weight is packed for the kernel at its first use on the CPU;
/// any other is packed at each call.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    /// The parameters that make up the weight one below the other, if it is not one itself.
    parts: Arc<Vec<Tensor>>,
    bias: Option<Tensor>,
    low_rank: Arc<Vec<LowRank>>,
    packed: Arc<OnceLock<Arc<Packed>>>,
    /// The weight in 8 bits, in the place of `weight`, which then says no more than shape and device.
    int8: Option<Arc<int8::Weight>>,
    /// Whether the packed weight is the only copy, and `weight` says no more than shape and device.
    compact: bool,
    /// The weight packed for the gradient of the input, where the packed weight is the only copy.
    turned: Arc<OnceLock<Arc<Packed>>>,
}

/// Whether frozen weights are kept packed.
static KEEP: AtomicBool = AtomicBool::new(true);

/// Says whether frozen weights stay packed after their first use: a second copy, which repeated small batches need and
/// training with little memory does not. Results are the same.
pub fn keep_packed(keep: bool) {
    KEEP.store(keep, Ordering::Relaxed);
}

impl Linear {
    /// A map with this weight (outputs, inputs) and bias (outputs).
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight,
            parts: Arc::default(),
            bias,
            low_rank: Arc::default(),
            packed: Arc::default(),
            int8: None,
            compact: false,
            turned: Arc::default(),
        }
    }

    /// A map whose weight is these parameters (some outputs, inputs) one below the other.
    pub fn stacked(parts: Vec<Tensor>) -> Result<Self> {
        let weight = Tensor::cat(&parts, 0)?.detach();
        Ok(Self { parts: Arc::new(parts), ..Self::new(weight, None) })
    }

    /// A map whose weight is packed for the kernel of the CPU, with no other copy of it.
    pub fn of_packed(packed: Packed, bias: Option<Tensor>) -> Result<Self> {
        let (k, n) = packed.shape();
        let weight = Tensor::zeros((1, 1), DType::F32, &Device::Cpu)?.broadcast_as((n, k))?;
        Ok(Self { packed: Arc::new(OnceLock::from(Arc::new(packed))), compact: true, ..Self::new(weight, bias) })
    }

    /// The same map with this bias (outputs), and the same packed weight.
    pub fn with_bias(self, bias: Option<Tensor>) -> Self {
        Self { bias, ..self }
    }

    /// The same map with these updates in place of those that it had.
    pub fn with_low_rank(self, updates: Vec<LowRank>) -> Self {
        Self { low_rank: Arc::new(updates), ..self }
    }

    /// The same map in 8-bit integers, which no gradient flows through. A map on another device, one that is trained, and
    /// one whose weight has numbers that are not finite stay as they are.
    pub fn quantized(self) -> Result<Self> {
        if !is_fused(&self.weight) || self.is_trained() || !self.low_rank.is_empty() {
            return Ok(self);
        }
        let (n, k) = self.weight.dims2()?;
        let Some(int8) = int8::Weight::new(&Numbers::of(&self.weight.contiguous()?)?, n, k) else { return Ok(self) };
        Ok(Self { weight: shape_of(&self.weight)?, packed: Arc::default(), int8: Some(Arc::new(int8)), ..self })
    }

    /// The same map, packed at once for the kernel of the CPU, with no other copy of the weight. A map on another device
    /// and one that is trained stay as they are.
    pub fn compact(self) -> Result<Self> {
        if !is_fused(&self.weight) || self.is_trained() || self.int8.is_some() {
            return Ok(self);
        }
        self.packed()?;
        Ok(Self { weight: shape_of(&self.weight)?, compact: true, ..self })
    }

    /// Whether it computes in 8-bit integers.
    pub fn is_quantized(&self) -> bool {
        self.int8.is_some()
    }

    /// The weight's numbers, (outputs, inputs), without low-rank updates; made anew where it is kept in another form.
    pub fn numbers(&self) -> Result<Tensor> {
        let numbers = match (&self.int8, self.packed.get()) {
            (Some(int8), _) => int8.dequantized(),
            (None, Some(packed)) if self.compact => packed.unpacked(),
            _ if !self.parts.is_empty() => return Tensor::cat(&self.parts, 0),
            _ => return Ok(self.weight.clone()),
        };
        Tensor::from_vec(numbers, self.weight.dims(), self.weight.device())
    }

    /// The weight, (outputs, inputs), of which shape, kind and device may be read, and nothing else: see
    /// [`Linear::numbers`].
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, (outputs).
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The low-rank updates.
    pub fn low_rank(&self) -> &[LowRank] {
        &self.low_rank
    }

    /// The weight with all low-rank updates in it, (outputs, inputs).
    pub fn merged(&self) -> Result<Tensor> {
        self.low_rank.iter().try_fold(self.numbers()?, |weight, update| {
            let (outputs, inputs) = weight.dims2()?;
            let zeros = |rows| Tensor::zeros((rows, inputs), weight.dtype(), weight.device());
            let rows = &update.rows;
            &weight + Tensor::cat(&[&zeros(rows.start)?, &update.update()?, &zeros(outputs - rows.end)?], 0)?
        })
    }

    /// `act(x Wᵀ + b)` for `x` of shape (…, inputs); returns (…, outputs).
    pub fn forward(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        if !is_fused(x) || !is_fused(&self.weight) {
            return act.composed(&self.composed(x)?);
        }
        Chain::new(None, self, act, None).forward(x, None, None)
    }

    /// `x Wᵀ + b + residual`, the residual in the shape of the result.
    pub fn forward_onto(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        if !is_fused(x) || !is_fused(&self.weight) {
            return residual + self.composed(x)?;
        }
        Chain::new(None, self, Activation::Identity, None).forward(x, Some(residual), None)
    }

    /// The same map from candle's differentiable ops: the reference, and the path of other devices.
    pub fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let rows = x.elem_count() / inputs.max(1);
        let flat = x.reshape((rows, inputs))?;
        let mut y = flat.matmul(&self.numbers()?.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        for update in self.low_rank.iter() {
            let zeros = |columns| Tensor::zeros((rows, columns), y.dtype(), y.device());
            let (before, after) = (zeros(update.rows.start)?, zeros(outputs - update.rows.end)?);
            y = (&y + Tensor::cat(&[&before, &update.composed(&flat)?, &after], 1)?)?;
        }
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(outputs);
        y.reshape(shape)
    }

    /// Whether a gradient flows to the weight, the bias or an update.
    pub fn is_trained(&self) -> bool {
        self.parameters().iter().any(|parameter| parameter.track_op())
    }

    /// All parameters.
    pub(super) fn parameters(&self) -> Vec<&Tensor> {
        let updates = self.low_rank.iter().flat_map(|update| [&update.a, &update.b]);
        self.weights().iter().chain(&self.bias).chain(updates).collect()
    }

    /// The parameters that make up the weight.
    fn weights(&self) -> &[Tensor] {
        if self.parts.is_empty() { std::slice::from_ref(&self.weight) } else { &self.parts }
    }

    fn trains_weight(&self) -> bool {
        self.weights().iter().any(Tensor::track_op)
    }

    /// The same map with contiguous parameters.
    pub(super) fn contiguous(&self) -> Result<Self> {
        let weight = [&self.weight].into_iter().take(usize::from(self.has_tensor()));
        let others = self.parameters().into_iter().skip(self.weights().len());
        if weight.chain(others).all(|parameter| parameter.is_contiguous()) {
            return Ok(self.clone());
        }
        let update = |update: &LowRank| -> Result<LowRank> {
            Ok(LowRank { a: update.a.contiguous()?, b: update.b.contiguous()?, ..update.clone() })
        };
        Ok(Self {
            weight: if self.has_tensor() { self.weight.contiguous()? } else { self.weight.clone() },
            bias: self.bias.as_ref().map(Tensor::contiguous).transpose()?,
            low_rank: Arc::new(self.low_rank.iter().map(update).collect::<Result<_>>()?),
            ..self.clone()
        })
    }

    /// Whether the weight is kept as a tensor.
    fn has_tensor(&self) -> bool {
        !self.compact && self.int8.is_none()
    }

    /// The seeds of the updates' dropouts as they are now.
    pub(super) fn seeds(&self) -> Vec<u64> {
        self.low_rank.iter().map(LowRank::seed).collect()
    }

    /// The weight in the kernel's layout.
    pub(super) fn packed(&self) -> Result<Arc<Packed>> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed.clone());
        }
        let (n, k) = self.weight.dims2()?;
        let packed = Arc::new(Packed::from_weight(&Numbers::of(&self.numbers()?.contiguous()?)?, n, k));
        Ok(self.packed.get_or_init(|| packed).clone())
    }

    /// `onto + act(norm(x) Wᵀ + b)` for rows of inputs; parameters must be contiguous, `onto` not the output.
    pub(super) fn make(
        &self,
        x: &[f32],
        norm: Option<Norm<'_>>,
        seeds: &[u64],
        act: Activation,
        onto: Onto<'_>,
    ) -> Result<Vec<f32>> {
        if self.low_rank.is_empty() {
            return match &self.int8 {
                Some(_) => self.int8_product(x, |product| int8::Product { norm, act, onto, ..product }.make()),
                None => self.product(x, |product| Product { norm, act, onto, ..product }.make()),
            };
        }
        let mut out = vec![0.0; x.len() / self.inputs() * self.outputs()];
        self.write(x, norm, seeds, act, &mut out)?;
        match onto {
            Onto::Numbers(numbers) => out.iter_mut().zip(numbers).for_each(|(out, number)| *out += number),
            Onto::Nothing | Onto::Output => {}
        }
        Ok(out)
    }

    /// `onto + second(act(norm(x) Wᵀ + b))`, if both maps are in 8 bits and nothing else.
    pub(super) fn make_through(
        &self,
        x: &[f32],
        norm: Option<Norm<'_>>,
        act: Activation,
        second: &Self,
        onto: Onto<'_>,
    ) -> Option<Result<Vec<f32>>> {
        let plain = |linear: &Self| linear.int8.is_some() && linear.low_rank.is_empty();
        (plain(self) && plain(second)).then(|| {
            self.int8_product(x, |first| {
                second.int8_product(&[], |second| {
                    int8::Product { norm, act, ..first }.make_through(int8::Product { onto, ..second })
                })
            })?
        })
    }

    /// Writes `act(norm(x) Wᵀ + b)`.
    pub(super) fn write(
        &self,
        x: &[f32],
        norm: Option<Norm<'_>>,
        seeds: &[u64],
        act: Activation,
        out: &mut [f32],
    ) -> Result<()> {
        let n = self.outputs();
        if self.low_rank.is_empty() {
            return match &self.int8 {
                Some(_) => self.int8_product(x, |product| int8::Product { norm, act, ..product }.run(out)),
                None => self.product(x, |product| Product { norm, act, ..product }.run(out, n)),
            };
        }
        let normed = norm.map(|norm| norm.rows(x));
        let x = normed.as_deref().unwrap_or(x);
        match &self.int8 {
            Some(_) => self.int8_product(x, |product| product.run(out))?,
            None => self.product(x, |product| product.run(out, n))?,
        }
        for (update, seed) in self.low_rank.iter().zip(seeds) {
            update.add(x, *seed, out, n)?;
        }
        act.apply_parallel(out);
        Ok(())
    }

    /// Calls `run` with `x Wᵀ + b`.
    fn product<T>(&self, x: &[f32], run: impl FnOnce(Product<'_>) -> T) -> Result<T> {
        let (n, k) = self.weight.dims2()?;
        let bias = self.bias.as_ref().map(Numbers::of).transpose()?;
        let of = |packed: &Packed| {
            run(Product { bias: bias.as_deref(), ..Product::new(View::rows(x, k), x.len() / k.max(1), packed) })
        };
        let kept = KEEP.load(Ordering::Relaxed) && !self.trains_weight();
        if kept || self.packed.get().is_some() {
            return Ok(of(&*self.packed()?));
        }
        let weight = Numbers::of(&self.weight)?;
        Ok(with_packed(|packed| {
            packed.fill(View::turned(&weight, k), k, n, Activation::Identity);
            of(packed)
        }))
    }

    /// The same in 8 bits.
    fn int8_product<T>(&self, x: &[f32], run: impl FnOnce(int8::Product<'_>) -> T) -> Result<T> {
        let bias = self.bias.as_ref().map(Numbers::of).transpose()?;
        let Some(weight) = &self.int8 else { candle_core::bail!("a map without 8-bit weights") };
        Ok(run(int8::Product { bias: bias.as_deref(), ..int8::Product::new(x, weight) }))
    }

    fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    fn inputs(&self) -> usize {
        self.weight.dims()[1].max(1)
    }

    /// The gradients of the parameters for outputs' gradients `grad` and inputs `act(x)`.
    pub(super) fn parameter_gradients(
        &self,
        x: &[f32],
        act: Activation,
        grad: &[f32],
        parameters: &Parameters,
    ) -> Result<()> {
        let (n, k) = self.weight.dims2()?;
        let rows = grad.len() / n.max(1);
        if self.trains_weight() {
            // dW = dyᵀ x
            let dw = with_packed(|packed| {
                packed.fill(View::rows(x, k), rows, k, act);
                Product::new(View::turned(grad, n), n, packed).make()
            });
            let dw = Tensor::from_vec(dw, (n, k), self.weight.device())?;
            let mut first = 0;
            for part in self.weights() {
                let rows = part.dim(0)?;
                if part.track_op() {
                    parameters.give_tensor(part, dw.narrow(0, first, rows)?)?;
                }
                first += rows;
            }
        }
        match &self.bias {
            Some(bias) if bias.track_op() => parameters.give(bias, columns::sum(grad, n)),
            _ => Ok(()),
        }
    }

    /// The inputs' gradient `onto + grad · W`, without low-rank updates: calls `run` with it.
    pub(super) fn input_gradient<T>(&self, grad: &[f32], run: impl FnOnce(Product<'_>) -> T) -> Result<T> {
        let (n, k) = self.weight.dims2()?;
        let of = |packed: &Packed| run(Product::new(View::rows(grad, n), grad.len() / n.max(1), packed));
        if let (true, Some(packed)) = (self.compact, self.packed.get()) {
            return Ok(of(self.turned.get_or_init(|| Arc::new(packed.turned()))));
        }
        let numbers = self.numbers()?;
        let weight = Numbers::of(&numbers)?;
        Ok(with_packed(|packed| {
            packed.fill(View::rows(&weight, k), n, k, Activation::Identity);
            of(packed)
        }))
    }
}

/// A tensor of the same shape, kind and device without numbers of its own.
fn shape_of(weight: &Tensor) -> Result<Tensor> {
    Tensor::zeros((1, 1), weight.dtype(), weight.device())?.broadcast_as(weight.shape())
}

/// `y + b` over the last dimension.
pub(super) fn add_bias(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
    y.contiguous()?.apply_op2(&bias.contiguous()?, AddBias)
}

/// The sum of all rows of a (…, n) tensor, in a fixed order.
pub(super) fn sum_rows(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if is_fused(x) {
        let x = x.contiguous()?;
        return Tensor::from_vec(columns::sum(&Numbers::of(&x)?, width), width, x.device());
    }
    let rows = x.elem_count() / width.max(1);
    // candle's own reduction over leading dimensions divides twice for each number.
    Tensor::ones((1, rows), x.dtype(), x.device())?.matmul(&x.reshape((rows, width))?)?.squeeze(0)
}

struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add_bias"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (mut out, bias) = (slice(y, ly)?.to_vec(), slice(b, lb)?);
        super::pool::chunks(&mut out, bias.len() * 64, |_, rows| {
            for row in rows.chunks_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        });
        Ok((CpuStorage::F32(out), ly.shape().clone()))
    }

    fn bwd(&self, y: &Tensor, bias: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((y.track_op().then(|| grad.clone()), bias.track_op().then(|| sum_rows(grad)).transpose()?))
    }
}
