//! What a model expects of its texts beyond the vocabulary, and texts as a model takes them.

use super::Clean;

/// How a model's reference turns texts into rows of token ids: the data in which models differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSpec {
    /// What happens to a text before it is cut.
    pub clean: Clean,
    /// The longest row, special tokens included.
    pub context_length: usize,
    /// The special tokens around every text.
    pub frame: Frame,
    /// How short rows are filled.
    pub pad: Pad,
    /// A token that is replaced with 0 wherever it stands: open_clip's `strip_sep_token`.
    pub blank: Option<u32>,
}

/// The special tokens around a text. They survive truncation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// In front of the text.
    pub before: Vec<u32>,
    /// Behind the text; the last one marks its end.
    pub after: Vec<u32>,
}

/// How rows shorter than the context are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pad {
    /// Up to the context length, because the model looks at padding (SigLIP, towers without a causal mask).
    Fixed {
        /// The token that fills.
        id: u32,
    },
    /// Up to the longest row of the batch, because padding cannot influence the embedding.
    Longest {
        /// The token that fills.
        id: u32,
    },
}

/// Token ids of some texts: rows of equal length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The ids, row by row.
    pub ids: Vec<u32>,
    /// The length of a row.
    pub len: usize,
    /// How many ids of each row are not padding.
    pub lens: Vec<usize>,
    /// How many texts were too long and lost their end.
    pub truncated: usize,
}

impl TextSpec {
    /// One row without padding from the tokens of a text, and whether it had to be cut.
    pub fn row(&self, tokens: &[u32]) -> (Vec<u32>, bool) {
        let Frame { before, after } = &self.frame;
        let fits = before.len() + tokens.len() + after.len() <= self.context_length;
        let room = self.context_length.saturating_sub(before.len() + after.len()).min(tokens.len());
        let mut row = [before, &tokens[..room], after].concat();
        if row.len() > self.context_length {
            // A context shorter than the frame itself: the end of the text is what counts.
            row.truncate(self.context_length);
            if let (Some(last), Some(&end)) = (row.last_mut(), after.last()) {
                *last = end;
            }
        }
        if let Some(blank) = self.blank {
            row.iter_mut().filter(|id| **id == blank).for_each(|id| *id = 0);
        }
        (row, !fits)
    }

    /// Rows of equal length from the tokens of some texts.
    pub fn batch<T: AsRef<[u32]>>(&self, texts: &[T]) -> Batch {
        let (rows, cut): (Vec<_>, Vec<_>) = texts.iter().map(|tokens| self.row(tokens.as_ref())).unzip();
        let lens: Vec<usize> = rows.iter().map(Vec::len).collect();
        let (len, id) = match self.pad {
            Pad::Fixed { id } => (self.context_length, id),
            Pad::Longest { id } => (lens.iter().copied().max().unwrap_or(0), id),
        };
        let mut ids = Vec::with_capacity(rows.len() * len);
        for (index, row) in rows.into_iter().enumerate() {
            ids.extend(row);
            ids.resize((index + 1) * len, id);
        }
        Batch { ids, len, lens, truncated: cut.into_iter().filter(|&cut| cut).count() }
    }
}

impl Batch {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.lens.len()
    }

    /// The ids of one row, padding included.
    pub fn row(&self, index: usize) -> &[u32] {
        &self.ids[index * self.len..(index + 1) * self.len]
    }

    /// One for every token, zero for padding: transformers' `attention_mask`.
    pub fn mask(&self) -> Vec<u8> {
        self.lens.iter().flat_map(|&used| (0..self.len).map(move |at| u8::from(at < used))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(context_length: usize, pad: Pad) -> TextSpec {
        let frame = Frame { before: vec![100], after: vec![101] };
        TextSpec { clean: Clean::AsIs, context_length, frame, pad, blank: None }
    }

    #[test]
    fn the_end_survives_truncation() {
        let spec = spec(4, Pad::Longest { id: 0 });
        let batch = spec.batch(&[vec![1, 2, 3], vec![1], vec![]]);
        assert_eq!((batch.len, batch.rows(), batch.truncated), (4, 3, 1));
        assert_eq!(batch.ids, [100, 1, 2, 101, 100, 1, 101, 0, 100, 101, 0, 0]);
        assert_eq!(batch.mask(), [1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0]);
        assert_eq!(batch.row(1), [100, 1, 101, 0]);
    }

    #[test]
    fn fixed_padding_reaches_the_context() {
        let batch = spec(5, Pad::Fixed { id: 9 }).batch(&[[1]]);
        assert_eq!(batch.ids, [100, 1, 101, 9, 9]);
        assert_eq!(batch.truncated, 0);
    }

    #[test]
    fn blanks_and_tiny_contexts() {
        let blanked = TextSpec { blank: Some(101), ..spec(4, Pad::Fixed { id: 7 }) };
        assert_eq!(blanked.batch(&[[101]]).ids, [100, 0, 0, 7]);
        assert_eq!(spec(1, Pad::Fixed { id: 0 }).batch(&[[1]]).ids, [101]);
        assert!(spec(0, Pad::Fixed { id: 0 }).batch(&[[1]]).ids.is_empty());
        assert!(spec(3, Pad::Longest { id: 0 }).batch::<Vec<u32>>(&[]).ids.is_empty());
    }
}
