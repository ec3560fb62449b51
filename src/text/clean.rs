//! Canonical forms: what happens to a text before it is cut into tokens.

use std::borrow::Cow;

use super::{ftfy, html};
use crate::error::{Error, Result};

/// The clean-up that a model's reference implementation does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clean {
    /// None; transformers' CLIP leaves it to the normalizer in the tokenizer's file.
    #[default]
    AsIs,
    /// open_clip's `whitespace`: [`basic`] and single spaces.
    Whitespace,
    /// open_clip's `lower`, the form of CLIP's first tokenizer: [`basic`], single spaces, lower case.
    Lower,
    /// open_clip's `canonicalize`: [`basic`], no ASCII punctuation, lower case, single spaces.
    Canonicalize,
    /// transformers' SigLIP: lower case, no ASCII punctuation, single spaces.
    Siglip,
    /// transformers' SigLIP 2: lower case.
    LowerOnly,
}

impl Clean {
    /// The form that an open_clip config calls by this name.
    pub fn open_clip(name: &str) -> Result<Self> {
        match name {
            "whitespace" => Ok(Self::Whitespace),
            "lower" => Ok(Self::Lower),
            "canonicalize" => Ok(Self::Canonicalize),
            _ => Err(Error::run(format!("unknown text clean-up {name:?} in the model's config"))
                .hint("known: whitespace, lower, canonicalize")),
        }
    }

    /// The text in this form.
    pub fn apply<'a>(self, text: &'a str) -> Cow<'a, str> {
        match self {
            Self::AsIs => Cow::Borrowed(text),
            Self::Whitespace => Cow::Owned(single_spaces(&basic(text))),
            Self::Lower => Cow::Owned(lowercase(&single_spaces(&basic(text)))),
            Self::Canonicalize => {
                // Order and details are big_vision's: underscores are spaces, and the rest of the punctuation is glue.
                let text = basic(text).replace('_', " ");
                Cow::Owned(single_spaces(&lowercase(&without_punctuation(&text))))
            }
            Self::Siglip => Cow::Owned(single_spaces(&without_punctuation(&lowercase(text)))),
            Self::LowerOnly => Cow::Owned(lowercase(text)),
        }
    }
}

/// Repairs damaged text, replaces character references twice, and trims.
pub fn basic(text: &str) -> String {
    let text = ftfy::fix_text(text);
    let text = html::unescape(&text);
    let text = html::unescape(&text);
    text.trim_matches(is_space).to_owned()
}

/// Python's `str.lower`.
fn lowercase(text: &str) -> String {
    text.to_lowercase()
}

fn without_punctuation(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_punctuation()).collect()
}

/// Python's `" ".join(text.split())`.
fn single_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// Python's `str.isspace`: also the four separators among the control characters.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_differ_as_in_their_references() {
        let text = "  A_Photo of\ta &amp;amp; “Cat”, l’été\u{a0}!\u{1f}  ";
        assert_eq!(Clean::AsIs.apply(text), text);
        assert_eq!(Clean::Whitespace.apply(text), "A_Photo of a & \"Cat\", l'été !");
        assert_eq!(Clean::Lower.apply(text), "a_photo of a & \"cat\", l'été !");
        assert_eq!(Clean::Canonicalize.apply(text), "a photo of a cat lété");
        assert_eq!(Clean::Siglip.apply(text), "aphoto of a ampamp “cat” l’été");
        assert_eq!(Clean::LowerOnly.apply(text), "  a_photo of\ta &amp;amp; “cat”, l’été\u{a0}!\u{1f}  ");
    }

    #[test]
    fn names_are_those_of_open_clip() {
        assert_eq!(Clean::open_clip("canonicalize").ok(), Some(Clean::Canonicalize));
        assert!(Clean::open_clip("upper").is_err());
    }
}
