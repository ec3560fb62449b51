//! What is read off a tower: the embedding, or tokens on their way through the blocks.

use super::spec::{BlocksSpec, ImageSpec, TextTowerSpec};
use super::{Clip, ImageTower, TextTower, to_rows};
use crate::error::{Error, Result};
use crate::image::Pixels;
use candle_core::Tensor;

/// What is read off a tower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readout {
    /// The embedding.
    #[default]
    Embedding,
    /// Tokens.
    Tokens(TokenReadout),
}

/// Which tokens are read off a tower, and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenReadout {
    /// The block whose output is read, counted from 1; 0 is what enters the first. Negative numbers count from the end:
    /// −1 is the last block.
    pub layer: isize,
    /// Whether the tower's last layer norm is applied to each token.
    pub norm: bool,
    /// Whether each token is mapped into the space of the embeddings. Only where the last layer norm is applied to the
    /// last block's output is this the map that the tower was trained with.
    pub project: bool,
    /// How the tokens become one vector; all of them are read if none.
    pub pool: Option<TokenPool>,
}

/// How tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPool {
    /// The token that stands for the whole: an image's class token, the end token of a text, the first of a BERT.
    Cls,
    /// The mean of an image's patches or of all tokens of a text.
    Mean,
    /// The largest number in each place, of the same tokens.
    Max,
    /// The first token.
    First,
    /// The last token.
    Last,
}

/// The tokens of a batch.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// All of them, (items, tokens, width); what stands behind the [end](Span::end) of an item is padding.
    pub tokens: Tensor,
    /// Which of them are what, for each item.
    pub spans: Vec<Span>,
}

/// Which tokens of an item are what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where the tokens begin that stand for parts of the item: behind the class token.
    pub start: usize,
    /// How many tokens the item has.
    pub end: usize,
    /// The token that stands for the whole, if there is one.
    pub cls: Option<usize>,
}

impl TokenReadout {
    /// How many blocks the tokens go through, in a tower of so many.
    pub fn depth(&self, layers: usize) -> Result<usize> {
        let from_start = if self.layer < 0 { layers as isize + 1 + self.layer } else { self.layer };
        usize::try_from(from_start).ok().filter(|&depth| depth <= layers).ok_or_else(|| {
            Error::usage(format!("there is no layer {}: the tower has {layers}", self.layer))
                .hint(format!("0 to {layers}, or -1 to -{} from the end", layers + 1))
        })
    }

    /// One item's tokens or the vector that they become; `tokens` is (tokens, `width`) row by row.
    fn finish(&self, tokens: &[f32], width: usize, span: Span) -> Result<Vec<f32>> {
        let row = |at: usize| tokens[at * width..(at + 1) * width].to_vec();
        let parts = || tokens[span.start * width..span.end * width].chunks_exact(width);
        Ok(match self.pool {
            None => tokens[..span.end * width].to_vec(),
            Some(TokenPool::First) => row(0),
            Some(TokenPool::Last) => row(span.end - 1),
            Some(TokenPool::Cls) => row(span.cls.ok_or_else(no_class_token)?),
            Some(TokenPool::Mean) => {
                let mut sums = vec![0f64; width];
                parts().for_each(|part| sums.iter_mut().zip(part).for_each(|(sum, &x)| *sum += f64::from(x)));
                sums.iter().map(|sum| (sum / (span.end - span.start) as f64) as f32).collect()
            }
            Some(TokenPool::Max) => parts().fold(vec![f32::NEG_INFINITY; width], |mut max, part| {
                max.iter_mut().zip(part).for_each(|(max, &x)| *max = max.max(x));
                max
            }),
        })
    }
}

/// What records say behind the model's name, so that nobody takes these vectors for its embeddings: `layer3+norm/mean`.
impl std::fmt::Display for TokenReadout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let norm = if self.norm { "+norm" } else { "" };
        let project = if self.project { "+project" } else { "" };
        let pool = match self.pool {
            None => "tokens",
            Some(TokenPool::Cls) => "cls",
            Some(TokenPool::Mean) => "mean",
            Some(TokenPool::Max) => "max",
            Some(TokenPool::First) => "first",
            Some(TokenPool::Last) => "last",
        };
        write!(f, "layer{}{norm}{project}/{pool}", self.layer)
    }
}

fn no_class_token() -> Error {
    Error::usage("this tower has no class token").hint("choose another with --pool mean|max|first|last")
}

impl Clip {
    /// Reads preprocessed images, whatever their sizes: one vector for each, not normalised.
    pub fn read_images(&self, images: Vec<Pixels>, readout: &Readout) -> Result<Vec<Vec<f32>>> {
        let tower = self.image()?;
        let mut rows = vec![Vec::new(); images.len()];
        let mut waiting: Vec<(usize, Pixels)> = images.into_iter().enumerate().collect();
        // Images of one size go through the tower together, the others wait: nothing is padded.
        while let Some((_, Pixels { size, .. })) = waiting.first() {
            let size = *size;
            let (same, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, image)| image.size == size);
            waiting = others;
            let mut pixels = Vec::with_capacity(same.len() * 3 * size[0] * size[1]);
            same.iter().for_each(|(_, image)| pixels.extend_from_slice(&image.values));
            let pixels = self.pixels(pixels, size)?;
            let read = match readout {
                Readout::Embedding => vectors(&self.forward_images(&pixels)?)?,
                Readout::Tokens(what) => finish(&tower.tokens(&pixels, what)?, what)?,
            };
            same.iter().zip(read).for_each(|((place, _), row)| rows[*place] = row);
        }
        Ok(rows)
    }

    /// Reads texts: one vector for each, not normalised, and how many texts were cut short.
    pub fn read_texts<T: AsRef<str> + Sync>(&self, texts: &[T], readout: &Readout) -> Result<(Vec<Vec<f32>>, usize)> {
        if texts.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let tokenizer = self.tokenizer()?;
        let batch = tokenizer.0.batch(texts, &tokenizer.1)?;
        let tower = self.text()?;
        let rows = match readout {
            Readout::Embedding => vectors(&tower.forward(&batch.ids, batch.len)?)?,
            Readout::Tokens(what) => finish(&tower.tokens(&batch.ids, batch.len, what)?, what)?,
        };
        Ok((rows, batch.truncated))
    }

    /// The length of a vector that this readout gives for an image: of each token, where it gives many.
    ///
    /// # Errors
    /// Usage, when the tower cannot be read so.
    pub fn image_width(&self, readout: &Readout) -> Result<usize> {
        match (readout, &self.spec.image) {
            (Readout::Embedding, _) => Ok(self.spec.embed_dim),
            (Readout::Tokens(what), ImageSpec::Vit(vit)) => {
                if what.project && vit.pools_by_attention() {
                    let message = "this image tower pools by attention: its tokens have no projection of their own";
                    return Err(Error::usage(message));
                }
                self.width(&vit.blocks, vit.class_token, what)
            }
            (Readout::Tokens(_), _) => Err(no_tokens()),
        }
    }

    /// The same for a text.
    pub fn text_width(&self, readout: &Readout) -> Result<usize> {
        match (readout, &self.spec.text) {
            (Readout::Embedding, _) => Ok(self.spec.embed_dim),
            (Readout::Tokens(what), TextTowerSpec::Transformer(text)) => self.width(&text.blocks, true, what),
            (Readout::Tokens(what), TextTowerSpec::Bert(text)) => self.width(&text.blocks, true, what),
        }
    }

    fn width(&self, blocks: &BlocksSpec, cls: bool, what: &TokenReadout) -> Result<usize> {
        what.depth(blocks.layers)?;
        if what.pool == Some(TokenPool::Cls) && !cls {
            return Err(no_class_token());
        }
        Ok(if what.project { self.spec.embed_dim } else { blocks.width })
    }
}

fn no_tokens() -> Error {
    Error::usage("this image tower is no transformer: it has no tokens to read")
}

impl ImageTower {
    /// The tokens of preprocessed images, (items, 3, height, width).
    pub fn tokens(&self, pixels: &Tensor, what: &TokenReadout) -> Result<Tokens> {
        let Self::Vit(tower) = self else { return Err(no_tokens()) };
        let mut tokens = tower.tokens(pixels, what.depth(tower.layers())?, &mut |_, x| Ok(x))?;
        if what.norm {
            tokens = tower.norm(&tokens)?;
        }
        if what.project {
            tokens = tower.project(&tokens)?;
        }
        let (items, end, _) = tokens.dims3()?;
        let span = Span { start: tower.lead(), end, cls: (tower.lead() > 0).then_some(0) };
        Ok(Tokens { tokens, spans: vec![span; items] })
    }
}

impl TextTower {
    /// The tokens of texts, whose ids are rows of `len`. Padding that the tower cannot see is none of them.
    pub fn tokens(&self, ids: &[u32], len: usize, what: &TokenReadout) -> Result<Tokens> {
        let project = |tokens, tower: &dyn Fn(&Tensor) -> Result<Tensor>| match what.project {
            true => tower(&tokens),
            false => Ok(tokens),
        };
        Ok(match self {
            Self::Transformer(tower) => {
                let mut tokens = tower.tokens(ids, len, what.depth(tower.layers())?, &mut |_, x| Ok(x))?;
                if what.norm {
                    tokens = tower.norm(&tokens)?;
                }
                let spans = ids.chunks(len).map(|ids| tower.span(ids)).collect();
                Tokens { tokens: project(tokens, &|x| tower.project(x))?, spans }
            }
            Self::Bert(tower) => {
                // Every block ends with a layer norm: there is no last one.
                let tokens = tower.tokens(ids, len, what.depth(tower.layers())?, &mut |_, x| Ok(x))?;
                let spans = ids.chunks(len).map(|ids| tower.span(ids)).collect();
                Tokens { tokens: project(tokens, &|x| tower.project(x))?, spans }
            }
        })
    }
}

/// What becomes of each item's tokens.
fn finish(tokens: &Tokens, what: &TokenReadout) -> Result<Vec<Vec<f32>>> {
    let (_, len, width) = tokens.tokens.dims3()?;
    let rows = to_rows(&tokens.tokens)?;
    rows.chunks_exact(len * width).zip(&tokens.spans).map(|(rows, span)| what.finish(rows, width, *span)).collect()
}

/// The rows of a matrix (items, width).
fn vectors(x: &Tensor) -> Result<Vec<Vec<f32>>> {
    let width = x.dim(1)?.max(1);
    Ok(to_rows(x)?.chunks_exact(width).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readout(layer: isize, pool: Option<TokenPool>) -> TokenReadout {
        TokenReadout { layer, norm: false, project: false, pool }
    }

    #[test]
    fn layers_count_from_both_ends() {
        let depth = |layer| readout(layer, None).depth(12).map_err(|error| error.to_string());
        assert_eq!([0, 1, 12, -1, -12, -13].map(|layer| depth(layer).unwrap()), [0, 1, 12, 12, 1, 0]);
        assert_eq!(depth(13).unwrap_err(), "there is no layer 13: the tower has 12");
        assert!(depth(-14).is_err() && depth(isize::MIN).is_err() && depth(isize::MAX).is_err());
    }

    #[test]
    fn names_tell_readouts_apart() {
        assert_eq!(readout(-1, None).to_string(), "layer-1/tokens");
        let readout = TokenReadout { norm: true, project: true, ..readout(3, Some(TokenPool::Max)) };
        assert_eq!(readout.to_string(), "layer3+norm+project/max");
    }

    #[test]
    fn tokens_become_one_vector() {
        // A class token, two patches, padding.
        let tokens = [9.0, 9.0, 1.0, 5.0, 3.0, -1.0, 100.0, 100.0];
        let span = Span { start: 1, end: 3, cls: Some(0) };
        let read = |pool| readout(-1, pool).finish(&tokens, 2, span).unwrap();
        assert_eq!(read(None), tokens[..6]);
        assert_eq!(read(Some(TokenPool::Cls)), [9.0, 9.0]);
        assert_eq!(read(Some(TokenPool::First)), [9.0, 9.0]);
        assert_eq!(read(Some(TokenPool::Last)), [3.0, -1.0]);
        assert_eq!(read(Some(TokenPool::Mean)), [2.0, 2.0]);
        assert_eq!(read(Some(TokenPool::Max)), [3.0, 5.0]);
        let none = Span { cls: None, ..span };
        assert!(readout(-1, Some(TokenPool::Cls)).finish(&tokens, 2, none).is_err());
    }
}
