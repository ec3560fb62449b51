//! Nothing is trained: the classes' hand-written prompts.

use super::{Entry, Method, NONE, Needs, Sees};

pub(super) static ENTRY: Entry = Entry {
    name: "zeroshot",
    trains: "nothing: the templates as they are, an ensemble if there are several",
    source: "Radford et al. 2021, arXiv 2103.00020",
    differs: None,
    sees: Sees::Texts,
    needs: Needs { image_tokens: false },
    new_classes: true,
    options: &[],
    recipe: NONE,
    prepare: None,
    build: |_, _| Ok(Box::new(ZeroShot)),
};

struct ZeroShot;

impl Method for ZeroShot {}
