//! `completions`: what a shell needs to complete our command lines, and the manual pages.

use super::{Command, Status, cli, show};
use crate::app::App;
use crate::error::{Error, Result};
use crate::output::Target;
use clap::Args;
use clap_complete::Shell;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Write the completions of a shell to standard output, or manual pages to a directory
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  clip-cli completions bash > ~/.local/share/bash-completion/completions/clip-cli
  clip-cli completions fish > ~/.config/fish/completions/clip-cli.fish
  clip-cli completions zsh > \"${fpath[1]}/_clip-cli\"
  clip-cli completions --man ~/.local/share/man/man1")]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum, required_unless_present = "man")]
    shell: Option<Shell>,

    /// Write a manual page for each command to this directory, and print their paths
    #[arg(long, value_name = "DIR", conflicts_with = "shell")]
    man: Option<PathBuf>,
}

impl Command for Completions {
    const NAME: &'static str = "completions";

    fn run(self, _: &App) -> Result<Status> {
        // Into memory first: the generator panics when its reader goes away.
        if let Some(shell) = self.shell {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli(), "clip-cli", &mut script);
            std::io::stdout().write_all(&script)?;
        }
        if let Some(directory) = &self.man {
            std::fs::create_dir_all(directory).map_err(|e| Error::run(e).at(directory.display()))?;
            let mut root = cli().disable_help_flag(false);
            root.build();
            write_manual(&root, "clip-cli", directory)?;
        }
        Ok(Status::Done)
    }
}

/// Writes the manual page of a command, and those of the commands below it.
fn write_manual(command: &clap::Command, name: &str, directory: &Path) -> Result<()> {
    let mut page = Vec::new();
    let named = command.clone().name(name.to_owned()).display_name(name.to_owned());
    clap_mangen::Man::new(named).render(&mut page)?;
    let path = directory.join(format!("{name}.1"));
    let mut target = Target::open(&path)?;
    target.write_all(&page).map_err(|e| target.error(e))?;
    target.commit()?;
    show::write_path(&path)?;
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.into_iter().try_for_each(|below| write_manual(below, &format!("{name}-{}", below.get_name()), directory))
}
