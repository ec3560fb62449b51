//! The towers, and how a checkpoint on disk becomes a pair of them.
//!
//! [`family`] reads a checkpoint's configuration into a [`spec::Spec`]; [`Clip`] holds the two towers, which load when
//! they are first needed, so that a job with images alone never reads the text tower.

pub mod attentional_pooler;
pub mod bert;
pub mod block;
mod conv;
mod conv_stem;
pub mod convnext;
pub mod efficientnet;
pub mod family;
pub mod fastvit;
pub mod files;
mod pieces;
pub mod positions;
pub mod projection_head;
pub mod readout;
pub mod resnet;
pub mod spec;
pub mod stack;
pub mod tower;
pub mod transformer;
pub mod vit;

pub use files::ModelFiles;
pub use projection_head::ProjectionHead;
pub use readout::Readout;
pub use spec::Spec;
pub use tower::{ImageTower, TextTower};

use crate::error::{Error, Result};
use crate::image::Preprocess;
use crate::text::{Pad, TextSpec, Tokenizer};
use crate::weights::{Files, Store, View};
use candle_core::{DType, Device, Tensor};
use family::{Plan, TextPlan};
use pieces::in_pieces;
use spec::{ImageSpec, Objective};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A checkpoint, ready to embed images and texts.
pub struct Clip {
    /// What the checkpoint's configuration says.
    pub spec: Spec,
    name: String,
    sha: String,
    store: Store,
    files: ModelFiles,
    text_plan: TextPlan,
    image: Lazy<ImageTower>,
    text: Lazy<TextTower>,
    tokenizer: Lazy<(Tokenizer, TextSpec)>,
    image_prompts: Vec<Tensor>,
}

/// What to load and where to.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the towers compute.
    pub device: Device,
    /// The kind of numbers they compute with.
    pub dtype: DType,
    /// Whether the larger maps compute in 8-bit integers, on the CPU: faster, smaller, and nearly the same.
    pub int8: bool,
    /// Another input size, in pixels: positions are interpolated as the layout's reference does.
    pub image_size: Option<usize>,
    /// A directory where hashes of checkpoints are kept between runs.
    pub hashes: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, int8: false, image_size: None, hashes: None }
    }
}

/// How cosine similarities become scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// Multiplies the cosine: `exp(logit_scale)`.
    pub scale: f32,
    /// Added to the product (SigLIP), else 0.
    pub bias: f32,
    /// What is done to the logits.
    pub objective: Objective,
}

impl Clip {
    /// Reads a checkpoint's configuration and the headers of its weights; the towers themselves load when needed.
    pub fn open(files: ModelFiles, options: &LoadOptions) -> Result<Self> {
        let weights = files.weights()?;
        let mut plan = Self::plan(&files, &weights)?;
        if let Some(side) = options.image_size {
            resize_input(&mut plan.spec, side)?;
        } else if let ImageSpec::Vit(vit) = &plan.spec.image
            && vit.input_size != plan.spec.preprocess.size
        {
            let (tower, processor) = (vit.input_size, plan.spec.preprocess.size);
            let message = format!("the image tower takes {tower:?} pixels, its preprocessing makes {processor:?}");
            return Err(Error::run(message).at(files.name()).hint("name the size that you want with --image-size"));
        }
        Self::from_plan(files, weights, plan, options)
    }

    /// What a checkpoint's files say about it.
    pub fn plan(files: &ModelFiles, weights: &Files) -> Result<Plan> {
        let config = files.config()?;
        let plan = family::detect(&config).and_then(|family| family.plan(&config, weights));
        plan.map_err(|e| e.at(files.name()))
    }

    /// A checkpoint whose plan may differ from what its files say.
    pub fn from_plan(files: ModelFiles, weights: Files, plan: Plan, options: &LoadOptions) -> Result<Self> {
        plan.spec.check().map_err(|e| e.at(files.name()))?;
        let sha = files.sha(&weights, options.image_size, options.hashes.as_deref());
        Ok(Self {
            spec: plan.spec,
            name: files.name().to_owned(),
            sha,
            store: Store::new(weights, plan.layout, options.dtype, options.device.clone()).with_int8(options.int8),
            files,
            text_plan: plan.text,
            image: Lazy::default(),
            text: Lazy::default(),
            tokenizer: Lazy::default(),
            image_prompts: Vec::new(),
        })
    }

    /// The name that records carry: `name@sha8`.
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, &self.sha[..8])
    }

    /// The checkpoint's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where on the Hub it comes from, `org/name@commit`, if it does.
    pub fn origin(&self) -> Option<&str> {
        self.files.origin()
    }

    /// A hash of the weights, their preprocessing and the configuration: 64 hexadecimal digits.
    pub fn sha(&self) -> &str {
        &self.sha
    }

    /// A hash of all that a text's embedding depends on: the checkpoint and its tokenizer. 64 hexadecimal digits.
    pub fn text_sha(&self) -> Result<String> {
        self.files.text_sha(&self.sha, &self.text_plan.tokenizer)
    }

    /// The checkpoint's tensors.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is done to an image before its tower sees it.
    pub fn preprocess(&self) -> &Preprocess {
        &self.spec.preprocess
    }

    /// The checkpoint's files.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The checkpoint's tensors, to make variables of some.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Puts learnt tokens into the image tower, as [`vit::Vit::forward_prompted`] has them: what it embeds from now on is
    /// another model's.
    pub fn set_image_prompts(&mut self, prompts: Vec<Tensor>) {
        self.image_prompts = prompts;
    }

    /// Gives the model another name, and a hash of its own and of what it was changed by.
    pub fn rename(&mut self, name: String, change: &[u8]) {
        self.name = name;
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.sha.as_bytes()).update(change);
        self.sha = hasher.finalize().to_hex().to_string();
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised.
    pub fn forward_images(&self, pixels: &Tensor) -> Result<Tensor> {
        let tower = self.image()?;
        let (items, _, height, width) = pixels.dims4()?;
        // A convolution's work has no such unit.
        let tokens = tower.token_count([height, width]).unwrap_or(0);
        in_pieces(items, tokens, pixels.device(), |range| {
            tower.forward_prompted(&pixels.narrow(0, range.start, range.len())?, &self.image_prompts)
        })
    }

    /// The image tower, loaded at the first call: constants, to embed with.
    pub fn image(&self) -> Result<Arc<ImageTower>> {
        self.image.get(|| {
            let tower = self.build_image(View::Constant)?;
            self.store.check("image").map_err(|e| e.at(&self.name))?;
            Ok(tower)
        })
    }

    /// Gives the image tower's memory back; the next [`Clip::image`] loads it again.
    pub fn forget_image(&self) {
        self.image.clear();
    }

    /// The text tower, loaded at the first call: constants, to embed with.
    pub fn text(&self) -> Result<Arc<TextTower>> {
        self.text.get(|| {
            let tower = self.build_text(View::Constant)?;
            self.store.check("text").map_err(|e| e.at(&self.name))?;
            Ok(tower)
        })
    }

    /// Builds both towers once, and names every tensor that does not fit.
    pub fn check(&self) -> Result<()> {
        self.build_image(View::Tracked)?;
        self.store.check("image").map_err(|e| e.at(&self.name))?;
        self.build_text(View::Tracked)?;
        self.store.check("text").map_err(|e| e.at(&self.name))
    }

    /// The image tower of the parameters as they are now: while they are trained, a tower is good for one step.
    pub fn build_image(&self, view: View<'_>) -> Result<ImageTower> {
        ImageTower::load(&self.store.view("image", view), &self.spec.image, self.spec.embed_dim)
    }

    /// The text tower of the parameters as they are now.
    pub fn build_text(&self, view: View<'_>) -> Result<TextTower> {
        TextTower::load(&self.store.view("text", view), &self.spec.text, self.spec.embed_dim)
    }

    /// The image tower's projection head of the parameters as they are now.
    pub fn image_projection(&self, view: View<'_>) -> Result<ProjectionHead> {
        ImageTower::projection(&self.store.view("image", view), &self.spec.image, self.spec.embed_dim)
    }

    /// The text tower's.
    pub fn text_projection(&self, view: View<'_>) -> Result<ProjectionHead> {
        TextTower::projection(&self.store.view("text", view), &self.spec.text, self.spec.embed_dim)
    }

    /// The logarithm of the scale and the bias of the logits, both scalars, as they are now.
    pub fn head_tensors(&self, view: View<'_>) -> Result<(Tensor, Option<Tensor>)> {
        let params = self.store.view("head", view);
        let scalar = |name| -> Result<Option<Tensor>> {
            params.optional(name, &[1])?.map(|tensor| Ok(tensor.reshape(())?)).transpose()
        };
        // ALIGN divides by a temperature, the others multiply by exp(logit_scale).
        let scale = match scalar("temperature")? {
            Some(temperature) => temperature.log()?.neg()?,
            None => scalar("logit_scale")?
                .ok_or_else(|| Error::run("the checkpoint has no tensor `logit_scale`").at(&self.name))?,
        };
        Ok((scale, scalar("logit_bias")?))
    }

    /// How similarities become scores.
    pub fn head(&self) -> Result<Head> {
        let (scale, bias) = self.head_tensors(View::Constant)?;
        let number = |x: Tensor| -> Result<f32> { Ok(x.to_dtype(DType::F32)?.to_scalar::<f32>()?) };
        let bias = bias.map(number).transpose()?.unwrap_or(0.0);
        Ok(Head { scale: number(scale)?.exp(), bias, objective: self.spec.objective })
    }

    /// The tokenizer and what the text tower expects of it, loaded at the first call.
    pub fn tokenizer(&self) -> Result<Arc<(Tokenizer, TextSpec)>> {
        self.tokenizer.get(|| {
            let tokenizer = self.files.tokenizer(&self.text_plan.tokenizer)?;
            let mut spec = tokenizer.spec(self.spec.text.context());
            let pad = self.text_plan.pad_id.unwrap_or(match spec.pad {
                Pad::Fixed { id } | Pad::Longest { id } => id,
            });
            spec.pad = if self.text_plan.fixed { Pad::Fixed { id: pad } } else { Pad::Longest { id: pad } };
            spec.clean = self.text_plan.clean;
            if self.text_plan.strip_sep {
                spec.blank = spec.frame.after.last().copied();
            }
            Ok((tokenizer, spec))
        })
    }

    /// Embeds preprocessed images of the usual size, (items, 3, height, width) row by row; returns (items, `embed_dim`)
    /// row by row, not normalised.
    pub fn embed_pixels(&self, pixels: Vec<f32>) -> Result<Vec<f32>> {
        let size = self.spec.preprocess.size;
        to_rows(&self.forward_images(&self.pixels(pixels, size)?)?)
    }

    /// Pixels of images of one size, (items, 3, height, width) row by row, where the tower computes.
    fn pixels(&self, pixels: Vec<f32>, [height, width]: [usize; 2]) -> Result<Tensor> {
        let items = pixels.len() / (3 * height * width);
        let pixels = Tensor::from_vec(pixels, (items, 3, height, width), &Device::Cpu)?;
        Ok(pixels.to_device(self.store.device())?.to_dtype(self.store.dtype())?)
    }

    /// Embeds token ids, rows of `len`; returns (items, `embed_dim`) row by row, not normalised.
    pub fn embed_ids(&self, ids: &[u32], len: usize) -> Result<Vec<f32>> {
        let tower = self.text()?;
        let items = ids.len().checked_div(len).unwrap_or(0);
        to_rows(&in_pieces(items, len, self.store.device(), |range| {
            tower.forward(&ids[range.start * len..range.end * len], len)
        })?)
    }

    /// Embeds texts; returns (items, `embed_dim`) row by row, not normalised, and how many texts were cut short.
    pub fn embed_texts<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<(Vec<f32>, usize)> {
        if texts.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let tokenizer = self.tokenizer()?;
        let batch = tokenizer.0.batch(texts, &tokenizer.1)?;
        Ok((self.embed_ids(&batch.ids, batch.len)?, batch.truncated))
    }
}

/// Sets another input size.
pub(crate) fn resize_input(spec: &mut Spec, side: usize) -> Result<()> {
    match &mut spec.image {
        ImageSpec::Vit(vit) => {
            if side == 0 || !side.is_multiple_of(vit.patch) {
                return Err(Error::usage(format!(
                    "--image-size {side} is no multiple of the patch size {}",
                    vit.patch
                )));
            }
            vit.input_size = [side; 2];
        }
        // open_clip cannot do it either.
        ImageSpec::ResNet(net) if side != net.image_size => {
            return Err(Error::usage(format!(
                "--image-size {side}: the positions of this tower's attention pool are for {0} x {0} pixels alone",
                net.image_size
            )));
        }
        ImageSpec::EfficientNet(_) | ImageSpec::FastVit(_) | ImageSpec::ConvNext(_) if side < 32 => {
            return Err(Error::usage(format!("--image-size {side} is below the 32 pixels that this tower needs")));
        }
        ImageSpec::EfficientNet(_) | ImageSpec::ResNet(_) | ImageSpec::FastVit(_) | ImageSpec::ConvNext(_) => {}
    }
    let preprocess = &mut spec.preprocess;
    // A crop smaller than the resized image keeps its share.
    match &mut preprocess.resize {
        crate::image::Resize::Shortest { edge } => *edge = *edge * side / preprocess.size[0].max(1),
        crate::image::Resize::Exact { size } => {
            *size = std::array::from_fn(|i| size[i] * side / preprocess.size[i].max(1));
        }
        // As many patches as a square image of this size has.
        crate::image::Resize::Patches { side: patch, most } => *most = (side / *patch).pow(2),
        crate::image::Resize::Longest | crate::image::Resize::Squash => {}
    }
    preprocess.size = [side; 2];
    Ok(())
}

/// Numbers row by row, as they are in memory.
pub(crate) fn to_rows(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?)
}

/// A value made at its first use, where making it may fail.
struct Lazy<T>(Mutex<Option<Arc<T>>>);

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Lazy<T> {
    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*slot {
            return Ok(value.clone());
        }
        Ok(slot.insert(Arc::new(make()?)).clone())
    }
}
