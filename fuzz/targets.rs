//! What is done with bytes that anybody could have written: one function a reader, one line in [`TARGETS`].
//!
//! None of them may panic, hang or take much memory. `fuzz_targets/` hands them to libFuzzer, and the tests run
//! them over the committed corpus.

use clap::FromArgMatches;
use clip_cli::app::{App, GlobalArgs};
use clip_cli::data::{Input, LabelledOptions, Parts, SOURCES, SourceOptions};
use clip_cli::image::{DecodeOptions, decode};
use clip_cli::index::Collection;
use clip_cli::model::family::{Config, detect};
use clip_cli::text::{Clean, Labels, Tokenizer, templates};
use clip_cli::tune::data::{Image, Protocol, Set, Shots, Split, Subset};
use clip_cli::weights::Files;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

/// A target: its name, and what it does with bytes.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every reader.
pub(crate) static TARGETS: &[Target] = &[
    ("image", image),
    ("safetensors", safetensors),
    ("config", config),
    ("tokenizer", tokenizer),
    ("text", text),
    ("labels", labels),
    ("vocabulary", vocabulary),
    ("foreign_weights", foreign_weights),
    ("source", source),
    ("embeddings", embeddings),
    ("split", split),
];

/// An image file of any format.
pub(crate) fn image(bytes: &[u8]) {
    let options = DecodeOptions { max_pixels: 1 << 20, max_bytes: 1 << 20, ..DecodeOptions::default() };
    let _ = decode(bytes, &options);
}

/// A checkpoint's weights: the header, and every tensor that it promises.
pub(crate) fn safetensors(bytes: &[u8]) {
    in_file("model.safetensors", bytes, |path| {
        let Ok(files) = Files::open(path) else { return };
        for name in files.names() {
            let _ = files.shape(name);
            let _ = files.read(name, candle_core::DType::F32, &candle_core::Device::Cpu);
        }
    });
}

/// A checkpoint's configuration: the first byte says which file it is.
pub(crate) fn config(bytes: &[u8]) {
    let Some((kind, json)) = bytes.split_first() else { return };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) else { return };
    let config = match kind % 2 {
        0 => Config { hf: Some(value), ..Config::default() },
        _ => Config { open_clip: Some(value), ..Config::default() },
    };
    let weights = Files::from_static("empty", EMPTY).expect("an empty file of tensors");
    if let Ok(plan) = detect(&config).and_then(|family| family.plan(&config, &weights)) {
        let _ = plan.spec.check();
    }
}

/// A `tokenizer.json`, and what it makes of a text. Panics of the library that reads it are caught.
pub(crate) fn tokenizer(bytes: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_json_bytes(bytes) else { return };
    let spec = tokenizer.spec(16);
    let _ = tokenizer.batch(&["a photo of a cat", "", "ÄÖ \u{1f600} <|endoftext|>"], &spec);
}

/// A text, cleaned in every way, and cut by CLIP's own tokenizer.
pub(crate) fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for clean in ["lower", "whitespace", "canonicalize"] {
        if let Ok(clean) = Clean::open_clip(clean) {
            let _ = clean.apply(&text);
        }
    }
    let _ = clip_cli::text::html::unescape(&text);
    static CLIP: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::builtin().expect("built in"));
    let _ = CLIP.encode(&text);
}

/// A file of labels, and one of templates.
pub(crate) fn labels(bytes: &[u8]) {
    for name in ["labels.txt", "labels.json", "labels.csv", "labels.tsv"] {
        in_file(name, bytes, |path| {
            let _ = Labels::from_file(path);
        });
    }
    for name in ["templates.txt", "templates.json"] {
        in_file(name, bytes, |path| {
            if let Ok(set) = templates::load(&path.to_string_lossy()) {
                let _ = set.fill("cat");
            }
        });
    }
}

/// The files of tokenizers other than `tokenizer.json`: the first byte says which.
pub(crate) fn vocabulary(bytes: &[u8]) {
    let Some((kind, file)) = bytes.split_first() else { return };
    let read: fn(&Path) -> clip_cli::error::Result<Tokenizer> = match kind % 3 {
        0 => Tokenizer::from_sentencepiece,
        1 => Tokenizer::from_wordpiece,
        _ => Tokenizer::from_merges_file,
    };
    in_file("vocabulary", file, |path| {
        if let Ok(tokenizer) = read(path) {
            let _ = tokenizer.batch(&["a photo of a cat", ""], &tokenizer.spec(16));
        }
    });
}

/// Weights that are no safetensors: what torch and numpy write.
pub(crate) fn foreign_weights(bytes: &[u8]) {
    in_file("model.bin", bytes, |path| {
        let Ok(files) = Files::open_any(path) else { return };
        for name in files.names() {
            let _ = files.read(name, candle_core::DType::F32, &candle_core::Device::Cpu);
        }
    });
}

/// Files with many samples, in every format: the first byte says which. Panics of the Parquet reader are caught.
pub(crate) fn source(bytes: &[u8]) {
    let Some((kind, file)) = bytes.split_first() else { return };
    let source = SOURCES[usize::from(*kind) % SOURCES.len()];
    in_file(&format!("samples.{}", source.extensions()[0]), file, |path| {
        let parts = Parts { image: true, captions: true, label: true };
        let options = SourceOptions { parts, ..SourceOptions::default() };
        if let Ok(samples) = source.open(Input::new(path.to_owned()), &options) {
            assert!(samples.take(100_000).count() < 100_000, "a small file has no end of samples");
        }
    });
}

/// Files of embeddings, in every format that `search` reads: the first byte says which.
pub(crate) fn embeddings(bytes: &[u8]) {
    static APP: LazyLock<App> = LazyLock::new(|| {
        let matches = clip_cli::commands::cli().get_matches_from(["clip-cli", "--quiet", "models", "list"]);
        App::new(&GlobalArgs::from_arg_matches(&matches).expect("global arguments")).expect("an app")
    });
    let Some((kind, file)) = bytes.split_first() else { return };
    let name = ["embeddings.npy", "embeddings.jsonl", "embeddings.safetensors", "embeddings.parquet"];
    in_file(name[usize::from(*kind) % name.len()], file, |path| {
        let Ok(collection) = Collection::open(&APP, &[path.to_owned()]) else { return };
        for position in 0..collection.len().min(100) {
            let _ = collection.get(position);
            collection.append(position, &mut Vec::new());
        }
    });
}

/// What a few-shot run learns from: a split of ours, of a set of two images, or one of CoOp's, as the first byte says.
pub(crate) fn split(bytes: &[u8]) {
    if let Some((kind, file)) = bytes.split_first() {
        split_reads(*kind, file);
    }
}

/// The same; whether it is a split.
pub(crate) fn split_reads(kind: u8, file: &[u8]) -> bool {
    let (options, look) = (LabelledOptions::default(), |_: &Image| Ok(Ok(7)));
    let mut read = false;
    let name = ["split.json", "split_zhou.json"][usize::from(kind) % 2];
    in_file(name, file, |path| {
        if kind % 2 == 1 {
            let protocol = Protocol { shots: Shots::All, seed: 1, subset: Subset::All, strict: false };
            read = Set::open(path, &options).is_ok_and(|set| protocol.split(&set, &look).is_ok());
            return;
        }
        let folder = path.with_file_name("set");
        for class in ["ant", "bee"] {
            std::fs::create_dir_all(folder.join(class)).expect("a folder");
            std::fs::write(folder.join(class).join("0.ppm"), b"P6 1 1 255 ...").expect("a small file");
        }
        let set = Set::open(&folder, &options).expect("a set of two images");
        if let Ok(split) = Split::load(path, &set, &look) {
            let _ = (split.summary(), split.rest(&set), split.to_json());
            read = true;
        }
    });
    read
}

/// A safetensors file without tensors.
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

/// Hands bytes to a reader of files.
fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let directory = tempfile::tempdir_in(place).expect("a directory for one file");
    let path = directory.path().join(name);
    std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("a small file");
    read(&path);
}
