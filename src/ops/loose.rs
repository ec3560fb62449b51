//! A weight that lies elsewhere, as in a mapped file, and is packed when that is worth it.
//!
//! A product of few rows that comes alone (one photo, one caption) reads the weight where it lies: threads pack some
//! columns at a time into memory that stays in their caches, and nothing is kept. Packed for good, the weights of a tower
//! are written to fresh memory once more, and handing that out takes the system longer than the product takes. From the
//! second product on, and for many rows, they are.

use super::lines::Lines;
use super::pack::{Packed, View, pack_panel};
use super::pool;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Where a weight lies.
pub trait Source: Debug + Send + Sync {
    /// The outputs in several parts, of as many inputs each, one row after the other.
    fn parts(&self) -> Vec<&[f32]>;
    /// It was read: the system may take back the memory.
    fn release(&self);
}

/// A weight (n, k) that lies elsewhere.
#[derive(Debug)]
pub(super) struct Loose {
    source: Arc<dyn Source>,
    k: usize,
    width: usize,
    /// Whether there has been a product.
    used: AtomicBool,
    packed: OnceLock<Lines<f32>>,
}

/// With more rows than this a weight is packed for good at once.
const FEW: usize = 512;

/// The numbers that are packed at a time: with the rows they stay in the second cache.
const GROUP: usize = 1 << 18;

impl Loose {
    /// Takes up a weight of `k` inputs for panels of this width: `None` if parts do not fit, and how many outputs there are.
    /// All parts but the last must be a whole number of panels.
    pub(super) fn new(source: Arc<dyn Source>, k: usize, width: usize) -> Option<(Self, usize)> {
        let parts = source.parts();
        let rows = |part: &&[f32]| part.len().checked_div(k).filter(|rows| rows * k == part.len());
        let counts: Vec<usize> = parts.iter().map(rows).collect::<Option<_>>()?;
        let (_, whole) = counts.split_last()?;
        if whole.iter().any(|rows| rows % width != 0) {
            return None;
        }
        let n = counts.iter().sum();
        drop(parts);
        Some((Self { source, k, width, used: AtomicBool::new(false), packed: OnceLock::new() }, n))
    }

    /// Whether a product of so many rows reads the weight where it lies. It counts as one.
    pub(super) fn is_read_once(&self, rows: usize) -> bool {
        rows <= FEW && self.packed.get().is_none() && !self.used.swap(true, Ordering::Relaxed)
    }

    /// How many panels are packed at a time.
    pub(super) fn group(&self) -> usize {
        (GROUP / (self.k * self.width).max(1)).max(1)
    }

    /// All panels, packed for good at the first call.
    pub(super) fn panels(&self) -> &[f32] {
        self.packed.get_or_init(|| {
            let (parts, len) = (self.source.parts(), self.k * self.width);
            let count = parts.iter().map(|part| self.count(part)).sum::<usize>();
            let mut panels = Lines::zeros(count * len);
            pool::chunks(&mut panels, len.max(1), |p, panel| self.pack_one(&parts, p, panel));
            self.source.release();
            panels
        })
    }

    /// Packs some panels.
    pub(super) fn pack(&self, panels: Range<usize>, n: usize, into: &mut Packed) {
        let columns = n.min(panels.end * self.width) - panels.start * self.width;
        let parts = self.source.parts();
        for (p, panel) in panels.zip(into.room(self.k, columns).chunks_mut((self.k * self.width).max(1))) {
            self.pack_one(&parts, p, panel);
        }
    }

    /// The outputs, row after row.
    pub(super) fn rows(&self) -> Vec<f32> {
        self.source.parts().concat()
    }

    /// The weight was read.
    pub(super) fn release(&self) {
        self.source.release();
    }

    fn pack_one(&self, parts: &[&[f32]], mut p: usize, panel: &mut [f32]) {
        for part in parts {
            let count = self.count(part);
            if p < count {
                return pack_panel(
                    View::turned(part, self.k),
                    self.k,
                    part.len() / self.k.max(1),
                    p,
                    self.width,
                    panel,
                );
            }
            p -= count;
        }
    }

    /// How many panels a part is.
    fn count(&self, part: &[f32]) -> usize {
        (part.len() / self.k.max(1)).div_ceil(self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Activation;
    use crate::ops::gemm::{Norm, Onto, Product};
    use std::sync::atomic::AtomicUsize;

    #[derive(Debug)]
    struct Here(Vec<Vec<f32>>, AtomicUsize);

    impl Source for Here {
        fn parts(&self) -> Vec<&[f32]> {
            self.0.iter().map(Vec::as_slice).collect()
        }

        fn release(&self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn read_once_or_packed_the_numbers_are_the_same() {
        let width = Packed::empty().width;
        for (parts, k, m) in [
            (vec![3 * width, width, 5], 65, 50),
            (vec![7], 3, 1),
            (vec![2 * width], 4096, 20),
            (vec![40 * width + 1], 768, 30),
        ] {
            let n: usize = parts.iter().sum();
            let (a, bias, onto, scale) = (numbers(m * k, 1), numbers(n, 2), numbers(m * n, 3), numbers(k, 4));
            let rows: Vec<Vec<f32>> =
                parts.iter().enumerate().map(|(i, rows)| numbers(rows * k, 5 + i as u32)).collect();
            let packed = Packed::from_weight(&rows.concat(), n, k);
            let source = Arc::new(Here(rows, AtomicUsize::new(0)));
            let loose = Packed::of_source(source.clone(), k).unwrap();
            assert_eq!(loose.shape(), (k, n));
            assert_eq!(loose.unpacked(), packed.unpacked());
            let with = |b: &Packed| {
                let norm = Some(Norm { weight: &scale, bias: &scale, eps: 1e-5 });
                let product = Product::new(View::rows(&a, k), m, b);
                Product { norm, bias: Some(&bias), act: Activation::GeluErf, onto: Onto::Numbers(&onto), ..product }
                    .make()
            };
            let want = with(&packed);
            // Where it lies, then packed, then as it is.
            for time in 0..3 {
                assert_eq!(with(&loose), want, "{parts:?} {k}, time {time}");
            }
            assert_eq!(source.1.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let width = Packed::empty().width;
        for (parts, k) in [(vec![3, 3], 1), (vec![5], 2), (vec![], 1)] {
            let rows = parts.iter().map(|&count| numbers(count, 1)).collect();
            assert!(Packed::of_source(Arc::new(Here(rows, AtomicUsize::new(0))), k).is_none(), "{parts:?} {width}");
        }
    }
}
