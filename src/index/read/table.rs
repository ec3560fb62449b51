//! parquet: a row an item, with a column of lists of numbers.

use super::{Format, ends_with};
use crate::app::{App, WORKER};
use crate::data::Kind;
use crate::error::{Error, Result};
use crate::index::matrix::MAX_DIM;
use crate::index::spill::IdList;
use crate::index::{Dtype, Ids, Part, Spill};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema};
use half::f16;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::fs::File;
use std::path::Path;

/// Tables with a column `embedding`.
pub(super) struct Parquet;

/// How many rows are decoded at once.
const BATCH: usize = 1024;

/// The columns that may say what an item is, the first of them that is there.
const ID: [&str; 6] = ["id", "image_path", "filename", "path", "url", "key"];
const TEXT: [&str; 2] = ["text", "caption"];
const EMBEDDING: [&str; 3] = ["embedding", "image_embedding", "emb"];

impl Format for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn fits(&self, path: &Path) -> bool {
        ends_with(path, &["parquet", "pq"]) && !path.is_dir()
    }

    fn open(&self, app: &App, path: &Path) -> Result<Vec<Part>> {
        apart(|| part(app, path).map(|part| vec![part]))
    }
}

/// The items of a table of clip-retrieval, of which each row is an image and its caption.
pub(super) fn ids(app: &App, path: &Path, kind: Kind) -> Result<Option<Ids>> {
    apart(|| {
        let table = Table::open(path, &[&ID, &TEXT])?;
        let (id, text) = (table.column(&ID), table.column(&TEXT));
        let Some(name) = id.or(text) else { return Ok(None) };
        let mut ids = IdList::new()?;
        for batch in table.reader {
            app.interrupt.check()?;
            let batch = batch.map_err(Error::run)?;
            let names = strings(&batch, name)?;
            let texts = text.map(|text| strings(&batch, text)).transpose()?;
            for row in 0..batch.num_rows() {
                let name = names(row).unwrap_or_default();
                let text = texts.as_ref().and_then(|texts| texts(row));
                match kind {
                    Kind::Image => ids.push(name, kind, None, text)?,
                    Kind::Text => ids.push(text.unwrap_or(name), kind, None, None)?,
                }
            }
        }
        ids.finish().map(Some)
    })
}

/// Decoding is other people's code: a bug in there must become an error.
fn apart<T: Send>(decode: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(format!("{WORKER}parquet")).spawn_scoped(scope, decode)?;
        thread.join().unwrap_or_else(|_| Err(Error::run("the parquet decoder failed: the file is broken")))
    })
}

fn part(app: &App, path: &Path) -> Result<Part> {
    let table = Table::open(path, &[&["id"], &ID, &["kind"], &TEXT, &EMBEDDING])?;
    let [id, kind, text] = [table.column(&ID), table.column(&["kind"]), table.column(&TEXT)];
    let Some(embedding) = table.column(&EMBEDDING) else {
        let names: Vec<_> = table.schema.fields().iter().map(|field| field.name().as_str()).take(12).collect();
        return Err(Error::run("there is no column `embedding`").hint(format!("its columns are {}", names.join(", "))));
    };
    let dtype = dtype(table.schema.field_with_name(embedding).map_err(Error::run)?.data_type())?;
    let (mut spill, mut unusable, mut row_in_file) = (Spill::new(dtype)?, None::<(usize, String)>, 0);
    let (mut failed, mut embedding_of) = (0, Vec::new());
    for batch in table.reader {
        app.interrupt.check()?;
        let batch = batch.map_err(Error::run)?;
        let ids = id.map(|name| strings(&batch, name)).transpose()?;
        let kinds = kind.map(|name| strings(&batch, name)).transpose()?;
        let texts = text.map(|name| strings(&batch, name)).transpose()?;
        let embeddings = column(&batch, embedding)?;
        for row in 0..batch.num_rows() {
            let number = format!("{}#{row_in_file}", path.display());
            let id = ids.as_ref().and_then(|ids| ids(row)).unwrap_or(&number);
            let kind = match kinds.as_ref().and_then(|kinds| kinds(row)) {
                Some("text") => Kind::Text,
                _ => Kind::Image,
            };
            let text = texts.as_ref().and_then(|texts| texts(row));
            if !numbers(embeddings, row, &mut embedding_of)? {
                failed += 1;
            } else if let Err(why) = spill.push(id, kind, table.model.as_deref(), text, &embedding_of)? {
                unusable.get_or_insert_with(|| (0, format!("{id}: {why}"))).0 += 1;
            }
            row_in_file += 1;
        }
    }
    Ok(Part { failed, unusable, ..spill.finish(path)? })
}

/// What `embed` writes into a table's metadata; the other fields are left aside.
#[derive(serde::Deserialize)]
struct About {
    model: String,
}

struct Table {
    reader: ParquetRecordBatchReader,
    schema: Schema,
    /// What the file says of the model, `name@sha8`.
    model: Option<String>,
}

impl Table {
    /// Opens a table, of which only these columns are read.
    fn open(path: &Path, columns: &[&[&str]]) -> Result<Self> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?).map_err(Error::run)?;
        let schema = builder.schema().as_ref().clone();
        let wanted = |name: &str| columns.iter().any(|names| names.contains(&name));
        let roots: Vec<_> = (0..schema.fields().len()).filter(|&index| wanted(schema.field(index).name())).collect();
        let notes = builder.metadata().file_metadata().key_value_metadata();
        let note = |key| notes.into_iter().flatten().find(|note| note.key == key).and_then(|note| note.value.clone());
        // Ours is an object that says more than that; a table of other tools may have the name alone.
        let ours = note("clip-cli").and_then(|json| serde_json::from_str::<About>(&json).ok());
        let model = ours.map(|about| about.model).or_else(|| note("model"));
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let reader = builder.with_projection(mask).with_batch_size(BATCH).build().map_err(Error::run)?;
        Ok(Self { reader, schema, model })
    }

    /// The first of these columns that is there.
    fn column<'a>(&self, names: &[&'a str]) -> Option<&'a str> {
        names.iter().copied().find(|name| self.schema.field_with_name(name).is_ok())
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::run(format!("there is no column `{name}`")))
}

/// The strings of a column; `None` where there is none.
fn strings<'a>(batch: &'a RecordBatch, name: &str) -> Result<Box<dyn Fn(usize) -> Option<&'a str> + 'a>> {
    let array = column(batch, name)?;
    let there = |row: usize| !array.is_null(row);
    Ok(match array.data_type() {
        DataType::Utf8 => {
            let strings = array.as_string::<i32>();
            Box::new(move |row| there(row).then(|| strings.value(row)))
        }
        DataType::LargeUtf8 => {
            let strings = array.as_string::<i64>();
            Box::new(move |row| there(row).then(|| strings.value(row)))
        }
        DataType::Utf8View => {
            let strings = array.as_string_view();
            Box::new(move |row| there(row).then(|| strings.value(row)))
        }
        // A list of captions, numbers for keys: nothing that names an item.
        _ => Box::new(|_| None),
    })
}

/// The kind of numbers in a column of embeddings.
fn dtype(lists: &DataType) -> Result<Dtype> {
    let numbers = match lists {
        DataType::FixedSizeList(field, length) if (1..=MAX_DIM as i32).contains(length) => Some(field.data_type()),
        DataType::List(field) | DataType::LargeList(field) => Some(field.data_type()),
        _ => None,
    };
    match numbers {
        Some(DataType::Float16) => Ok(Dtype::F16),
        Some(DataType::Float32 | DataType::Float64) => Ok(Dtype::F32),
        _ => Err(Error::run(format!("a column of {lists}, which is no embeddings"))),
    }
}

/// Puts the embedding of a row into `out`; `false` if there is none.
fn numbers(lists: &ArrayRef, row: usize, out: &mut Vec<f32>) -> Result<bool> {
    out.clear();
    if lists.is_null(row) {
        return Ok(false);
    }
    let list = match lists.data_type() {
        DataType::FixedSizeList(..) => lists.as_fixed_size_list().value(row),
        DataType::List(_) => lists.as_list::<i32>().value(row),
        _ => lists.as_list::<i64>().value(row),
    };
    if list.null_count() > 0 {
        return Ok(false);
    }
    match list.data_type() {
        DataType::Float16 => out.extend(list.as_primitive::<Float16Type>().values().iter().map(|x: &f16| x.to_f32())),
        DataType::Float32 => out.extend(list.as_primitive::<Float32Type>().values()),
        DataType::Float64 => out.extend(list.as_primitive::<Float64Type>().values().iter().map(|&x| x as f32)),
        other => return Err(Error::run(format!("a list of {other}, which is no embedding"))),
    }
    Ok(true)
}
