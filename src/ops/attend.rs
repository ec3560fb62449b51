//! Attention of one head: `softmax(scale · q kᵀ) v`, some queries at a time, whose scores stay in the first cache.
//!
//! Scores are computed as `k qᵀ`, a vector's numbers being those of as many queries: the softmax goes down the columns, no sum is
//! taken across a vector, and what comes out is the left side of the product with the values as it is.

use super::Activation;
use super::gemm::Packed;
use super::pack::{View, pack_tile};
use super::softmax;
use super::tile::{Block, Finish, Out, ROWS};
use rten_simd::SimdOp;

/// Memory for one head after the other.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    keys: Vec<f32>,
    queries: Packed,
    values: Packed,
    /// (keys, queries of a panel)
    weights: Vec<f32>,
    /// How many keys each query of a panel sees.
    seen: Vec<f32>,
}

/// Which keys are seen.
pub(super) struct Sight<'a, F> {
    /// So many of the first ones by each query.
    pub(super) seen: F,
    /// But for those that are not marked here.
    pub(super) marks: Option<&'a [bool]>,
}

/// Queries, keys and values of a head, each row's numbers contiguous, and how many rows and numbers there are.
#[derive(Clone, Copy)]
pub(super) struct Sides<'a> {
    pub(super) q: View<'a>,
    pub(super) k: View<'a>,
    pub(super) v: View<'a>,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) head: usize,
}

impl Scratch {
    /// Writes the result, a row for each query, `stride` numbers apart.
    ///
    /// # Safety
    /// There must be room for these rows at `out`, and no other thread may touch them.
    pub(super) unsafe fn attend(
        &mut self,
        sides: Sides<'_>,
        scale: f32,
        sight: &Sight<'_, impl Fn(usize) -> usize>,
        out: *mut f32,
        stride: usize,
    ) {
        let Sides { q, k, v, queries, keys, head } = sides;
        self.keys.resize(keys.next_multiple_of(ROWS) * head, 0.0);
        for (t, tile) in self.keys.chunks_mut((ROWS * head).max(1)).enumerate() {
            pack_tile(k, t * ROWS, ROWS.min(keys - t * ROWS), ROWS, head, tile);
        }
        self.queries.refill(View { row_stride: q.column_stride, column_stride: q.row_stride, ..q }, head, queries);
        self.values.refill(v, keys, head);
        let width = self.queries.width;
        self.weights.resize(keys * width, 0.0);
        for first in (0..queries).step_by(width) {
            let count = width.min(queries - first);
            self.seen.clear();
            self.seen.extend((first..first + count).map(|query| (sight.seen)(query) as f32));
            self.seen.resize(width, 0.0);
            // Keys that none of these queries sees need no work.
            let most = self.seen.iter().fold(0.0, |most: f32, &seen| most.max(seen)) as usize;
            let all = self.seen[..count].iter().all(|&seen| seen as usize == most);
            let finish = |scale, data, stride| Finish {
                bias: None,
                act: Activation::Identity,
                scale,
                onto: None,
                out: Out { data, stride },
            };
            let panel = first / width;
            let weights = self.weights.as_mut_ptr().wrapping_sub(first);
            Block {
                tiles: &self.keys,
                height: ROWS,
                k: head,
                rows: most,
                b: &self.queries,
                panels: panel..panel + 1,
                finish: finish(scale, weights, width),
            }
            .dispatch();
            let weights = &mut self.weights[..most * width];
            softmax::columns(weights, width, (!all).then_some(&self.seen[..]), sight.marks);
            Block {
                tiles: weights,
                height: width,
                k: most,
                rows: count,
                b: &self.values,
                panels: 0..head.div_ceil(width),
                finish: finish(1.0, out.wrapping_add(first * stride), stride),
            }
            .dispatch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) >> 9) as f32 / (1 << 22) as f32 - 1.0)
            .collect()
    }

    /// By definition; a query that sees nothing has zeros.
    fn exact(sides: Sides<'_>, scale: f32, sight: &Sight<'_, impl Fn(usize) -> usize>) -> Vec<f64> {
        let Sides { q, k, v, queries, keys, head } = sides;
        let at = |x: View<'_>, row: usize, i: usize| f64::from(x.data[row * x.row_stride + i]);
        let mut out = Vec::new();
        for query in 0..queries {
            let seen = |key: usize| key < (sight.seen)(query) && sight.marks.is_none_or(|marks| marks[key]);
            let weights: Vec<f64> = (0..keys)
                .map(|key| {
                    let dot: f64 = (0..head).map(|i| at(q, query, i) * at(k, key, i)).sum();
                    if seen(key) { (f64::from(scale) * dot).exp() } else { 0.0 }
                })
                .collect();
            let sum = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            out.extend((0..head).map(|i| (0..keys).map(|key| weights[key] / sum * at(v, key, i)).sum::<f64>()));
        }
        out
    }

    fn check(queries: usize, keys: usize, head: usize, sight: &Sight<'_, impl Fn(usize) -> usize>) {
        const UNTOUCHED: f32 = 12_345.0;
        let row = head + 5;
        let [q, k, v] = [(queries, 1), (keys, 2), (keys, 3)].map(|(rows, seed)| numbers(rows * row, seed));
        let view = |data| View::rows(data, row);
        let scale = 0.7 * (head as f32).powf(-0.5);
        let sides = Sides { q: view(&q), k: view(&k), v: view(&v), queries, keys, head };
        let mut out = vec![UNTOUCHED; queries * row];
        // Twice, since memory is used again.
        let mut scratch = Scratch::default();
        for _ in 0..2 {
            // SAFETY: so much room there is.
            unsafe { scratch.attend(sides, scale, sight, out.as_mut_ptr(), row) };
        }
        let want = exact(sides, scale, sight);
        for (query, (got, want)) in out.chunks(row).zip(want.chunks(head)).enumerate() {
            for (got, want) in got.iter().zip(want) {
                let error = (f64::from(*got) - want).abs();
                assert!(error < 2e-6, "{queries} x {keys} x {head}, query {query}: {got} for {want}");
            }
            assert!(got[head..].iter().all(|x| *x == UNTOUCHED), "{queries} x {keys} x {head}: beyond its row");
        }
        // A query alone has the same bytes.
        for query in [0, queries / 2, queries - 1] {
            let q = View::rows(&q[query * row..], row);
            let alone = Sight { seen: |_| (sight.seen)(query), marks: sight.marks };
            let mut one = vec![UNTOUCHED; head];
            // SAFETY: as above.
            unsafe { scratch.attend(Sides { q, queries: 1, ..sides }, scale, &alone, one.as_mut_ptr(), head) };
            assert_eq!(one, out[query * row..][..head], "{queries} x {keys} x {head}, query {query} alone");
        }
    }

    const SHAPES: [(usize, usize, usize); 8] =
        [(1, 1, 1), (1, 40, 64), (5, 3, 7), (32, 32, 32), (33, 50, 64), (50, 50, 64), (61, 29, 72), (197, 197, 16)];

    #[test]
    fn it_is_the_definition_where_all_is_seen() {
        for (queries, keys, head) in SHAPES {
            check(queries, keys, head, &Sight { seen: |_| keys, marks: None });
            check(queries, keys, head, &Sight { seen: |_| keys.div_ceil(2), marks: None });
        }
    }

    #[test]
    fn what_is_hidden_does_not_count() {
        for (queries, keys, head) in SHAPES {
            check(queries, keys, head, &Sight { seen: |query| keys.min(query + 1), marks: None });
            check(queries, keys, head, &Sight { seen: |query| keys.min(query % 3), marks: None });
            let marks: Vec<bool> = (0..keys).map(|key| key % 3 == 0).collect();
            check(queries, keys, head, &Sight { seen: |_| keys, marks: Some(&marks) });
            check(queries, keys, head, &Sight { seen: |query| keys.min(query + 1), marks: Some(&marks) });
        }
    }
}
