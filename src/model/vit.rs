//! The vision transformer of CLIP, SigLIP, EVA, PE-Core and DINOv2.

use super::attentional_pooler::AttentionalPooler;
use super::conv_stem::ConvStem;
use super::positions::{Positions, rotation};
use super::projection_head::ProjectionHead;
use super::spec::{BlocksSpec, ImagePool, VitSpec};
use super::stack::{Between, Stack, fits, replaced, spread};
use crate::error::{Error, Result};
use crate::ops::{Activation, LayerNorm, Linear, Mask, Rotation, Window, attention, unfold};
use crate::weights::Params;
use candle_core::Tensor;
use std::sync::Arc;

/// A vision transformer: pixels to one vector.
#[derive(Clone, Debug)]
pub struct Vit {
    patch: Patch,
    class: Option<Tensor>,
    positions: Positions,
    pre_norm: Option<LayerNorm>,
    blocks: Stack,
    norm: LayerNorm,
    pool: Option<Pool>,
    proj: ProjectionHead,
    spec: VitSpec,
}

impl Vit {
    /// Takes the tower's parameters; `embed_dim` is the length of an embedding.
    pub fn load(params: &Params<'_>, spec: &VitSpec, embed_dim: usize) -> Result<Self> {
        let (width, eps) = (spec.blocks.width, spec.blocks.eps);
        let pooled = Self::pooled_width(spec, embed_dim);
        Ok(Self {
            patch: Patch::load(params, spec)?,
            class: if spec.class_token { Some(params.get("class", &[1, 1, width])?) } else { None },
            positions: Positions::load(params, spec)?,
            pre_norm: if spec.pre_norm { Some(params.layer_norm("pre_norm", width, eps)?) } else { None },
            blocks: Stack::load(&params.sub("blocks"), &spec.blocks)?,
            norm: params.layer_norm("norm", pooled, eps)?,
            pool: match spec.pool {
                ImagePool::Attention { heads, mlp } => {
                    Some(Pool::Probe(AttentionPool::load(&params.sub("pool"), &spec.blocks, heads, mlp)?))
                }
                ImagePool::Queries { queries, heads } => {
                    let sizes = [queries, embed_dim, width];
                    Some(Pool::Queries(AttentionalPooler::load(&params.sub("pool"), sizes, heads)?))
                }
                ImagePool::ClassToken | ImagePool::Mean => None,
            },
            proj: Self::projection(params, spec, embed_dim)?,
            spec: spec.clone(),
        })
    }

    /// The projection head alone.
    pub fn projection(params: &Params<'_>, spec: &VitSpec, embed_dim: usize) -> Result<ProjectionHead> {
        ProjectionHead::load(params, "proj", spec.proj, [embed_dim, Self::pooled_width(spec, embed_dim)])
    }

    /// How many numbers are pooled of an image.
    fn pooled_width(spec: &VitSpec, embed_dim: usize) -> usize {
        if matches!(spec.pool, ImagePool::Queries { .. }) { embed_dim } else { spec.blocks.width }
    }

    /// Maps pixels (items, 3, height, width) to embeddings (items, `embed_dim`), not normalised. Height and width may
    /// be any multiples of the patch; other sizes than the usual one have their positions interpolated.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.project(&self.features(pixels)?)
    }

    /// Maps pixels (items, 3, height, width) to what the projection head takes (items, features).
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.pooled(pixels, None, &mut |_, x| Ok(x))
    }

    /// Like [`Vit::forward`], with learnt tokens: `prompts[0]` (tokens, width) stands behind the patches, without
    /// positions, from before the first norm on; `prompts[i]`, as many, takes its place in front of block `i` (Jia et al. 2022, as
    /// MaPLe's code has it: `clip/model.py` of muzairkhattak/multimodal-prompt-learning). What becomes of them at the end
    /// is not pooled.
    ///
    /// # Errors
    /// Usage, when there are more of them than blocks, or not as many tokens each.
    pub fn forward_prompted(&self, pixels: &Tensor, prompts: &[Tensor]) -> Result<Tensor> {
        let Some(first) = prompts.first() else { return self.forward(pixels) };
        fits("image", prompts.len(), self.layers())?;
        if prompts.iter().any(|prompt| prompt.dims() != first.dims()) {
            return Err(Error::usage("the learnt tokens are not as many in front of each block"));
        }
        let count = first.dim(0)?;
        let mut between = |layer: usize, x: Tensor| match prompts.get(layer) {
            Some(prompt) if layer > 0 => replaced(&x, x.dim(1)? - count, prompt),
            _ => Ok(x),
        };
        self.project(&self.pooled(pixels, Some(first), &mut between)?)
    }

    /// Features (items, width) of pixels, with learnt tokens (tokens, width) behind the patches.
    fn pooled(&self, pixels: &Tensor, prompt: Option<&Tensor>, between: &mut Between<'_>) -> Result<Tensor> {
        let layers = self.layers();
        if self.pool.is_none() && self.spec.pool == ImagePool::ClassToken {
            // Of all tokens of the last block this one alone is read, and need be normalised.
            let (x, rotation) = self.placed(pixels, prompt)?;
            let places = Arc::new(vec![0; x.dim(0)?]);
            let class = self.blocks.forward_at(&x, &Mask::None, rotation.as_ref(), &places, between)?;
            return Ok(self.norm.forward(&class)?);
        }
        let mut tokens = self.through(pixels, prompt, layers, between)?;
        if let Some(prompt) = prompt {
            tokens = tokens.narrow(1, 0, tokens.dim(1)? - prompt.dim(0)?)?.contiguous()?;
        }
        match self.spec.norm_after_pool {
            true => Ok(self.norm.forward(&self.pool(&tokens)?)?),
            false => self.pool(&self.norm.forward(&tokens)?),
        }
    }

    /// Maps pixels (items, 3, height, width) to the tokens that block number `layers` leaves (items, tokens, width), the
    /// class token first if there is one, with a look between blocks.
    pub fn tokens(&self, pixels: &Tensor, layers: usize, between: &mut Between<'_>) -> Result<Tensor> {
        self.through(pixels, None, layers, between)
    }

    /// The same, with learnt tokens (tokens, width) behind the patches.
    fn through(
        &self,
        pixels: &Tensor,
        prompt: Option<&Tensor>,
        layers: usize,
        between: &mut Between<'_>,
    ) -> Result<Tensor> {
        let (x, rotation) = self.placed(pixels, prompt)?;
        self.blocks.forward_to(layers, &x, &Mask::None, rotation.as_ref(), between)
    }

    /// The tokens that enter the first block, (items, tokens, width), and how they are turned.
    fn placed(&self, pixels: &Tensor, prompt: Option<&Tensor>) -> Result<(Tensor, Option<Rotation>)> {
        let (items, _, height, width) = pixels.dims4()?;
        let grid = [height / self.spec.patch, width / self.spec.patch];
        let patches = self.patch.forward(pixels, self.spec.patch)?;
        let tokens = match &self.class {
            Some(class) => {
                let class = class.broadcast_as((items, 1, self.spec.blocks.width))?.contiguous()?;
                Tensor::cat(&[&class, &patches], 1)?
            }
            None => patches,
        };
        let mut x = tokens.broadcast_add(&self.positions.at(grid)?)?;
        let mut tail = 0;
        if let Some(prompt) = prompt {
            tail = prompt.dim(0)?;
            x = Tensor::cat(&[&x, &spread(prompt, items)?], 1)?;
        }
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(&x)?;
        }
        let head = self.spec.blocks.width / self.spec.blocks.heads;
        let rotation = self.spec.rope.as_ref().map(|rope| rotation(rope, [self.lead(), tail], grid, head));
        Ok((x, rotation))
    }

    /// The last layer norm, on vectors (…, width).
    pub fn norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.norm.forward(x)?)
    }

    /// Maps vectors (…, width) into the space of the embeddings (…, `embed_dim`).
    pub fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.proj.forward(x)
    }

    /// How many blocks there are.
    pub fn layers(&self) -> usize {
        self.blocks.layers()
    }

    /// How many tokens an image of this height and width is, without learnt ones.
    pub fn token_count(&self, [height, width]: [usize; 2]) -> usize {
        self.lead() + (height / self.spec.patch) * (width / self.spec.patch)
    }

    /// How many tokens lead the patches.
    pub fn lead(&self) -> usize {
        usize::from(self.spec.class_token)
    }

    /// Maps tokens (items, tokens, width) to one vector an item (items, width).
    fn pool(&self, tokens: &Tensor) -> Result<Tensor> {
        match (&self.pool, self.spec.pool) {
            (Some(Pool::Probe(pool)), _) => pool.forward(tokens),
            (Some(Pool::Queries(pool)), _) => pool.first(tokens),
            (None, ImagePool::ClassToken) => Ok(tokens.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?),
            (None, _) => Ok(tokens.narrow(1, self.lead(), tokens.dim(1)? - self.lead())?.mean(1)?),
        }
    }
}

/// How pixels become the first tokens.
#[derive(Clone, Debug)]
enum Patch {
    /// One matrix for each patch.
    Matrix(Linear),
    /// A few convolutions, where the checkpoint has them.
    Stem(Box<ConvStem>),
}

impl Patch {
    fn load(params: &Params<'_>, spec: &VitSpec) -> Result<Self> {
        let (width, patch) = (spec.blocks.width, spec.patch);
        if params.has("stem.0.conv.weight") {
            return Ok(Self::Stem(Box::new(ConvStem::load(&params.sub("stem"), width)?)));
        }
        let inputs = 3 * patch * patch;
        let kernel = match spec.patch_matrix {
            true => params.get("patch.weight", &[width, inputs])?,
            // On disk a convolution (width, 3, patch, patch); here a matrix whose columns follow (row, column, channel).
            false => {
                let kernel = params.get("patch.weight", &[width, 3, patch, patch])?;
                kernel.permute((0, 2, 3, 1))?.contiguous()?.reshape((width, inputs))?
            }
        };
        let bias = if spec.patch_bias { Some(params.get("patch.bias", &[width])?) } else { None };
        Ok(Self::Matrix(params.compact(Linear::new(kernel, bias))?))
    }

    /// Maps pixels (items, 3, height, width) to patches of this side (items, patches, width), row by row.
    fn forward(&self, pixels: &Tensor, side: usize) -> Result<Tensor> {
        match self {
            Self::Matrix(matrix) => {
                let windows = unfold(&pixels.permute((0, 2, 3, 1))?.contiguous()?, Window::tiles(side))?;
                Ok(matrix.forward(&windows, Activation::Identity)?)
            }
            Self::Stem(stem) => stem.forward(pixels),
        }
    }
}

/// A pooling that has parameters of its own.
#[derive(Clone, Debug)]
enum Pool {
    Probe(AttentionPool),
    Queries(AttentionalPooler),
}

/// SigLIP's pooling: a learnt probe attends to all tokens, then an MLP beside the stream.
#[derive(Clone, Debug)]
struct AttentionPool {
    probe: Tensor,
    q: Linear,
    kv: Linear,
    out: Linear,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    act: Activation,
    heads: usize,
}

impl AttentionPool {
    fn load(params: &Params<'_>, blocks: &BlocksSpec, heads: usize, mlp: usize) -> Result<Self> {
        let width = blocks.width;
        let weight = params.get("qkv.weight", &[3 * width, width])?;
        let bias = params.get("qkv.bias", &[3 * width])?;
        let part = |first: usize, rows: usize| -> Result<Linear> {
            let weight = weight.narrow(0, first, rows)?.contiguous()?;
            Ok(Linear::new(weight, Some(bias.narrow(0, first, rows)?.contiguous()?)))
        };
        Ok(Self {
            probe: params.get("probe", &[1, 1, width])?,
            q: part(0, width)?,
            kv: params.compact(part(width, 2 * width)?)?,
            out: params.linear("out", width, width, true)?,
            norm: params.layer_norm("norm", width, blocks.eps)?,
            fc1: params.linear("fc1", mlp, width, true)?,
            fc2: params.linear("fc2", width, mlp, true)?,
            act: blocks.act,
            heads,
        })
    }

    fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let (items, _, width) = tokens.dims3()?;
        let q = self.q.forward(&self.probe, Activation::Identity)?.broadcast_as((items, 1, width))?.contiguous()?;
        let kv = self.kv.forward(tokens, Activation::Identity)?;
        let (k, v) = (kv.narrow(2, 0, width)?, kv.narrow(2, width, width)?);
        let x = self.out.forward(&attention(&q, &k, &v, self.heads, &Mask::None)?, Activation::Identity)?.squeeze(1)?;
        let hidden = self.fc1.forward(&self.norm.forward(&x)?, self.act)?;
        Ok((&x + self.fc2.forward(&hidden, Activation::Identity)?)?)
    }
}
