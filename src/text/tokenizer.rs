//! Texts to token ids. The only file that knows the `tokenizers` crate.

use std::io::Read;
use std::path::Path;

use rayon::prelude::*;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, Model, NormalizerWrapper, PreTokenizerWrapper};

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
        let pipeline = tokenizers::Tokenizer::from_bytes(read(path)?).map_err(|error| unreadable(path, error))?;
        Self::from_pipeline(pipeline, Some(path)).map_err(|error| error.at(path.display()))
    }

    /// Any tokenizer from the content of a `tokenizer.json`.
    pub fn from_json_bytes(json: &[u8]) -> Result<Self> {
        let pipeline = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|error| Error::run(format!("not a usable tokenizer: {error}")))?;
        Self::from_pipeline(pipeline, None)
    }

    /// transformers' CLIP tokenizer from its `vocab.json` and `merges.txt`, and `tokenizer_config.json` beside them.
    pub fn from_clip_files(vocab: &Path, merges: &Path) -> Result<Self> {
        let ids: Vocab = serde_json::from_slice(&read(vocab)?).map_err(|error| unreadable(vocab, error))?;
        let text = String::from_utf8(read(merges)?).map_err(|error| unreadable(merges, error))?;
        let pairs = text.lines().filter(|line| !line.starts_with("#version")).filter_map(pair).collect();
        let mut pipeline = clip_pipeline(ids, pairs).map_err(|error| unreadable(vocab, error))?;
        // Where a repository pads with an ordinary token such as `!`, transformers makes it special.
        if let Some(pad) = pad_token(&vocab.with_file_name("tokenizer_config.json")) {
            pipeline.add_special_tokens([AddedToken::from(pad, true)]).map_err(|error| unreadable(vocab, error))?;
        }
        Self::from_pipeline(pipeline, Some(vocab))
    }

    /// A BERT tokenizer from its `vocab.txt`.
    pub fn from_wordpiece(vocab: &Path, lowercase: bool) -> Result<Self> {
        let text = String::from_utf8(read(vocab)?).map_err(|error| unreadable(vocab, error))?;
        let ids = text.lines().zip(0..).map(|(token, id)| (token.trim_end().to_owned(), id)).collect();
        let pipeline = bert_pipeline(ids, lowercase).map_err(|error| unreadable(vocab, error))?;
        Self::from_pipeline(pipeline, Some(vocab))
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
                Ok(pipeline.encode_fast(text, false).map_err(cannot_encode)?.get_ids().to_vec())
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
        let bpe = bpe_builder(ids, merges)
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
    text.lines().skip(1).take(49_152 - 256 - 2).filter_map(pair)
}

/// The padding token that transformers' config names, as a string or as an object.
fn pad_token(config: &Path) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(config).ok()?).ok()?;
    let token = config.get("pad_token")?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// The special tokens that a pipeline's last step puts around a text.
fn frame_of(pipeline: &tokenizers::Tokenizer) -> Result<Frame> {
    let ids = |special| Ok::<_, Error>(pipeline.encode_fast("a", special).map_err(cannot_encode)?.get_ids().to_vec());
    let (bare, framed) = (ids(false)?, ids(true)?);
    let start = framed.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(0);
    let end = (start + bare.len()).min(framed.len());
    Ok(Frame { before: framed[..start].to_vec(), after: framed[end..].to_vec() })
}

/// What transformers builds from CLIP's two files.
fn clip_pipeline(vocab: Vocab, merges: Vec<(String, String)>) -> tokenizers::Result<tokenizers::Tokenizer> {
    let (start, end) = ("<|startoftext|>", "<|endoftext|>");
    let id = |token: &str| vocab.get(token).copied().ok_or_else(|| format!("the token {token} is missing"));
    let processor = RobertaProcessing::new((end.into(), id(end)?), (start.into(), id(start)?))
        .trim_offsets(false)
        .add_prefix_space(false);
    let bpe = bpe_builder(vocab, merges).unk_token(end.into()).build()?;
    let normalizer: NormalizerWrapper = serde_json::from_str(
        r#"{"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
            {"type": "Lowercase"}]}"#,
    )?;
    let words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(serde_json::json!(
        {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]}
    ))?;
    let mut pipeline = tokenizers::Tokenizer::new(bpe);
    pipeline.with_normalizer(Some(normalizer))?;
    pipeline.with_pre_tokenizer(Some(pre_tokenizer)).with_post_processor(Some(processor));
    pipeline.with_decoder(Some(ByteLevel::default()));
    pipeline.add_special_tokens([start, end].map(|token| AddedToken::from(token, true)))?;
    Ok(pipeline)
}

/// What transformers builds from BERT's vocabulary.
fn bert_pipeline(vocab: Vocab, lowercase: bool) -> tokenizers::Result<tokenizers::Tokenizer> {
    let id = |token: &str| vocab.get(token).copied().ok_or_else(|| format!("the token {token} is missing"));
    let processor = BertProcessing::new(("[SEP]".into(), id("[SEP]")?), ("[CLS]".into(), id("[CLS]")?));
    let special = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"].map(|token| AddedToken::from(token, true));
    let mut pipeline = tokenizers::Tokenizer::new(WordPiece::builder().vocab(vocab).build()?);
    pipeline.with_normalizer(Some(BertNormalizer::new(true, true, None, lowercase)))?;
    pipeline.with_pre_tokenizer(Some(BertPreTokenizer)).with_post_processor(Some(processor));
    pipeline.with_decoder(Some(WordPieceDecoder::default()));
    pipeline.add_special_tokens(special)?;
    Ok(pipeline)
}

fn bpe_builder(vocab: Vocab, merges: Vec<(String, String)>) -> BpeBuilder {
    BPE::builder().vocab_and_merges(vocab, merges).end_of_word_suffix("</w>".into())
}

/// The two parts of a merge.
fn pair(line: &str) -> Option<(String, String)> {
    let mut parts = line.split_whitespace().map(str::to_owned);
    parts.next().zip(parts.next())
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
