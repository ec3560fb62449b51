//! The fuzz targets over their committed corpus, and over damaged copies of it: readers never panic.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::Path;

/// The corpus of a target, the committed part alone.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = directory.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn every_target_is_registered_and_has_seeds_or_goldens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (name, _) in targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        assert!(root.join("fuzz_targets").join(format!("{name}.rs")).is_file(), "{name}");
        let seeded_from_goldens = ["image", "tokenizer", "config"].contains(name);
        assert!(seeded_from_goldens || !corpus(name).is_empty(), "{name} has no corpus");
    }
}

#[test]
fn readers_survive_the_corpus_and_its_damaged_copies() {
    for (name, target) in targets::TARGETS {
        for bytes in corpus(name) {
            target(&bytes);
            for cut in [0, 1, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
                target(&bytes[..cut.min(bytes.len())]);
            }
            for at in [0, bytes.len() / 4, bytes.len() / 2] {
                let mut damaged = bytes.clone();
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= 0xff;
                }
                target(&damaged);
            }
        }
    }
}

#[test]
fn seeds_of_splits_are_splits() {
    // Else damage to them would be damage to what is refused anyway.
    let seeds = corpus("split");
    assert_eq!(seeds.len(), 2);
    for seed in seeds {
        let (kind, file) = seed.split_first().unwrap();
        assert!(targets::split_reads(*kind, file), "{kind}");
    }
}
