//! Labelled sets: all images with their classes, whatever they were read from.

use super::gather::Gather;
use super::{coop, names};
use crate::data::{Labelled, LabelledOptions};
use crate::error::{Error, ItemError, Result};
use crate::train::data::Place;
use std::path::Path;

/// An image and its class.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its path below the folder of the set, or what else the source calls it.
    pub id: String,
    /// The index of its class, among those of the part or split that it belongs to.
    pub class: usize,
    /// Where it lies.
    pub place: Place,
    /// The first sixteen bytes of its content's BLAKE3 hash, if it was looked at.
    pub content: Option<u128>,
}

impl PartialEq for Image {
    /// Whether it is the same image of the same class; the place may be another.
    fn eq(&self, other: &Self) -> bool {
        (&self.id, self.class, self.content) == (&other.id, other.class, other.content)
    }
}

/// Images and the names of their classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// The classes that have images: of folders and tables in the order of their labels (numbers by their size), of CoOp's
    /// splits in the order of the label numbers.
    pub classes: Vec<String>,
    /// The images, by class and then by id.
    pub images: Vec<Image>,
}

/// Images that are of no use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeftOut {
    /// How many there are.
    pub count: usize,
    /// The first hundred, with the reason.
    pub first: Vec<(String, ItemError)>,
}

/// A labelled set.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// What it is called: the path that was given.
    pub name: String,
    /// What is learnt from; all images, where the set has no parts.
    pub train: Part,
    /// The set's own validation part (CoOp's splits).
    pub val: Option<Part>,
    /// The set's own test part (CoOp's splits).
    pub test: Option<Part>,
    /// Classes without an image (empty folders). They are none of the set's classes.
    pub empty: Vec<String>,
    /// Images that could not be told from their table or archive, without a label, or with two of them.
    pub left_out: LeftOut,
}

impl Set {
    /// Opens a folder of class folders, a table, an archive, a data set of CLIP benchmark, or CoOp's `split_*.json` (a
    /// file that ends in `.json`). Of the options `classes` does not count.
    ///
    /// Images themselves are not looked at, but those of tables and compressed archives are copied to a temporary file.
    ///
    /// # Errors
    /// If it cannot be read, or two of its classes are the same but for case and spaces.
    pub fn open(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let set = if options.format.is_none() && coop::is_one(path) {
            coop::open(path, options).map_err(|error| error.at(path.display()))?
        } else {
            Self::labelled(path, options)?
        };
        set.checked().map_err(|error| error.at(path.display()))
    }

    /// What a classifier is judged by: the test part, or all of a set that has no parts.
    pub fn tested(&self) -> &Part {
        self.test.as_ref().unwrap_or(&self.train)
    }

    /// Known by the classes, and the ids and classes of all images; 32 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new_derive_key("clip-cli few-shot set");
        let mut text = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        let parts = [("train", Some(&self.train)), ("val", self.val.as_ref()), ("test", self.test.as_ref())];
        for (name, part) in parts.into_iter().filter_map(|(name, part)| Some((name, part?))) {
            text(name);
            text(&part.classes.len().to_string());
            part.classes.iter().for_each(|class| text(class));
            for image in &part.images {
                text(&image.id);
                text(&image.class.to_string());
            }
        }
        hash.finalize().to_hex()[..32].to_owned()
    }

    fn labelled(path: &Path, options: &LabelledOptions) -> Result<Self> {
        let mut options = LabelledOptions { classes: None, ..options.clone() };
        options.source.places = true;
        let Labelled { classes, items } = Labelled::open(path, &options)?;
        let beside = || path.parent().unwrap_or(Path::new("")).to_owned();
        let root = if path.is_dir() { path.to_owned() } else { options.source.root.clone().unwrap_or_else(beside) };
        let mut gather = Gather::new(root);
        for (item, class) in items {
            gather.add(item?, class)?;
        }
        let (train, empty) = gather.part(classes);
        Ok(Self { name: path.display().to_string(), train, empty, left_out: gather.left_out, ..Self::default() })
    }

    fn checked(self) -> Result<Self> {
        if self.train.images.is_empty() {
            let first = self.left_out.first.first();
            let reason = first.map_or_else(|| "no images in here".to_owned(), |(id, error)| format!("{id}: {error}"));
            return Err(Error::run(reason));
        }
        for part in [Some(&self.train), self.val.as_ref(), self.test.as_ref()].into_iter().flatten() {
            names::differ(&part.classes)?;
        }
        Ok(self)
    }
}

impl LeftOut {
    /// How many are remembered by name.
    pub const NAMED: usize = 100;

    /// Adds one.
    pub fn add(&mut self, id: String, reason: ItemError) {
        self.count += 1;
        if self.first.len() < Self::NAMED {
            self.first.push((id, reason));
        }
    }

    /// Adds those of another list.
    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        let room = Self::NAMED.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }
}
