//! Prompt templates: what stands around a class name.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::describe::{canonical, prompt};
use crate::error::{Error, Result};
use crate::near;

/// The template sets in the binary: name, explanation and text.
pub static BUILTIN: [(&str, &str, &str); 3] = [
    (
        "openai-80",
        "the 80 templates of the CLIP paper for ImageNet",
        include_str!("../../models/templates/openai-80.txt"),
    ),
    ("openai-7", "the best seven of them", include_str!("../../models/templates/openai-7.txt")),
    ("simple", "a photo of a {}.", include_str!("../../models/templates/simple.txt")),
];

/// Templates for all classes, or ready prompts for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSet {
    name: String,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// Each has a placeholder.
    Templates(Vec<String>),
    /// For each class what is said of it: prompts (some with a placeholder), sentences, features.
    Prompts(Classes),
}

/// Texts by class.
type Classes = BTreeMap<String, Vec<String>>;

/// A file of templates or prompts is no longer than this.
const MAX_BYTES: u64 = 256 << 20;

/// Loads a set by name, or from a file: a template a line, a JSON list, or JSON that maps classes to what is said of each.
/// What is neither, but has a placeholder, is a template itself.
pub fn load(name_or_path: &str) -> Result<TemplateSet> {
    if let Some((name, _, text)) = BUILTIN.iter().find(|(name, ..)| *name == name_or_path) {
        return TemplateSet::parse(name, text);
    }
    let path = Path::new(name_or_path);
    match read(path) {
        Ok(bytes) if bytes.len() as u64 > MAX_BYTES => {
            Err(Error::run(format!("longer than {MAX_BYTES} bytes")).at(path.display()))
        }
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| Error::run("not UTF-8 text").at(path.display()))?;
            TemplateSet::parse(name_or_path, &text)
        }
        Err(_) if has_placeholder(name_or_path) => TemplateSet::single(name_or_path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(unknown(name_or_path)),
        Err(error) => Err(Error::from(error).at(path.display())),
    }
}

/// Loads what is said of each class: a JSON object from classes to lists of prompts, of sentences as in CuPL, or of features
/// as in Menon and Vondrick.
pub fn load_classes(path: &Path) -> Result<TemplateSet> {
    // In this form the name of a built-in set is a file's name, too.
    let set = load(&Path::new(".").join(path).to_string_lossy()).map_err(|error| error.at("--class-prompts"))?;
    match &set.content {
        Content::Prompts(_) => Ok(set),
        Content::Templates(_) => Err(Error::run("no JSON object from labels to prompts")
            .at(path.display())
            .hint("templates for all labels go to --templates")),
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl TemplateSet {
    /// A single template, as a command line gives it.
    pub fn single(template: &str) -> Result<Self> {
        let content = Content::Templates(templates([(1, template)].into_iter()).map_err(|(_, error)| error)?);
        Ok(Self { name: template.to_owned(), content })
    }

    /// The name or path that it was loaded by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many prompts a class gets; sets of ready prompts may differ by class.
    pub fn max_prompts(&self) -> usize {
        match &self.content {
            Content::Templates(templates) => templates.len(),
            Content::Prompts(prompts) => prompts.values().map(Vec::len).max().unwrap_or(0),
        }
    }

    /// The classes that have prompts of their own, in alphabetical order; `None` if the set is for all classes.
    pub fn classes(&self) -> Option<Vec<String>> {
        match &self.content {
            Content::Templates(_) => None,
            Content::Prompts(prompts) => Some(prompts.keys().cloned().collect()),
        }
    }

    /// The prompts of a class. Of a set of ready prompts a text with a placeholder is filled, a sentence (it ends as one, or
    /// names the class) stands for itself, and a feature becomes `hen, which has two legs`; case, `_` and spaces make no
    /// difference to a class's name.
    ///
    /// # Errors
    /// If nothing is said of the class.
    pub fn fill(&self, class: &str) -> Result<Vec<String>> {
        let one = |text: &String| if has_placeholder(text) { fill(text, class) } else { prompt(class, text) };
        match &self.content {
            Content::Templates(templates) => Ok(templates.iter().map(|template| fill(template, class)).collect()),
            Content::Prompts(prompts) => match find(prompts, class) {
                Some(texts) => Ok(texts.iter().map(one).collect()),
                None => Err(self.missing(prompts, &[class])),
            },
        }
    }

    /// Checks that each of these classes has prompts.
    ///
    /// # Errors
    /// If nothing is said of some: names them all.
    pub fn check(&self, classes: &[String]) -> Result<()> {
        let Content::Prompts(prompts) = &self.content else { return Ok(()) };
        let missing = classes.iter().map(String::as_str).filter(|class| find(prompts, class).is_none());
        match &missing.collect::<Vec<_>>()[..] {
            [] => Ok(()),
            missing => Err(self.missing(prompts, missing)),
        }
    }

    fn missing(&self, prompts: &Classes, classes: &[&str]) -> Error {
        let named: Vec<_> = classes.iter().take(10).map(|class| format!("{class:?}")).collect();
        let more = classes.len().saturating_sub(10);
        let named = named.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() };
        let hint = match near::closest(classes[0], prompts.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("the file has prompts for {} classes", prompts.len()),
        };
        let which = if classes.len() > 1 { "classes" } else { "class" };
        Error::usage(format!("{}: no prompts for the {which} {named}", self.name)).hint(hint)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let content = match Json::read(name, text)? {
            Some(Json::List(list)) => {
                let numbered = (1..).zip(list.iter().map(String::as_str));
                Content::Templates(templates(numbered).map_err(|(n, error)| error.at(format!("{name}, template {n}")))?)
            }
            Some(Json::Classes(classes)) => Content::Prompts(prompts(classes).map_err(|error| error.at(name))?),
            None => {
                let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
                Content::Templates(templates(lines).map_err(|(n, error)| error.at(format!("{name}, line {n}")))?)
            }
        };
        let set = Self { name: name.to_owned(), content };
        if set.max_prompts() == 0 { Err(Error::run("no templates in this file").at(name)) } else { Ok(set) }
    }
}

/// The JSON forms of a template file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Json {
    List(Vec<String>),
    Classes(BTreeMap<String, OneOrMore>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Json {
    /// `None` if this is plain text: a line may begin with `{}`, so only the file's name or valid JSON tells.
    fn read(name: &str, text: &str) -> Result<Option<Self>> {
        let must = Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        if !must && !text.trim_start().starts_with(['[', '{']) {
            return Ok(None);
        }
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(value) => serde_json::from_value(value).map(Some).map_err(|_| {
                Error::run("neither a JSON list of templates nor a JSON object from classes to prompts").at(name)
            }),
            Err(error) if must => Err(Error::run(format!("not JSON: {error}")).at(name)),
            Err(_) => Ok(None),
        }
    }
}

const PLACEHOLDERS: [&str; 2] = ["{}", "{c}"];

fn has_placeholder(template: &str) -> bool {
    PLACEHOLDERS.iter().any(|placeholder| template.contains(placeholder))
}

/// Checks that each template has a placeholder; an error comes with the template's number.
fn templates<'a>(numbered: impl Iterator<Item = (usize, &'a str)>) -> Result<Vec<String>, (usize, Error)> {
    let check = |(number, template): (usize, &str)| {
        if has_placeholder(template) {
            return Ok(template.to_owned());
        }
        let error = Error::run(format!("no placeholder in the template {template:?}"));
        Err((number, error.hint("write {} where the class name belongs: a photo of a {}.")))
    };
    numbered.map(check).collect()
}

/// What is said of a class, by its very name or by one that differs in nothing that matters.
fn find<'a>(prompts: &'a Classes, class: &str) -> Option<&'a Vec<String>> {
    prompts.get(class).or_else(|| {
        let wanted = canonical(class);
        prompts.iter().find(|(name, _)| canonical(name) == wanted).map(|(_, texts)| texts)
    })
}

fn prompts(classes: BTreeMap<String, OneOrMore>) -> Result<Classes> {
    let check = |(class, prompts)| {
        let prompts = match prompts {
            OneOrMore::One(prompt) => vec![prompt],
            OneOrMore::More(prompts) => prompts,
        };
        let prompts: Vec<_> =
            prompts.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect();
        if prompts.is_empty() {
            Err(Error::run(format!("no prompts for the class {class:?}")))
        } else {
            Ok((class, prompts))
        }
    };
    classes.into_iter().map(check).collect()
}

/// Puts the class in every placeholder; other braces stay.
fn fill(template: &str, class: &str) -> String {
    let mut out = String::with_capacity(template.len() + class.len());
    let mut rest = template;
    while let Some((at, placeholder)) =
        PLACEHOLDERS.iter().filter_map(|placeholder| Some((rest.find(placeholder)?, placeholder))).min()
    {
        out.push_str(&rest[..at]);
        out.push_str(class);
        rest = &rest[at + placeholder.len()..];
    }
    out.push_str(rest);
    out
}

fn unknown(name: &str) -> Error {
    let names = BUILTIN.map(|(name, ..)| name);
    let known = format!("known: {}; or a file, or a template with {{}} in it", names.join(", "));
    let hint = match near::closest(name, names.into_iter()) {
        Some(near) => format!("did you mean {near}? {known}"),
        None => known,
    };
    Error::usage(format!("no template set and no file of this name: {name}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<TemplateSet>) -> String {
        result.map_or_else(|e| format!("{e} | {}", e.advice().unwrap_or_default()), |set| format!("{set:?}"))
    }

    #[test]
    fn builtin_sets_are_complete() {
        for (name, count) in [("openai-80", 80), ("openai-7", 7), ("simple", 1)] {
            assert_eq!(load(name).unwrap().fill("cat").unwrap().len(), count);
        }
        assert_eq!(load("a {}/{c}").unwrap().fill("cat").unwrap(), ["a cat/cat"]);
        assert_eq!(load("simple").unwrap().fill("tabby cat").unwrap(), ["a photo of a tabby cat."]);
    }

    #[test]
    fn both_placeholders_and_other_braces() {
        let set = TemplateSet::single("{c}: a {} in {braces}, {}").unwrap();
        assert_eq!(set.fill("{} {c}").unwrap(), ["{} {c}: a {} {c} in {braces}, {} {c}"]);
    }

    #[test]
    fn three_forms_of_files() {
        let fill = |name, text, class| TemplateSet::parse(name, text).unwrap().fill(class).unwrap();
        assert_eq!(fill("t.txt", "\u{feff}{} texture.\n\n  a {c}\r\n", "lace"), ["lace texture.", "a lace"]);
        assert_eq!(fill("t.txt", "[\"a {}\", \"the {}\"]", "cat"), ["a cat", "the cat"]);
        let prompts = r#"{"cat": ["It purrs.", "A {} sits."], "dog": "It barks."}"#;
        assert_eq!(fill("p.json", prompts, "cat"), ["It purrs.", "A cat sits."]);
        assert_eq!(fill("p.json", prompts, "dog"), ["It barks."]);
        let set = TemplateSet::parse("p.json", r#"{"tabby": ["x"]}"#).unwrap();
        assert_eq!(set.fill("dog").unwrap_err().advice(), Some("the file has prompts for 1 classes"));
        assert_eq!(set.fill("tabbie").unwrap_err().advice(), Some("did you mean \"tabby\"?"));
        let names = ["Tabby", "cow", "dog"].map(str::to_owned);
        let error = set.check(&names).unwrap_err().to_string();
        assert_eq!(error, "p.json: no prompts for the classes \"cow\", \"dog\"");
        assert!(set.check(&names[..1]).is_ok());
    }

    #[test]
    fn sentences_and_features_of_classes() {
        let text = r#"{"Hen": ["A hen has brown feathers.", "two legs", "a drawing of a {}"], "red_fox": ["  bushy tail ", ""]}"#;
        let set = TemplateSet::parse("d.json", text).unwrap();
        let hen = ["A hen has brown feathers.", "hen, which has two legs", "a drawing of a hen"];
        assert_eq!(set.fill("hen").unwrap(), hen);
        assert_eq!(set.fill("red fox").unwrap(), ["red fox, which has bushy tail"]);
        assert!(message(TemplateSet::parse("d.json", r#"{"a": [" "]}"#)).contains("no prompts for the class \"a\""));
    }

    #[test]
    fn errors_name_the_place() {
        let parse = |name, text| message(TemplateSet::parse(name, text));
        assert!(
            parse("t.txt", "a {}\nno holes").starts_with("t.txt, line 2: no placeholder in the template \"no holes\"")
        );
        assert!(parse("t.json", "[\"x\"]").starts_with("t.json, template 1: no placeholder"));
        assert!(parse("t.txt", " \n\n").starts_with("t.txt: no templates in this file"));
        assert!(parse("t.json", "[]").starts_with("t.json: no templates in this file"));
        assert!(parse("t.json", "oops").starts_with("t.json: not JSON"));
        assert!(parse("t.json", "{\"a\": 1}").starts_with("t.json: neither a JSON list"));
        assert!(parse("t.json", "{\"a\": []}").starts_with("t.json: no prompts for the class \"a\""));
        assert!(message(load("openai80")).contains("did you mean openai-80?"));
        assert!(message(load("/nonexistent/file")).contains("known: openai-80, openai-7, simple"));
    }
}
