//! Embeddings of rows and texts apart from the steps: for validation, for locked towers, and to compose batches.

use super::data::{Captions, Corpus, Failure, Loader, LoaderOptions, Sampler, Transform};
use super::towers::{Stream, Tower};
use crate::error::Result;
use crate::model::Clip;
use crate::ops::normalize::normalize_row;
use crate::weights::View;
use candle_core::{DType, Device};
use std::collections::HashMap;
use std::sync::Arc;

/// How images and texts are read and embedded.
#[derive(Clone)]
pub struct Reading {
    /// How an image becomes what the tower takes.
    pub transform: Transform,
    /// How many threads decode.
    pub workers: usize,
    /// How many items go through a tower at once.
    pub micro_batch: usize,
}

impl Reading {
    /// Unit embeddings of the images of these rows, in their order; each row is of another image. One that cannot be read
    /// ends it: no number could stand for it. `tick` is called after each micro-batch.
    pub(super) fn images(
        &self,
        clip: &Clip,
        view: View<'_>,
        corpus: &Arc<Corpus>,
        rows: &[u32],
        tick: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<f32>> {
        let mut all = self.raw_images(clip, view, corpus, rows, tick)?;
        all.chunks_exact_mut(clip.spec.embed_dim).for_each(normalize_row);
        Ok(all)
    }

    /// Embeddings of the images of *all* rows as the tower gives them, row by row: each image is run once.
    pub(super) fn every_image(
        &self,
        clip: &Clip,
        corpus: &Arc<Corpus>,
        tick: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<f32>> {
        let dim = clip.spec.embed_dim;
        let firsts: Vec<u32> = corpus.by_image(&corpus.all()).iter().map(|rows| rows[0]).collect();
        let found = self.raw_images(clip, View::Constant, corpus, &firsts, tick)?;
        let image_id = |row: u32| corpus.rows[row as usize].image_id;
        let places: HashMap<u64, &[f32]> =
            firsts.iter().map(|&row| image_id(row)).zip(found.chunks_exact(dim)).collect();
        Ok(corpus.rows.iter().flat_map(|row| places[&row.image_id]).copied().collect())
    }

    fn raw_images(
        &self,
        clip: &Clip,
        view: View<'_>,
        corpus: &Arc<Corpus>,
        rows: &[u32],
        tick: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<f32>> {
        let usual = LoaderOptions::new(self.micro_batch, self.workers);
        let options = LoaderOptions { keep_last: true, failure: Failure::Stop, ..usual };
        let sampler = Sampler::new(corpus, rows, Captions::First, 0);
        let mut loader = Loader::new(corpus, &sampler.in_order(), &options, self.transform.clone())?;
        let tower = Tower::image(clip, view)?;
        let mut all = Vec::with_capacity(rows.len() * clip.spec.embed_dim);
        while let Some(batch) = loader.batch()? {
            let stream = Stream::Images { bytes: &batch.pixels, preprocess: clip.preprocess() };
            all.extend(embed(&tower, clip, &stream)?);
            tick()?;
        }
        Ok(all)
    }

    /// Unit embeddings of texts, row by row.
    pub(super) fn texts(
        &self,
        clip: &Clip,
        view: View<'_>,
        texts: &[String],
        tick: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<f32>> {
        let tower = Tower::text(clip, view)?;
        let tokenizer = clip.tokenizer()?;
        let mut rows = Vec::with_capacity(texts.len() * clip.spec.embed_dim);
        for texts in texts.chunks(self.micro_batch) {
            let ids = tokenizer.0.batch(texts, &tokenizer.1)?;
            rows.extend(embed(&tower, clip, &Stream::Texts(&ids))?);
            tick()?;
        }
        rows.chunks_exact_mut(clip.spec.embed_dim).for_each(normalize_row);
        Ok(rows)
    }
}

fn embed(tower: &Tower, clip: &Clip, stream: &Stream<'_>) -> Result<Vec<f32>> {
    let rows = tower.forward(clip, stream, 0..stream.len(), false)?.embeddings;
    Ok(rows.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}
