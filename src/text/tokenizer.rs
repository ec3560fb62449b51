//! Texts to token ids.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rayon::prelude::*;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, Model};

use super::pipelines::{self, Options};
use super::sentencepiece::{self, SentencePiece};
use super::{Batch, Clean, Frame, Pad, TextSpec, words};
use crate::error::{Error, Result};

/// A vocabulary and the way to cut texts into its tokens.
pub struct Tokenizer {
    engine: Engine,
    frame: Frame,
    pad: u32,
    vocab_size: usize,
}

enum Engine {
    /// open_clip's own tokenizer: its regular expression around byte-pair encoding. The numbers are the two marks.
    OpenClip { bpe: Box<BPE>, start: u32, end: u32 },
    /// A pipeline as `tokenizer.json` describes it.
    Pipeline(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// open_clip's default tokenizer, from the vocabulary in the binary.
    pub fn builtin() -> Result<Self> {
        Self::from_merges(include_bytes!("../../models/vocab/bpe_simple_vocab_16e6.txt.gz"))
    }

    /// The vocabulary in the binary as transformers' `vocab.json` and `merges.txt`.
    pub fn builtin_files() -> Result<(String, String)> {
        let Engine::OpenClip { bpe, start, end } = Self::builtin()?.engine else {
            return Err(Error::run("the vocabulary in the binary is not CLIP's"));
        };
        let token = |id: u32| match id {
            // transformers spells the two marks in its own way.
            _ if id == start => "<|startoftext|>".to_owned(),
            _ if id == end => "<|endoftext|>".to_owned(),
            _ => bpe.id_to_token(id).unwrap_or_default(),
        };
        let entry = |id: u32| format!("{}:{id}", serde_json::Value::from(token(id)));
        let vocabulary = (0..=end).map(entry).collect::<Vec<_>>().join(",");
        let merges = merges_of(&vocabulary_text(include_bytes!("../../models/vocab/bpe_simple_vocab_16e6.txt.gz"))?)
            .fold(String::from("#version: 0.2\n"), |all, (a, b)| format!("{all}{a} {b}\n"));
        Ok((format!("{{{vocabulary}}}\n"), merges))
    }

    /// open_clip's tokenizer from a file like `bpe_simple_vocab_16e6.txt.gz`.
    pub fn from_merges_file(path: &Path) -> Result<Self> {
        Self::from_merges(&read(path)?).map_err(|error| error.at(path.display()))
    }

    /// Any tokenizer from a `tokenizer.json`. The padding token is named in `tokenizer_config.json` beside it.
    pub fn from_json(path: &Path) -> Result<Self> {
        let pipeline = pipeline(&read(path)?).map_err(|error| unreadable(path, error))?;
        Self::from_pipeline(pipeline, Some(path)).map_err(|error| error.at(path.display()))
    }

    /// Any tokenizer from the content of a `tokenizer.json`.
    pub fn from_json_bytes(json: &[u8]) -> Result<Self> {
        let pipeline = pipeline(json).map_err(|error| Error::run(format!("not a usable tokenizer: {error}")))?;
        Self::from_pipeline(pipeline, None)
    }

    /// transformers' CLIP or RoBERTa tokenizer from its `vocab.json` and `merges.txt`, and `tokenizer_config.json`
    /// beside them.
    pub fn from_bpe_files(vocab: &Path, merges: &Path) -> Result<Self> {
        let ids: Vocab = serde_json::from_slice(&read(vocab)?).map_err(|error| unreadable(vocab, error))?;
        let text = String::from_utf8(read(merges)?).map_err(|error| unreadable(merges, error))?;
        let pairs = text.lines().filter(|line| !line.starts_with("#version")).filter_map(pipelines::pair).collect();
        let options = options(vocab);
        let pipeline = if ids.contains_key("<s>") && !ids.contains_key("<|startoftext|>") {
            pipelines::roberta(ids, pairs, options)
        } else {
            pipelines::clip(ids, pairs)
        };
        let mut pipeline = pipeline.map_err(|error| unreadable(vocab, error))?;
        // Where a repository pads with an ordinary token such as `!`, transformers makes it special.
        if let Some(pad) = pad_token(&vocab.with_file_name("tokenizer_config.json")) {
            pipeline.add_special_tokens([AddedToken::from(pad, true)]).map_err(|error| unreadable(vocab, error))?;
        }
        Self::from_pipeline(pipeline, Some(vocab))
    }

    /// A BERT tokenizer from its `vocab.txt`, and `tokenizer_config.json` beside it.
    pub fn from_wordpiece(vocab: &Path) -> Result<Self> {
        let text = String::from_utf8(read(vocab)?).map_err(|error| unreadable(vocab, error))?;
        let ids = text.lines().zip(0..).map(|(token, id)| (token.to_owned(), id)).collect();
        let pipeline = pipelines::bert(ids, options(vocab)).map_err(|error| unreadable(vocab, error))?;
        Self::from_pipeline(pipeline, Some(vocab))
    }

    /// A tokenizer from a SentencePiece model: XLM-RoBERTa's `sentencepiece.bpe.model`, whose ids follow fairseq's, or
    /// the `spiece.model` of T5 and SigLIP.
    pub fn from_sentencepiece(path: &Path) -> Result<Self> {
        if std::fs::metadata(path).is_ok_and(|file| file.len() > sentencepiece::LARGEST) {
            return Err(unreadable(path, "it is too large"));
        }
        let model = SentencePiece::parse(&read(path)?).map_err(|error| error.at(path.display()))?;
        let fairseq = path.file_name().is_some_and(|name| name == "sentencepiece.bpe.model");
        let pipeline = if fairseq { pipelines::xlm_roberta(model) } else { pipelines::t5(model) };
        Self::from_pipeline(pipeline.map_err(|error| unreadable(path, error))?, Some(path))
    }

    /// The spec of plain CLIP with this tokenizer: its own special tokens, and padding that a causal tower ignores.
    pub fn spec(&self, context_length: usize) -> TextSpec {
        let clean = if matches!(self.engine, Engine::OpenClip { .. }) { Clean::Lower } else { Clean::AsIs };
        TextSpec { clean, context_length, frame: self.frame.clone(), pad: Pad::Longest { id: self.pad }, blank: None }
    }

    /// The special tokens that this tokenizer puts around a text.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token, in the vocabulary's spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::OpenClip { start, .. } if token == words::START => Some(*start),
            Engine::OpenClip { end, .. } if token == words::END => Some(*end),
            Engine::OpenClip { bpe, .. } => bpe.token_to_id(token),
            Engine::Pipeline(pipeline) => pipeline.token_to_id(token),
        }
    }

    /// The token with this id, in the vocabulary's spelling.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.engine {
            Engine::OpenClip { start, .. } if id == *start => Some(words::START.into()),
            Engine::OpenClip { end, .. } if id == *end => Some(words::END.into()),
            Engine::OpenClip { bpe, .. } => bpe.id_to_token(id),
            Engine::Pipeline(pipeline) => pipeline.id_to_token(id),
        }
    }

    /// The token ids of a text that is clean already, without special tokens around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.engine {
            Engine::OpenClip { bpe, start, end } => {
                let mut ids = Vec::with_capacity(text.len() / 4 + 2);
                for word in words::words(text) {
                    match word {
                        words::START => ids.push(*start),
                        words::END => ids.push(*end),
                        _ => {
                            let spelt: String = word.bytes().map(words::spell).collect();
                            ids.extend(bpe.tokenize(&spelt).map_err(cannot_encode)?.into_iter().map(|token| token.id));
                        }
                    }
                }
                Ok(ids)
            }
            Engine::Pipeline(pipeline) => {
                Ok(guard(|| pipeline.encode_fast(text, false)).map_err(cannot_encode)?.get_ids().to_vec())
            }
        }
    }

    /// Texts as the model takes them: cleaned, cut into tokens, framed, truncated and padded as the spec says.
    pub fn batch<T: AsRef<str> + Sync>(&self, texts: &[T], spec: &TextSpec) -> Result<Batch> {
        let tokens: Result<Vec<Vec<u32>>> =
            texts.par_iter().with_min_len(16).map(|text| self.encode(&spec.clean.apply(text.as_ref()))).collect();
        Ok(spec.batch(&tokens?))
    }

    /// A text with these tokens, for people to read.
    pub fn decode(&self, ids: &[u32]) -> String {
        match &self.engine {
            Engine::OpenClip { bpe, start, end } => {
                let token = |&id: &u32| match id {
                    _ if id == *start || id == *end => None,
                    _ => bpe.id_to_token(id),
                };
                let bytes = ids.iter().filter_map(token).collect::<String>().replace("</w>", "Ġ");
                let bytes: Vec<u8> = bytes.chars().filter_map(words::unspell).collect();
                String::from_utf8_lossy(&bytes).trim_end().to_owned()
            }
            Engine::Pipeline(pipeline) => {
                pipeline.decode(ids, true).unwrap_or_default().replace("</w>", " ").trim().to_owned()
            }
        }
    }

    fn from_merges(file: &[u8]) -> Result<Self> {
        let text = vocabulary_text(file)?;
        let merges: Vec<_> = merges_of(&text).collect();
        if merges.is_empty() {
            return Err(Error::run("not a vocabulary of merges"));
        }
        let letters: Vec<String> = words::alphabet().map(String::from).collect();
        let finals = letters.iter().map(|letter| format!("{letter}</w>"));
        let tokens = letters.iter().cloned().chain(finals).chain(merges.iter().map(|(a, b)| format!("{a}{b}")));
        let ids: Vocab = tokens.zip(0..).collect();
        let start = (2 * letters.len() + merges.len()) as u32;
        let bpe = pipelines::bpe_builder(ids, merges)
            .build()
            .map_err(|error| Error::run(format!("not a vocabulary of merges: {error}")))?;
        let frame = Frame { before: vec![start], after: vec![start + 1] };
        Ok(Self {
            engine: Engine::OpenClip { bpe: Box::new(bpe), start, end: start + 1 },
            frame,
            pad: 0,
            vocab_size: start as usize + 2,
        })
    }

    fn from_pipeline(mut pipeline: tokenizers::Tokenizer, path: Option<&Path>) -> Result<Self> {
        pipeline.with_truncation(None).map_err(cannot_encode)?;
        let said = pipeline.get_padding().map(|padding| padding.pad_id);
        pipeline.with_padding(None);
        let frame = frame_of(&pipeline)?;
        // The configured token, what the file says, one of the usual names, or the end of text as in CLIP.
        let pad = path
            .and_then(|path| pad_token(&path.with_file_name("tokenizer_config.json")))
            .and_then(|token| pipeline.token_to_id(&token))
            .or(said)
            .or_else(|| ["[PAD]", "<pad>"].iter().find_map(|token| pipeline.token_to_id(token)))
            .or_else(|| frame.after.last().copied())
            .unwrap_or(0);
        let vocab_size = pipeline.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Self { engine: Engine::Pipeline(Box::new(pipeline)), frame, pad, vocab_size })
    }
}

/// The pipeline that a `tokenizer.json` describes. The library takes it for granted in places that the file is JSON, so
/// that is looked at first.
fn pipeline(json: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json)?;
    guard(|| tokenizers::Tokenizer::from_bytes(json))
}

/// Runs the library on what may be a damaged file: where it panics, that is an error.
fn guard<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the tokenizer's file is damaged".into()))
}

/// What the configuration beside a vocabulary says about cutting texts.
fn options(vocab: &Path) -> Options {
    let config = std::fs::read(vocab.with_file_name("tokenizer_config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    let flag = |key: &str| config.get(key).and_then(serde_json::Value::as_bool);
    Options {
        lowercase: flag("do_lower_case").unwrap_or(true),
        chinese: flag("tokenize_chinese_chars").unwrap_or(true),
        strip_accents: flag("strip_accents"),
        prefix_space: flag("add_prefix_space").unwrap_or(false),
    }
}

/// The text of a file like `bpe_simple_vocab_16e6.txt.gz`.
fn vocabulary_text(file: &[u8]) -> Result<String> {
    let mut text = String::new();
    let read = if file.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text)
    } else {
        (&file[..]).read_to_string(&mut text)
    };
    read.map_err(|error| Error::run(format!("not a vocabulary of merges: {error}")))?;
    Ok(text)
}

/// The merges in it: the first line is a comment, and only so many belong to the vocabulary of 49,408 tokens.
fn merges_of(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines().skip(1).take(49_152 - 256 - 2).filter_map(pipelines::pair)
}

/// The padding token that transformers' config names, as a string or as an object.
fn pad_token(config: &Path) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(config).ok()?).ok()?;
    let token = config.get("pad_token")?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The special tokens that a pipeline's last step puts around a text.
fn frame_of(pipeline: &tokenizers::Tokenizer) -> Result<Frame> {
    let ids = |special| {
        Ok::<_, Error>(guard(|| pipeline.encode_fast("a", special)).map_err(cannot_encode)?.get_ids().to_vec())
    };
    let (bare, framed) = (ids(false)?, ids(true)?);
    let start = framed.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(0);
    let end = (start + bare.len()).min(framed.len());
    Ok(Frame { before: framed[..start].to_vec(), after: framed[end..].to_vec() })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::run(format!("{}: not a usable tokenizer: {error}", path.display()))
}

fn cannot_encode(error: impl std::fmt::Display) -> Error {
    Error::run(format!("the tokenizer cannot encode the text: {error}"))
}
