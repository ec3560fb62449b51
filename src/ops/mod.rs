//! Tensor maths of the towers: one file an op.
//!
//! Each op is one function on candle tensors with two paths. On the CPU in f32 a fused kernel runs, with a backward
//! written by hand; everywhere else (CUDA, Metal, f64, half precision) the same formula is composed from candle's own
//! differentiable ops. candle's fused layer norm and softmax are never used: they cut the gradient without a word.
//!
//! Determinism: in a fused kernel each output number is computed by the same sequence of operations whatever the
//! number of threads, rows or items, so an item's embedding does not depend on its batch-mates.
//!
//! Architecture invariant: nothing here reads a file or the environment.

pub mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attend;
pub mod attention;
pub mod chain;
pub mod channels;
mod columns;
pub mod conv;
pub mod depthwise;
pub mod dropout;
pub mod gemm;
pub mod gradients;
#[cfg(target_arch = "x86_64")]
mod half;
mod heads;
pub mod int8;
pub mod layer_norm;
pub mod linear;
mod lines;
mod loose;
pub mod low_rank;
pub mod mask;
pub mod normalize;
pub mod optim;

mod pack;
pub mod pool;
pub mod rope;
mod scratch;
#[cfg(test)]
mod sets;
mod sigmoid;
pub mod softmax;
mod team;
mod tile;
mod transpose;
pub mod turn;
pub mod unfold;

pub use activation::Activation;
pub use attention::{Places, at_places, attention, coarse_self_attention, self_attention, self_attention_at};
pub use chain::{Bypass, branch, mlp, rejoin};
pub use channels::{gate_channels, mean_pixels};
pub use conv::conv;
pub use depthwise::depthwise;
pub use dropout::Dropout;
pub use gradients::Gradients;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use low_rank::LowRank;
pub use mask::Mask;
pub use normalize::normalize;
pub use rope::Rotation;
pub use softmax::softmax;
pub use unfold::{Window, unfold};

use candle_core::{CpuStorage, DType, Layout, Result, Tensor};

/// Whether the fused CPU kernels apply to this tensor.
pub fn is_fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The widest vector instructions that the kernels choose at run time. Between them results differ in the last digits,
/// because sums run in another order. Beside 8-bit maps, AMX computes attention with coarser numbers.
pub fn instruction_set(int8: bool) -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if int8 && half::is_available() {
            return "AVX-512, AMX";
        }
        if rten_simd::is_avx512_supported() {
            return "AVX-512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "AVX2";
        }
        "portable"
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = int8;
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "portable"
    }
}

/// The numbers of a contiguous f32 tensor on the CPU.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a fused op needs contiguous input, got strides {:?}", layout.stride())
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// A copy of the numbers of a tensor on the CPU, in row-major order.
fn to_vec(x: &Tensor) -> Result<Vec<f32>> {
    x.flatten_all()?.to_vec1::<f32>()
}

/// The numbers of a contiguous f32 tensor on the CPU, without a copy.
struct Numbers<'a> {
    storage: candle_core::StorageRef<'a>,
    range: std::ops::Range<usize>,
}

impl<'a> Numbers<'a> {
    fn of(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a fused op needs contiguous input, got strides {:?}", layout.stride())
        };
        match &*storage {
            candle_core::Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { storage, range: start..end }),
            _ => candle_core::bail!("expected f32 numbers on the CPU"),
        }
    }
}

impl std::ops::Deref for Numbers<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            candle_core::Storage::Cpu(CpuStorage::F32(numbers)) => &numbers[self.range.clone()],
            // `of` has looked, and a lock is held since.
            _ => &[],
        }
    }
}

/// Runs `f` on the numbers of a contiguous f32 tensor on the CPU, without a copy.
pub(crate) fn with_slice<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

/// Runs `f` on the numbers of a contiguous f32 tensor on the CPU, which it may change. Whatever else holds this storage
/// sees the change: for variables, moments and sums of gradients, never for what a tape has recorded.
pub(crate) fn with_slice_mut<T>(x: &Tensor, f: impl FnOnce(&mut [f32]) -> T) -> Result<T> {
    struct InPlace<F, T>(std::cell::RefCell<(Option<F>, Option<T>)>);
    impl<T, F: FnOnce(&mut [f32]) -> T> candle_core::InplaceOp1 for InPlace<F, T> {
        fn name(&self) -> &'static str {
            "in place"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let (Some((start, end)), CpuStorage::F32(numbers)) = (layout.contiguous_offsets(), storage) else {
                candle_core::bail!("expected contiguous f32 numbers")
            };
            let mut cell = self.0.borrow_mut();
            if let Some(f) = cell.0.take() {
                cell.1 = Some(f(&mut numbers[start..end]));
            }
            Ok(())
        }
    }
    let op = InPlace(std::cell::RefCell::new((Some(f), None)));
    x.inplace_op1(&op)?;
    match op.0.into_inner().1 {
        Some(result) => Ok(result),
        None => candle_core::bail!("expected a tensor on the CPU"),
    }
}
