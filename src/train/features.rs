//! What goes into the projection heads, kept where nothing below them is trained: images and texts are run once.

use super::towers::{Stream, Tower};
use crate::error::Result;
use crate::model::{Clip, to_rows};
use crate::weights::View;
use candle_core::{Device, Tensor};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// Features of the data set's images, and of the texts that were seen.
#[derive(Debug, Default)]
pub struct Features {
    images: Option<Rows>,
    texts: Option<RefCell<HashMap<String, Box<[f32]>>>>,
}

/// Rows of numbers, one after the other.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) numbers: Vec<f32>,
    pub(super) width: usize,
}

/// How many numbers of texts are kept at most: 1 GiB.
const MOST: usize = 1 << 28;

impl Features {
    /// Keeps those of texts from now on.
    pub fn keep_texts(&mut self) {
        self.texts = Some(RefCell::default());
    }

    /// Keeps those of the images: `width` numbers for each pair of the data set.
    pub fn keep_images(&mut self, numbers: Vec<f32>, width: usize) {
        self.images = Some(Rows { numbers, width });
    }

    /// Whether those of images are kept.
    pub(super) fn has_images(&self) -> bool {
        self.images.is_some()
    }

    /// Those of the images of these pairs, (pairs, features), if they are kept.
    pub(super) fn images(&self, clip: &Clip, pairs: &[u32]) -> Result<Option<Tensor>> {
        let Some(Rows { numbers, width }) = &self.images else { return Ok(None) };
        let rows = pairs.iter().flat_map(|&pair| &numbers[pair as usize * width..][..*width]);
        tensor(clip, rows.copied().collect(), [pairs.len(), *width]).map(Some)
    }

    /// Embeddings of all images as the projection head is now, row by row, not normalised, if features are kept.
    pub(super) fn all_images(&self, clip: &Clip) -> Result<Option<Vec<f32>>> {
        let Some(Rows { numbers, width }) = &self.images else { return Ok(None) };
        let rows = tensor(clip, numbers.clone(), [numbers.len() / (*width).max(1), *width])?;
        to_rows(&clip.image_projection(View::Constant)?.forward(&rows)?).map(Some)
    }

    /// Those of these texts, (texts, features), if they are kept; those that are not known yet are computed, so many at a
    /// time.
    pub(super) fn texts(&self, clip: &Clip, texts: &[&str], micro_batch: usize) -> Result<Option<Tensor>> {
        let Some(known) = &self.texts else { return Ok(None) };
        let mut known = known.borrow_mut();
        if known.values().next().is_some_and(|row| row.len() * known.len() > MOST) {
            known.clear();
        }
        let new: BTreeSet<&str> = texts.iter().copied().filter(|text| !known.contains_key(*text)).collect();
        let new = Vec::from_iter(new);
        if !new.is_empty() {
            let (tower, tokenizer) = (Tower::text(clip, View::Constant)?, clip.tokenizer()?);
            for texts in new.chunks(micro_batch.max(1)) {
                let ids = tokenizer.0.batch(texts, &tokenizer.1)?;
                let found = tower.features(clip, &Stream::Texts(&ids))?;
                let (width, found) = (found.dim(1)?, to_rows(&found)?);
                known.extend(texts.iter().zip(found.chunks(width)).map(|(text, row)| ((*text).to_owned(), row.into())));
            }
        }
        let rows: Vec<&[f32]> = texts.iter().map(|text| &*known[*text]).collect();
        let width = rows.first().map_or(0, |row| row.len());
        tensor(clip, rows.concat(), [texts.len(), width]).map(Some)
    }
}

fn tensor(clip: &Clip, numbers: Vec<f32>, shape: [usize; 2]) -> Result<Tensor> {
    let rows = Tensor::from_vec(numbers, (shape[0], shape[1]), &Device::Cpu)?;
    Ok(rows.to_device(clip.store().device())?.to_dtype(clip.store().dtype())?)
}
