//! `embed`: images and texts to vectors.

use super::args::{ImageArgs, ReadArgs, warn_failed, warn_truncated};
use super::{Command, Status};
use crate::app::{App, ModelArgs};
use crate::data::{Inputs, Items, Take, Tally, embed, is_stdin, lines_of_text, texts};
use crate::error::{Error, Result};
use crate::ops::normalize::normalize_row;
use crate::output::{Header, OutputDtype, Sink, Target, format};
use clap::Args;
use std::path::PathBuf;
use std::time::Instant;

/// Turn images and texts into embeddings
#[derive(Args, Debug)]
#[command(after_help = "\
Each JSON Lines record is {\"id\",\"kind\",\"embedding\",\"dim\",\"model\"}. An item that fails becomes
{\"id\",\"error\":{\"kind\",\"message\"}}; the others go on, and the exit code is 1. Images come before
texts, each in the order in which they were given.

Examples:
  clip-cli embed cat.jpg photos/ > photos.jsonl
  find . -name '*.png' -print0 | clip-cli embed -0 - --output pngs.npy
  clip-cli embed --text 'a photo of a dog' --text 'a photo of a cat'
  clip-cli embed --texts captions.txt --model path/to/checkpoint --output captions.safetensors")]
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

    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-", help_heading = "Output")]
    output: PathBuf,

    /// jsonl, npy or safetensors [default: by the output's name, else jsonl]
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    format: Option<String>,

    /// Scale embeddings to unit length (the default)
    #[arg(long, overrides_with = "no_normalize", help_heading = "Output")]
    normalize: bool,

    /// Write embeddings as the model gives them
    #[arg(long, overrides_with = "normalize", help_heading = "Output")]
    no_normalize: bool,

    /// The kind of numbers to write
    #[arg(long, value_name = "DTYPE", value_enum, default_value_t, help_heading = "Output")]
    output_dtype: OutputDtype,

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
        let format = format(self.format.as_deref(), &self.output)?;
        let target = Target::open(&self.output)?;
        if format.needs_file() && target.path().is_none() {
            return Err(Error::usage(format!("{} needs a regular file, not a pipe", format.name()))
                .hint(format!("name one: --output NAME.{}", format.extensions()[0])));
        }
        let clip = app.open_model(&self.model)?;
        let header = Header {
            model: clip.id(),
            dim: clip.spec.embed_dim,
            dtype: self.output_dtype,
            normalized: !self.no_normalize,
        };
        let mut sink = format.open(target, header)?;

        let start = Instant::now();
        let progress = app.progress("items");
        if app.shows_progress() && self.text.is_empty() && self.texts.is_none() {
            let (inputs, progress) = (images.clone(), progress.clone());
            std::thread::spawn(move || inputs.count().map(|count| progress.expect(count)));
        }
        let mut first = None;
        let options = self.read.options();
        let result = embed(app, &clip, &options, Box::new(images.items().chain(texts)), &progress, |mut item| {
            match &mut item.result {
                Ok(embedding) if !self.no_normalize => normalize_row(embedding),
                Ok(_) => {}
                Err(error) => {
                    let message = format!("{}: {error}", item.id);
                    progress.aside(|| app.detail(&message));
                    first.get_or_insert(message);
                }
            }
            sink.write(&item)
        });
        progress.finish();
        let tally = match result {
            Ok(tally) => tally,
            Err(error) => return Err(end_early(sink, error)),
        };
        if tally.items == 0 && self.reads_nothing_but_folders() {
            return Err(self.images.none_found());
        }
        sink.finish()?;
        summary(app, &tally, start, clip.spec.text.context(), first.as_deref());
        Ok(if tally.failed > 0 { Status::SomeFailed } else { Status::Done })
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

    fn reads_nothing_but_folders(&self) -> bool {
        !self.images.read_stdin() && self.text.is_empty() && self.texts.is_none()
    }
}

/// Keeps what was written before an error, and says where it is.
fn end_early(sink: Box<dyn Sink>, error: Error) -> Error {
    match sink.abandon() {
        Some(path) => error.hint(format!("what was done before that is in {}", path.display())),
        None => error,
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
