//! Embeddings of rows and texts apart from the steps: for validation, for locked towers, and to compose batches.

use super::data::{Captions, Corpus, Failure, Loader, LoaderOptions, Sampler, Transform};
use super::features::Rows;
use super::towers::{Stream, Tower};
use crate::error::Result;
use crate::model::{Clip, to_rows};
use crate::ops::normalize::normalize_row;
use crate::weights::View;
use candle_core::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// What a tower makes of a stream.
type RunTower = fn(&Tower, &Clip, &Stream<'_>) -> Result<Tensor>;

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
        let mut all = self.rows(clip, view, corpus, rows, tick, Tower::embed)?.numbers;
        all.chunks_exact_mut(clip.spec.embed_dim).for_each(normalize_row);
        Ok(all)
    }

    /// What `run` makes of the images of *all* rows, row by row: each image is run once.
    pub(super) fn every_image(
        &self,
        clip: &Clip,
        corpus: &Arc<Corpus>,
        tick: &dyn Fn() -> Result<()>,
        run: RunTower,
    ) -> Result<Rows> {
        let firsts: Vec<u32> = corpus.by_image(&corpus.all()).iter().map(|rows| rows[0]).collect();
        let Rows { numbers, width } = self.rows(clip, View::Constant, corpus, &firsts, tick, run)?;
        let image_id = |row: u32| corpus.rows[row as usize].image_id;
        let places: HashMap<u64, &[f32]> =
            firsts.iter().map(|&row| image_id(row)).zip(numbers.chunks_exact(width.max(1))).collect();
        Ok(Rows { numbers: corpus.rows.iter().flat_map(|row| places[&row.image_id]).copied().collect(), width })
    }

    fn rows(
        &self,
        clip: &Clip,
        view: View<'_>,
        corpus: &Arc<Corpus>,
        rows: &[u32],
        tick: &dyn Fn() -> Result<()>,
        run: RunTower,
    ) -> Result<Rows> {
        let usual = LoaderOptions::new(self.micro_batch, self.workers);
        let options = LoaderOptions { keep_last: true, failure: Failure::Stop, ..usual };
        let sampler = Sampler::new(corpus, rows, Captions::First, 0);
        let mut loader = Loader::new(corpus, &sampler.in_order(), &options, self.transform.clone())?;
        let tower = Tower::image(clip, view)?;
        let mut all = Rows { numbers: Vec::new(), width: 0 };
        while let Some(batch) = loader.batch()? {
            let stream = Stream::Images { bytes: &batch.pixels, preprocess: clip.preprocess() };
            let found = run(&tower, clip, &stream)?;
            all.width = found.dim(1)?;
            all.numbers.extend(to_rows(&found)?);
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
            rows.extend(to_rows(&tower.embed(clip, &Stream::Texts(&ids))?)?);
            tick()?;
        }
        rows.chunks_exact_mut(clip.spec.embed_dim).for_each(normalize_row);
        Ok(rows)
    }
}
