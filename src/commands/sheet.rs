//! The contact sheet that commands can write beside their output.

use crate::app::App;
use crate::data::is_stdin;
use crate::error::{Error, Result};
use crate::output::html::{Sheet, SheetOptions};
use clap::Args;
use std::path::PathBuf;

/// Whether and how a contact sheet is written.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Contact sheet")]
pub(super) struct SheetArgs {
    /// Also write a page with small pictures, one file that needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Show the files where they lie instead of copies inside the page
    #[arg(long, requires = "html")]
    link: bool,

    /// The directory in which the embeddings' relative paths begin [default: this one]
    #[arg(long, value_name = "DIR", requires = "html")]
    root: Option<PathBuf>,
}

impl SheetArgs {
    /// Starts the sheet, if there is to be one.
    pub(super) fn open(&self, app: &App, title: &str, note: &str) -> Result<Option<Sheet>> {
        let Some(path) = &self.html else { return Ok(None) };
        if is_stdin(path) {
            return Err(Error::usage("--html needs the name of a file"));
        }
        let root = self.root.clone().unwrap_or_default();
        let options = SheetOptions { link: self.link, root, workers: app.threads };
        Sheet::open(path, title, note, options).map(Some)
    }
}
