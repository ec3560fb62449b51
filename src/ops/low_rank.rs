//! Low-rank updates of a frozen linear map (Hu et al. 2021, LoRA).

use super::gemm::{Onto, Product, View};
use super::gradients::Parameters;
use super::scratch::{Buffer, buffer, with_packed};
use super::{Activation, Dropout, Numbers};
use candle_core::{Result, Tensor};
use std::ops::Range;

/// `y[…, rows] += scale · (dropout(x) Aᵀ) Bᵀ`: an update of some rows of a weight, without the weight's gradient.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// The outputs that it updates.
    pub rows: Range<usize>,
    /// (rank, inputs)
    pub a: Tensor,
    /// (outputs in `rows`, rank)
    pub b: Tensor,
    /// Multiplies the update: `alpha / rank` as PEFT has it.
    pub scale: f64,
    /// Applied to the input of this update alone.
    pub dropout: Option<Dropout>,
}

impl LowRank {
    /// `scale · B A`, (outputs in `rows`, inputs): what a merged weight has more.
    pub fn update(&self) -> Result<Tensor> {
        self.b.matmul(&self.a)? * self.scale
    }

    /// The update of the outputs for rows of inputs, (…, outputs in `rows`), composed.
    pub(super) fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let x = match &self.dropout {
            Some(dropout) => dropout.composed(x)?,
            None => x.clone(),
        };
        x.matmul(&self.a.t()?)?.matmul(&self.b.t()?)? * self.scale
    }

    pub(super) fn seed(&self) -> u64 {
        self.dropout.as_ref().map_or(Dropout::OFF, Dropout::seed_now)
    }

    /// The input after dropout, if that differs.
    fn dropped(&self, x: &[f32], seed: u64) -> Option<Buffer> {
        let dropout = self.dropout.as_ref().filter(|dropout| seed != Dropout::OFF && dropout.p > 0.0)?;
        let mut out = buffer(x.len());
        dropout.masked(seed, x, &mut out, false);
        Some(out)
    }

    /// `x Aᵀ`, (rows of x, rank).
    fn inner(&self, x: &[f32]) -> Result<Buffer> {
        let ((rank, k), a) = (self.a.dims2()?, Numbers::of(&self.a)?);
        let rows = x.len() / k.max(1);
        let mut out = buffer(rows * rank);
        with_packed(|packed| {
            packed.fill(View::turned(&a, k), k, rank, Activation::Identity);
            Product::new(View::rows(x, k), rows, packed).run(&mut out, rank);
        });
        Ok(out)
    }

    /// Adds the update to outputs of `stride` numbers a row.
    pub(super) fn add(&self, x: &[f32], seed: u64, out: &mut [f32], stride: usize) -> Result<()> {
        let ((n, rank), b) = (self.b.dims2()?, Numbers::of(&self.b)?);
        let dropped = self.dropped(x, seed);
        let inner = self.inner(dropped.as_deref().unwrap_or(x))?;
        let rows = out.len() / stride.max(1);
        with_packed(|packed| {
            packed.fill(View::turned(&b, rank), rank, n, Activation::Identity);
            let product = Product::new(View::rows(&inner, rank), rows, packed);
            Product { scale: self.scale as f32, onto: Onto::Output, ..product }
                .run(&mut out[self.rows.start..], stride);
        });
        Ok(())
    }

    /// The gradients of A and B, and adds that of `x` to `dx`; `grad` has `stride` numbers a row.
    pub(super) fn backward(
        &self,
        x: &[f32],
        seed: u64,
        grad: &[f32],
        stride: usize,
        dx: Option<&mut [f32]>,
        parameters: &Parameters,
    ) -> Result<()> {
        let ((n, rank), k, scale) = (self.b.dims2()?, self.a.dim(1)?, self.scale as f32);
        let rows = grad.len() / stride.max(1);
        let grad = &grad[self.rows.start..];
        let dropped = self.dropped(x, seed);
        let x = dropped.as_deref().unwrap_or(x);
        if self.b.track_op() {
            // dB = scale · gᵀ (x Aᵀ)
            let (inner, mut db) = (self.inner(x)?, vec![0.0; n * rank]);
            with_packed(|packed| {
                packed.fill(View::rows(&inner, rank), rows, rank, Activation::Identity);
                Product { scale, ..Product::new(View::turned(grad, stride), n, packed) }.run(&mut db, rank);
            });
            parameters.give(&self.b, db)?;
        }
        // d(x Aᵀ) = scale · g B
        let mut inner = buffer(rows * rank);
        {
            let b = Numbers::of(&self.b)?;
            with_packed(|packed| {
                packed.fill(View::rows(&b, rank), n, rank, Activation::Identity);
                Product { scale, ..Product::new(View::rows(grad, stride), rows, packed) }.run(&mut inner, rank);
            });
        }
        if self.a.track_op() {
            // dA = d(x Aᵀ)ᵀ x
            let mut da = vec![0.0; rank * k];
            with_packed(|packed| {
                packed.fill(View::rows(x, k), rows, k, Activation::Identity);
                Product::new(View::turned(&inner, rank), rank, packed).run(&mut da, k);
            });
            parameters.give(&self.a, da)?;
        }
        let Some(dx) = dx else { return Ok(()) };
        // dx += mask · (d(x Aᵀ) A)
        let a = Numbers::of(&self.a)?;
        with_packed(|packed| {
            packed.fill(View::rows(&a, k), rank, k, Activation::Identity);
            let product = Product::new(View::rows(&inner, rank), rows, packed);
            match self.dropout.as_ref().filter(|_| dropped.is_some()) {
                None => Product { onto: Onto::Output, ..product }.run(dx, k),
                Some(dropout) => {
                    let mut all = buffer(rows * k);
                    product.run(&mut all, k);
                    dropout.masked(seed, &all, dx, true);
                }
            }
        });
        Ok(())
    }
}
