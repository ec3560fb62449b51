//! Classes described in words: sentences (CuPL, Pratt et al. 2023) or features (Menon and Vondrick 2023).

use super::names::canonical;
use crate::data::read_file;
use crate::error::{Error, Result};
use crate::near;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A file of descriptions is no longer than this.
const MAX_BYTES: u64 = 256 << 20;

/// What is said of classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptions {
    name: String,
    /// For each class, by its canonical name, the name that the file has and what is said.
    classes: BTreeMap<String, (String, Vec<String>)>,
}

impl Descriptions {
    /// Reads a JSON object from classes to lists of texts: `{"hen": ["A hen has brown feathers.", …]}` or
    /// `{"hen": ["two legs", "which has a red comb", …]}`.
    ///
    /// # Errors
    /// If it is no such file, or names a class twice or without a text.
    pub fn load(path: &Path) -> Result<Self> {
        let at = |error: Error| error.at(path.display());
        let bytes = read_file(path, MAX_BYTES).map_err(|error| at(Error::run(error)))?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let at = |error: Error| error.at(name);
        let read: HashMap<String, Vec<String>> = serde_json::from_slice(bytes).map_err(|error| {
            at(Error::run(format!("not a JSON object from classes to lists of descriptions: {error}")))
        })?;
        let mut classes = BTreeMap::new();
        for (class, texts) in read {
            let texts: Vec<String> =
                texts.iter().map(|text| text.trim().to_owned()).filter(|t| !t.is_empty()).collect();
            if texts.is_empty() {
                return Err(at(Error::run(format!("nothing is said of the class {class:?}"))));
            }
            if let Some((other, _)) = classes.insert(canonical(&class), (class.clone(), texts)) {
                return Err(at(Error::run(format!("the classes {other:?} and {class:?} are the same"))));
            }
        }
        Ok(Self { name: name.to_owned(), classes })
    }

    /// Checks that these are the classes of a whole set, not of a half of it.
    ///
    /// # Errors
    /// If a class is not described, or one is described that is none of them.
    pub fn check(&self, classes: &[String]) -> Result<()> {
        let wanted: HashMap<String, &String> = classes.iter().map(|class| (canonical(class), class)).collect();
        let list = |names: &[&String]| {
            let named: Vec<_> = names.iter().take(10).map(|name| format!("{name:?}")).collect();
            let more = names.len().saturating_sub(10);
            named.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
        };
        let others: Vec<&String> =
            self.classes.iter().filter(|(key, _)| !wanted.contains_key(*key)).map(|(_, (name, _))| name).collect();
        let missing: Vec<&String> =
            classes.iter().filter(|class| !self.classes.contains_key(&canonical(class))).collect();
        let hint = |error: Error, word: Option<&&String>, known: &mut dyn Iterator<Item = &str>| match word
            .and_then(|word| near::closest(word, known))
        {
            Some(near) => error.hint(format!("did you mean {near:?}?")),
            None => error,
        };
        if !missing.is_empty() {
            let error = Error::run(format!("nothing is said of the class {}", list(&missing))).at(&self.name);
            return Err(hint(error, missing.first(), &mut self.classes.values().map(|(name, _)| name.as_str())));
        }
        if !others.is_empty() {
            let error = Error::run(format!("the set has no class {}", list(&others))).at(&self.name);
            return Err(hint(error, others.first(), &mut classes.iter().map(String::as_str)));
        }
        Ok(())
    }

    /// The prompts of classes. A text with a placeholder is filled, a sentence (it ends as one, or names the class) stands
    /// for itself, and a feature becomes `hen, which has two legs`.
    ///
    /// # Errors
    /// If a class is not described.
    pub fn prompts(&self, classes: &[String]) -> Result<Vec<Vec<String>>> {
        let one = |class: &String| match self.classes.get(&canonical(class)) {
            Some((_, texts)) => Ok(texts.iter().map(|text| prompt(class, text)).collect()),
            None => Err(Error::run(format!("nothing is said of the class {class:?}")).at(&self.name)),
        };
        classes.iter().map(one).collect()
    }
}

fn prompt(class: &str, text: &str) -> String {
    if text.contains("{}") || text.contains("{c}") {
        return text.replace("{}", class).replace("{c}", class);
    }
    let is_sentence = text.ends_with(['.', '!', '?']) || canonical(text).contains(&canonical(class));
    if is_sentence { text.to_owned() } else { format!("{class}, {}", relative(text)) }
}

/// A feature as a relative clause, as in sachit-menon/classify_by_description_release, `descriptor_strings.py`, which looks
/// at the first letters where this looks at the first word: there "antennae" becomes "which is antennae".
fn relative(feature: &str) -> String {
    match feature.split_whitespace().next().unwrap_or_default().to_lowercase().as_str() {
        "which" | "that" | "with" => feature.to_owned(),
        "is" | "are" | "has" | "have" | "often" | "typically" | "may" | "can" => format!("which {feature}"),
        "a" | "an" | "used" => format!("which is {feature}"),
        _ => format!("which has {feature}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn message<T>(result: Result<T>) -> String {
        result.err().map(|error| format!("{error} | {}", error.advice().unwrap_or_default())).unwrap_or_default()
    }

    #[test]
    fn sentences_and_features() {
        let text = r#"{"Hen": ["A hen has brown feathers.", "two legs", "a bird", "which has a comb", "often brown",
            "antennae", "a drawing of a {}", "the hen's egg"], "red_fox": ["  bushy tail "]}"#;
        let found = Descriptions::parse("d.json", text.as_bytes()).unwrap();
        let prompts = found.prompts(&strings(&["hen", "red fox"])).unwrap();
        let hen = [
            "A hen has brown feathers.",
            "hen, which has two legs",
            "hen, which is a bird",
            "hen, which has a comb",
            "hen, which often brown",
            "hen, which has antennae",
            "a drawing of a hen",
            "the hen's egg",
        ];
        assert_eq!(prompts, [strings(&hen), strings(&["red fox, which has bushy tail"])]);
    }

    #[test]
    fn wrong_classes_are_named() {
        let parse = |text: &str| Descriptions::parse("d.json", text.as_bytes());
        let found = parse(r#"{"tabby": ["x"], "dog": ["y"]}"#).unwrap();
        assert!(found.check(&strings(&["Dog", "tabby"])).is_ok());
        let missing = message(found.check(&strings(&["tabbi", "dog", "cow"])));
        assert_eq!(missing, "d.json: nothing is said of the class \"tabbi\", \"cow\" | did you mean \"tabby\"?");
        assert_eq!(message(found.check(&strings(&["dog"]))), "d.json: the set has no class \"tabby\" | ");
        assert!(message(found.prompts(&strings(&["cow"]))).contains("nothing is said of the class \"cow\""));
        assert!(message(parse(r#"{"a": []}"#)).contains("nothing is said of the class \"a\""));
        assert!(message(parse(r#"{"a_b": ["x"], "A b": ["x"]}"#)).contains("are the same"));
        assert!(message(parse("[1]")).starts_with("d.json: not a JSON object"));
    }
}
