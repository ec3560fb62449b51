//! One run's output: the sink, and the journal from which a run that was killed goes on.

use super::journal::{Journal, Progress};
use super::target::{final_place, is_begun};
use super::{Counts, Format, Header, Shape, Sink, StoredItem, Target};
use crate::data::{Embedded, Fingerprint};
use crate::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the journal is brought up to date, unless that takes more than a twentieth of the time.
const INTERVAL: Duration = Duration::from_secs(1);

/// A place that can be written, before it is known what will be.
pub struct Destination {
    format: &'static dyn Format,
    target: Target,
    journal: Option<Journal>,
    progress: Option<Progress>,
}

/// Something that items are written to, and that can be gone on with after a run that ended early.
pub struct Writer {
    sink: Box<dyn Sink>,
    journal: Option<Journal>,
    /// What is true after the last item that was written as a whole.
    progress: Progress,
    resumed: bool,
    next_save: Instant,
}

impl Destination {
    /// Opens the place, without a word on how far an earlier run came there.
    ///
    /// # Errors
    /// If it cannot be written, or the format cannot be written there.
    pub fn new(format: &'static dyn Format, output: &Path) -> Result<Self> {
        let target = if format.shape() == Shape::Folder {
            if output.as_os_str() == "-" {
                return Err(Error::usage(format!("{} is a folder of files, not a pipe", format.name()))
                    .hint("name one: --output FOLDER"));
            }
            Target::folder(output)?
        } else {
            Target::reopen(output)?
        };
        if format.shape() == Shape::File && target.path().is_none() {
            return Err(Error::usage(format!("{} needs a regular file, not a pipe", format.name()))
                .hint(format!("name one: --output NAME.{}", format.extensions()[0])));
        }
        Ok(Self { format, target, journal: None, progress: None })
    }

    /// Opens the place, and looks for an earlier run that ended early: `resume` goes on with it.
    ///
    /// # Errors
    /// As those of [`Destination::new`]; also if there is an unfinished output that nobody asked to resume.
    pub fn open(format: &'static dyn Format, output: &Path, resume: bool) -> Result<Self> {
        // What an earlier run left must not be touched before it is known that somebody wants it gone.
        let journal = Journal::of(&final_place(output));
        // Where the file has its name already, nothing but the journal's end was missing.
        let progress = journal.read()?.filter(|_| is_begun(output));
        if let Some(progress) = progress.as_ref().filter(|_| !resume) {
            let items = progress.counts.items;
            return Err(Error::run(format!("an earlier run ended early and left {items} items"))
                .at(output.display())
                .hint(format!("go on with it: --resume; {}", journal.advice())));
        }
        let mut destination = Self::new(format, output)?;
        if destination.target.path().is_some() {
            destination.journal = Some(journal);
        } else if resume {
            return Err(Error::usage("--resume needs a regular file, not a pipe").hint("name one with --output"));
        }
        if progress.is_some() {
            destination.target.keep_if_dropped();
        }
        Ok(Self { progress, ..destination })
    }

    /// Whether a run of which this is the end ended early.
    pub fn is_begun(&self) -> bool {
        self.progress.is_some()
    }

    /// Begins the output, or goes on with it.
    ///
    /// # Errors
    /// If the earlier run had another model or other options that change the bytes.
    pub fn begin(self, header: Header) -> Result<Writer> {
        let Self { format, target, journal, progress } = self;
        let resumed = progress.is_some();
        if let (Some(progress), Some(journal)) = (&progress, &journal) {
            let check = progress.check(format.name(), &header);
            check.map_err(|error| error.at("cannot resume").hint(format!("use what it was; {}", journal.advice())))?;
        }
        let state = progress.as_ref().map(|progress| progress.state.clone());
        let sink = format.open(target, &header, state)?;
        let mut progress = progress.unwrap_or_else(|| Progress::new(format.name(), header));
        progress.state = sink.state();
        Ok(Writer { sink, journal, progress, resumed, next_save: Instant::now() + INTERVAL })
    }
}

impl Writer {
    /// How the output is made.
    pub fn header(&self) -> &Header {
        &self.progress.header
    }

    /// The items that an earlier run took from the source.
    pub fn taken(&self) -> &Fingerprint {
        &self.progress.taken
    }

    /// What the output has by now.
    pub fn counts(&self) -> Counts {
        self.progress.counts
    }

    /// Whether this goes on with what an earlier run left.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Writes what became of an item of the source.
    pub fn write(&mut self, item: &Embedded) -> Result<()> {
        self.sink.write(item)?;
        self.progress.taken.add(&item.id, item.kind);
        self.count(item);
        if self.journal.is_some() && Instant::now() >= self.next_save {
            let start = Instant::now();
            self.sink.sync()?;
            self.save()?;
            self.next_save = Instant::now() + INTERVAL.max(20 * start.elapsed());
        }
        Ok(())
    }

    /// Writes what another output says of an item.
    pub fn copy(&mut self, stored: &StoredItem) -> Result<()> {
        self.sink.copy(stored)?;
        self.count(&stored.item);
        Ok(())
    }

    fn count(&mut self, item: &Embedded) {
        self.progress.counts.items += 1;
        self.progress.counts.failed += u64::from(item.result.is_err());
        if self.journal.is_some() {
            self.progress.state = self.sink.state();
        }
    }

    fn save(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.write(&self.progress).map_err(|error| Error::from(error).at(journal.path().display()))
    }

    /// Completes the output: files get their final names.
    pub fn finish(mut self) -> Result<()> {
        // A disk that fills up now costs the end of the work, not all of it.
        if self.resumed || self.next_save < Instant::now() + INTERVAL / 2 {
            self.sink.sync()?;
            self.save()?;
        }
        let Self { sink, journal, progress, .. } = self;
        let finished = sink.finish(&progress.header, progress.counts);
        finished.map_err(|error| match &journal {
            Some(journal) if journal.path().exists() => error.hint("all items are done; --resume completes the output"),
            _ => error,
        })?;
        journal.map_or(Ok(()), |journal| journal.remove())
    }

    /// The job ended early: keeps what there is, and says in the error what can be done with it.
    pub fn end_early(mut self, error: Error) -> Error {
        let items = self.progress.counts.items;
        if items == 0 && !self.resumed {
            return error;
        }
        let closed = error.kind() == Kind::ClosedPipe;
        let saved = self.journal.is_some() && self.sink.sync().is_ok() && self.save().is_ok();
        let saved = saved || self.journal.as_ref().is_some_and(|journal| journal.path().exists());
        let advice = error.advice().map(|advice| format!("{advice}; ")).unwrap_or_default();
        let part: Option<PathBuf> = self.sink.abandon();
        match (part, saved) {
            _ if closed => error,
            (Some(part), true) => error.hint(format!(
                "{advice}what was done before that is in {}; --resume goes on from there",
                part.display()
            )),
            (None, true) => {
                error.hint(format!("{advice}what was done before that is kept; --resume goes on from there"))
            }
            (Some(part), false) => error.hint(format!("{advice}what was done before that is in {}", part.display())),
            (None, false) => error,
        }
    }
}
