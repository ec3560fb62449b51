//! Which parameters are trained, and how each of them is.

use crate::error::{Error, Result};
use crate::model::{Clip, ProjectionHead};
use std::collections::BTreeMap;

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Train {
    /// Both towers and the head.
    All,
    /// The image tower and the head.
    Image,
    /// The text tower and the head: image embeddings stay as they are.
    #[default]
    Text,
    /// The last linear maps of both towers and the head.
    Projections,
    /// Scales and shifts of normalisations.
    LayerNorm,
    /// Everything that is added and nothing that is multiplied (BitFit, Ben Zaken et al. 2021).
    Bias,
    /// The last so many blocks of both towers, what follows them, and the head.
    Last(usize),
    /// Low-rank changes of matrices (LoRA): no tensor of the checkpoint itself.
    Lora,
}

/// What is trained, and what of it stays locked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Selection {
    /// What is trained.
    pub train: Train,
    /// Whether the image tower stays as it is, but for the last so many groups of layers.
    pub lock_image: Option<usize>,
    /// The same for the text tower.
    pub lock_text: Option<usize>,
    /// Whether the scale and the bias of the logits stay as they are.
    pub lock_scale: bool,
    /// The rate of each group of layers over that of the next one, image tower first.
    pub layer_decay: [f64; 2],
}

/// A parameter that is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its name on disk.
    pub name: String,
    /// Its name in our towers.
    pub ours: String,
    /// Its shape on disk.
    pub shape: Vec<usize>,
    /// Whether weight decay applies: not to vectors and the head, as in open_clip.
    pub decays: bool,
    /// What its learning rate is multiplied by.
    pub rate: f64,
}

impl std::str::FromStr for Train {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "all" => Self::All,
            "image" => Self::Image,
            "text" => Self::Text,
            "projections" => Self::Projections,
            "layernorm" => Self::LayerNorm,
            "bias" => Self::Bias,
            "lora" => Self::Lora,
            _ => {
                let blocks = text.strip_prefix("last-").and_then(|n| n.parse().ok()).filter(|&n| n > 0);
                Self::Last(blocks.ok_or("expected all, image, text, projections, layernorm, bias, last-N or lora")?)
            }
        })
    }
}

impl std::fmt::Display for Train {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Image => "image",
            Self::Text => "text",
            Self::Projections => "projections",
            Self::LayerNorm => "layernorm",
            Self::Bias => "bias",
            Self::Lora => "lora",
            Self::Last(blocks) => return write!(f, "last-{blocks}"),
        })
    }
}

/// The tensors of the checkpoint that this selection trains, by name.
///
/// # Errors
/// Usage, when nothing is left to train.
pub fn select(clip: &Clip, selection: &Selection) -> Result<Vec<Param>> {
    let tensors: Vec<_> = clip.store().tensors().filter(|(_, ours, _)| !is_buffer(ours)).collect();
    let groups: BTreeMap<&str, Groups> = ["image", "text"]
        .map(|tower| (tower, Groups::of(tower, tensors.iter().map(|(_, ours, _)| ours.as_str()))))
        .into();
    let mut params = Vec::new();
    for (name, ours, shape) in tensors {
        let tower = ours.split('.').next().unwrap_or_default();
        let (group, groups) = match groups.get(tower) {
            Some(groups) => (groups.group(&ours), groups.count),
            None => (0, 1),
        };
        let from_end = groups - group;
        let (locked, decay) = match tower {
            "image" => (selection.lock_image, selection.layer_decay[0]),
            "text" => (selection.lock_text, selection.layer_decay[1]),
            _ => (selection.lock_scale.then_some(0), 1.0),
        };
        let chosen = match selection.train {
            _ if locked.is_some_and(|unlocked| from_end > unlocked) => false,
            Train::Lora => false,
            Train::All => true,
            Train::Image => tower != "text",
            Train::Text => tower != "image",
            Train::Projections => tower == "head" || from_end == 1,
            Train::LayerNorm => is_norm(&ours),
            Train::Bias => is_bias(&ours),
            // The projection is a group of its own.
            Train::Last(blocks) => tower == "head" || from_end <= blocks + 1,
        };
        if chosen {
            let decays = shape.iter().filter(|&&n| n > 1).count() > 1 && tower != "head";
            let rate = decay.powi(i32::try_from(from_end - 1).unwrap_or(i32::MAX));
            params.push(Param { name: name.to_owned(), ours, shape, decays, rate });
        }
    }
    if params.is_empty() && selection.train != Train::Lora {
        return Err(Error::usage("nothing is left to train").hint("unlock a tower, or train something else"));
    }
    Ok(params)
}

/// Whether this tensor counts or remembers and is never trained.
fn is_buffer(ours: &str) -> bool {
    ["running_mean", "running_var", "num_batches_tracked", "position_ids"].iter().any(|end| ours.ends_with(end))
}

/// The layer to which a tensor belongs: the name in front of the tensor's own.
fn layer(ours: &str) -> &str {
    let path = ours.rsplit_once('.').map_or("", |(path, _)| path);
    path.rsplit('.').next().unwrap_or_default()
}

fn is_norm(ours: &str) -> bool {
    let layer = layer(ours);
    layer.contains("norm") || layer.starts_with("bn") || layer.starts_with("ln")
}

fn is_bias(ours: &str) -> bool {
    ours.ends_with("bias")
}

/// The groups of layers of one tower, from its input (0) to its projection, as open_clip's `lock` forms them: what
/// precedes the blocks; each block but the last; the last block with the norm and the pooling behind it; the projection.
struct Groups {
    blocks: usize,
    count: usize,
}

impl Groups {
    fn of<'a>(tower: &str, names: impl Iterator<Item = &'a str>) -> Self {
        let blocks = names.filter(|ours| ours.starts_with(tower)).filter_map(block).max().map_or(0, |last| last + 1);
        Self { blocks, count: blocks.max(1) + 2 }
    }

    fn group(&self, ours: &str) -> usize {
        // What follows the blocks: norms, pooling, and the last convolutions of towers that are made of them.
        const BEHIND: [&str; 7] =
            ["norm.", "pool.", "head_norm.", "head.", "attnpool.", "trunk.head.", "trunk.final_conv."];
        if ProjectionHead::holds(ours) {
            return self.count - 1;
        }
        let inside = ours.split_once('.').map_or("", |(_, inside)| inside);
        if BEHIND.iter().any(|part| inside.starts_with(part)) {
            return self.blocks.max(1);
        }
        block(ours).map_or(0, |block| block + 1)
    }
}

/// The number of the block, or stage, that a tensor belongs to.
fn block(ours: &str) -> Option<usize> {
    let inside = ours.split_once('.')?.1;
    let mut parts = inside.strip_prefix("trunk.").unwrap_or(inside).split('.').peekable();
    if matches!(parts.peek(), Some(&("stem" | "hidden" | "proj" | "pool" | "head" | "final_conv"))) {
        return None;
    }
    parts.find_map(|part| part.parse().ok())
}
