//! From the items of a source to the images of a part.

use super::{Image, LeftOut, Part};
use crate::data::{Content, Item};
use crate::error::{ItemError, ItemKind, Result};
use crate::train::data::{Place, Spill};
use std::path::{Path, PathBuf};

/// Images in the order in which they come.
#[derive(Debug)]
pub(super) struct Gather {
    /// What ids are relative to.
    root: PathBuf,
    /// Where images lie that have no place of their own.
    spill: Spill,
    images: Vec<Image>,
    pub(super) left_out: LeftOut,
}

impl Gather {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, spill: Spill::default(), images: Vec::new(), left_out: LeftOut::default() }
    }

    /// Adds an image of this class.
    ///
    /// # Errors
    /// If there is no room for what a table holds.
    pub(super) fn add(&mut self, item: Item, class: usize) -> Result<()> {
        let id = self.relative(&item.id);
        let place = match item.content {
            Content::File(path) => Place::File(path),
            Content::Span(span) => Place::Member(span),
            Content::Bytes(bytes) => self.spill.push(&bytes)?,
            Content::Failed(error) => {
                self.left_out.add(id, error);
                return Ok(());
            }
            Content::Pixels(_) | Content::Text(_) | Content::TextFile(_) => {
                self.left_out.add(id, ItemError::new(ItemKind::Unsupported, "no image file"));
                return Ok(());
            }
        };
        self.push(id, place, class);
        Ok(())
    }

    /// Adds an image that lies here.
    pub(super) fn push(&mut self, id: String, place: Place, class: usize) {
        self.images.push(Image { id, class, place, content: None });
    }

    /// The images so far as a part, and the classes that have none. An image that is named twice counts once; one with two
    /// classes is left out.
    pub(super) fn part(&mut self, names: Vec<String>) -> (Part, Vec<String>) {
        let mut images = std::mem::take(&mut self.images);
        images.sort_by(|a, b| (&a.id, a.class).cmp(&(&b.id, b.class)));
        images.dedup_by(|a, b| a == b);
        let mut kept: Vec<Image> = Vec::with_capacity(images.len());
        for same in images.chunk_by(|a, b| a.id == b.id) {
            match same {
                [image] => kept.push(image.clone()),
                [first, second, ..] => {
                    let message = format!("it has two classes, {:?} and {:?}", names[first.class], names[second.class]);
                    self.left_out.add(first.id.clone(), ItemError::new(ItemKind::Invalid, message));
                }
                [] => {}
            }
        }
        let mut index = vec![None; names.len()];
        kept.iter().for_each(|image| index[image.class] = Some(0));
        index.iter_mut().flatten().enumerate().for_each(|(new, place)| *place = new);
        let (mut classes, mut empty) = (Vec::new(), Vec::new());
        for (name, new) in names.into_iter().zip(&index) {
            if new.is_some() { &mut classes } else { &mut empty }.push(name);
        }
        kept.iter_mut().for_each(|image| image.class = index[image.class].unwrap_or_default());
        // They are sorted by id already.
        kept.sort_by_key(|image| image.class);
        (Part { classes, images: kept }, empty)
    }

    /// An id below the set's folder, the same on all systems.
    fn relative(&self, id: &str) -> String {
        match Path::new(id).strip_prefix(&self.root) {
            Ok(inside) if !inside.as_os_str().is_empty() => {
                let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy()).collect();
                parts.join("/")
            }
            _ => id.to_owned(),
        }
    }
}
