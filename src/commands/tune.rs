//! `tune`: few-shot tuning on one's own images.

mod args;
mod exams;
mod job;
mod judged;
mod learn;
mod page;
mod show;
mod words;

use super::{Command, Status};
use crate::app::App;
use crate::error::Result;
use args::TuneArgs;
use clap::Args;

/// Tune prompts or adapters on a few images of each class
#[derive(Args, Debug)]
#[command(after_help = "\
--data is a folder of class folders, a table with a label column, an archive with KEY.jpg and KEY.cls, or one of CoOp's \
split_*.json. --shots images of each class are drawn, with up to four more for validation; the split is printed and \
saved. Nothing is ever chosen by test images: those of --eval-data, of the set's own test part, or of what was not \
drawn. The output directory is a model: `zeroshot --model RUN` labels with it.

The report beside it compares the method with zero-shot and with a linear probe on the same images, and on standard \
output there is a line for each number of shots, seed and set. Several --shots or --seeds make a run each, in \
DIR/shots-K/seed-S, and the report of several --shots draws accuracy against them. --split base trains on the first half of the classes and judges both \
halves (where the method can) and their harmonic mean.

Examples:
  clip-cli tune --method coop --data clothing10/train --shots 16 --output run
  clip-cli tune --method tip --data pets/train --eval-data pets/test --seeds 1,2,3 --output run
  clip-cli tune --method tip-f --data pets/train --shots 1,2,4,8,16 --output run
  clip-cli tune --method kgcoop --data split_zhou_Caltech101.json --split base --output run
  clip-cli zeroshot --model run photos/
  clip-cli tune --list-methods")]
pub(super) struct Tune {
    #[command(flatten)]
    args: TuneArgs,
}

impl Command for Tune {
    const NAME: &'static str = "tune";

    fn run(self, app: &App) -> Result<Status> {
        app.refuse_int8("tuning computes")?;
        if self.args.list_methods {
            show::methods(self.args.shape)?;
            return Ok(Status::Done);
        }
        job::run(app, &self.args)
    }
}
