//! Splits on disk: JSON that reads back as what was drawn, and only with the images that it was drawn from.

use super::{Image, LeftOut, Part, Seen, Set, Shots, Split, Subset};
use crate::data::read_file;
use crate::error::{Error, ItemError, ItemKind, Result};
use crate::ops::pool;
use crate::output::Target;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// A split is no longer than this.
const MAX_BYTES: u64 = 1 << 30;

/// What the file says that it is.
const FORMAT: &str = "clip-cli few-shot split 1";

#[derive(Deserialize, Serialize)]
struct Saved<'a> {
    format: Cow<'a, str>,
    data: Cow<'a, str>,
    fingerprint: Cow<'a, str>,
    /// A number, or `all`.
    shots: String,
    seed: u64,
    subset: String,
    set_classes: usize,
    classes: Cow<'a, [String]>,
    train: Vec<Row<'a>>,
    val: Vec<Row<'a>>,
    short: Cow<'a, [(String, usize)]>,
    twice: usize,
    left_out: usize,
    /// Id, kind and sentence.
    left_out_first: Vec<(String, String, String)>,
}

/// Id, class, and content in 32 hexadecimal digits.
type Row<'a> = (Cow<'a, str>, usize, String);

/// Images by id and class.
type Places<'a> = HashMap<(&'a str, usize), &'a Image>;

impl Split {
    /// The split as JSON, the same bytes for the same split.
    pub fn to_json(&self) -> String {
        let row = |image: &'_ Image| -> Row<'_> {
            (image.id.clone().into(), image.class, image.content.map(|hash| format!("{hash:032x}")).unwrap_or_default())
        };
        let saved = Saved {
            format: FORMAT.into(),
            data: (&self.data).into(),
            fingerprint: (&self.fingerprint).into(),
            shots: self.shots.to_string(),
            seed: self.seed,
            subset: self.subset.to_string(),
            set_classes: self.set_classes,
            classes: (&self.classes).into(),
            train: self.train.iter().map(row).collect(),
            val: self.val.iter().map(row).collect(),
            short: (&self.short).into(),
            twice: self.twice,
            left_out: self.left_out.count,
            left_out_first: self
                .left_out
                .first
                .iter()
                .map(|(id, error)| (id.clone(), error.kind.name().to_owned(), error.message.clone()))
                .collect(),
        };
        // Names and numbers alone: nothing of it can fail.
        serde_json::to_string(&saved).unwrap_or_default() + "\n"
    }

    /// Writes the split to a file, which appears whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut target = Target::open(path)?;
        target.write_all(self.to_json().as_bytes()).map_err(|error| target.error(error))?;
        target.commit()
    }

    /// Reads a split that was drawn from this set. `look` is called for all its images, as in
    /// [`super::Protocol::split`].
    ///
    /// # Errors
    /// If it is no such file, or the set has other classes or images now, or a drawn image has another content.
    pub fn load(path: &Path, set: &Set, look: &(dyn Fn(&Image) -> Result<Seen> + Sync)) -> Result<Self> {
        let at = |error: Error| error.at(path.display());
        let bytes = read_file(path, MAX_BYTES).map_err(|error| at(Error::run(error)))?;
        Self::parse(&bytes, set, look).map_err(at)
    }

    fn parse(bytes: &[u8], set: &Set, look: &(dyn Fn(&Image) -> Result<Seen> + Sync)) -> Result<Self> {
        let bad = |reason: &dyn std::fmt::Display| Error::run(format!("no split of clip-cli's: {reason}"));
        let saved: Saved<'_> = serde_json::from_slice(bytes).map_err(|error| bad(&error))?;
        if saved.format != FORMAT {
            return Err(bad(&format!("its format is {:?}, not {FORMAT:?}", saved.format)));
        }
        let changed = |what: String| {
            Error::run(format!("the data changed since this split was drawn: {what}"))
                .hint("bring the data back, or draw another split")
        };
        if saved.fingerprint != set.fingerprint() {
            let (classes, images) = (set.train.classes.len(), set.train.images.len());
            let was = saved.set_classes;
            return Err(changed(format!(
                "{} has {images} images of {classes} classes to learn from now, and those of the split ({was} classes) \
                 are not the same",
                set.name
            )));
        }
        let shots: Shots = saved.shots.parse().map_err(|error| bad(&error))?;
        let subset: Subset = saved.subset.parse().map_err(|error| bad(&error))?;
        let range = subset.of(set.train.classes.len());
        if set.train.classes[range.clone()] != *saved.classes {
            return Err(bad(&"its classes are not those of the set"));
        }
        // Where the set has a validation part, that is where these images are.
        let names = &set.train.classes[range];
        let train = places(names, &set.train);
        let val = places(names, set.val.as_ref().unwrap_or(&set.train));
        let wanted: Vec<(&Row<'_>, &Places<'_>)> =
            saved.train.iter().map(|row| (row, &train)).chain(saved.val.iter().map(|row| (row, &val))).collect();
        let images = pool::collect(wanted.len(), |at| {
            let ((id, class, content), places) = &wanted[at];
            let Some(image) = places.get(&(&**id, *class)) else {
                return Err(changed(format!("{id} is no longer there")));
            };
            let hash = u128::from_str_radix(content, 16).map_err(|_| bad(&format!("{id} has no hash")))?;
            match look(image)? {
                Ok(now) if now == hash => Ok(Image { class: *class, content: Some(hash), ..(*image).clone() }),
                Ok(_) => Err(changed(format!("{id} has another content"))),
                Err(reason) => Err(changed(format!("{id}: {reason}"))),
            }
        });
        let mut images = images.into_iter().collect::<Result<Vec<_>>>()?;
        let val = images.split_off(saved.train.len());
        let first = saved.left_out_first.into_iter().take(LeftOut::NAMED);
        let reason = |kind: &str, message: &str| ItemError::new(ItemKind::from_name(kind), message);
        Ok(Self {
            data: saved.data.into_owned(),
            seed: saved.seed,
            shots,
            subset,
            set_classes: saved.set_classes,
            classes: saved.classes.into_owned(),
            train: images,
            val,
            short: saved.short.into_owned(),
            twice: saved.twice,
            left_out: LeftOut {
                count: saved.left_out,
                first: first.map(|(id, kind, message)| (id, reason(&kind, &message))).collect(),
            },
            fingerprint: saved.fingerprint.into_owned(),
        })
    }
}

/// The images of a part by id and class, as the split counts classes.
fn places<'a>(names: &[String], part: &'a Part) -> Places<'a> {
    let of_class: Vec<Option<usize>> =
        part.classes.iter().map(|name| names.iter().position(|other| other == name)).collect();
    part.images.iter().filter_map(|image| Some(((image.id.as_str(), of_class[image.class]?), image))).collect()
}
