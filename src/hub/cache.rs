//! The cache of the Hub, shared with Python: `models--org--name/{refs,snapshots,blobs,.no_exist}`.
//!
//! Reading it needs no network and no feature: what Python downloaded, we open.

use std::ffi::OsString;
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
        Self { root: directory.join(format!("models--{}", repository.replace('/', "--"))) }
    }

    /// The commit that a branch or tag meant when it was last resolved; a commit means itself.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let sha = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(sha.trim().to_owned()).filter(|sha| is_commit(sha))
    }

    /// Remembers what a branch or tag means.
    pub(super) fn remember(&self, revision: &str, sha: &str) -> io::Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, sha)
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
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, b"")
    }

    /// Forgets a file whose content is not what the Hub promised.
    pub(super) fn forget(&self, sha: &str, name: &str) {
        let pointer = self.snapshot(sha).join(name);
        if let Ok(blob) = pointer.canonicalize() {
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(pointer);
    }

    fn absent(&self, sha: &str, name: &str) -> PathBuf {
        self.root.join(".no_exist").join(sha).join(name)
    }
}

/// Whether a revision is a whole commit hash, which never changes its meaning.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}
