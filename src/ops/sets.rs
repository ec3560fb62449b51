//! Every instruction set that this machine has, for tests: programs run the best alone.

use rten_simd::functional::simd_map;
#[cfg(target_arch = "aarch64")]
use rten_simd::isa::ArmNeonIsa;
use rten_simd::isa::GenericIsa;
#[cfg(target_arch = "x86_64")]
use rten_simd::isa::{Avx2Isa, Avx512Isa};
use rten_simd::{Isa, SimdOp, SimdUnaryOp};

/// A set that vectors can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Set {
    /// Those that this machine has.
    pub(super) fn available() -> Vec<Self> {
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "aarch64")]
        sets.extend(ArmNeonIsa::new().map(|_| Self::Neon));
        #[cfg(target_arch = "x86_64")]
        {
            sets.extend(Avx2Isa::new().map(|_| Self::Avx2));
            sets.extend(Avx512Isa::new().map(|_| Self::Avx512));
        }
        sets
    }

    /// Whether its multiply-adds round once.
    pub(super) fn is_fused(self) -> bool {
        self != Self::Portable
    }

    /// Does what `SimdOp::dispatch` does where this set is the best one.
    pub(super) fn run<O: SimdOp>(self, op: O) -> O::Output {
        match self {
            Self::Portable => op.eval(GenericIsa::new()),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => op.eval(ArmNeonIsa::new().expect("an available set")),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: there is a value only where the processor has these instructions.
            Self::Avx2 => unsafe { avx2(Avx2Isa::new().expect("an available set"), op) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512 => unsafe { avx512(Avx512Isa::new().expect("an available set"), op) },
        }
    }

    /// The numbers of a vector.
    pub(super) fn len(self) -> usize {
        struct Len;
        impl SimdOp for Len {
            type Output = usize;

            #[inline(always)]
            fn eval<I: Isa>(self, isa: I) -> usize {
                rten_simd::ops::BitOps::len(isa.f32())
            }
        }
        self.run(Len)
    }

    /// Replaces each number by `f` of it.
    pub(super) fn map(self, f: &impl SimdUnaryOp<f32>, x: &mut [f32]) {
        struct Map<'a, F>(&'a F, &'a mut [f32]);
        impl<F: SimdUnaryOp<f32>> SimdOp for Map<'_, F> {
            type Output = ();

            #[inline(always)]
            fn eval<I: Isa>(self, isa: I) {
                simd_map(
                    isa.f32(),
                    self.1,
                    #[inline(always)]
                    |x| self.0.eval(isa, x),
                );
            }
        }
        self.run(Map(f, x));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<O: SimdOp>(isa: Avx2Isa, op: O) -> O::Output {
    op.eval(isa)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,f16c")]
fn avx512<O: SimdOp>(isa: Avx512Isa, op: O) -> O::Output {
    op.eval(isa)
}
