//! The failed items of a format that has no room for them: `NAME.errors.jsonl`.

use super::{ErrorLine, Target, write_line};
use crate::data::{Embedded, Line, Lines, Separator};
use crate::error::{Error, ItemError, ItemKind, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A record longer than this is refused.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// The records of failed items. There is no file if there are no such items.
pub(super) struct ErrorLog {
    log: Option<Target>,
    /// Where an earlier run's log is.
    path: PathBuf,
    place: Place,
}

/// Where the log belongs.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// `NAME.errors.jsonl`
    Beside,
    /// `FOLDER/errors.jsonl`
    Inside,
}

/// A failed item, and its place among all items, from 0.
#[derive(Serialize)]
struct Failed<'a> {
    item: u64,
    kind: &'static str,
    #[serde(flatten)]
    error: ErrorLine<'a>,
}

#[derive(Deserialize)]
struct Read {
    item: u64,
    kind: String,
    id: String,
    error: ReadError,
}

#[derive(Deserialize)]
struct ReadError {
    kind: String,
    message: String,
}

impl ErrorLog {
    /// The log of an output, of which `length` bytes are there.
    pub(super) fn open(output: &Target, place: Place, length: u64) -> Result<Self> {
        let path = match (place, output.path()) {
            (Place::Beside, Some(path)) => super::beside(path, ".errors.jsonl"),
            (_, path) => path.unwrap_or(Path::new("")).join("errors.jsonl"),
        };
        let mut errors = Self { log: None, path, place };
        errors.begin(output, length)?;
        if length == 0 {
            // What an earlier run may have begun after its last word goes.
            errors.log = None;
        }
        Ok(errors)
    }

    fn begin(&mut self, output: &Target, length: u64) -> Result<&mut Target> {
        let log = match self.place {
            Place::Beside => output.beside(".errors.jsonl", length)?,
            Place::Inside => output.inside("errors.jsonl", length)?,
        };
        Ok(self.log.insert(log))
    }

    /// Adds a failed item, which is the one behind so many others.
    pub(super) fn write(&mut self, output: &Target, before: u64, failed: &Embedded, error: &ItemError) -> Result<()> {
        let record = Failed { item: before, kind: failed.kind.name(), error: ErrorLine::new(&failed.id, error) };
        let log = match self.log.is_some() {
            true => self.log.as_mut(),
            false => Some(self.begin(output, 0)?),
        };
        log.map_or(Ok(()), |log| write_line(log, &record))
    }

    /// How long it is.
    pub(super) fn length(&self) -> u64 {
        self.log.as_ref().map_or(0, Target::length)
    }

    /// Puts what was written on the disk, where it stays.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.log.iter_mut().try_for_each(|log| log.sync())
    }

    /// Gives the file its name, or removes the one of an earlier run.
    pub(super) fn finish(self) -> Result<()> {
        match self.log {
            Some(log) => log.commit(),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::run(error).at(self.path.display())),
                _ => Ok(()),
            },
        }
    }

    /// Leaves what there is under its temporary name.
    pub(super) fn keep(self) {
        self.log.and_then(Target::keep);
    }
}

/// Failed items and their places, in order.
pub(super) type FailedItems = Box<dyn Iterator<Item = Result<(u64, Embedded)>>>;

/// Reads the log beside an output back.
pub(super) fn read_beside(output: &Path) -> Result<FailedItems> {
    let path = super::beside(output, ".errors.jsonl");
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Box::new(std::iter::empty())),
        file => file.map_err(|error| Error::run(error).at(path.display()))?,
    };
    let lines = Lines::new(file, Separator::Newline, MAX_RECORD_BYTES);
    Ok(Box::new(lines.map(move |line| {
        let at = |error: &dyn std::fmt::Display| Error::run(error).at(path.display());
        let Line::Whole(line) = line.map_err(|error| at(&error))? else { return Err(at(&"a record is too long")) };
        let read: Read = serde_json::from_slice(&line).map_err(|error| at(&error))?;
        let kind = super::kind(&read.kind).map_err(|error| at(&error))?;
        let error = ItemError::new(ItemKind::from_name(&read.error.kind), read.error.message);
        Ok((read.item, Embedded { id: read.id, kind, text: None, result: Err(error) }))
    })))
}
