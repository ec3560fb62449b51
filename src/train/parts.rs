//! The parameters of a run, by where they are in the model: found once, and not again at each step.

use super::towers::Stream;
use crate::error::Result;
use crate::model::{Clip, ProjectionHead};
use candle_core::{DType, Device, Var};
use std::collections::{BTreeMap, BTreeSet};

/// The parameters that are trained.
#[derive(Debug, Default)]
pub struct Parts {
    /// All of them, by name.
    pub params: BTreeMap<String, Var>,
    /// The names of those that belong to no tower: the scale and the bias of the logits.
    head: BTreeSet<String>,
    /// Whether anything of the image tower is trained, and of the text tower.
    towers: [bool; 2],
    /// Whether anything below their projection heads is.
    trunks: [bool; 2],
    /// The logarithm of the scale, and the most that it may become.
    scale: Option<(Var, f64)>,
}

impl Parts {
    /// What of this model is trained.
    pub fn of(clip: &Clip) -> Result<Self> {
        let store = clip.store();
        let Some(trained) = store.trained() else { return Ok(Self::default()) };
        let mut parts = Self { params: trained.params(), ..Self::default() };
        for (name, var) in &parts.params {
            let ours = store.ours(name).unwrap_or_default();
            for (i, tower) in ["image.", "text."].into_iter().enumerate() {
                parts.towers[i] |= ours.starts_with(tower);
                parts.trunks[i] |= ours.starts_with(tower) && !ProjectionHead::holds(&ours);
            }
            if ours.starts_with("head.") {
                parts.head.insert(name.clone());
            }
            if ours == "head.logit_scale" {
                let start = store.files().read(name, DType::F64, &Device::Cpu)?;
                let start = start.map(|x| x.flatten_all()?.to_vec1::<f64>()).transpose()?.unwrap_or_default();
                let most = start.first().copied().unwrap_or(0.0).max(100f64.ln());
                parts.scale = Some((var.clone(), most));
            }
        }
        Ok(parts)
    }

    /// Whether a parameter belongs to no tower.
    pub(super) fn is_head(&self, name: &str) -> bool {
        self.head.contains(name)
    }

    /// Those of both towers.
    pub(super) fn of_towers(&self) -> impl Iterator<Item = (&String, &Var)> {
        self.params.iter().filter(|(name, _)| !self.is_head(name))
    }

    /// Whether anything of the image tower is trained.
    pub fn trains_images(&self) -> bool {
        self.towers[0]
    }

    /// Whether anything below the projection heads is trained: of the image tower, of the text tower.
    pub fn trains_trunks(&self) -> [bool; 2] {
        self.trunks
    }

    /// Whether anything of this stream's tower is trained.
    pub(super) fn trains(&self, stream: &Stream<'_>) -> bool {
        self.towers[usize::from(matches!(stream, Stream::Texts(_) | Stream::TextFeatures(_)))]
    }

    /// Keeps the scale between 1 and 100, as open_clip does, unless it began beyond.
    pub(super) fn clamp(&self) -> Result<()> {
        match &self.scale {
            Some((scale, most)) => Ok(scale.set(&scale.as_detached_tensor().clamp(0.0, *most)?)?),
            None => Ok(()),
        }
    }
}
