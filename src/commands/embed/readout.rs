//! `embed --layer --tokens --pool`: what is read off the towers in place of the embedding.

use crate::error::{Error, Result};
use crate::model::readout::{TokenPool, TokenReadout};
use crate::model::{Clip, Readout};
use clap::{Args, ValueEnum};

/// What is read off the towers
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tokens")]
pub(super) struct ReadoutArgs {
    /// Read tokens as this block leaves them: 1 is the first, -1 the last, 0 what enters the first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    layer: Option<isize>,

    /// Write every token of an item, not one vector
    #[arg(long, conflicts_with = "pool")]
    tokens: bool,

    /// How tokens become one vector [default: cls, or mean for images without a class token]
    #[arg(long, value_name = "POOL", value_enum)]
    pool: Option<Pool>,

    /// Apply the tower's last layer norm to each token
    #[arg(long)]
    final_norm: bool,

    /// Map tokens into the space of the embeddings: the last layer, normed and projected
    #[arg(long)]
    project: bool,
}

/// How tokens become one vector
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pool {
    /// The token that stands for the whole: the class token of an image, the end of a text (of a BERT the first)
    Cls,
    /// The mean of an image's patches, or of all tokens of a text
    Mean,
    /// The largest number in each place
    Max,
    /// The first token
    First,
    /// The last token
    Last,
}

impl ReadoutArgs {
    /// Whether every token is written.
    pub(super) fn many(&self) -> bool {
        self.tokens
    }

    /// Whether the embedding is read, as usual.
    pub(super) fn is_embedding(&self) -> bool {
        self.layer.is_none() && !self.tokens && self.pool.is_none() && !self.final_norm && !self.project
    }

    /// What to read off this checkpoint's towers, and how long a vector is. `images` and `texts` say which towers are
    /// needed.
    pub(super) fn resolve(&self, clip: &Clip, images: bool, texts: bool) -> Result<(Readout, usize)> {
        if self.is_embedding() {
            return Ok((Readout::Embedding, clip.spec.embed_dim));
        }
        let layer = self.layer.unwrap_or(-1);
        if self.project && layer != -1 {
            return Err(Error::usage("--project maps the tokens of the last layer").hint("leave --layer out"));
        }
        let read = |pool| {
            Readout::Tokens(TokenReadout { layer, norm: self.final_norm || self.project, project: self.project, pool })
        };
        let pool = match (self.tokens, self.pool) {
            (true, _) => None,
            (false, Some(pool)) => Some(pool.into()),
            (false, None) => {
                let cls = read(Some(TokenPool::Cls));
                let mean = images && clip.image_width(&cls).is_err();
                Some(if mean { TokenPool::Mean } else { TokenPool::Cls })
            }
        };
        let readout = read(pool);
        let of_images = images.then(|| clip.image_width(&readout)).transpose()?;
        let of_texts = texts.then(|| clip.text_width(&readout)).transpose()?;
        match (of_images, of_texts) {
            (Some(images), Some(texts)) if images != texts => {
                let message = format!("tokens of images are {images} numbers long, those of texts {texts}");
                Err(Error::usage(message).hint("embed images and texts in two runs"))
            }
            (width, other) => Ok((readout, width.or(other).unwrap_or(clip.spec.embed_dim))),
        }
    }
}

impl From<Pool> for TokenPool {
    fn from(pool: Pool) -> Self {
        match pool {
            Pool::Cls => Self::Cls,
            Pool::Mean => Self::Mean,
            Pool::Max => Self::Max,
            Pool::First => Self::First,
            Pool::Last => Self::Last,
        }
    }
}
