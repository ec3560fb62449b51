//! Rows of weights that were computed before, on disk.
//!
//! A file is named by a hash of everything that its rows depend on, so nothing in it can be out of date; what cannot be
//! read, or fails its checksum, counts as missing and is written again.

use super::{Prompts, Weights};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A directory of computed rows.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

/// Names rows of weights by what they depend on: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

/// The length of the checksum at a file's beginning.
const CHECKSUM: usize = blake3::OUT_LEN;

impl Key {
    /// `model` names the checkpoint with its tokenizer, `path` how numbers are computed: device, precision,
    /// instruction set.
    pub fn new(model: &str, path: &str, prompts: &Prompts) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Lengths go in front, so that no two different lists run together.
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        field(concat!("clip-cli head 1 ", env!("CARGO_PKG_VERSION")).as_bytes());
        field(model.as_bytes());
        field(path.as_bytes());
        for row in prompts.rows() {
            field(&(row.len() as u64).to_le_bytes());
            row.iter().for_each(|prompt| field(prompt.as_bytes()));
        }
        Self(hasher.finalize().to_hex().to_string())
    }
}

impl Cache {
    /// Files go into this directory, which is made when the first one is written.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The rows of this name, if they are here in full.
    pub fn load(&self, key: &Key, rows: usize, dim: usize) -> Option<Weights> {
        let bytes = std::fs::read(self.path(key)).ok()?;
        let (checksum, data) = bytes.split_at_checked(CHECKSUM)?;
        if data.len() != rows * dim * size_of::<f32>() || blake3::hash(data).as_bytes() != checksum {
            return None;
        }
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Weights::new(data.chunks_exact(4).map(number).collect(), dim).ok()
    }

    /// Keeps rows under this name. The file appears in full or not at all.
    pub fn save(&self, key: &Key, weights: &Weights) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let data: Vec<u8> = weights.as_slice().iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(blake3::hash(&data).as_bytes())?;
        file.write_all(&data)?;
        file.persist(self.path(key))?;
        Ok(())
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(format!("{}.head", key.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TemplateSet;

    fn prompts(labels: &[&str], template: &str) -> Prompts {
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        Prompts::new(&labels, &TemplateSet::single(template).unwrap(), false).unwrap()
    }

    #[test]
    fn keys_tell_everything_apart() {
        let keys = [
            Key::new("m", "cpu", &prompts(&["a", "b"], "{}")),
            Key::new("n", "cpu", &prompts(&["a", "b"], "{}")),
            Key::new("m", "cuda", &prompts(&["a", "b"], "{}")),
            Key::new("m", "cpu", &prompts(&["b", "a"], "{}")),
            Key::new("m", "cpu", &prompts(&["ab"], "{}")),
            Key::new("m", "cpu", &prompts(&["a", "b"], "a {}")),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|other| other != key), "{i}");
        }
        assert_eq!(keys[0], Key::new("m", "cpu", &prompts(&["a", "b"], "{c}")));
    }

    #[test]
    fn what_is_damaged_counts_as_missing() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("heads"));
        let key = Key::new("m", "cpu", &prompts(&["a"], "{}"));
        let weights = Weights::new(vec![0.6, 0.8], 2).unwrap();
        assert_eq!(cache.load(&key, 1, 2), None);
        cache.save(&key, &weights).unwrap();
        assert_eq!(cache.load(&key, 1, 2), Some(weights.clone()));
        assert_eq!(cache.load(&key, 2, 1), Some(Weights::new(vec![0.6, 0.8], 1).unwrap()));
        assert_eq!(cache.load(&key, 1, 3), None);

        let path = cache.path(&key);
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[CHECKSUM + 1] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], &good[..3], b""] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(cache.load(&key, 1, 2), None);
        }
        cache.save(&key, &weights).unwrap();
        assert_eq!(cache.load(&key, 1, 2), Some(weights));
    }
}
