//! The kernel of AMX: sixteen rows of 64 inputs times sixteen outputs in one instruction.

use super::rows::Strip;
use super::{GROUP, LINE, Line, PANEL, STRIP, Sums, TILE};
pub(super) use crate::ops::amx::Tiles;
use std::arch::asm;

/// Whether this processor has the instructions and the system lets this process use them.
pub(super) fn is_available() -> bool {
    super::vnni::is_available() && crate::ops::amx::has_int8()
}

/// Sums the products of a strip with a pair of panels, with registers set up for the strip's tiles.
pub(super) fn sums(_: &Tiles, strip: &Strip, pair: &[Line], out: &mut Sums) {
    let both = strip.tiles[1] > 0;
    let (panel0, panel1) = pair.split_at(pair.len() / 2);
    let mut go_on = false;
    let (high0, high1) = (strip.high_of(0), strip.high_of(1));
    for (block, groups) in strip.groups.chunks(STEP).enumerate() {
        // The lines of these groups next to each other; what is left of the last block is multiplied with zeros.
        let mut lines = [Line::ZERO; 2 * STEP];
        for (at, &group) in groups.iter().enumerate() {
            (lines[at], lines[STEP + at]) = (panel0[group as usize], panel1[group as usize]);
        }
        let (lines0, lines1) = lines.split_at(STEP);
        let rows = |tile: &'_ [Line]| tile[block * TILE..][..TILE].as_ptr();
        // SAFETY: one block each.
        unsafe { multiply([rows(high0), rows(high1)], [lines0.as_ptr(), lines1.as_ptr()], 1, both, go_on, out) };
        go_on = true;
    }
    if go_on {
        out.0.as_flattened_mut().iter_mut().for_each(|sum| *sum <<= 7);
    }
    let blocks = panel0.len() / STEP;
    let (low0, low1) = (&strip.low_of(0)[..blocks * TILE], &strip.low_of(1)[..blocks * TILE]);
    let panels = [panel0[..blocks * STEP].as_ptr(), panel1[..blocks * STEP].as_ptr()];
    // SAFETY: so many blocks each, as the lines above check.
    unsafe { multiply([low0.as_ptr(), low1.as_ptr()], panels, blocks, both, go_on, out) };
}

/// The groups, or lines of weights, of one instruction.
const STEP: usize = LINE / GROUP;

/// Multiplies blocks of one tile of rows or of both with two panels; adds to `out` or writes it.
///
/// # Safety
/// This thread's registers must be set up, and the pointers lead to `blocks` times sixteen lines each, `blocks` > 0.
unsafe fn multiply(
    rows: [*const Line; 2],
    panels: [*const Line; 2],
    blocks: usize,
    both: bool,
    add: bool,
    out: &mut Sums,
) {
    const { assert!(STRIP == 2 * TILE && size_of::<[i32; 2 * PANEL]>() == 128) };
    let out = out.0.as_mut_ptr();
    // Second tile's sums begin 16 rows of 128 bytes below.
    macro_rules! run {
        ($load:literal, $clear:literal, $step:literal, $store:literal) => {
            asm!(
                "test {add}, {add}",
                "jz 2f",
                $load,
                "jmp 3f",
                "2:",
                $clear,
                "3:",
                // Weights come from the second cache; the processor itself does not look ahead of tiles.
                ".irp at, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960",
                "prefetcht0 [{b0} + 2048 + \\at]",
                ".endr",
                "tileloadd tmm4, [{a0} + {line}]",
                "tileloadd tmm6, [{b0} + {line}]",
                "tdpbsud tmm0, tmm4, tmm6",
                ".irp at, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960",
                "prefetcht0 [{b1} + 2048 + \\at]",
                ".endr",
                "tileloadd tmm7, [{b1} + {line}]",
                "tdpbsud tmm1, tmm4, tmm7",
                $step,
                "add {a0}, 1024",
                "add {a1}, 1024",
                "add {b0}, 1024",
                "add {b1}, 1024",
                "dec {blocks}",
                "jnz 3b",
                $store,
                add = in(reg) usize::from(add),
                a0 = inout(reg) rows[0] => _,
                a1 = inout(reg) rows[1] => _,
                b0 = inout(reg) panels[0] => _,
                b1 = inout(reg) panels[1] => _,
                blocks = inout(reg) blocks => _,
                out = in(reg) out,
                line = in(reg) LINE,
                wide = in(reg) 2 * LINE,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: the caller's promise; `out` has room for the sums of two tiles and two panels.
    unsafe {
        if both {
            run!(
                "tileloadd tmm0, [{out} + {wide}]\ntileloadd tmm1, [{out} + {wide} + 64]\n\
                 tileloadd tmm2, [{out} + {wide} + 2048]\ntileloadd tmm3, [{out} + {wide} + 2112]",
                "tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3",
                "tileloadd tmm5, [{a1} + {line}]\ntdpbsud tmm2, tmm5, tmm6\ntdpbsud tmm3, tmm5, tmm7",
                "tilestored [{out} + {wide}], tmm0\ntilestored [{out} + {wide} + 64], tmm1\n\
                 tilestored [{out} + {wide} + 2048], tmm2\ntilestored [{out} + {wide} + 2112], tmm3"
            );
        } else {
            run!(
                "tileloadd tmm0, [{out} + {wide}]\ntileloadd tmm1, [{out} + {wide} + 64]",
                "tilezero tmm0\ntilezero tmm1",
                "",
                "tilestored [{out} + {wide}], tmm0\ntilestored [{out} + {wide} + 64], tmm1"
            );
        }
    }
}
