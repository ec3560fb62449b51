//! What a run mines of its own data: batches of neighbours, batches of one cluster, and captions that nearly fit.

use super::config::MiningConfig;
use super::data::{Corpus, Epoch, Row};
use super::negatives::cluster::KMeans;
use super::negatives::{Guard, Keys, Options, Side, batch, cluster, mine, text_id};
use crate::app::{Interrupt, Progress};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// How many neighbours of each row are remembered to put one of them beside it.
const NEIGHBOURS: usize = 8;
/// A caption as near as this to the caption of a pair says the same: `negatives mine` has the same bound.
const NEAR_DUPLICATE: f32 = 0.99;

/// What the numbers of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Rows whose captions are near: they come together.
    Hard,
    /// Its cluster.
    Cluster,
    /// Rows whose captions are near: those are captions that do not fit it.
    Columns,
}

/// What was mined: for each row of the data its neighbours, or its cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Composition {
    kind: Kind,
    /// How many numbers a row has.
    each: usize,
    /// For each row as many; `rows.len()` where there is none.
    numbers: Vec<u32>,
}

impl Kind {
    fn of(mining: &MiningConfig) -> Self {
        match mining.batches.as_str() {
            "cluster" => Self::Cluster,
            "columns" => Self::Columns,
            _ => Self::Hard,
        }
    }
}

impl Composition {
    /// Each row's nearest captions of other rows, or its cluster by image and caption side by side. `images` and `texts`
    /// are unit embeddings of all rows; of those that are not trained on (`inside`) no caption is anyone's negative.
    pub(super) fn new(
        corpus: &Corpus,
        [images, texts]: [&[f32]; 2],
        mining: &MiningConfig,
        inside: &[bool],
        rng: &mut ChaCha8Rng,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let (rows, kind) = (corpus.rows.len(), Kind::of(mining));
        let dim = texts.len() / rows.max(1);
        if kind == Kind::Cluster {
            let both = images.chunks_exact(dim).zip(texts.chunks_exact(dim));
            let samples: Vec<f32> = both.flat_map(|(image, text)| [image, text].concat()).collect();
            let count = mining.clusters.min(rows);
            let found = KMeans { clusters: count, ..KMeans::default() }.fit(&samples, 2 * dim, rng)?;
            return Ok(Self { kind, each: 1, numbers: found.labels });
        }
        // What is no number is nobody's neighbour.
        let mut texts = texts.to_vec();
        let outside = texts.chunks_exact_mut(dim).zip(inside).filter(|(_, inside)| !**inside);
        outside.for_each(|(text, _)| text.fill(f32::NAN));
        let (each, near_duplicate) = match kind {
            Kind::Columns => (mining.captions, Some(NEAR_DUPLICATE)),
            _ => (NEIGHBOURS, None),
        };
        let (of_images, of_texts) = (image_keys(corpus), text_keys(corpus));
        let options = Options { num_negatives: each, near_duplicate, ..Options::default() };
        let images = Side { embeddings: images, dim, keys: &of_images };
        let texts = Side { embeddings: &texts, dim, keys: &of_texts };
        let found = mine(images, Some(texts), &options, rng, interrupt, &Progress::hidden())?;
        let mut numbers = vec![rows as u32; rows * each];
        for (place, hits) in numbers.chunks_exact_mut(each).zip(&found.negatives) {
            place.iter_mut().zip(hits).for_each(|(to, hit)| *to = hit.position as u32);
        }
        Ok(Self { kind, each, numbers })
    }

    /// As many captions for each row as there would be, of whatever rows: what a step costs before anything is mined.
    pub(super) fn stand_in(rows: usize, mining: &MiningConfig) -> Option<Self> {
        let (kind, each) = (Kind::of(mining), mining.captions);
        let others = |row: usize| (1..=each).map(move |k| ((row + k) % rows) as u32);
        (kind == Kind::Columns).then(|| Self { kind, each, numbers: (0..rows).flat_map(others).collect() })
    }

    /// An epoch in the order of this composition.
    pub(super) fn arrange(&self, epoch: &Epoch, batch_size: usize, seed: u64) -> Epoch {
        let order = match self.kind {
            Kind::Columns => return epoch.clone(),
            Kind::Cluster => {
                let labels: Vec<u32> = epoch.pairs.iter().map(|pair| self.of_row(pair.row)[0]).collect();
                cluster::order(&labels, batch_size, seed, epoch.number)
            }
            Kind::Hard => {
                let mut places: HashMap<u32, u32> = HashMap::new();
                for (place, pair) in epoch.pairs.iter().enumerate() {
                    places.entry(pair.row).or_insert(place as u32);
                }
                let near = |row| self.of_row(row).iter().filter_map(|other| places.get(other).copied()).collect();
                let neighbours: Vec<Vec<u32>> = epoch.pairs.iter().map(|pair| near(pair.row)).collect();
                batch::order(&neighbours, batch_size, seed, epoch.number)
            }
        };
        epoch.arranged(&order)
    }

    /// The captions that nearly fit a row, if that is what was mined; none that is `caption` up to case and space.
    pub(super) fn captions<'a>(
        &'a self,
        corpus: &'a Corpus,
        row: u32,
        caption: &str,
    ) -> impl Iterator<Item = String> + use<'a> {
        let own = text_id(caption);
        let near = if self.kind == Kind::Columns { self.of_row(row) } else { &[] };
        let captions = near.iter().filter_map(|&other| corpus.rows.get(other as usize)?.captions.first());
        captions.filter(move |other| text_id(other) != own).cloned()
    }

    fn of_row(&self, row: u32) -> &[u32] {
        &self.numbers[row as usize * self.each..][..self.each]
    }

    /// As numbers of a checkpoint: rows below 2^24 are exact.
    pub(super) fn tensor(&self) -> Result<Tensor> {
        let numbers: Vec<f32> = self.numbers.iter().map(|&number| number as f32).collect();
        Ok(Tensor::from_vec(numbers, (self.numbers.len() / self.each.max(1), self.each), &Device::Cpu)?)
    }

    /// Takes up what [`Composition::tensor`] gave, for data of so many rows.
    pub(super) fn of(tensor: &Tensor, mining: &MiningConfig, rows: usize) -> Result<Self> {
        let (count, each) = tensor.dims2()?;
        if count != rows || each == 0 {
            return Err(Error::run("what the checkpoint says of mined negatives does not fit the data"));
        }
        let numbers = tensor.flatten_all()?.to_vec1::<f32>()?.iter().map(|&number| number as u32).collect();
        Ok(Self { kind: Kind::of(mining), each, numbers })
    }
}

/// What the image of each row must not have as a negative: all captions of all rows with that image, and what shares its
/// class or group.
fn image_keys(corpus: &Corpus) -> Keys {
    let mut texts: HashMap<u64, Vec<u64>> = HashMap::new();
    for row in &corpus.rows {
        texts.entry(row.image_id).or_default().extend(row.captions.iter().map(|caption| text_id(caption)));
    }
    let of = |id| texts.get(&id).into_iter().flatten().copied();
    let keys = corpus.rows.iter().enumerate();
    let keys =
        keys.flat_map(|(at, row)| own_keys(at, row).chain(of(row.image_id).map(move |id| (at, Guard::Text, id))));
    Keys::new(corpus.rows.len(), keys)
}

/// The same for the first caption of each row.
fn text_keys(corpus: &Corpus) -> Keys {
    let keys = corpus.rows.iter().enumerate().flat_map(|(at, row)| {
        let text = row.captions.first().map(|caption| (at, Guard::Text, text_id(caption)));
        own_keys(at, row).chain(text)
    });
    Keys::new(corpus.rows.len(), keys)
}

fn own_keys(at: usize, row: &Row) -> impl Iterator<Item = (usize, Guard, u64)> + use<> {
    let label = row.label.map(|label| (at, Guard::Label, u64::from(label)));
    let group = row.group.map(|group| (at, Guard::Group, u64::from(group)));
    [Some((at, Guard::Image, row.image_id)), label, group].into_iter().flatten()
}
