//! The arguments that say where embeddings go, and how much of the work is this run's.

use crate::data::{Items, Known, Shard, behind};
use crate::error::{Error, Result};
use crate::output::{self, Destination, Format, Header, OutputDtype, Writer};
use clap::Args;
use std::path::{Path, PathBuf};

/// Where embeddings go.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// Where to write, `-` for standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,

    /// jsonl, npy, safetensors, parquet, csv, tsv, clip-retrieval or projector [default: by the output's name,
    /// else jsonl]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Scale vectors to unit length (the default, but for tokens)
    #[arg(long, overrides_with = "no_normalize")]
    normalize: bool,

    /// Write vectors as the model gives them
    #[arg(long, overrides_with = "normalize")]
    no_normalize: bool,

    /// The kind of numbers to write
    #[arg(long, value_name = "DTYPE", value_enum, default_value_t)]
    output_dtype: OutputDtype,

    /// Go on with an output whose run ended early; begin it if there is none
    #[arg(long)]
    resume: bool,

    /// Embed only what the output does not hold yet, and add it
    #[arg(long)]
    skip_existing: bool,

    /// Embed part I of N of the items; the output is called NAME-0000I-of-0000N, and `merge` joins all of them
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
}

/// An output that can be written, before the model is known.
pub(super) struct Opened {
    format: &'static dyn Format,
    path: PathBuf,
    destination: Destination,
}

impl OutputArgs {
    /// Whether vectors are scaled to unit length: embeddings by default, tokens if asked.
    pub(super) fn normalizes(&self, embeddings: bool) -> bool {
        if embeddings { !self.no_normalize } else { self.normalize }
    }

    /// Which part of the items is this run's.
    pub(super) fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// Opens the output, for all tokens of an item or for one vector, so that a bad path costs no time.
    pub(super) fn open(&self, tokens: bool) -> Result<Opened> {
        let format = output::format(self.format.as_deref(), &self.output)?;
        let format = if tokens { output::tokens::format_of(format)? } else { format };
        let path = match self.shard {
            Some(shard) if self.output.as_os_str() != "-" => shard_name(&self.output, shard),
            _ => self.output.clone(),
        };
        if self.skip_existing && !format.reads_back() {
            // Its error says which formats can.
            format.read(&path)?;
        }
        if self.skip_existing && path.as_os_str() == "-" {
            return Err(Error::usage("--skip-existing needs a file, not a pipe").hint("name one with --output"));
        }
        Ok(Opened { format, destination: Destination::open(format, &path, self.resume)?, path })
    }

    /// What the format asks of items of many tokens.
    pub(super) fn fit(&self, opened: &Opened) -> output::tokens::Fit {
        output::tokens::Fit::new(opened.format)
    }

    /// The kind of numbers that the output will hold.
    pub(super) fn dtype(&self, opened: &Opened) -> OutputDtype {
        opened.format.dtype(self.output_dtype)
    }

    /// Begins the output, or goes on with it, and leaves out of `items` what it has already.
    pub(super) fn begin(&self, opened: Opened, header: Header, items: Items) -> Result<(Writer, Items)> {
        let Opened { format, path, destination } = opened;
        let mut writer = destination.begin(header)?;
        let items = match self.shard {
            Some(shard) => shard.of(items),
            None => items,
        };
        let items = match self.skip_existing && path.exists() {
            true => self.existing(format, &path, &mut writer)?.others(items),
            false => items,
        };
        let items = behind(items, writer.taken());
        Ok((writer, items))
    }

    /// The items that an output has embeddings of, which go into the new one first.
    fn existing(&self, format: &dyn Format, path: &Path, writer: &mut Writer) -> Result<Known> {
        let mut known = Known::default();
        let stored = format.read(path)?;
        if let Some((name, before, now)) = stored.header.differences(writer.header()).first() {
            return Err(Error::run(format!("it was made with {name} {before}, and this run has {now}"))
                .at(path.display())
                .hint("what is added to an output is made as the rest of it; name another --output"));
        }
        for stored in stored.items {
            let stored = stored?;
            // What failed is tried again.
            if stored.item.result.is_ok() {
                known.add(&stored.item.id, stored.item.kind);
                if !writer.is_resumed() {
                    writer.copy(&stored)?;
                }
            }
        }
        Ok(known)
    }
}

/// `photos.npy` and 3/16 make `photos-00003-of-00016.npy`.
fn shard_name(output: &Path, shard: Shard) -> PathBuf {
    let mut name = output.file_stem().unwrap_or_default().to_owned();
    name.push(shard.ending());
    if let Some(extension) = output.extension() {
        name.push(".");
        name.push(extension);
    }
    output.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_have_names() {
        let name = |output: &str| shard_name(Path::new(output), "3/16".parse().unwrap()).display().to_string();
        assert_eq!(name("a/photos.npy"), "a/photos-00003-of-00016.npy");
        assert_eq!(name("photos"), "photos-00003-of-00016");
    }
}
