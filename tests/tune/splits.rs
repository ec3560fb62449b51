//! Splits: what holds of all of them.

use clip_cli::error::{ItemError, ItemKind};
use clip_cli::train::data::Place;
use clip_cli::tune::data::{Image, Part, Protocol, Seen, Set, Shots, Split, Subset};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;

/// A set of classes `c0`, `c1`, … with so many images each, which lie nowhere.
pub(super) fn set(sizes: &[usize]) -> Set {
    let image = |class: usize, at: usize| Image {
        id: format!("c{class}/{at:03}.png"),
        class,
        place: Place::File("nowhere".into()),
        content: None,
    };
    Set {
        name: "set".into(),
        train: Part {
            classes: (0..sizes.len()).map(|class| format!("c{class}")).collect(),
            images: sizes.iter().enumerate().flat_map(|(class, &n)| (0..n).map(move |at| image(class, at))).collect(),
        },
        ..Set::default()
    }
}

pub(super) fn shots(shots: usize) -> Shots {
    Shots::Some(NonZeroUsize::new(shots).unwrap())
}

fn protocol(many: usize, seed: u64, subset: Subset) -> Protocol {
    Protocol { shots: shots(many), seed, subset, strict: false }
}

/// Every image is different.
fn different(image: &Image) -> Seen {
    Ok(image.id.bytes().fold(0, |hash: u128, byte| hash * 257 + u128::from(byte)))
}

fn draw(protocol: &Protocol, set: &Set) -> Split {
    protocol.split(set, &|image| Ok(different(image))).unwrap()
}

fn ids(images: &[Image]) -> Vec<String> {
    images.iter().map(|image| image.id.clone()).collect()
}

/// The ids of each class by its name.
fn by_name(split: &Split, images: &[Image]) -> BTreeMap<String, Vec<String>> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for image in images {
        out.entry(split.classes[image.class].clone()).or_default().push(image.id.clone());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn parts_are_disjoint_and_have_their_sizes(
        sizes in prop::collection::vec(1usize..30, 2..8), many in 1usize..20, seed: u64,
    ) {
        let set = set(&sizes);
        let split = draw(&protocol(many, seed, Subset::All), &set);
        let (train, val): (HashSet<_>, HashSet<_>) = (ids(&split.train).into_iter().collect(), ids(&split.val).into_iter().collect());
        prop_assert!(train.is_disjoint(&val));
        prop_assert_eq!((train.len(), val.len()), (split.train.len(), split.val.len()));
        for (class, &size) in sizes.iter().enumerate() {
            let count = |images: &[Image]| images.iter().filter(|image| image.class == class).count();
            prop_assert_eq!(count(&split.train), many.min(size));
            prop_assert_eq!(count(&split.val), many.min(4).min(size.saturating_sub(many)));
        }
        let short: Vec<_> = sizes.iter().enumerate().filter(|(_, size)| **size < many).map(|(c, s)| (format!("c{c}"), *s)).collect();
        prop_assert_eq!(&split.short, &short);
        // What was not drawn is the rest.
        let rest: HashSet<_> = ids(&split.rest(&set).images).into_iter().collect();
        prop_assert_eq!(rest.len() + train.len() + val.len(), sizes.iter().sum::<usize>());
        prop_assert!(rest.is_disjoint(&train) && rest.is_disjoint(&val));
    }

    #[test]
    fn the_order_of_reading_makes_no_difference(
        sizes in prop::collection::vec(1usize..20, 2..6), seed: u64, order in any::<prop::sample::Index>(),
    ) {
        let set = set(&sizes);
        let mut other = set.clone();
        let turn = order.index(other.train.images.len());
        other.train.images.rotate_left(turn);
        other.train.images.reverse();
        let protocol = protocol(4, seed, Subset::All);
        let (a, b) = (draw(&protocol, &set), draw(&protocol, &other));
        prop_assert_eq!((&a.train, &a.val), (&b.train, &b.val));
    }

    #[test]
    fn other_classes_make_no_difference(
        sizes in prop::collection::vec(1usize..20, 2..6), more in prop::collection::vec(1usize..20, 1..4), seed: u64,
    ) {
        let (few, many) = (set(&sizes), set(&[&sizes[..], &more[..]].concat()));
        let protocol = protocol(4, seed, Subset::All);
        let (few, many) = (draw(&protocol, &few), draw(&protocol, &many));
        let (all, of_many) = (by_name(&few, &few.train), by_name(&many, &many.train));
        prop_assert!(all.iter().all(|(name, ids)| of_many[name] == *ids));
        let (all, of_many) = (by_name(&few, &few.val), by_name(&many, &many.val));
        prop_assert!(all.iter().all(|(name, ids)| of_many[name] == *ids));
    }

    #[test]
    fn base_and_new_are_halves_of_all(sizes in prop::collection::vec(1usize..12, 4..12), seed: u64) {
        let set = set(&sizes);
        let [all, base, new] = [Subset::All, Subset::Base, Subset::New].map(|subset| draw(&protocol(2, seed, subset), &set));
        prop_assert_eq!(base.classes.len(), sizes.len().div_ceil(2));
        prop_assert_eq!(&[&base.classes[..], &new.classes[..]].concat(), &all.classes);
        prop_assert_eq!([ids(&base.train), ids(&new.train)].concat(), ids(&all.train));
        prop_assert_eq!([ids(&base.val), ids(&new.val)].concat(), ids(&all.val));
        for split in [&base, &new] {
            let named = |image: &Image| image.id.split('/').next() == Some(&split.classes[image.class]);
            prop_assert!(split.train.iter().all(named));
        }
    }

    #[test]
    fn fewer_shots_are_a_part_of_more(sizes in prop::collection::vec(1usize..40, 2..5), seed: u64, few in 1usize..16) {
        let set = set(&sizes);
        let [few, many] = [few, 16].map(|many| draw(&protocol(many, seed, Subset::All), &set));
        let many: HashSet<_> = ids(&many.train).into_iter().collect();
        prop_assert!(ids(&few.train).iter().all(|id| many.contains(id)));
    }

    #[test]
    fn the_same_content_is_never_on_both_sides(
        sizes in prop::collection::vec(4usize..30, 2..5), contents in 1u128..12, seed: u64, many in 1usize..6,
    ) {
        let set = set(&sizes);
        let look = |image: &Image| -> Seen { different(image).map(|hash| hash % contents) };
        let split = protocol(many, seed, Subset::All).split(&set, &|image| Ok(look(image))).unwrap();
        let of = |images: &[Image]| images.iter().map(|image| image.content.unwrap()).collect::<HashSet<_>>();
        prop_assert!(of(&split.train).is_disjoint(&of(&split.val)));
        for class in 0..sizes.len() {
            let own: Vec<_> = split.train.iter().filter(|image| image.class == class).collect();
            prop_assert_eq!(own.iter().map(|image| image.content).collect::<HashSet<_>>().len(), own.len());
        }
    }

    #[test]
    fn all_shots_are_all_images(sizes in prop::collection::vec(2usize..60, 2..5), seed: u64) {
        let split = draw(&Protocol { shots: Shots::All, seed, subset: Subset::All, strict: false }, &set(&sizes));
        prop_assert_eq!(split.train.len() + split.val.len(), sizes.iter().sum::<usize>());
        for (class, &size) in sizes.iter().enumerate() {
            let held = split.val.iter().filter(|image| image.class == class).count();
            prop_assert_eq!(held, ((size as f64 / 10.0).round() as usize).max(1));
        }
    }
}

#[test]
fn seeds_and_images_of_no_use() {
    let set = set(&[12, 12]);
    let [a, b] = [1, 2].map(|seed| draw(&protocol(4, seed, Subset::All), &set));
    assert_ne!(a.train, b.train);
    // Another image takes the place of one that cannot be read.
    let bad = a.train[0].id.clone();
    let look = |image: &Image| -> Seen {
        if image.id == bad { Err(ItemError::new(ItemKind::Truncated, "cut short")) } else { different(image) }
    };
    let split = protocol(4, 1, Subset::All).split(&set, &|image| Ok(look(image))).unwrap();
    assert_eq!((split.train.len(), split.val.len(), split.left_out.count), (8, 8, 1));
    assert_eq!(split.train[..3], a.train[1..4]);
    assert!(split.summary().contains("of no use and left out: 1 (c0/"), "{}", split.summary());
    let strict = Protocol { strict: true, ..protocol(4, 1, Subset::All) };
    let error = strict.split(&set, &|image| Ok(look(image))).unwrap_err();
    assert!(error.to_string().contains("cut short") && error.advice().unwrap().contains("--strict"), "{error}");
    assert!(strict.split(&set, &|image| Ok(different(image))).is_ok());
    let none = |_: &Image| Ok(Err(ItemError::new(ItemKind::Empty, "the file is empty")));
    let error = protocol(4, 1, Subset::All).split(&set, &none).unwrap_err();
    assert!(error.to_string().starts_with("set: no image of the class \"c0\" is of use: c0/"), "{error}");
    let stop = |_: &Image| Err(clip_cli::error::Error::interrupted());
    assert_eq!(protocol(4, 1, Subset::All).split(&set, &stop).unwrap_err().exit_code(), 130);
}

#[test]
fn too_few_images_and_classes() {
    let few = draw(&protocol(16, 1, Subset::All), &set(&[20, 3, 16]));
    assert_eq!(few.short, [("c1".to_owned(), 3)]);
    let summary = few.summary();
    assert!(
        summary.starts_with("set: 3 classes, shots 16, seed 1; images: 35 to learn from, 4 for validation\n"),
        "{summary}"
    );
    assert!(
        summary.contains("fewer than 16 images: c1 3")
            && summary.contains("no image left for validation: 2 of 3 classes"),
        "{summary}"
    );
    let strict = Protocol { strict: true, ..protocol(16, 1, Subset::All) };
    let error = strict.split(&set(&[20, 3, 16]), &|image| Ok(different(image))).unwrap_err();
    assert!(error.to_string().contains("fewer than 16 images: c1 3"), "{error}");
    for (sizes, subset, message) in [
        (&[9][..], Subset::All, "set: 1 class: there is nothing to tell apart"),
        (&[9, 9][..], Subset::Base, "set: 1 class among the base ones of 2: there is nothing to tell apart"),
        (&[9, 9, 9][..], Subset::New, "set: 1 class among the new ones of 3: there is nothing to tell apart"),
    ] {
        let error = protocol(2, 1, subset).split(&set(sizes), &|image| Ok(different(image))).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn a_draw_stays_what_it_was() {
    // A change here makes every saved figure another one.
    let split = draw(&protocol(3, 1, Subset::All), &set(&[10, 10]));
    assert_eq!(ids(&split.train), ["c0/005.png", "c0/009.png", "c0/002.png", "c1/005.png", "c1/003.png", "c1/001.png"]);
}

#[test]
fn names_of_settings() {
    assert_eq!(("16".parse(), "all".parse()), (Ok(shots(16)), Ok(Shots::All)));
    assert!("0".parse::<Shots>().is_err() && "-1".parse::<Shots>().is_err() && "x".parse::<Subset>().is_err());
    for subset in [Subset::All, Subset::Base, Subset::New] {
        assert_eq!(subset.to_string().parse(), Ok(subset));
    }
}
