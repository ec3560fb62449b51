//! Products of rows with queries.
//!
//! A product is summed in as many chains as a register has lanes, each along the row, and the chains are added up at
//! the end: what a row and a query give does not depend on which others are at hand.

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, SimdOp};

/// `out[r · queries + q] = row r · query q`, on the calling thread. `rows` and `queries` hold `dim` numbers each, one
/// behind the other.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn dots(rows: &[f32], queries: &[f32], dim: usize, out: &mut [f32]) {
    assert!(dim > 0 && rows.len().is_multiple_of(dim) && queries.len().is_multiple_of(dim), "rows of {dim} numbers");
    assert_eq!(out.len(), (rows.len() / dim) * (queries.len() / dim), "one number a row and query");
    Dots { rows, queries, dim, out }.dispatch();
}

/// The square of each row's length.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn squares(rows: &[f32], dim: usize, out: &mut [f32]) {
    assert!(dim > 0 && rows.len() == dim * out.len(), "one number a row");
    for (row, out) in rows.chunks_exact(dim).zip(out) {
        dots(row, row, dim, std::slice::from_mut(out));
    }
}

struct Dots<'a> {
    rows: &'a [f32],
    queries: &'a [f32],
    dim: usize,
    out: &'a mut [f32],
}

impl SimdOp for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let (rows, queries) = (self.rows.len() / self.dim, self.queries.len() / self.dim);
        let mut row = 0;
        while row < rows {
            let high = if rows - row >= 4 { 4 } else { 1 };
            let mut query = 0;
            while query < queries {
                // Sixteen sums need the thirty-two registers that come with wide ones.
                let wide = if queries - query >= 4 && isa.f32().len() >= 16 { 4 } else { 1 };
                let wide = if wide == 1 && queries - query >= 2 { 2 } else { wide };
                match (high, wide) {
                    (4, 4) => self.tile::<I, 4, 4>(isa, row, query),
                    (4, 2) => self.tile::<I, 4, 2>(isa, row, query),
                    (4, _) => self.tile::<I, 4, 1>(isa, row, query),
                    (_, 4) => self.tile::<I, 1, 4>(isa, row, query),
                    (_, 2) => self.tile::<I, 1, 2>(isa, row, query),
                    _ => self.tile::<I, 1, 1>(isa, row, query),
                }
                query += wide;
            }
            row += high;
        }
    }
}

impl Dots<'_> {
    /// The products of `R` rows from `row` on with `Q` queries from `query` on.
    #[inline(always)]
    fn tile<I: Isa, const R: usize, const Q: usize>(&mut self, isa: I, row: usize, query: usize) {
        let ops = isa.f32();
        let (dim, len) = (self.dim, ops.len());
        let rows: [&[f32]; R] = std::array::from_fn(|r| &self.rows[(row + r) * dim..][..dim]);
        let queries: [&[f32]; Q] = std::array::from_fn(|q| &self.queries[(query + q) * dim..][..dim]);
        let mut sums = [[ops.zero(); Q]; R];
        let whole = dim / len * len;
        for at in (0..whole).step_by(len) {
            // SAFETY: each slice has `dim` numbers, of which `len` are left at `at`.
            let query = queries.map(|query| unsafe { ops.load_ptr(query.as_ptr().add(at)) });
            for (row, sums) in rows.iter().zip(&mut sums) {
                // SAFETY: as above.
                let row = unsafe { ops.load_ptr(row.as_ptr().add(at)) };
                for (query, sum) in query.iter().zip(sums) {
                    *sum = ops.mul_add(row, *query, *sum);
                }
            }
        }
        if whole < dim {
            for (row, sums) in rows.iter().zip(&mut sums) {
                let (row, _) = ops.load_pad(&row[whole..]);
                for (query, sum) in queries.iter().zip(sums) {
                    let (query, _) = ops.load_pad(&query[whole..]);
                    *sum = ops.mul_add(row, query, *sum);
                }
            }
        }
        let stride = self.queries.len() / dim;
        for (r, sums) in sums.iter().enumerate() {
            for (q, sum) in sums.iter().enumerate() {
                self.out[(row + r) * stride + query + q] = ops.sum(*sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32).map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed) % 1000) as f32 / 500.0 - 1.0).collect()
    }

    #[test]
    fn equals_the_definition_at_odd_shapes() {
        for (m, n, dim) in [(1, 1, 1), (3, 5, 7), (4, 4, 16), (9, 6, 33), (5, 11, 64), (2, 0, 3), (0, 2, 3)] {
            let (rows, queries) = (numbers(m * dim, 1), numbers(n * dim, 2));
            let mut out = vec![f32::NAN; m * n];
            dots(&rows, &queries, dim, &mut out);
            for (at, &got) in out.iter().enumerate() {
                let (row, query) = (&rows[at / n * dim..][..dim], &queries[at % n * dim..][..dim]);
                let want: f64 = row.iter().zip(query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                assert!((f64::from(got) - want).abs() < 1e-5, "{m}x{n}x{dim}: {got} for {want}");
            }
        }
    }

    #[test]
    fn a_product_does_not_depend_on_its_neighbours() {
        let (m, n, dim) = (13, 9, 77);
        let (rows, queries) = (numbers(m * dim, 3), numbers(n * dim, 4));
        let mut all = vec![0.0; m * n];
        dots(&rows, &queries, dim, &mut all);
        for (row, want) in rows.chunks(dim).zip(all.chunks(n)) {
            for (query, want) in queries.chunks(dim).zip(want) {
                let mut one = [0.0];
                dots(row, query, dim, &mut one);
                assert_eq!(one[0], *want);
            }
        }
    }
}
