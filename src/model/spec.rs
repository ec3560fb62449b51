//! What differs between checkpoints, as data.

use crate::error::{Error, Result};
use crate::image::{Preprocess, Resize};
use crate::ops::Activation;

/// Everything that a checkpoint's configuration says about its two towers.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The family's name in the registry.
    pub family: &'static str,
    /// The length of an embedding.
    pub embed_dim: usize,
    /// The image tower.
    pub image: ImageSpec,
    /// The text tower.
    pub text: TextTowerSpec,
    /// How similarities become scores.
    pub objective: Objective,
    /// What is done to an image before its tower sees it.
    pub preprocess: Preprocess,
}

/// How similarities become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Softmax over the labels of `scale · cos` (CLIP, Radford et al. 2021).
    Softmax,
    /// A sigmoid for each label of `scale · cos + bias` (SigLIP, Zhai et al. 2023).
    Sigmoid,
}

/// A stack of transformer blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct BlocksSpec {
    /// The length of a token.
    pub width: usize,
    /// How many blocks.
    pub layers: usize,
    /// How many attention heads.
    pub heads: usize,
    /// The length of the hidden layer of the MLP.
    pub mlp: usize,
    /// The MLP's activation.
    pub act: Activation,
    /// Added to the variance in layer norms.
    pub eps: f64,
    /// Where the layer norms are.
    pub norm: NormPlace,
    /// Whether each branch is multiplied by a learnt scale (LayerScale, Touvron et al. 2021).
    pub layer_scale: bool,
    /// What the two branches have beyond the usual.
    pub branches: Branches,
}

/// Where the layer norms of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Before each branch.
    Before,
    /// After each sum (BERT).
    After,
    /// After each branch, before the sum (EVA-02 enormous).
    AfterBranch,
}

/// What the attention and the MLP of a block have beyond the usual, which is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Branches {
    /// Which of queries, keys and values have a bias.
    pub qkv_bias: QkvBias,
    /// Whether the MLP's hidden layer is multiplied by a second one, the gate, which alone has the activation (SwiGLU,
    /// Shazeer 2020).
    pub gate: bool,
    /// Whether a layer norm precedes the last linear map of each branch (sub-LN, Wang et al. 2022).
    pub inner_norm: bool,
}

/// Which of queries, keys and values have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkvBias {
    /// All of them.
    #[default]
    All,
    /// Queries and values: one on keys would cancel in the softmax (BEiT, EVA).
    NoKeys,
    /// None of them.
    None,
}

/// The image tower.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageSpec {
    /// A vision transformer.
    Vit(VitSpec),
    /// An EfficientNet.
    EfficientNet(EfficientNetSpec),
    /// CLIP's ResNet.
    ResNet(ResNetSpec),
    /// A FastViT.
    FastVit(FastVitSpec),
    /// A ConvNeXt.
    ConvNext(ConvNextSpec),
}

/// A vision transformer (Dosovitskiy et al. 2020).
#[derive(Clone, Debug, PartialEq)]
pub struct VitSpec {
    /// The blocks.
    pub blocks: BlocksSpec,
    /// Height and width of the input that the checkpoint was made for, in pixels.
    pub image_size: [usize; 2],
    /// Height and width of the input that it shall see.
    pub input_size: [usize; 2],
    /// The side of a patch, in pixels.
    pub patch: usize,
    /// Whether patches are embedded with a bias.
    pub patch_bias: bool,
    /// Whether patches are embedded by a matrix, whose inputs follow (row, column, channel), and not by a convolution.
    pub patch_matrix: bool,
    /// Whether a class token leads the patches.
    pub class_token: bool,
    /// Whether a layer norm precedes the blocks.
    pub pre_norm: bool,
    /// How positions are interpolated for another input size.
    pub interpolation: Interpolation,
    /// Rotary positions, which every block applies beside the learnt ones that are added once.
    pub rope: Option<RopeSpec>,
    /// How tokens become one vector.
    pub pool: ImagePool,
    /// Whether the last layer norm follows the pooling instead of preceding it.
    pub norm_after_pool: bool,
    /// The linear map to the embedding.
    pub proj: Projection,
}

/// Rotary positions on a grid of patches (timm's `RotaryEmbeddingCat`): the first half of each head turns with one
/// coordinate, the second half with the other, at wavelengths up to 10,000.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSpec {
    /// Rows and columns of the grid whose coordinates count patches; those of other grids are stretched to it.
    pub reference: [usize; 2],
    /// The coordinate of the first row and column.
    pub offset: f32,
    /// Whether the column comes first.
    pub columns_first: bool,
}

/// How the tokens of an image become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePool {
    /// The class token, after the last layer norm.
    ClassToken,
    /// The mean of the patch tokens.
    Mean,
    /// The first answer of learnt queries that attend to all tokens (CoCa).
    Queries {
        /// How many queries are stored; the others feed CoCa's captions.
        queries: usize,
        /// How many attention heads.
        heads: usize,
    },
    /// Attention of a learnt probe to all tokens, and an MLP (SigLIP).
    Attention {
        /// How many attention heads.
        heads: usize,
        /// The length of the hidden layer of the MLP.
        mlp: usize,
    },
}

/// The linear map from a tower's width to the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// There is none: the tower's width is the embedding's length.
    None,
    /// A matrix.
    Linear,
    /// A matrix and a bias.
    Affine,
}

/// How learnt positions are interpolated for another grid of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// `torch.nn.functional.interpolate(mode="linear")` (open_clip's text towers).
    Linear,
    /// `torch.nn.functional.interpolate(mode="bicubic")`, a = −0.75, no antialias (transformers).
    Bicubic,
    /// The same with `antialias=True`, a = −0.5 (open_clip, timm).
    BicubicAntialias,
    /// `mode="bilinear", antialias=True` (NaFlex SigLIP 2).
    BilinearAntialias,
}

/// The zeros around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// So many on each side.
    Zeros {
        /// Above and left of the image.
        before: usize,
        /// Below and right of it.
        after: usize,
    },
    /// TensorFlow's `SAME`, which depends on the size of the image.
    Same,
}

/// An EfficientNet (Tan & Le 2019), its widths read from the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct EfficientNetSpec {
    /// The zeros around the image before the first convolution, which is 3×3 with stride 2.
    pub stem_padding: Padding,
    /// The blocks, in order.
    pub blocks: Vec<MbConvSpec>,
    /// Whether a last convolution widens the channels before they are averaged.
    pub head: bool,
    /// Whether the blocks have squeeze-and-excite.
    pub squeeze: bool,
    /// The activation.
    pub act: Activation,
    /// Added to the variance in batch norms.
    pub eps: f64,
    /// The linear map to the embedding.
    pub proj: Projection,
}

/// One inverted residual block of an EfficientNet.
#[derive(Clone, Debug, PartialEq)]
pub struct MbConvSpec {
    /// Where its parameters are, below the tower.
    pub name: String,
    /// The side of the filters.
    pub size: usize,
    /// The stride of the filters.
    pub stride: usize,
    /// The zeros around the image before the filters.
    pub padding: Padding,
    /// Whether the channels are widened first.
    pub expand: bool,
    /// Whether the input is added to the output, if it has the same shape.
    pub residual: bool,
}

/// CLIP's ResNet (Radford et al. 2021): three convolutions as stem, average pools instead of strides, attention pool.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetSpec {
    /// The number of blocks in each of the four stages.
    pub layers: [usize; 4],
    /// The channels after the stem; the last stage puts out 32 times as many.
    pub width: usize,
    /// How many heads the attention pool has.
    pub heads: usize,
    /// The side of the input, in pixels: the attention pool has a position for each 32 × 32 of them.
    pub image_size: usize,
}

/// A FastViT (Vasu et al. 2023), MobileCLIP's image tower. Its training-time branches are folded at load.
#[derive(Clone, Debug, PartialEq)]
pub struct FastVitSpec {
    /// The stages.
    pub stages: Vec<FastVitStage>,
    /// The channels after the last convolution.
    pub width: usize,
    /// Whether the stem was trained with 1×1 branches.
    pub stem_scale: bool,
    /// Added to the variance in the layer norms before attention, where those are no batch norms.
    pub layer_norm: Option<f64>,
    /// The linear map to the embedding.
    pub proj: Projection,
}

/// One stage of a FastViT.
#[derive(Clone, Debug, PartialEq)]
pub struct FastVitStage {
    /// Its channels.
    pub width: usize,
    /// The number of blocks.
    pub depth: usize,
    /// The length of the hidden layer of the MLPs.
    pub mlp: usize,
    /// Whether it begins by halving the image's sides.
    pub downsample: bool,
    /// Whether that has squeeze-and-excite.
    pub squeeze: bool,
    /// Whether convolved neighbours are added as positions.
    pub positions: bool,
    /// Whether its blocks mix pixels by attention rather than by convolution.
    pub attention: bool,
}

/// A ConvNeXt (Liu et al. 2022).
#[derive(Clone, Debug, PartialEq)]
pub struct ConvNextSpec {
    /// Channels and number of blocks of the four stages.
    pub stages: [(usize, usize); 4],
    /// Added to the variance in layer norms.
    pub eps: f64,
    /// The hidden layer of the head, where that is an MLP.
    pub head_mlp: Option<usize>,
    /// The last linear map to the embedding.
    pub proj: Projection,
}

/// The text tower.
#[derive(Clone, Debug, PartialEq)]
pub enum TextTowerSpec {
    /// CLIP's and SigLIP's transformer.
    Transformer(TransformerSpec),
    /// A BERT encoder.
    Bert(BertSpec),
}

/// CLIP's and SigLIP's text transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerSpec {
    /// The blocks.
    pub blocks: BlocksSpec,
    /// How many tokens the vocabulary has.
    pub vocab: usize,
    /// The most tokens that a text may have.
    pub context: usize,
    /// How many positions are stored; if they are not as many as the tower has, they are interpolated.
    pub positions: usize,
    /// Whether a token sees only those before it.
    pub causal: bool,
    /// A learnt token behind the text that stands for it, if there is one (CoCa).
    pub class_token: Option<ClassToken>,
    /// Which token stands for the text.
    pub pool: TextPool,
    /// The linear map to the embedding.
    pub proj: Projection,
}

/// A learnt token behind a text, at position `context`, that stands for the text in place of its pooled token.
///
/// Padding is hidden, one place late: key 0 is always seen, and key `j` if token `j - 1` is no padding. CoCa's weights
/// were trained with this slip (open_clip `TextTransformer._build_additive_mask`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassToken {
    /// The padding token.
    pub pad_id: u32,
}

/// Which token stands for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPool {
    /// The first token with this id.
    FirstId(u32),
    /// The token with the largest id.
    LargestId,
    /// The last token.
    Last,
    /// The mean of all tokens that are no padding.
    Mean,
    /// The first token.
    First,
}

/// A BERT (Devlin et al. 2018) or RoBERTa encoder (Liu et al. 2019).
#[derive(Clone, Debug, PartialEq)]
pub struct BertSpec {
    /// The blocks.
    pub blocks: BlocksSpec,
    /// How many tokens the vocabulary has.
    pub vocab: usize,
    /// The most tokens that a text may have.
    pub context: usize,
    /// How many positions are stored.
    pub positions: usize,
    /// The stored position of a text's first token: 0 in BERT; behind the padding token's in RoBERTa, where padding
    /// has no position of its own.
    pub first_position: usize,
    /// How many segment types are stored; only the first is used.
    pub types: usize,
    /// The padding token.
    pub pad_id: u32,
    /// Whether a padding token that a text spells out is hidden like those behind it (open_clip; transformers hides
    /// what its tokenizer added).
    pub holes: bool,
    /// How tokens become one vector.
    pub pool: TextPool,
    /// Whether a layer norm follows the pooling (AltCLIP).
    pub final_norm: bool,
    /// The layers between the pooled vector and the linear map.
    pub hidden: Vec<Hidden>,
    /// The linear map to the embedding.
    pub proj: Projection,
}

/// A layer between a pooled vector and the map to the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The length of its output.
    pub width: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// What is done to its output.
    pub act: Activation,
}

impl BertSpec {
    /// The length of the vector that is mapped to the embedding.
    pub fn head_width(&self) -> usize {
        self.hidden.last().map_or(self.blocks.width, |layer| layer.width)
    }
}

impl TransformerSpec {
    /// How many tokens the tower sees at most.
    pub fn tokens(&self) -> usize {
        self.context + usize::from(self.class_token.is_some())
    }
}

impl ImageSpec {
    /// The kind of tower, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Vit(_) => "vit",
            Self::EfficientNet(spec) if spec.squeeze => "efficientnet",
            Self::EfficientNet(_) => "efficientnet-lite",
            Self::ResNet(_) => "resnet",
            Self::FastVit(_) => "fastvit",
            Self::ConvNext(_) => "convnext",
        }
    }

    /// The activation between its linear maps.
    pub fn act(&self) -> Activation {
        match self {
            Self::Vit(spec) => spec.blocks.act,
            Self::EfficientNet(spec) => spec.act,
            Self::ResNet(_) => Activation::Relu,
            Self::FastVit(_) | Self::ConvNext(_) => Activation::GeluErf,
        }
    }
}

impl Padding {
    /// No zeros.
    pub const NONE: Self = Self::Zeros { before: 0, after: 0 };

    /// So many zeros around an image that a window of odd `size` and stride 1 leaves its size as it is.
    pub fn around(size: usize) -> Self {
        Self::Zeros { before: size / 2, after: size / 2 }
    }
}

impl VitSpec {
    /// Whether the tokens become one vector by attention, so that none of them has an embedding of its own.
    pub fn pools_by_attention(&self) -> bool {
        matches!(self.pool, ImagePool::Attention { .. } | ImagePool::Queries { .. })
    }
}

impl TextTowerSpec {
    /// The most tokens that a text may have.
    pub fn context(&self) -> usize {
        match self {
            Self::Transformer(spec) => spec.context,
            Self::Bert(spec) => spec.context,
        }
    }

    /// How many tokens the vocabulary has.
    pub fn vocab(&self) -> usize {
        match self {
            Self::Transformer(spec) => spec.vocab,
            Self::Bert(spec) => spec.vocab,
        }
    }
}

impl Projection {
    /// A matrix, with or without a bias.
    pub fn from_bias(bias: bool) -> Self {
        if bias { Self::Affine } else { Self::Linear }
    }

    /// Whether there is a matrix and whether it has a bias.
    pub fn parts(self) -> Option<bool> {
        match self {
            Self::None => None,
            Self::Linear => Some(false),
            Self::Affine => Some(true),
        }
    }
}

impl Spec {
    /// Fails when no tower could have these sizes, so that a nonsensical configuration is an error and not a crash.
    pub fn check(&self) -> Result<()> {
        let sizes = |what: &str, sizes: &[(&str, usize)]| match sizes.iter().find(|(_, n)| !(1..=1 << 22).contains(n)) {
            Some((name, n)) => Err(Error::run(format!("the configuration says {name} {n} for the {what}"))),
            None => Ok(()),
        };
        let blocks = |what: &str, spec: &BlocksSpec| {
            sizes(what, &[("width", spec.width), ("heads", spec.heads), ("MLP width", spec.mlp)])?;
            if spec.layers > 1 << 10 || !spec.width.is_multiple_of(spec.heads) {
                let BlocksSpec { layers, width, heads, .. } = spec;
                return Err(Error::run(format!(
                    "the {what} cannot have {layers} layers of width {width} with {heads} heads"
                )));
            }
            Ok(())
        };
        sizes("embedding", &[("length", self.embed_dim)])?;
        match &self.image {
            ImageSpec::Vit(vit) => {
                blocks("image tower", &vit.blocks)?;
                let ([h, w], [in_h, in_w]) = (vit.image_size, vit.input_size);
                sizes("image tower", &[("patch size", vit.patch)])?;
                let patches = [h, w, in_h, in_w].map(|side| side / vit.patch);
                sizes("image tower", &patches.map(|n| ("patches", n)))?;
                if let ImagePool::Attention { heads, mlp } = vit.pool {
                    sizes("image tower's pooling", &[("heads", heads), ("MLP width", mlp)])?;
                    if !vit.blocks.width.is_multiple_of(heads) {
                        let message = format!("a pooling of width {} cannot have {heads} heads", vit.blocks.width);
                        return Err(Error::run(message));
                    }
                }
                if vit.rope.is_some() && !(vit.blocks.width / vit.blocks.heads).is_multiple_of(4) {
                    let width = vit.blocks.width / vit.blocks.heads;
                    return Err(Error::run(format!("heads of width {width} cannot turn by rows and columns")));
                }
                if let ImagePool::Queries { queries, heads } = vit.pool {
                    sizes("image tower", &[("pooling queries", queries), ("pooling heads", heads)])?;
                    if !self.embed_dim.is_multiple_of(heads) {
                        let dim = self.embed_dim;
                        return Err(Error::run(format!(
                            "the image tower cannot pool {dim} numbers with {heads} heads"
                        )));
                    }
                }
            }
            ImageSpec::EfficientNet(net) => {
                sizes("image tower", &[("blocks", net.blocks.len())])?;
                for block in &net.blocks {
                    if ![block.size, block.stride].iter().all(|n| (1..=64).contains(n)) {
                        let MbConvSpec { size, stride, .. } = block;
                        return Err(Error::run(format!(
                            "the image tower cannot have filters of {size} and stride {stride}"
                        )));
                    }
                }
            }
            ImageSpec::ResNet(net) => {
                let ResNetSpec { width, heads, image_size, layers } = net;
                sizes("image tower", &[("width", *width), ("heads", *heads), ("image size", *image_size)])?;
                if !width.is_multiple_of(2)
                    || !image_size.is_multiple_of(32)
                    || !(width * 32).is_multiple_of(*heads)
                    || layers.iter().any(|&n| n > 1 << 10)
                {
                    return Err(Error::run(format!(
                        "the image tower cannot have {layers:?} layers of width {width} with {heads} heads for {image_size} pixels"
                    )));
                }
            }
            ImageSpec::FastVit(net) => {
                sizes("image tower", &[("width", net.width), ("stages", net.stages.len())])?;
                for stage in &net.stages {
                    sizes("image tower", &[("width", stage.width), ("MLP width", stage.mlp)])?;
                    if stage.depth > 1 << 10 || stage.attention && !stage.width.is_multiple_of(32) {
                        let FastVitStage { width, depth, .. } = stage;
                        return Err(Error::run(format!(
                            "the image tower cannot have {depth} layers of width {width} with heads of 32"
                        )));
                    }
                }
                // A stage that halves the sides may multiply the channels; another leaves them as they are.
                let widths: Vec<usize> = net.stages.iter().map(|stage| stage.width).chain([net.width]).collect();
                for (i, pair) in widths.windows(2).enumerate() {
                    let free = net.stages.get(i + 1).is_none_or(|stage| stage.downsample);
                    if !(free && pair[1].is_multiple_of(pair[0]) || pair[0] == pair[1]) {
                        return Err(Error::run(format!("the image tower cannot have stages of widths {widths:?}")));
                    }
                }
            }
            ImageSpec::ConvNext(net) => {
                for (width, depth) in net.stages {
                    sizes("image tower", &[("width", width)])?;
                    if depth > 1 << 10 {
                        return Err(Error::run(format!("the image tower cannot have {depth} layers of width {width}")));
                    }
                }
            }
        }
        match &self.text {
            TextTowerSpec::Transformer(text) => {
                blocks("text tower", &text.blocks)?;
                sizes("text tower", &[("vocabulary", text.vocab), ("context length", text.context)])?;
                sizes("text tower", &[("positions", text.positions)])?;
            }
            TextTowerSpec::Bert(text) => {
                blocks("text tower", &text.blocks)?;
                let rows = [("vocabulary", text.vocab), ("positions", text.positions), ("types", text.types)];
                sizes("text tower", &rows)?;
                sizes("text tower", &[("context length", text.context)])?;
                sizes(
                    "text tower",
                    &text.hidden.iter().map(|layer| ("hidden width", layer.width)).collect::<Vec<_>>(),
                )?;
                if text.first_position.saturating_add(text.context) > text.positions {
                    let BertSpec { context, positions, first_position, .. } = text;
                    return Err(Error::run(format!(
                        "the text tower has no positions for {context} tokens from {first_position} of {positions}"
                    )));
                }
            }
        }
        let Preprocess { size: [height, width], resize, std, .. } = &self.preprocess;
        let [tall, wide] = match resize {
            Resize::Shortest { edge } => [*edge; 2],
            Resize::Exact { size } => *size,
            Resize::Patches { side, most } => {
                if ![*side, *most].iter().all(|n| (1..=1 << 14).contains(n)) || side * side * most > 1 << 28 {
                    return Err(Error::run(format!("the preprocessing makes up to {most} patches of {side} pixels")));
                }
                [1; 2]
            }
            Resize::Longest | Resize::Squash => [1; 2],
        };
        if [*height, *width, tall, wide].iter().any(|side| !(1..=1 << 14).contains(side)) {
            return Err(Error::run(format!("the preprocessing makes images of {height} x {width} pixels")));
        }
        if !matches!(self.image, ImageSpec::Vit(_)) && [*height, *width].iter().any(|side| *side < 32) {
            return Err(Error::run(format!("images of {height} x {width} pixels are too small for the image tower")));
        }
        if std.iter().any(|std| !std.is_finite() || *std == 0.0) {
            return Err(Error::run(format!("the preprocessing divides by {std:?}")));
        }
        Ok(())
    }
}
