//! The cache of the Hub, shared with Python: `models--org--name/{refs,snapshots,blobs,.no_exist}`.
//!
//! Reading it needs no network and no feature: what Python downloaded, we open.

use super::digest::Promise;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the cache is: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` below `HF_HOME`, which is
/// `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface` unless set.
pub fn directory() -> PathBuf {
    let set = |name: &str| setting(name).map(PathBuf::from);
    if let Some(cache) = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
        return cache;
    }
    let home = || std::env::home_dir().unwrap_or_else(std::env::temp_dir);
    let base = || set("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache")).join("huggingface");
    set("HF_HOME").unwrap_or_else(base).join("hub")
}

/// One of the variables that Python's tools share with us, unless it is empty.
pub(super) fn setting(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The part of the cache that belongs to one repository.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
    locks: PathBuf,
}

/// What the cache knows about a file of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is here.
    Here,
    /// The repository has no such file.
    Absent,
    /// Nobody asked for it yet.
    Unknown,
}

impl Cache {
    /// The repository `org/name` below the cache directory.
    pub(super) fn new(directory: &Path, repository: &str) -> Self {
        let folder = format!("models--{}", repository.replace('/', "--"));
        Self { root: directory.join(&folder), locks: directory.join(".locks").join(folder) }
    }

    /// The commit that a branch or tag meant when it was last resolved; a commit means itself.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let sha = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(sha.trim().to_owned()).filter(|sha| is_commit(sha))
    }

    /// Remembers what a branch or tag means.
    pub(super) fn remember(&self, revision: &str, sha: &str) -> io::Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(sha) {
            return Ok(());
        }
        write_whole(&self.root.join("refs").join(revision), sha.as_bytes())
    }

    /// The directory of a commit's files.
    pub(super) fn snapshot(&self, sha: &str) -> PathBuf {
        self.root.join("snapshots").join(sha)
    }

    /// What is known about a file of a commit.
    pub(super) fn known(&self, sha: &str, name: &str) -> Known {
        if self.snapshot(sha).join(name).is_file() {
            Known::Here
        } else if self.absent(sha, name).exists() {
            Known::Absent
        } else {
            Known::Unknown
        }
    }

    /// Remembers that a commit has no such file, as Python's client does.
    pub(super) fn mark_absent(&self, sha: &str, name: &str) -> io::Result<()> {
        let path = self.absent(sha, name);
        if path.exists() { Ok(()) } else { write_whole(&path, b"") }
    }

    /// Whether a commit's file is here: it has the promised size, and its content the promised name.
    pub(super) fn holds(&self, sha: &str, name: &str, promise: &Promise) -> bool {
        let path = self.snapshot(sha).join(name);
        let sized = fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() == promise.size);
        sized && blob_name(&path).is_none_or(|name| promise.is(&name))
    }

    /// The name of the blob that holds the promised content, from whatever commit it came.
    pub(super) fn blob(&self, promise: &Promise) -> Option<String> {
        let sized =
            |entry: &fs::DirEntry| entry.metadata().is_ok_and(|data| data.is_file() && data.len() == promise.size);
        let names = fs::read_dir(self.root.join("blobs")).ok()?.flatten().filter(sized);
        names.filter_map(|entry| entry.file_name().into_string().ok()).find(|name| promise.is(name))
    }

    /// Makes a file, whose content was checked, a blob.
    pub(super) fn adopt(&self, file: &Path, blob: &str) -> io::Result<()> {
        // A power cut must not leave a final name with a hole below it.
        fs::File::open(file)?.sync_all()?;
        fs::create_dir_all(self.root.join("blobs"))?;
        fs::rename(file, self.root.join("blobs").join(blob))
    }

    /// Makes a commit's file lead to a blob.
    pub(super) fn link(&self, sha: &str, name: &str, blob: &str) -> io::Result<()> {
        let path = self.snapshot(sha).join(name);
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent)?;
        let new = own_name(&path);
        let _ = fs::remove_file(&new);
        #[cfg(unix)]
        {
            let up = "../".repeat(name.split('/').count() + 1);
            std::os::unix::fs::symlink(format!("{up}blobs/{blob}"), &new)?;
        }
        #[cfg(not(unix))]
        {
            let blob = self.root.join("blobs").join(blob);
            fs::hard_link(&blob, &new).or_else(|_| fs::copy(&blob, &new).map(drop))?;
        }
        fs::rename(new, path)
    }

    /// Where a file grows until it is whole and checked.
    pub(super) fn partial(&self, promise: &Promise) -> PathBuf {
        self.root.join(".partial").join(&promise.oid)
    }

    /// The lock that whoever fetches this content holds.
    pub(super) fn lock(&self, promise: &Promise) -> io::Result<fs::File> {
        fs::create_dir_all(&self.locks)?;
        fs::File::create(self.locks.join(format!("{}.lock", promise.oid)))
    }

    fn absent(&self, sha: &str, name: &str) -> PathBuf {
        self.root.join(".no_exist").join(sha).join(name)
    }
}

/// The name of the blob that a file of a snapshot leads to, if it leads to one.
pub(super) fn blob_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let below = target.parent()?.file_name()? == "blobs";
    below.then(|| target.file_name()?.to_str().map(str::to_owned))?
}

/// Writes a file that gets its name when it is whole.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = own_name(path);
    fs::write(&new, content)?;
    fs::rename(new, path)
}

/// A name beside `path` that no other process uses.
fn own_name(path: &Path) -> PathBuf {
    path.with_file_name(format!(".new-{}", std::process::id()))
}

/// Whether a revision is a whole commit hash, which never changes its meaning.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}
