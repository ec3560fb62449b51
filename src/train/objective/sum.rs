//! A weighted sum of objectives, which is an objective.

use super::{Entry, Head, Needs, Objective, Pairs};
use crate::error::Result;
use crate::ops::normalize;
use crate::train::negatives::Extra;
use crate::train::negatives::extra::Seen;
use candle_core::{DType, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A weighted sum of objectives, and the extra negatives that they share.
pub struct Sum {
    terms: Vec<(&'static Entry, f64, Box<dyn Objective>)>,
    last: Vec<Tensor>,
    extra: Option<Extra>,
}

/// What the state of extra negatives is called; no objective is.
const EXTRA: &str = "extra";

impl Sum {
    /// The sum of these, each with its weight.
    pub fn new(terms: Vec<(&'static Entry, f64, Box<dyn Objective>)>) -> Self {
        Self { terms, last: Vec::new(), extra: None }
    }

    /// The same with negatives from beyond the batch.
    #[must_use]
    pub fn with_extra(self, extra: Extra) -> Self {
        Self { extra: Some(extra), ..self }
    }

    /// What gives negatives from beyond the batch.
    pub fn extra(&self) -> Option<&Extra> {
        self.extra.as_ref()
    }

    /// What the terms need together.
    pub fn needs(&self) -> Needs {
        self.terms.iter().fold(Needs::default(), |needs, (entry, ..)| needs.or(entry.needs))
    }

    /// What each term was at the last step, without its weight.
    pub fn last(&self) -> Result<Vec<(&'static str, f64)>> {
        let value = |x: &Tensor| -> Result<f64> { Ok(x.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?) };
        self.terms.iter().zip(&self.last).map(|((entry, ..), x)| Ok((entry.name, value(x)?))).collect()
    }
}

impl Objective for Sum {
    fn params(&self) -> Vec<(String, Var)> {
        let named = |name: &str, params: Vec<(String, Var)>| {
            params.into_iter().map(|(param, var)| (format!("{name}.{param}"), var)).collect::<Vec<_>>()
        };
        self.terms.iter().flat_map(|(entry, _, term)| named(entry.name, term.params())).collect()
    }

    fn uses_scale(&self) -> bool {
        self.terms.iter().any(|(_, _, term)| term.uses_scale())
    }

    fn uses_bias(&self) -> bool {
        self.terms.iter().any(|(_, _, term)| term.uses_bias())
    }

    fn uses_extra(&self) -> bool {
        self.terms.iter().any(|(_, _, term)| term.uses_extra())
    }

    fn value(&mut self, pairs: &Pairs, head: &Head, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        self.last.clear();
        let more = self.extra.as_mut().map(|extra| beyond(extra, pairs, head, rng)).transpose()?;
        let pairs = more.as_ref().unwrap_or(pairs);
        let mut sum: Option<Tensor> = None;
        for (_, weight, term) in &mut self.terms {
            let value = term.value(pairs, head, rng)?;
            self.last.push(value.detach());
            let value = (value * *weight)?;
            sum = Some(match sum {
                Some(sum) => (sum + value)?,
                None => value,
            });
        }
        match sum {
            Some(sum) => Ok(sum),
            None => Ok(Tensor::zeros((), pairs.images.dtype(), pairs.images.device())?),
        }
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        for (entry, _, term) in &self.terms {
            all.extend(term.state()?.into_iter().map(|(name, x)| (format!("{}.{name}", entry.name), x)));
        }
        let extra = self.extra.as_ref().map(Extra::state).transpose()?.unwrap_or_default();
        all.extend(extra.into_iter().map(|(name, x)| (format!("{EXTRA}.{name}"), x)));
        Ok(all)
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let of = |prefix: &str| {
            let own = |name: &str| Some(name.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
            state.iter().filter_map(|(name, x)| Some((own(name)?, x.clone()))).collect::<BTreeMap<_, _>>()
        };
        for (entry, _, term) in &mut self.terms {
            term.restore(&of(entry.name))?;
        }
        match &mut self.extra {
            Some(extra) => extra.restore(&of(EXTRA)),
            None => Ok(()),
        }
    }
}

/// The same pairs with negatives from beyond the batch, which remembers them.
fn beyond(extra: &mut Extra, pairs: &Pairs, head: &Head, rng: &mut ChaCha8Rng) -> Result<Pairs> {
    let unit = |x: &Tensor| -> Result<Tensor> { Ok(normalize(&x.detach())?.detach()) };
    let (images, texts) = (unit(&pairs.images)?, unit(&pairs.texts)?);
    let scale = head.scale()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    let step = pairs.progress.step as u64;
    let seen = Seen { sides: [&images, &texts], keys: &pairs.keys, scale, step };
    Ok(Pairs { extra: Some(extra.columns(seen, rng)?), ..pairs.clone() })
}
