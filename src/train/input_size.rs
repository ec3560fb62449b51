//! A model that was opened at another input size than its own, as a checkpoint of that size.

use crate::convert::same::resize;
use crate::convert::transfer::Resized;
use crate::error::{Error, Result};
use crate::model::Clip;
use crate::model::family::{Config, detect};
use crate::model::spec::ImageSpec;
use crate::weights::Raw;
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::borrow::Cow;

/// What is written otherwise than it was read.
pub(super) struct InputSize {
    /// The sides of the images that the checkpoint is for, and that the model takes.
    sides: [usize; 2],
    /// The learnt positions, where the tower has some.
    positions: Option<Resized>,
}

impl InputSize {
    /// None of a model that takes the images that its checkpoint is for.
    pub(super) fn of(clip: &Clip) -> Result<Option<Self>> {
        let (files, store) = (clip.files(), clip.store());
        let own = Clip::plan(files, store.files())?.spec;
        if own == clip.spec {
            return Ok(None);
        }
        let sides = [own.preprocess.size[0], clip.spec.preprocess.size[0]];
        Ok(Some(Self { sides, positions: Resized::new(store.files(), store.layout(), &clip.spec)? }))
    }

    /// A file beside the weights.
    pub(super) fn companion(&self, name: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if !CONFIGURATIONS.contains(&name) {
            return Ok(bytes);
        }
        let at = |e| Error::run(e).at(name);
        let mut config: Value = serde_json::from_slice(&bytes).map_err(at)?;
        // What it cannot say was said before: [`check`].
        let _ = self.configure(name, &mut config);
        serde_json::to_vec_pretty(&config).map_err(at)
    }

    /// Whether a tensor of the checkpoint is one of the new checkpoint.
    pub(super) fn keeps(&self, name: &str) -> bool {
        !self.positions.as_ref().is_some_and(|positions| positions.outdates(name))
    }

    /// The shape of a tensor that has this one in the checkpoint.
    pub(super) fn shape(&self, name: &str, own: Vec<usize>) -> Vec<usize> {
        self.positions_of(name).map_or_else(|| own.clone(), |positions| positions.shape(&own))
    }

    /// A tensor (f32) that is this one in the shape of the checkpoint.
    pub(super) fn numbers(&self, name: &str, shape: &[usize], bytes: Vec<u8>) -> Result<Vec<u8>> {
        let Some(positions) = self.positions_of(name) else { return Ok(bytes) };
        let raw = Raw { dtype: Dtype::F32, shape: shape.to_vec(), bytes: Cow::Owned(bytes) };
        Ok(positions.run(raw)?.bytes.into_owned())
    }

    fn positions_of(&self, name: &str) -> Option<&Resized> {
        self.positions.as_ref().filter(|positions| positions.name == name)
    }

    /// Changes a configuration; gives what it cannot say.
    fn configure(&self, name: &str, config: &mut Value) -> Option<String> {
        let [old, side] = self.sides;
        resize(name, config, old, side)
    }
}

/// The files that say how large images are.
const CONFIGURATIONS: [&str; 4] =
    ["config.json", "preprocessor_config.json", "processor_config.json", "open_clip_config.json"];

/// Fails when a checkpoint cannot say the input size that the model was opened at; gives what its library must be told.
///
/// # Errors
/// Usage.
pub fn check(clip: &Clip) -> Result<Option<String>> {
    let refused = |what: String| {
        Error::usage(format!("--image-size: {} cannot be saved for images of another size: {what}", clip.name()))
            .hint("leave --image-size out")
    };
    let Some(size) = InputSize::of(clip).map_err(|e| refused(e.to_string()))? else { return Ok(None) };
    let Config { mut hf, mut preprocessor, mut open_clip, .. } = clip.files().config()?;
    let files = [("config.json", &mut hf), ("preprocessor_config.json", &mut preprocessor)];
    let mut difference = None;
    for (name, config) in files.into_iter().chain([("open_clip_config.json", &mut open_clip)]) {
        difference = config.as_mut().and_then(|config| size.configure(name, config)).or(difference);
    }
    let config = Config { hf, preprocessor, open_clip, ..clip.files().config()? };
    let mut wanted = clip.spec.clone();
    if let ImageSpec::Vit(vit) = &mut wanted.image {
        vit.image_size = vit.input_size;
    }
    let found = detect(&config).and_then(|family| family.plan(&config, clip.store().files()))?.spec;
    match found == wanted {
        true => Ok(difference),
        false => Err(refused("its configuration has no place for that".to_owned())),
    }
}
