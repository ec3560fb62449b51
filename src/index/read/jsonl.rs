//! `embed`'s JSON Lines.

use super::Format;
use crate::app::App;
use crate::data::{Record, is_records, is_stdin, read_records};
use crate::error::{ItemKind, Result};
use crate::index::{Dtype, Part, Spill};
use std::path::Path;

/// Records, from a file or standard input.
pub(super) struct Jsonl;

impl Format for Jsonl {
    fn name(&self) -> &'static str {
        "JSON Lines"
    }

    fn fits(&self, path: &Path) -> bool {
        is_stdin(path) || is_records(path)
    }

    fn open(&self, app: &App, path: &Path) -> Result<Vec<Part>> {
        let mut spill = Spill::new(Dtype::F32)?;
        let (mut failed, mut unusable) = (0, None::<(usize, String)>);
        read_records(app, path, None, |Record { embedded: item, model }| {
            let why = match &item.result {
                Ok(embedding) => {
                    let text = item.text.as_deref();
                    spill.push(&item.id, item.kind, model.as_deref(), text, embedding)?.err()
                }
                Err(error) if error.kind == ItemKind::Invalid => Some(error.message.clone()),
                Err(_) => {
                    failed += 1;
                    None
                }
            };
            if let Some(why) = why {
                unusable.get_or_insert_with(|| (0, format!("{}: {why}", item.id))).0 += 1;
            }
            Ok(())
        })?;
        Ok(vec![Part { failed, unusable, ..spill.finish(path)? }])
    }
}
