//! Generators: whatever is drawn follows from its purpose and some numbers, and from nothing that came before.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A generator for one purpose: its numbers follow from these bytes alone, one part behind the other.
pub(crate) fn keyed(purpose: &str, parts: &[&[u8]]) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new_derive_key(purpose);
    parts.iter().for_each(|part| {
        hash.update(part);
    });
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}

/// The same for a purpose of training, of a seed, a step, a row.
pub(super) fn generator(purpose: &str, numbers: &[u64]) -> ChaCha8Rng {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    keyed(&format!("clip-cli training data: {purpose}"), &[&bytes])
}

/// A generator of its own for each `stream` (an epoch, a query) of a seed: quicker to make.
pub(super) fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn numbers_stay_what_they_are() {
        // Runs go on, and documented figures come out again, only as long as these do not change.
        let first = |mut rng: ChaCha8Rng| rng.next_u64();
        assert_eq!(first(generator("step", &[1, 2])), 0xb341_5457_c64b_683b);
        assert_eq!(
            first(keyed("clip-cli tune", &[b"order", &7u64.to_le_bytes(), &3u64.to_le_bytes()])),
            0xc6ae_5948_564e_93c1
        );
    }
}
