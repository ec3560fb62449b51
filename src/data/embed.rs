//! From items to embeddings.

use super::inputs::read_file;
use super::ordered::{Next, Ordered};
use super::{Content, Item, Items, Kind};
use crate::app::{App, Progress};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::image::{DecodeOptions, Preprocess, decode};
use crate::model::Clip;
use crate::model::spec::ImageSpec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// How items are read and how many are embedded at once. None of it changes the results but `decode`.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// How many items the tower sees at once, if the user says so.
    pub batch_size: Option<usize>,
    /// How many threads decode, if the user says so; else as many as compute.
    pub workers: Option<usize>,
    /// How image files are decoded.
    pub decode: DecodeOptions,
}

/// What became of an item.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// What the output calls the item.
    pub id: String,
    /// Which tower it was for.
    pub kind: Kind,
    /// The text that was embedded, where the id is not the text itself (a caption of a pair).
    pub text: Option<String>,
    /// Its embedding as the tower gives it, not normalised; or why there is none.
    pub result: Result<Vec<f32>, ItemError>,
}

/// What became of all items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many items there were.
    pub items: u64,
    /// How many of them have no embedding.
    pub failed: u64,
    /// How many texts were longer than the model's context and lost their end.
    pub truncated: u64,
}

/// How long the first items of a batch wait for the others. A batch may be smaller than asked: results do not depend
/// on it, and whoever writes paths into our standard input by hand sees the answers.
const LINGER: Duration = Duration::from_millis(200);

/// Embeds items and calls `each` with what became of them, in order.
///
/// An item that fails does not stop the others. An `Err` from the source, the model or `each` does, and so does Ctrl-C;
/// `each` has then seen all items before that point.
pub fn embed(
    app: &App,
    clip: &Clip,
    options: &ReadOptions,
    items: Items,
    progress: &Progress,
    each: impl FnMut(Embedded) -> Result<()>,
) -> Result<Tally> {
    let workers = options.workers.unwrap_or(app.threads).max(1);
    let size = |kind| options.batch_size.unwrap_or_else(|| automatic(clip, kind)).max(1);
    let window = size(Kind::Image) + 2 * workers;
    let (preprocess, decode) = (clip.preprocess().clone(), options.decode.clone());
    let prepare = move |item: Result<Item>| item.map(|item| prepare(item, &preprocess, &decode));
    let mut prepared = Ordered::new(items, workers, window, prepare)?;
    let mut batch =
        Batch { clip, progress, each, tally: Tally::default(), kind: Kind::Image, items: Vec::new(), ready: 0 };
    loop {
        match prepared.next(LINGER)? {
            Next::Ready(Ok(item)) => {
                if item.kind != batch.kind {
                    batch.embed()?;
                    batch.kind = item.kind;
                }
                batch.push(item);
                if batch.is_full(size(batch.kind)) {
                    batch.embed()?;
                }
            }
            Next::Late => batch.embed()?,
            Next::Ready(Err(error)) => {
                batch.embed()?;
                return Err(error);
            }
            Next::End => {
                batch.embed()?;
                return Ok(batch.tally);
            }
        }
        if app.interrupt.is_set() {
            batch.embed()?;
            return Err(Error::interrupted());
        }
    }
}

/// How many items the tower sees at once unless the user says so: enough to keep the kernels busy, few enough to stay
/// in the processor's caches and to answer soon.
fn automatic(clip: &Clip, kind: Kind) -> usize {
    let on_gpu = !clip.store().device().is_cpu();
    match (kind, on_gpu) {
        (Kind::Text, false) => 32,
        (Kind::Text, true) => 256,
        (Kind::Image, true) => 64,
        (Kind::Image, false) => match &clip.spec.image {
            ImageSpec::Vit(vit) => {
                let patches = vit.input_size.map(|side| side / vit.patch.max(1)).iter().product::<usize>();
                (1024 / patches.max(1)).clamp(4, 32)
            }
            ImageSpec::EfficientNet(_) => 8,
        },
    }
}

/// An item that only its tower is left to see.
struct Prepared {
    id: String,
    kind: Kind,
    text: Option<String>,
    input: Result<Input, ItemError>,
}

enum Input {
    Pixels(Vec<f32>),
    Text(String),
}

fn prepare(item: Item, preprocess: &Preprocess, options: &DecodeOptions) -> Prepared {
    let text = match &item.content {
        Content::Text(text) if *text != item.id => Some(text.clone()),
        _ => None,
    };
    let input = match item.content {
        Content::Failed(error) => Err(error),
        Content::Text(text) => Ok(Input::Text(text)),
        // A bug in there must cost one image, not a job of a million.
        Content::File(path) => catch_unwind(AssertUnwindSafe(|| pixels(&path, preprocess, options)))
            .unwrap_or_else(|_| Err(ItemError::new(ItemKind::Corrupt, "the image could not be preprocessed")))
            .map(Input::Pixels),
    };
    Prepared { id: item.id, kind: item.kind, text, input }
}

fn pixels(path: &Path, preprocess: &Preprocess, options: &DecodeOptions) -> Result<Vec<f32>, ItemError> {
    let bytes = read_file(path, options.max_bytes)?;
    preprocess.run(&decode(&bytes, options)?)
}

/// Items of one kind, in order.
struct Batch<'a, F> {
    clip: &'a Clip,
    progress: &'a Progress,
    each: F,
    tally: Tally,
    kind: Kind,
    items: Vec<Prepared>,
    /// How many of them have not failed yet.
    ready: usize,
}

impl<F: FnMut(Embedded) -> Result<()>> Batch<'_, F> {
    fn push(&mut self, item: Prepared) {
        self.ready += usize::from(item.input.is_ok());
        self.items.push(item);
    }

    fn is_full(&self, size: usize) -> bool {
        // Failed items wait for those before them, but a folder of them must not pile up.
        self.ready >= size || self.ready == 0 || self.items.len() >= 4 * size
    }

    /// Embeds the batch and hands out the results.
    fn embed(&mut self) -> Result<()> {
        let items = std::mem::take(&mut self.items);
        let (mut pixels, mut texts) = (Vec::new(), Vec::new());
        if self.kind == Kind::Image {
            pixels.reserve_exact(self.ready * self.clip.preprocess().len());
        }
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let result = item.input.map(|input| match input {
                Input::Pixels(image) => pixels.extend(image),
                Input::Text(text) => texts.push(text),
            });
            results.push((item.id, item.text, result));
        }
        let rows = match (self.ready, self.kind) {
            (0, _) => Vec::new(),
            (_, Kind::Image) => self.clip.embed_pixels(pixels)?,
            (_, Kind::Text) => {
                let (rows, truncated) = self.clip.embed_texts(&texts)?;
                self.tally.truncated += truncated as u64;
                rows
            }
        };
        self.ready = 0;
        let mut rows = rows.chunks_exact(self.clip.spec.embed_dim);
        self.progress.add(results.len() as u64);
        for (id, text, result) in results {
            let result = result.and_then(|()| finite(rows.next().unwrap_or_default()));
            self.tally.items += 1;
            self.tally.failed += u64::from(result.is_err());
            (self.each)(Embedded { id, kind: self.kind, text, result })?;
        }
        Ok(())
    }
}

/// An embedding, unless the tower overflowed.
fn finite(row: &[f32]) -> Result<Vec<f32>, ItemError> {
    if row.iter().all(|x| x.is_finite()) {
        Ok(row.to_vec())
    } else {
        Err(ItemError::new(ItemKind::Invalid, "the embedding has numbers that are not finite"))
    }
}
