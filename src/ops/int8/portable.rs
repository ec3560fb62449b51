//! The kernel in plain Rust: what the others are held to.

use super::rows::Strip;
use super::{GROUP, LINE, Line, PANEL, Sums, TILE};

/// Sums the products of a strip with a pair of panels.
pub(super) fn sums(strip: &Strip, pair: &[Line], out: &mut Sums) {
    for (half, panel) in pair.chunks_exact(pair.len() / 2).enumerate() {
        for (tile, &rows) in strip.tiles.iter().enumerate() {
            let (high, low) = (strip.high_of(tile), strip.low_of(tile));
            for row in 0..rows {
                let mut sums = [0; PANEL];
                for (at, &group) in strip.groups.iter().enumerate() {
                    add(&mut sums, four(high, row, at), &panel[group as usize]);
                }
                sums.iter_mut().for_each(|sum| *sum <<= 7);
                for (group, line) in panel.iter().enumerate() {
                    add(&mut sums, four(low, row, group), line);
                }
                out.0[tile * TILE + row][half * PANEL..][..PANEL].copy_from_slice(&sums);
            }
        }
    }
}

/// The four integers of a row's group.
fn four(tile: &[Line], row: usize, group: usize) -> [i8; GROUP] {
    let (block, place) = (group / (LINE / GROUP), group % (LINE / GROUP));
    let bytes = &tile[block * TILE + row].0[place * GROUP..];
    [bytes[0], bytes[1], bytes[2], bytes[3]].map(|byte| byte as i8)
}

/// Adds the products with sixteen outputs' weights.
fn add(sums: &mut [i32; PANEL], x: [i8; GROUP], line: &Line) {
    for (sum, w) in sums.iter_mut().zip(line.0.as_chunks::<GROUP>().0) {
        let dot: i32 = w.iter().zip(x).map(|(&w, x)| i32::from(w) * i32::from(x)).sum();
        // It may wrap on the way, but not at the end.
        *sum = sum.wrapping_add(dot);
    }
}
