//! Where the tokens of items go: JSON Lines, one record with a list of vectors an item, or a NumPy array of three
//! dimensions, which needs items of equally many tokens. `header.dim` is the length of a token; an item's numbers are
//! those of its tokens, one after another.

use super::errors::{ErrorLog, Place};
use super::npy::{Id, Matrix};
use super::{Counts, ErrorLine, Format, Header, Shape, Sink, Target, restore, state, write_line};
use crate::data::Embedded;
use crate::error::{Error, ItemError, ItemKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// The form of a format that holds all tokens of an item.
///
/// # Errors
/// Usage, for formats that hold one vector an item.
pub fn format_of(format: &dyn Format) -> Result<&'static dyn Format> {
    match format.name() {
        "jsonl" => Ok(&Jsonl),
        "npy" => Ok(&Npy),
        name => Err(Error::usage(format!("{name} has no room for all tokens of an item"))
            .hint("choose another with --format jsonl|npy, or one vector an item with --pool")),
    }
}

/// Lets items through that fit into one output.
#[derive(Debug)]
pub struct Fit {
    /// Whether all items must have equally many tokens.
    equal: bool,
    first: Option<usize>,
}

impl Fit {
    /// What a format of [`format_of`] asks of its items.
    pub fn new(format: &dyn Format) -> Self {
        Self { equal: format.name() == Npy.name(), first: None }
    }

    /// Fails for an item whose number of tokens is not that of the first.
    pub fn admit(&mut self, tokens: usize) -> Result<(), ItemError> {
        let first = *self.first.get_or_insert(tokens);
        if !self.equal || tokens == first {
            return Ok(());
        }
        let message =
            format!("its {tokens} tokens do not fit into an array of {first} an item; JSON Lines would take it");
        Err(ItemError::new(ItemKind::Invalid, message))
    }
}

struct Jsonl;

struct Npy;

impl Format for Jsonl {
    fn name(&self) -> &'static str {
        "tokens-jsonl"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["jsonl"]
    }

    fn about(&self) -> &'static str {
        "one JSON record an item, with the vectors of all its tokens"
    }

    fn shape(&self) -> Shape {
        Shape::Stream
    }

    fn open(&self, mut target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        target.cut(restore(state)?)?;
        Ok(Box::new(Records { target, header: header.clone() }))
    }
}

struct Records {
    target: Target,
    header: Header,
}

#[derive(Serialize)]
struct Record<'a> {
    id: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    tokens: Vec<Vec<f32>>,
    shape: [usize; 2],
    model: &'a str,
}

impl Sink for Records {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        let numbers = match &item.result {
            Ok(numbers) => numbers,
            Err(error) => return write_line(&mut self.target, &ErrorLine::new(&item.id, error)),
        };
        let Header { model, dim, dtype, .. } = &self.header;
        let round = |token: &[f32]| token.iter().map(|&x| dtype.round(x)).collect();
        let tokens: Vec<Vec<f32>> = numbers.chunks_exact(*dim).map(round).collect();
        let (kind, text, shape) = (item.kind.name(), item.text.as_deref(), [tokens.len(), *dim]);
        write_line(&mut self.target, &Record { id: &item.id, kind, text, tokens, shape, model })
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

impl Format for Npy {
    fn name(&self) -> &'static str {
        "tokens-npy"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["npy"]
    }

    fn about(&self) -> &'static str {
        "a NumPy array (items, tokens, width), and beside it what `npy` has"
    }

    fn shape(&self) -> Shape {
        Shape::File
    }

    fn open(&self, target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        let state: State = restore(state)?;
        let ids = target.beside(".ids.jsonl", state.ids)?;
        let errors = ErrorLog::open(&target, Place::Beside, state.errors)?;
        // To the file an item is one long row.
        let row = Header { dim: state.tokens.unwrap_or(0).saturating_mul(header.dim), ..header.clone() };
        let matrix = Matrix::open(target, &row, state.arrays)?;
        let (model, dim) = (header.model.clone(), header.dim);
        Ok(Box::new(Arrays { matrix, ids, errors, model, dim, tokens: state.tokens, items: state.items }))
    }
}

struct Arrays {
    matrix: Matrix,
    ids: Target,
    errors: ErrorLog,
    model: String,
    dim: usize,
    /// How many tokens the first item has, and so all of them.
    tokens: Option<usize>,
    items: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    items: u64,
    arrays: u64,
    tokens: Option<usize>,
    ids: u64,
    errors: u64,
}

impl Arrays {
    /// Everything written, header and all.
    fn close(self) -> Result<(Target, Target, ErrorLog)> {
        let shape = [self.matrix.rows(), self.tokens.unwrap_or(0) as u64, self.dim as u64];
        Ok((self.matrix.close_as(&shape)?, self.ids, self.errors))
    }
}

impl Sink for Arrays {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        match &item.result {
            Err(error) => self.errors.write(self.matrix.target(), self.items, item, error)?,
            Ok(numbers) => {
                let tokens = numbers.len() / self.dim.max(1);
                if *self.tokens.get_or_insert(tokens) != tokens {
                    return Err(Error::run("an item of another number of tokens").at(&item.id));
                }
                self.matrix.push(numbers)?;
                write_line(&mut self.ids, &Id::of(item, &self.model))?;
            }
        }
        self.items += 1;
        Ok(())
    }

    fn state(&self) -> Value {
        let (ids, errors) = (self.ids.length(), self.errors.length());
        state(&State { items: self.items, arrays: self.matrix.rows(), tokens: self.tokens, ids, errors })
    }

    fn sync(&mut self) -> Result<()> {
        for target in [self.matrix.target(), &mut self.ids] {
            target.sync()?;
        }
        self.errors.sync()
    }

    fn finish(self: Box<Self>, header: &Header, counts: Counts) -> Result<()> {
        let (array, ids, errors) = self.close()?;
        // The array comes last: where it is, the other files are.
        ids.commit()?;
        errors.finish()?;
        if let Some(path) = array.path() {
            header.write_beside(path, counts)?;
        }
        array.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        if self.items == 0 {
            return None;
        }
        let (array, ids, errors) = self.close().ok()?;
        ids.keep();
        errors.keep();
        array.keep()
    }
}
