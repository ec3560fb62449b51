//! Texts from the command line, a file or standard input.

use super::{Item, Items, Kind, Line, Lines, Separator, is_stdin};
use crate::error::{Error, ItemError, ItemKind, Result};
use std::path::Path;

/// A text longer than this is refused: no context is that long.
pub(super) const MAX_TEXT_BYTES: usize = 1 << 20;

/// Texts that are at hand.
pub fn texts(texts: Vec<String>) -> Items {
    Box::new(texts.into_iter().map(|text| Ok(Item::text(text))))
}

/// The lines of a file, or of standard input for `-`. Empty lines are left out.
pub fn lines_of_text(path: &Path, separator: Separator) -> Result<Items> {
    let (name, lines) = if is_stdin(path) {
        ("standard input".to_owned(), Lines::stdin(separator, MAX_TEXT_BYTES))
    } else {
        let at = |error| Error::run(error).at(path.display());
        let file = std::fs::File::open(path).map_err(at)?;
        if file.metadata().map_err(at)?.is_dir() {
            return Err(Error::run("a directory, not a file of texts").at(path.display()));
        }
        (path.display().to_string(), Lines::new(file, separator, MAX_TEXT_BYTES))
    };
    Ok(Box::new(lines.map(move |line| match line {
        Ok(Line::Whole(bytes)) => Ok(text_item(bytes)),
        Ok(Line::TooLong(start)) => {
            Ok(failed(&start, ItemKind::TooLarge, format!("longer than {MAX_TEXT_BYTES} bytes")))
        }
        Err(error) => Err(Error::run(error).at(&name)),
    })))
}

fn text_item(bytes: Vec<u8>) -> Item {
    match String::from_utf8(bytes) {
        Ok(text) => Item::text(text),
        Err(error) => failed(error.as_bytes(), ItemKind::Invalid, "the text is not UTF-8".to_owned()),
    }
}

fn failed(bytes: &[u8], kind: ItemKind, message: String) -> Item {
    Item::failed(String::from_utf8_lossy(bytes).into_owned(), Kind::Text, ItemError::new(kind, message))
}
