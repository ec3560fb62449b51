//! The images that a command line names: files, folders, and `-` for a list of files on standard input.

use super::{Item, Items, Kind, Line, Lines, Separator, folder};
use crate::error::{Error, ItemError, ItemKind};
use std::io;
use std::path::{Path, PathBuf};

/// Paths longer than this are no paths.
const MAX_PATH_BYTES: usize = 1 << 16;

/// The images that a command line names.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Files, folders, and `-`.
    pub paths: Vec<PathBuf>,
    /// What ends a path on standard input.
    pub separator: Separator,
}

/// Whether this path stands for standard input.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Inputs {
    /// The images, in the order in which they are named.
    pub fn items(self) -> Items {
        let separator = self.separator;
        Box::new(self.paths.into_iter().flat_map(move |path| -> Items {
            if is_stdin(&path) {
                paths_on_stdin(separator)
            } else if path.is_dir() {
                folder(&path)
            } else {
                Box::new(std::iter::once(Ok(Item::file(path))))
            }
        }))
    }

    /// How many images there are, if that can be known beforehand. It walks the folders.
    pub fn count(&self) -> Option<u64> {
        if self.paths.iter().any(|path| is_stdin(path)) {
            return None;
        }
        Some(self.clone().items().count() as u64)
    }
}

/// The files named on standard input.
fn paths_on_stdin(separator: Separator) -> Items {
    Box::new(Lines::stdin(separator, MAX_PATH_BYTES).map(move |line| {
        let line = line.map_err(|error| Error::run(error).at("standard input"))?;
        Ok(path_item(line, separator))
    }))
}

fn path_item(line: Line, separator: Separator) -> Item {
    let failed = |bytes: &[u8], message: String| {
        let id = String::from_utf8_lossy(bytes).into_owned();
        Item::failed(id, Kind::Image, ItemError::new(ItemKind::Invalid, message))
    };
    match line {
        Line::TooLong(start) => failed(&start, format!("longer than {MAX_PATH_BYTES} bytes, so not a path")),
        Line::Whole(bytes) if separator == Separator::Newline && bytes.contains(&0) => failed(
            &bytes[..bytes.len().min(64)],
            "a path with a NUL byte; a list from `find -print0` needs -0".to_owned(),
        ),
        Line::Whole(bytes) => match to_path(bytes) {
            Ok(path) => Item::file(path),
            Err(bytes) => failed(&bytes, "the path is not UTF-8".to_owned()),
        },
    }
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have paths that no bytes can name")]
fn to_path(bytes: Vec<u8>) -> Result<PathBuf, Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn to_path(bytes: Vec<u8>) -> Result<PathBuf, Vec<u8>> {
    String::from_utf8(bytes).map(PathBuf::from).map_err(std::string::FromUtf8Error::into_bytes)
}

/// Reads a file whole, refusing directories and files beyond the limit.
pub(super) fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ItemError> {
    use io::Read;
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ItemError::new(
            ItemKind::Unreadable,
            "a directory; name it on the command line to read what is in it",
        ));
    }
    if metadata.len() > max_bytes {
        let message = format!("the file has {} bytes, the limit is {max_bytes}", metadata.len());
        return Err(ItemError::new(ItemKind::TooLarge, message));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // One byte beyond the limit, so that the decoder sees that an endless device is too large.
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
