//! Which instructions the kernels use.

use super::rows::Strip;
use super::{Line, Sums, portable};

/// A set of instructions with a kernel of its own. All give the same sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Plain Rust: any processor.
    Portable,
    /// AVX2.
    Avx2,
    /// AVX-512 with VNNI.
    Vnni,
    /// AMX with 8-bit integers.
    Amx,
}

impl Path {
    /// All of them, the fastest last.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Vnni, Self::Amx];

    /// The fastest that this machine has.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|path| path.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Vnni => super::vnni::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => super::amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// A path at work on this thread.
pub(super) enum Kernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Amx(super::amx::Tiles),
}

impl Kernel {
    /// Prepares for tiles of so many rows; falls back to plain Rust where the path is not available.
    pub(super) fn new(path: Path, rows: usize) -> Self {
        let _ = rows;
        match path {
            #[cfg(target_arch = "x86_64")]
            _ if !path.is_available() => Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            Path::Vnni => Self::Vnni,
            // SAFETY: it is available.
            #[cfg(target_arch = "x86_64")]
            Path::Amx => Self::Amx(unsafe { super::amx::Tiles::configure(rows) }),
            _ => Self::Portable,
        }
    }

    /// Sums the products of a strip with a pair of panels.
    pub(super) fn sums(&self, strip: &Strip, pair: &[Line], out: &mut Sums) {
        match self {
            Self::Portable => portable::sums(strip, pair, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has seen that the processor has these instructions.
            Self::Avx2 => unsafe { super::avx2::sums(strip, pair, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Vnni => unsafe { super::vnni::sums(strip, pair, out) },
            #[cfg(target_arch = "x86_64")]
            Self::Amx(tiles) => super::amx::sums(tiles, strip, pair, out),
        }
    }
}
