//! Reading embeddings: one file a format, one line in [`FORMATS`].

mod jsonl;
mod npy;
mod retrieval;
mod safetensors;
#[cfg(feature = "parquet")]
mod table;

use super::Part;
use crate::app::App;
use crate::error::{Error, Result};
use std::path::Path;

/// All formats of embeddings that can be searched.
pub static FORMATS: &[&dyn Format] = &[
    &npy::Npy,
    &safetensors::Safetensors,
    &jsonl::Jsonl,
    #[cfg(feature = "parquet")]
    &table::Parquet,
    &retrieval::Folder,
];

/// A format of embeddings.
pub trait Format: Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Whether this is a file of the format, by its name or what is in the folder.
    fn fits(&self, path: &Path) -> bool;

    /// Opens it.
    ///
    /// # Errors
    /// If the content breaks the rules of the format, or is no embeddings.
    fn open(&self, app: &App, path: &Path) -> Result<Vec<Part>>;
}

/// Opens a file or folder of embeddings, `-` for records on standard input.
///
/// # Errors
/// If it is none, or cannot be read.
pub fn open(app: &App, path: &Path) -> Result<Vec<Part>> {
    let names = || FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
    let at = |error: Error| error.at(path.display());
    if path.as_os_str() != "-" && !path.exists() {
        return Err(at(Error::run("there is no such file")));
    }
    if let Some(format) = FORMATS.iter().find(|format| format.fits(path)) {
        return format.open(app, path).map_err(at);
    }
    let error = Error::run("no embeddings in a format that can be searched");
    Err(at(if ends_with(path, &["parquet", "pq"]) {
        error.hint("this program was built without the cargo feature `parquet`")
    } else if path.is_dir() {
        error.hint("embed a folder of images first: clip-cli embed FOLDER --output FOLDER.npy")
    } else {
        error.hint(format!("formats are {}", names()))
    }))
}

/// Whether a name ends with one of these extensions.
fn ends_with(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|end| extensions.iter().any(|known| end.eq_ignore_ascii_case(known)))
}
