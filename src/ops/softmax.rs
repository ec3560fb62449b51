//! Softmax over the last dimension.

use super::sigmoid::FallingExp;
use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rten_simd::ops::{BitOps, FloatOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp, SimdUnaryOp};

/// `exp(x) / Σ exp(x)` over the last dimension, shifted by the maximum.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if is_fused(x) { x.contiguous()?.apply_op1(Fused) } else { composed(x) }
}

/// The same function from candle's differentiable ops. No gradient flows through the shift, which cancels.
pub fn composed(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// Softmax of the first `seen(i)` numbers of each row `i`, in place; the others become 0.
pub(super) fn rows(x: &mut [f32], width: usize, seen: impl Fn(usize) -> usize) {
    Rows { x, width, seen }.dispatch();
}

struct Rows<'a, F> {
    x: &'a mut [f32],
    width: usize,
    seen: F,
}

impl<F: Fn(usize) -> usize> SimdOp for Rows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let least = ops.splat(f32::NEG_INFINITY);
        for (i, row) in self.x.chunks_mut(self.width).enumerate() {
            let (row, hidden) = row.split_at_mut((self.seen)(i));
            hidden.fill(0.0);
            let mut largest = least;
            for x in row.chunks(ops.len()) {
                let (x, mask) = ops.load_pad(x);
                largest = ops.max(largest, ops.select(x, least, mask));
            }
            let largest = ops.splat(largest.to_array().into_iter().fold(f32::NEG_INFINITY, f32::max));
            let mut sum = ops.zero();
            for x in row.chunks_mut(ops.len()) {
                let (value, mask) = ops.load_pad(x);
                let value = ops.select(FallingExp.eval(isa, ops.sub(value, largest)), ops.zero(), mask);
                sum = ops.add(sum, value);
                // SAFETY: the mask keeps the store within the chunk.
                unsafe { ops.store_ptr_mask(value, x.as_mut_ptr(), mask) };
            }
            let scale = ops.splat(ops.sum(sum).recip());
            for x in row.chunks_mut(ops.len()) {
                let (value, mask) = ops.load_pad(x);
                // SAFETY: as above.
                unsafe { ops.store_ptr_mask(ops.mul(value, scale), x.as_mut_ptr(), mask) };
            }
        }
    }
}

/// Softmax down each of `width` columns, two vectors side by side, in place. A column has the first `seen` of its numbers, all without
/// that, but for those of rows that are not marked; the others become 0, as do all of a column that has none.
pub(super) fn columns(x: &mut [f32], width: usize, seen: Option<&[f32]>, marks: Option<&[bool]>) {
    assert!(x.len().is_multiple_of(width) && seen.is_none_or(|seen| seen.len() == width), "columns");
    assert!(marks.is_none_or(|marks| marks.len() >= x.len() / width), "a mark for each row");
    Columns { x, width, seen, marks }.dispatch();
}

struct Columns<'a> {
    x: &'a mut [f32],
    width: usize,
    seen: Option<&'a [f32]>,
    marks: Option<&'a [bool]>,
}

/// So low that its exponential is 0, like that of −∞, which a kernel need not expect.
pub(super) const HIDDEN: f32 = -1e30;

impl SimdOp for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let len = ops.len();
        assert_eq!(self.width, 2 * len, "a panel");
        if let Some(marks) = self.marks {
            let rows = self.x.chunks_mut(self.width).zip(marks).filter(|(_, marked)| !**marked);
            rows.for_each(|(row, _)| row.fill(HIDDEN));
        }
        if let Some(seen) = self.seen {
            let seen = [ops.load(seen), ops.load(&seen[len..])];
            let hidden = ops.splat(HIDDEN);
            for (i, row) in self.x.chunks_exact_mut(self.width).enumerate() {
                let at = ops.splat(i as f32);
                let (left, right) = row.split_at_mut(len);
                ops.store(ops.select(ops.load(left), hidden, ops.lt(at, seen[0])), left);
                ops.store(ops.select(ops.load(right), hidden, ops.lt(at, seen[1])), right);
            }
        }
        let mut most = [ops.splat(HIDDEN); 2];
        for row in self.x.chunks_exact(self.width) {
            most[0] = ops.max(ops.load(row), most[0]);
            most[1] = ops.max(ops.load(&row[len..]), most[1]);
        }
        // Nothing is exp(0) where all is hidden.
        let (zero, floor) = (ops.zero(), ops.splat(HIDDEN / 2.0));
        for most in &mut most {
            *most = ops.select(zero, *most, ops.lt(*most, floor));
        }
        let mut sums = [zero; 2];
        for row in self.x.chunks_exact_mut(self.width) {
            let (left, right) = row.split_at_mut(len);
            let value = FallingExp.eval(isa, ops.sub(ops.load(left), most[0]));
            sums[0] = ops.add(sums[0], value);
            ops.store(value, left);
            let value = FallingExp.eval(isa, ops.sub(ops.load(right), most[1]));
            sums[1] = ops.add(sums[1], value);
            ops.store(value, right);
        }
        for sum in &mut sums {
            *sum = ops.select(zero, ops.div(ops.one(), *sum), ops.eq(*sum, zero));
        }
        for row in self.x.chunks_exact_mut(self.width) {
            let (left, right) = row.split_at_mut(len);
            ops.store(ops.mul(ops.load(left), sums[0]), left);
            ops.store(ops.mul(ops.load(right), sums[1]), right);
        }
    }
}

/// Turns `grad` of a softmax's output `y` into the gradient of its input, for one row: `(g - Σ g y) y`.
pub(super) fn row_backward(y: &[f32], grad: &mut [f32]) {
    let dot: f32 = y.iter().zip(grad.iter()).map(|(y, g)| y * g).sum();
    grad.iter_mut().zip(y).for_each(|(g, y)| *g = (*g - dot) * y);
}

struct Fused;

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = slice(storage, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        pool::chunks(&mut out, width * 64, |_, rows| self::rows(rows, width, |_| width));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = super::to_vec(grad)?;
        let width = x.dim(D::Minus1)?.max(1);
        super::with_slice(y, |y| {
            pool::chunks(&mut out, width * 64, |i, rows| {
                for (r, grad) in rows.chunks_mut(width).enumerate() {
                    row_backward(&y[(i * 64 + r) * width..][..width], grad);
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(out, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sets::Set;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let draw = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
        (0..count as u32).map(|i| (draw(i) as f32 / (1 << 23) as f32 - 1.0) * 20.0).collect()
    }

    #[test]
    fn every_set_computes_the_definition_and_hides_the_rest() {
        for (set, width) in
            Set::available().into_iter().flat_map(|set| [1, 3, 16, 17, 50, 77].map(|width| (set, width)))
        {
            let x = numbers(9 * width, width as u32);
            let seen = |i: usize| 1 + i * 7 % width;
            let mut y = x.clone();
            set.run(Rows { x: &mut y, width, seen });
            for (i, (x, y)) in x.chunks(width).zip(y.chunks(width)).enumerate() {
                let (x, (y, hidden)) = (&x[..seen(i)], y.split_at(seen(i)));
                let largest = x.iter().fold(f64::NEG_INFINITY, |most, x| most.max(f64::from(*x)));
                let exp: Vec<f64> = x.iter().map(|x| (f64::from(*x) - largest).exp()).collect();
                let sum: f64 = exp.iter().sum();
                for (y, exp) in y.iter().zip(exp) {
                    let want = exp / sum;
                    // What is subtracted rounds once, and up to 40 counts that often in the result.
                    assert!((f64::from(*y) - want).abs() <= 5e-6 * want, "{set:?} {width}: {y} for {want}");
                }
                assert!(hidden.iter().all(|y| *y == 0.0), "{set:?} {width}");
            }
        }
    }

    #[test]
    fn in_every_set_columns_are_the_definition_and_hide_the_rest() {
        let cases = Set::available().into_iter().flat_map(|set| [1, 3, 50].map(|height| (set, height)));
        for ((set, height), (part, marked)) in
            cases.flat_map(|case| [(false, false), (true, false), (false, true), (true, true)].map(|mask| (case, mask)))
        {
            let width = 2 * set.len();
            let x = numbers(height * width, height as u32);
            let seen: Vec<f32> = (0..width).map(|column| (column * 7 % (height + 1)) as f32).collect();
            let marks: Vec<bool> = (0..height).map(|row| row % 3 != 1).collect();
            let (seen, marks) = (part.then_some(&seen[..]), marked.then_some(&marks[..]));
            let mut y = x.clone();
            set.run(Columns { x: &mut y, width, seen, marks });
            for column in 0..width {
                let count = seen.map_or(height, |seen| seen[column] as usize);
                let shown = |row: usize| row < count && marks.is_none_or(|marks| marks[row]);
                let number = |row: usize| f64::from(x[row * width + column]);
                let most = (0..height).filter(|row| shown(*row)).map(number).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..height).filter(|row| shown(*row)).map(|row| (number(row) - most).exp()).sum();
                for row in 0..height {
                    let (got, want) = (y[row * width + column], (number(row) - most).exp() / sum);
                    match shown(row) {
                        true => assert!((f64::from(got) - want).abs() <= 5e-6 * want, "{set:?}: {got} for {want}"),
                        false => assert_eq!(got, 0.0, "{set:?}, row {row}, column {column}"),
                    }
                }
            }
        }
    }

    #[test]
    fn in_every_set_what_is_masked_by_minus_infinity_weighs_nothing() {
        for set in Set::available() {
            let mut x = numbers(40, 1);
            x.iter_mut().step_by(3).for_each(|x| *x = f32::NEG_INFINITY);
            set.run(Rows { x: &mut x, width: 20, seen: |_| 20 });
            assert!(x.iter().step_by(3).all(|y| *y == 0.0), "{set:?}");
            assert!(x.chunks(20).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6), "{set:?}");
        }
    }
}
