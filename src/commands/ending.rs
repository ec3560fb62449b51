//! How commands end that write rows.

use crate::app::App;
use std::path::PathBuf;

/// The job ended early: says where what was written before is kept.
pub(super) fn left_behind(app: &App, part: Option<PathBuf>) {
    if let Some(path) = part {
        app.note(format_args!("what was done before is in {}", path.display()));
    }
}
