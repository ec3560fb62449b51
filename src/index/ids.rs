//! Which item each row of a matrix is.

use crate::data::{Kind, same_model};
use crate::error::{Error, Result};
use memmap2::Mmap;
use serde::Deserialize;
use std::borrow::Cow;
use std::fs::File;

/// One of so many lines has its place remembered; the others are found by counting from there.
const STEP: usize = 64;

/// The item of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id {
    /// What `embed` called it.
    pub id: String,
    /// An image or a text.
    pub kind: Kind,
    /// The text, where the id is not the text itself.
    pub text: Option<String>,
}

/// The items of a matrix's rows: lines of JSON in a mapped file, of which only some places and each one's kind are in
/// memory.
#[derive(Debug)]
pub struct Ids {
    lines: Lines,
    rows: usize,
    /// The model that made the embeddings, `name@sha8`, if it is known.
    model: Option<String>,
}

#[derive(Debug)]
enum Lines {
    /// There is no list; rows have numbers.
    Numbers {
        name: String,
        kind: Kind,
    },
    Mapped {
        map: Option<Mmap>,
        marks: Vec<usize>,
        texts: Vec<u64>,
    },
}

/// A line; fields that we do not know are left aside.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

impl Ids {
    /// Rows without names are called `NAME#0`, `NAME#1` and so on.
    pub fn numbers(name: String, kind: Kind, rows: usize) -> Self {
        Self { lines: Lines::Numbers { name, kind }, rows, model: None }
    }

    /// Maps a list with one JSON object a line, `{"id", "kind", "model", "text"}`, the last three optional.
    ///
    /// # Errors
    /// If a line is no such object, or the lines are of several models.
    pub fn map(file: &File) -> Result<Self> {
        // An empty file has nothing to map.
        let empty = file.metadata()?.len() == 0;
        // SAFETY: the usual bargain of mapped files: whoever truncates one while it is searched gets a crash.
        let map = if empty { None } else { Some(unsafe { Mmap::map(file) }?) };
        let (mut rows, mut marks, mut texts, mut model) = (0, Vec::new(), Vec::new(), None::<String>);
        for (start, line) in lines(map.as_deref().unwrap_or_default(), 0) {
            let at = |error: Error| error.at(format!("line {}", rows + 1));
            let line = parse(line).map_err(at)?;
            match (&model, line.model) {
                (Some(model), Some(other)) if !same_model(model, &other) => {
                    let message = format!("an embedding of the model {other}, others are of {model}");
                    return Err(at(Error::run(message)).hint("embed all with the same model"));
                }
                (None, Some(other)) => model = Some(other.into_owned()),
                _ => {}
            }
            if rows % STEP == 0 {
                marks.push(start);
                texts.push(0);
            }
            if kind(line.kind.as_deref()).map_err(at)? == Kind::Text {
                texts[rows / STEP] |= 1 << (rows % STEP);
            }
            rows += 1;
        }
        Ok(Self { lines: Lines::Mapped { map, marks, texts }, rows, model })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The model that made the embeddings, `name@sha8`, if it is known.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// An image or a text.
    pub fn kind(&self, row: usize) -> Kind {
        match &self.lines {
            Lines::Numbers { kind, .. } => *kind,
            Lines::Mapped { texts, .. } if texts[row / STEP] >> (row % STEP) & 1 == 1 => Kind::Text,
            Lines::Mapped { .. } => Kind::Image,
        }
    }

    /// The item of a row.
    ///
    /// # Errors
    /// If the file has changed since.
    pub fn get(&self, row: usize) -> Result<Id> {
        match &self.lines {
            Lines::Numbers { name, kind } => Ok(Id { id: format!("{name}#{row}"), kind: *kind, text: None }),
            Lines::Mapped { map, marks, .. } => {
                let bytes = map.as_deref().unwrap_or_default();
                let line = lines(bytes, marks[row / STEP]).nth(row % STEP);
                let (_, line) = line.ok_or_else(|| Error::run("the list of ids has changed meanwhile"))?;
                let Line { id, text, .. } = parse(line)?;
                let text = text.filter(|text| *text != id).map(Cow::into_owned);
                Ok(Id { id: id.into_owned(), kind: self.kind(row), text })
            }
        }
    }

    /// Calls `each` with all ids in order.
    ///
    /// # Errors
    /// Those of [`Ids::get`], and of `each`.
    pub fn for_each(&self, mut each: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
        match &self.lines {
            Lines::Numbers { name, .. } => (0..self.rows).try_for_each(|row| each(row, &format!("{name}#{row}"))),
            Lines::Mapped { map, .. } => {
                let all = lines(map.as_deref().unwrap_or_default(), 0);
                all.enumerate().try_for_each(|(row, (_, line))| each(row, &parse(line)?.id))
            }
        }
    }
}

/// The lines from a place on that are not blank, with where they start.
fn lines(bytes: &[u8], from: usize) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = from;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let start = at;
            let rest = &bytes[at..];
            let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            at += end + 1;
            let line = rest[..end].trim_ascii();
            if !line.is_empty() {
                return Some((start, line));
            }
        }
        None
    })
}

fn parse(line: &[u8]) -> Result<Line<'_>> {
    serde_json::from_slice(line).map_err(|error| Error::run(format!("no {{\"id\", …}}: {error}")))
}

fn kind(name: Option<&str>) -> Result<Kind> {
    match name {
        None | Some("image") => Ok(Kind::Image),
        Some("text") => Ok(Kind::Text),
        Some(other) => Err(Error::run(format!("an embedding of unknown kind {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn ids(text: &str) -> Result<Ids> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Ids::map(&file)
    }

    #[test]
    fn any_line_is_found() {
        let count = 3 * STEP + 5;
        let line = |i: usize| match i % 3 {
            0 => format!("{{\"id\":\"a/{i}.jpg\",\"kind\":\"image\",\"model\":\"m@1\"}}\n"),
            1 => format!("{{\"kind\":\"text\",\"new\":[1],\"id\":\"a \\\"{i}\\\"\",\"text\":\"words\"}}\r\n"),
            _ => format!("\n{{\"id\":\"{i}\"}}\n"),
        };
        let ids = ids(&(0..count).map(line).collect::<String>()).unwrap();
        assert_eq!((ids.rows(), ids.model()), (count, Some("m@1")));
        let mut seen = 0;
        ids.for_each(|row, id| {
            let expected = match row % 3 {
                0 => (format!("a/{row}.jpg"), Kind::Image, None),
                1 => (format!("a \"{row}\""), Kind::Text, Some("words".to_owned())),
                _ => (row.to_string(), Kind::Image, None),
            };
            let got = ids.get(row)?;
            assert_eq!(id, got.id);
            assert_eq!((got.id, got.kind, got.text), expected);
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, count);
    }

    #[test]
    fn lists_that_are_none() {
        assert_eq!(ids("").unwrap().rows(), 0);
        let error = |text: &str| ids(text).unwrap_err().to_string();
        assert!(error("{\"id\":\"a\"}\nb\n").starts_with("line 2: no {\"id\", …}: "));
        assert!(error("{\"id\":1}").starts_with("line 1: "));
        assert!(error("{\"id\":\"a\",\"kind\":\"sound\"}").contains("unknown kind \"sound\""));
        let two = "{\"id\":\"a\",\"model\":\"m@1\"}\n{\"id\":\"b\",\"model\":\"m@2\"}\n";
        assert!(error(two).starts_with("line 2: an embedding of the model m@2, others are of m@1"));
        assert_eq!(Ids::numbers("x.npy".to_owned(), Kind::Image, 2).get(1).unwrap().id, "x.npy#1");
    }

    proptest! {
        #[test]
        fn no_list_crashes(text in "([{}\"\\\\:,a-z0-9 \\[\\]\r\n]|\"id\":\"|\"kind\":\"text\"){0,60}") {
            if let Ok(ids) = ids(&text) {
                for row in 0..ids.rows() {
                    prop_assert!(ids.get(row).is_ok());
                }
            }
        }
    }
}
