//! Negatives from beyond the pairs of a batch, as further columns of its softmax: constants, for each query.
//!
//! Three kinds go together. A *queue* holds what the model gave for earlier batches (Wang et al. 2020, "XBM": the model's
//! own features, not those of a moving average as in MoCo). With `sample` each query meets, in place of the whole queue, a few
//! of batch and queue, drawn ∝ softmax(scale·cos) ([`multinomial`](super::multinomial)); those of the batch then count once
//! more. [`Mochi`] adds mixes of the hardest of batch and queue. What shares an image, a text, a class or a group with a
//! query is never its extra negative, whatever is done about duplicates in the batch.

use super::mochi::Mochi;
use super::multinomial::draw;
use super::queue::Queue;
use crate::error::{Error, Result};
use candle_core::{D, DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};

/// What a pair must not be the negative of: its image, its text, its class and its group; below 0 where the last two are
/// not known.
pub type PairKeys = [i64; 4];

/// Where extra negatives come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// How many pairs of earlier batches are remembered; 0 for none.
    pub queue: usize,
    /// How many negatives are drawn for each query; 0 for the whole queue.
    pub sample: usize,
    /// Mixed negatives.
    pub mochi: Option<Mochi>,
}

/// Extra negatives of some queries.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// What all queries meet, (K, dim), of unit length.
    pub shared: Option<Tensor>,
    /// What each query has for itself, (queries, M, dim), of unit length.
    pub own: Option<Tensor>,
    /// Which of them count, (queries, K + M) row by row.
    pub there: Vec<bool>,
}

/// The pairs of a batch, as constants.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Unit embeddings of images and of captions, (B, dim) each.
    pub sides: [&'a Tensor; 2],
    /// What each pair is.
    pub keys: &'a [PairKeys],
    /// What cosines are multiplied by before a softmax.
    pub scale: f64,
    /// The step, from 0.
    pub step: u64,
}

/// What gives extra negatives, and what it remembers.
#[derive(Clone, Debug)]
pub struct Extra {
    sources: Sources,
    memory: Option<Memory>,
}

/// Earlier pairs: rings that are written alike.
#[derive(Clone, Debug)]
struct Memory {
    /// Images and captions.
    sides: [Queue; 2],
    /// (capacity, 4).
    keys: Queue,
}

/// The names of the rings in a checkpoint.
const RINGS: [&str; 3] = ["images", "texts", "keys"];

impl Columns {
    /// The products of unit queries (queries, dim), scaled or not, with their extra negatives, (queries, K + M); the one
    /// place through which a gradient flows.
    ///
    /// # Errors
    /// If the shapes do not fit each other.
    pub fn products(&self, queries: &Tensor) -> Result<Option<Tensor>> {
        let shared = self.shared.as_ref().map(|shared| queries.matmul(&shared.t()?)).transpose()?;
        let own = self.own.as_ref().map(|own| own.matmul(&queries.unsqueeze(D::Minus1)?)?.squeeze(D::Minus1));
        let parts: Vec<Tensor> = shared.into_iter().chain(own.transpose()?).collect();
        Ok(if parts.is_empty() { None } else { Some(Tensor::cat(&parts, 1)?) })
    }
}

impl Extra {
    /// Nothing is remembered yet. A queue never holds more than there are `pairs` in the data, if that is known (not 0).
    ///
    /// # Errors
    /// If nothing is asked for.
    pub fn new(sources: Sources, pairs: usize) -> Result<Self> {
        let queue = if pairs == 0 { sources.queue } else { sources.queue.min(pairs) };
        if sources.queue + sources.sample == 0 && sources.mochi.is_none() {
            return Err(Error::usage("no extra negatives are asked for"));
        }
        Ok(Self { sources: Sources { queue, ..sources }, memory: None })
    }

    /// Where they come from.
    pub fn sources(&self) -> Sources {
        self.sources
    }

    /// The extra negatives of this batch: captions for images, and images for captions. The batch is remembered then.
    ///
    /// # Errors
    /// If the shapes do not fit each other, or an embedding is not finite.
    pub fn columns(&mut self, seen: Seen<'_>, rng: &mut ChaCha8Rng) -> Result<[Columns; 2]> {
        let keys = self.keys(seen.keys)?;
        let fits = Fits { own: seen.keys, all: &keys };
        let mut found = Vec::new();
        for (queries, others) in [(0, 1), (1, 0)] {
            let queries = seen.sides[queries];
            let batch = seen.sides[others];
            let queue = self.memory.as_ref().map(|memory| memory.sides[others].filled()).transpose()?;
            found.push(self.of(queries, batch, queue, &fits, seen, rng)?);
        }
        self.remember(seen)?;
        let [images, texts] = <[Columns; 2]>::try_from(found).unwrap_or_default();
        Ok([images, texts])
    }

    /// Those of one side's queries, among the other side's.
    fn of(
        &self,
        queries: &Tensor,
        batch: &Tensor,
        queue: Option<Tensor>,
        fits: &Fits<'_>,
        seen: Seen<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Columns> {
        let Sources { sample, mochi, .. } = self.sources;
        let (rows, n) = (fits.own.len(), fits.all.len());
        let allowed = fits.allowed();
        let pool = || -> Result<Tensor> {
            Ok(match &queue {
                Some(queue) => Tensor::cat(&[batch, queue], 0)?,
                None => batch.clone(),
            })
        };
        let (mut own, mut there) = (Vec::new(), vec![Vec::new(); rows]);
        let shared = if sample == 0 { queue.clone() } else { None };
        if shared.is_some() {
            // Behind the pairs of the batch come those of the queue.
            there.iter_mut().zip(allowed.chunks(n)).for_each(|(there, row)| there.extend(&row[rows..]));
        }
        if sample > 0 {
            let pool = pool()?;
            let cosines = queries.matmul(&pool.t()?)?;
            let drawn = draw(&cosines, 1.0 / seen.scale, &allowed, sample, rng)?;
            let at: Vec<u32> = drawn.iter().flat_map(|own| fill(own, sample)).collect();
            let at = Tensor::from_vec(at, rows * sample, pool.device())?;
            own.push(pool.index_select(&at, 0)?.reshape((rows, sample, pool.dim(1)?))?);
            for (there, drawn) in there.iter_mut().zip(&drawn) {
                there.extend((0..sample).map(|k| k < drawn.len()));
            }
        }
        if let Some(mochi) = mochi {
            let mask = allowed.iter().map(|may| u8::from(*may)).collect();
            let mask = Tensor::from_vec(mask, (rows, n), &Device::Cpu)?;
            if let Some(mixed) = mochi.mix(queries, &pool()?, Some(&mask), seen.step, rng)? {
                let allowed = mixed.allowed.to_device(&Device::Cpu)?.to_vec2::<u8>()?;
                there.iter_mut().zip(allowed).for_each(|(there, row)| there.extend(row.iter().map(|may| *may != 0)));
                own.push(mixed.negatives);
            }
        }
        let own = if own.is_empty() { None } else { Some(Tensor::cat(&own, 1)?) };
        Ok(Columns { shared, own, there: there.concat() })
    }

    /// What the pairs of the batch are, and behind them those of the queue.
    fn keys(&self, batch: &[PairKeys]) -> Result<Vec<PairKeys>> {
        let mut all = batch.to_vec();
        if let Some(memory) = &self.memory {
            let rows = memory.keys.filled()?.to_vec2::<i64>()?;
            all.extend(rows.into_iter().filter_map(|row| PairKeys::try_from(row).ok()));
        }
        Ok(all)
    }

    fn remember(&mut self, Seen { sides, keys, .. }: Seen<'_>) -> Result<()> {
        if self.sources.queue == 0 {
            return Ok(());
        }
        let memory = match &mut self.memory {
            Some(memory) => memory,
            None => self.memory.insert(Memory::new(self.sources.queue, sides[0])?),
        };
        let ids: Vec<i64> = keys.iter().map(|key| key[0]).collect();
        for (ring, side) in memory.sides.iter_mut().zip(sides) {
            ring.push(side, &ids)?;
        }
        memory.keys.push(&Tensor::from_vec(keys.concat(), (keys.len(), 4), &Device::Cpu)?, &ids)
    }

    /// What a checkpoint keeps.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        if let Some(memory) = &self.memory {
            for (name, ring) in RINGS.into_iter().zip(memory.sides.iter().chain([&memory.keys])) {
                all.extend(ring.state()?.into_iter().map(|(part, x)| (format!("{name}.{part}"), x)));
            }
        }
        Ok(all)
    }

    /// Takes up what [`Extra::state`] gave. Where the mixing stands follows from the step.
    ///
    /// # Errors
    /// If it is that of a queue of another size, or of another model.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        self.memory = None;
        let Some(features) = state.get("images.features").filter(|_| self.sources.queue > 0) else { return Ok(()) };
        let mut memory = Memory::new(self.sources.queue, features)?;
        let [images, texts] = &mut memory.sides;
        for (name, ring) in RINGS.into_iter().zip([images, texts, &mut memory.keys]) {
            let part =
                |(key, x): (&String, &Tensor)| Some((key.strip_prefix(name)?.strip_prefix('.')?.to_owned(), x.clone()));
            ring.restore(&state.iter().filter_map(part).collect::<HashMap<_, _>>())?;
        }
        self.memory = Some(memory);
        Ok(())
    }
}

impl Memory {
    /// Empty, for features like these (n, dim).
    fn new(capacity: usize, like: &Tensor) -> Result<Self> {
        let ring = || Queue::new(capacity, like.dim(D::Minus1)?, like.dtype(), like.device());
        Ok(Self { sides: [ring()?, ring()?], keys: Queue::new(capacity, 4, DType::I64, &Device::Cpu)? })
    }
}

/// Who is whose negative: the pairs of the batch, and all that there are.
struct Fits<'a> {
    own: &'a [PairKeys],
    all: &'a [PairKeys],
}

impl Fits<'_> {
    /// (own, all), row by row.
    fn allowed(&self) -> Vec<bool> {
        self.own.iter().flat_map(|a| self.all.iter().map(|b| !same(a, b))).collect()
    }
}

fn same(a: &PairKeys, b: &PairKeys) -> bool {
    let known = |k: usize| a[k] >= 0 && a[k] == b[k];
    a[0] == b[0] || a[1] == b[1] || known(2) || known(3)
}

/// So many numbers: these, and what is missing anything.
fn fill(own: &[u32], count: usize) -> impl Iterator<Item = u32> {
    own.iter().copied().chain(std::iter::repeat(0)).take(count)
}

#[cfg(test)]
#[path = "extra_tests.rs"]
mod tests;
