//! One file on its way into the cache: it grows in a place of its own, and gets its name when its content was checked.

use super::Failure;
use super::cache::is_commit;
use super::client::{Download, Pulse, TICK};
use super::digest::Promise;
use crate::error::Error;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much of a file that was cut short is asked for at once.
const PIECE: u64 = 32 << 20;

/// How often content that is not what was promised is fetched again.
const REPEATS: u32 = 1;

impl Download<'_> {
    /// Fetches files, unless they are here.
    pub(super) fn fetch_all<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<(), Failure> {
        let promised = |name: &'n str| self.files.get(name).map(|promise| (name, promise));
        let missing: Vec<_> =
            names.filter_map(promised).filter(|(name, promise)| !self.cache.holds(&self.sha, name, promise)).collect();
        if let Some(watch) = &self.watch {
            let had = |name: &str, promise| Partial::of(&self.cache.partial(promise), name).len().unwrap_or(0);
            watch.expect(missing.iter().map(|(name, promise)| promise.size.saturating_sub(had(name, promise))).sum());
        }
        missing.into_iter().try_for_each(|(name, promise)| self.fetch(name, promise))
    }

    fn fetch(&self, name: &str, promise: &Promise) -> Result<(), Failure> {
        if !is_commit(&promise.oid) {
            let error = Error::run(format!("what the Hub lists of {name} makes no sense")).at(self.remote);
            return Err(Failure::Other(error.hint("is HF_ENDPOINT the address of a Hub?")));
        }
        let _lock = self.lock(name, promise)?;
        let partial = Partial::of(&self.cache.partial(promise), name);
        let mut seen = Seen(partial.len().unwrap_or(0));
        // Another process was faster, or another commit has the same content.
        let blob = match self.cache.blob(promise) {
            Some(blob) => blob,
            None => self.transfer(name, promise, &partial, &mut seen)?,
        };
        seen.until(promise.size, self);
        self.cache.link(&self.sha, name, &blob).map_err(|e| self.disk(&e))
    }

    /// Brings a file here and checks it; returns the name of its blob.
    fn transfer(&self, name: &str, promise: &Promise, partial: &Partial, seen: &mut Seen) -> Result<String, Failure> {
        let (mut attempt, mut repeats, mut most) = (1, 0, partial.len().unwrap_or(0));
        loop {
            let had = partial.len();
            if had == Some(promise.size) {
                let blob = promise.digest.of_file(&partial.path).map_err(|e| self.disk(&e))?;
                if promise.is(&blob) {
                    self.cache.adopt(&partial.path, &blob).map_err(|e| self.disk(&e))?;
                    partial.remove();
                    return Ok(blob);
                }
                partial.remove();
                repeats += 1;
                if repeats > REPEATS {
                    return Err(self.wrong(name, &format!("{} {blob}", promise.digest.label())));
                }
                continue;
            }
            let outcome = match had {
                Some(had) if (1..promise.size).contains(&had) => self.go_on(name, promise, partial, had, seen),
                _ => self.begin(name, promise, partial, seen),
            };
            let failure = match outcome {
                Ok(()) if partial.len().unwrap_or(0) > most || partial.len() == Some(promise.size) => {
                    (attempt, most) = (1, partial.len().unwrap_or(0));
                    continue;
                }
                Ok(()) => {
                    let message =
                        format!("{name} arrived with {} of {} bytes", partial.len().unwrap_or(0), promise.size);
                    let error = Error::run(message).at(self.remote);
                    Failure::away(error.hint("try again: what has come is kept"))
                }
                // It is the token for xet that is not there.
                Err(Failure::Missing(_)) => {
                    let error = Error::run(format!("{name} is in xet storage, which this Hub gives no access to"));
                    Failure::Other(error.at(self.remote).hint("is HF_ENDPOINT a mirror? Try without it"))
                }
                Err(failure) => failure,
            };
            // Whoever gets on may stumble as often as it takes.
            let now = partial.len().unwrap_or(0);
            attempt = if now > most { 1 } else { attempt };
            most = most.max(now);
            self.pause(attempt, failure)?;
            attempt += 1;
        }
    }

    /// Fetches a file from its beginning.
    fn begin(&self, name: &str, promise: &Promise, partial: &Partial, seen: &mut Seen) -> Result<(), Failure> {
        // A file of its own: a request that was given up may still be writing to the last one.
        partial.remove();
        fs::create_dir_all(&partial.directory).map_err(|e| self.disk(&e))?;
        let (repository, sha, file) = (self.repository.clone(), self.sha.clone(), name.to_owned());
        let directory = partial.directory.clone();
        let request = move |pulse: Arc<Pulse>| {
            repository.download_file().filename(file).revision(sha).local_dir(directory).progress(pulse).send()
        };
        let outcome = self.wait(request, &mut |bytes| self.heard(name, promise, 0, bytes, seen));
        if let Err(Failure::Silent(_)) = outcome {
            partial.detach().map_err(|e| self.disk(&e))?;
        }
        outcome.map(drop)
    }

    /// Fetches the next piece of a file.
    fn go_on(
        &self,
        name: &str,
        promise: &Promise,
        partial: &Partial,
        had: u64,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let range = had..promise.size.min(had + PIECE);
        let (repository, sha, file) = (self.repository.clone(), self.sha.clone(), name.to_owned());
        let asked = range.clone();
        let request = move |pulse: Arc<Pulse>| {
            repository.download_file_to_bytes().filename(file).revision(sha).range(asked).progress(pulse).send()
        };
        let wanted = range.end - had;
        let outcome = self.wait(request, &mut |bytes| {
            if bytes > wanted {
                // This server does not know pieces: only the whole file helps.
                partial.remove();
                let message = format!("{name}: the Hub sends more than the {wanted} bytes that were asked for");
                return Err(Failure::away(Error::run(message).at(self.remote)));
            }
            self.heard(name, promise, had, bytes, seen)
        });
        partial.append(&outcome?).map_err(|e| self.disk(&e))
    }

    /// Passes progress on; calls off what brings more than was promised.
    fn heard(&self, name: &str, promise: &Promise, from: u64, bytes: u64, seen: &mut Seen) -> Result<(), Failure> {
        if from + bytes > promise.size {
            return Err(self.wrong(name, &format!("more than {} bytes", promise.size)));
        }
        seen.until(from + bytes, self);
        Ok(())
    }

    fn wrong(&self, name: &str, what: &str) -> Failure {
        let error = Error::run(format!("{name} arrives with content that the Hub does not list: {what}"));
        Failure::Other(error.at(self.remote).hint(
            "something between here and the Hub changes files: look at the proxy, or at the mirror in HF_ENDPOINT",
        ))
    }

    /// Waits for whoever fetches the same content. Without locks (some network drives) two may fetch it, and the
    /// last one to rename it wins.
    fn lock(&self, name: &str, promise: &Promise) -> Result<Option<File>, Failure> {
        let file = self.cache.lock(promise).map_err(|e| self.disk(&e))?;
        let start = Instant::now();
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(TICK),
            }
            if self.cancelled() {
                return Err(Failure::Other(Error::interrupted()));
            }
            if let Some(watch) = &self.watch
                && !told
                && start.elapsed() > Duration::from_secs(2)
            {
                watch.tell(&format!("another process is fetching {name}; waiting for it"));
                told = true;
            }
        }
    }
}

/// A file that is growing, in a directory of its own.
struct Partial {
    directory: PathBuf,
    path: PathBuf,
}

impl Partial {
    fn of(directory: &Path, name: &str) -> Self {
        Self { directory: directory.to_owned(), path: directory.join(name) }
    }

    fn len(&self) -> Option<u64> {
        fs::metadata(&self.path).ok().map(|data| data.len())
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        File::options().append(true).open(&self.path)?.write_all(bytes)
    }

    /// Parts with whoever may still be writing, and keeps what has come.
    fn detach(&self) -> io::Result<()> {
        if !self.path.is_file() {
            return Ok(());
        }
        let copy = self.path.with_extension("copy");
        fs::copy(&self.path, &copy)?;
        fs::rename(copy, &self.path)
    }

    fn remove(&self) {
        // What stays behind is checked before it is used.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// How far a file's progress was reported; a transfer that begins again is not counted twice.
struct Seen(u64);

impl Seen {
    fn until(&mut self, bytes: u64, download: &Download) {
        if let Some(watch) = &download.watch {
            watch.advance(bytes.saturating_sub(self.0));
        }
        self.0 = self.0.max(bytes);
    }
}
