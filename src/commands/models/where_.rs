//! `models where`: the directory of a model on this machine.

use crate::commands::show;
use crate::error::Result;
use crate::hub::{self, Here};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct Where {
    /// An alias, org/name, a directory or a .safetensors file
    #[arg(value_name = "MODEL")]
    model: String,

    /// Print the paths of the files, not that of the directory
    #[arg(long, conflicts_with = "format")]
    files: bool,

    /// path, or jsonl with the commit and the files
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Form,
}

/// How a place is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The directory
    #[default]
    Path,
    /// One JSON object
    Jsonl,
}

impl Where {
    pub(super) fn run(&self) -> Result<()> {
        let here = hub::here(&self.model)?.whole()?;
        let Here { name, directory, origin, .. } = &here;
        let files = here.files();
        if self.format == Form::Jsonl {
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            let place = serde_json::json!({ "name": name, "directory": directory, "origin": origin, "files": names });
            return show::write_jsonl([place]);
        }
        let paths: Vec<PathBuf> =
            if self.files { files.iter().map(|file| directory.join(file)).collect() } else { vec![directory.clone()] };
        paths.iter().try_for_each(|path| show::write_path(path))
    }
}
