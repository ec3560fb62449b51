//! Numbers where they lie in a file.

use super::files::Bytes;
use crate::ops::gemm::Source;
use std::ops::Range;
use std::sync::Arc;

/// f32 numbers in a file.
#[derive(Debug)]
pub struct Mapped {
    file: Arc<Bytes>,
    bytes: Range<usize>,
}

impl Mapped {
    /// Those in these bytes, if they are numbers of this machine.
    pub(super) fn new(file: Arc<Bytes>, bytes: Range<usize>) -> Option<Self> {
        let sound = cfg!(target_endian = "little") && file.get(bytes.clone())?.as_ptr().addr().is_multiple_of(4);
        (sound && bytes.len().is_multiple_of(4)).then_some(Self { file, bytes })
    }

    fn numbers(&self) -> &[f32] {
        // SAFETY: any bytes are numbers.
        unsafe { self.file[self.bytes.clone()].align_to::<f32>() }.1
    }
}

/// Weights that lie one below the other.
#[derive(Debug)]
pub(super) struct Stacked(pub(super) Vec<Mapped>);

impl Source for Stacked {
    fn parts(&self) -> Vec<&[f32]> {
        self.0.iter().map(Mapped::numbers).collect()
    }

    fn release(&self) {
        self.0.iter().for_each(|part| part.file.release(part.bytes.clone()));
    }
}
