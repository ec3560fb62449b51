//! Convolution over all channels: the windows of an image times a matrix.

use super::gemm::{self, Packed};
use super::unfold::unfold_rows;
use super::{Activation, Linear, Window, is_fused, pool, slice, unfold};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::cell::RefCell;
use std::sync::Arc;

/// Slides `window` over `x` (items, height, width, channels); each window's numbers in order (row, column, channel) go
/// through `linear` and `act`. Returns (items, rows, columns, outputs).
pub fn conv(x: &Tensor, linear: &Linear, window: Window, act: Activation) -> Result<Tensor> {
    if window == Window::tiles(1) {
        return linear.forward(x, act);
    }
    let (items, height, width, _) = x.dims4()?;
    let (rows, columns) = (window.count(height), window.count(width));
    // Few windows are shared out by outputs instead, which the plain product does; the numbers are the same.
    let few = items * rows * columns < 2 * gemm::BLOCK_ROWS * pool::threads();
    if few
        || !is_fused(x)
        || !is_fused(linear.weight())
        || linear.is_trained()
        || linear.is_quantized()
        || !linear.low_rank().is_empty()
        || x.track_op()
    {
        let y = linear.forward(&unfold(x, window)?, act)?;
        return y.reshape((items, rows, columns, linear.weight().dim(0)?));
    }
    let op = Fused { linear: linear.clone(), packed: linear.packed()?, window, act };
    x.contiguous()?.apply_op1(op)
}

/// Unfolds the windows of a few output pixels at a time, so that they stay in cache: together they are as large as
/// `size · size` images.
struct Fused {
    linear: Linear,
    packed: Arc<Packed>,
    window: Window,
    act: Activation,
}

thread_local! {
    static WINDOWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let (items, height, width, channels) = layout.shape().dims4()?;
        let (rows, columns) = (self.window.count(height), self.window.count(width));
        let (k, n) = self.packed.shape();
        if k != self.window.size * self.window.size * channels {
            candle_core::bail!("windows of {} x {channels} numbers for {k} inputs", self.window.size.pow(2));
        }
        let mut out = vec![0.0; items * rows * columns * n];
        let mut run = |bias: Option<&[f32]>| {
            pool::chunks(&mut out, gemm::BLOCK_ROWS * n, |block, out| {
                WINDOWS.with_borrow_mut(|windows| {
                    windows.clear();
                    windows.resize(out.len() / n * k, 0.0);
                    unfold_rows(x, (height, width, channels), self.window, block * gemm::BLOCK_ROWS, windows);
                    gemm::matmul_block(windows, &self.packed, bias, self.act, out);
                });
            });
        };
        match self.linear.bias() {
            Some(bias) => super::with_slice(&bias.contiguous()?, |bias| run(Some(bias)))?,
            None => run(None),
        }
        Ok((CpuStorage::F32(out), (items, rows, columns, n).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        candle_core::bail!("a fused convolution has no backward")
    }
}
