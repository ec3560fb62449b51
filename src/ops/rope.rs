//! Rotary positions (Su et al. 2021): queries and keys are turned by angles that depend on where their token is.

use super::{is_fused, pool, slice};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// The angles of every token: pair `i` of neighbouring numbers of each head is turned by the token's angle `i`.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Sines and cosines, (tokens, `half`).
    table: Arc<(Vec<f32>, Vec<f32>)>,
    /// Half the width of a head.
    half: usize,
}

impl Rotation {
    /// `angles` is (tokens, `half`) row by row, where `half` is half the width of a head. Angles of 0 leave a token
    /// alone.
    pub fn new(angles: &[f32], half: usize) -> Self {
        // Angles are f32, as the references have them; their sines are rounded once.
        let each = |f: fn(f64) -> f64| angles.iter().map(|&angle| f(f64::from(angle)) as f32).collect();
        Self { table: Arc::new((each(f64::sin), each(f64::cos))), half }
    }

    /// Turns queries and keys, not values: `qkv` is (items, tokens, 3 · width) as for self-attention.
    pub fn forward(&self, qkv: &Tensor) -> Result<Tensor> {
        let (_, tokens, width) = qkv.dims3()?;
        if tokens * self.half != self.table.0.len() || width % (6 * self.half) != 0 {
            candle_core::bail!("a rotation of {} angles for {:?}", self.table.0.len(), qkv.shape());
        }
        if is_fused(qkv) { qkv.contiguous()?.apply_op1(Fused(self.clone())) } else { self.composed(qkv) }
    }

    /// The same function from candle's differentiable ops: the reference, and the path of other devices.
    pub fn composed(&self, qkv: &Tensor) -> Result<Tensor> {
        let (items, tokens, width) = qkv.dims3()?;
        let width = width / 3;
        let pairs = qkv.narrow(2, 0, 2 * width)?.reshape((items, tokens, width / self.half, self.half, 2))?;
        let (a, b) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
        let table = |numbers: &[f32]| {
            Tensor::from_slice(numbers, (1, tokens, 1, self.half, 1), &candle_core::Device::Cpu)?
                .to_device(qkv.device())?
                .to_dtype(qkv.dtype())
        };
        let (sin, cos) = (table(&self.table.0)?, table(&self.table.1)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let turned = Tensor::cat(&[&first, &second], 4)?.reshape((items, tokens, 2 * width))?;
        Tensor::cat(&[&turned, &qkv.narrow(2, 2 * width, width)?], 2)
    }

    /// Turns the rows (items · tokens, `width`) of `x` in place, forwards (1) or backwards (−1).
    fn turn(&self, x: &mut [f32], width: usize, tokens: usize, direction: f32) {
        const ROWS: usize = 16;
        let (sin, cos) = (&self.table.0, &self.table.1);
        pool::chunks(x, ROWS * width, |chunk, rows| {
            for (r, row) in rows.chunks_mut(width).enumerate() {
                let at = (chunk * ROWS + r) % tokens * self.half;
                let (sin, cos) = (&sin[at..at + self.half], &cos[at..at + self.half]);
                for head in row[..width / 3 * 2].chunks_mut(2 * self.half) {
                    for ((pair, sin), cos) in head.chunks_exact_mut(2).zip(sin).zip(cos) {
                        let (a, b, sin) = (pair[0], pair[1], direction * sin);
                        pair[0] = a * cos - b * sin;
                        pair[1] = b * cos + a * sin;
                    }
                }
            }
        });
    }
}

struct Fused(Rotation);

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, tokens, width) = layout.shape().dims3()?;
        let mut out = slice(storage, layout)?.to_vec();
        self.0.turn(&mut out, width, tokens, 1.0);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        debug_assert_eq!(grad.dtype(), DType::F32);
        let (_, tokens, width) = qkv.dims3()?;
        // The transpose of a rotation turns back.
        let mut out = super::to_vec(grad)?;
        self.0.turn(&mut out, width, tokens, -1.0);
        Ok(Some(Tensor::from_vec(out, qkv.shape(), qkv.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Two items, five tokens, two heads of eight.
    fn example(dtype: DType) -> (Rotation, Var, Tensor) {
        let angles: Vec<f32> = (0..5 * 4).map(|i| if i < 4 { 0.0 } else { (i * 37 % 29) as f32 / 5.0 - 2.0 }).collect();
        let draw = |seed: usize| {
            let numbers: Vec<f64> = (0..2 * 5 * 48).map(|i| ((i * 7919 + seed) % 997) as f64 / 400.0 - 1.2).collect();
            Tensor::from_vec(numbers, (2, 5, 48), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        (Rotation::new(&angles, 4), Var::from_tensor(&draw(3)).unwrap(), draw(104_729))
    }

    fn numbers(x: &Tensor) -> Vec<f64> {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_fused_rotation_and_its_gradient_are_those_of_the_composed_one() {
        let run = |dtype| {
            let (rotation, qkv, weight) = example(dtype);
            let y = rotation.forward(&qkv).unwrap();
            let loss = (&y * weight).unwrap().sum_all().unwrap();
            (numbers(&y), numbers(loss.backward().unwrap().get(&qkv).unwrap()))
        };
        let (fused, composed) = (run(DType::F32), run(DType::F64));
        for (fused, composed) in [(fused.0, composed.0), (fused.1, composed.1)] {
            assert!(fused.iter().zip(&composed).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn lengths_stay_and_values_and_unturned_tokens_are_untouched() {
        let (rotation, qkv, _) = example(DType::F32);
        let (x, y) = (numbers(&qkv), numbers(&rotation.forward(&qkv).unwrap()));
        for (t, (x, y)) in x.chunks(48).zip(y.chunks(48)).enumerate() {
            assert_eq!(x[32..], y[32..]);
            assert_eq!(x == y, t % 5 == 0, "token {t}");
            for (x, y) in x.chunks(2).zip(y.chunks(2)) {
                assert!((x[0].hypot(x[1]) - y[0].hypot(y[1])).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn another_number_of_tokens_is_refused() {
        let (rotation, qkv, _) = example(DType::F32);
        assert!(rotation.forward(&qkv.narrow(1, 0, 4).unwrap()).is_err());
    }
}
