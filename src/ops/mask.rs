//! What attention may see.

use super::Places;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// Which keys a query may see.
#[derive(Clone, Debug)]
pub enum Mask {
    /// All of them.
    None,
    /// Those at its own position and before.
    Causal,
    /// The first so many of each item: the rest is padding.
    Lengths(Arc<Vec<usize>>),
    /// Those that are marked, and if `causal` none behind the query. Each query must see one key at least.
    Keys {
        /// One mark a key, item by item.
        marks: Arc<Vec<bool>>,
        /// Whether keys behind the query are hidden.
        causal: bool,
    },
}

impl Mask {
    /// How many keys query `i` of item `b` sees, of `keys`, holes among them included.
    pub(super) fn visible(&self, b: usize, i: usize, keys: usize) -> usize {
        match self {
            Self::None => keys,
            Self::Causal => keys.min(i + 1),
            Self::Lengths(lengths) => keys.min(lengths[b]),
            Self::Keys { marks, causal } => {
                let marks = &marks[b * keys..][..if *causal { keys.min(i + 1) } else { keys }];
                marks.iter().rposition(|mark| *mark).map_or(0, |last| last + 1)
            }
        }
    }

    /// For each of the keys of item `b` whether it is seen, where some may be hidden before others that are not.
    pub(super) fn marks(&self, b: usize, keys: usize) -> Option<&[bool]> {
        match self {
            Self::Keys { marks, .. } => Some(&marks[b * keys..][..keys]),
            _ => None,
        }
    }

    /// Writes `value` for the keys of item `b` that are hidden among the first ones.
    pub(super) fn fill_holes(&self, b: usize, keys: usize, scores: &mut [f32], value: f32) {
        if let Some(marks) = self.marks(b, keys) {
            let holes = scores.iter_mut().zip(marks).filter(|(_, mark)| !**mark);
            holes.for_each(|(score, _)| *score = value);
        }
    }

    /// The mask as numbers to add to scores: 0 or −∞, shape (items or 1, 1, queries, keys).
    pub(super) fn additive(
        &self,
        [items, queries, keys]: [usize; 3],
        places: Option<&Places>,
        like: &Tensor,
    ) -> Result<Option<Tensor>> {
        let items = match self {
            Self::None => return Ok(None),
            Self::Causal if places.is_none() => 1,
            _ => items,
        };
        let mut mask = vec![f32::NEG_INFINITY; items * queries * keys];
        for b in 0..items {
            for i in 0..queries {
                let query = places.map_or(i, |places| places[b]);
                let seen = &mut mask[(b * queries + i) * keys..][..self.visible(b, query, keys)];
                seen.fill(0.0);
                self.fill_holes(b, keys, seen, f32::NEG_INFINITY);
            }
        }
        Tensor::from_vec(mask, (items, 1, queries, keys), like.device())?.to_dtype(like.dtype()).map(Some)
    }
}
