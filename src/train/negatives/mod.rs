//! Hard negatives from embeddings: which samples are hard for which, and how a batch is made of them.
//!
//! | file | what it does |
//! |---|---|
//! | [`mod@mine`] | the nearest that are no positives, images and texts in all four directions |
//! | [`options`] | which of them |
//! | [`keys`] | who is never whose negative |
//! | [`summary`] | what mining found, in figures |
//! | [`cluster`] | batches of one cluster (MCL) |
//! | [`batch`] | batches of samples that are hard for each other (NegCLIP) |
//! | [`mochi`] | negatives mixed of negatives (MoCHi) |
//! | [`queue`] | features of earlier batches as negatives (MoCo, ALBEF) |
//! | [`multinomial`] | hard negatives for each item, by lot (ALBEF) |
//! | [`extra`] | these three as further columns of a batch's softmax, in a run |
//!
//! All works on plain numbers or tensors in memory; nothing here reads a file or knows what a caption is. What is drawn by lot
//! comes from a seeded generator, and nothing depends on the number of threads.

pub mod batch;
pub mod cluster;
pub mod extra;
pub mod keys;
pub mod mine;
pub mod mochi;
pub mod multinomial;
pub mod options;
pub mod queue;
pub mod summary;
mod window;

pub use extra::{Columns, Extra};
pub use keys::{Guard, Keys, text_id};
pub use mine::{Mined, Side, mine};
pub use mochi::Mochi;
pub use options::{Options, Sampling};
pub use queue::Queue;
pub use summary::{Reason, Skipped, Summary};

use super::random::stream as generator;
use crate::ops::pool;
use std::sync::{Mutex, PoisonError};

/// Calls `work(0)`, …, `work(parts - 1)` on the pool's threads; what they give is in this order.
fn in_parts<T: Send>(parts: usize, work: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    let done = Mutex::new(Vec::with_capacity(parts));
    pool::run(parts, |part| {
        let result = work(part);
        done.lock().unwrap_or_else(PoisonError::into_inner).push((part, result));
    });
    // Which thread is done first is up to chance.
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(part, _)| *part);
    done.into_iter().map(|(_, result)| result).collect()
}
