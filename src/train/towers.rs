//! What a batch is to the towers, and the towers as they are at one step.

use crate::error::{Error, Result};
use crate::image::Preprocess;
use crate::model::readout::TokenReadout;
use crate::model::{Clip, ImageTower, ProjectionHead, TextTower};
use crate::text::Batch as Ids;
use crate::weights::View;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// One side of a batch on its way through its tower.
pub(super) enum Stream<'a> {
    /// Images, (items, height, width, 3) bytes, not normalised.
    Images {
        /// The bytes.
        bytes: &'a [u8],
        /// How they become numbers.
        preprocess: &'a Preprocess,
    },
    /// Texts.
    Texts(&'a Ids),
    /// What the image tower's projection head takes, (items, features).
    ImageFeatures(Tensor),
    /// What the text tower's projection head takes, (items, features).
    TextFeatures(Tensor),
}

/// A tower. There are two at a time, so their sizes do not matter.
#[allow(clippy::large_enum_variant)]
pub(super) enum Tower {
    Image(ImageTower),
    Text(TextTower),
    Head(ProjectionHead),
}

/// What a tower gives for some items: embeddings (items, dim), not normalised, and tokens (items, tokens, dim) where they
/// were asked for.
pub(super) struct Output {
    pub(super) embeddings: Tensor,
    pub(super) tokens: Option<Tensor>,
}

impl Tower {
    /// The tower that this stream goes through, of the parameters as `view` shows them.
    pub(super) fn build(clip: &Clip, stream: &Stream<'_>, view: View<'_>) -> Result<Self> {
        match stream {
            Stream::Images { .. } => Self::image(clip, view),
            Stream::Texts(_) => Self::text(clip, view),
            Stream::ImageFeatures(_) => Ok(Self::Head(clip.image_projection(view)?)),
            Stream::TextFeatures(_) => Ok(Self::Head(clip.text_projection(view)?)),
        }
    }

    /// The image tower.
    pub(super) fn image(clip: &Clip, view: View<'_>) -> Result<Self> {
        let tower = Self::Image(clip.build_image(view)?);
        // What it took was copied: the file need not lie in memory beside it.
        clip.store().files().release();
        Ok(tower)
    }

    /// The text tower.
    pub(super) fn text(clip: &Clip, view: View<'_>) -> Result<Self> {
        let tower = Self::Text(clip.build_text(view)?);
        clip.store().files().release();
        Ok(tower)
    }

    /// Embeds a part of a stream.
    pub(super) fn forward(
        &self,
        clip: &Clip,
        stream: &Stream<'_>,
        range: Range<usize>,
        tokens: bool,
    ) -> Result<Output> {
        let all = TokenReadout { layer: -1, norm: true, project: true, pool: None };
        match (self, stream) {
            (Self::Image(tower), Stream::Images { bytes, preprocess }) => {
                let pixels = pixels(clip, bytes, preprocess, range)?;
                let read = match tokens {
                    true => {
                        let read = tower.tokens(&pixels, &all)?;
                        let start = read.spans.first().map_or(0, |span| span.start);
                        Some(read.tokens.narrow(1, start, read.tokens.dim(1)? - start)?)
                    }
                    false => None,
                };
                Ok(Output { embeddings: tower.forward(&pixels)?, tokens: read })
            }
            (Self::Text(tower), Stream::Texts(ids)) => {
                if tokens {
                    let rows = &ids.ids[range.start * ids.len..range.end * ids.len];
                    let read = tower.tokens(rows, ids.len, &all)?.tokens;
                    return Ok(Output { embeddings: tower.forward(rows, ids.len)?, tokens: Some(read) });
                }
                let (rows, len) = trimmed(ids, range, clip);
                Ok(Output { embeddings: tower.forward(&rows, len)?, tokens: None })
            }
            (Self::Head(head), Stream::ImageFeatures(rows) | Stream::TextFeatures(rows)) if !tokens => {
                let rows = rows.narrow(0, range.start, range.len())?;
                Ok(Output { embeddings: head.forward(&rows)?, tokens: None })
            }
            _ => Err(wrong()),
        }
    }

    /// Embeddings of a whole stream, (items, dim), not normalised.
    pub(super) fn embed(&self, clip: &Clip, stream: &Stream<'_>) -> Result<Tensor> {
        Ok(self.forward(clip, stream, 0..stream.len(), false)?.embeddings)
    }

    /// What the projection head takes of a whole stream, (items, features).
    pub(super) fn features(&self, clip: &Clip, stream: &Stream<'_>) -> Result<Tensor> {
        let range = 0..stream.len();
        match (self, stream) {
            (Self::Image(tower), Stream::Images { bytes, preprocess }) => {
                tower.features(&pixels(clip, bytes, preprocess, range)?)
            }
            (Self::Text(tower), Stream::Texts(ids)) => {
                let (rows, len) = trimmed(ids, range, clip);
                tower.features(&rows, len)
            }
            _ => Err(wrong()),
        }
    }
}

impl Stream<'_> {
    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Images { bytes, preprocess } => bytes.len() / preprocess.len().max(1),
            Self::Texts(ids) => ids.rows(),
            Self::ImageFeatures(rows) | Self::TextFeatures(rows) => rows.dims().first().copied().unwrap_or(0),
        }
    }
}

fn wrong() -> Error {
    Error::run("a stream went to the wrong tower")
}

/// Some images as the tower takes them, (items, 3, height, width).
fn pixels(clip: &Clip, bytes: &[u8], preprocess: &Preprocess, range: Range<usize>) -> Result<Tensor> {
    let size = preprocess.len();
    let images = bytes[range.start * size..range.end * size].chunks_exact(size);
    let mut pixels = Vec::with_capacity(range.len() * size);
    images.for_each(|image| pixels.extend(preprocess.normalize(image)));
    let [height, width] = preprocess.size;
    let pixels = Tensor::from_vec(pixels, (range.len(), 3, height, width), &Device::Cpu)?;
    Ok(pixels.to_device(clip.store().device())?.to_dtype(clip.store().dtype())?)
}

/// Rows of ids without the columns that are padding in all of them, where padding cannot be seen.
fn trimmed(ids: &Ids, range: Range<usize>, clip: &Clip) -> (Vec<u32>, usize) {
    let rows = &ids.ids[range.start * ids.len..range.end * ids.len];
    let longest = ids.lens[range].iter().copied().max().unwrap_or(0);
    let padded = clip.tokenizer().is_ok_and(|tokenizer| matches!(tokenizer.1.pad, crate::text::Pad::Fixed { .. }));
    if padded || longest == ids.len || longest == 0 {
        return (rows.to_vec(), ids.len);
    }
    (rows.chunks_exact(ids.len).flat_map(|row| &row[..longest]).copied().collect(), longest)
}
