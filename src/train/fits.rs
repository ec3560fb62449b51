//! Which captions that should not fit their own pair are known to fit another one of the batch.
//!
//! Captions that do not fit are columns of all images of a batch. One that was found among the data is the caption of some
//! image, and that image may be in the batch: it is no negative there.

use super::data::Corpus;
use super::negatives::text_id;
use super::step::Batch;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

/// The rows that have a caption, by [`text_id`]; found when it is first asked for.
#[derive(Debug, Default)]
pub struct Fits(OnceLock<HashMap<u64, Vec<u32>>>);

impl Fits {
    /// For each pair and each column of captions that do not fit, (B, B · K) row by row, whether the caption describes the
    /// pair's image, or one of its class or group, after all. Empty if none does.
    pub(super) fn of(&self, corpus: &Corpus, batch: &Batch) -> Vec<bool> {
        let (pairs, most) = (batch.index.len(), batch.negatives());
        if most == 0 {
            return Vec::new();
        }
        let rows_of = self.0.get_or_init(|| {
            let mut rows_of: HashMap<u64, Vec<u32>> = HashMap::new();
            for (at, row) in corpus.rows.iter().enumerate() {
                row.captions.iter().for_each(|caption| rows_of.entry(text_id(caption)).or_default().push(at as u32));
            }
            rows_of
        });
        let mut fits = vec![false; pairs * pairs * most];
        for (pair, own) in batch.neg_texts.iter().enumerate() {
            for (k, text) in own.iter().enumerate() {
                let Some(rows) = rows_of.get(&text_id(text)) else { continue };
                let rows = || rows.iter().map(|&row| &corpus.rows[row as usize]);
                let images: HashSet<u64> = rows().map(|row| row.image_id).collect();
                let labels: HashSet<u32> = rows().filter_map(|row| row.label).collect();
                let groups: HashSet<u32> = rows().filter_map(|row| row.group).collect();
                for (other, &row) in batch.index.iter().enumerate() {
                    let row = &corpus.rows[row as usize];
                    fits[(other * pairs + pair) * most + k] = images.contains(&row.image_id)
                        || row.label.is_some_and(|label| labels.contains(&label))
                        || row.group.is_some_and(|group| groups.contains(&group));
                }
            }
        }
        if fits.contains(&true) { fits } else { Vec::new() }
    }
}
