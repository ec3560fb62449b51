//! Token ids and canonical forms against what open_clip, transformers, ftfy and Python's html module say.

use std::path::{Path, PathBuf};

use clip_cli::text::{Clean, Pad, TextSpec, Tokenizer, ftfy, html};
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
struct Golden<T> {
    cases: Vec<Case<T>>,
}

#[derive(Deserialize)]
struct Case<T> {
    #[serde(rename = "in")]
    input: String,
    out: T,
}

/// Runs all cases of a file and fails with every difference.
fn check<T: DeserializeOwned + PartialEq + std::fmt::Debug>(file: &str, ours: impl Fn(&str) -> T) {
    let path = root().join("tests/golden/data/text").join(file);
    let golden: Golden<T> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(!golden.cases.is_empty());
    let differences: Vec<String> = golden
        .cases
        .iter()
        .map(|case| (case, ours(&case.input)))
        .filter(|(case, got)| *got != case.out)
        .map(|(case, got)| format!("{:?}\n  want {:?}\n  got  {got:?}", case.input, case.out))
        .collect();
    assert!(differences.is_empty(), "{file}: {} differences\n{}", differences.len(), differences.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn ftfy_repairs() {
    check("ftfy.json", |text| ftfy::fix_text(text).into_owned());
}

#[test]
fn character_references() {
    check("html.json", |text| html::unescape(text).into_owned());
}

#[test]
fn canonical_forms() {
    for (file, form) in [
        ("clean_whitespace.json", Clean::Whitespace),
        ("clean_lower.json", Clean::Lower),
        ("clean_canonicalize.json", Clean::Canonicalize),
        ("siglip_hf_canonical.json", Clean::Siglip),
    ] {
        check(file, |text| form.apply(text).into_owned());
    }
}

#[test]
fn open_clip_ids() {
    let tokenizer = Tokenizer::builtin().unwrap();
    let spec = tokenizer.spec(77);
    check("clip_open_clip.json", |text| tokenizer.batch(&[text], &spec).unwrap().ids);
}

#[test]
fn transformers_clip_ids() {
    let (vocab, merges, _folder) = clip_files();
    let tokenizer = Tokenizer::from_bpe_files(&vocab, &merges).unwrap();
    let spec = tokenizer.spec(77);
    assert_eq!((spec.pad, tokenizer.vocab_size()), (Pad::Longest { id: 49407 }, 49408));
    check("clip_hf.json", |text| tokenizer.batch(&[text], &spec).unwrap().ids);
}

#[test]
fn ids_of_the_checkpoints() {
    let json = |name: &str| Tokenizer::from_json(&folder(name).join("tokenizer.json")).unwrap();
    let clip = |name: &str| {
        let file = |file| folder(name).join(file);
        Tokenizer::from_bpe_files(&file("vocab.json"), &file("merges.txt")).unwrap()
    };
    for (name, tokenizer, context, clean) in [
        ("hf-clip-gelu", json("hf-clip-gelu"), 24, Clean::AsIs),
        ("hf-clip-gelu", clip("hf-clip-gelu"), 24, Clean::AsIs),
        ("hf-clip-quickgelu", json("hf-clip-quickgelu"), 77, Clean::AsIs),
        ("hf-clip-quickgelu", clip("hf-clip-quickgelu"), 77, Clean::AsIs),
        ("hf-siglip", json("hf-siglip"), 64, Clean::Siglip),
        ("hf-siglip2", json("hf-siglip2"), 64, Clean::LowerOnly),
        ("open_clip-siglip", json("open_clip-siglip"), 64, Clean::Canonicalize),
        ("open_clip-siglip2", json("open_clip-siglip2"), 64, Clean::Canonicalize),
        ("open_clip-vit", Tokenizer::builtin().unwrap(), 77, Clean::Lower),
        ("open_clip-vit-quickgelu", json("open_clip-vit-quickgelu"), 20, Clean::Whitespace),
        ("custom-text-dinov2", json("custom-text-dinov2/text"), 32, Clean::Whitespace),
        ("custom-text-effnet", json("custom-text-effnet/text"), 32, Clean::Whitespace),
    ] {
        let spec = tokenizer.spec(context);
        let (Pad::Fixed { id } | Pad::Longest { id }) = spec.pad;
        let batch = tokenizer.batch(&texts_of(name), &TextSpec { clean, pad: Pad::Fixed { id }, ..spec }).unwrap();
        let bytes = std::fs::read(folder(name).join("golden.safetensors")).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let want = |name: &str| -> Vec<u32> {
            let (numbers, _) = golden.tensor(name).unwrap().data().as_chunks::<8>();
            numbers.iter().map(|bytes| i64::from_le_bytes(*bytes) as u32).collect()
        };
        assert_eq!(batch.ids, want("input_ids"), "{name}");
        if golden.tensor("attention_mask").is_ok() {
            let mask: Vec<u32> = batch.mask().into_iter().map(u32::from).collect();
            assert_eq!(mask, want("attention_mask"), "{name}");
        }
    }
}

fn folder(name: &str) -> PathBuf {
    root().join("tests/golden/data").join(name)
}

fn texts_of(name: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Checkpoint {
        texts: Vec<String>,
    }
    let bytes = std::fs::read(folder(name).join("golden.json")).unwrap();
    serde_json::from_slice::<Checkpoint>(&bytes).unwrap().texts
}

/// `vocab.json` and `merges.txt` with the content of open_clip's vocabulary.
fn clip_files() -> (PathBuf, PathBuf, tempfile::TempDir) {
    let tokenizer = Tokenizer::builtin().unwrap();
    let ids: serde_json::Map<String, serde_json::Value> = (0..49408)
        .map(|id| {
            let token = tokenizer.token(id).unwrap();
            let token = token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>");
            (token, id.into())
        })
        .collect();
    let mut merges = String::new();
    let file = std::fs::File::open(root().join("models/vocab/bpe_simple_vocab_16e6.txt.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut merges).unwrap();
    let lines: Vec<&str> = merges.lines().skip(1).take(49152 - 256 - 2).collect();
    let folder = tempfile::tempdir().unwrap();
    let paths = (folder.path().join("vocab.json"), folder.path().join("merges.txt"));
    std::fs::write(&paths.0, serde_json::to_vec(&ids).unwrap()).unwrap();
    std::fs::write(&paths.1, format!("#version: 0.2\n{}\n", lines.join("\n"))).unwrap();
    (paths.0, paths.1, folder)
}

#[test]
fn vocabularies_without_a_tokenizer_json() {
    let bpe = |folder: PathBuf| Tokenizer::from_bpe_files(&folder.join("vocab.json"), &folder.join("merges.txt"));
    for (file, tokenizer) in [
        ("bert_hf.json", Tokenizer::from_wordpiece(&folder("hf-chinese-clip").join("vocab.txt"))),
        ("roberta_hf.json", bpe(folder("open_clip-roberta/text"))),
        (
            "xlm_roberta_hf.json",
            Tokenizer::from_sentencepiece(&folder("open_clip-xlm-roberta/text").join("sentencepiece.bpe.model")),
        ),
        ("t5_hf.json", Tokenizer::from_sentencepiece(&folder("text").join("spiece.model"))),
    ] {
        let tokenizer = tokenizer.unwrap();
        let spec = tokenizer.spec(1000);
        check(file, |text| tokenizer.batch(&[text], &spec).unwrap().ids);
    }
}

#[test]
fn bert_files_say_how_to_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nA\na\né\ne\n").unwrap();
    let ids = |config: &str| {
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        let tokenizer = Tokenizer::from_wordpiece(&path).unwrap();
        tokenizer.encode("A é").unwrap()
    };
    assert_eq!(ids("{}"), [6, 8]);
    assert_eq!(ids(r#"{"do_lower_case": false}"#), [5, 7]);
    assert_eq!(ids(r#"{"do_lower_case": false, "strip_accents": true}"#), [5, 8]);
}

#[test]
fn bert_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n##s\na\n猫\n").unwrap();
    let tokenizer = Tokenizer::from_wordpiece(&path).unwrap();
    let spec = TextSpec { pad: Pad::Fixed { id: 0 }, ..tokenizer.spec(8) };
    assert_eq!(tokenizer.batch(&["A cats猫 dog"], &spec).unwrap().ids, [2, 7, 5, 6, 8, 1, 3, 0]);
    let blank = TextSpec { blank: tokenizer.id("[SEP]"), ..spec };
    let batch = tokenizer.batch(&["a a a a a a a"], &blank).unwrap();
    assert_eq!((batch.ids, batch.truncated), (vec![2, 7, 7, 7, 7, 7, 7, 0], 1));
}

#[test]
fn unusable_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    assert!(Tokenizer::from_json(&path).is_err());
    for content in [&b"{}"[..], b"\xff\xfe", b"", b"\x1f\x8b broken", b"{\"a\": 1}"] {
        std::fs::write(&path, content).unwrap();
        assert!(Tokenizer::from_json(&path).is_err());
        assert!(Tokenizer::from_bpe_files(&path, &path).is_err());
        assert!(Tokenizer::from_wordpiece(&path).is_err());
        assert!(Tokenizer::from_sentencepiece(&path).is_err());
        assert!(Tokenizer::from_merges_file(&path).is_err());
    }
}

/// Texts that mix scripts, mojibake, references and control characters.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[\\x00-\\x1f\\x7f-\\u{ff}]{0,8}",
        "[ÂÃâ€™œžŸðŸ˜€ÐÑàåæ ]{0,8}",
        "&[#xX]{0,2}[0-9a-zA-Z]{0,8};?",
        "[a-zA-Z' ]{0,20}",
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

#[test]
fn any_text_has_tokens() {
    let tokenizers = [Tokenizer::builtin().unwrap(), {
        let (vocab, merges, _folder) = clip_files();
        Tokenizer::from_bpe_files(&vocab, &merges).unwrap()
    }];
    let forms = [Clean::AsIs, Clean::Whitespace, Clean::Lower, Clean::Canonicalize, Clean::Siglip, Clean::LowerOnly];
    proptest!(|(text in texts(), context in 1usize..40)| {
        for clean in forms {
            for tokenizer in &tokenizers {
                let spec = TextSpec { clean, pad: Pad::Fixed { id: 0 }, ..tokenizer.spec(context) };
                let batch = tokenizer.batch(&[&text], &spec).unwrap();
                prop_assert_eq!(batch.ids.len(), context);
                prop_assert!(batch.ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                prop_assert_eq!(batch.row(0)[batch.lens[0] - 1], 49407);
                tokenizer.decode(&batch.ids);
            }
        }
    });
}
