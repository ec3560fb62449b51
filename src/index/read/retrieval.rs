//! clip-retrieval's folder: `img_emb/img_emb_0.npy`, `text_emb/text_emb_0.npy`, `metadata/metadata_0.parquet`.

use super::{Format, npy};
use crate::app::App;
use crate::data::Kind;
use crate::error::{Error, Result};
use crate::index::{Ids, Part};
use std::path::{Path, PathBuf};

/// A folder of numbered matrices.
pub(super) struct Folder;

const KINDS: [(&str, Kind); 2] = [("img_emb", Kind::Image), ("text_emb", Kind::Text)];

impl Format for Folder {
    fn name(&self) -> &'static str {
        "a folder of clip-retrieval"
    }

    fn fits(&self, path: &Path) -> bool {
        KINDS.iter().any(|(name, _)| path.join(name).is_dir())
    }

    fn open(&self, app: &App, path: &Path) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (name, kind) in KINDS {
            for (number, file) in numbered(&path.join(name))? {
                app.interrupt.check()?;
                let at = |error: Error| error.at(file.display());
                let matrix = npy::matrix(&file).map_err(at)?;
                let rows = matrix.rows();
                let ids = ids(app, path, &number, kind)?
                    .unwrap_or_else(|| Ids::numbers(file.display().to_string(), kind, rows));
                parts.push(Part::new(&file, matrix, ids).map_err(at)?);
            }
        }
        Ok(parts)
    }
}

/// The matrices of a folder with their numbers, in numerical order.
fn numbered(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    if !folder.is_dir() {
        return Ok(files);
    }
    for entry in folder.read_dir().map_err(|error| Error::run(error).at(folder.display()))? {
        let path = entry.map_err(|error| Error::run(error).at(folder.display()))?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if super::ends_with(&path, &["npy"]) {
            files.push((stem.rsplit('_').next().unwrap_or_default().to_owned(), path));
        }
    }
    // Numbers as numbers, whatever else as words.
    files.sort_by_key(|(number, path)| (number.parse::<u64>().unwrap_or(u64::MAX), path.clone()));
    Ok(files)
}

#[cfg(feature = "parquet")]
fn ids(app: &App, folder: &Path, number: &str, kind: Kind) -> Result<Option<Ids>> {
    let file = folder.join(format!("metadata/metadata_{number}.parquet"));
    if !file.exists() {
        return Ok(None);
    }
    super::table::ids(app, &file, kind).map_err(|error| error.at(file.display()))
}

#[cfg(not(feature = "parquet"))]
#[expect(clippy::unnecessary_wraps, reason = "the other build can fail")]
fn ids(app: &App, folder: &Path, _: &str, _: Kind) -> Result<Option<Ids>> {
    app.warn(format_args!("{}: without the cargo feature `parquet` rows have numbers, no names", folder.display()));
    Ok(None)
}
