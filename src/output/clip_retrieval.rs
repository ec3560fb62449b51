//! clip-retrieval's folder: `img_emb/img_emb_0.npy`, `text_emb/text_emb_0.npy` and `metadata/metadata_0.parquet`, whose
//! rows belong together.

use super::errors::{ErrorLog, Place};
use super::npy::Matrix;
use super::parquet::write_texts;
use super::{Counts, Format, Header, OutputDtype, Shape, Sink, Target, restore, state, write_line};
use crate::data::{Embedded, Kind, Line, Lines, Separator};
use crate::error::{Error, ItemError, ItemKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// Images, texts, or pairs of both; numbers are f16, as clip-retrieval's own are.
pub(super) struct ClipRetrieval;

const IMAGES: &str = "img_emb/img_emb_0.npy";
const TEXTS: &str = "text_emb/text_emb_0.npy";
const METADATA: &str = "metadata/metadata_0.parquet";

/// Where the rows of the metadata wait until all are there.
const WAITING: &str = "metadata/rows.jsonl";

/// A waiting row longer than this is refused.
const MAX_ROW_BYTES: usize = 16 << 20;

impl Format for ClipRetrieval {
    fn name(&self) -> &'static str {
        "clip-retrieval"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &[]
    }

    fn about(&self) -> &'static str {
        "a folder as clip-retrieval's `inference` writes it, in f16: of images, of texts, or of pairs"
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn dtype(&self, _: OutputDtype) -> OutputDtype {
        OutputDtype::F16
    }

    fn open(&self, folder: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        let state: State = restore(state)?;
        Ok(Box::new(Rows {
            images: Matrix::open(folder.reopen_inside(IMAGES)?, header, state.images)?,
            texts: Matrix::open(folder.reopen_inside(TEXTS)?, header, state.texts)?,
            metadata: folder.inside(WAITING, state.metadata)?,
            errors: ErrorLog::open(&folder, Place::Inside, state.errors)?,
            folder,
            held: state.held.map(Held::release),
            paired: state.paired,
            items: state.items,
        }))
    }
}

// Files are dropped before their folder.
struct Rows {
    images: Matrix,
    texts: Matrix,
    metadata: Target,
    errors: ErrorLog,
    folder: Target,
    /// An image whose captions may come next.
    held: Option<Embedded>,
    /// Whether one of them has come.
    paired: bool,
    /// How many items were given out to the files.
    items: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    images: u64,
    texts: u64,
    metadata: u64,
    errors: u64,
    items: u64,
    held: Option<Held>,
    paired: bool,
}

/// An image that waits, exactly: its numbers are bits.
#[derive(Serialize, Deserialize)]
struct Held {
    id: String,
    text: Option<String>,
    result: Result<Vec<u32>, (String, String)>,
}

impl Held {
    fn keep(item: &Embedded) -> Self {
        let result = match &item.result {
            Ok(numbers) => Ok(numbers.iter().map(|x| x.to_bits()).collect()),
            Err(error) => Err((error.kind.name().to_owned(), error.message.clone())),
        };
        Self { id: item.id.clone(), text: item.text.clone(), result }
    }

    fn release(self) -> Embedded {
        let result = match self.result {
            Ok(bits) => Ok(bits.into_iter().map(f32::from_bits).collect()),
            Err((kind, message)) => Err(ItemError::new(ItemKind::from_name(&kind), message)),
        };
        Embedded { id: self.id, kind: Kind::Image, text: self.text, result }
    }
}

/// A row of the metadata: where the image is, what the caption says.
#[derive(Serialize, Deserialize)]
struct Row(Option<String>, Option<String>);

impl Rows {
    /// Writes the image that waits, unless it has a row.
    fn flush(&mut self) -> Result<()> {
        match (self.held.take(), std::mem::take(&mut self.paired)) {
            (Some(image), false) => self.row(Some(&image), None),
            _ => Ok(()),
        }
    }

    /// Writes an image, a text, or both as one row. Half a pair is no row.
    fn row(&mut self, image: Option<&Embedded>, text: Option<&Embedded>) -> Result<()> {
        let halves = [image, text].map(|half| half.map(|item| (item, item.result.as_ref())));
        let lost = || ItemError::new(ItemKind::Invalid, "the other half of the pair has no embedding");
        if halves.iter().flatten().any(|(_, result)| result.is_err()) {
            for (item, result) in halves.into_iter().flatten() {
                let error = result.err().cloned().unwrap_or_else(lost);
                self.errors.write(&self.folder, self.items, item, &error)?;
                self.items += 1;
            }
            return Ok(());
        }
        let rows = self.images.rows().max(self.texts.rows());
        let whole = (image.is_none() || self.images.rows() == rows) && (text.is_none() || self.texts.rows() == rows);
        let same = rows == 0 || (image.is_some(), text.is_some()) == (self.images.rows() > 0, self.texts.rows() > 0);
        let id = image.or(text).map(|item| item.id.clone()).unwrap_or_default();
        if !whole || !same {
            return Err(Error::run("a clip-retrieval folder holds images, texts or pairs, not some of each")
                .at(id)
                .hint("embed images and texts into folders of their own, or choose another --format"));
        }
        for (matrix, half) in [(&mut self.images, image), (&mut self.texts, text)] {
            if let Some(Ok(numbers)) = half.map(|item| &item.result) {
                matrix.push(numbers)?;
                self.items += 1;
            }
        }
        let caption = text.map(|item| item.text.clone().unwrap_or_else(|| item.id.clone()));
        write_line(&mut self.metadata, &Row(image.map(|_| id), caption))
    }
}

impl Sink for Rows {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        match self.held.take_if(|image| item.kind == Kind::Text && image.id == item.id) {
            // An image with several captions has a row for each.
            Some(image) => {
                let row = self.row(Some(&image), Some(item));
                (self.held, self.paired) = (Some(image), true);
                row
            }
            None => {
                self.flush()?;
                if item.kind == Kind::Text {
                    return self.row(None, Some(item));
                }
                self.held = Some(item.clone());
                Ok(())
            }
        }
    }

    fn state(&self) -> Value {
        state(&State {
            images: self.images.rows(),
            texts: self.texts.rows(),
            metadata: self.metadata.length(),
            errors: self.errors.length(),
            items: self.items,
            held: self.held.as_ref().map(Held::keep),
            paired: self.paired,
        })
    }

    fn sync(&mut self) -> Result<()> {
        for target in [self.images.target(), self.texts.target(), &mut self.metadata] {
            target.sync()?;
        }
        self.folder.keep_if_dropped();
        self.errors.sync()
    }

    fn finish(mut self: Box<Self>, header: &Header, counts: Counts) -> Result<()> {
        self.flush()?;
        let Self { images, texts, metadata, errors, folder, .. } = *self;
        let (has_images, has_texts) = (images.rows() > 0 || texts.rows() == 0, texts.rows() > 0);
        let columns: &[&str] = match (has_images, has_texts) {
            (true, true) => &["image_path", "caption"],
            (true, false) => &["image_path"],
            (false, _) => &["caption"],
        };
        let rows = Lines::new(metadata.read_back()?, Separator::Newline, MAX_ROW_BYTES).map(|line| {
            let Line::Whole(line) = line.map_err(|error| metadata.error(error))? else {
                return Err(Error::run("a row is too long"));
            };
            let Row(path, caption) = serde_json::from_slice(&line).map_err(Error::run)?;
            Ok([path, caption].into_iter().flatten().collect())
        });
        let table = write_texts(folder.inside(METADATA, 0)?, columns, rows, header.to_json(counts)?)?;
        for (matrix, used) in [(images, has_images), (texts, has_texts)] {
            let matrix = matrix.close()?;
            if used { matrix.commit()? } else { matrix.discard() }
        }
        errors.finish()?;
        table.commit()?;
        header.write_to(folder.inside("meta.json", 0)?, counts)?;
        // The rows still wait; should the name not come, a next run needs them.
        folder.commit_without(metadata)
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        self.images.close().ok()?.keep();
        self.texts.close().ok()?.keep();
        self.metadata.keep();
        self.errors.keep();
        self.folder.keep();
        None
    }
}
