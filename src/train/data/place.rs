//! Where images are, so that each can be read at any time.

use crate::data::{Span, read_at, read_file};
use crate::error::{Error, ItemError, Result};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// Where an image is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file of its own.
    File(PathBuf),
    /// A member of an archive that can be read from any place.
    Member(Span),
    /// A part of a temporary file without a name: what came from compressed archives and from tables.
    Cell {
        /// The file.
        file: Arc<File>,
        /// Where the part begins.
        offset: u64,
        /// How many bytes it has.
        len: u64,
    },
}

impl Place {
    /// The bytes of the image file, if they are no more than `max_bytes`.
    ///
    /// # Errors
    /// As [`crate::error::ItemKind`] says of files: missing, unreadable, truncated, too large.
    pub fn read(&self, max_bytes: u64) -> Result<Vec<u8>, ItemError> {
        match self {
            Self::File(path) => read_file(path, max_bytes),
            Self::Member(span) => span.read(max_bytes),
            Self::Cell { file, offset, len } => read_at(file, *offset, *len, max_bytes),
        }
    }

    /// Equal for equal places.
    pub(super) fn id(&self) -> u64 {
        let mut hash = blake3::Hasher::new();
        match self {
            // `./a.jpg` is `a.jpg`.
            Self::File(path) => path.components().for_each(|part| {
                hash.update(part.as_os_str().as_encoded_bytes()).update(b"/");
            }),
            Self::Member(span) => {
                hash.update(span.file.as_os_str().as_encoded_bytes()).update(&[0]).update(&span.offset.to_le_bytes());
            }
            Self::Cell { offset, .. } => {
                hash.update(&[0, 0]).update(&offset.to_le_bytes());
            }
        }
        first_eight(&hash.finalize())
    }
}

/// The id of content.
pub(super) fn content_id(bytes: &[u8]) -> u64 {
    first_eight(&blake3::hash(bytes))
}

fn first_eight(hash: &blake3::Hash) -> u64 {
    let mut id = [0; 8];
    id.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(id)
}

/// A temporary file for images of sources that are read from front to end only. It has no name and goes with the last
/// [`Place`] in it.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    file: Option<Arc<File>>,
    len: u64,
}

impl Spill {
    /// Keeps these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Place> {
        let no_room = |error: std::io::Error| {
            Error::run(error)
                .at("a temporary file for images of tables and compressed archives")
                .hint("TMPDIR names another place; files and uncompressed archives need none")
        };
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.file.insert(Arc::new(tempfile::tempfile().map_err(no_room)?)).clone(),
        };
        (&*file).write_all(bytes).map_err(no_room)?;
        let (offset, len) = (self.len, bytes.len() as u64);
        self.len += len;
        Ok(Place::Cell { file, offset, len })
    }
}
