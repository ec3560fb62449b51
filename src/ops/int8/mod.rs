//! Linear maps in 8-bit integers: `out = act(x Wᵀ + b)` with weights of one scale an output, and inputs of one scale a
//! row, found as they come.
//!
//! Products are summed in exact 32-bit integers, and what is done in floating point is done in one order: an instruction
//! set, a number of threads and a row's neighbours change nothing.
//!
//! Rows and weights are turned first, sixteen inputs at a time, which leaves products as they are (`turn`). A row `x` then
//! becomes `s · q`. Its scale `s` follows from its largest number or, where a few channels are far larger than
//! the others, from the others' magnitude; those channels then take 15 bits, `q = low + 128 · high`, of which the
//! second part is zero in almost all channels and is multiplied only where it is not (`rows`). The idea of keeping a
//! few channels apart is LLM.int8()'s (Dettmers et al. 2022, arXiv:2208.07339), which keeps them in half precision.
//!
//! One file an instruction set; they share the layouts of weights (`weight`) and rows, and what is done with sums
//! (`product`).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod path;
mod portable;
mod product;
mod round;
mod rows;
mod turn;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod weight;

#[cfg(test)]
mod tests;

use super::lines::Plain;
pub use path::Path;
pub use product::Product;
pub use weight::Weight;

/// 64 bytes in the place of a cache line, which is what the kernels load.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

const LINE: usize = 64;
/// The outputs of a panel of weights.
const PANEL: usize = 16;
/// The inputs that one step of a kernel multiplies.
const GROUP: usize = 4;
/// The most rows of a tile.
const TILE: usize = 16;
/// The rows of a strip, two tiles, and the outputs of two panels.
const STRIP: usize = 2 * TILE;

// SAFETY: bytes, as long and aligned as a line.
unsafe impl Plain for Line {}

impl Line {
    const ZERO: Self = Self([0; LINE]);
}

/// The sums of products of one strip of rows with two panels.
#[repr(C, align(64))]
struct Sums([[i32; 2 * PANEL]; STRIP]);
