//! Images that are held out to see what was learnt.

use super::Corpus;
use crate::train::random::generator;
use rand::seq::SliceRandom;
use std::collections::HashSet;

/// Rows to train on, and rows to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// What is trained on, in order.
    pub train: Vec<u32>,
    /// What is held out, in order.
    pub held: Vec<u32>,
}

/// How few and how many images are held out.
const LEAST: usize = 50;
const MOST: usize = 5000;

impl Split {
    pub(super) fn new(corpus: &Corpus, seed: u64) -> Self {
        let mut seen = HashSet::new();
        let ids = corpus.rows.iter().map(|row| row.image_id);
        let mut images: Vec<u64> = ids.filter(|id| seen.insert(*id)).collect();
        let count = (images.len() / 10).clamp(LEAST, MOST).min(images.len() / 2);
        images.shuffle(&mut generator("hold out", &[seed]));
        let out: HashSet<u64> = images[..count].iter().copied().collect();
        let is_out = |row: &u32| out.contains(&corpus.rows[*row as usize].image_id);
        let (held, train) = corpus.all().into_iter().partition(is_out);
        Self { train, held }
    }
}
