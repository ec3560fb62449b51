//! The moving average of a run's weights, as a model.

use super::models::open_sized;
use crate::app::App;
use crate::commands::{Status, show};
use crate::error::{Error, Result};
use crate::train::interpolate::{new_directory, write_readme};
use crate::train::lora;
use crate::train::run_dir::RunDir;
use crate::train::save::{BIAS, save_merged};
use crate::weights::View;
use candle_core::Var;
use std::path::Path;

pub(super) fn run(app: &App, run: &Path, output: &Path) -> Result<Status> {
    let (directory, config, state) = RunDir::open(run)?;
    let average = directory.load(state.step)?.ema;
    if average.is_empty() {
        return Err(Error::run("this run keeps no moving average")
            .at(run.display())
            .hint("`finetune --ema-decay 0.999` keeps one, and its model is the average already"));
    }
    let base = config.model.as_deref().unwrap_or("builtin");
    let clip = open_sized(app, Path::new(base), config.image_size);
    let mut clip = clip.map_err(|e| e.at("the model that the run began with"))?;
    if config.model_sha != clip.sha() {
        return Err(Error::run(format!("{base} is not the model that the run began with any more"))
            .hint("put the checkpoint back as it was"));
    }
    // What siglip gave a model that had none.
    let new = average.get(BIAS).filter(|_| !clip.store().files().contains(BIAS));
    let whole = average.keys().filter(|name| !lora::is_factor(name) && (new.is_none() || *name != BIAS));
    let trained = clip.store_mut().train(whole.map(String::as_str))?;
    if let Some(bias) = new {
        trained.vars.insert(BIAS.to_owned(), Var::from_tensor(bias)?);
    }
    if let Some(settings) = &config.lora {
        trained.adapters = lora::of_factors(&average, settings)?;
    }
    new_directory(output, |at| {
        save_merged(&clip, View::Instead(&average), at)?;
        let how =
            format!("The moving average of the weights after step {} of a fine-tuning of this model.", state.step);
        write_readme(at, &how, &[(&clip, "start".to_owned())])
    })?;
    show::write_path(output)?;
    Ok(Status::Done)
}
