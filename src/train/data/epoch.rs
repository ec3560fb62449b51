//! The order in which an epoch sees the rows.

use super::{Corpus, Part, Row};
use crate::train::random::generator;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Which captions of an image an epoch sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Captions {
    /// One of all that the image has, drawn anew in each epoch. A draw of fewer than two words becomes the first
    /// caption, as in LaCLIP (<https://github.com/LijieFan/LaCLIP>, `data.py`).
    #[default]
    Random,
    /// Each one, as a pair of its own.
    All,
    /// The first one.
    First,
}

/// A caption of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The row.
    pub row: u32,
    /// Which of its captions.
    pub caption: u16,
    /// 0 but for images that an epoch sees several times.
    pub copy: u16,
}

/// Makes epochs of some rows. What an epoch is follows from data, seed and number.
#[derive(Clone, Debug)]
pub struct Sampler {
    seed: u64,
    captions: Captions,
    corpus: Arc<Corpus>,
    /// For each row of the data, whether it is one of these.
    inside: Arc<[bool]>,
    /// The rows, those of one image together.
    rows: Vec<u32>,
    /// For each part of the mixture its units, and how often an epoch sees each. A unit is what an epoch sees once: the
    /// rows of an image, or a caption.
    parts: Vec<(Vec<Unit>, f64)>,
}

#[derive(Clone, Debug)]
enum Unit {
    /// These of [`Sampler::rows`].
    Rows(Range<u32>),
    /// This caption.
    Caption(u32, u16),
}

/// The pairs of an epoch, in order.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// Its number, from 0.
    pub number: u64,
    /// The pairs.
    pub pairs: Arc<[Pair]>,
    pub(super) seed: u64,
    pub(super) inside: Arc<[bool]>,
}

impl Sampler {
    /// Makes epochs of these rows.
    pub fn new(corpus: &Arc<Corpus>, rows: &[u32], captions: Captions, seed: u64) -> Self {
        let mut images: HashMap<(u16, u64), usize> = HashMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut inside = vec![false; corpus.rows.len()];
        for &row in rows {
            inside[row as usize] = true;
            let Row { part, image_id, .. } = corpus.rows[row as usize];
            let group = *images.entry((part, image_id)).or_insert(groups.len());
            match groups.get_mut(group) {
                Some(rows) => rows.push(row),
                None => groups.push(vec![row]),
            }
        }
        let mut parts: Vec<(Vec<Unit>, f64)> =
            corpus.parts.iter().map(|Part { factor, .. }| (vec![], *factor)).collect();
        let mut rows = Vec::with_capacity(rows.len());
        for group in groups {
            let units = &mut parts[usize::from(corpus.rows[group[0] as usize].part)].0;
            let start = rows.len() as u32;
            rows.extend(&group);
            match captions {
                Captions::Random => units.push(Unit::Rows(start..rows.len() as u32)),
                Captions::First => units.push(Unit::Caption(group[0], 0)),
                Captions::All => units.extend(group.iter().flat_map(|&row| {
                    (0..corpus.rows[row as usize].captions.len() as u16).map(move |caption| Unit::Caption(row, caption))
                })),
            }
        }
        Self { seed, captions, corpus: corpus.clone(), inside: inside.into(), rows, parts }
    }

    /// How many pairs each epoch has.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|(units, factor)| (units.len() as f64 * factor).round() as usize).sum()
    }

    /// For each row of the data, whether it is one of these.
    pub fn inside(&self) -> &[bool] {
        &self.inside
    }

    /// Whether an epoch has no pairs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which captions it takes.
    pub fn captions(&self) -> Captions {
        self.captions
    }

    /// The epoch of this number.
    pub fn epoch(&self, number: u64) -> Epoch {
        let mut rng = generator("epoch", &[self.seed, number]);
        let mut units: Vec<(&Unit, u16)> = Vec::with_capacity(self.len());
        for (part, factor) in &self.parts {
            let total = (part.len() as f64 * factor).round() as usize;
            let mut left = total;
            let mut copy = 0;
            while left >= part.len() && left > 0 {
                units.extend(part.iter().map(|unit| (unit, copy)));
                left -= part.len();
                copy += 1;
            }
            let mut some: Vec<&Unit> = part.iter().collect();
            let (some, _) = some.partial_shuffle(&mut rng, left);
            units.extend(some.iter().map(|unit| (*unit, copy)));
        }
        units.shuffle(&mut rng);
        self.finish(number, units.into_iter().map(|(unit, copy)| self.pair(unit, copy, &mut rng)).collect())
    }

    /// Every pair once, in the order of the rows; of [`Captions::Random`] the first ones. For validation.
    pub fn in_order(&self) -> Epoch {
        let mut pairs: Vec<Pair> =
            self.parts.iter().flat_map(|(units, _)| units).map(|unit| self.first(unit)).collect();
        pairs.sort_unstable();
        self.finish(u64::MAX, pairs)
    }

    fn finish(&self, number: u64, pairs: Vec<Pair>) -> Epoch {
        Epoch { number, pairs: pairs.into(), seed: self.seed, inside: self.inside.clone() }
    }

    fn first(&self, unit: &Unit) -> Pair {
        match unit {
            Unit::Caption(row, caption) => Pair { row: *row, caption: *caption, copy: 0 },
            Unit::Rows(range) => Pair { row: self.rows[range.start as usize], caption: 0, copy: 0 },
        }
    }

    fn pair(&self, unit: &Unit, copy: u16, rng: &mut ChaCha8Rng) -> Pair {
        let first = Pair { copy, ..self.first(unit) };
        let Unit::Rows(range) = unit else { return first };
        let rows = &self.rows[range.start as usize..range.end as usize];
        let captions = |row: u32| &self.corpus.rows[row as usize].captions;
        let mut draw = rng.random_range(0..rows.iter().map(|row| captions(*row).len() as u64).sum::<u64>()) as usize;
        for &row in rows {
            let captions = captions(row);
            if draw < captions.len() {
                let enough = captions[draw].split_whitespace().nth(1).is_some();
                return if enough { Pair { row, caption: draw as u16, copy } } else { first };
            }
            draw -= captions.len();
        }
        first
    }
}

impl Epoch {
    /// How many batches of this size it has; a last one that is not full counts if it is kept.
    pub fn batches(&self, batch_size: usize, keep_last: bool) -> usize {
        if keep_last { self.pairs.len().div_ceil(batch_size) } else { self.pairs.len() / batch_size }
    }

    /// The same pairs in another order, or some of them: batches of what is alike, for example. Numbers that it does
    /// not have are left out.
    #[must_use]
    pub fn arranged(&self, order: &[usize]) -> Self {
        Self { pairs: order.iter().filter_map(|at| self.pairs.get(*at).copied()).collect(), ..self.clone() }
    }
}
