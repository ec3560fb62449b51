//! Images to be right about, under the classes of a training set.

use super::{Image, Part, Subset};
use crate::error::{Error, Result};
use crate::text::describe::canonical;
use std::collections::{BTreeMap, HashMap};

/// What a classifier is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// The names of the classes that are told apart; what the `class` of the images counts.
    pub classes: Vec<String>,
    /// The images.
    pub images: Vec<Image>,
    /// How many images of the set's other half there are; they are left out.
    pub other_half: usize,
    /// Labels that the training set does not have, with the number of their images. They are not among the images: no
    /// answer could be right.
    pub unseen: BTreeMap<String, usize>,
    /// Classes without an image here.
    pub absent: Vec<String>,
}

impl Test {
    /// The images of a part that belong to a subset of these classes, all those of the training set in their order.
    /// Classes are the same if their names are, but for case and spaces.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(part: &Part, classes: &[String], subset: Subset) -> Result<Self> {
        let known: HashMap<String, usize> = classes.iter().map(|name| canonical(name)).zip(0..).collect();
        let wanted = subset.of(classes.len());
        let of_part: Vec<Option<usize>> =
            part.classes.iter().map(|name| known.get(&canonical(name)).copied()).collect();
        let (mut images, mut other_half, mut unseen) = (Vec::new(), 0, BTreeMap::new());
        for image in &part.images {
            match of_part[image.class] {
                Some(class) if wanted.contains(&class) => {
                    images.push(Image { class: class - wanted.start, ..image.clone() });
                }
                Some(_) => other_half += 1,
                None => *unseen.entry(part.classes[image.class].clone()).or_default() += 1,
            }
        }
        if images.is_empty() {
            let name = |names: &[String]| names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let error = Error::run(format!("no image of the classes that were learnt: {} …", name(&classes[wanted])));
            return Err(error.hint(format!("these images' classes are {} …", name(&part.classes))));
        }
        let mut has = vec![false; wanted.len()];
        images.iter().for_each(|image| has[image.class] = true);
        let classes = classes[wanted].to_vec();
        let absent = classes.iter().zip(has).filter(|(_, has)| !has).map(|(name, _)| name.clone()).collect();
        Ok(Self { classes, images, other_half, unseen, absent })
    }

    /// What is amiss, if anything.
    pub fn notes(&self) -> Vec<String> {
        let list = |names: &[String]| {
            let more = names.len().saturating_sub(20);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            names[..names.len().min(20)].join(", ") + &more
        };
        let mut notes = Vec::new();
        if !self.unseen.is_empty() {
            let count: usize = self.unseen.values().sum();
            let named: Vec<_> = self.unseen.iter().map(|(name, count)| format!("{name:?} ({count})")).collect();
            notes.push(format!("test images with labels that were not learnt, left out: {count}, {}", list(&named)));
        }
        if !self.absent.is_empty() {
            notes.push(format!("no test image of: {}", list(&self.absent)));
        }
        notes
    }
}
