//! Checkpoints from one layout, file format or kind of numbers to another.
//!
//! `source` opens what there is, `target` says how the other library would describe it, `transfer` makes the
//! tensors one by one while `writer` writes them. The output directory is made beside its final place and renamed
//! when everything in it is complete. `outline` lists the tensors of a checkpoint that is still to be made; `assemble` puts
//! towers of two models together.

pub mod assemble;
mod big_vision;
mod numbers;
mod openai;
mod outline;
mod parameters;
pub(crate) mod readme;
pub(crate) mod same;
mod source;
mod target;
pub(crate) mod tokenizer;
pub(crate) mod transfer;
pub(crate) mod writer;

pub(crate) use outline::outline;
pub use source::Source;
pub(crate) use target::hf_processor;

use crate::card::Layout;
use crate::error::{Error, Result};
use crate::image::Resize;
use crate::model::{Spec, resize_input};
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use transfer::Transfer;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that will be made.
    pub output: PathBuf,
    /// The layout.
    pub layout: Layout,
    /// The kind of numbers, if it shall be another.
    pub dtype: Option<Dtype>,
    /// Another input size, in pixels.
    pub image_size: Option<usize>,
    /// The licence of the weights, if the source does not say and somebody else does.
    pub license: Option<String>,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many tensors were written, and how many bytes they take.
    pub tensors: (usize, usize),
    /// What other results the new checkpoint gives, and when.
    pub differences: Vec<String>,
    /// What the user must still do.
    pub warnings: Vec<String>,
}

/// Converts a checkpoint. `interrupted` is asked between tensors.
///
/// # Errors
/// If the output is there already, if the target cannot express the checkpoint, if its tensors are not what its
/// configuration says, and when writing fails. Nothing is left behind then.
pub fn convert(source: &Source, options: &Options, interrupted: impl Fn() -> bool) -> Result<Report> {
    let output = &options.output;
    refuse_taken(output)?;
    let mut spec = source.plan.spec.clone();
    if let Some(side) = options.image_size {
        if matches!(spec.preprocess.resize, Resize::Patches { .. }) {
            return Err(Error::usage("this model takes images of any size: it has no input size to change"));
        }
        resize_input(&mut spec, side)?;
    } else {
        check_input(&spec)?;
    }
    spec.check()?;
    let names = &source.plan.layout;
    let (configuration, transfer, differences) = if source.is_in(options.layout) {
        let transfer = Transfer::same(&source.files, names, &spec, options.dtype)?;
        let (files, differences) = same::configuration(source, options);
        (files, transfer, differences)
    } else {
        let (target, vit, text) = target::choose(options.layout, &spec)?;
        let mut written = target.write(source, &spec, vit, text).map_err(|e| e.at(&source.name))?;
        let parameters = parameters::parameters(&source.plan.spec)?;
        let layouts = [names, &written.names];
        let shaped = target.shaped();
        let transfer = Transfer::between(&source.files, layouts, &parameters, &spec, shaped, options.dtype)
            .map_err(|e| e.at(&source.name))?;
        if let Some((_, config)) = written.files.iter_mut().find(|(name, _)| *name == "config.json") {
            config["torch_dtype"] = common_dtype(&transfer).map(dtype_name).into();
        }
        (written.files, transfer, written.differences)
    };

    let directory = beside(output)?;
    let at = directory.path();
    for (name, value) in &configuration {
        write_configuration(source, at, name, value)?;
    }
    let warnings = tokenizer::write(source, options.layout, at)?;
    readme::write(source, options.layout, &changes(options), &differences, options.license.as_deref(), at)?;
    let headers = transfer.headers();
    let tensors = (headers.len(), headers.iter().map(writer::Header::byte_len).sum());
    writer::write(&at.join(weights_name(options.layout)), headers, |header| {
        if interrupted() {
            return Err(Error::interrupted());
        }
        transfer.bytes(header)
    })?;
    // What was written must say what was read.
    let plan = source::plan_of(at).map_err(|e| e.at("the converted checkpoint"))?;
    if (plan.spec.embed_dim, &plan.spec.objective) != (spec.embed_dim, &spec.objective) {
        return Err(Error::run("the converted checkpoint describes other towers than its source"));
    }
    settle(directory, output)?;
    Ok(Report { tensors, differences, warnings })
}

/// The name that a layout's weights have.
pub fn weights_name(layout: Layout) -> &'static str {
    match layout {
        Layout::Transformers => "model.safetensors",
        Layout::OpenClip => "open_clip_model.safetensors",
    }
}

/// Fails when there is something where the output shall be.
pub(crate) fn refuse_taken(output: &Path) -> Result<()> {
    let taken = output.read_dir().map_or(output.exists(), |mut entries| entries.next().is_some());
    match taken {
        true => {
            Err(Error::usage("already there").at(output.display()).hint("name a directory that does not exist yet"))
        }
        false => Ok(()),
    }
}

/// Gives a directory that [`beside`] made, and that is complete, its place.
pub(crate) fn settle(directory: tempfile::TempDir, output: &Path) -> Result<()> {
    if output.exists() {
        fs::remove_dir(output).map_err(|e| Error::run(e).at(output.display()))?;
    }
    let at = directory.keep();
    if let Err(error) = fs::rename(&at, output) {
        let _ = fs::remove_dir_all(&at);
        return Err(Error::run(error).at(output.display()));
    }
    Ok(())
}

/// A new directory beside the place of the output, which goes unless it is kept.
pub(crate) fn beside(output: &Path) -> Result<tempfile::TempDir> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = output.file_name().ok_or_else(|| Error::usage("not a name for a directory").at(output.display()))?;
    let prefix = format!(".{}.", name.to_string_lossy());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As a directory that anybody makes; the user's mask still applies.
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent).map_err(|error| {
        let error = Error::run(format!("cannot write here: {error}")).at(output.display());
        if parent.exists() {
            error
        } else {
            error.hint(format!("make the directory first: mkdir -p {}", parent.display()))
        }
    })
}

/// Writes a configuration file, with the source's own bytes if it says the same.
fn write_configuration(source: &Source, directory: &Path, name: &str, value: &Value) -> Result<()> {
    let own = fs::read(source.directory.join(name)).ok();
    let same = own.filter(|bytes| serde_json::from_slice::<Value>(bytes).is_ok_and(|own| own == *value));
    match same {
        Some(bytes) => fs::write(directory.join(name), bytes).map_err(|e| Error::run(e).at(name)),
        None => tokenizer::write_json(&directory.join(name), value),
    }
}

/// Fails when the image tower and the preprocessing disagree, as opening such a checkpoint does.
fn check_input(spec: &Spec) -> Result<()> {
    match &spec.image {
        crate::model::spec::ImageSpec::Vit(vit) if vit.input_size != spec.preprocess.size => {
            let (tower, processor) = (vit.input_size, spec.preprocess.size);
            let message = format!("the image tower takes {tower:?} pixels, its preprocessing makes {processor:?}");
            Err(Error::run(message).hint("name the size that you want with --image-size"))
        }
        _ => Ok(()),
    }
}

/// What was done to the numbers, in words.
fn changes(options: &Options) -> Vec<String> {
    let dtype = options.dtype.map(|dtype| format!("numbers are stored as {}", dtype_name(dtype)));
    let size =
        options.image_size.map(|side| format!("positions were interpolated for inputs of {side} x {side} pixels"));
    dtype.into_iter().chain(size).collect()
}

/// The kind that most numbers have.
fn common_dtype(transfer: &Transfer<'_>) -> Option<Dtype> {
    let mut counts = std::collections::BTreeMap::<Dtype, usize>::new();
    transfer.headers().iter().for_each(|header| *counts.entry(header.dtype).or_default() += header.byte_len());
    counts.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype)
}

/// A kind of numbers as torch names it.
fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "float64",
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    }
}
