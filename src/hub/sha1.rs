//! SHA-1 (FIPS 180-4), because git names its objects so. It guards against broken files, not against forgers: large
//! files have a SHA-256.

/// A hash over bytes that come piece by piece.
pub(super) struct Sha1 {
    state: [u32; 5],
    block: [u8; 64],
    length: u64,
}

impl Sha1 {
    pub(super) fn new() -> Self {
        let state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
        Self { state, block: [0; 64], length: 0 }
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = (self.length % 64) as usize;
            let taken = bytes.len().min(64 - filled);
            self.block[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            self.length += taken as u64;
            bytes = &bytes[taken..];
            if filled + taken == 64 {
                self.compress();
            }
        }
    }

    /// The hash as 40 hexadecimal digits.
    pub(super) fn hex(mut self) -> String {
        let bits = self.length * 8;
        let padding = 64 - ((self.length + 8) % 64) as usize;
        let mut tail = [0; 64];
        tail[0] = 0x80;
        self.update(&tail[..padding]);
        self.update(&bits.to_be_bytes());
        self.state.iter().map(|word| format!("{word:08x}")).collect()
    }

    fn compress(&mut self) {
        let mut words = [0u32; 80];
        for (word, bytes) in words.iter_mut().zip(self.block.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        for i in 16..80 {
            words[i] = (words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = self.state;
        for (i, word) in words.iter().enumerate() {
            let (mixed, constant) = match i {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc_u32),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let sum = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(constant).wrapping_add(*word);
            (a, b, c, d, e) = (sum, a, b.rotate_left(30), c, d);
        }
        for (state, new) in self.state.iter_mut().zip([a, b, c, d, e]) {
            *state = state.wrapping_add(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let hash = |pieces: &[&[u8]]| {
            let mut sha1 = Sha1::new();
            pieces.iter().for_each(|piece| sha1.update(piece));
            sha1.hex()
        };
        // The examples of FIPS 180.
        assert_eq!(hash(&[b"abc"]), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hash(&[two_blocks]), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(hash(&[&two_blocks[..7], &two_blocks[7..]]), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(hash(&[&[b'a'; 1_000_000]]), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
        // Every length of the last block.
        for length in 0..130 {
            let bytes = vec![7; length];
            assert_eq!(hash(&[&bytes]), hash(&bytes.iter().map(std::slice::from_ref).collect::<Vec<_>>()), "{length}");
        }
        assert_eq!(hash(&[]), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    }
}
