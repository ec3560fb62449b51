//! `completions`: what a shell needs to complete our command lines.

use super::{Command, Status, cli};
use crate::app::App;
use crate::error::Result;
use clap::Args;
use clap_complete::Shell;
use std::io::Write;

/// Write the completions of a shell to standard output
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  clip-cli completions bash > ~/.local/share/bash-completion/completions/clip-cli
  clip-cli completions fish > ~/.config/fish/completions/clip-cli.fish
  clip-cli completions zsh > \"${fpath[1]}/_clip-cli\"")]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Command for Completions {
    const NAME: &'static str = "completions";

    fn run(self, _: &App) -> Result<Status> {
        // Into memory first: the generator panics when its reader goes away.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli(), "clip-cli", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(Status::Done)
    }
}
