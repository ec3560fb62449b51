//! Towers in 8-bit integers, beside the same in f32.

use super::{checkpoints, embed, unit};
use clip_cli::model::{Clip, LoadOptions};

/// The least cosine between the embeddings of tiny random towers, whose maps of a few dozen inputs average little out. What
/// trained towers reach is measured by `examples/int8_quality.py`.
const LEAST: f32 = 0.99;

#[test]
fn embeddings_in_8_bits_are_near_those_in_f32() {
    for golden in checkpoints() {
        let exact = golden.clip();
        let int8 = Clip::open(golden.files(), &LoadOptions { int8: true, ..LoadOptions::default() }).unwrap();
        let dim = exact.spec.embed_dim;
        let texts = ["a photo of a dog", "two cats on a sofa, asleep", "x"];
        let of = |clip: &Clip| {
            let mut all = unit(embed(clip, golden.pixels("pixels")), dim);
            all.extend(unit(clip.embed_texts(&texts).unwrap().0, dim));
            all
        };
        for (a, b) in of(&exact).chunks(dim).zip(of(&int8).chunks(dim)) {
            let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!(cosine >= LEAST, "{}: {cosine}", golden.name());
        }
    }
}
