//! How large the pages of a column become, before anyone decompresses them.
//!
//! The Parquet reader takes as much memory as a page's header says, and for gzip as much as comes out. Here the headers
//! are read alone: in Thrift's compact protocol, as `PageHeader` of `parquet.thrift` has them.

use crate::error::{ItemError, ItemKind, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// A page that becomes larger is refused.
pub(super) const MAX_PAGE_BYTES: u64 = 1 << 30;

/// More than deflate ever makes of one byte.
const MAX_DEFLATE_RATIO: u64 = 1040;

/// Structs within structs deeper than this are no page header.
const MAX_DEPTH: usize = 8;

/// Refuses pages, from this place of a file on, that become larger than `limit`.
pub(super) fn check(file: &File, start: u64, length: u64, is_gzip: bool, limit: u64) -> Result<(), ItemError> {
    let end = start.saturating_add(length);
    let mut reader = BufReader::with_capacity(1 << 13, file);
    reader.seek(SeekFrom::Start(start))?;
    let mut at = start;
    while at < end {
        let mut header = Thrift { reader: (&mut reader).take(end - at) };
        let page = header.page().map_err(|error| corrupt(format_args!("a page's header: {error}")))?;
        at = end - header.reader.limit();
        if page.uncompressed > limit {
            let message = format!("a page of {} bytes, the limit is {limit}", page.uncompressed);
            return Err(ItemError::new(ItemKind::TooLarge, message));
        }
        if page.compressed > end - at {
            return Err(corrupt("a page is longer than its column"));
        }
        if is_gzip && page.compressed.saturating_mul(MAX_DEFLATE_RATIO) > limit {
            let mut inflated = MultiGzDecoder::new((&mut reader).take(page.compressed)).take(limit + 1);
            // What is not gzip, the reader will say better.
            if io::copy(&mut inflated, &mut io::sink()).is_ok_and(|bytes| bytes > limit) {
                let message = format!("a page becomes larger than {limit} bytes");
                return Err(ItemError::new(ItemKind::TooLarge, message));
            }
            reader.seek(SeekFrom::Start(at + page.compressed))?;
        } else {
            reader.seek_relative(page.compressed as i64)?;
        }
        at += page.compressed;
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    uncompressed: u64,
    compressed: u64,
}

/// Reads Thrift's compact protocol.
struct Thrift<R> {
    reader: R,
}

impl<R: Read> Thrift<R> {
    fn page(&mut self) -> io::Result<Page> {
        let mut page = Page::default();
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, 5) => page.uncompressed = self.size()?,
                (3, 5) => page.compressed = self.size()?,
                _ => self.skip(kind, 0)?,
            }
        }
        Ok(page)
    }

    /// The kind of the next field, whose number becomes `id`; none at the end of a struct.
    fn field(&mut self, id: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *id = match byte >> 4 {
            0 => self.integer()?,
            delta => *id + i64::from(delta),
        };
        Ok(Some(byte & 15))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(invalid("nested too deep"));
        }
        match kind {
            1 | 2 => Ok(()),
            3 => self.byte().map(drop),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let length = self.varint()?;
                self.pass(length)
            }
            9 | 10 => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                // Each element takes a byte at least, so that the end of the input ends this.
                (0..count).try_for_each(|_| match byte & 15 {
                    1 | 2 => self.byte().map(drop),
                    kind => self.skip(kind, depth + 1),
                })
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(invalid("an unknown kind of field")),
        }
    }

    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut (&mut self.reader).take(bytes), &mut io::sink())?;
        if passed < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(invalid("a number without an end"))
    }

    /// A number that may be negative.
    fn integer(&mut self) -> io::Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn size(&mut self) -> io::Result<u64> {
        u64::try_from(self.integer()?).map_err(|_| invalid("a negative size"))
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn corrupt(message: impl std::fmt::Display) -> ItemError {
    ItemError::new(ItemKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn page(bytes: &[u8]) -> Result<Page, String> {
        Thrift { reader: bytes }.page().map_err(|error| error.to_string())
    }

    /// A header with these sizes, and a struct with a list and a text in it.
    fn header(uncompressed: u32, compressed: u32) -> Vec<u8> {
        let varint = |value: u32| {
            let mut zigzag = u64::from(value) << 1;
            let mut bytes = Vec::new();
            while zigzag >= 128 {
                bytes.push(zigzag as u8 | 128);
                zigzag >>= 7;
            }
            bytes.push(zigzag as u8);
            bytes
        };
        [&[0x15, 0][..], &[0x15], &varint(uncompressed), &[0x15], &varint(compressed)]
            .concat()
            .into_iter()
            .chain([0x2c, 0x15, 2, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x11, 0, 0])
            .collect()
    }

    #[test]
    fn headers() {
        assert_eq!(page(&header(300, 200)), Ok(Page { uncompressed: 300, compressed: 200 }));
        assert_eq!(page(&[0x15, 0, 0x15, 1]).unwrap_err(), "a negative size");
        assert_eq!(page(&[0x1c; 40]).unwrap_err(), "nested too deep");
        assert_eq!(
            page(&[0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]).unwrap_err(),
            "unexpected end of file"
        );
        assert_eq!(
            page(&[0x16; 1].into_iter().chain([255; 12]).collect::<Vec<_>>()).unwrap_err(),
            "a number without an end"
        );
    }

    #[test]
    fn pages_that_become_too_large() {
        let kind = |bytes: &[u8], is_gzip| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            check(&file, 0, bytes.len() as u64, is_gzip, 1 << 20).map_err(|error| error.kind)
        };
        let whole = [header(5, 3), vec![1; 3], header(0, 0)].concat();
        assert_eq!(kind(&whole, false), Ok(()));
        assert_eq!(kind(&whole[..whole.len() - 4], false), Err(ItemKind::Corrupt));
        assert_eq!(kind(&header(2_000_000_000, 0), false), Err(ItemKind::TooLarge));
        assert_eq!(kind(&header(5, 3), false), Err(ItemKind::Corrupt));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&vec![0; 1025 << 10]).unwrap();
        let bomb = gzip.finish().unwrap();
        let bomb = [header(100, bomb.len() as u32), bomb].concat();
        assert_eq!(kind(&bomb, true), Err(ItemKind::TooLarge));
    }

    proptest! {
        #[test]
        fn headers_never_panic(bytes: Vec<u8>) {
            let _ = page(&bytes);
        }
    }
}
