//! The tile registers of AMX: eight of sixteen rows of 64 bytes, multiplied with each other in one instruction.
//!
//! Their instructions are written in assembly, since Rust's own names for them are not stable. The registers belong to no one
//! else: the compiler never uses them, and a thread has them from [`Tiles::configure`] on until it is dropped.
//! Instructions and the form of the configuration: Intel 64 and IA-32 Software Developer's Manual, volume 1, chapter 18.

use std::arch::asm;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// The rows of a tile.
pub(super) const ROWS: usize = 16;
/// The bytes of a tile's row.
pub(super) const LINE: usize = 64;

const BF16: u32 = 1 << 22;
const TILE: u32 = 1 << 24;
const INT8: u32 = 1 << 25;

/// Whether this processor multiplies tiles of 8-bit integers, and the system lets this process use them.
pub(super) fn has_int8() -> bool {
    has(TILE | INT8)
}

/// Whether it multiplies tiles of bf16 numbers.
pub(super) fn has_bf16() -> bool {
    has(TILE | BF16)
}

fn has(features: u32) -> bool {
    static ANSWER: OnceLock<u32> = OnceLock::new();
    let found = ANSWER.get_or_init(|| {
        // With AVX-512 below, which sums and rows are made with.
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        if wide && leaf.edx & TILE != 0 && permitted() { leaf.edx } else { 0 }
    });
    found & features == features
}

/// The registers are larger than what older programs leave room for, so Linux hands them out on demand
/// (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const REQUEST: libc::c_long = 0x1023; // ARCH_REQ_XCOMP_PERM
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: the call changes no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The tile registers of this thread, set up.
pub(super) struct Tiles(PhantomData<*const ()>);

#[repr(C, align(64))]
struct Config([u8; LINE]);

impl Tiles {
    /// Sets them up: registers 0 to 3 are sums and 4 and 5 left sides, of so many rows, 1 to 16; 6 and 7 are right sides.
    ///
    /// # Safety
    /// The processor must have them, as [`has_int8`] and [`has_bf16`] say.
    pub(super) unsafe fn configure(rows: usize) -> Self {
        let rows = rows.clamp(1, ROWS) as u8;
        let mut config = Config([0; LINE]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = LINE as u8;
            config.0[48 + tile] = if tile < 6 { rows } else { ROWS as u8 };
        }
        // SAFETY: the caller's promise; the configuration is one that the manual allows.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly, preserves_flags),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            );
        }
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: this thread has the registers. Given back, they need not be saved when it is switched.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
