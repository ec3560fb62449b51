//! The pipelines that transformers builds where a repository has a vocabulary and no `tokenizer.json`.

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, Precompiled};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Result, Tokenizer};

use super::sentencepiece::SentencePiece;

/// What `tokenizer_config.json` says about cutting texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// BERT: whether texts are lower-cased.
    pub(super) lowercase: bool,
    /// BERT: whether each Chinese character is a word.
    pub(super) chinese: bool,
    /// BERT: whether accents go; if not said, they go with the capitals.
    pub(super) strip_accents: Option<bool>,
    /// RoBERTa: whether a space is put before the first word.
    pub(super) prefix_space: bool,
}

/// What transformers builds from CLIP's two files.
pub(super) fn clip(vocab: Vocab, merges: Vec<(String, String)>) -> Result<Tokenizer> {
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
    let mut pipeline = Tokenizer::new(bpe);
    pipeline.with_normalizer(Some(normalizer))?;
    pipeline.with_pre_tokenizer(Some(pre_tokenizer)).with_post_processor(Some(processor));
    pipeline.with_decoder(Some(ByteLevel::default()));
    pipeline.add_special_tokens([start, end].map(|token| AddedToken::from(token, true)))?;
    Ok(pipeline)
}

/// What transformers builds from BERT's vocabulary.
pub(super) fn bert(vocab: Vocab, options: Options) -> Result<Tokenizer> {
    let id = |token: &str| vocab.get(token).copied().ok_or_else(|| format!("the token {token} is missing"));
    let processor = BertProcessing::new(("[SEP]".into(), id("[SEP]")?), ("[CLS]".into(), id("[CLS]")?));
    let special = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"].map(|token| AddedToken::from(token, true));
    let normalizer = BertNormalizer::new(true, options.chinese, options.strip_accents, options.lowercase);
    let mut pipeline = Tokenizer::new(WordPiece::builder().vocab(vocab).build()?);
    pipeline.with_normalizer(Some(normalizer))?;
    pipeline.with_pre_tokenizer(Some(BertPreTokenizer)).with_post_processor(Some(processor));
    pipeline.with_decoder(Some(WordPieceDecoder::default()));
    pipeline.add_special_tokens(special)?;
    Ok(pipeline)
}

pub(super) fn bpe_builder(vocab: Vocab, merges: Vec<(String, String)>) -> BpeBuilder {
    BPE::builder().vocab_and_merges(vocab, merges).end_of_word_suffix("</w>".into())
}

/// What transformers builds from RoBERTa's two files.
pub(super) fn roberta(vocab: Vocab, merges: Vec<(String, String)>, options: Options) -> Result<Tokenizer> {
    let id = |token: &str| vocab.get(token).copied().ok_or_else(|| format!("the token {token} is missing"));
    let (start, end) = (("<s>".to_owned(), id("<s>")?), ("</s>".to_owned(), id("</s>")?));
    let processor = RobertaProcessing::new(end, start).add_prefix_space(options.prefix_space);
    let special = FAIRSEQ.iter().filter(|token| vocab.contains_key(**token));
    let special: Vec<_> = special.map(|token| AddedToken::from(*token, true)).collect();
    let mut pipeline = Tokenizer::new(BPE::builder().vocab_and_merges(vocab, merges).build()?);
    let words = ByteLevel::new(options.prefix_space, true, true);
    pipeline.with_pre_tokenizer(Some(words)).with_post_processor(Some(processor));
    pipeline.with_decoder(Some(ByteLevel::default()));
    pipeline.add_special_tokens(special)?;
    Ok(pipeline)
}

/// The special tokens of fairseq's vocabularies.
const FAIRSEQ: &[&str] = &["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// What transformers builds from XLM-RoBERTa's SentencePiece model: fairseq's four special tokens take the place of
/// the model's three, and the mask comes last.
pub(super) fn xlm_roberta(model: SentencePiece) -> Result<Tokenizer> {
    let special = |tokens: &[&str]| tokens.iter().map(|token| ((*token).to_owned(), 0.0)).collect::<Vec<_>>();
    let pieces = model.pieces.into_iter().skip(3);
    let pieces = special(&FAIRSEQ[..4]).into_iter().chain(pieces).chain(special(&FAIRSEQ[4..])).collect();
    let frame = TemplateProcessing::builder()
        .try_single("<s> $A </s>")?
        .special_tokens(vec![("<s>", 0), ("</s>", 2)])
        .build()?;
    unigram(pieces, 3, &model.charsmap, frame, FAIRSEQ)
}

/// What transformers builds from the SentencePiece model of T5 and of SigLIP.
pub(super) fn t5(model: SentencePiece) -> Result<Tokenizer> {
    let end = model.pieces.iter().position(|(piece, _)| piece == "</s>").ok_or("the piece </s> is missing")?;
    let frame =
        TemplateProcessing::builder().try_single("$A </s>")?.special_tokens(vec![("</s>", end as u32)]).build()?;
    unigram(model.pieces, model.unknown, &model.charsmap, frame, &["<pad>", "</s>", "<unk>"])
}

fn unigram(
    pieces: Vec<(String, f64)>,
    unknown: usize,
    charsmap: &[u8],
    frame: TemplateProcessing,
    special: &[&str],
) -> Result<Tokenizer> {
    let known = |token: &str| pieces.iter().any(|(piece, _)| piece == token);
    let special: Vec<_> =
        special.iter().filter(|token| known(token)).map(|token| AddedToken::from(*token, true)).collect();
    let mut pipeline = Tokenizer::new(Unigram::from(pieces, Some(unknown), false)?);
    if !charsmap.is_empty() {
        pipeline.with_normalizer(Some(Precompiled::from(charsmap)?))?;
    }
    let spaces = || Metaspace::new('▁', PrependScheme::Always, true);
    let words: Vec<PreTokenizerWrapper> = vec![WhitespaceSplit.into(), spaces().into()];
    pipeline.with_pre_tokenizer(Some(Sequence::new(words))).with_post_processor(Some(frame));
    pipeline.with_decoder(Some(spaces()));
    pipeline.add_special_tokens(special)?;
    Ok(pipeline)
}

/// The two parts of a merge.
pub(super) fn pair(line: &str) -> Option<(String, String)> {
    let mut parts = line.split_whitespace().map(str::to_owned);
    parts.next().zip(parts.next())
}
