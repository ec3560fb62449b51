//! The hash of a checkpoint's files, kept between runs: reading half a gigabyte only to name it takes longer than
//! embedding an image.

use std::fs::{self, Metadata};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file younger than this may change again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);

/// What tells a file's content from what it was: where it is, how long, when it was written, and as which file.
pub(super) fn stamp(path: &Path, metadata: &Metadata) -> Option<String> {
    let modified = metadata.modified().ok()?;
    let age = SystemTime::now().duration_since(modified).ok()?;
    if age < SETTLED {
        return None;
    }
    let nanoseconds = modified.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    #[cfg(unix)]
    let file = {
        use std::os::unix::fs::MetadataExt;
        // The time of the last change of anything about the file cannot be set by hand.
        format!("{}:{}:{}:{}", metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    #[cfg(not(unix))]
    let file = "";
    Some(format!("{}\0{}\0{nanoseconds}\0{file}", fs::canonicalize(path).ok()?.display(), metadata.len()))
}

/// The hash that `make` makes of files with these stamps, kept in `directory`. Where it cannot be kept, it is made anew.
pub(super) fn kept(directory: &Path, stamps: &[String], make: impl FnOnce() -> String) -> String {
    let place = place(directory, stamps);
    if let Ok(hash) = fs::read_to_string(&place)
        && hash.len() == 64
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return hash;
    }
    let hash = make();
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(hash.as_bytes())?;
        file.persist(&place)?;
        Ok(())
    };
    // Nothing is lost without it but time.
    let _ = write();
    hash
}

fn place(directory: &Path, stamps: &[String]) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    stamps.iter().for_each(|stamp| {
        hasher.update(&(stamp.len() as u64).to_le_bytes()).update(stamp.as_bytes());
    });
    directory.join(&hasher.finalize().to_hex()[..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_hash_is_made_once_for_a_file_that_stays_and_anew_for_one_that_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        fs::write(&path, "one").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        let stamp_of = |time| {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(time).unwrap();
            stamp(&path, &file.metadata().unwrap())
        };
        assert_eq!(stamp_of(SystemTime::now()), None);
        let first = stamp_of(old).unwrap();
        let kept_in = directory.path().join("hashes");
        let hash = |letter: &str| letter.repeat(64);
        assert_eq!(kept(&kept_in, std::slice::from_ref(&first), || hash("a")), hash("a"));
        assert_eq!(kept(&kept_in, &[first], || hash("b")), hash("a"));
        fs::write(&path, "three").unwrap();
        let second = stamp_of(old).unwrap();
        assert_eq!(kept(&kept_in, &[second], || hash("c")), hash("c"));
    }

    #[test]
    fn what_is_damaged_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let stamps = ["x".to_owned()];
        fs::write(place(directory.path(), &stamps), "not a hash").unwrap();
        assert_eq!(kept(directory.path(), &stamps, || "d".repeat(64)), "d".repeat(64));
        assert_eq!(kept(directory.path(), &stamps, || "e".repeat(64)), "d".repeat(64));
    }
}
