//! Exact search: every row is compared with every query.

use super::{Collection, Part, dots, squares};
use crate::app::{Interrupt, Progress};
use crate::data::Kind;
use crate::error::Result;
use crate::ops::pool;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The rows that a thread takes at a time.
const BLOCK: usize = 256;

/// The rows, and the queries, of which all pairs are multiplied in one go: at 512 numbers each they stay in the second
/// cache.
const PANEL: usize = 64;

/// What a score is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Metric {
    /// The cosine of the angle between query and embedding, -1 to 1
    #[default]
    Cosine,
    /// The product with the embedding as it is stored; long ones score higher
    Dot,
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The queries, one behind the other, of unit length each.
    pub queries: &'a [f32],
    /// How many hits a query gets at most.
    pub top_k: usize,
    /// Leave out lower scores.
    pub threshold: Option<f32>,
    /// Images or texts alone.
    pub kind: Option<Kind>,
    /// What a score is.
    pub metric: Metric,
}

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its position in the collection.
    pub position: usize,
    /// Its score.
    pub score: f32,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Searched {
    /// The hits of each query, best first; of equal ones the first position comes first.
    pub hits: Vec<Vec<Hit>>,
    /// How many embeddings hold numbers that are not finite, and the first of them.
    pub broken: Option<(usize, usize)>,
}

/// Compares all rows with all queries.
///
/// Embeddings of length 0 have the cosine 0 with everything; those with numbers that are not finite are left out.
///
/// # Errors
/// If the job is interrupted.
pub fn search(
    collection: &Collection,
    question: &Question<'_>,
    interrupt: Interrupt,
    progress: &Progress,
) -> Result<Searched> {
    let queries = question.queries.len() / collection.dim();
    let blocks: Vec<_> = collection.blocks(BLOCK).collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = pool::threads().min(blocks.len()).max(1);
    // Which thread takes which block is up to chance; what is best of all is not.
    pool::run(threads, |_| {
        let mut scan = Scan::new(question, collection, queries);
        while let Some((first, part, rows)) = blocks.get(next.fetch_add(1, Relaxed)) {
            if interrupt.is_set() {
                break;
            }
            scan.block(*first, part, rows.clone());
            progress.add(rows.len() as u64);
        }
        done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((scan.best, scan.broken));
    });
    interrupt.check()?;
    let mut total = vec![Best::new(question); queries];
    let (mut broken, mut first) = (0, usize::MAX);
    for (part, (count, position)) in done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        for (total, part) in total.iter_mut().zip(part) {
            part.heap.into_iter().for_each(|Worst(hit)| total.offer(hit));
        }
        (broken, first) = (broken + count, first.min(position));
    }
    let hits = total.into_iter().map(Best::into_sorted).collect();
    Ok(Searched { hits, broken: (broken > 0).then_some((broken, first)) })
}

/// The best of a query so far.
#[derive(Clone, Debug)]
struct Best {
    top_k: usize,
    /// A score below this is of no interest.
    floor: f32,
    heap: BinaryHeap<Worst>,
}

/// A hit, of which the worse one is greater.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Worst(Hit);

impl Eq for Worst {}

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.position.cmp(&other.0.position))
    }
}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Best {
    fn new(question: &Question<'_>) -> Self {
        let floor = question.threshold.unwrap_or(f32::NEG_INFINITY);
        Self { top_k: question.top_k, floor, heap: BinaryHeap::new() }
    }

    fn offer(&mut self, hit: Hit) {
        if self.heap.len() < self.top_k {
            self.heap.push(Worst(hit));
        } else if self.heap.peek().is_some_and(|worst| Worst(hit) < *worst) {
            self.heap.pop();
            self.heap.push(Worst(hit));
        }
        if self.heap.len() >= self.top_k
            && let Some(Worst(worst)) = self.heap.peek()
        {
            self.floor = self.floor.max(worst.score);
        }
    }

    fn into_sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|Worst(hit)| hit).collect()
    }
}

/// One thread's work.
struct Scan<'a> {
    question: &'a Question<'a>,
    dim: usize,
    best: Vec<Best>,
    /// How many rows are not finite, and the first of them.
    broken: (usize, usize),
    buffer: Vec<f32>,
    scores: Vec<f32>,
}

impl<'a> Scan<'a> {
    fn new(question: &'a Question<'a>, collection: &Collection, queries: usize) -> Self {
        Self {
            question,
            dim: collection.dim(),
            best: vec![Best::new(question); queries],
            broken: (0, usize::MAX),
            buffer: Vec::new(),
            scores: vec![0.0; PANEL * PANEL.min(queries)],
        }
    }

    fn block(&mut self, first: usize, part: &Part, rows: Range<usize>) {
        let Self { question, dim, best, broken, buffer, scores } = self;
        let numbers = part.matrix.read(rows.clone(), buffer);
        let mut lengths = [0.0; PANEL];
        for (panel, numbers) in numbers.chunks(PANEL * *dim).enumerate() {
            let count = numbers.len() / *dim;
            let lengths = &mut lengths[..count];
            squares(numbers, *dim, lengths);
            for (row, length) in lengths.iter_mut().enumerate() {
                let at = panel * PANEL + row;
                if !length.is_finite() {
                    *broken = (broken.0 + 1, broken.1.min(first + at));
                }
                *length = match (question.kind, length.is_finite()) {
                    (Some(kind), _) if part.ids.kind(rows.start + at) != kind => f32::NAN,
                    (_, false) => f32::NAN,
                    _ if question.metric == Metric::Dot => 1.0,
                    _ => 1.0 / length.sqrt().max(1e-12),
                };
            }
            let queries = question.queries.chunks(PANEL * *dim).zip(best.chunks_mut(PANEL));
            for (queries, best) in queries {
                let scores = &mut scores[..count * best.len()];
                dots(numbers, queries, *dim, scores);
                for (row, (scores, scale)) in scores.chunks(best.len()).zip(&*lengths).enumerate() {
                    for (score, best) in scores.iter().zip(best.iter_mut()) {
                        // A row that is left out has a scale, and so a score, that is not a number.
                        // Adding zero turns -0 into 0, which it equals.
                        let score = score * scale + 0.0;
                        if score >= best.floor {
                            best.offer(Hit { position: first + panel * PANEL + row, score });
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Dtype;
    use crate::index::collection::tests::part;
    use proptest::prelude::*;

    fn run(collection: &Collection, question: &Question<'_>) -> Searched {
        search(collection, question, Interrupt::install(), &Progress::hidden()).unwrap()
    }

    fn collection(rows: &[Vec<f32>], dtype: Dtype, cut: usize) -> Collection {
        let (a, b) = rows.split_at(cut.min(rows.len()));
        Collection::new(vec![part("a", "m@1", dtype, a), part("b", "m@1", dtype, b)]).unwrap()
    }

    /// The definition: all scores, sorted.
    fn naive(rows: &[Vec<f32>], query: &[f32], metric: Metric) -> Vec<Hit> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let score = |row: &Vec<f32>| match metric {
            Metric::Dot => dot(row, query),
            Metric::Cosine => dot(row, query) / dot(row, row).sqrt().max(1e-12),
        };
        let mut hits: Vec<_> =
            rows.iter().enumerate().map(|(position, row)| Hit { position, score: score(row) as f32 + 0.0 }).collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.position.cmp(&b.position)));
        hits
    }

    fn rows(dim: usize) -> impl Strategy<Value = Vec<Vec<f32>>> {
        // Small whole numbers: many scores are equal, and sums of products are exact in any order.
        let row = proptest::collection::vec((-3i8..=3).prop_map(f32::from), dim);
        proptest::collection::vec(row, 1..400)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn it_is_a_sort_cut_short(
            (rows, queries) in (1usize..40).prop_flat_map(|dim| (rows(dim), rows(dim).prop_map(|mut q| { q.truncate(70); q }))),
            top_k in 1usize..30, cut in 0usize..400, half: bool, threshold in proptest::option::of(-5i8..20),
        ) {
            let dtype = if half { Dtype::F16 } else { Dtype::F32 };
            let collection = collection(&rows, dtype, cut);
            let threshold = threshold.map(f32::from);
            let question =
                Question { queries: &queries.concat(), top_k, threshold, kind: None, metric: Metric::Dot };
            let found = run(&collection, &question);
            prop_assert_eq!(found.hits.len(), queries.len());
            for (query, hits) in queries.iter().zip(found.hits) {
                let mut expected = naive(&rows, query, Metric::Dot);
                expected.retain(|hit| threshold.is_none_or(|threshold| hit.score >= threshold));
                expected.truncate(top_k);
                prop_assert_eq!(hits, expected);
            }
        }
    }

    #[test]
    fn cosines_do_not_depend_on_lengths_or_neighbours() {
        let rows: Vec<Vec<f32>> = (0..500)
            .map(|i| (0..48).map(|j| ((i * 37 + j * 11) % 23) as f32 - 11.0 + i as f32 / 100.0).collect())
            .collect();
        let collection = collection(&rows, Dtype::F32, 123);
        let queries: Vec<f32> = rows[..90]
            .iter()
            .flat_map(|row| {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter().map(move |x| x / length)
            })
            .collect();
        let question = |queries| Question { queries, top_k: 7, threshold: None, kind: None, metric: Metric::Cosine };
        let together = run(&collection, &question(&queries));
        for (query, hits) in queries.chunks(48).zip(&together.hits) {
            assert_eq!(&run(&collection, &question(query)).hits[0], hits);
            for (hit, expected) in hits.iter().zip(naive(&rows, query, Metric::Cosine)) {
                assert!((hit.score - expected.score).abs() < 1e-6, "{hit:?} {expected:?}");
            }
        }
        let longer: Vec<Vec<f32>> = rows.iter().map(|row| row.iter().map(|x| x * 8.0).collect()).collect();
        let longer = Collection::new(vec![part("a", "m@1", Dtype::F32, &longer)]).unwrap();
        let scores = |found: &Searched| found.hits.concat().iter().map(|hit| hit.score).collect::<Vec<_>>();
        assert_eq!(scores(&run(&longer, &question(&queries))), scores(&together));
    }

    #[test]
    fn kinds_and_broken_rows() {
        let mut rows: Vec<Vec<f32>> = (0..9).map(|i| vec![1.0, i as f32]).collect();
        rows[1] = vec![f32::NAN, 1.0];
        rows[4] = vec![f32::INFINITY, 1.0];
        rows[6] = vec![0.0, 0.0];
        let collection = collection(&rows, Dtype::F32, 9);
        let question =
            Question { queries: &[0.0, 1.0], top_k: 20, threshold: None, kind: None, metric: Metric::Cosine };
        let found = run(&collection, &question);
        assert_eq!(found.broken, Some((2, 1)));
        let positions = |found: &Searched| found.hits[0].iter().map(|hit| hit.position).collect::<Vec<_>>();
        assert_eq!(positions(&found), [8, 7, 5, 3, 2, 0, 6]);
        assert_eq!(found.hits[0].last().unwrap().score, 0.0);
        let texts = Question { kind: Some(Kind::Text), ..question };
        assert_eq!(positions(&run(&collection, &texts)), [8, 5, 2]);
    }
}
