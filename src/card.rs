//! What is known about checkpoints: `models/*.toml`, one card a checkpoint, compiled in.
//!
//! A card names a checkpoint and says where it is and what to expect of it; each fact carries its source and whether
//! it was compared with that source. Nothing is computed from a card: a checkpoint's own files decide.

mod sources;

use crate::near;
use serde::{Deserialize, Serialize};
use sources::SOURCES;
use std::sync::LazyLock;

/// The card of the model in the binary.
#[cfg(feature = "builtin")]
const BUILTIN: Option<&str> = Some(include_str!("../models/builtin/card.toml"));
#[cfg(not(feature = "builtin"))]
const BUILTIN: Option<&str> = None;

/// What is known about one checkpoint.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The name that `--model` takes.
    pub alias: String,
    /// Its name for people.
    pub title: String,
    /// Other repositories that hold the same weights, in whatever form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// What its users must know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The repository on the Hub, as `org/name`; the built-in model has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<Fact<String>>,
    /// The branch, tag or commit in it.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// The family's name in [`FAMILIES`](crate::model::family::FAMILIES).
    pub family: Fact<String>,
    /// The layout of its files.
    pub layout: Fact<Layout>,
    /// The activation of its towers, as transformers names it.
    pub activation: Fact<String>,
    /// Height and width of its input, in pixels.
    pub image_size: Fact<usize>,
    /// The most tokens that a text may have.
    pub context: Fact<usize>,
    /// How an image is brought to that size.
    pub preprocessing: Fact<String>,
    /// The licence of the weights.
    pub license: Fact<String>,
    /// How well it does, as published; empty if no figure is known.
    #[serde(default)]
    pub accuracy: Vec<Accuracy>,
    /// What it was made of, if that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_of: Vec<Material>,
}

/// Something that a checkpoint was made of.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Material {
    /// What it is.
    pub name: String,
    /// The package that it comes in.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// Its licence.
    pub license: String,
}

/// A fact with its source.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fact<T> {
    /// The fact.
    pub value: T,
    /// Who says so.
    pub source: String,
    /// Whether it was compared with the source when the card was written.
    pub checked: bool,
}

/// A published score.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Accuracy {
    /// The data set.
    pub set: String,
    /// What was measured on it.
    pub metric: String,
    /// The score, from 0 to 1.
    pub value: f64,
    /// The 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// The score before the weights were compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncompressed: Option<f64>,
    /// What a reader of the score must know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who says so.
    pub source: String,
    /// Whether it was compared with the source when the card was written.
    pub checked: bool,
}

/// The two layouts in which checkpoints are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `config.json` and `model.safetensors`.
    Transformers,
    /// `open_clip_config.json` and `open_clip_model.safetensors`.
    OpenClip,
}

impl Card {
    /// Reads a card.
    pub fn parse(toml: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(toml)
    }

    /// How many of the facts and scores were compared with their sources, and how many there are.
    pub fn checked(&self) -> (usize, usize) {
        let facts = [
            self.family.checked,
            self.layout.checked,
            self.activation.checked,
            self.image_size.checked,
            self.context.checked,
            self.preprocessing.checked,
            self.license.checked,
        ];
        let repository = self.repository.iter().map(|repository| repository.checked);
        let all = facts.into_iter().chain(repository).chain(self.accuracy.iter().map(|score| score.checked));
        all.fold((0, 0), |(checked, count), fact| (checked + usize::from(fact), count + 1))
    }

    /// Whether one of the words that people would look for contains `filter`, in whatever case.
    pub fn matches(&self, filter: &str) -> bool {
        let filter = filter.to_lowercase();
        let words = [&self.alias, &self.title, &self.family.value, &self.license.value];
        let repository = self.repository.iter().map(|repository| &repository.value);
        words.into_iter().chain(repository).chain(&self.also).any(|word| word.to_lowercase().contains(&filter))
    }
}

/// All cards.
pub fn all() -> &'static [Card] {
    static CARDS: LazyLock<Vec<Card>> = LazyLock::new(|| {
        let parse = |(alias, toml): (&str, &str)| match Card::parse(toml) {
            Ok(card) => card,
            // Cards are part of the program, and a test reads all of them.
            Err(error) => panic!("models/{alias}.toml: {error}"),
        };
        BUILTIN.iter().map(|toml| ("builtin", *toml)).chain(SOURCES.iter().copied()).map(parse).collect()
    });
    &CARDS
}

/// The card of this alias.
pub fn find(alias: &str) -> Option<&'static Card> {
    all().iter().find(|card| card.alias == alias)
}

/// The card of the checkpoint that this repository holds.
pub fn of_repository(repository: &str) -> Option<&'static Card> {
    let same = |name: &str| name.eq_ignore_ascii_case(repository);
    let own = |card: &Card| card.repository.as_ref().is_some_and(|own| same(&own.value));
    all().iter().find(|card| own(card) || card.also.iter().any(|also| same(also)))
}

/// The alias that a typing error could have turned into this word.
pub fn closest(word: &str) -> Option<&'static str> {
    near::closest(word, all().iter().map(|card| card.alias.as_str()))
}

fn main_branch() -> String {
    "main".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::family::FAMILIES;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn every_card_is_registered_and_complete() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let mut registered: BTreeSet<String> = SOURCES.iter().map(|(alias, _)| (*alias).to_owned()).collect();
        assert_eq!(registered.len(), SOURCES.len(), "an alias is listed twice");
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let alias = path.file_stem().unwrap().to_str().unwrap();
                assert!(registered.remove(alias), "{} is not in SOURCES", path.display());
            }
        }
        assert!(registered.is_empty(), "listed, but not in models/: {registered:?}");
        let names = BUILTIN.iter().map(|_| "builtin").chain(SOURCES.iter().map(|(alias, _)| *alias));
        assert!(names.eq(all().iter().map(|card| card.alias.as_str())), "a file's name is not its alias");
        for card in all() {
            let alias = &card.alias;
            assert!(FAMILIES.iter().any(|family| family.name() == card.family.value), "{alias}: no such family");
            assert!(!card.title.is_empty(), "{alias}");
            assert!(card.accuracy.iter().all(|score| !score.source.is_empty()), "{alias}: a score without a source");
            if let Some(repository) = &card.repository {
                let (org, name) = repository.value.split_once('/').unwrap_or_default();
                assert!(!org.is_empty() && !name.is_empty() && !name.contains('/'), "{alias}: repository");
                assert!(!repository.source.is_empty(), "{alias}: repository");
            }
            let sources = [&card.family.source, &card.layout.source, &card.activation.source, &card.license.source];
            assert!(sources.into_iter().all(|source| !source.is_empty()), "{alias}: a fact without a source");
            assert!(card.accuracy.iter().all(|score| (0.0..=1.0).contains(&score.value)), "{alias}: accuracy");
            assert!(card.image_size.value >= 32 && card.context.value >= 8, "{alias}");
        }
    }

    #[test]
    fn repositories_belong_to_one_card() {
        let mut seen = BTreeSet::new();
        for card in all() {
            for name in card.also.iter().chain(card.repository.iter().map(|own| &own.value)) {
                assert!(seen.insert(name.to_lowercase()), "{name} is on two cards");
            }
        }
    }

    #[test]
    fn cards_are_found() {
        assert_eq!(find("openai-b32").map(|card| card.image_size.value), Some(224));
        assert_eq!(of_repository("OpenAI/clip-vit-base-patch32").map(|card| card.alias.as_str()), Some("openai-b32"));
        assert_eq!(closest("siglip-b16-244"), Some("siglip-b16-224"));
        assert!(find("openai-b32").is_some_and(|card| card.matches("mit") && !card.matches("apache")));
    }
}
