//! Lists of files.

use super::{Input, Source, SourceOptions};
use crate::data::{Line, Lines, Sample, Samples, Separator, sample_of_file};
use crate::error::{Error, ItemError, ItemKind, Result};
use std::path::PathBuf;

/// Paths longer than this are no paths.
const MAX_PATH_BYTES: usize = 1 << 16;

/// One path a line, or one between NUL bytes.
pub(super) struct List;

impl Source for List {
    fn name(&self) -> &'static str {
        "list"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["list", "lst"]
    }

    fn about(&self) -> &'static str {
        "paths of images, one a line"
    }

    fn open(&self, input: Input, options: &SourceOptions) -> Result<Samples> {
        let reader = match input.reader() {
            Ok(reader) => reader,
            Err(error) => return Ok(input.failed(error)),
        };
        let name = input.name();
        let options = options.clone();
        Ok(Box::new(Lines::new(reader, options.separator, MAX_PATH_BYTES).map(move |line| {
            // What else the list names nobody can know, so this ends the job.
            let line = line.map_err(|error| Error::run(error).at(&name))?;
            Ok(sample(line, &options))
        })))
    }
}

fn sample(line: Line, options: &SourceOptions) -> Sample {
    let failed = |bytes: &[u8], message: String| {
        Sample::failed(String::from_utf8_lossy(bytes).into_owned(), ItemError::new(ItemKind::Invalid, message))
    };
    match line {
        Line::TooLong(start) => failed(&start, format!("longer than {MAX_PATH_BYTES} bytes, so not a path")),
        Line::Whole(bytes) if options.separator == Separator::Newline && bytes.contains(&0) => failed(
            &bytes[..bytes.len().min(64)],
            "a path with a NUL byte; a list from `find -print0` needs -0".to_owned(),
        ),
        Line::Whole(bytes) => match to_path(bytes) {
            Ok(path) => {
                let path = options.root.as_ref().map_or(path.clone(), |root| root.join(&path));
                sample_of_file(path, options)
            }
            Err(bytes) => failed(&bytes, "the path is not UTF-8".to_owned()),
        },
    }
}

/// A path of these bytes, where the system allows it.
#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have paths that no bytes can name")]
pub(super) fn to_path(bytes: Vec<u8>) -> Result<PathBuf, Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

/// A path of these bytes, where the system allows it.
#[cfg(not(unix))]
pub(super) fn to_path(bytes: Vec<u8>) -> Result<PathBuf, Vec<u8>> {
    String::from_utf8(bytes).map(PathBuf::from).map_err(std::string::FromUtf8Error::into_bytes)
}
