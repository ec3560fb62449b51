//! Rows become columns.

/// Writes the transpose of `rows` × `columns` numbers, whose rows are `stride` apart, as `columns` rows `height` apart.
pub(super) fn transpose(from: &[f32], stride: usize, [rows, columns]: [usize; 2], to: &mut [f32], height: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(from.len() >= (rows - 1) * stride + columns && to.len() >= (columns - 1) * height + rows, "a transpose");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has these instructions, and the numbers were looked at above.
        return unsafe { avx512(from.as_ptr(), stride, [rows, columns], to.as_mut_ptr(), height) };
    }
    any(from, stride, [rows, columns], to, height);
}

/// Squares of four, which become vectors of four on any processor; the last of a row or column may lie over the one before.
fn any(from: &[f32], stride: usize, [rows, columns]: [usize; 2], to: &mut [f32], height: usize) {
    if rows < 4 || columns < 4 {
        for row in 0..rows {
            let from = &from[row * stride..][..columns];
            to[row..].iter_mut().step_by(height).zip(from).for_each(|(to, value)| *to = *value);
        }
        return;
    }
    // Sixteen rows at a time, so that what is read and what is written both stay in the first cache.
    for first in (0..rows).step_by(16) {
        for column in (0..columns).step_by(4).map(|column| column.min(columns - 4)) {
            for row in (first..rows.min(first + 16)).step_by(4).map(|row| row.min(rows - 4)) {
                let line =
                    |i: usize| <[f32; 4]>::try_from(&from[(row + i) * stride + column..][..4]).unwrap_or_default();
                let [a, b, c, d] = [line(0), line(1), line(2), line(3)];
                for i in 0..4 {
                    to[(column + i) * height + row..][..4].copy_from_slice(&[a[i], b[i], c[i], d[i]]);
                }
            }
        }
    }
}

/// The side of a square in registers.
#[cfg(target_arch = "x86_64")]
const SIDE: usize = 16;

/// Squares of sixteen.
///
/// # Safety
/// There must be so many numbers, and the processor must have AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(from: *const f32, stride: usize, [rows, columns]: [usize; 2], to: *mut f32, height: usize) {
    use super::tile::ROWS;
    for column in (0..columns).step_by(SIDE) {
        let wide = SIDE.min(columns - column);
        for row in (0..rows).step_by(SIDE) {
            let high = SIDE.min(rows - row);
            let (from, to) = (from.wrapping_add(row * stride + column), to.wrapping_add(column * height + row));
            // SAFETY: these rows and columns exist. Sizes that the compiler knows make no loop: twice as fast.
            unsafe {
                match (high, wide) {
                    (ROWS, SIDE) => square(from, stride, [ROWS, SIDE], to, height),
                    (SIDE, SIDE) => square(from, stride, [SIDE; 2], to, height),
                    _ => square(from, stride, [high, wide], to, height),
                }
            }
        }
    }
}

/// One square, of which there are so many rows and columns: single numbers are interleaved, then pairs, then fours.
///
/// # Safety
/// As [`avx512`]'s.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn square(from: *const f32, stride: usize, [high, wide]: [usize; 2], to: *mut f32, height: usize) {
    use std::arch::x86_64::*;
    let first = |count: usize| ((1_u32 << count) - 1) as u16;
    let mut x = [_mm512_setzero_ps(); SIDE];
    for (i, x) in x.iter_mut().enumerate() {
        if i < high {
            // SAFETY: such a row exists, and the mask keeps to its columns.
            *x = unsafe { _mm512_maskz_loadu_ps(first(wide), from.add(i * stride)) };
        }
    }
    let mut y = x;
    for i in (0..SIDE).step_by(2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for i in (0..SIDE).step_by(4) {
        for half in 0..2 {
            let [a, b] = [y[i + half], y[i + half + 2]].map(|y| _mm512_castps_pd(y));
            x[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            x[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    // Now fours of rows: part p of register 4 b + c is column 4 p + c of rows 4 b to 4 b + 3.
    for c in 0..4 {
        let low = [0, 8].map(|b| _mm512_shuffle_f32x4::<0x44>(x[b + c], x[b + c + 4]));
        let top = [0, 8].map(|b| _mm512_shuffle_f32x4::<0xee>(x[b + c], x[b + c + 4]));
        for (parts, part) in [(low, 0), (top, 2)] {
            y[4 * part + c] = _mm512_shuffle_f32x4::<0x88>(parts[0], parts[1]);
            y[4 * (part + 1) + c] = _mm512_shuffle_f32x4::<0xdd>(parts[0], parts[1]);
        }
    }
    for (i, y) in y.iter().enumerate() {
        if i < wide {
            // SAFETY: such a row of the result exists, and the mask keeps to it.
            unsafe { _mm512_mask_storeu_ps(to.add(i * height), first(high), *y) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_changes_its_places_and_no_other_is_touched() {
        for (rows, columns) in
            [(0, 3), (3, 0), (1, 1), (3, 40), (4, 4), (5, 7), (14, 16), (16, 16), (17, 33), (50, 64), (32, 5)]
        {
            let (stride, height) = (columns + 3, rows + 2);
            let from: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
            for wide in [false, true] {
                let mut to = vec![-1.0; columns * height];
                let run = if wide || rows * columns == 0 { transpose } else { any };
                run(&from, stride, [rows, columns], &mut to, height);
                for (at, got) in to.iter().enumerate() {
                    let (column, row) = (at / height, at % height);
                    let want = if row < rows { from[row * stride + column] } else { -1.0 };
                    assert_eq!(*got, want, "{rows} x {columns}, wide {wide}: row {row}, column {column}");
                }
            }
        }
    }
}
