//! The place that output goes to: standard output, a file or a folder that gets its name at the end.

use crate::error::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// An output. A regular file is written as `NAME.part` beside its final place, and renamed by [`Target::commit`];
/// dropped before that, it is removed, unless a journal says how to go on from it.
#[derive(Debug)]
pub struct Target {
    place: Place,
    /// How many bytes it holds.
    length: u64,
    /// Whether the file stays if this is dropped.
    kept: bool,
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
    /// A folder, for the files that [`Target::inside`] opens.
    Folder {
        part: PathBuf,
        path: PathBuf,
    },
    /// Committed, or left to the user.
    Closed,
}

impl Target {
    /// Standard output.
    pub fn stdout() -> Self {
        Self { place: Place::Stdout(io::stdout()), length: 0, kept: false }
    }

    /// Opens an output, `-` for standard output.
    ///
    /// # Errors
    /// If the directory is missing or read-only, the name belongs to a directory, or another process writes there.
    pub fn open(path: &Path) -> Result<Self> {
        let mut target = Self::reopen(path)?;
        target.cut(0)?;
        Ok(target)
    }

    /// Opens an output whose file an earlier run may have begun: [`Target::cut`] says how much of it counts.
    pub(super) fn reopen(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::stdout());
        }
        let at = |error: io::Error| Error::run(error).at(path.display());
        // A symbolic link stays one: the file that it leads to is replaced.
        let path = final_place(path);
        let place = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Err(Error::run("a directory, not a file").at(path.display())),
            Ok(metadata) if !metadata.is_file() => {
                Place::Special(File::options().write(true).open(&path).map_err(at)?, path)
            }
            _ => return Self::part(part_name(&path)?, path),
        };
        Ok(Self { place, length: 0, kept: false })
    }

    /// Opens a folder of files, which appears as a whole.
    ///
    /// # Errors
    /// As those of [`Target::open`]; also if there is something under this name.
    pub(super) fn folder(path: &Path) -> Result<Self> {
        let path = final_place(path);
        let taken = match fs::read_dir(&path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if taken {
            return Err(Error::run("there is something under this name").at(path.display()).hint(
                "this format writes a folder, and never into one that holds something: name another, or remove it",
            ));
        }
        let part = part_name(&path)?;
        match fs::create_dir(&part) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(cannot_write(&path, &error)),
            _ => Ok(Self { place: Place::Folder { part, path }, length: 0, kept: false }),
        }
    }

    /// Opens a file that belongs to this output, and keeps `length` bytes of what an earlier run wrote: for
    /// `photos.npy` and `.ids.jsonl` it is `photos.ids.jsonl`.
    pub(super) fn beside(&self, ending: &str, length: u64) -> Result<Self> {
        let path = self.path().ok_or_else(|| Error::run("this output is no regular file"))?;
        let path = super::beside(path, ending);
        let part = part_name(&path)?;
        if length > 0 && !part.exists() && fs::metadata(&path).is_ok_and(|file| file.len() == length) {
            // The run ended between giving this file its name and giving the output its own.
            fs::rename(&path, &part).map_err(|error| cannot_write(&path, &error))?;
        }
        let mut target = Self::part(part, path)?;
        target.cut(length)?;
        Ok(target)
    }

    /// Opens a file in this folder, and keeps `length` bytes of what an earlier run wrote.
    pub(super) fn inside(&self, name: &str, length: u64) -> Result<Self> {
        let mut target = self.reopen_inside(name)?;
        target.cut(length)?;
        Ok(target)
    }

    /// The same, where it is not yet known how much counts.
    pub(super) fn reopen_inside(&self, name: &str) -> Result<Self> {
        let Place::Folder { part, .. } = &self.place else { return Err(Error::run("this output is no folder")) };
        let path = part.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| cannot_write(&path, &error))?;
        }
        Self::part(path.clone(), path)
    }

    fn part(part: PathBuf, path: PathBuf) -> Result<Self> {
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(&part).map_err(|error| cannot_write(&path, &error))?;
        // A file system without locks takes no part in this.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::run("another process is writing this output").at(path.display()));
        }
        Ok(Self { place: Place::Part { file, part, path }, length: 0, kept: false })
    }

    /// Keeps this many bytes of a regular file, and goes on behind them.
    ///
    /// # Errors
    /// If there are fewer.
    pub(super) fn cut(&mut self, length: u64) -> Result<()> {
        if let Place::Part { file, path, .. } = &mut self.place {
            let at = |error: io::Error| Error::run(error).at(path.display());
            if file.metadata().map_err(at)?.len() < length {
                return Err(Error::run("the unfinished output is shorter than its journal says").at(path.display()));
            }
            file.set_len(length).and_then(|()| file.seek(SeekFrom::Start(length))).map_err(at)?;
            self.length = length;
        }
        Ok(())
    }

    /// How many bytes it holds.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Puts what was written on the disk itself, where it stays if this is dropped.
    pub(super) fn sync(&mut self) -> Result<()> {
        if let Place::Part { file, .. } = &self.place {
            file.sync_data().map_err(|error| self.error(error))?;
        }
        self.keep_if_dropped();
        Ok(())
    }

    /// From now on what was written stays if this is dropped: a journal says how to go on.
    pub(super) fn keep_if_dropped(&mut self) {
        self.kept = true;
    }

    /// The final name, if it is a regular file or a folder.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Part { path, .. } | Place::Folder { path, .. } => Some(path),
            _ => None,
        }
    }

    /// A write that failed, with its place. A closed pipe stays one.
    pub fn error(&self, error: io::Error) -> Error {
        match &self.place {
            Place::Special(_, path) | Place::Part { path, .. } | Place::Folder { path, .. } => {
                Error::from(error).at(path.display())
            }
            Place::Stdout(_) | Place::Closed => Error::from(error).at("standard output"),
        }
    }

    /// Overwrites the start of a regular file.
    pub fn rewrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        let Place::Part { file, .. } = &mut self.place else {
            return Err(Error::run("this output is no regular file"));
        };
        let end = SeekFrom::Start(self.length.max(bytes.len() as u64));
        let result = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes)).and_then(|()| file.seek(end));
        result.map(|_| ()).map_err(|error| self.error(error))
    }

    /// Reads from the start what was written to a regular file.
    pub(super) fn read_back(&self) -> Result<BufReader<File>> {
        let Place::Part { part, .. } = &self.place else {
            return Err(Error::run("this output is no regular file"));
        };
        Ok(BufReader::with_capacity(1 << 16, File::open(part).map_err(|error| self.error(error))?))
    }

    /// Completes the output; a file gets its name.
    pub fn commit(mut self) -> Result<()> {
        let done = match &mut self.place {
            Place::Stdout(stdout) => stdout.flush(),
            Place::Special(file, _) => file.flush(),
            // Some file systems say only now that the disk is full; the name must not appear then.
            Place::Part { file, part, path } => file.sync_all().and_then(|()| fs::rename(part, path)),
            Place::Folder { part, path } => {
                // Some systems rename a folder to an empty one, some do not.
                let _ = fs::remove_dir(&*path);
                fs::rename(part, path)
            }
            Place::Closed => Ok(()),
        };
        done.map_err(|error| self.error(error))?;
        self.place = Place::Closed;
        Ok(())
    }

    /// Completes a folder, without a file in it that only served the way there, and without empty folders.
    #[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "Parquet files alone are made of a helper"))]
    pub(super) fn commit_without(self, helper: Self) -> Result<()> {
        let (Place::Folder { part, path }, Place::Part { part: file, .. }) = (&self.place, &helper.place) else {
            return Err(Error::run("this output is no folder"));
        };
        remove_empty_inside(part);
        let left = file.strip_prefix(part).map(|name| path.join(name)).ok();
        drop(helper.keep());
        self.commit()?;
        // The output is complete; a file too many does no harm.
        left.map(fs::remove_file);
        Ok(())
    }

    /// Leaves what was written so far under its temporary name and returns it, if anything was.
    pub fn keep(mut self) -> Option<PathBuf> {
        if self.length == 0 && !matches!(self.place, Place::Folder { .. }) {
            return None;
        }
        match std::mem::replace(&mut self.place, Place::Closed) {
            Place::Part { part, .. } | Place::Folder { part, .. } => Some(part),
            _ => None,
        }
    }

    /// Removes what was written.
    pub(super) fn discard(mut self) {
        self.kept = false;
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.place {
            Place::Stdout(stdout) => stdout.write(bytes),
            Place::Special(file, _) | Place::Part { file, .. } => file.write(bytes),
            Place::Folder { .. } => Err(io::ErrorKind::IsADirectory.into()),
            Place::Closed => Ok(0),
        }?;
        self.length += written as u64;
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
        if self.kept {
            return;
        }
        // An error here has nobody to go to; what stays is called `.part`.
        match &self.place {
            Place::Part { part, .. } => drop(fs::remove_file(part)),
            Place::Folder { part, .. } => remove_empty(part),
            _ => {}
        }
    }
}

/// Removes a folder whose files are gone.
fn remove_empty(folder: &Path) {
    remove_empty_inside(folder);
    let _ = fs::remove_dir(folder);
}

/// Removes the folders in a folder whose files are gone.
fn remove_empty_inside(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(entry.path());
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    let error = Error::run(format!("cannot write here: {error}")).at(path.display());
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.exists() => {
            error.hint(format!("make the directory first: mkdir -p {}", parent.display()))
        }
        _ => error,
    }
}

/// Whether a run began to write here, and did not end.
pub(super) fn is_begun(path: &Path) -> bool {
    longer(&final_place(path), ".part").exists()
}

/// Where a file goes that is called this: a symbolic link leads on.
pub(super) fn final_place(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn part_name(path: &Path) -> Result<PathBuf> {
    if path.file_name().is_none() {
        return Err(Error::usage("not a file name").at(path.display()));
    }
    Ok(longer(path, ".part"))
}

/// A path with this behind its name.
pub(super) fn longer(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
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
        target.write_all(b"er").unwrap();
        target.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"Newer");
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
    fn an_earlier_run_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        fs::write(directory.path().join("out.part"), "whole half").unwrap();
        let mut target = Target::reopen(&path).unwrap();
        assert!(target.cut(11).unwrap_err().to_string().contains("shorter than its journal"));
        target.cut(6).unwrap();
        target.write_all(b"new").unwrap();
        assert_eq!(target.length(), 9);
        assert!(Target::reopen(&path).unwrap_err().to_string().contains("another process"));
        target.keep_if_dropped();
        drop(target);
        assert_eq!(fs::read(directory.path().join("out.part")).unwrap(), b"whole new");
    }

    #[test]
    fn folders_appear_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let begin = || {
            let folder = Target::folder(&path).unwrap();
            let mut file = folder.inside("a/b", 0).unwrap();
            file.write_all(b"x").unwrap();
            (file, folder)
        };
        drop(begin());
        assert_eq!(names(directory.path()), [""; 0]);
        let (file, folder) = begin();
        file.commit().unwrap();
        assert_eq!(names(directory.path()), ["out.part"]);
        folder.commit().unwrap();
        assert_eq!(fs::read(path.join("a/b")).unwrap(), b"x");
        assert!(Target::folder(&path).unwrap_err().to_string().contains("there is something"));
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
