//! Weighted sums of checkpoints: weight interpolation (WiSE-FT, Wortsman et al. 2021, arXiv 2109.01903) and model soups
//! (Wortsman et al. 2022, arXiv 2203.05482).

use super::save::{BIAS, headers, is_whole, save_companions, write_file};
use crate::card;
use crate::convert::readme::{LONGEST_CARD, TERMS, license_lines};
use crate::convert::{beside, writer};
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::model::spec::Spec;
use candle_core::{DType, Device};
use safetensors::tensor::Dtype;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Fails unless the models are of one kind: the same towers, preprocessing, names and shapes, and equal whole numbers. The
/// bias that training with a sigmoid gave a model ([`BIAS`]) may be missing in others.
pub fn check(models: &[&Clip]) -> Result<()> {
    let Some((first, others)) = models.split_first() else { return Err(Error::usage("no models")) };
    for other in others {
        let differ =
            |what: String| Err(Error::run(format!("{} and {} cannot be merged: {what}", first.name(), other.name())));
        if first.files().weights_name() != other.files().weights_name() {
            return differ("one is in the layout of transformers, the other in that of open_clip".to_owned())
                .map_err(|e: Error| e.hint("`models convert --layout` brings one into the layout of the other"));
        }
        let [a, b] = [first, other].map(|clip| known(clip).into_iter().filter(|name| *name != BIAS).collect());
        let (a, b): (BTreeSet<_>, BTreeSet<_>) = (a, b);
        if let Some(name) = a.symmetric_difference(&b).next() {
            let has = if a.contains(name) { first } else { other };
            return differ(format!("only {} has a tensor `{name}`", has.name()));
        }
        for name in common(&[first, other]) {
            let [one, two] = [first, other].map(|clip| clip.store().files().shape(name).unwrap_or_default());
            if one != two {
                return differ(format!("`{name}` is {one:?} in one and {two:?} in the other"));
            }
            let [one, two] = [first, other].map(|clip| clip.store().files().dtype(name).is_some_and(is_whole));
            let raw = |clip: &Clip| Ok::<_, Error>(clip.store().files().raw(name)?.map(|raw| raw.bytes.into_owned()));
            if one != two || (one && raw(first)? != raw(other)?) {
                return differ(format!("`{name}`, which is no weight, has other numbers"));
            }
        }
        // What scores are follows from the bias.
        let objective = match has_bias(first) == has_bias(other) {
            true => other.spec.objective,
            false => first.spec.objective,
        };
        if first.spec != (Spec { objective, ..other.spec.clone() }) {
            return differ("their configurations describe different towers or preprocessing".to_owned());
        }
    }
    Ok(())
}

/// Writes `Σ weight · model` into a directory, in the layout and with the configuration of the first model, as f32. A
/// model of weight 0 is not read, and weight 1 alone keeps every number. Sums are made in f64. A bias that some models
/// lack is that of those that have it, and so is the configuration: it moves all scores alike and changes no ranking. The
/// models must have passed [`check`]. `tick` is asked between tensors.
pub fn write_mix(parts: &[(&Clip, f64)], directory: &Path, tick: &dyn Fn() -> Result<()>) -> Result<()> {
    let Some((first, _)) = parts.first() else { return Err(Error::usage("no models")) };
    let mut wanted = common(&parts.iter().map(|(clip, _)| *clip).collect::<Vec<_>>());
    let parts: Vec<_> = parts.iter().filter(|(_, weight)| *weight != 0.0).collect();
    let biased: Vec<_> =
        parts.iter().filter(|(clip, _)| has_bias(clip)).map(|(clip, weight)| (*clip, *weight)).collect();
    let first = biased.first().map_or(*first, |(clip, _)| *clip);
    match biased.is_empty() {
        true => wanted.remove(BIAS),
        false => wanted.insert(BIAS),
    };
    save_companions(first, directory, |_, bytes| Ok(bytes))?;
    let headers = headers(first.store().files()).into_iter().filter(|header| wanted.contains(header.name.as_str()));
    let path = directory.join(first.files().weights_name());
    writer::write(&path, headers.collect(), |header| {
        tick()?;
        let gone = || Error::run(format!("the tensor `{}` went away", header.name));
        if header.dtype != Dtype::F32 {
            let raw = first.store().files().raw(&header.name)?.ok_or_else(gone)?;
            return Ok(raw.bytes);
        }
        let read = |clip: &Clip| -> Result<Vec<f32>> {
            let tensor = clip.store().files().read(&header.name, DType::F32, &Device::Cpu)?.ok_or_else(gone)?;
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
        };
        if let [(clip, weight)] = parts[..]
            && *weight == 1.0
        {
            return Ok(Cow::Owned(read(clip)?.iter().flat_map(|x| x.to_le_bytes()).collect()));
        }
        let mut sum = vec![0f64; header.shape.iter().product()];
        let share: f64 = biased.iter().map(|(_, weight)| weight).sum();
        let of_bias: Vec<_> = biased.iter().map(|(clip, weight)| (*clip, weight / share)).collect();
        let all: Vec<_> = parts.iter().map(|(clip, weight)| (*clip, *weight)).collect();
        for (clip, weight) in if header.name == BIAS { &of_bias } else { &all } {
            for (sum, x) in sum.iter_mut().zip(read(clip)?) {
                *sum += weight * f64::from(x);
            }
        }
        Ok(Cow::Owned(sum.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect()))
    })
}

/// Makes a directory that appears as a whole once `fill` has filled it.
///
/// # Errors
/// If there is something under this name; and those of `fill`. Nothing is left behind then.
pub fn new_directory(output: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    free(output)?;
    let directory = beside(output)?;
    fill(directory.path())?;
    let at = directory.keep();
    if output.exists() {
        fs::remove_dir(output).map_err(|e| Error::run(e).at(output.display()))?;
    }
    fs::rename(&at, output).map_err(|error| {
        let _ = fs::remove_dir_all(&at);
        Error::run(error).at(output.display())
    })
}

/// Fails if there is something under this name.
pub fn free(output: &Path) -> Result<()> {
    match output.read_dir().map_or(output.exists(), |mut entries| entries.next().is_some()) {
        true => {
            Err(Error::usage("already there").at(output.display()).hint("name a directory that does not exist yet"))
        }
        false => Ok(()),
    }
}

/// Writes `README.md`: what the model was made of, `(model, part)`, and under which licences those are; and carries their
/// licences over.
pub fn write_readme(directory: &Path, how: &str, parts: &[(&Clip, String)]) -> Result<()> {
    let licences: Vec<Option<String>> = parts.iter().map(|(clip, _)| licence(clip)).collect();
    let mut text = String::new();
    // Of several licences none speaks for the whole.
    if let [Some(only)] = licences.iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()[..] {
        let _ = writeln!(text, "---\nlicense: {}\n---\n", only.to_lowercase());
    }
    let name = directory_name(parts);
    let _ = writeln!(text, "# {name}\n\n{how}\n\nMade by clip-cli {}. Weights are f32.\n", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "| model | part | licence of the weights | BLAKE3 |\n|---|---|---|---|");
    for ((clip, part), licence) in parts.iter().zip(&licences) {
        let files = !terms(clip)?.is_empty();
        let known = licence.as_deref().unwrap_or(if files { "in the LICENSE files" } else { "not known" });
        let from = clip.origin().unwrap_or_else(|| clip.name());
        let _ = writeln!(text, "| {from} | {part} | {known} | `{}` |", clip.sha());
    }
    write_file(&directory.join("README.md"), text.as_bytes())?;
    for (place, (clip, _)) in (1..).zip(parts) {
        for (name, bytes) in terms(clip)? {
            let own = directory.join(&name);
            match fs::read(&own) {
                Ok(there) if there == bytes => {}
                // Another model's file of the same name.
                Ok(_) => write_file(&directory.join(format!("{name}.{place}")), &bytes)?,
                Err(_) => write_file(&own, &bytes)?,
            }
        }
    }
    Ok(())
}

fn directory_name(parts: &[(&Clip, String)]) -> String {
    let names: Vec<&str> = parts.iter().map(|(clip, _)| clip.name()).collect();
    names.join(" + ")
}

/// The files of a model that say what may be done with it.
fn terms(clip: &Clip) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = clip.files().companions()?;
    found.retain(|(name, _)| name.starts_with("LICENSE"));
    let known: BTreeSet<String> = found.iter().map(|(name, _)| name.clone()).collect();
    if let Some(directory) = clip.files().directory() {
        for name in TERMS.iter().filter(|name| !known.contains(**name)) {
            if let Ok(bytes) = fs::read(directory.join(name)) {
                found.push(((*name).to_owned(), bytes));
            }
        }
    }
    Ok(found)
}

/// The licence of a model's weights, as its own card or ours says it.
fn licence(clip: &Clip) -> Option<String> {
    let path = clip.files().directory().map(|directory| directory.join("README.md"));
    let card = path.filter(|path| fs::metadata(path).is_ok_and(|data| data.len() <= LONGEST_CARD));
    let lines =
        card.and_then(|path| fs::read_to_string(path).ok()).map(|text| license_lines(&text)).unwrap_or_default();
    let said = lines.iter().find_map(|line| Some(line.strip_prefix("license:")?.trim().to_owned()));
    let repository = clip.origin().and_then(|origin| origin.split('@').next());
    said.or_else(|| {
        let own = if clip.files().directory().is_none() { card::find(clip.name()) } else { None };
        own.or_else(|| card::of_repository(repository?)).map(|card| card.license.value.clone())
    })
}

fn has_bias(clip: &Clip) -> bool {
    clip.store().files().contains(BIAS)
}

/// The tensors that towers need.
fn known(clip: &Clip) -> BTreeSet<&str> {
    clip.store().tensors().map(|(name, _, _)| name).collect()
}

/// The tensors that all models have: a buffer of old versions that one has alone is not merged.
fn common<'a>(models: &[&'a Clip]) -> BTreeSet<&'a str> {
    let Some((first, others)) = models.split_first() else { return BTreeSet::new() };
    let files = first.store().files();
    let scale = |name: &str| name.strip_suffix(".scale").is_some_and(|of| files.contains(of));
    let all = |name: &str| others.iter().all(|clip| clip.store().files().contains(name));
    files.names().filter(|name| !scale(name) && all(name)).collect()
}
