//! The bias that a sigmoid needs: the model's own, a new one that is saved with the model, or one of the run alone.

use crate::app::App;
use crate::error::Result;
use crate::model::Clip;
use crate::train::config::Config;
use crate::train::objective::{self, Objective, Settings, Sum};
use candle_core::Var;

/// The objective; and the bias that becomes a parameter of the model, if it has none and its layout can hold one
/// (open_clip's: `logit_bias`). Where neither is so, the objective trains one that only the run's checkpoints have.
pub(super) fn objective(
    app: &App,
    config: &mut Config,
    clip: &Clip,
    mut sizes: Settings,
) -> Result<(Sum, Option<Var>)> {
    let build = |sizes: &Settings| objective::build(&config.loss, &config.loss_settings, sizes);
    sizes.model_bias = clip.store().tensors().any(|(_, ours, _)| ours == "head.logit_bias");
    let objective = build(&sizes)?;
    let Some((_, bias)) = objective.params().into_iter().find(|(name, _)| name == "siglip.bias") else {
        return Ok((objective, None));
    };
    if clip.files().weights_name() == "open_clip_model.safetensors" && !config.lock_scale {
        sizes.model_bias = true;
        let objective = build(&sizes)?;
        config.bias = Some("model".to_owned());
        app.note("the model gets the bias of siglip (`logit_bias`): its scores are sigmoids from now on");
        return Ok((objective, Some(bias)));
    }
    config.bias = Some("run".to_owned());
    let why = if config.lock_scale { "--lock-logit-scale keeps it out of" } else { "there is no place for it in" };
    app.warn(format_args!(
        "siglip trains a bias, and {why} the model that is saved: what is saved ranks as it was trained, but has no \
         sigmoid probabilities"
    ));
    Ok((objective, None))
}
