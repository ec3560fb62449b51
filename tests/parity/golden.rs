//! What the Python reference made of one checkpoint: `golden.json` and `golden.safetensors` beside it.

use candle_core::{DType, Device, Tensor};
use clip_cli::image::{DecodeOptions, Pixels, decode};
use clip_cli::model::{Clip, LoadOptions, ModelFiles, Readout};
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

    /// The reference's preprocessed images: (items, 3, height, width), or one behind the other where the tensor
    /// `KEY_sizes` says that each has a size of its own.
    pub(crate) fn pixels(&self, key: &str) -> Vec<Pixels> {
        let tensor = self.tensor(key);
        let sizes: Vec<[usize; 2]> = match tensor.dims4() {
            Ok((items, _, height, width)) => vec![[height, width]; items],
            Err(_) => {
                let sizes = self.numbers(&format!("{key}_sizes"));
                sizes.chunks(2).map(|size| [size[0] as usize, size[1] as usize]).collect()
            }
        };
        let numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let mut rest = numbers.as_slice();
        let mut next = |size: [usize; 2]| {
            let (values, others) = rest.split_at(3 * size[0] * size[1]);
            rest = others;
            Pixels { size, values: values.to_vec() }
        };
        let pixels = sizes.into_iter().map(&mut next).collect();
        assert!(rest.is_empty());
        pixels
    }

    /// The pixels that we make of the reference's image files.
    pub(crate) fn our_pixels(&self, clip: &Clip) -> Vec<Pixels> {
        let run = |path: &PathBuf| {
            let raster = decode(&std::fs::read(path).unwrap(), &DecodeOptions::default()).unwrap();
            clip.preprocess().run(&raster).unwrap()
        };
        self.images.iter().map(run).collect()
    }
}

/// The embeddings of images, row by row.
pub(crate) fn embed(clip: &Clip, images: Vec<Pixels>) -> Vec<f32> {
    clip.read_images(images, &Readout::Embedding).unwrap().concat()
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
