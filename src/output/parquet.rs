//! Parquet: a row an item, failed items included. How it was made is in the file's metadata, under `clip-cli`.
//!
//! A Parquet file cannot be gone on with, so items wait in two plain files that can, `NAME.rows.part` (numbers) and
//! `NAME.items.part` (all else), and become the table when all are there.

use super::{Counts, Format, Header, OutputDtype, Shape, Sink, Stored, StoredItem, Target, restore, state, write_line};
use crate::data::{Embedded, Kind, Line, Lines, Separator};
use crate::error::{Error, ItemError, ItemKind, Result};
use arrow_array::builder::{ArrayBuilder, FixedSizeListBuilder, Float16Builder, Float32Builder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema};
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A table with the columns `id`, `kind`, `text`, `embedding`, `error_kind` and `error`.
pub(super) struct Parquet;

/// The name of our entry in a file's metadata.
const KEY: &str = "clip-cli";

/// A row group is closed when its numbers or its texts take this many bytes.
const GROUP_BYTES: usize = 16 << 20;

/// The most rows in a row group.
const GROUP_ROWS: usize = 1 << 16;

/// How many rows are read at once.
const READ_ROWS: usize = 256;

/// A waiting item longer than this is refused.
const MAX_ITEM_BYTES: usize = 16 << 20;

impl Format for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["parquet", "pq"]
    }

    fn about(&self) -> &'static str {
        "a table with the columns id, kind, text, embedding, error_kind, error; failed items have no embedding"
    }

    fn shape(&self) -> Shape {
        Shape::File
    }

    fn open(&self, mut target: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        let state: State = restore(state)?;
        target.cut(0)?;
        let rows = target.beside(".rows", state.rows)?;
        let items = target.beside(".items", state.items)?;
        Ok(Box::new(Waiting { target, rows, items, dtype: header.dtype, bytes: Vec::new() }))
    }

    fn read(&self, path: &Path) -> Result<Stored> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| Error::run(error).at(&name))?;
        let table = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| Error::run(error).at(&name))?;
        let metadata = table.metadata().file_metadata().key_value_metadata();
        let ours = metadata.into_iter().flatten().find(|entry| entry.key == KEY).and_then(|entry| entry.value.as_ref());
        let missing = || Error::run("this table was not written by `embed`").at(&name);
        let (header, counts) =
            Header::from_json(ours.ok_or_else(missing)?.as_bytes()).map_err(|error| error.at(&name))?;
        let batches = table.with_batch_size(READ_ROWS).build().map_err(|error| Error::run(error).at(&name))?;
        let (dim, dtype) = (header.dim, header.dtype);
        let items = batches.flat_map(move |batch| -> Box<dyn Iterator<Item = Result<StoredItem>>> {
            match batch.map_err(|error| error.to_string()).and_then(|batch| items_of(&batch, dim, dtype)) {
                Ok(items) => Box::new(items.into_iter().map(|item| Ok(StoredItem { item, line: None }))),
                Err(error) => Box::new(std::iter::once(Err(Error::run(error).at(&name)))),
            }
        });
        Ok(Stored { header, counts, items: Box::new(items) })
    }

    fn reads_back(&self) -> bool {
        true
    }
}

/// Items on their way into a table.
struct Waiting {
    target: Target,
    rows: Target,
    items: Target,
    dtype: OutputDtype,
    bytes: Vec<u8>,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    rows: u64,
    items: u64,
}

/// What is known of an item beside its numbers.
#[derive(Serialize, Deserialize)]
struct About<'a> {
    id: Cow<'a, str>,
    kind: Cow<'a, str>,
    text: Option<Cow<'a, str>>,
    error: Option<(Cow<'a, str>, Cow<'a, str>)>,
}

impl Sink for Waiting {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        self.bytes.clear();
        self.dtype.extend(&mut self.bytes, item.result.as_deref().unwrap_or_default());
        self.rows.write_all(&self.bytes).map_err(|error| self.rows.error(error))?;
        let error = item.result.as_ref().err().map(|error| (error.kind.name().into(), error.message.as_str().into()));
        let (id, kind) = (item.id.as_str().into(), item.kind.name().into());
        let text = match item.kind {
            Kind::Text => Some(item.text.as_deref().unwrap_or(&item.id).into()),
            Kind::Image => item.text.as_deref().map(Cow::from),
        };
        write_line(&mut self.items, &About { id, kind, text, error })
    }

    fn state(&self) -> Value {
        state(&State { rows: self.rows.length(), items: self.items.length() })
    }

    fn sync(&mut self) -> Result<()> {
        for target in [&mut self.rows, &mut self.items] {
            target.sync()?;
        }
        self.target.keep_if_dropped();
        Ok(())
    }

    fn finish(self: Box<Self>, header: &Header, counts: Counts) -> Result<()> {
        let Self { target, rows, items, .. } = *self;
        let mut table = Table::new(target, header, counts)?;
        let mut numbers = rows.read_back()?;
        let lines = Lines::new(items.read_back()?, Separator::Newline, MAX_ITEM_BYTES);
        let mut row = vec![0; header.dim * header.dtype.size() as usize];
        for line in lines {
            let Line::Whole(line) = line.map_err(|error| items.error(error))? else {
                return Err(Error::run("an item is too long"));
            };
            let about: About = serde_json::from_slice(&line).map_err(Error::run)?;
            if about.error.is_none() {
                numbers.read_exact(&mut row).map_err(|error| rows.error(error))?;
            }
            table.push(&about, &row)?;
        }
        table.close()?.commit()?;
        rows.discard();
        items.discard();
        Ok(())
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        // Nobody but the next run can use them.
        self.rows.keep();
        self.items.keep();
        None
    }
}

/// A table that grows by row groups.
struct Table {
    writer: ArrowWriter<Target>,
    group: Group,
    dtype: OutputDtype,
    most: usize,
}

/// The rows of the group to come.
struct Group {
    id: StringBuilder,
    kind: StringBuilder,
    text: StringBuilder,
    embedding: Numbers,
    error_kind: StringBuilder,
    error: StringBuilder,
    bytes: usize,
}

enum Numbers {
    F32(FixedSizeListBuilder<Float32Builder>),
    F16(FixedSizeListBuilder<Float16Builder>),
}

impl Table {
    fn new(target: Target, header: &Header, counts: Counts) -> Result<Self> {
        let mut group = Group::new(header.dtype, header.dim)?;
        let row = header.dim * header.dtype.size() as usize;
        let properties = properties(&["id", "kind", "text", "error_kind", "error"])
            .set_key_value_metadata(Some(vec![KeyValue::new(KEY.to_owned(), header.to_json(counts)?)]))
            .build();
        let schema = group.take()?.schema();
        let writer = ArrowWriter::try_new(target, schema, Some(properties)).map_err(Error::run)?;
        Ok(Self { writer, group, dtype: header.dtype, most: (GROUP_BYTES / row.max(1)).clamp(1, GROUP_ROWS) })
    }

    fn push(&mut self, about: &About, row: &[u8]) -> Result<()> {
        let group = &mut self.group;
        let (error_kind, error) = match &about.error {
            Some((kind, message)) => (Some(kind), Some(message)),
            None => (None, None),
        };
        group.id.append_value(&about.id);
        group.kind.append_value(&about.kind);
        group.text.append_option(about.text.as_ref());
        group.error_kind.append_option(error_kind);
        group.error.append_option(error);
        group.embedding.push(self.dtype, row, about.error.is_none());
        let texts = [Some(&about.id), about.text.as_ref(), error];
        group.bytes += texts.into_iter().flatten().map(|text| text.len()).sum::<usize>();
        if group.id.len() >= self.most || group.bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.group.id.len() > 0 {
            let batch = self.group.take()?;
            self.writer.write(&batch).and_then(|()| self.writer.flush()).map_err(failed)?;
        }
        Ok(())
    }

    fn close(mut self) -> Result<Target> {
        self.flush()?;
        self.writer.into_inner().map_err(failed)
    }
}

impl Group {
    fn new(dtype: OutputDtype, dim: usize) -> Result<Self> {
        let length = i32::try_from(dim).map_err(Error::run)?;
        let texts = StringBuilder::new;
        Ok(Self {
            id: texts(),
            kind: texts(),
            text: texts(),
            embedding: match dtype {
                OutputDtype::F32 => Numbers::F32(FixedSizeListBuilder::new(Float32Builder::new(), length)),
                OutputDtype::F16 => Numbers::F16(FixedSizeListBuilder::new(Float16Builder::new(), length)),
            },
            error_kind: texts(),
            error: texts(),
            bytes: 0,
        })
    }

    /// The rows as they are, which leaves none.
    fn take(&mut self) -> Result<RecordBatch> {
        self.bytes = 0;
        let text = |builder: &mut StringBuilder| Arc::new(builder.finish()) as ArrayRef;
        let embedding: ArrayRef = match &mut self.embedding {
            Numbers::F32(numbers) => Arc::new(numbers.finish()),
            Numbers::F16(numbers) => Arc::new(numbers.finish()),
        };
        RecordBatch::try_from_iter_with_nullable([
            ("id", text(&mut self.id), false),
            ("kind", text(&mut self.kind), false),
            ("text", text(&mut self.text), true),
            ("embedding", embedding, true),
            ("error_kind", text(&mut self.error_kind), true),
            ("error", text(&mut self.error), true),
        ])
        .map_err(Error::run)
    }
}

impl Numbers {
    /// Adds a row of little-endian bytes, or a row that is missing.
    fn push(&mut self, dtype: OutputDtype, row: &[u8], present: bool) {
        let numbers = dtype.read(row);
        match self {
            Self::F32(list) => {
                list.values().append_slice(&numbers);
                list.append(present);
            }
            Self::F16(list) => {
                let halves: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x)).collect();
                list.values().append_slice(&halves);
                list.append(present);
            }
        }
    }
}

/// Texts are compressed; numbers of embeddings look random, and are not.
fn properties(texts: &[&str]) -> parquet::file::properties::WriterPropertiesBuilder {
    let plain = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    texts.iter().fold(plain, |properties, &name| {
        let column = ColumnPath::from(name);
        properties
            .set_column_compression(column.clone(), Compression::ZSTD(ZstdLevel::default()))
            .set_column_dictionary_enabled(column, true)
    })
}

/// A write that failed; what the disk says of it is inside.
fn failed(error: parquet::errors::ParquetError) -> Error {
    Error::run(error)
}

/// The items of some rows.
fn items_of(batch: &RecordBatch, dim: usize, dtype: OutputDtype) -> Result<Vec<Embedded>, String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column {name:?}"));
    let texts = |name: &str| {
        column(name)?.as_string_opt::<i32>().ok_or_else(|| format!("the column {name:?} is not of strings"))
    };
    let (ids, kinds, captions) = (texts("id")?, texts("kind")?, texts("text")?);
    let (error_kinds, errors) = (texts("error_kind")?, texts("error")?);
    let embeddings = column("embedding")?.as_fixed_size_list_opt();
    let embeddings = embeddings
        .filter(|list| usize::try_from(list.value_length()) == Ok(dim))
        .ok_or_else(|| format!("the column \"embedding\" is not of {dim} numbers each"))?;
    let row = |n: usize| -> Result<Embedded, String> {
        let (id, kind) = (ids.value(n).to_owned(), super::kind(kinds.value(n))?);
        let text = captions.is_valid(n).then(|| captions.value(n).to_owned());
        // A text that is its own id is said once.
        let text = text.filter(|text| kind == Kind::Image || *text != id);
        let result = if errors.is_valid(n) {
            Err(ItemError::new(ItemKind::from_name(error_kinds.value(n)), errors.value(n)))
        } else if embeddings.is_null(n) {
            return Err(format!("{id}: neither an embedding nor an error"));
        } else {
            let row = embeddings.value(n);
            let numbers = match dtype {
                OutputDtype::F32 => row.as_primitive_opt::<Float32Type>().map(|row| row.values().to_vec()),
                OutputDtype::F16 => {
                    let halves = row.as_primitive_opt::<Float16Type>();
                    halves.map(|row| row.values().iter().map(|x| x.to_f32()).collect())
                }
            };
            Ok(numbers.ok_or("the numbers are of another kind than the metadata says")?)
        };
        Ok(Embedded { id, kind, text, result })
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Writes a table of texts.
pub(super) fn write_texts(
    target: Target,
    columns: &[&str],
    rows: impl Iterator<Item = Result<Vec<String>>>,
    about: String,
) -> Result<Target> {
    let fields: Vec<_> = columns.iter().map(|&name| arrow_schema::Field::new(name, DataType::Utf8, false)).collect();
    let schema = Arc::new(Schema::new(fields));
    let properties =
        properties(columns).set_key_value_metadata(Some(vec![KeyValue::new(KEY.to_owned(), about)])).build();
    let mut writer = ArrowWriter::try_new(target, schema.clone(), Some(properties)).map_err(Error::run)?;
    let mut group: Vec<StringBuilder> = columns.iter().map(|_| StringBuilder::new()).collect();
    let mut flush = |group: &mut Vec<StringBuilder>| -> Result<()> {
        let arrays = group.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(Error::run)?;
        writer.write(&batch).and_then(|()| writer.flush()).map_err(failed)
    };
    let mut bytes = 0;
    for row in rows {
        for (column, value) in group.iter_mut().zip(row?) {
            bytes += value.len() + 8;
            column.append_value(value);
        }
        if bytes >= GROUP_BYTES {
            flush(&mut group)?;
            bytes = 0;
        }
    }
    if bytes > 0 {
        flush(&mut group)?;
    }
    writer.into_inner().map_err(failed)
}
