//! What was drawn: in memory, and in words.

use super::{Image, LeftOut, Part, Set, Shots, Subset};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::fmt::Write;

/// The images that are learnt from, and those by which is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// What the set is called.
    pub data: String,
    /// The seed of the draw.
    pub seed: u64,
    /// How many images of each class were asked for.
    pub shots: Shots,
    /// Which classes were asked for.
    pub subset: Subset,
    /// How many classes the whole set has.
    pub set_classes: usize,
    /// The names of the split's classes; what the `class` of its images counts.
    pub classes: Vec<String>,
    /// What is learnt from, by class.
    pub train: Vec<Image>,
    /// What epochs and strengths are chosen by, by class. It may be empty.
    pub val: Vec<Image>,
    /// Classes with fewer images than shots, and how many they have.
    pub short: Vec<(String, usize)>,
    /// How many images were passed over because another one with the same content was drawn.
    pub twice: usize,
    /// Images that were drawn but are of no use; others took their place.
    pub left_out: LeftOut,
    /// [`Set::fingerprint`] of the set.
    pub fingerprint: String,
}

/// How the note begins that is no reason to refuse.
const NO_VALIDATION: &str = "no image left for validation";

impl Split {
    /// The images of the split's classes in the training part that were not drawn: what a set without a test part may be
    /// judged by. An image with the content of a drawn one may be among them if it has another id.
    pub fn rest(&self, set: &Set) -> Part {
        let drawn: HashSet<&str> = self.train.iter().chain(&self.val).map(|image| image.id.as_str()).collect();
        let classes = self.subset.of(set.train.classes.len());
        let rest = |image: &&Image| classes.contains(&image.class) && !drawn.contains(image.id.as_str());
        let own = |image: &Image| Image { class: image.class - classes.start, ..image.clone() };
        Part { classes: self.classes.clone(), images: set.train.images.iter().filter(rest).map(own).collect() }
    }

    /// Which of these images, looked at before ([`super::usable`]), have the content of one that was drawn: a test should
    /// have none of them.
    pub fn overlap<'a>(&self, images: &'a [Image]) -> Vec<&'a Image> {
        let drawn: HashSet<u128> = self.train.iter().chain(&self.val).filter_map(|image| image.content).collect();
        images.iter().filter(|image| image.content.is_some_and(|content| drawn.contains(&content))).collect()
    }

    /// What people should know before they wait: one line, and one more for each thing that is amiss.
    pub fn summary(&self) -> String {
        let Self { data, seed, shots, subset, set_classes, classes, train, val, .. } = self;
        let which = match subset {
            Subset::All => format!("{set_classes} classes"),
            subset => format!("{subset} classes, {} of {set_classes}", classes.len()),
        };
        let mut out = format!(
            "{data}: {which}, shots {shots}, seed {seed}; images: {} to learn from, {} for validation\n",
            train.len(),
            val.len()
        );
        for note in self.notes() {
            let _ = writeln!(out, "  {note}");
        }
        out
    }

    /// What is amiss, if anything.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.short.is_empty() {
            let named: Vec<_> = self.short.iter().take(20).map(|(name, count)| format!("{name} {count}")).collect();
            let more = self.short.len().saturating_sub(20);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            notes.push(format!("fewer than {} images: {}{more}", self.shots, named.join(", ")));
        }
        let without = self.classes.len() - self.val.iter().map(|image| image.class).collect::<HashSet<_>>().len();
        if without > 0 {
            notes.push(format!("{NO_VALIDATION}: {without} of {} classes", self.classes.len()));
        }
        if let Some((id, reason)) = self.left_out.first.first() {
            notes.push(format!("of no use and left out: {} ({id}: {reason}, …)", self.left_out.count));
        }
        if self.twice > 0 {
            notes.push(format!("passed over, as others have the same content: {}", self.twice));
        }
        notes
    }

    /// Itself, unless something is amiss.
    pub(super) fn strict(self, set: &Set) -> Result<Self> {
        let mut notes = self.notes();
        notes.retain(|note| !note.starts_with(NO_VALIDATION));
        if let Some((id, reason)) = set.left_out.first.first() {
            notes.push(format!("of no use in the set: {} ({id}: {reason}, …)", set.left_out.count));
        }
        match notes.is_empty() {
            true => Ok(self),
            false => Err(Error::run(notes.join("; ")).at(&set.name).hint("without --strict the rest is used")),
        }
    }
}
