//! Which images are learnt from: so many of each class, drawn with a seed, as in CoOp.

use super::{Image, LeftOut, Part, Seen, Set, Split};
use crate::error::{Error, Result};
use crate::ops::pool;
use crate::train::random::keyed;
use rand::seq::SliceRandom;
use serde::{Serialize, Serializer};
use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::str::FromStr;

/// How many images of each class are learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shots {
    /// So many.
    Some(NonZeroUsize),
    /// Every image; where the set has no validation part, a tenth is held out for that.
    All,
}

/// Which classes are meant (CoCoOp's base-to-new protocol).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subset {
    /// All.
    #[default]
    All,
    /// The first half, rounded up.
    Base,
    /// The rest.
    New,
}

/// How a split is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// How many images of each class.
    pub shots: Shots,
    /// Which of them.
    pub seed: u64,
    /// Of which classes.
    pub subset: Subset,
    /// Whether too few images, and images that are of no use, are errors.
    pub strict: bool,
}

/// No more images of a class are for validation (CoOp's `min(num_shots, 4)`).
const MOST_VALIDATION: usize = 4;

impl Protocol {
    /// Draws the split of a set.
    ///
    /// The images of a class, sorted by id, are put in an order that follows from the seed and the name of the class: the
    /// first that are of use are learnt from, so fewer shots are a part of more. The next ones are for validation, but for
    /// sets with a validation part, from which they are drawn likewise. An image with the content of another one that is
    /// learnt from is drawn neither twice nor for validation. A class with fewer images than shots gives all of them.
    ///
    /// `look` says what is seen of an image ([`super::decoded`], [`super::read`]); it is called for those drawn alone,
    /// from several threads, and its `Err` ends the work.
    ///
    /// # Errors
    /// If there are no two classes, or no image of a class is of use; if `strict`, whatever else is amiss.
    pub fn split(&self, set: &Set, look: &(dyn Fn(&Image) -> Result<Seen> + Sync)) -> Result<Split> {
        let names = &set.train.classes;
        let wanted = self.subset.of(names.len());
        let classes = names[wanted.clone()].to_vec();
        if classes.len() < 2 {
            let which = match self.subset {
                Subset::All => String::new(),
                subset => format!(" among the {subset} ones of {}", names.len()),
            };
            let message = format!("{} class{which}: there is nothing to tell apart", classes.len());
            return Err(Error::run(message).at(&set.name).hint("the set needs at least two classes"));
        }
        let orders: Vec<Vec<&Image>> = wanted.map(|class| order(&set.train, class, "train", self.seed)).collect();
        // How many of the order are for training, of how many that may be used for it.
        let bounds = |order: &[&Image]| match (self.shots, &set.val) {
            (Shots::Some(shots), _) => (shots.get(), order.len()),
            (Shots::All, Some(_)) => (order.len(), order.len()),
            (Shots::All, None) => {
                let held = (order.len() as f64 / 10.0).round() as usize;
                let rest = order.len() - if order.len() < 2 { 0 } else { held.max(1) };
                (rest, rest)
            }
        };
        let train = draw(classes.len(), |class| {
            let (shots, usable) = bounds(&orders[class]);
            take(class, &orders[class][..usable], shots, &HashSet::new(), look)
        })?;
        let mut split = Split {
            data: set.name.clone(),
            seed: self.seed,
            shots: self.shots,
            subset: self.subset,
            set_classes: names.len(),
            classes,
            train: Vec::new(),
            val: Vec::new(),
            short: Vec::new(),
            twice: 0,
            left_out: LeftOut::default(),
            fingerprint: set.fingerprint(),
        };
        for (class, drawn) in train.iter().enumerate() {
            let (name, found) = (&split.classes[class], drawn.images.len());
            if found == 0 {
                let reason = drawn.left_out.first.first().map(|(id, error)| format!(": {id}: {error}"));
                let message = format!("no image of the class {name:?} is of use{}", reason.unwrap_or_default());
                return Err(Error::run(message).at(&set.name));
            }
            if let Shots::Some(shots) = self.shots
                && found < shots.get()
            {
                split.short.push((name.clone(), found));
            }
        }
        let known: HashSet<u128> =
            train.iter().flat_map(|drawn| &drawn.images).filter_map(|image| image.content).collect();
        let val = draw(split.classes.len(), |class| match &set.val {
            Some(part) => {
                let place = part.classes.iter().position(|name| *name == split.classes[class]);
                let order = place.map(|place| order(part, place, "val", self.seed)).unwrap_or_default();
                take(class, &order, self.validation(order.len()), &known, look)
            }
            None => {
                let rest = &orders[class][train[class].used..];
                take(class, rest, self.validation(rest.len()), &known, look)
            }
        })?;
        for (drawn, images) in [(train, &mut split.train), (val, &mut split.val)] {
            for drawn in drawn {
                images.extend(drawn.images);
                split.twice += drawn.twice;
                split.left_out.append(drawn.left_out);
            }
        }
        if self.strict { split.strict(set) } else { Ok(split) }
    }

    fn validation(&self, all: usize) -> usize {
        match self.shots {
            Shots::Some(shots) => shots.get().min(MOST_VALIDATION),
            Shots::All => all,
        }
    }
}

/// The images of a class in the order in which they are drawn.
fn order<'a>(part: &'a Part, class: usize, purpose: &str, seed: u64) -> Vec<&'a Image> {
    let mut images: Vec<&Image> = part.images.iter().filter(|image| image.class == class).collect();
    images.sort_by(|a, b| a.id.cmp(&b.id));
    let purpose = format!("clip-cli few-shot split: {purpose}");
    images.shuffle(&mut keyed(&purpose, &[&seed.to_le_bytes(), part.classes[class].as_bytes()]));
    images
}

/// What was drawn of a class.
#[derive(Debug, Default)]
struct Drawn {
    images: Vec<Image>,
    /// How many images were looked at.
    used: usize,
    /// How many of them had a content that was drawn before.
    twice: usize,
    left_out: LeftOut,
}

/// Draws for every class, on several threads.
fn draw(classes: usize, take: impl Fn(usize) -> Result<Drawn> + Sync + Send) -> Result<Vec<Drawn>> {
    pool::collect(classes, take).into_iter().collect()
}

/// The first so many images that are of use and not known yet.
fn take(
    class: usize,
    order: &[&Image],
    most: usize,
    known: &HashSet<u128>,
    look: &(dyn Fn(&Image) -> Result<Seen> + Sync),
) -> Result<Drawn> {
    let (mut drawn, mut here) = (Drawn::default(), HashSet::new());
    for image in order {
        if drawn.images.len() == most {
            break;
        }
        drawn.used += 1;
        match look(image)? {
            Ok(content) if known.contains(&content) || !here.insert(content) => drawn.twice += 1,
            Ok(content) => drawn.images.push(Image { class, content: Some(content), ..(*image).clone() }),
            Err(reason) => drawn.left_out.add(image.id.clone(), reason),
        }
    }
    Ok(drawn)
}

impl Subset {
    /// The places of its classes among so many, as CoOp's `subsample_classes` has them.
    pub fn of(self, classes: usize) -> Range<usize> {
        let half = classes.div_ceil(2);
        match self {
            Self::All => 0..classes,
            Self::Base => 0..half,
            Self::New => half..classes,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Base => "base",
            Self::New => "new",
        }
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::All, Self::Base, Self::New].into_iter().find(|subset| subset.name() == text);
        known.ok_or_else(|| "expected all, base or new".to_owned())
    }
}

impl fmt::Display for Shots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Some(shots) => shots.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

impl Serialize for Shots {
    /// A number, or `all`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Some(shots) => serializer.serialize_u64(shots.get() as u64),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl FromStr for Shots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(shots)) => Ok(Self::Some(shots)),
            _ => Err("expected a number of images from 1 on, or all".to_owned()),
        }
    }
}
