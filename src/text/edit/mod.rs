//! Captions edited until they say something else: hard negatives for contrastive training.
//!
//! One file a kind, one line in [`EDITS`]. An edit proposes one change of a tagged caption; [`Editor`] asks for as many as
//! are wanted, and sees to it that none equals the caption or another one.

mod add_attribute;
mod add_object;
mod antonym;
mod colour;
mod number;
mod patch;
mod preposition;
mod replace_attribute;
mod replace_object;
mod replace_relation;
mod sentence;
mod shuffle;
mod swap_adjective;
mod swap_adverb;
mod swap_noun;
mod swap_phrase;
mod swap_verb;
mod words;

pub use patch::Patch;
pub use sentence::{Phrase, Sentence};

use crate::error::{Error, Result};
use crate::near;
use crate::text::tag::Tagger;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// A kind of edit.
pub trait Edit: Sync {
    /// Its name on a command line; what is before the hyphen is its group.
    fn name(&self) -> &'static str;

    /// What it does, in a line.
    fn description(&self) -> &'static str;

    /// Where it comes from.
    fn source(&self) -> &'static str;

    /// A change, if the caption offers one; another one at another call.
    fn propose(&self, sentence: &Sentence<'_>, rng: &mut ChaCha8Rng) -> Option<Vec<Patch>>;

    /// Whether the result is meant to be English.
    fn is_grammatical(&self) -> bool {
        true
    }
}

/// All kinds of edits.
pub static EDITS: &[&dyn Edit] = &[
    &swap_noun::SwapNoun,
    &swap_adjective::SwapAdjective,
    &swap_adverb::SwapAdverb,
    &swap_verb::SwapVerb,
    &swap_phrase::SwapPhrase,
    &replace_object::ReplaceObject,
    &replace_attribute::ReplaceAttribute,
    &replace_relation::ReplaceRelation,
    &number::ReplaceNumber,
    &colour::ReplaceColour,
    &preposition::ReplacePreposition,
    &antonym::ReplaceAntonym,
    &add_object::AddObject,
    &add_attribute::AddAttribute,
    &shuffle::NOUNS_ADJECTIVES,
    &shuffle::OTHERS,
    &shuffle::WITHIN_TRIGRAMS,
    &shuffle::TRIGRAMS,
];

/// The groups that [`Editor::new`] takes when nothing else is said.
pub const DEFAULT_KINDS: [&str; 3] = ["swap", "replace", "add"];

/// How often an edit may propose what is there already before it is left out.
const TRIES: usize = 8;

/// A caption that says something else.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Negative {
    /// What it says.
    pub text: String,
    /// The [`Edit::name`] of what was done.
    pub kind: &'static str,
}

/// Makes negatives by some kinds of edits.
#[derive(Clone)]
pub struct Editor {
    tagger: &'static Tagger,
    edits: Vec<&'static dyn Edit>,
}

impl std::fmt::Debug for Editor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.edits.iter().map(|edit| edit.name())).finish()
    }
}

impl Editor {
    /// By these kinds: names of edits, groups of them (`swap`, `replace`, `add`, `shuffle`), or `all`.
    ///
    /// # Errors
    /// If there is no such kind, or none is named.
    pub fn new<S: AsRef<str>>(kinds: &[S]) -> Result<Self> {
        let mut edits: Vec<&'static dyn Edit> = Vec::new();
        for kind in kinds.iter().map(|kind| kind.as_ref().trim()) {
            let group = |name: &str| name.split_once('-').map(|(group, _)| group.to_owned());
            let named = |edit: &&&'static dyn Edit| {
                kind == "all" || edit.name() == kind || group(edit.name()).as_deref() == Some(kind)
            };
            let found: Vec<_> = EDITS.iter().filter(named).copied().collect();
            if found.is_empty() {
                return Err(unknown(kind));
            }
            for edit in found {
                if !edits.iter().any(|known| known.name() == edit.name()) {
                    edits.push(edit);
                }
            }
        }
        if edits.is_empty() {
            return Err(Error::usage("no kind of edit is named"));
        }
        Ok(Self { tagger: Tagger::builtin()?, edits })
    }

    /// Up to `count` negatives of a caption, no two alike and none like the caption, up to case and space. What a seed
    /// gives does not change. Kinds take turns, so that there is one of each before there are two of any.
    pub fn negatives(&self, caption: &str, count: usize, rng: &mut ChaCha8Rng) -> Vec<Negative> {
        let sentence = Sentence::new(self.tagger, caption);
        let mut seen = HashSet::from([canonical(caption)]);
        let mut found = Vec::new();
        let mut open = self.edits.clone();
        open.shuffle(rng);
        while found.len() < count && !open.is_empty() {
            open.retain(|edit| {
                if found.len() == count {
                    return true;
                }
                let new = new(*edit, &sentence, &mut seen, rng);
                let any = new.is_some();
                found.extend(new);
                any
            });
        }
        found
    }

    /// One negative of each kind, in the order of the kinds, where a caption offers one; no two alike.
    pub fn one_of_each(&self, caption: &str, rng: &mut ChaCha8Rng) -> Vec<Negative> {
        let sentence = Sentence::new(self.tagger, caption);
        let mut seen = HashSet::from([canonical(caption)]);
        self.edits.iter().filter_map(|edit| new(*edit, &sentence, &mut seen, rng)).collect()
    }
}

/// What an edit makes of a caption that is not there yet.
fn new(edit: &dyn Edit, sentence: &Sentence<'_>, seen: &mut HashSet<String>, rng: &mut ChaCha8Rng) -> Option<Negative> {
    for _ in 0..TRIES {
        let text = patch::apply(sentence, edit.propose(sentence, rng)?, edit.is_grammatical());
        if seen.insert(canonical(&text)) {
            return Some(Negative { text, kind: edit.name() });
        }
    }
    None
}

/// What two captions that are equal up to case and space have in common.
fn canonical(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn unknown(kind: &str) -> Error {
    let known = || EDITS.iter().map(|edit| edit.name()).chain(["swap", "replace", "add", "shuffle", "all"]);
    let error = Error::usage(format!("no kind of edit is called {kind:?}"));
    match near::closest(kind, known()) {
        Some(name) => error.hint(format!("did you mean {name}?")),
        None => error.hint(format!("there are {}", known().collect::<Vec<_>>().join(", "))),
    }
}

#[cfg(test)]
mod tests;
