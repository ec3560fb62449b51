//! What a run writes for people: JSON Lines metrics, TensorBoard events, and a page of curves.
//!
//! Metrics and events grow by one write a record, so that a killed run tears the last record at most. A run that goes on
//! from a checkpoint cuts both back to the checkpoint's step, and then each step appears once.

pub(crate) mod axis;
mod crc32c;
pub mod curve;
pub mod metrics;
mod svg;
pub mod tensorboard;

pub use curve::Series;
pub use metrics::Metrics;
pub use tensorboard::Events;

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

/// Puts a file that `cut` copies in parts in place of `path`, under its name by renaming only, and opens it at its end.
/// A file that does not exist is an empty one.
fn cut_back(path: &Path, cut: impl FnOnce(&mut dyn Read, &mut dyn Write) -> std::io::Result<()>) -> Result<File> {
    let at = |error: std::io::Error| Error::run(error).at(path.display());
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut source: Box<dyn Read> = match File::open(path) {
        Ok(file) => Box::new(BufReader::new(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Box::new(std::io::empty()),
        Err(error) => return Err(at(error)),
    };
    let copied = File::create(&part).and_then(|file| {
        let mut writer = BufWriter::new(file);
        cut(&mut source, &mut writer)?;
        writer.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    });
    if let Err(error) = copied.and_then(|()| fs::rename(&part, path)) {
        // What could not be written is of no use, and the old file is still whole.
        let _ = fs::remove_file(&part);
        return Err(at(error));
    }
    File::options().append(true).open(path).map_err(at)
}
