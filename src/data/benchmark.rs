//! Data sets as CLIP benchmark keeps them: `test/nshards.txt`, `test/0.tar` …, and beside them the class names and
//! templates. <https://github.com/LAION-AI/CLIP_benchmark>, `build_wds_dataset`.

use super::{Content, Input, Samples, SourceOptions, source};
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A data set has no more shards than this.
const MAX_SHARDS: u64 = 1_000_000;

/// A list of classes or templates is no longer than this.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// One split of a data set.
#[derive(Clone, Debug)]
pub struct Benchmark {
    /// Where the shards are.
    split: PathBuf,
    shards: u64,
    /// The names of the classes, if the set has classes.
    pub classes: Option<Vec<String>>,
    /// The file with the templates of the prompts, if there is one.
    pub templates: Option<PathBuf>,
    /// Whether each line of a caption is a caption.
    is_retrieval: bool,
}

impl Benchmark {
    /// Whether a folder is such a data set, or one of its splits.
    pub fn is_one(folder: &Path) -> bool {
        places(folder).is_some()
    }

    /// Opens a data set, of which the split `test` is meant, or one of its splits.
    pub fn open(folder: &Path) -> Result<Self> {
        let (root, split) = places(folder).ok_or_else(|| Error::run("no nshards.txt in here").at(folder.display()))?;
        let file = split.join("nshards.txt");
        let shards = read(&file)?.trim().parse().ok().filter(|shards| *shards <= MAX_SHARDS);
        let shards = shards.ok_or_else(|| Error::run("not a number of shards").at(file.display()))?;
        let lines = |text: String| text.trim().lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        let optional = |name: &str| Some(root.join(name)).filter(|path| path.is_file());
        let classes = optional("classnames.txt").map(|path| read(&path).map(lines)).transpose()?;
        let kind = optional("dataset_type.txt").map(|path| read(&path)).transpose()?.unwrap_or_default();
        Ok(Self {
            split,
            shards,
            classes,
            templates: optional("zeroshot_classification_templates.txt"),
            is_retrieval: kind.trim() == "retrieval",
        })
    }

    /// The samples of all shards.
    pub fn samples(self, options: &SourceOptions) -> Result<Samples> {
        let (tar, options, is_retrieval) = (source("tar")?, options.clone(), self.is_retrieval);
        let shards = (0..self.shards).map(move |shard| self.split.join(format!("{shard}.tar")));
        let samples = shards.flat_map(move |shard| {
            tar.open(Input::new(shard), &options).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        });
        Ok(Box::new(samples.map(move |sample| {
            let mut sample = sample?;
            if let (true, [Content::Text(text)]) = (is_retrieval, &sample.captions[..]) {
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                sample.captions = lines.map(|line| Content::Text(line.to_owned())).collect();
            }
            Ok(sample)
        })))
    }
}

/// The folder of the data set and that of the split.
fn places(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let places = [(folder.to_owned(), folder.join("test")), (folder.join(".."), folder.to_owned())];
    places.into_iter().find(|(_, split)| split.join("nshards.txt").is_file())
}

fn read(path: &Path) -> Result<String> {
    let at = |error: Error| error.at(path.display());
    if fs::metadata(path).map_err(|error| at(error.into()))?.len() > MAX_TEXT_BYTES {
        return Err(at(Error::run(format!("longer than {MAX_TEXT_BYTES} bytes"))));
    }
    let text = fs::read(path).map_err(|error| at(error.into()))?;
    String::from_utf8(text).map_err(|_| at(Error::run("not UTF-8 text")))
}
