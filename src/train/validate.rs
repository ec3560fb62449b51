//! What was learnt, and what was lost: retrieval among held-out pairs, and how much of the start's view of images is left.

use super::data::Corpus;
use super::embed::Reading;
use crate::error::Result;
use crate::eval::retention::{Retention, Side, retention};
use crate::eval::retrieval::{Retrieval, retrieval};
use crate::model::{Clip, Head};
use crate::weights::View;
use candle_core::DType;
use std::collections::HashMap;
use std::sync::Arc;

/// Held-out pairs, and what the start made of them.
pub struct Validation {
    corpus: Arc<Corpus>,
    /// One row for each image.
    images: Vec<u32>,
    texts: Vec<String>,
    image_of_text: Vec<usize>,
    /// Prompts of the classes that retention is measured over.
    prompts: Vec<String>,
    start: Option<Seen>,
    labelled: Option<Labelled>,
    reading: Reading,
}

/// Images whose class is known.
struct Labelled {
    corpus: Arc<Corpus>,
    /// One prompt for each class.
    prompts: Vec<String>,
    /// The share that the start put into the right class.
    before: f64,
}

/// What a model makes of the held-out images.
#[derive(Clone, Debug)]
struct Seen {
    /// Unit embeddings of the images.
    images: Vec<f32>,
    /// Those of the classes' prompts.
    classes: Vec<f32>,
    head: Head,
}

/// What a validation found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Retrieval both ways.
    pub retrieval: Retrieval,
    /// How much of the start is left.
    pub retention: Option<Retention>,
    /// The accuracy on images whose class is known, of the start and now.
    pub accuracy: Option<[f64; 2]>,
}

impl Found {
    /// The mean of both recalls at 1.
    pub fn score(&self) -> f64 {
        let first = |recall: &[f64]| recall.first().copied().unwrap_or(0.0);
        0.5 * (first(&self.retrieval.image_retrieval.recall) + first(&self.retrieval.text_retrieval.recall))
    }

    /// How much of the accuracy is gone.
    pub fn lost(&self) -> f64 {
        self.accuracy.map_or(0.0, |[before, now]| before - now)
    }

    /// The share of images that the start put into another class.
    pub fn disagreement(&self) -> f64 {
        self.retention.as_ref().map_or(0.0, |retention| 1.0 - retention.agreement)
    }
}

impl Validation {
    /// Prepares these rows of the data. `prompts` are those of the classes that retention is measured over.
    pub fn new(corpus: &Arc<Corpus>, rows: &[u32], prompts: Vec<String>, reading: Reading) -> Self {
        let mut places: HashMap<u64, usize> = HashMap::new();
        let (mut images, mut texts, mut image_of_text) = (Vec::new(), Vec::new(), Vec::new());
        for &row in rows {
            let of = &corpus.rows[row as usize];
            let place = *places.entry(of.image_id).or_insert_with(|| {
                images.push(row);
                images.len() - 1
            });
            for caption in of.captions.iter() {
                texts.push(caption.clone());
                image_of_text.push(place);
            }
        }
        let corpus = corpus.clone();
        Self { corpus, images, texts, image_of_text, prompts, start: None, labelled: None, reading }
    }

    /// Also measures the accuracy on images of known classes, each class in this prompt.
    pub fn with_labelled(mut self, corpus: Corpus, prompts: Vec<String>) -> Self {
        self.labelled = Some(Labelled { corpus: Arc::new(corpus), prompts, before: 0.0 });
        self
    }

    /// How many images there are.
    pub fn images(&self) -> usize {
        self.images.len()
    }

    /// Takes a model as the one that others are compared with.
    pub fn begin(&mut self, clip: &Clip, tick: &dyn Fn() -> Result<()>) -> Result<()> {
        let images = self.reading.images(clip, View::Constant, &self.corpus, &self.images, tick)?;
        self.start = Some(self.seen(clip, View::Constant, images, tick)?);
        if let Some(before) = self.accuracy(clip, View::Constant, tick)?
            && let Some(labelled) = &mut self.labelled
        {
            labelled.before = before;
        }
        Ok(())
    }

    /// Measures the model as it is now. Recalls are at 1, 5 and 10.
    pub fn measure(&self, clip: &Clip, view: View<'_>, tick: &dyn Fn() -> Result<()>) -> Result<Found> {
        let dim = clip.spec.embed_dim;
        let images = self.reading.images(clip, view, &self.corpus, &self.images, tick)?;
        let texts = self.reading.texts(clip, view, &self.texts, tick)?;
        let retrieval = retrieval(&images, &texts, dim, &self.image_of_text, &[1, 5, 10]);
        let retention = match &self.start {
            Some(start) if !self.prompts.is_empty() => {
                let now = self.seen(clip, view, images, tick)?;
                Some(retention(&start.side(dim), &now.side(dim)))
            }
            _ => None,
        };
        let before = self.labelled.as_ref().map(|labelled| labelled.before);
        let accuracy = before.zip(self.accuracy(clip, view, tick)?).map(|(before, now)| [before, now]);
        Ok(Found { retrieval, retention, accuracy })
    }

    fn seen(&self, clip: &Clip, view: View<'_>, images: Vec<f32>, tick: &dyn Fn() -> Result<()>) -> Result<Seen> {
        let classes = self.reading.texts(clip, view, &self.prompts, tick)?;
        let (scale, bias) = clip.head_tensors(view)?;
        let number = |x: candle_core::Tensor| -> Result<f32> { Ok(x.to_dtype(DType::F32)?.to_scalar::<f32>()?) };
        let bias = bias.map(number).transpose()?.unwrap_or(0.0);
        Ok(Seen { images, classes, head: Head { scale: number(scale)?.exp(), bias, objective: clip.spec.objective } })
    }

    /// The share of images of known classes whose nearest prompt is their class's.
    fn accuracy(&self, clip: &Clip, view: View<'_>, tick: &dyn Fn() -> Result<()>) -> Result<Option<f64>> {
        let Some(Labelled { corpus, prompts, .. }) = &self.labelled else { return Ok(None) };
        let dim = clip.spec.embed_dim;
        let head = self.reading.texts(clip, view, prompts, tick)?;
        let images = self.reading.images(clip, view, corpus, &corpus.all(), tick)?;
        let nearest = |image: &[f32]| {
            let scores = head.chunks_exact(dim).map(|class| image.iter().zip(class).map(|(a, b)| a * b).sum::<f32>());
            // The first of equal ones.
            scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))).map(|(class, _)| class as u32)
        };
        let right = images.chunks_exact(dim).zip(&corpus.rows).filter(|(image, row)| nearest(image) == row.label);
        Ok(Some(right.count() as f64 / corpus.rows.len() as f64))
    }
}

impl Seen {
    fn side(&self, dim: usize) -> Side<'_> {
        let Head { scale, bias, objective } = self.head;
        Side { images: &self.images, head: &self.classes, dim, scale, bias, objective }
    }
}
