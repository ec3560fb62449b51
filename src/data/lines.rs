//! Lists that may be longer than memory: entries that end with a newline or a NUL byte.

use std::io::{self, BufRead, BufReader, Read};

/// What ends an entry of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Separator {
    /// A newline, or a carriage return and a newline.
    #[default]
    Newline,
    /// A NUL byte, as `find -print0` writes.
    Nul,
}

/// The entries of a list, read one by one; empty ones are left out.
pub struct Lines {
    reader: Box<dyn BufRead + Send>,
    separator: Separator,
    limit: usize,
    /// How many entries were read, empty ones too.
    number: u64,
    /// Whether reading failed.
    broken: bool,
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The entry, without what ends it.
    Whole(Vec<u8>),
    /// The start of an entry that is longer than the limit.
    TooLong(Vec<u8>),
}

impl Lines {
    /// The entries of anything that can be read. An entry longer than `limit` bytes is not kept in memory.
    pub fn new(reader: impl Read + Send + 'static, separator: Separator, limit: usize) -> Self {
        Self { reader: Box::new(BufReader::with_capacity(1 << 16, reader)), separator, limit, number: 0, broken: false }
    }

    /// The entries of standard input.
    pub fn stdin(separator: Separator, limit: usize) -> Self {
        Self::new(io::stdin(), separator, limit)
    }

    /// The number of the last entry, from 1, empty ones counted.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn read(&mut self) -> io::Result<Option<Line>> {
        let end = match self.separator {
            Separator::Newline => b'\n',
            Separator::Nul => 0,
        };
        loop {
            let mut line = Vec::new();
            // The first line may start with a byte order mark, any line may end with two bytes.
            let most = self.limit as u64 + 5;
            if self.reader.by_ref().take(most).read_until(end, &mut line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            let complete = line.last() == Some(&end);
            if complete {
                line.pop();
            }
            if self.separator == Separator::Newline && line.last() == Some(&b'\r') {
                line.pop();
            }
            if self.number == 1 && line.starts_with("\u{feff}".as_bytes()) {
                line.drain(..3);
            }
            if line.len() > self.limit {
                if !complete {
                    self.skip_past(end)?;
                }
                line.truncate(64);
                return Ok(Some(Line::TooLong(line)));
            }
            if !line.is_empty() {
                return Ok(Some(Line::Whole(line)));
            }
        }
    }

    fn skip_past(&mut self, end: u8) -> io::Result<()> {
        loop {
            let (used, found) = match self.reader.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(bytes) => match bytes.iter().position(|&byte| byte == end) {
                    Some(at) => (at + 1, true),
                    None => (bytes.len(), false),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.reader.consume(used);
            if found {
                return Ok(());
            }
        }
    }
}

impl Iterator for Lines {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        // What cannot be read once might fail for ever.
        if self.broken {
            return None;
        }
        let line = self.read().transpose();
        self.broken = matches!(line, Some(Err(_)));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &'static [u8], separator: Separator) -> Vec<String> {
        let show = |line: io::Result<Line>| match line.unwrap() {
            Line::Whole(line) => String::from_utf8(line).unwrap(),
            Line::TooLong(line) => format!("{}…", String::from_utf8(line).unwrap()),
        };
        Lines::new(bytes, separator, 5).map(show).collect()
    }

    #[test]
    fn entries() {
        use Separator::{Newline, Nul};
        assert_eq!(read(b"", Newline), [""; 0]);
        assert_eq!(read(b"a\n\nb c\r\n\r\nd", Newline), ["a", "b c", "d"]);
        assert_eq!(read(b"\xef\xbb\xbfa\n\xef\xbb\xbfb", Newline), ["a", "\u{feff}b"]);
        assert_eq!(read(b"a\nb\r\0\0c", Nul), ["a\nb\r", "c"]);
    }

    #[test]
    fn long_entries() {
        let read = |bytes| read(bytes, Separator::Newline);
        assert_eq!(read(b"12345\n123456\nb"), ["12345", "123456…", "b"]);
        assert_eq!(read(b"\xef\xbb\xbf12345\r\nb"), ["12345", "b"]);
        assert_eq!(read(b"1234567890123456789012345\nb\n123456789012345"), ["1234567890…", "b", "1234567890…"]);
    }
}
