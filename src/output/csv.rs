//! Comma- and tab-separated values: a line an item, a column a number.

use super::rows::{delimited, number};
use super::{Counts, Format, Header, Shape, Sink, Target, restore, state};
use crate::data::{Embedded, Kind};
use crate::error::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use std::io::Write;
use std::path::PathBuf;

/// Values with something between them, and `NAME.meta.json`.
pub(super) struct Delimited {
    name: &'static str,
    extensions: &'static [&'static str],
    about: &'static str,
    delimiter: u8,
}

/// Comma-separated values.
pub(super) static CSV: Delimited = Delimited {
    name: "csv",
    extensions: &["csv"],
    about: "comma-separated values: id, kind, text, error, and a column e0, e1, … for each number",
    delimiter: b',',
};

/// Tab-separated values.
pub(super) static TSV: Delimited =
    Delimited { name: "tsv", extensions: &["tsv"], about: "the same with tabs", delimiter: b'\t' };

impl Format for Delimited {
    fn name(&self) -> &'static str {
        self.name
    }

    fn extensions(&self) -> &'static [&'static str] {
        self.extensions
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn shape(&self) -> Shape {
        Shape::Stream
    }

    fn open(&self, mut target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        target.cut(restore(state)?)?;
        let mut values = Values { target, header: header.clone(), delimiter: self.delimiter };
        if values.target.length() == 0 {
            let columns = ["id", "kind", "text", "error"].map(Cow::from).into_iter();
            values.line(columns.chain((0..header.dim).map(|n| format!("e{n}").into())))?;
        }
        Ok(Box::new(values))
    }
}

struct Values {
    target: Target,
    header: Header,
    delimiter: u8,
}

impl Values {
    fn line<'a>(&mut self, values: impl Iterator<Item = Cow<'a, str>>) -> Result<()> {
        let line = delimited(self.delimiter, values.map(|value| value.into_owned())).map_err(Error::run)?;
        self.target.write_all(&line).map_err(|error| self.target.error(error))
    }
}

impl Sink for Values {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        let text = match item.kind {
            Kind::Text => item.text.as_deref().unwrap_or(&item.id),
            Kind::Image => item.text.as_deref().unwrap_or_default(),
        };
        let error = item.result.as_ref().err().map(|error| error.message.as_str()).unwrap_or_default();
        let first = [&item.id, item.kind.name(), text, error].map(Cow::from).into_iter();
        let dtype = self.header.dtype;
        match &item.result {
            Ok(embedding) => self.line(first.chain(embedding.iter().map(|&x| number(dtype.round(x)).into()))),
            Err(_) => self.line(first.chain((0..self.header.dim).map(|_| "".into()))),
        }
    }

    fn state(&self) -> Value {
        state(&self.target.length())
    }

    fn sync(&mut self) -> Result<()> {
        self.target.sync()
    }

    fn finish(self: Box<Self>, header: &Header, counts: Counts) -> Result<()> {
        if let Some(path) = self.target.path() {
            header.write_beside(path, counts)?;
        }
        self.target.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        self.target.keep()
    }
}
