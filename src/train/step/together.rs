//! What processes that train together exchange.

use super::{Gradients, Stepper};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

impl Stepper<'_> {
    /// The rows of all processes, and which of them are this one's.
    pub(super) fn gather(&self, own: &Tensor) -> Result<(Tensor, Range<usize>)> {
        let rows = own.dim(0)?;
        if self.group.size() == 1 {
            return Ok((own.clone(), 0..rows));
        }
        let numbers = own.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let counts = self.group.gather(&[rows as f32])?;
        let start = counts[..self.group.rank()].iter().sum::<f32>() as usize;
        let all = self.group.gather(&numbers)?;
        let mut shape = own.dims().to_vec();
        shape[0] = counts.iter().sum::<f32>() as usize;
        let all = Tensor::from_vec(all, shape, &Device::Cpu)?.to_device(own.device())?.to_dtype(own.dtype())?;
        Ok((all, start..start + rows))
    }

    /// Sums gradients over all processes.
    pub(super) fn sum(&self, gradients: &mut Gradients) -> Result<()> {
        if self.group.size() == 1 {
            return Ok(());
        }
        // Every process must ask for the same ones, though one without items in a micro-batch may have none.
        for (name, var) in self.parts.of_towers() {
            let (shape, dtype, device) = (var.shape().clone(), var.dtype(), var.device().clone());
            let mut numbers = match gradients.get(name) {
                Some(own) => own.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?,
                None => vec![0.0; shape.elem_count()],
            };
            self.group.sum(&mut numbers)?;
            let sum = Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_device(&device)?.to_dtype(dtype)?;
            gradients.insert(name.clone(), sum);
        }
        Ok(())
    }
}
