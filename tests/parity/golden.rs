//! What the Python reference made of one checkpoint: `golden.json` and `golden.safetensors` beside it.

use candle_core::{DType, Device, Tensor};
use clip_cli::image::{DecodeOptions, decode};
use clip_cli::model::{Clip, LoadOptions, ModelFiles};
use clip_cli::weights::Files;
use std::path::{Path, PathBuf};

/// What the reference made of one checkpoint.
pub(crate) struct Golden {
    pub(crate) directory: PathBuf,
    pub(crate) tensors: Files,
    pub(crate) images: Vec<PathBuf>,
    pub(crate) texts: Vec<Option<String>>,
    pub(crate) about: serde_json::Value,
}

/// The tiny checkpoints that are part of the repository.
pub(crate) fn checkpoints() -> Vec<Golden> {
    let data = golden_directory().join("data");
    let mut names: Vec<PathBuf> = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.join("golden.safetensors").is_file());
    names.sort();
    assert!(names.len() >= 10, "tiny checkpoints are missing");
    names.iter().map(|path| Golden::open(path)).collect()
}

pub(crate) fn golden_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

impl Golden {
    pub(crate) fn open(directory: &Path) -> Self {
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

    pub(crate) fn named(name: &str) -> Self {
        Self::open(&golden_directory().join("data").join(name))
    }

    pub(crate) fn name(&self) -> String {
        self.directory.file_name().unwrap().to_string_lossy().into_owned()
    }

    pub(crate) fn files(&self) -> ModelFiles {
        ModelFiles::open(&self.directory).unwrap()
    }

    pub(crate) fn clip(&self) -> Clip {
        Clip::open(self.files(), &LoadOptions::default()).unwrap()
    }

    pub(crate) fn tensor(&self, key: &str) -> Tensor {
        self.tensors.read(key, DType::F32, &Device::Cpu).unwrap().unwrap_or_else(|| panic!("no tensor {key}"))
    }

    pub(crate) fn numbers(&self, key: &str) -> Vec<f32> {
        self.tensor(key).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Token ids, and how many there are in a row.
    pub(crate) fn ids(&self) -> (Vec<u32>, usize) {
        let ids = self.tensors.read("input_ids", DType::I64, &Device::Cpu).unwrap().unwrap();
        let len = ids.dim(1).unwrap();
        (ids.flatten_all().unwrap().to_vec1::<i64>().unwrap().iter().map(|&id| id as u32).collect(), len)
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.texts.iter().flatten().cloned().collect()
    }

    /// The pixels that we make of the reference's image files.
    pub(crate) fn our_pixels(&self, clip: &Clip) -> Vec<f32> {
        let mut pixels = Vec::new();
        for path in &self.images {
            let raster = decode(&std::fs::read(path).unwrap(), &DecodeOptions::default()).unwrap();
            pixels.extend(clip.preprocess().run(&raster).unwrap());
        }
        pixels
    }
}

/// Rows of `dim`, each brought to unit length.
pub(crate) fn unit(mut rows: Vec<f32>, dim: usize) -> Vec<f32> {
    rows.chunks_mut(dim).for_each(clip_cli::ops::normalize::normalize_row);
    rows
}

pub(crate) fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
