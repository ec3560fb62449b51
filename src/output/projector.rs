//! TensorBoard's embedding projector: `tensors.tsv`, `metadata.tsv` and the `projector_config.pbtxt` that names them.

use super::errors::{ErrorLog, Place};
use super::rows::number;
use super::{Counts, Format, Header, Shape, Sink, Target, restore, state};
use crate::data::Embedded;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;

/// A folder that TensorBoard takes for its `--logdir`; a row an item that succeeded.
pub(super) struct Projector;

/// Paths are relative to the folder.
const CONFIG: &str = "\
embeddings {
  tensor_name: \"embeddings\"
  tensor_path: \"tensors.tsv\"
  metadata_path: \"metadata.tsv\"
}
";

/// The projector wants a heading where there are two columns or more.
const HEADING: &str = "id\tkind\ttext\n";

impl Format for Projector {
    fn name(&self) -> &'static str {
        "projector"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &[]
    }

    fn about(&self) -> &'static str {
        "a folder for TensorBoard's embedding projector: tensors.tsv, metadata.tsv, projector_config.pbtxt"
    }

    fn shape(&self) -> Shape {
        Shape::Folder
    }

    fn open(&self, folder: Target, header: &Header, state: Option<Value>) -> Result<Box<dyn Sink>> {
        let state: State = restore(state)?;
        let tensors = folder.inside("tensors.tsv", state.tensors)?;
        let mut metadata = folder.inside("metadata.tsv", state.metadata)?;
        let errors = ErrorLog::open(&folder, Place::Inside, state.errors)?;
        if state.metadata == 0 {
            metadata.write_all(HEADING.as_bytes()).map_err(|error| metadata.error(error))?;
        }
        Ok(Box::new(Points { tensors, metadata, errors, folder, header: header.clone(), items: state.items }))
    }
}

// Files are dropped before their folder.
struct Points {
    tensors: Target,
    metadata: Target,
    errors: ErrorLog,
    folder: Target,
    header: Header,
    items: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    items: u64,
    tensors: u64,
    metadata: u64,
    errors: u64,
}

/// A value in a file that has no quotes: what would end it becomes a space.
fn plain(value: &str) -> String {
    value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Sink for Points {
    fn write(&mut self, item: &Embedded) -> Result<()> {
        match &item.result {
            Err(error) => self.errors.write(&self.folder, self.items, item, error)?,
            Ok(embedding) => {
                let numbers: Vec<_> = embedding.iter().map(|&x| number(self.header.dtype.round(x))).collect();
                let row = numbers.join("\t") + "\n";
                self.tensors.write_all(row.as_bytes()).map_err(|error| self.tensors.error(error))?;
                let text = item.text.as_deref().unwrap_or_default();
                let about = format!("{}\t{}\t{}\n", plain(&item.id), item.kind.name(), plain(text));
                self.metadata.write_all(about.as_bytes()).map_err(|error| self.metadata.error(error))?;
            }
        }
        self.items += 1;
        Ok(())
    }

    fn state(&self) -> Value {
        let (tensors, metadata) = (self.tensors.length(), self.metadata.length());
        state(&State { items: self.items, tensors, metadata, errors: self.errors.length() })
    }

    fn sync(&mut self) -> Result<()> {
        for target in [&mut self.tensors, &mut self.metadata] {
            target.sync()?;
        }
        self.folder.keep_if_dropped();
        self.errors.sync()
    }

    fn finish(self: Box<Self>, header: &Header, counts: Counts) -> Result<()> {
        let mut config = self.folder.inside("projector_config.pbtxt", 0)?;
        config.write_all(CONFIG.as_bytes()).map_err(|error| config.error(error))?;
        config.commit()?;
        header.write_to(self.folder.inside("meta.json", 0)?, counts)?;
        self.tensors.commit()?;
        self.metadata.commit()?;
        self.errors.finish()?;
        self.folder.commit()
    }

    fn abandon(self: Box<Self>) -> Option<PathBuf> {
        self.tensors.keep();
        self.metadata.keep();
        self.errors.keep();
        self.folder.keep()
    }
}
