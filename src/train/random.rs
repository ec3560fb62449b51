//! Generators: whatever is drawn follows from its purpose and some numbers, and from nothing that came before.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A generator for one purpose: its numbers follow from these alone (a seed, a step, a row).
pub(super) fn generator(purpose: &str, numbers: &[u64]) -> ChaCha8Rng {
    let mut hash = blake3::Hasher::new_derive_key(&format!("clip-cli training data: {purpose}"));
    numbers.iter().for_each(|number| {
        hash.update(&number.to_le_bytes());
    });
    ChaCha8Rng::from_seed(*hash.finalize().as_bytes())
}

/// A generator of its own for each `stream` (an epoch, a query) of a seed: quicker to make.
pub(super) fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}
