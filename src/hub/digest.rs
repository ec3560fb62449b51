//! What content is called: the names under which the Hub and the cache know a file.
//!
//! A small file is a git object, called by the SHA-1 that git gives it. A large one (LFS) is called by its SHA-256, and
//! git holds a pointer to it, a short text whose form is fixed. A blob's name in the cache is therefore its checksum.

use super::sha1::Sha1;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How the checksum in a blob's name is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// Of large files: 64 hexadecimal digits.
    Sha256,
    /// Of small files, over `blob LENGTH\0` and the content, as git does it: 40 hexadecimal digits.
    Git,
}

impl Digest {
    /// The checksum that a blob of this name is called by.
    pub fn of_name(name: &str) -> Option<Self> {
        let hex = name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match name.len() {
            64 if hex => Some(Self::Sha256),
            40 if hex => Some(Self::Git),
            _ => None,
        }
    }

    /// Its name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Git => "git-sha1",
        }
    }

    /// The checksum of content of this length, as hexadecimal digits.
    pub fn of(self, content: &mut dyn Read, length: u64) -> io::Result<String> {
        match self {
            Self::Sha256 => {
                let mut hash = Sha256::new();
                each_piece(content, |piece| hash.update(piece))?;
                Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
            }
            Self::Git => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {length}\0").as_bytes());
                each_piece(content, |piece| hash.update(piece))?;
                Ok(hash.hex())
            }
        }
    }

    /// The checksum of a file, as hexadecimal digits.
    pub fn of_file(self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        self.of(&mut file, length)
    }
}

fn each_piece(content: &mut dyn Read, mut act: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => act(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the Hub lists about a file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    /// How many bytes it has.
    pub(super) size: u64,
    /// The git object that stands for it: of a large file, that of its pointer.
    pub(super) oid: String,
    /// How its content is called.
    pub(super) digest: Digest,
}

impl Promise {
    /// Whether content of this name and of the promised size is what was promised.
    pub(super) fn is(&self, name: &str) -> bool {
        match self.digest {
            Digest::Git => self.oid == name,
            Digest::Sha256 => Digest::of_name(name) == Some(Digest::Sha256) && self.oid == pointer(name, self.size),
        }
    }
}

/// The git object of the pointer to a large file.
fn pointer(sha256: &str, size: u64) -> String {
    let text = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", text.len()).as_bytes());
    hash.update(text.as_bytes());
    hash.hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_called_as_git_and_the_hub_call_it() {
        let git = |content: &[u8]| Digest::Git.of(&mut &content[..], content.len() as u64).unwrap();
        assert_eq!(git(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        assert_eq!(git(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::Sha256.of(&mut io::empty(), 0).unwrap(), empty);
        assert_eq!((Digest::of_name(empty), Digest::of_name(&git(b""))), (Some(Digest::Sha256), Some(Digest::Git)));
        assert_eq!((Digest::of_name("etag"), Digest::of_name(&"Z".repeat(64))), (None, None));
    }

    #[test]
    fn a_pointer_stands_for_its_content() {
        // Two files of openai-community/gpt2, as huggingface_hub documents its list_repo_tree.
        let files = [
            (
                497_764_107,
                "d88b0d6a6ff9c3f8151f9d3228f57092aaea997f09af009eefd7373a77b5abb9",
                "8095a62ccb4d806da7666fcda07467e2d150218e",
            ),
            (
                548_123_560,
                "9be78edb5b928eba33aa88f431551348f7466ba9f5ef3daf1d552398722a5436",
                "64eaa9c526867e404b68f2c5d66fd78e27026523",
            ),
        ];
        for (size, sha256, oid) in files {
            let promise = Promise { size, oid: oid.to_owned(), digest: Digest::Sha256 };
            assert!(promise.is(sha256));
            assert!(!promise.is(&sha256.replace('9', "8")) && !promise.is(oid));
            assert!(!Promise { size: size + 1, ..promise }.is(sha256));
        }
        let small = Promise { size: 0, oid: "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391".into(), digest: Digest::Git };
        assert!(small.is("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391") && !small.is(""));
    }
}
