//! Negatives beyond the pairs of a batch: what fits the objective, and what does not.

use crate::app::App;
use crate::error::{Error, Result};
use crate::train::config::Config;
use crate::train::negatives::Extra;
use crate::train::objective::{Needs, Objective, Sum};

/// The objective with the extra negatives that are asked for, in a run of so many steps over so many pairs.
pub(super) fn with_extra(app: &App, objective: Sum, config: &Config, pairs: usize, steps: usize) -> Result<Sum> {
    let Some(sources) = config.extra() else { return Ok(objective) };
    if !objective.uses_extra() {
        let what = if sources.mochi.is_some() { "--mochi" } else { "--extra-negatives" };
        return Err(Error::usage(format!("the objective `{}` takes no negatives from beyond the batch", config.loss))
            .hint(format!("{what} goes with clip, negclip, degla, dcl or dclw; albef has a queue of its own")));
    }
    if let Some(mochi) = sources.mochi {
        let begins = [(mochi.of_negatives, mochi.negatives_after), (mochi.of_query, mochi.query_after)];
        if let Some((_, after)) = begins.into_iter().find(|(count, after)| *count > 0 && *after >= steps as u64) {
            return Err(Error::usage(format!("mixing would begin after {after} steps, but the run has {steps}"))
                .hint("a smaller --mochi-after, or more --epochs"));
        }
    }
    let extra = Extra::new(sources, pairs)?;
    let queue = extra.sources().queue;
    if queue < sources.queue {
        app.note(format_args!("the queue holds {queue} pairs, as many as an epoch has"));
    }
    Ok(objective.with_extra(extra))
}

/// Fails where captions that do not fit are missing, or would be mined for nothing.
pub(super) fn check_captions(config: &Config, needs: Needs) -> Result<()> {
    let mined = config.mining.as_ref().is_some_and(|mining| mining.batches == "columns");
    if mined && !needs.neg_texts {
        return Err(Error::usage(format!("the objective `{}` does not look at captions that do not fit", config.loss))
            .hint("--mine columns goes with --loss negclip or degla"));
    }
    if needs.neg_texts && !mined && config.text_negatives.is_none() && config.negatives[0] == 0 {
        return Err(Error::usage(format!("the objective `{}` needs captions that do not fit", config.loss)).hint(
            "--text-negatives swap,replace makes them, --mine columns finds them; or give the data a column neg_caption",
        ));
    }
    Ok(())
}
