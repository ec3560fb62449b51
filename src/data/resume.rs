//! Going on with a list of items: which of them are done, and whether the list is still the same.

use super::{Items, Kind};
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// The start of a list of items, known by its length and a hash over ids and kinds in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    items: u64,
    /// 64 hexadecimal digits; none before the first item.
    hash: String,
}

impl Fingerprint {
    /// Adds the next item.
    pub fn add(&mut self, id: &str, kind: Kind) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.hash.as_bytes()).update(kind.name().as_bytes()).update(b"\n").update(id.as_bytes());
        self.hash = hasher.finalize().to_hex().to_string();
        self.items += 1;
    }

    /// How many items there are.
    pub fn items(&self) -> u64 {
        self.items
    }
}

/// The items behind those that are done.
///
/// # Errors
/// The first item is an error if the list does not begin with what is done.
pub fn behind(items: Items, done: &Fingerprint) -> Items {
    if done.items == 0 {
        return items;
    }
    let (mut items, done) = (Some(items), done.clone());
    let mut skipped = false;
    Box::new(std::iter::from_fn(move || {
        if !std::mem::replace(&mut skipped, true) {
            let mut seen = Fingerprint::default();
            for item in items.as_mut()?.by_ref().take(usize::try_from(done.items).unwrap_or(usize::MAX)) {
                match item {
                    Ok(item) => seen.add(&item.id, item.kind),
                    Err(error) => return Some(Err(error)),
                }
            }
            if seen != done {
                items = None;
                let message = format!("the first {} items are no longer those that were embedded", done.items);
                return Some(Err(Error::run(message).at("cannot resume").hint(
                    "name the same inputs in the same order; if files came or went, begin again without the journal",
                )));
            }
        }
        items.as_mut()?.next()
    }))
}

/// Items by id and kind, in sixteen bytes each.
#[derive(Clone, Debug, Default)]
pub struct Known(HashSet<[u8; 16]>);

impl Known {
    /// Adds an item.
    pub fn add(&mut self, id: &str, kind: Kind) {
        self.0.insert(Self::key(id, kind));
    }

    /// The items that are not among these.
    pub fn others(self, items: Items) -> Items {
        Box::new(items.filter(move |item| match item {
            Ok(item) => !self.0.contains(&Self::key(&item.id, item.kind)),
            Err(_) => true,
        }))
    }

    fn key(id: &str, kind: Kind) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(kind.name().as_bytes()).update(b"\n").update(id.as_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::texts;

    fn list(names: &str) -> Items {
        texts(names.split_whitespace().map(str::to_owned).collect())
    }

    fn ids(items: Items) -> Vec<String> {
        items.map(|item| item.map_or_else(|error| error.to_string(), |item| item.id)).collect()
    }

    #[test]
    fn lists_go_on() {
        let mut done = Fingerprint::default();
        assert_eq!(ids(behind(list("a b"), &done)), ["a", "b"]);
        done.add("a", Kind::Text);
        done.add("b", Kind::Text);
        assert_eq!(ids(behind(list("a b c d"), &done)), ["c", "d"]);
        assert_eq!(ids(behind(list("a b"), &done)), [""; 0]);
        for other in ["", "a", "b a c", "a c b", "ab c"] {
            let errors = ids(behind(list(other), &done));
            assert_eq!(errors.len(), 1, "{other}");
            assert!(errors[0].starts_with("cannot resume: the first 2 items"), "{errors:?}");
        }
    }

    #[test]
    fn known_items_are_left_out() {
        let mut known = Known::default();
        known.add("b", Kind::Text);
        known.add("c", Kind::Image);
        assert_eq!(ids(known.others(list("a b c b d"))), ["a", "c", "d"]);
    }
}
