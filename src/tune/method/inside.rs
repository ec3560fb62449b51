//! Methods that change the towers themselves: towers are made anew at each step, of parameters as they are then.

use super::{Batch, Images, Method};
use crate::error::{Error, Result};
use crate::model::{Clip, TextTower};
use crate::ops::{Dropout, normalize};
use crate::train::select::{Selection, Train, select};
use crate::tune::Task;
use crate::tune::loss::cross_entropy;
use crate::tune::method::{Options, Setting};
use crate::weights::{Trained, View};
use candle_core::{Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which towers are changed.
pub(super) const TOWER: Setting = Setting {
    name: "tower",
    default: 0.0,
    range: (0.0, 2.0),
    help: "0: both towers, 1: the image tower, 2: the text tower",
};

/// The name of what [`TOWER`] says.
pub(super) fn tower(options: &Options) -> &'static str {
    ["both", "image", "text"][options.count(TOWER.name).min(2)]
}

/// Makes the tensors of a selection variables, in the towers that the options name; not the scale of the logits.
pub(super) fn train_tensors(clip: &mut Clip, options: &Options, train: Train) -> Result<()> {
    let locked = |other: &str| (tower(options) == other).then_some(0);
    let selection = Selection {
        train,
        lock_image: locked("text"),
        lock_text: locked("image"),
        lock_scale: true,
        layer_decay: [1.0; 2],
    };
    let params = select(clip, &selection)?;
    clip.store_mut().train(params.iter().map(|param| param.name.as_str()))?;
    // Towers are built without looking for what does not fit from here on.
    clip.check()
}

/// A model some of whose own parameters, or low-rank changes of them, are trained.
pub(super) struct Inside {
    params: BTreeMap<String, Var>,
    /// Whether anything of the image tower, and of the text tower, is trained.
    trains: [bool; 2],
    /// What dropout follows from, where there is any.
    seed: Option<Arc<AtomicU64>>,
}

impl Inside {
    /// What the entry's `prepare` has made trainable.
    pub(super) fn new(task: &Task<'_>) -> Result<Self> {
        let store = task.clip.store();
        let trained =
            store.trained().ok_or_else(|| Error::run("the model was not prepared for its own weights to change"))?;
        let params = Trained::params(trained);
        let any = |tower: &str| params.keys().filter_map(|name| store.ours(name)).any(|ours| ours.starts_with(tower));
        let trains = [any("image."), any("text.")];
        Ok(Self { params, trains, seed: trained.dropout.as_ref().map(|dropout| dropout.seed.clone()) })
    }

    /// The classes' rows: the first template alone, since the tower sees them at each step (CLIP-LoRA's `lora.py`).
    fn rows(task: &Task<'_>, tower: &TextTower) -> Result<Tensor> {
        let batch = task.first_prompts()?;
        Ok(normalize(&tower.forward(&batch.ids, batch.len)?)?)
    }

    /// Gradients flow where something is trained.
    fn view(trained: bool) -> View<'static> {
        if trained { View::Tracked } else { View::Constant }
    }

    fn drop(&self, seed: u64) {
        self.seed.iter().for_each(|of| of.store(seed, Ordering::Relaxed));
    }
}

impl Method for Inside {
    fn params(&self) -> BTreeMap<String, Var> {
        self.params.clone()
    }

    fn texts(&self, task: &Task<'_>) -> Result<Tensor> {
        Self::rows(task, &task.clip.build_text(View::Constant)?)
    }

    fn features(&self, task: &Task<'_>, pixels: &Tensor) -> Result<Tensor> {
        task.clip.build_image(View::Constant)?.forward(pixels)
    }

    fn loss(&mut self, task: &Task<'_>, batch: &Batch, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let [image, text] = self.trains.map(Self::view);
        // Ops remember the seed that they ran with.
        self.drop(rng.random::<u64>() & (u64::MAX >> 1));
        let towers = || -> Result<_> {
            let texts = Self::rows(task, &task.clip.build_text(text)?)?;
            let features = match &batch.images {
                Images::Pixels(pixels) => task.clip.build_image(image)?.forward(pixels)?,
                Images::Features(_) if self.trains[0] => {
                    return Err(Error::run("what changes the image tower must see images"));
                }
                Images::Features(features) => features.clone(),
            };
            Ok((features, texts))
        };
        let made = towers();
        self.drop(Dropout::OFF);
        let (features, texts) = made?;
        cross_entropy(&self.logits(task, &texts, &features)?, &batch.labels)
    }
}
