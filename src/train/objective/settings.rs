//! The numbers of objectives that can be set.

use super::Entry;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// One number of an objective that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it is if nothing is said.
    pub default: f64,
    /// The least and the most that it may be.
    pub range: (f64, f64),
    /// What it does.
    pub help: &'static str,
}

/// The numbers that an objective is made with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<String, f64>,
    /// How many pairs there are in all, for objectives that keep numbers for each.
    pub samples: usize,
    /// The contrastive batch size.
    pub batch: usize,
    /// The length of an embedding.
    pub dim: usize,
    /// The length of a teacher's embedding; 0 if there is no teacher.
    pub teacher_dim: usize,
    /// Whether the model has a bias of its own.
    pub model_bias: bool,
    /// What parameters of an objective's own are drawn from.
    pub seed: u64,
}

impl Settings {
    /// The sizes alone: how many pairs there are in all, how many a batch has, how long embeddings and a teacher's are.
    pub fn sizes(samples: usize, batch: usize, dim: usize, teacher_dim: usize, seed: u64) -> Self {
        Self { values: BTreeMap::new(), samples, batch, dim, teacher_dim, seed, model_bias: false }
    }

    /// The settings of one objective: its defaults, and what was said otherwise.
    pub fn of(entry: &Entry, set: &[(&str, f64)], sizes: &Self) -> Result<Self> {
        let mut values: BTreeMap<String, f64> =
            entry.options.iter().map(|setting| (setting.name.to_owned(), setting.default)).collect();
        for (key, value) in set {
            let Some(setting) = entry.options.iter().find(|setting| setting.name == *key) else {
                let known = entry.options.iter().map(|setting| setting.name).collect::<Vec<_>>().join(", ");
                let hint = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
                return Err(Error::usage(format!("the objective {} has no setting `{key}`", entry.name)).hint(hint));
            };
            let (least, most) = setting.range;
            if !(least..=most).contains(value) {
                let name = entry.name;
                return Err(Error::usage(format!("{name}.{key} is {value}, but must be from {least} to {most}")));
            }
            values.insert(setting.name.to_owned(), *value);
        }
        Ok(Self { values, ..sizes.clone() })
    }

    /// The setting of this name, which its entry lists.
    pub fn get(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(f64::NAN)
    }
}
