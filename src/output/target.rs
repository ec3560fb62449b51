//! The place that output goes to: standard output, or a file that gets its name at the end.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// An output. A regular file is written as `NAME.part` beside its final place, and renamed by [`Target::commit`];
/// dropped before that, it is removed.
#[derive(Debug)]
pub struct Target {
    place: Place,
    written: bool,
}

#[derive(Debug)]
enum Place {
    Stdout(io::Stdout),
    /// A device or a named pipe, which must not be replaced with a file.
    Special(File, PathBuf),
    Part {
        file: File,
        part: PathBuf,
        path: PathBuf,
    },
    /// Committed, or left to the user.
    Closed,
}

impl Target {
    /// Standard output.
    pub fn stdout() -> Self {
        Self { place: Place::Stdout(io::stdout()), written: false }
    }

    /// Opens an output, `-` for standard output.
    ///
    /// # Errors
    /// If the directory is missing or read-only, or the name belongs to a directory.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::stdout());
        }
        let at = |error: io::Error| Error::run(error).at(path.display());
        // A symbolic link stays one: the file that it leads to is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let place = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Err(Error::run("a directory, not a file").at(path.display())),
            Ok(metadata) if !metadata.is_file() => {
                Place::Special(File::options().write(true).open(&path).map_err(at)?, path)
            }
            _ => {
                let part = part_name(&path)?;
                let file = File::create(&part).map_err(|error| {
                    let error = Error::run(format!("cannot write here: {error}")).at(path.display());
                    match path.parent() {
                        Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => {
                            error.hint(format!("make the directory first: mkdir -p {}", parent.display()))
                        }
                        _ => error,
                    }
                })?;
                Place::Part { file, part, path }
            }
        };
        Ok(Self { place, written: false })
    }

    /// The final name, if it is a regular file.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Part { path, .. } => Some(path),
            _ => None,
        }
    }

    /// A write that failed, with its place. A closed pipe stays one.
    pub fn error(&self, error: io::Error) -> Error {
        match &self.place {
            Place::Special(_, path) | Place::Part { path, .. } => Error::from(error).at(path.display()),
            Place::Stdout(_) | Place::Closed => Error::from(error).at("standard output"),
        }
    }

    /// Overwrites the start of a regular file.
    pub fn rewrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        let Place::Part { file, .. } = &mut self.place else {
            return Err(Error::run("this output is no regular file"));
        };
        let result = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes));
        result.map_err(|error| self.error(error))
    }

    /// Completes the output; a file gets its name.
    pub fn commit(mut self) -> Result<()> {
        let done = match &mut self.place {
            Place::Stdout(stdout) => stdout.flush(),
            Place::Special(file, _) => file.flush(),
            // Some file systems say only now that the disk is full; the name must not appear then.
            Place::Part { file, part, path } => file.sync_all().and_then(|()| fs::rename(part, path)),
            Place::Closed => Ok(()),
        };
        done.map_err(|error| self.error(error))?;
        self.place = Place::Closed;
        Ok(())
    }

    /// Leaves what was written so far under its temporary name and returns it, if anything was.
    pub fn keep(mut self) -> Option<PathBuf> {
        if !self.written {
            return None;
        }
        match std::mem::replace(&mut self.place, Place::Closed) {
            Place::Part { part, .. } => Some(part),
            _ => None,
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.place {
            Place::Stdout(stdout) => stdout.write(bytes),
            Place::Special(file, _) | Place::Part { file, .. } => file.write(bytes),
            Place::Closed => Ok(0),
        }?;
        self.written |= written > 0;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Stdout(stdout) => stdout.flush(),
            _ => Ok(()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Place::Part { part, .. } = &self.place {
            // An error here has nobody to go to; a file that stays is called `.part`.
            let _ = fs::remove_file(part);
        }
    }
}

fn part_name(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else { return Err(Error::usage("not a file name").at(path.display())) };
    let mut name = name.to_owned();
    name.push(".part");
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_name_appears_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut target = Target::open(&path).unwrap();
        target.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        target.rewrite_start(b"N").unwrap();
        target.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"New");
        assert_eq!(names(directory.path()), ["out"]);
    }

    #[test]
    fn what_is_not_committed_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut target = Target::open(&path).unwrap();
        target.write_all(b"x").unwrap();
        drop(target);
        assert_eq!(Target::open(&path).unwrap().keep(), None);
        assert_eq!(names(directory.path()), [""; 0]);
        let mut target = Target::open(&path).unwrap();
        target.write_all(b"x").unwrap();
        assert!(target.keep().is_some());
        assert_eq!(names(directory.path()), ["out.part"]);
    }

    #[test]
    fn places_that_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Target::open(directory.path()).unwrap_err().to_string().ends_with("a directory, not a file"));
        let missing = Target::open(&directory.path().join("no/out")).unwrap_err();
        assert!(missing.advice().unwrap().starts_with("make the directory first"));
        assert!(Target::open(Path::new("..")).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_are_not_replaced() {
        let mut target = Target::open(Path::new("/dev/null")).unwrap();
        assert_eq!(target.path(), None);
        target.write_all(b"x").unwrap();
        assert!(target.rewrite_start(b"y").is_err());
        target.commit().unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
