//! Batches: images decoded and augmented on other threads, in order.

use super::item::{Item, Maker};
use super::{Corpus, Epoch, Skipped};
use crate::app::Interrupt;
use crate::data::{Next, Ordered};
use crate::error::{Error, ItemError, Result};
use crate::image::Raster;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::Duration;

/// What makes a decoded image the bytes that a tower takes, (height, width, 3), always as many. It draws from the
/// generator alone.
pub type Transform = Arc<dyn Fn(&Raster, &mut ChaCha8Rng) -> Result<Vec<u8>, ItemError> + Send + Sync>;

/// What happens where an image cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// Another pair of the epoch takes its place. Which one follows from seed, epoch and position alone, so batches stay
    /// full and a run goes on exactly.
    #[default]
    Replace,
    /// It is left out: for validation.
    Drop,
    /// The job ends.
    Stop,
}

/// What batches are like. `workers` and `ahead` change nothing in them.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// How many pairs a batch has.
    pub batch_size: usize,
    /// Whether a last batch that is not full comes, too.
    pub keep_last: bool,
    /// The number of the first batch.
    pub start: usize,
    /// Which share of each batch to load, and how many shares there are: one a process.
    pub share: (usize, usize),
    /// How many negative captions to give with each pair, at most; drawn where the row has more.
    pub neg_captions: usize,
    /// The same for negative images.
    pub neg_images: usize,
    /// Whether images are read. Without them batches have no pixels.
    pub images: bool,
    /// What happens where an image cannot be read. A negative image is left out always, except for [`Failure::Stop`].
    pub failure: Failure,
    /// How many threads decode.
    pub workers: usize,
    /// How many pairs are made before anyone asks for them.
    pub ahead: usize,
    /// Asked while a batch is waited for.
    pub interrupt: Option<Interrupt>,
}

impl LoaderOptions {
    /// Batches of this size from the start, with nothing special about them.
    pub fn new(batch_size: usize, workers: usize) -> Self {
        Self {
            batch_size,
            keep_last: false,
            start: 0,
            share: (0, 1),
            neg_captions: 0,
            neg_images: 0,
            images: true,
            failure: Failure::default(),
            workers,
            ahead: batch_size.clamp(2 * workers, 64.max(2 * workers)),
            interrupt: None,
        }
    }
}

/// Some pairs, as a step takes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Its number in the epoch, from 0.
    pub number: usize,
    /// The rows.
    pub rows: Vec<u32>,
    /// Their captions.
    pub captions: Vec<String>,
    /// Their images, (pairs, height, width, 3), not normalised.
    pub pixels: Vec<u8>,
    /// For each pair, texts that do not describe its image.
    pub neg_captions: Vec<Vec<String>>,
    /// Images that captions do not describe, those of the first pair first.
    pub neg_images: Vec<NegativeImage>,
    /// The images of these, (negatives, height, width, 3).
    pub neg_pixels: Vec<u8>,
    /// What could not be read.
    pub failed: Vec<Skipped>,
}

/// A negative image in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegativeImage {
    /// The pair of the batch whose negative it is.
    pub of: u32,
    /// The row with this image, if there is one.
    pub row: Option<u32>,
    /// A caption of this row.
    pub caption: Option<String>,
    /// Negative captions of this row, as many as pairs get.
    pub neg_captions: Vec<String>,
}

/// Gives the batches of an epoch. Dropping it ends its threads.
#[derive(Debug)]
pub struct Loader {
    items: Ordered<Result<Item>>,
    options: LoaderOptions,
    /// How many pairs the epoch has.
    pairs: usize,
    next: usize,
    batches: usize,
    /// How many bytes an image has.
    bytes: Option<usize>,
}

impl Loader {
    /// Starts to read.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(corpus: &Arc<Corpus>, epoch: &Epoch, options: &LoaderOptions, transform: Transform) -> Result<Self> {
        let (size, pairs) = (options.batch_size.max(1), epoch.pairs.len());
        let options = LoaderOptions { batch_size: size, ..options.clone() };
        let batches = epoch.batches(size, options.keep_last);
        let share = options.share;
        let positions = (options.start..batches).flat_map(move |batch| shared(batch, size, pairs, share));
        let (workers, ahead) = (options.workers.max(1), options.ahead.max(1));
        let maker = Maker { corpus: corpus.clone(), epoch: epoch.clone(), options: options.clone(), transform };
        let items = Ordered::new(positions, workers, ahead, |_| 0, move |position| maker.item(position))?;
        Ok(Self { items, next: options.start, options, pairs, batches, bytes: None })
    }

    /// How many batches the epoch has.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// The next batch.
    ///
    /// # Errors
    /// If interrupted, if an image cannot be read and that is an error, or if hardly any image can be read.
    pub fn batch(&mut self) -> Result<Option<Batch>> {
        if self.next >= self.batches {
            return Ok(None);
        }
        let count = shared(self.next, self.options.batch_size, self.pairs, self.options.share).len();
        let mut batch = Batch { number: self.next, ..Batch::default() };
        for _ in 0..count {
            let item = self.item()?;
            self.add(&mut batch, item)?;
            if batch.rows.len() == 1 {
                // No more than will be needed: the images of a large batch are most of its memory.
                batch.pixels.reserve_exact(batch.pixels.len() * (count - 1));
            }
        }
        self.next += 1;
        Ok(Some(batch))
    }

    fn item(&mut self) -> Result<Item> {
        loop {
            match self.items.next(Duration::from_millis(200))? {
                Next::Ready(item) => return item,
                Next::Late => {}
                Next::End => return Err(Error::run("a thread that reads training data has died")),
            }
            if let Some(interrupt) = self.options.interrupt {
                interrupt.check()?;
            }
        }
    }

    fn add(&mut self, batch: &mut Batch, item: Item) -> Result<()> {
        batch.failed.extend(item.failed);
        let Some((pair, pixels)) = item.pair else { return Ok(()) };
        let of = batch.rows.len() as u32;
        batch.rows.push(pair.row);
        batch.captions.push(item.caption);
        batch.neg_captions.push(item.neg_captions);
        self.push(&mut batch.pixels, &pixels)?;
        for (negative, pixels) in item.negatives {
            batch.neg_images.push(NegativeImage { of, ..negative });
            self.push(&mut batch.neg_pixels, &pixels)?;
        }
        Ok(())
    }

    fn push(&mut self, all: &mut Vec<u8>, pixels: &[u8]) -> Result<()> {
        let bytes = *self.bytes.get_or_insert(pixels.len());
        if bytes != pixels.len() {
            return Err(Error::run(format!("images of {bytes} and of {} bytes in one batch", pixels.len())));
        }
        all.extend_from_slice(pixels);
        Ok(())
    }
}

/// The positions of a batch's share in the epoch.
fn shared(batch: usize, size: usize, pairs: usize, (rank, ranks): (usize, usize)) -> std::ops::Range<usize> {
    let start = batch * size;
    let len = pairs.saturating_sub(start).min(size);
    let ranks = ranks.max(1);
    start + len * rank / ranks..start + len * (rank + 1) / ranks
}
