//! SentencePiece's own model files: the few fields of its protocol buffer (`sentencepiece_model.proto`) that a
//! tokenizer needs.

use crate::error::{Error, Result};

/// A SentencePiece vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SentencePiece {
    /// The pieces and their log probabilities, in the order of their ids.
    pub pieces: Vec<(String, f64)>,
    /// The id of the piece that stands for what is unknown.
    pub unknown: usize,
    /// How characters are normalised: a double array and the texts that it points to. Empty if they are not.
    pub charsmap: Vec<u8>,
}

/// The largest file that is read; real ones have a few megabytes.
pub(super) const LARGEST: u64 = 64 << 20;

impl SentencePiece {
    /// Reads the content of a file such as `sentencepiece.bpe.model`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut model = Self::default();
        let mut unknown = None;
        let mut fields = Fields(bytes);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(piece)) => {
                    let (text, score, kind) = read_piece(piece)?;
                    if kind == UNKNOWN {
                        unknown = unknown.or(Some(model.pieces.len()));
                    }
                    model.pieces.push((text, score));
                }
                (2, Value::Bytes(trainer)) => check_kind(trainer)?,
                (3, Value::Bytes(normalizer)) => model.charsmap = read_charsmap(normalizer)?,
                _ => {}
            }
        }
        model.unknown = unknown.ok_or_else(|| Error::run("no piece stands for the unknown"))?;
        check_charsmap(&model.charsmap)?;
        Ok(model)
    }
}

/// `ModelProto.SentencePiece.Type.UNKNOWN`; a piece that names no type is a normal one.
const UNKNOWN: u64 = 2;

fn read_piece(bytes: &[u8]) -> Result<(String, f64, u64)> {
    let (mut text, mut score, mut kind) = (String::new(), 0f32, 1);
    let mut fields = Fields(bytes);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(piece)) => text = std::str::from_utf8(piece).map_err(Error::run)?.to_owned(),
            (2, Value::Four(bits)) => score = f32::from_le_bytes(bits),
            (3, Value::Number(number)) => kind = number,
            _ => {}
        }
    }
    if !score.is_finite() {
        return Err(Error::run(format!("the piece {text:?} has the score {score}")));
    }
    Ok((text, f64::from(score), kind))
}

fn check_kind(trainer: &[u8]) -> Result<()> {
    let mut fields = Fields(trainer);
    while let Some(field) = fields.next()? {
        if let (3, Value::Number(kind)) = field
            && kind != 1
        {
            let kind = ["", "unigram", "BPE", "word", "char"].get(kind as usize).unwrap_or(&"unknown");
            return Err(Error::run(format!("a SentencePiece model of the kind {kind}, only unigram is supported"))
                .hint("use the tokenizer.json of the checkpoint"));
        }
    }
    Ok(())
}

fn read_charsmap(normalizer: &[u8]) -> Result<Vec<u8>> {
    let mut charsmap = Vec::new();
    let mut fields = Fields(normalizer);
    while let Some(field) = fields.next()? {
        if let (2, Value::Bytes(bytes)) = field {
            charsmap = bytes.to_vec();
        }
    }
    Ok(charsmap)
}

/// Fails when a walk through the double array could leave it, or point outside the texts behind it: the crate that
/// walks it does not look.
fn check_charsmap(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let broken = || Error::run("its table of normalised characters is broken");
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
    let (array, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or_else(broken)?;
    let (units, odd) = array.as_chunks::<4>();
    let texts = std::str::from_utf8(texts).map_err(|_| broken())?;
    let units: Vec<usize> = units.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect();
    let sound = |(place, &unit): (usize, &usize)| {
        // A leaf holds a value; any other unit leads to the 256 units around its offset (Darts-clone).
        if unit >> 31 == 1 {
            return true;
        }
        let base = place ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6));
        let inside = (base | 0xff) < units.len();
        let has_leaf = (unit >> 8) & 1 == 1;
        inside && (!has_leaf || texts.is_char_boundary(units[base] & ((1 << 31) - 1)))
    };
    if odd.is_empty() && !units.is_empty() && units.iter().enumerate().all(sound) { Ok(()) } else { Err(broken()) }
}

/// What a field of a protocol buffer holds.
enum Value<'a> {
    Number(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// The fields of one message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The number and the value of the next field.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Eight
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let four = self.take(4)?;
                Value::Four([four[0], four[1], four[2], four[3]])
            }
            kind => return Err(Error::run(format!("not a SentencePiece model: a field of the wire type {kind}"))),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Error::run("not a SentencePiece model: a number of more than 64 bits"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Error::run("not a SentencePiece model: it ends in the middle of a field"))?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8][..], content].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let body = [field(1, text.as_bytes()), vec![2 << 3 | 5], score.to_le_bytes().to_vec(), vec![3 << 3, kind]];
        field(1, &body.concat())
    }

    #[test]
    fn pieces_keep_their_order() {
        let model = [piece("<s>", 0.0, 3), piece("<unk>", 0.0, 2), piece("▁a", -1.5, 1)].concat();
        let model = SentencePiece::parse(&model).unwrap();
        assert_eq!(model.unknown, 1);
        assert_eq!(model.pieces, [("<s>".to_owned(), 0.0), ("<unk>".to_owned(), 0.0), ("▁a".to_owned(), -1.5)]);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let unknown = piece("<unk>", 0.0, 2);
        let refusal = |more: &[u8]| SentencePiece::parse(&[&unknown[..], more].concat()).unwrap_err().to_string();
        assert!(refusal(&field(2, &[3 << 3, 2])).contains("BPE"));
        assert!(refusal(&piece("a", f32::NAN, 1)).contains("score"));
        assert!(refusal(&[1 << 3 | 2, 100, 1]).contains("ends in the middle"));
        assert!(refusal(&[0xff; 11]).contains("64 bits"));
        // A double array whose only unit leads far outside.
        let map = [&4u32.to_le_bytes()[..], &0x3fff_fc00u32.to_le_bytes(), b"a\0"].concat();
        assert!(refusal(&field(3, &field(2, &map))).contains("broken"));
        assert!(SentencePiece::parse(&piece("a", 0.0, 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SentencePiece::parse(&bytes);
            let _ = SentencePiece::parse(&field(3, &field(2, &bytes[..bytes.len().min(100)])));
        }
    }
}
