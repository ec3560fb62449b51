//! What a run does, as its directory remembers it.

use super::negatives::Mochi;
use super::negatives::extra::Sources;
use super::select::Train;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything that a run's numbers follow from, the data apart.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The training data, as they were named.
    pub train_data: String,
    /// The pairs to look at, if they are not held out.
    pub val_data: Option<String>,
    /// Images of known classes whose accuracy is watched.
    pub retention_data: Option<String>,
    /// The largest share of images that may change their class, and how much accuracy on images of known classes may be
    /// lost; none if neither is looked at.
    pub retention: Option<[f64; 2]>,
    /// How often an epoch sees each source.
    pub upsampling: Option<String>,
    /// How files with many images are read: options and their values.
    pub source: Vec<(String, String)>,
    /// Which columns hold what, and what classes stand for.
    pub columns: BTreeMap<String, String>,
    /// The model that it starts from, as it was named.
    pub model: Option<String>,
    /// The hash that names that model.
    pub model_sha: String,
    /// Another input size, in pixels.
    pub image_size: Option<usize>,
    /// What is trained.
    pub train: String,
    /// How many groups of layers of a locked image tower are trained all the same.
    pub lock_image: Option<usize>,
    /// The same for the text tower.
    pub lock_text: Option<usize>,
    /// Whether the logits' scale and bias stay.
    pub lock_scale: bool,
    /// The rate of a group of layers over that of the next, image tower first.
    pub layer_decay: [f64; 2],
    /// Low-rank changes, if they are what is trained.
    pub lora: Option<LoraConfig>,
    /// Where they come from, if they are not new.
    #[serde(default)]
    pub init_lora: Option<PathBuf>,
    /// The hash that names those.
    #[serde(default)]
    pub init_lora_sha: String,
    /// The objective.
    pub loss: String,
    /// Where the bias of `siglip` is that the model did not have: `model`, or `run` if it is not saved with it.
    pub bias: Option<String>,
    /// Its settings: objective, name, value.
    pub loss_settings: Vec<(String, String, f64)>,
    /// The model to learn from, as it was named.
    pub teacher: Option<String>,
    /// What is done about duplicates.
    pub duplicates: String,
    /// How many pairs are contrasted.
    pub batch_size: usize,
    /// How many items go through a tower at once.
    pub micro_batch: usize,
    /// Whether activations are computed again in the backward pass.
    pub grad_checkpointing: bool,
    /// How many epochs.
    pub epochs: usize,
    /// The optimiser.
    pub opt: String,
    /// The highest learning rate.
    pub lr: f64,
    /// Its decay of the first moment.
    pub beta1: f64,
    /// Its decay of the second moment.
    pub beta2: f64,
    /// Its epsilon.
    pub eps: f64,
    /// Its weight decay.
    pub wd: f64,
    /// How many steps the rate rises.
    pub warmup: usize,
    /// What it does then.
    pub lr_scheduler: String,
    /// The largest norm that all gradients together may have.
    pub grad_clip_norm: Option<f64>,
    /// The decay of the moving average of the weights.
    pub ema_decay: Option<f64>,
    /// Which captions an epoch sees.
    pub caption_sampling: String,
    /// How images are changed: open_clip's settings.
    pub aug_cfg: Vec<(String, String)>,
    /// Captions that do not fit, made from each caption: which kinds, and how many.
    pub text_negatives: Option<(String, usize)>,
    /// How many of the data's own negative captions and images a pair gets.
    pub negatives: [usize; 2],
    /// How batches are composed of embeddings, if they are.
    pub mining: Option<MiningConfig>,
    /// Further columns of the softmax, of earlier batches or by lot.
    pub extra_negatives: Option<ExtraConfig>,
    /// Mixed negatives: of how many of the hardest, how many of two negatives, how many of the query and one.
    pub mochi: Option<[usize; 3]>,
    /// The steps before the first mixes of two negatives, and of the query and one.
    #[serde(default)]
    pub mochi_after: [usize; 2],
    /// What all randomness follows from.
    pub seed: u64,
    /// What the data are, in hexadecimal.
    pub data: String,
    /// How many processes train together.
    pub processes: usize,
    /// The version of this program.
    pub version: String,
    /// The instruction set, which the last digits depend on.
    pub instruction_set: String,
}

/// Low-rank changes (Hu et al. 2021).
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LoraConfig {
    /// The rank.
    pub rank: usize,
    /// What the product is multiplied by, times the rank.
    pub alpha: f64,
    /// The share of inputs that are dropped in training.
    pub dropout: f64,
    /// Which maps of each block: `q`, `k`, `v`, `out`, `fc1`, `fc2`, `proj`.
    pub targets: Vec<String>,
    /// Which towers: `image`, `text` or `both`.
    pub tower: String,
}

/// How batches are composed of embeddings.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct MiningConfig {
    /// Every how many epochs embeddings are made anew.
    pub every: usize,
    /// `hard`: pairs with a near neighbour; `cluster`: batches out of one cluster; `columns`: near captions that do not fit.
    pub batches: String,
    /// How many clusters.
    pub clusters: usize,
    /// How many near captions.
    #[serde(default)]
    pub captions: usize,
}

/// Negatives from beyond the batch.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ExtraConfig {
    /// How many pairs of earlier batches are remembered.
    pub queue: usize,
    /// How many are drawn for each query; 0: all of the queue.
    pub sample: usize,
}

impl Config {
    /// Where extra negatives come from, if there are any.
    pub fn extra(&self) -> Option<Sources> {
        let [negatives_after, query_after] = self.mochi_after.map(|after| after as u64);
        let mochi = self.mochi.map(|[hardest, of_negatives, of_query]| Mochi {
            hardest,
            of_negatives,
            of_query,
            negatives_after,
            query_after,
        });
        let ExtraConfig { queue, sample } = self.extra_negatives.unwrap_or_default();
        (queue + sample > 0 || mochi.is_some()).then_some(Sources { queue, sample, mochi })
    }

    /// What is trained.
    pub fn train(&self) -> Train {
        self.train.parse().unwrap_or_default()
    }
}
