//! `finetune`: contrastive fine-tuning on one's own pairs.

mod args;
mod bias;
pub(super) mod data;
mod extra;
mod model;
mod plan;
mod resume;
mod show;
mod together;
mod watch;

use super::{Command, Status};
use crate::app::App;
use crate::error::Result;
use args::FinetuneArgs;
use clap::Args;

/// Fine-tune a model on your own images and captions
#[derive(Args, Debug)]
#[command(after_help = "\
Training data are images with captions: a table with columns filepath and title (names as in open_clip; --caption-key \
and its like choose others), JSON Lines, Parquet, webdataset archives, or class folders; `a::b` mixes sources. Without \
--val-data a tenth of the images is held out. The output directory is a model: `--model RUN` takes it everywhere, and \
transformers or open_clip open it. It also holds metrics.jsonl, TensorBoard events and curve.html.

--batch-size is the contrastive batch, --micro-batch what goes through a tower at once: the result is that of one \
plain batch, in the memory of a micro-batch. A run that was killed goes on with --resume and ends with the same bytes.

Retention compares the model with its start on the held-out images: the share whose class among 1,000 names changed, \
and the mean KL divergence. Beyond --max-disagreement there is a warning, and the best epoch within it is kept.

Examples:
  clip-cli finetune --train-data captions.tsv --output run
  clip-cli finetune --train-data 'shards/{000..011}.tar' --lock-image --lr 1e-5 --output run
  clip-cli finetune --train-data captions.tsv --loss negclip --text-negatives swap --output run
  clip-cli finetune --train-data captions.tsv --train lora --lora-rank 8 --lr 1e-4 --output run
  clip-cli finetune --train-data captions.tsv --init ViT-B-32.json --lr 5e-4 --output run
  clip-cli finetune --resume --output run
  clip-cli finetune --list-losses")]
pub(super) struct Finetune {
    #[command(flatten)]
    args: FinetuneArgs,
}

impl Command for Finetune {
    const NAME: &'static str = "finetune";

    fn run(self, app: &App) -> Result<Status> {
        app.refuse_int8("training computes")?;
        if self.args.list_losses {
            show::losses()?;
            return Ok(Status::Done);
        }
        let engine = self.args.how.dist.clone();
        together::run(app, &engine, |app, group| plan::run(app, self.args, group))
    }
}
