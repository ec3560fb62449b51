//! What a step sees: pairs in their order, with what is mined and made for them.

use super::Run;
use crate::error::Result;
use crate::ops::normalize::normalize_row;
use crate::train::assemble::assemble;
use crate::train::compose::Composition;
use crate::train::data::{Batch as Loaded, Failure, Loader, LoaderOptions};
use crate::train::random::generator;
use crate::train::step::Batch;
use crate::train::towers::Tower;
use crate::weights::View;

impl Run<'_> {
    pub(super) fn loader(&self, epoch: usize, first: usize) -> Result<Loader> {
        let [neg_captions, neg_images] = self.config.negatives;
        let options = LoaderOptions {
            start: first,
            share: (self.group.rank(), self.group.size()),
            neg_captions,
            neg_images,
            images: !self.features.has_images(),
            failure: Failure::Replace,
            ..LoaderOptions::new(self.config.batch_size, self.reading.workers)
        };
        let mut pairs = self.sampler.epoch(epoch as u64);
        if let Some(composition) = &self.composition {
            pairs = composition.arrange(&pairs, self.config.batch_size, self.config.seed);
        }
        Loader::new(&self.corpus, &pairs, &options, self.transform.clone())
    }

    /// At the beginning of an epoch: what its batches are composed by, of the model as it is now.
    pub(super) fn compose(&mut self, epoch: usize, first: usize) -> Result<()> {
        let Some(mining) = &self.config.mining else { return Ok(()) };
        if first > 0 || !epoch.is_multiple_of(mining.every.max(1)) {
            return Ok(());
        }
        let check = || self.interrupt.check();
        let mut images = match self.features.all_images(self.clip)? {
            Some(images) => images,
            None => self.reading.every_image(self.clip, &self.corpus, &check, Tower::embed)?.numbers,
        };
        let dim = self.clip.spec.embed_dim;
        images.chunks_exact_mut(dim).for_each(normalize_row);
        let captions: Vec<String> =
            self.corpus.rows.iter().map(|row| row.captions.first().cloned().unwrap_or_default()).collect();
        let texts = self.reading.texts(self.clip, View::Constant, &captions, &check)?;
        let mut rng = generator("compose", &[self.config.seed, epoch as u64]);
        let (sides, inside) = ([&images[..], &texts[..]], self.sampler.inside());
        let found = Composition::new(&self.corpus, sides, mining, inside, &mut rng, self.interrupt)?;
        self.composition = Some(found);
        Ok(())
    }

    /// The batch of a step, with captions that do not fit.
    pub(super) fn batch(&self, loaded: Loaded, step: usize) -> Result<Batch> {
        let mut batch = assemble(&self.corpus, loaded, self.clip.preprocess().len(), self.group)?;
        if let Some(composition) = &self.composition {
            batch.neg_texts.resize(batch.texts.len(), Vec::new());
            for ((own, &row), caption) in batch.neg_texts.iter_mut().zip(&batch.index).zip(&batch.texts) {
                own.extend(composition.captions(&self.corpus, row, caption));
            }
        }
        if let Some(negatives) = &self.negatives {
            batch.neg_texts.resize(batch.texts.len(), Vec::new());
            for (pair, text) in batch.texts.iter().enumerate() {
                // Of the pair itself, so that other pairs and processes make no difference.
                let mut rng = generator("negatives", &[self.config.seed, batch.index[pair].into(), step as u64]);
                batch.neg_texts[pair].extend(negatives(text, &mut rng));
            }
        }
        if self.objective.needs().neg_texts {
            batch.neg_texts.resize(batch.texts.len(), Vec::new());
            batch.least_negatives = 1;
        }
        batch.neg_texts_fit = self.fits.of(&self.corpus, &batch);
        Ok(batch)
    }
}
