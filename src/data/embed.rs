//! From items to embeddings.

use super::inputs::{read_caption, read_file};
use super::ordered::{Next, Ordered};
use super::{Content, Item, Items, Kind};
use crate::app::{App, Progress};
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::image::{DecodeOptions, Pixels, Preprocess, decode};
use crate::model::spec::ImageSpec;
use crate::model::{Clip, Readout};
use crate::ops::turn::{self, Turn};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How items are read, how many are embedded at once, and what is read off the towers. None of it changes the results
/// but `decode` and `readout`.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// How many items the tower sees at once, if the user says so.
    pub batch_size: Option<usize>,
    /// How many threads decode, if the user says so; else as many as compute.
    pub workers: Option<usize>,
    /// How image files are decoded.
    pub decode: DecodeOptions,
    /// What is read off the towers.
    pub readout: Readout,
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
    /// Its embedding as the tower gives it, not normalised, or what else is read off the tower (tokens one after
    /// another); or why there is none.
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
    let weight = |item: &Result<Item>| item.as_ref().map_or(0, Item::weight);
    let prepare = move |item: Result<Item>| item.map(|item| prepare(item, &preprocess, &decode));
    let mut prepared = Ordered::new(items, workers, window, weight, prepare)?;
    let mut queue = Queue {
        clip,
        readout: &options.readout,
        progress,
        each,
        tally: Tally::default(),
        places: VecDeque::new(),
        first: 0,
        images: Batch::new(size(Kind::Image)),
        texts: Batch::new(size(Kind::Text)),
    };
    loop {
        match prepared.next(LINGER)? {
            Next::Ready(Ok(item)) => queue.push(item)?,
            Next::Late => queue.flush()?,
            Next::Ready(Err(error)) => {
                queue.flush()?;
                return Err(error);
            }
            Next::End => {
                queue.flush()?;
                return Ok(queue.tally);
            }
        }
        if app.interrupt.is_set() {
            queue.flush()?;
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
            _ => 8,
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
    Pixels(Pixels),
    Text(String),
}

fn prepare(item: Item, preprocess: &Preprocess, options: &DecodeOptions) -> Prepared {
    let Item { id, kind, content } = item;
    // A bug in there must cost one image, not a job of a million.
    let input = catch_unwind(AssertUnwindSafe(|| input(content, preprocess, options)))
        .unwrap_or_else(|_| Err(ItemError::new(ItemKind::Corrupt, "the image could not be preprocessed")));
    let text = match &input {
        Ok(Input::Text(text)) if *text != id => Some(text.clone()),
        _ => None,
    };
    Prepared { id, kind, text, input }
}

fn input(content: Content, preprocess: &Preprocess, options: &DecodeOptions) -> Result<Input, ItemError> {
    let bytes = match content {
        Content::Failed(error) => return Err(error),
        Content::Text(text) => return Ok(Input::Text(text)),
        Content::TextFile(path) => return read_caption(&path).map(Input::Text),
        Content::File(path) => read_file(&path, options.max_bytes)?,
        Content::Bytes(bytes) => bytes,
        Content::Span(span) => span.read(options.max_bytes)?,
        Content::Pixels(raster) => return preprocess.run(&raster).map(Input::Pixels),
    };
    // Reading went on beside the towers; from here on there is something to compute.
    turn::wait();
    preprocess.run(&decode(&bytes, options)?).map(Input::Pixels)
}

/// Items that wait for their towers, and results that wait for those before them. Images and texts may alternate: each
/// kind fills a batch of its own.
struct Queue<'a, F> {
    clip: &'a Clip,
    readout: &'a Readout,
    progress: &'a Progress,
    each: F,
    tally: Tally,
    /// What was not handed out yet, in order.
    places: VecDeque<Place>,
    /// The number of the first of these places, counted from the first item.
    first: usize,
    images: Batch<Pixels>,
    texts: Batch<String>,
}

/// The place of an item in the order; its result comes with its batch.
struct Place {
    id: String,
    kind: Kind,
    text: Option<String>,
    result: Option<Result<Vec<f32>, ItemError>>,
}

/// Inputs of one kind, and the numbers of their places.
struct Batch<T> {
    size: usize,
    inputs: Vec<T>,
    numbers: Vec<usize>,
}

impl<T> Batch<T> {
    fn new(size: usize) -> Self {
        Self { size, inputs: Vec::new(), numbers: Vec::new() }
    }

    fn push(&mut self, input: T, number: usize) {
        self.inputs.push(input);
        self.numbers.push(number);
    }

    fn is_full(&self) -> bool {
        self.inputs.len() >= self.size
    }

    fn take(&mut self) -> (Vec<T>, Vec<usize>) {
        (std::mem::take(&mut self.inputs), std::mem::take(&mut self.numbers))
    }
}

impl<F: FnMut(Embedded) -> Result<()>> Queue<'_, F> {
    fn push(&mut self, item: Prepared) -> Result<()> {
        let number = self.first + self.places.len();
        let result = match item.input {
            Ok(Input::Pixels(pixels)) => {
                self.images.push(pixels, number);
                None
            }
            Ok(Input::Text(text)) => {
                self.texts.push(text, number);
                None
            }
            Err(error) => Some(Err(error)),
        };
        self.places.push_back(Place { id: item.id, kind: item.kind, text: item.text, result });
        if self.images.is_full() {
            self.embed_images()?;
        }
        if self.texts.is_full() {
            self.embed_texts()?;
        }
        // Results wait for a batch before them, but a million texts behind one image must not pile up.
        if self.places.len() >= 4 * self.images.size.max(self.texts.size) {
            return self.flush();
        }
        self.hand_out()
    }

    /// Embeds all that waits and hands it out.
    fn flush(&mut self) -> Result<()> {
        self.embed_images()?;
        self.embed_texts()?;
        self.hand_out()
    }

    fn embed_images(&mut self) -> Result<()> {
        let (images, numbers) = self.images.take();
        if images.is_empty() {
            return Ok(());
        }
        let _turn = self.turn();
        let rows = self.clip.read_images(images, self.readout)?;
        self.fill(&numbers, rows);
        Ok(())
    }

    fn embed_texts(&mut self) -> Result<()> {
        let (texts, numbers) = self.texts.take();
        if texts.is_empty() {
            return Ok(());
        }
        let _turn = self.turn();
        let (rows, truncated) = self.clip.read_texts(&texts, self.readout)?;
        self.tally.truncated += truncated as u64;
        self.fill(&numbers, rows);
        Ok(())
    }

    /// Keeps the decoders waiting, if the towers compute on their processors.
    fn turn(&self) -> Option<Turn> {
        self.clip.store().device().is_cpu().then(Turn::take)
    }

    fn fill(&mut self, numbers: &[usize], rows: Vec<Vec<f32>>) {
        for (number, row) in numbers.iter().zip(rows) {
            self.places[number - self.first].result = Some(finite(row));
        }
    }

    /// Hands out results up to the first item that still waits for its tower.
    fn hand_out(&mut self) -> Result<()> {
        while let Some(place) = self.places.pop_front_if(|place| place.result.is_some()) {
            let Place { id, kind, text, result: Some(result) } = place else { break };
            self.first += 1;
            self.progress.add(1);
            self.tally.items += 1;
            self.tally.failed += u64::from(result.is_err());
            (self.each)(Embedded { id, kind, text, result })?;
        }
        Ok(())
    }
}

/// An embedding, unless the tower overflowed.
fn finite(row: Vec<f32>) -> Result<Vec<f32>, ItemError> {
    if row.iter().all(|x| x.is_finite()) {
        Ok(row)
    } else {
        Err(ItemError::new(ItemKind::Invalid, "the embedding has numbers that are not finite"))
    }
}
