//! CLIP with captions that do not fit as further columns (Yuksekgonul et al. 2023, NegCLIP).

use super::columns::both_ways;
use super::contrast::needed;
use super::{Entry, Fidelity, Head, Needs, Objective, Pairs};
use crate::error::Result;
use candle_core::Tensor;
use rand_chacha::ChaCha8Rng;

pub(super) static ENTRY: Entry = Entry {
    name: "negclip",
    equation: "½ (CE of images over all captions and all neg_captions + CE of captions over all images, and neg_images if there are any)",
    source: "Yuksekgonul et al. 2023, arXiv 2210.01936; vinid/neg_clip, src/open_clip/loss.py, src/training/train.py",
    fidelity: Fidelity::Paper,
    needs: Needs { neg_texts: true, ..Needs::NONE },
    options: &[],
    build: |_| Ok(Box::new(NegClip)),
};

struct NegClip;

impl Objective for NegClip {
    fn uses_extra(&self) -> bool {
        true
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, _: &mut ChaCha8Rng) -> Result<Tensor> {
        let texts = needed(pairs.neg_texts.as_ref(), "negclip", "captions that do not fit (`neg_caption`)")?;
        both_ways(pairs, head, &pairs.relation().targets()?, [Some(texts), pairs.neg_images.as_ref()])
    }
}
