//! `models pull`: fetch a model.

use crate::app::App;
use crate::commands::show;
use crate::error::{Error, Result};
use crate::hub::{self, Origin};
use clap::Args;

#[derive(Args, Debug)]
pub(super) struct Pull {
    /// An alias, or org/name, and @revision if it is not the main branch
    #[arg(value_name = "MODEL")]
    model: String,

    /// Fetch the weights also if they are a pickle, for `models convert`; embed and the others do not read it
    #[arg(long)]
    pickle: bool,
}

impl Pull {
    pub(super) fn run(&self, app: &App) -> Result<()> {
        let options = hub::Options { offline: app.offline, refresh: true, watch: Some(app.watch_download()) };
        if self.pickle {
            let here = hub::fetch_pickled(&self.model, &options)?;
            if let Some(Origin { repository, revision, sha }) = &here.origin {
                app.note(format_args!("{repository}@{revision} is commit {sha}"));
            }
            return show::write_path(&here.directory);
        }
        let found = hub::resolve_with(&self.model, &options)?;
        found.notes.iter().for_each(|note| app.warn(note));
        let (Some(origin), Some(directory)) = (&found.origin, found.files.directory()) else {
            return Err(Error::usage("not a model on the Hub").at(&self.model));
        };
        app.note(format_args!("{}@{} is commit {}", origin.repository, origin.revision, origin.sha));
        show::write_path(directory)
    }
}
