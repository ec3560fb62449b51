//! How far an unfinished output has come: `NAME.journal`, one small JSON file that is replaced as a whole.

use super::target::longer;
use super::{Counts, Header};
use crate::data::Fingerprint;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A journal longer than this is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// The version of the format.
const VERSION: u32 = 1;

/// The journal of one output.
#[derive(Debug)]
pub(super) struct Journal(PathBuf);

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) version: u32,
    /// The format's name.
    pub(super) format: String,
    /// What decides the bytes of the output.
    pub(super) header: Header,
    /// What the output has.
    pub(super) counts: Counts,
    /// The items that were taken from the source.
    pub(super) taken: Fingerprint,
    /// Where the sink goes on.
    pub(super) state: Value,
}

impl Progress {
    /// What is known when an output begins.
    pub(super) fn new(format: &str, header: Header) -> Self {
        let taken = Fingerprint::default();
        Self {
            version: VERSION,
            format: format.to_owned(),
            header,
            counts: Counts::default(),
            taken,
            state: Value::Null,
        }
    }

    /// An error unless a run with this format and header would go on where this one stopped.
    pub(super) fn check(&self, format: &str, header: &Header) -> Result<()> {
        let mut differences = self.header.differences(header);
        if self.format != format {
            differences.push(("format".to_owned(), self.format.clone(), format.to_owned()));
        }
        let Some((name, before, now)) = differences.first() else { return Ok(()) };
        Err(Error::run(format!("it was begun with {name} {before}, and this run has {now}")))
    }
}

impl Journal {
    /// The journal of an output.
    pub(super) fn of(output: &Path) -> Self {
        Self(longer(output, ".journal"))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What it says, if there is one.
    pub(super) fn read(&self) -> Result<Option<Progress>> {
        let at = |error: Error| error.at(self.0.display()).hint(self.advice());
        let mut json = Vec::new();
        match File::open(&self.0).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut json)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| at(Error::run(error)))?,
        };
        let progress: Progress = serde_json::from_slice(&json)
            .map_err(|error| at(Error::run(format!("this is no journal of ours: {error}"))))?;
        match progress.version {
            VERSION => Ok(Some(progress)),
            other => Err(at(Error::run(format!("a journal of version {other}, which this program does not know")))),
        }
    }

    /// How to do without it.
    pub(super) fn advice(&self) -> String {
        format!("to begin again, delete {}", self.0.display())
    }

    /// Replaces it. What it speaks of must be on the disk.
    pub(super) fn write(&self, progress: &Progress) -> io::Result<()> {
        let new = longer(&self.0, ".new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(progress)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.0)
        });
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// The output is complete.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::run(error).at(self.0.display())),
            _ => Ok(()),
        }
    }
}
