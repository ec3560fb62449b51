//! What a batch has of one pair: everything that a thread does apart from the others.

use super::{Corpus, Epoch, Failure, LoaderOptions, NegativeImage, Pair, Place, Skipped, Transform};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::image::decode;
use crate::train::random::generator;
use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What became of a pair.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) pair: Option<(Pair, Vec<u8>)>,
    pub(super) caption: String,
    pub(super) neg_captions: Vec<String>,
    pub(super) negatives: Vec<(NegativeImage, Vec<u8>)>,
    pub(super) failed: Vec<Skipped>,
}

/// How many pairs are tried in place of one that cannot be read.
const TRIES: usize = 100;

/// Makes items of pairs. It is the same for all threads.
pub(super) struct Maker {
    pub(super) corpus: Arc<Corpus>,
    pub(super) epoch: Epoch,
    pub(super) options: LoaderOptions,
    pub(super) transform: Transform,
}

impl Maker {
    pub(super) fn item(&self, position: usize) -> Result<Item> {
        let mut pair = self.epoch.pairs[position];
        let mut failed: Vec<Skipped> = Vec::new();
        let mut others = generator("replace", &[self.epoch.seed, self.epoch.number, position as u64]);
        for _ in 0..TRIES {
            let mut rng = self.generator(pair);
            let row = &self.corpus.rows[pair.row as usize];
            match self.pixels(&row.image, &mut rng) {
                Ok(pixels) => return self.finish(pair, pixels, rng, failed),
                Err(reason) => failed.push(Skipped { at: row.at.clone(), reason }),
            }
            match self.options.failure {
                Failure::Stop => return Err(stop(&failed)),
                Failure::Drop => {
                    return Ok(Item {
                        pair: None,
                        caption: String::new(),
                        neg_captions: vec![],
                        negatives: vec![],
                        failed,
                    });
                }
                Failure::Replace => {
                    pair = self.epoch.pairs[others.random_range(0..self.epoch.pairs.len() as u64) as usize];
                }
            }
        }
        Err(stop(&failed[failed.len() - 1..]).at(format!("{TRIES} images in a row cannot be read")))
    }

    /// The generator of a pair: it knows nothing of batches and positions.
    fn generator(&self, Pair { row, caption, copy }: Pair) -> ChaCha8Rng {
        generator("item", &[self.epoch.seed, self.epoch.number, row.into(), caption.into(), copy.into()])
    }

    fn finish(&self, pair: Pair, pixels: Vec<u8>, mut rng: ChaCha8Rng, mut failed: Vec<Skipped>) -> Result<Item> {
        let row = &self.corpus.rows[pair.row as usize];
        let neg_captions = some(&row.neg_captions, self.options.neg_captions, &mut rng);
        let inside = |row: Option<u32>| row.is_none_or(|row| self.epoch.inside[row as usize]);
        // What is held out is no negative either: nothing of it may be learnt.
        let usable: Vec<_> = row.neg_images.iter().filter(|negative| inside(negative.row)).cloned().collect();
        let mut negatives = Vec::new();
        for negative in some(&usable, self.options.neg_images, &mut rng) {
            let other = negative.row.map(|row| &self.corpus.rows[row as usize]);
            let caption = other.map(|other| {
                let at = rng.random_range(0..other.captions.len() as u64);
                other.captions[at as usize].clone()
            });
            let of_other = other.map(|other| some(&other.neg_captions, self.options.neg_captions, &mut rng));
            match self.pixels(&negative.image, &mut rng) {
                Ok(pixels) => negatives.push((
                    NegativeImage { of: 0, row: negative.row, caption, neg_captions: of_other.unwrap_or_default() },
                    pixels,
                )),
                Err(reason) => {
                    let reason = ItemError::new(reason.kind, format!("a negative image: {reason}"));
                    failed.push(Skipped { at: row.at.clone(), reason });
                    if self.options.failure == Failure::Stop {
                        return Err(stop(&failed));
                    }
                }
            }
        }
        let caption = row.captions[usize::from(pair.caption)].clone();
        Ok(Item { pair: Some((pair, pixels)), caption, neg_captions, negatives, failed })
    }

    fn pixels(&self, place: &Place, rng: &mut ChaCha8Rng) -> Result<Vec<u8>, ItemError> {
        if !self.options.images {
            return Ok(Vec::new());
        }
        let raster = decode(&place.read(self.corpus.decode.max_bytes)?, &self.corpus.decode)?;
        // A bug in there must cost one image, not a run of days.
        catch_unwind(AssertUnwindSafe(|| (self.transform)(&raster, rng)))
            .unwrap_or_else(|_| Err(ItemError::new(ItemKind::Corrupt, "the image could not be preprocessed")))
    }
}

/// So many of these, in their order.
fn some<T: Clone>(all: &[T], most: usize, rng: &mut ChaCha8Rng) -> Vec<T> {
    if all.len() <= most {
        return all.to_vec();
    }
    let mut chosen = index::sample(rng, all.len(), most).into_vec();
    chosen.sort_unstable();
    chosen.into_iter().map(|at| all[at].clone()).collect()
}

fn stop(failed: &[Skipped]) -> Error {
    let reason = failed.first().map(ToString::to_string).unwrap_or_default();
    Error::run(reason).hint("without --strict another row takes the place of one that cannot be read")
}
