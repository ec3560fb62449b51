//! From what a process loaded to the batch that all processes know.

use super::data::{self, Corpus};
use super::group::Group;
use super::step::Batch;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the other processes must know of a process's share.
#[derive(Default, Deserialize, Serialize)]
struct Share {
    rows: Vec<u32>,
    captions: Vec<String>,
    neg_captions: Vec<Vec<String>>,
    /// For each pair how many images follow its own.
    neg_images: Vec<usize>,
}

/// The batch of all processes. Negative images that have a caption of their own become pairs (NegCLIP's hard images);
/// the others follow the image of their pair.
pub(super) fn assemble(corpus: &Corpus, loaded: data::Batch, bytes: usize, group: &dyn Group) -> Result<Batch> {
    let mut own = Share {
        neg_images: vec![0; loaded.rows.len()],
        rows: loaded.rows,
        captions: loaded.captions,
        neg_captions: loaded.neg_captions,
    };
    let mut pixels = loaded.pixels;
    let mut others: Vec<(usize, &[u8])> = Vec::new();
    for (negative, image) in loaded.neg_images.into_iter().zip(loaded.neg_pixels.chunks(bytes.max(1))) {
        match (negative.row, negative.caption) {
            (Some(row), Some(caption)) => {
                own.rows.push(row);
                own.captions.push(caption);
                own.neg_captions.push(negative.neg_captions);
                own.neg_images.push(0);
                pixels.extend_from_slice(image);
            }
            _ => {
                own.neg_images[negative.of as usize] += 1;
                others.push((negative.of as usize, image));
            }
        }
    }
    let shares = exchange(group, &own)?;
    let before = shares[..group.rank()].iter().map(|share| share.rows.len()).sum::<usize>();
    let share = before..before + own.rows.len();
    let mut batch = Batch { share, ..Batch::default() };
    let mut counts = Vec::new();
    for share in shares {
        batch.index.extend(share.rows);
        batch.texts.extend(share.captions);
        batch.neg_texts.extend(share.neg_captions);
        counts.extend(share.neg_images);
    }
    if batch.neg_texts.iter().all(Vec::is_empty) {
        batch.neg_texts.clear();
    }
    batch.neg_images = counts.iter().copied().max().unwrap_or(0);
    batch.neg_images_there = counts.iter().flat_map(|&count| (0..batch.neg_images).map(move |k| k < count)).collect();
    batch.pixels = match batch.neg_images {
        // Nothing is copied where nothing comes in between.
        0 => pixels,
        each => between(&pixels, &others, bytes, each),
    };
    let rows = || batch.index.iter().map(|&row| &corpus.rows[row as usize]);
    batch.image_ids = rows().map(|row| row.image_id).collect();
    batch.labels = rows().map(|row| row.label).collect();
    batch.weights = rows().any(|row| row.weight != 1.0).then(|| rows().map(|row| row.weight).collect());
    batch.same = data::same(corpus, &batch.index, &batch.texts);
    let pairs = batch.index.iter().copied().zip(batch.texts.iter().map(String::as_str));
    batch.keys = data::Keys::new(corpus, pairs).numbers();
    Ok(batch)
}

/// Images with room for `each` others behind each one, and those others, given with the images that they belong to.
fn between(images: &[u8], others: &[(usize, &[u8])], bytes: usize, each: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(images.len() * (1 + each));
    for (of, image) in images.chunks(bytes.max(1)).enumerate() {
        let end = all.len() + bytes * (1 + each);
        all.extend_from_slice(image);
        others.iter().filter(|(pair, _)| *pair == of).for_each(|(_, other)| all.extend_from_slice(other));
        all.resize(end, 0);
    }
    all
}

/// What every process says, in their order.
fn exchange(group: &dyn Group, own: &Share) -> Result<Vec<Share>> {
    let text = serde_json::to_vec(own).map_err(Error::run)?;
    // Numbers carry four bytes each.
    let mut padded = text.clone();
    padded.resize(text.len().next_multiple_of(4), b' ');
    let words = padded.chunks_exact(4).map(|b| f32::from_bits(u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    let all = group.gather(&words.collect::<Vec<_>>())?;
    let bytes = all.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect::<Vec<u8>>();
    let shares = serde_json::Deserializer::from_slice(&bytes).into_iter::<Share>();
    let shares = shares.collect::<Result<Vec<_>, _>>().map_err(Error::run)?;
    match shares.len() == group.size() {
        true => Ok(shares),
        false => Err(Error::run("the processes do not agree about the batch")),
    }
}
