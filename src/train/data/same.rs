//! Which pairs of a batch are the same thing twice, so that neither is the other's negative.

use super::Corpus;
use super::place::content_id;

/// What is done with pairs of a batch that are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// They are left out of each other's negatives.
    #[default]
    Mask,
    /// They are each other's positives.
    Multi,
    /// They are negatives, as in open_clip.
    Off,
}

/// What pairs are compared by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    image: u64,
    text: u64,
    label: Option<u32>,
    group: Option<u32>,
}

impl Keys {
    /// Those of pairs of a row and a caption.
    pub fn new<'a>(corpus: &Corpus, pairs: impl IntoIterator<Item = (u32, &'a str)>) -> Self {
        let key = |(row, caption): (u32, &str)| {
            let row = &corpus.rows[row as usize];
            let text = content_id(plain(caption).as_bytes());
            Key { image: row.image_id, text, label: row.label, group: row.group }
        };
        Self(pairs.into_iter().map(key).collect())
    }

    /// For each pair here and each pair there, row by row, whether they are the same image, the same text up to case
    /// and space, of the same class or of the same group.
    pub fn same(&self, other: &Self) -> Vec<bool> {
        let mut same = Vec::with_capacity(self.0.len() * other.0.len());
        self.0.iter().for_each(|a| same.extend(other.0.iter().map(|b| a.same(b))));
        same
    }

    /// Each as numbers: image, text, class, group; the last two −1 where they are not known.
    pub fn numbers(&self) -> Vec<[i64; 4]> {
        let known = |number: Option<u32>| number.map_or(-1, i64::from);
        let numbers = |key: &Key| [key.image.cast_signed(), key.text.cast_signed(), known(key.label), known(key.group)];
        self.0.iter().map(numbers).collect()
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Key {
    fn same(&self, other: &Self) -> bool {
        let equal = |a: Option<u32>, b: Option<u32>| a.is_some() && a == b;
        self.image == other.image
            || self.text == other.text
            || equal(self.label, other.label)
            || equal(self.group, other.group)
    }
}

/// Which pairs of a batch are the same as another one: (B, B), row by row; false on the diagonal.
pub fn same(corpus: &Corpus, rows: &[u32], captions: &[String]) -> Vec<bool> {
    let keys = Keys::new(corpus, rows.iter().copied().zip(captions.iter().map(String::as_str)));
    let mut same = keys.same(&keys);
    same.iter_mut().step_by(keys.len() + 1).for_each(|diagonal| *diagonal = false);
    same
}

/// How many pairs of a batch are the same as all others: they have no negative.
pub fn alone(same: &[bool], size: usize) -> usize {
    same.chunks(size.max(1)).filter(|row| row.iter().filter(|same| **same).count() + 1 == size).count()
}

/// A text without what makes no difference: lower case, one space between words.
pub(super) fn plain(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}
