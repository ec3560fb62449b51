//! The failed items of a format that has no room for them: `NAME.errors.jsonl`.

use super::{ErrorLine, Target, beside, write_line};
use crate::error::{Error, ItemError, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The records of failed items. There is no file if there are no such items.
pub(super) struct ErrorLog {
    path: PathBuf,
    target: Option<Target>,
}

impl ErrorLog {
    /// The log beside an output.
    pub(super) fn beside(output: &Path) -> Self {
        Self { path: beside(output, ".errors.jsonl"), target: None }
    }

    /// Adds a failed item.
    pub(super) fn write(&mut self, id: &str, error: &ItemError) -> Result<()> {
        let target = match &mut self.target {
            Some(target) => target,
            empty => empty.insert(Target::open(&self.path)?),
        };
        write_line(target, &ErrorLine::new(id, error))
    }

    /// Gives the file its name, or removes the one of an earlier run.
    pub(super) fn finish(self) -> Result<()> {
        match self.target {
            Some(target) => target.commit(),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::run(error).at(self.path.display())),
                _ => Ok(()),
            },
        }
    }

    /// Leaves what there is under its temporary name.
    pub(super) fn keep(self) {
        if let Some(target) = self.target {
            target.keep();
        }
    }
}
