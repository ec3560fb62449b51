//! Parts of a list of items, for several machines.

use super::Items;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// So many neighbours stay together: an image and its caption are two.
const BLOCK: u64 = 2;

/// The most shards.
const MAX: u64 = 1_000_000;

/// One of so many parts of a list; they are dealt out like cards, two items at a time, so that every part is about as
/// much work as any other, whatever the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard {
    /// Which one, from 1.
    index: u64,
    /// Of how many.
    count: u64,
}

impl Shard {
    /// Which one it is, from 0.
    pub fn position(self) -> u64 {
        self.index - 1
    }

    /// How many there are.
    pub fn count(self) -> u64 {
        self.count
    }

    /// The items of this shard, in order. An error in the source belongs to every shard.
    pub fn of(self, items: Items) -> Items {
        let mut next = 0u64;
        Box::new(items.filter(move |item| {
            if item.is_err() {
                return true;
            }
            let place = next;
            next += 1;
            place / BLOCK % self.count == self.position()
        }))
    }

    /// The end of the name of a file with this shard: `-00003-of-00016`.
    pub fn ending(self) -> String {
        format!("-{:05}-of-{:05}", self.index, self.count)
    }

    /// For the items of a whole list, in order: the position of the shard that has the next one.
    pub fn turns(count: usize) -> impl Iterator<Item = usize> {
        (0..count.max(1)).cycle().flat_map(|shard| std::iter::repeat_n(shard, BLOCK as usize))
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parts {
            Some((index, count)) if (1..=count).contains(&index) && count <= MAX => Ok(Self { index, count }),
            _ => Err("expected I/N with I from 1 to N, such as 3/16".to_owned()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Serialize for Shard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::texts;
    use proptest::prelude::*;

    #[test]
    fn names() {
        let shard: Shard = "3/16".parse().unwrap();
        assert_eq!((shard.to_string(), shard.ending()), ("3/16".into(), "-00003-of-00016".into()));
        for wrong in ["", "3", "0/4", "5/4", "a/4", "-1/4", "1/0", "1/4/2", "1/99999999999"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn turns_put_shards_together_again(items in 0usize..100, count in 1usize..9) {
            let list = || texts((0..items).map(|n| n.to_string()).collect());
            let shard = |n: usize| Shard { index: n as u64 + 1, count: count as u64 }.of(list());
            let mut shards: Vec<_> = (0..count).map(shard).collect();
            let merged: Vec<_> = Shard::turns(count).map_while(|n| shards[n].next()).map(|item| item.unwrap().id).collect();
            prop_assert!(merged.into_iter().eq((0..items).map(|n| n.to_string())));
            prop_assert!(shards.iter_mut().all(|shard| shard.next().is_none()));
        }
    }
}
