//! What is there twice: each row is compared with all that are kept before it.

use super::{Collection, Hit, dots, squares};
use crate::app::{Interrupt, Progress};
use crate::data::Kind;
use crate::error::Result;
use crate::ops::pool;
use std::sync::Mutex;

/// The rows that are compared with all kept ones at a time.
const BLOCK: usize = 256;

/// The kept rows, and the rows of a block, of which all pairs are multiplied in one go.
const PANEL: usize = 64;

/// A row that is nearly the same as one that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Duplicate {
    /// Its position in the collection.
    pub position: usize,
    /// The position of the kept row that it is nearest to; it comes first in the collection.
    pub keeper: usize,
    /// The cosine of the two.
    pub score: f32,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repeated {
    /// The duplicates, by position.
    pub duplicates: Vec<Duplicate>,
    /// How many embeddings hold numbers that are not finite, and the first of them.
    pub broken: Option<(usize, usize)>,
}

/// Goes through the rows in order: one whose cosine with a kept row of its kind reaches the threshold is a duplicate of
/// the nearest such row (the first of equal ones), any other is kept.
///
/// So each duplicate is as near to what is kept as was asked for, which chains of neighbours (connected components)
/// would not promise. Takes time with the square of the number of rows, and memory for one number a row, a block and
/// the duplicates.
///
/// # Errors
/// If the job is interrupted.
pub fn duplicates(
    collection: &Collection,
    threshold: f32,
    kind: Option<Kind>,
    interrupt: Interrupt,
    progress: &Progress,
) -> Result<Repeated> {
    let dim = collection.dim();
    let mut found = Repeated::default();
    let mut kept: Vec<usize> = Vec::new();
    let mut block = Block { dim, rows: Vec::new(), positions: Vec::new() };
    let mut buffer = Vec::new();
    for (first, part, rows) in collection.blocks(BLOCK) {
        interrupt.check()?;
        block.clear();
        let numbers = part.matrix.read(rows.clone(), &mut buffer);
        for (position, row) in (first..).zip(numbers.chunks(dim)) {
            if kind.is_some_and(|kind| part.ids.kind(rows.start + position - first) != kind) {
                continue;
            }
            if !block.push(position, row) {
                let (count, first) = found.broken.unwrap_or((0, position));
                found.broken = Some((count + 1, first));
            }
        }
        let mut nearest = nearest(collection, &kept, &block, threshold);
        // Within the block each row is also compared with those before it, once it is known which of them are kept.
        let mut scores = vec![0.0; block.positions.len()];
        let mut block_kept: Vec<usize> = Vec::new();
        for (row, &position) in block.positions.iter().enumerate() {
            let scores = &mut scores[..row];
            dots(&block.rows[..row * dim], block.row(row), dim, scores);
            for &other in &block_kept {
                let hit = Hit { position: block.positions[other], score: scores[other] };
                if hit.score >= threshold && collection.kind(hit.position) == collection.kind(position) {
                    better(&mut nearest[row], hit);
                }
            }
            match nearest[row] {
                Some(Hit { position: keeper, score }) => {
                    // Two numbers of unit length may give a little more than 1.
                    found.duplicates.push(Duplicate { position, keeper, score: score.min(1.0) });
                }
                None => {
                    block_kept.push(row);
                    kept.push(position);
                }
            }
        }
        progress.add(rows.len() as u64);
    }
    Ok(found)
}

/// Rows of unit length, with their positions.
struct Block {
    dim: usize,
    rows: Vec<f32>,
    positions: Vec<usize>,
}

impl Block {
    fn clear(&mut self) {
        self.rows.clear();
        self.positions.clear();
    }

    /// Adds a row, brought to unit length, if its numbers are finite.
    fn push(&mut self, position: usize, row: &[f32]) -> bool {
        let mut square = [0.0];
        squares(row, self.dim, &mut square);
        if !square[0].is_finite() {
            return false;
        }
        let scale = 1.0 / square[0].sqrt().max(1e-12);
        self.rows.extend(row.iter().map(|x| x * scale));
        self.positions.push(position);
        true
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.rows[row * self.dim..][..self.dim]
    }
}

/// The nearest kept row of each row of a block, if one reaches the threshold.
fn nearest(collection: &Collection, kept: &[usize], block: &Block, threshold: f32) -> Vec<Option<Hit>> {
    let total = Mutex::new(vec![None; block.positions.len()]);
    pool::run(kept.len().div_ceil(BLOCK), |part| {
        let kept = &kept[part * BLOCK..kept.len().min((part + 1) * BLOCK)];
        let mut own: Vec<Option<Hit>> = vec![None; block.positions.len()];
        let (mut panel, mut row, mut scores) =
            (Block { dim: block.dim, rows: Vec::new(), positions: Vec::new() }, Vec::new(), vec![0.0; PANEL * PANEL]);
        for kept in kept.chunks(PANEL) {
            panel.clear();
            for &position in kept {
                row.clear();
                collection.append(position, &mut row);
                panel.push(position, &row);
            }
            let blocks = block.rows.chunks(PANEL * block.dim).zip(block.positions.chunks(PANEL));
            for ((rows, positions), own) in blocks.zip(own.chunks_mut(PANEL)) {
                let scores = &mut scores[..panel.positions.len() * positions.len()];
                dots(&panel.rows, rows, block.dim, scores);
                for (scores, &keeper) in scores.chunks(positions.len()).zip(&panel.positions) {
                    for ((&score, &position), own) in scores.iter().zip(positions).zip(own.iter_mut()) {
                        if score >= threshold && collection.kind(keeper) == collection.kind(position) {
                            better(own, Hit { position: keeper, score });
                        }
                    }
                }
            }
        }
        let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (total, own) in total.iter_mut().zip(own) {
            if let Some(hit) = own {
                better(total, hit);
            }
        }
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps the higher score, of equal ones the first position.
fn better(best: &mut Option<Hit>, hit: Hit) {
    let wins = best.is_none_or(|best| hit.score.total_cmp(&best.score).then(best.position.cmp(&hit.position)).is_gt());
    if wins {
        *best = Some(hit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Dtype;
    use crate::index::collection::tests::part;

    fn run(collection: &Collection, threshold: f32, kind: Option<Kind>) -> Repeated {
        duplicates(collection, threshold, kind, Interrupt::install(), &Progress::hidden()).unwrap()
    }

    /// The definition, pair by pair.
    fn naive(collection: &Collection, threshold: f32) -> Vec<(usize, usize)> {
        let rows: Vec<Vec<f64>> = (0..collection.len())
            .map(|position| {
                let mut row = Vec::new();
                collection.append(position, &mut row);
                let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                row.iter().map(|&x| f64::from(x) / length).collect()
            })
            .collect();
        let (mut kept, mut found) = (Vec::<usize>::new(), Vec::new());
        for (position, row) in rows.iter().enumerate() {
            let cosine = |other: &usize| rows[*other].iter().zip(row).map(|(a, b)| a * b).sum::<f64>();
            let near = kept.iter().filter(|&&other| {
                cosine(&other) >= f64::from(threshold) && collection.kind(other) == collection.kind(position)
            });
            // The last of equal ones would be the maximum; the first is meant.
            match near.rev().copied().max_by(|a, b| cosine(a).total_cmp(&cosine(b))) {
                Some(keeper) => found.push((position, keeper)),
                None => kept.push(position),
            }
        }
        found
    }

    #[test]
    fn it_is_the_definition() {
        // Points on circles: neighbours are near, and every hundredth is there twice.
        let row = |i: usize| -> Vec<f32> {
            let angle = if i % 100 == 7 { 0.1 } else { (i * i % 977) as f32 / 100.0 };
            vec![angle.sin(), angle.cos(), (3.0 * angle).sin(), 0.3]
        };
        let rows: Vec<_> = (0..1500).map(row).collect();
        let (a, b) = rows.split_at(700);
        let collection =
            Collection::new(vec![part("a", "m@1", Dtype::F32, a), part("b", "m@1", Dtype::F32, b)]).unwrap();
        let found = run(&collection, 0.9995, None);
        let pairs: Vec<_> = found.duplicates.iter().map(|found| (found.position, found.keeper)).collect();
        let expected = naive(&collection, 0.9995);
        assert!(expected.len() > 100 && expected.len() < 1400, "{}", expected.len());
        let differing = pairs.iter().filter(|pair| !expected.contains(pair)).count();
        // Which of several neighbours is nearest may hang on the last digit.
        assert_eq!(pairs.len(), expected.len());
        assert!(differing <= 3, "{differing}");
        assert!(found.duplicates.iter().all(|found| found.score >= 0.9995 && found.keeper < found.position));
    }

    #[test]
    fn kinds_stay_apart_and_broken_rows_out() {
        let rows =
            vec![vec![1.0, 0.0], vec![2.0, 0.0], vec![1.0, 0.0], vec![f32::NAN, 0.0], vec![0.0, 0.0], vec![1.0, 0.0]];
        let collection = Collection::new(vec![part("a", "m@1", Dtype::F32, &rows)]).unwrap();
        let found = run(&collection, 0.9, None);
        assert_eq!(found.broken, Some((1, 3)));
        let pairs = |found: Repeated| found.duplicates.iter().map(|d| (d.position, d.keeper)).collect::<Vec<_>>();
        assert_eq!(pairs(found), [(1, 0), (5, 2)]);
        assert_eq!(pairs(run(&collection, 0.9, Some(Kind::Image))), [(1, 0)]);
    }
}
