//! `embed`: images and texts to vectors.

mod readout;

use super::args::{ImageArgs, ReadArgs, warn_failed, warn_truncated};
use super::models::describe;
use super::output_args::{Opened, OutputArgs};
use super::{Command, Status};
use crate::app::{App, ModelArgs};
use crate::card;
use crate::data::{Inputs, Items, ReadOptions, Take, Tally, embed, is_stdin, lines_of_text, texts};
use crate::error::{Error, Result};
use crate::model::{Clip, Readout};
use crate::ops::instruction_set;
use crate::ops::normalize::normalize_row;
use crate::output::Header;
use clap::Args;
use readout::ReadoutArgs;
use std::path::PathBuf;
use std::time::Instant;

/// Turn images and texts into embeddings
#[derive(Args, Debug)]
#[command(after_help = "\
Each JSON Lines record is {\"id\",\"kind\",\"embedding\",\"dim\",\"model\"}. An item that fails becomes
{\"id\",\"error\":{\"kind\",\"message\"}}; the others go on, and the exit code is 1. Inputs come before
texts, each in the order in which they were given.

Tables (.csv, .tsv, .jsonl, .parquet) name their images in a column called image, path, filepath
and the like, or hold their bytes; archives (.tar, .tar.gz) are webdataset's. --pairs and
--captions read captions from a column, from KEY.txt or KEY.json, or for image files from the
.txt file beside each. docs/inputs.md has an example of every kind.

Examples:
  clip-cli embed cat.jpg photos/ > photos.jsonl
  find . -name '*.png' -print0 | clip-cli embed -0 - --output pngs.npy
  clip-cli embed pairs.csv --pairs > pairs.jsonl
  clip-cli embed 'shards/{00..01}.tar' --output shards.npy
  clip-cli embed --text 'a photo of a dog' --text 'a photo of a cat'
  clip-cli embed --texts captions.txt --model path/to/checkpoint --output captions.safetensors
  clip-cli embed cat.jpg --model path/to/checkpoint --layer -2 --pool mean
  clip-cli embed photos/ --model path/to/checkpoint --tokens --output patches.npy")]
pub(super) struct Embed {
    #[command(flatten)]
    images: ImageArgs,

    /// Embed the inputs' captions, too: after each image its captions, under the same id
    #[arg(long, conflicts_with = "captions", help_heading = "Inputs")]
    pairs: bool,

    /// Embed the inputs' captions instead of their images
    #[arg(long, help_heading = "Inputs")]
    captions: bool,

    /// A text to embed; may be given many times
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,

    /// A file with one text a line, `-` for standard input
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    readout: ReadoutArgs,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    read: ReadArgs,
}

impl Command for Embed {
    const NAME: &'static str = "embed";

    fn run(self, app: &App) -> Result<Status> {
        let texts_on_stdin = self.texts.as_deref().is_some_and(is_stdin);
        self.images.check_stdin(&[("--texts", texts_on_stdin)])?;
        let images = self.image_inputs()?;
        let texts = self.text_items()?;
        let opened = self.output.open(self.readout.many())?;
        let mut fit = self.output.fit(&opened);
        let clip = app.open_model(&self.model)?;
        let (readout, dim) = self.readout.resolve(&clip, self.has_images(), self.has_texts())?;
        let header = self.header(app, &clip, &opened, readout, dim);
        let normalized = header.normalized;
        let (mut writer, items) = self.output.begin(opened, header, Box::new(images.clone().items().chain(texts)))?;
        if writer.is_resumed() {
            app.note(format_args!("going on after {} items", writer.counts().items));
        }

        let start = Instant::now();
        let progress = app.progress("items");
        if app.shows_progress() && self.text.is_empty() && self.texts.is_none() && self.output.shard().is_none() {
            let (inputs, progress) = (images, progress.clone());
            progress.add(writer.taken().items());
            std::thread::spawn(move || inputs.count().map(|count| progress.expect(count)));
        }
        let (mut first, mut misfits) = (None, 0);
        let options = ReadOptions { readout, ..self.read.options() };
        let result = embed(app, &clip, &options, items, &progress, |mut item| {
            if let (true, Ok(vectors)) = (self.readout.many(), &item.result)
                && let Err(error) = fit.admit(vectors.len() / dim)
            {
                item.result = Err(error);
                misfits += 1;
            }
            match &mut item.result {
                // One vector, or those of all tokens.
                Ok(vectors) if normalized => vectors.chunks_mut(dim).for_each(normalize_row),
                Ok(_) => {}
                Err(error) => {
                    let message = format!("{}: {error}", item.id);
                    progress.aside(|| app.detail(&message));
                    first.get_or_insert(message);
                }
            }
            writer.write(&item)
        });
        progress.finish();
        let tally = match result {
            Ok(tally) => Tally { failed: tally.failed + misfits, ..tally },
            Err(error) => return Err(writer.end_early(error)),
        };
        let counts = writer.counts();
        if tally.items == 0 && counts.items == 0 && self.output.shard().is_none() && self.reads_nothing_but_folders() {
            return Err(self.images.none_found());
        }
        writer.finish()?;
        summary(app, &tally, start, clip.spec.text.context(), first.as_deref());
        Ok(if counts.failed > 0 { Status::SomeFailed } else { Status::Done })
    }
}

impl Embed {
    fn image_inputs(&self) -> Result<Inputs> {
        if self.images.inputs.is_empty() && self.text.is_empty() && self.texts.is_none() {
            let hint = "name images or folders, texts with --text, or `-` to read a list of files from standard input";
            return Err(Error::usage("nothing to embed").hint(hint));
        }
        Ok(self.images.inputs(match (self.pairs, self.captions) {
            (true, _) => Take::Pairs,
            (_, true) => Take::Captions,
            _ => Take::Images,
        }))
    }

    fn text_items(&self) -> Result<Items> {
        let lines = match &self.texts {
            Some(path) => lines_of_text(path, self.images.separator())?,
            None => texts(Vec::new()),
        };
        Ok(Box::new(texts(self.text.clone()).chain(lines)))
    }

    /// All that decides the bytes of the output.
    fn header(&self, app: &App, clip: &Clip, opened: &Opened, readout: Readout, dim: usize) -> Header {
        let decode = self.read.options().decode;
        let card = match clip.origin() {
            Some(origin) => card::of_repository(origin.split('@').next().unwrap_or_default()),
            None if self.model.model.as_deref().is_none_or(|name| name == "builtin") => card::find("builtin"),
            None => None,
        };
        Header {
            tool: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            model: match readout {
                Readout::Embedding => clip.id(),
                Readout::Tokens(what) => format!("{}/{what}", clip.id()),
            },
            model_sha: clip.sha().to_owned(),
            origin: clip.origin().map(str::to_owned),
            license: card.map(|card| card.license.value.clone()),
            preprocessing: describe(clip.preprocess()),
            exif: decode.exif,
            max_pixels: decode.max_pixels,
            dim,
            dtype: self.output.dtype(opened),
            normalized: self.output.normalizes(readout == Readout::Embedding),
            device: app.device_kind().to_owned(),
            compute_dtype: clip.store().precision().to_owned(),
            instruction_set: instruction_set(clip.store().is_int8()).to_owned(),
            shard: self.output.shard(),
        }
    }

    fn has_images(&self) -> bool {
        !self.images.inputs.is_empty() && !self.captions
    }

    fn has_texts(&self) -> bool {
        !self.text.is_empty() || self.texts.is_some() || self.pairs || self.captions
    }

    fn reads_nothing_but_folders(&self) -> bool {
        !self.images.read_stdin() && self.text.is_empty() && self.texts.is_none()
    }
}

fn summary(app: &App, tally: &Tally, start: Instant, context: usize, first_failed: Option<&str>) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = tally.items as f64 / seconds.max(1e-9);
    app.detail(format_args!("{} items in {seconds:.2} s, {rate:.1} a second", tally.items));
    if tally.items == 0 {
        app.note("nothing to embed: the list is empty");
    }
    warn_truncated(app, tally.truncated, context);
    warn_failed(app, tally.failed, tally.items, first_failed);
}
