//! BERT and RoBERTa as text towers: what transformers' configurations say, and the names of the tensors.

use super::{Section, parts};
use crate::error::Result;
use crate::model::spec::{BertSpec, BlocksSpec, Branches, Hidden, NormPlace, Projection, TextPool};
use crate::ops::Activation;
use crate::weights::Layout;

/// What transformers assumes where a configuration is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    /// Width, layers, heads and MLP width.
    pub(super) sizes: [usize; 4],
    /// Tokens in the vocabulary, positions, and segment types.
    pub(super) tables: [usize; 3],
    /// The padding token.
    pub(super) pad_id: usize,
    /// Added to the variance in layer norms.
    pub(super) eps: f64,
    /// Whether positions begin behind the padding token's.
    pub(super) roberta: bool,
}

/// Of `BertConfig`, and of Chinese-CLIP's text tower.
pub(super) const BERT: Defaults =
    Defaults { sizes: [768, 12, 12, 3072], tables: [30522, 512, 2], pad_id: 0, eps: 1e-12, roberta: false };

/// Of `RobertaConfig` and `XLMRobertaConfig`; these differ in the vocabulary, which every configuration names.
pub(super) const ROBERTA: Defaults = Defaults { tables: [50265, 512, 2], pad_id: 1, roberta: true, ..BERT };

/// The encoder that a configuration describes, pooled at its first token and without layers behind it.
pub(super) fn encoder(config: &Section<'_>, defaults: &Defaults) -> Result<BertSpec> {
    let ([width, layers, heads, mlp], [vocab, positions, types]) = (defaults.sizes, defaults.tables);
    let pad_id = config.whole_or("pad_token_id", defaults.pad_id)?;
    let positions = config.whole_or("max_position_embeddings", positions)?;
    let first_position = if defaults.roberta { pad_id.saturating_add(1) } else { 0 };
    if let Some(kind) = config.string("position_embedding_type")?.filter(|kind| *kind != "absolute") {
        return Err(config.error("position_embedding_type", format!("{kind:?} is not supported")));
    }
    Ok(BertSpec {
        blocks: BlocksSpec {
            width: config.whole_or("hidden_size", width)?,
            layers: config.whole_or("num_hidden_layers", layers)?,
            heads: config.whole_or("num_attention_heads", heads)?,
            mlp: config.whole_or("intermediate_size", mlp)?,
            act: parts::hidden_act(config, Activation::GeluErf)?,
            eps: config.number_or("layer_norm_eps", defaults.eps)?,
            norm: NormPlace::After,
            layer_scale: false,
            branches: Branches::default(),
        },
        vocab: config.whole_or("vocab_size", vocab)?,
        context: positions.saturating_sub(first_position),
        positions,
        first_position,
        types: config.whole_or("type_vocab_size", types)?,
        pad_id: pad_id as u32,
        holes: false,
        pool: TextPool::First,
        final_norm: false,
        hidden: Vec::new(),
        proj: Projection::None,
    })
}

/// BERT's pooler: the first token through a dense layer and tanh.
pub(super) fn pooler(width: usize) -> Hidden {
    Hidden { width, bias: true, act: Activation::Tanh }
}

/// The names of an encoder below `at`, whose layers are `layers.0`, `layers.1`, ….
pub(super) fn layout(layout: Layout, at: &str, layers: &str) -> Layout {
    let embeddings = |rest: &str| format!("{at}.embeddings.{rest}");
    let layer = |rest: &str| format!("{at}.{layers}.{{}}.{rest}");
    layout
        .plain("text.tokens.weight", embeddings("word_embeddings.weight"))
        .plain("text.positions", embeddings("position_embeddings.weight"))
        .plain("text.types", embeddings("token_type_embeddings.weight"))
        .plain("text.embed_norm.*", embeddings("LayerNorm.*"))
        .stacked("text.blocks.{}.qkv.*", ["query", "key", "value"].map(|x| layer(&format!("attention.self.{x}.*"))))
        .plain("text.blocks.{}.out.*", layer("attention.output.dense.*"))
        .plain("text.blocks.{}.norm1.*", layer("attention.output.LayerNorm.*"))
        .plain("text.blocks.{}.fc1.*", layer("intermediate.dense.*"))
        .plain("text.blocks.{}.fc2.*", layer("output.dense.*"))
        .plain("text.blocks.{}.norm2.*", layer("output.LayerNorm.*"))
        .ignoring("*.position_ids")
}
