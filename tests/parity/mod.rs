//! The same numbers as the Python references, on the tiny checkpoints of `tests/golden`.

mod can_fail;
mod ops;
mod towers;

use candle_core::{DType, Device, Tensor};
use clip_cli::model::{Clip, LoadOptions, ModelFiles};
use clip_cli::weights::Files;
use std::path::{Path, PathBuf};

/// What the reference made of one checkpoint.
struct Golden {
    directory: PathBuf,
    tensors: Files,
    images: Vec<PathBuf>,
    texts: Vec<Option<String>>,
    about: serde_json::Value,
}

/// The tiny checkpoints that are part of the repository.
fn checkpoints() -> Vec<Golden> {
    let data = golden_directory().join("data");
    let mut names: Vec<PathBuf> = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.join("golden.safetensors").is_file());
    names.sort();
    assert!(names.len() >= 10, "tiny checkpoints are missing");
    names.iter().map(|path| Golden::open(path)).collect()
}

fn golden_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

impl Golden {
    fn open(directory: &Path) -> Self {
        let about = std::fs::read_to_string(directory.join("golden.json")).unwrap();
        let about: serde_json::Value = serde_json::from_str(&about).unwrap();
        let strings = |key: &str| about[key].as_array().unwrap().iter().map(|v| v.as_str().map(str::to_owned));
        Self {
            directory: directory.to_owned(),
            tensors: Files::open(&directory.join("golden.safetensors")).unwrap(),
            images: strings("images").map(|name| golden_directory().join("images").join(name.unwrap())).collect(),
            texts: strings("texts").collect(),
            about,
        }
    }

    fn named(name: &str) -> Self {
        Self::open(&golden_directory().join("data").join(name))
    }

    fn name(&self) -> String {
        self.directory.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn files(&self) -> ModelFiles {
        ModelFiles::open(&self.directory).unwrap()
    }

    fn clip(&self) -> Clip {
        Clip::open(self.files(), &LoadOptions::default()).unwrap()
    }

    fn has(&self, key: &str) -> bool {
        self.tensors.contains(key)
    }

    fn tensor(&self, key: &str) -> Tensor {
        self.tensors.read(key, DType::F32, &Device::Cpu).unwrap().unwrap_or_else(|| panic!("no tensor {key}"))
    }

    fn numbers(&self, key: &str) -> Vec<f32> {
        self.tensor(key).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Token ids, and how many there are in a row.
    fn ids(&self) -> (Vec<u32>, usize) {
        let ids = self.tensors.read("input_ids", DType::I64, &Device::Cpu).unwrap().unwrap();
        let len = ids.dim(1).unwrap();
        (ids.flatten_all().unwrap().to_vec1::<i64>().unwrap().iter().map(|&id| id as u32).collect(), len)
    }

    fn texts(&self) -> Vec<String> {
        self.texts.iter().flatten().cloned().collect()
    }
}

/// Rows of `dim`, each brought to unit length.
fn unit(mut rows: Vec<f32>, dim: usize) -> Vec<f32> {
    rows.chunks_mut(dim).for_each(clip_cli::ops::normalize::normalize_row);
    rows
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
