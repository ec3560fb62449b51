//! The trained model as a checkpoint that every tool opens: in the layout, and under the names, of the one it came from.

use super::input_size::InputSize;
use super::peft;
use crate::convert::writer::{Header, write};
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::output::Target;
use crate::weights::{Files, View};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// The bias that a sigmoid gets beside the scale, as open_clip calls it.
pub const BIAS: &str = "logit_bias";

/// Writes the whole model into a directory, as [`save_merged`] does, and what it has of low-rank changes as PEFT does into
/// `adapter/` below.
pub fn save_model(clip: &Clip, view: View<'_>, directory: &Path) -> Result<()> {
    save_merged(clip, view, directory)?;
    peft::save(clip, view, &directory.join(peft::FOLDER))?;
    Ok(())
}

/// Writes the whole model into a directory: weights as f32, low-rank changes in them, and beside them the configuration and
/// the tokenizer. A model that was opened at another input size is one of that size from then on.
pub fn save_merged(clip: &Clip, view: View<'_>, directory: &Path) -> Result<()> {
    let files = clip.store().files();
    // What the checkpoint did not have: the bias of a sigmoid.
    let vars = clip.store().trained().map(|trained| &trained.vars);
    let new: Vec<_> = vars.into_iter().flatten().filter(|(name, _)| !files.contains(name)).collect();
    let has_bias = new.iter().any(|(name, _)| *name == BIAS);
    let size = InputSize::of(clip)?;
    save_companions(clip, directory, |name, bytes| {
        let bytes = match &size {
            Some(size) => size.companion(name, bytes)?,
            None => bytes,
        };
        match name {
            "open_clip_config.json" if has_bias => with_bias(&bytes),
            _ => Ok(bytes),
        }
    })?;
    let mut headers = headers(files);
    if let Some(size) = &size {
        headers.retain(|header| size.keeps(&header.name));
        headers
            .iter_mut()
            .for_each(|header| header.shape = size.shape(&header.name, std::mem::take(&mut header.shape)));
    }
    headers.extend(new.iter().map(|(name, var)| Header {
        name: (*name).clone(),
        dtype: Dtype::F32,
        shape: var.dims().to_vec(),
    }));
    write(&directory.join(clip.files().weights_name()), headers, |header| {
        if header.dtype != Dtype::F32 {
            let raw = files.raw(&header.name)?.ok_or_else(|| Error::run("a tensor went away"))?;
            return Ok(Cow::Owned(raw.bytes.to_vec()));
        }
        let tensor = clip.store().current(&header.name, view)?.ok_or_else(|| Error::run("a tensor went away"))?;
        let numbers = numbers(&tensor)?;
        Ok(Cow::Owned(match &size {
            Some(size) => size.numbers(&header.name, tensor.dims(), numbers)?,
            None => numbers,
        }))
    })
}

/// open_clip's configuration of the same model with a `logit_bias`: it makes that parameter only if it is told where it
/// starts.
fn with_bias(config: &[u8]) -> Result<Vec<u8>> {
    let at = |e| Error::run(e).at("open_clip_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(config).map_err(at)?;
    if let Some(model) = config.get_mut("model_cfg").and_then(serde_json::Value::as_object_mut)
        && !model.get("init_logit_bias").is_some_and(serde_json::Value::is_number)
    {
        model.insert("init_logit_bias".to_owned(), (-10).into());
    }
    serde_json::to_vec_pretty(&config).map_err(at)
}

/// Writes what belongs to a checkpoint beside its weights; `change` has a file's name and its bytes, and says what is written.
pub(super) fn save_companions(
    clip: &Clip,
    directory: &Path,
    change: impl Fn(&str, Vec<u8>) -> Result<Vec<u8>>,
) -> Result<()> {
    for (name, bytes) in clip.files().companions()? {
        let path = directory.join(&name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::run(e).at(path.display()))?;
        }
        write_file(&path, &change(&name, bytes)?)?;
    }
    Ok(())
}

/// The tensors of a checkpoint as they are written: all weights as f32, whole numbers as they are.
pub(super) fn headers(files: &Files) -> Vec<Header> {
    let mut headers = Vec::new();
    for name in files.names() {
        let scale = name.strip_suffix(".scale").is_some_and(|of| files.contains(of));
        let (false, Some(kind), Some(shape)) = (scale, files.dtype(name), files.shape(name)) else { continue };
        headers.push(Header { name: name.to_owned(), dtype: if is_whole(kind) { kind } else { Dtype::F32 }, shape });
    }
    headers
}

/// Whether numbers of this kind count or index, and are no weights.
pub(super) fn is_whole(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::I64 | Dtype::I32 | Dtype::BOOL | Dtype::U8)
}

/// Writes a file, which appears whole.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut target = Target::open(path)?;
    target.write_all(bytes).map_err(|e| target.error(e))?;
    target.commit()
}

/// Writes tensors as they are, f32, f64 or i64.
pub(crate) fn save_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let headers = tensors.iter().map(|(name, tensor)| {
        let dtype = match tensor.dtype() {
            DType::F64 => Dtype::F64,
            DType::I64 => Dtype::I64,
            _ => Dtype::F32,
        };
        Header { name: name.clone(), dtype, shape: tensor.dims().to_vec() }
    });
    write(path, headers.collect(), |header| {
        let tensor = tensors.get(&header.name).ok_or_else(|| Error::run("a tensor went away"))?;
        match header.dtype {
            Dtype::F64 => {
                let numbers = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f64>()?;
                Ok(Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
            }
            Dtype::I64 => {
                let numbers = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<i64>()?;
                Ok(Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
            }
            _ => numbers(tensor).map(Cow::Owned),
        }
    })
}

/// Reads tensors that [`save_tensors`] wrote.
pub(crate) fn load_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    candle_core::safetensors::load(path, &Device::Cpu)
        .map(|tensors| tensors.into_iter().collect())
        .map_err(|e| Error::run(e).at(path.display()))
}

fn numbers(tensor: &Tensor) -> Result<Vec<u8>> {
    let numbers = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
}
