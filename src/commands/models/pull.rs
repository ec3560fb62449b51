//! `models pull`: fetch a model.

use crate::app::App;
use crate::commands::show;
use crate::error::{Error, Result};
use crate::hub;
use clap::Args;

#[derive(Args, Debug)]
pub(super) struct Pull {
    /// An alias, or org/name, and @revision if it is not the main branch
    #[arg(value_name = "MODEL")]
    model: String,
}

impl Pull {
    pub(super) fn run(&self, app: &App) -> Result<()> {
        let options = hub::Options { offline: app.offline, refresh: true, watch: Some(app.watch_download()) };
        let found = hub::resolve_with(&self.model, &options)?;
        found.notes.iter().for_each(|note| app.warn(note));
        let (Some(origin), Some(directory)) = (&found.origin, found.files.directory()) else {
            return Err(Error::usage("not a model on the Hub").at(&self.model));
        };
        app.note(format_args!("{}@{} is commit {}", origin.repository, origin.revision, origin.sha));
        show::write_path(directory)
    }
}
