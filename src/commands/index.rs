//! `index`: a graph for approximate search.

use super::{Command, Status};
use crate::app::App;
#[cfg(feature = "ann")]
use crate::commands::search::{summary, warn_unusable};
use crate::error::Result;
#[cfg(feature = "ann")]
use crate::index::{Collection, approximate};
use clap::Args;
use std::path::PathBuf;

/// Build an index for approximate search
#[derive(Args, Debug)]
#[command(after_help = "\
`search` compares a query with every embedding. An index (a graph of \
neighbours, HNSW) answers faster than that, and misses some: `index` measures how many, with queries from among the \
embeddings themselves, and prints recall (the share of the nearest that are found) with its 95 % interval. The index \
goes with the files that it was built from, in the same order: search THE SAME FILES --index NAME. It holds a \
copy of the embeddings and is built by one thread, the same every time.

Needs a program built with the cargo feature `ann`, and so a C++ compiler. An index is USearch's file: do not open \
one from people whom you do not trust.

Examples:
  clip-cli index photos.npy --output photos.usearch
  clip-cli search photos.npy --index photos.usearch --query 'a cat' --recall")]
pub(super) struct Index {
    /// Files of embeddings
    #[arg(value_name = "EMBEDDINGS", required = true)]
    embeddings: Vec<PathBuf>,

    /// Where to write; what is known of the index goes to NAME.json
    #[arg(long, short, value_name = "FILE", help_heading = "Output")]
    output: PathBuf,
}

impl Command for Index {
    const NAME: &'static str = "index";

    #[cfg(not(feature = "ann"))]
    fn run(self, _: &App) -> Result<Status> {
        let Self { embeddings: _, output: _ } = self;
        Err(not_built_in("clip-cli index"))
    }

    #[cfg(feature = "ann")]
    fn run(self, app: &App) -> Result<Status> {
        let collection = Collection::open(app, &self.embeddings)?;
        let failed = warn_unusable(app, &collection);
        app.detail(summary(&collection));
        let progress = app.progress("embeddings");
        progress.expect(collection.len() as u64);
        let about = approximate::build(&collection, &self.output, app.interrupt, &progress);
        progress.finish();
        let mut out = crate::output::Target::stdout();
        crate::output::write_line(&mut out, &about?)?;
        out.commit()?;
        Ok(if failed { Status::SomeFailed } else { Status::Done })
    }
}

/// The error of a build without approximate search.
#[cfg(not(feature = "ann"))]
pub(super) fn not_built_in(what: &str) -> crate::error::Error {
    crate::error::Error::usage(format!("{what} needs a program built with the cargo feature `ann`"))
        .hint("cargo install --path . --features ann; it needs a C++ compiler. Search without an index is exact")
}
