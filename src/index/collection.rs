//! All embeddings that a command searches.

use super::{Id, Ids, Matrix, read};
use crate::app::App;
use crate::data::{Kind, same_model};
use crate::error::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The embeddings of one file.
#[derive(Debug)]
pub struct Part {
    /// The file.
    pub path: PathBuf,
    /// The embeddings.
    pub matrix: Matrix,
    /// Which item each of them is.
    pub ids: Ids,
    /// How many items of the file have no embedding, as `embed` recorded.
    pub failed: usize,
    /// How many records of the file are of no use, and what the first of them is.
    pub unusable: Option<(usize, String)>,
}

/// The embeddings of several files, all of one model, as one long matrix.
#[derive(Debug)]
pub struct Collection {
    parts: Vec<Part>,
    /// The position of each part's first row, and behind them the number of all rows.
    starts: Vec<usize>,
    dim: usize,
    model: Option<String>,
}

/// An item with its place.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The item.
    pub id: Id,
    /// The file that holds its embedding.
    pub file: &'a Path,
    /// The row in that file.
    pub row: usize,
}

impl Part {
    /// Puts a matrix and its ids together.
    ///
    /// # Errors
    /// If they are not equally many.
    pub fn new(path: &Path, matrix: Matrix, ids: Ids) -> Result<Self> {
        if matrix.rows() != ids.rows() {
            let message = format!("{} embeddings, but {} ids", matrix.rows(), ids.rows());
            return Err(Error::run(message).hint("the files do not belong together: write both again"));
        }
        Ok(Self { path: path.to_owned(), matrix, ids, failed: 0, unusable: None })
    }
}

impl Collection {
    /// Opens files of embeddings, `-` for records on standard input.
    ///
    /// # Errors
    /// If one cannot be read, there are no embeddings, or they are of different models or lengths.
    pub fn open(app: &App, paths: &[PathBuf]) -> Result<Self> {
        let mut parts = Vec::new();
        for path in paths {
            app.interrupt.check()?;
            parts.extend(read::open(app, path)?);
        }
        Self::new(parts)
    }

    /// Takes parts together.
    ///
    /// # Errors
    /// As those of [`Collection::open`].
    pub fn new(parts: Vec<Part>) -> Result<Self> {
        let mut filled = parts.iter().filter(|part| part.matrix.rows() > 0);
        let Some(first) = filled.next() else {
            return Err(Error::run("there are no embeddings in there").at(name(parts.first())));
        };
        let dim = first.matrix.dim();
        let mut model: Option<(&str, &Part)> = first.ids.model().map(|model| (model, first));
        for part in filled {
            if part.matrix.dim() != dim {
                let message = format!(
                    "embeddings of {} numbers, those in {} have {dim}",
                    part.matrix.dim(),
                    first.path.display()
                );
                return Err(Error::run(message).at(part.path.display()).hint("embed all with the same model"));
            }
            match (model, part.ids.model()) {
                (Some((known, of)), Some(other)) if !same_model(known, other) => {
                    let message =
                        format!("embeddings of the model {other}, those in {} are of {known}", of.path.display());
                    return Err(Error::run(message).at(part.path.display()).hint("embed all with the same model"));
                }
                (None, Some(other)) => model = Some((other, part)),
                _ => {}
            }
        }
        let model = model.map(|(model, _)| model.to_owned());
        let mut starts = vec![0];
        for part in &parts {
            starts.push(starts[starts.len() - 1] + part.matrix.rows());
        }
        Ok(Self { parts, starts, dim, model })
    }

    /// How many embeddings there are.
    pub fn len(&self) -> usize {
        self.starts[self.parts.len()]
    }

    /// Whether there are none, which [`Collection::new`] does not allow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The model that made the embeddings, `name@sha8`, if a file says so.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The files.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The item at a position.
    ///
    /// # Errors
    /// If a file has changed meanwhile.
    pub fn get(&self, position: usize) -> Result<Found<'_>> {
        let (part, row) = self.locate(position);
        let id = part.ids.get(row).map_err(|error| error.at(part.path.display()))?;
        Ok(Found { id, file: &part.path, row })
    }

    /// An image or a text.
    pub fn kind(&self, position: usize) -> Kind {
        let (part, row) = self.locate(position);
        part.ids.kind(row)
    }

    /// Appends the embedding at a position.
    pub fn append(&self, position: usize, out: &mut Vec<f32>) {
        let (part, row) = self.locate(position);
        part.matrix.append(row, out);
    }

    /// The rows in blocks of at most `most`, none across two files: the position of the first row, its part, the rows
    /// of the part.
    pub fn blocks(&self, most: usize) -> impl Iterator<Item = (usize, &Part, Range<usize>)> {
        self.parts.iter().zip(&self.starts).flat_map(move |(part, start)| {
            let rows = part.matrix.rows();
            (0..rows).step_by(most).map(move |row| (start + row, part, row..rows.min(row + most)))
        })
    }

    fn locate(&self, position: usize) -> (&Part, usize) {
        // Empty parts begin where the next one does; the last that begins here or before is the one.
        let part = self.starts[..self.parts.len()].partition_point(|&start| start <= position) - 1;
        (&self.parts[part], position - self.starts[part])
    }
}

fn name(part: Option<&Part>) -> String {
    part.map_or_else(|| "embeddings".to_owned(), |part| part.path.display().to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::index::{Dtype, Spill};

    /// A part of rows named `NAME/0`, `NAME/1` …; every third is a text.
    pub(in crate::index) fn part(name: &str, model: &str, dtype: Dtype, rows: &[Vec<f32>]) -> Part {
        let mut spill = Spill::new(dtype).unwrap();
        for (i, row) in rows.iter().enumerate() {
            let kind = if i % 3 == 2 { Kind::Text } else { Kind::Image };
            spill.push(&format!("{name}/{i}"), kind, Some(model), None, row).unwrap().unwrap();
        }
        spill.finish(Path::new(name)).unwrap()
    }

    #[test]
    fn positions_run_through_all_parts() {
        let rows = |n: usize| (0..n).map(|i| vec![i as f32, 1.0]).collect::<Vec<_>>();
        let parts = [("a", 3), ("b", 0), ("c", 5)].map(|(name, n)| part(name, "m@1", Dtype::F32, &rows(n)));
        let collection = Collection::new(parts.into()).unwrap();
        assert_eq!((collection.len(), collection.dim(), collection.model()), (8, 2, Some("m@1")));
        let ids: Vec<_> = (0..8).map(|position| collection.get(position).unwrap().id.id).collect();
        assert_eq!(ids, ["a/0", "a/1", "a/2", "c/0", "c/1", "c/2", "c/3", "c/4"]);
        assert_eq!(collection.kind(5), Kind::Text);
        let blocks: Vec<_> = collection.blocks(2).map(|(first, _, rows)| (first, rows)).collect();
        assert_eq!(blocks, [(0, 0..2), (2, 2..3), (3, 0..2), (5, 2..4), (7, 4..5)]);
        let mut row = Vec::new();
        collection.append(7, &mut row);
        assert_eq!(row, [4.0, 1.0]);
    }

    #[test]
    fn what_does_not_belong_together() {
        let error = |parts: Vec<Part>| Collection::new(parts).unwrap_err().to_string();
        let one = |name, model, dim| part(name, model, Dtype::F32, &[vec![1.0; dim]]);
        assert_eq!(error(vec![part("a", "m@1", Dtype::F32, &[])]), "a: there are no embeddings in there");
        let found = error(vec![one("a", "m@1", 2), one("b", "m@1", 3)]);
        assert_eq!(found, "b: embeddings of 3 numbers, those in a have 2");
        let found = error(vec![one("a", "m@1", 2), one("b", "m@2", 2)]);
        assert_eq!(found, "b: embeddings of the model m@2, those in a are of m@1");
    }
}
