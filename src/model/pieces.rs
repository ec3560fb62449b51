//! Large batches, some items at a time.

use crate::error::Result;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// The tokens that go through a tower together on the CPU: many enough to read weights seldom, few enough that what
/// blocks hand each other mostly stays in the caches.
const TOKENS: usize = 520;

/// Embeds items `0 .. items`, of `tokens` tokens each, on this device: what `embed` returns of some, (some, `embed_dim`), for
/// all. A device with memory of its own takes them all at once.
pub(super) fn in_pieces(
    items: usize,
    tokens: usize,
    device: &Device,
    embed: impl Fn(Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    let pieces = (items * tokens).div_ceil(TOKENS).min(items);
    if pieces <= 1 || !device.is_cpu() {
        return embed(0..items);
    }
    let edge = |piece: usize| piece * items / pieces;
    let parts: Vec<Tensor> = (0..pieces).map(|i| embed(edge(i)..edge(i + 1))).collect::<Result<_>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn every_item_comes_once_and_in_order() {
        for (items, tokens, most) in
            [(0, 50, 0), (1, 4096, 1), (10, 50, 10), (16, 50, 8), (32, 50, 8), (33, 50, 9), (5, 900, 1)]
        {
            let sizes = RefCell::new(Vec::new());
            let all = in_pieces(items, tokens, &Device::Cpu, |range| {
                sizes.borrow_mut().push(range.len());
                let numbers: Vec<f32> = range.clone().map(|i| i as f32).collect();
                Ok(Tensor::from_vec(numbers, (range.len(), 1), &Device::Cpu)?)
            });
            let all: Vec<f32> = all.and_then(|all| Ok(all.flatten_all()?.to_vec1()?)).unwrap_or_default();
            assert_eq!(all, (0..items).map(|i| i as f32).collect::<Vec<_>>());
            assert_eq!(sizes.borrow().iter().max(), Some(&most));
        }
    }
}
