//! `models convert`: a checkpoint in another layout, file format or kind of numbers.

use super::super::show;
use crate::app::App;
use crate::card::{self, Layout};
use crate::convert::{Options, Source, convert};
use crate::error::{Error, Result};
use clap::Args;
use safetensors::tensor::Dtype;
use std::path::{Path, PathBuf};

/// Write a checkpoint in another layout, file format or kind of numbers
///
/// Reads safetensors, what torch.save wrote (.bin, .pt, .pth, also OpenAI's), and big_vision's .npz. Pickles are read as
/// data: nothing in them is run.
#[derive(Args, Debug)]
#[command(after_help = "\
The library opens the result: transformers.AutoModel.from_pretrained(\"DIR\"), or
open_clip.create_model_from_pretrained(\"local-dir:DIR\"). Where the two libraries compute
different things from the same weights, the command says so, and so does the README.md it writes.

Examples:
  clip-cli models convert path/to/checkpoint --output converted --layout open_clip
  clip-cli models convert path/to/checkpoint --output halved --output-dtype f16
  clip-cli models convert ViT-B-32.pt --output openai-b32 --layout hf")]
pub(super) struct Convert {
    /// A directory, a file of weights, an alias, or org/name
    #[arg(value_name = "SRC")]
    source: String,

    /// The directory to make
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,

    /// The layout to write [default: the source's own]
    #[arg(long, value_enum)]
    layout: Option<LayoutChoice>,

    /// The kind of numbers to write [default: as they are]
    #[arg(long, value_enum, value_name = "DTYPE")]
    output_dtype: Option<Precision>,

    /// Interpolate positions for inputs of N×N pixels
    #[arg(long, value_name = "N")]
    image_size: Option<usize>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LayoutChoice {
    /// transformers: config.json, preprocessor_config.json, model.safetensors
    Hf,
    /// open_clip: open_clip_config.json, open_clip_model.safetensors
    #[value(name = "open_clip")]
    OpenClip,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Precision {
    /// 32 bits
    F32,
    /// 16 bits, to the nearest
    F16,
    /// 16 bits with the range of f32, to the nearest
    Bf16,
}

impl Convert {
    pub(super) fn run(&self, app: &App) -> Result<()> {
        let (source, license) = self.source(app)?;
        let options = Options {
            output: self.output.clone(),
            layout: match self.layout {
                Some(LayoutChoice::Hf) => Layout::Transformers,
                Some(LayoutChoice::OpenClip) => Layout::OpenClip,
                None => source.layout,
            },
            dtype: self.output_dtype.map(|dtype| match dtype {
                Precision::F32 => Dtype::F32,
                Precision::F16 => Dtype::F16,
                Precision::Bf16 => Dtype::BF16,
            }),
            image_size: self.image_size,
            license,
        };
        let report = convert(&source, &options, || app.interrupt.is_set())?;
        let (tensors, bytes) = report.tensors;
        app.note(format_args!("{tensors} tensors, {} bytes", show::human(bytes as u64)));
        report.warnings.iter().for_each(|warning| app.warn(warning));
        report.differences.iter().for_each(|difference| app.note(format_args!("differs: {difference}")));
        show::write_path(&self.output)
    }

    /// What is converted, and its licence if a card knows it.
    fn source(&self, app: &App) -> Result<(Source, Option<String>)> {
        let path = Path::new(&self.source);
        if path.exists() {
            let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            let name = name.file_name().map_or_else(|| self.source.clone(), |name| name.to_string_lossy().into_owned());
            return Ok((Source::open(path, name)?, None));
        }
        let files = app.find_model(Some(&self.source))?;
        let card = card::find(&self.source).or_else(|| card::of_repository(&self.source));
        let name =
            card.and_then(|card| card.repository.as_ref()).map_or(self.source.clone(), |fact| fact.value.clone());
        let directory = files.directory().ok_or_else(|| {
            Error::usage("the built-in model is part of the program and has no files to convert").at(&self.source)
        })?;
        Ok((Source::open(directory, name)?, card.map(|card| card.license.value.clone())))
    }
}
