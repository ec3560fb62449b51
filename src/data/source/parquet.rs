//! Parquet: columns of paths, of image files, or Hugging Face's pairs of both.

use super::{Input, Source, SourceOptions};
use crate::data::Samples;
use crate::error::Result;

#[cfg(feature = "parquet")]
mod groups;
#[cfg(feature = "parquet")]
mod pages;

/// Parquet files.
pub(super) struct Parquet;

impl Source for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["parquet", "pq"]
    }

    fn about(&self) -> &'static str {
        "columns of images or paths, captions, labels"
    }

    #[cfg(feature = "parquet")]
    fn open(&self, input: Input, options: &SourceOptions) -> Result<Samples> {
        groups::open(&input, options)
    }

    #[cfg(not(feature = "parquet"))]
    fn open(&self, input: Input, _: &SourceOptions) -> Result<Samples> {
        Err(crate::error::Error::run("this program was built without the feature `parquet`").at(input.name()))
    }
}
