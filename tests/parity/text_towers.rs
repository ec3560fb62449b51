//! What is easy to get wrong in the text towers beyond CLIP's own, and in the image towers beside them, moves an
//! embedding far beyond the tolerance.

use super::Golden;
use super::can_fail::{check, image_blocks, image_error, text_blocks, text_error, vit};
use clip_cli::model::family::Plan;
use clip_cli::model::spec::{BertSpec, BlocksSpec, ImagePool, TextPool, TextTowerSpec, TransformerSpec};
use clip_cli::ops::Activation;

const ALL: [&str; 8] = [
    "hf-altclip",
    "hf-chinese-clip",
    "hf-metaclip2",
    "open_clip-clipa",
    "open_clip-coca",
    "open_clip-metaclip2",
    "open_clip-roberta",
    "open_clip-xlm-roberta",
];

fn bert(plan: &mut Plan) -> &mut BertSpec {
    match &mut plan.spec.text {
        TextTowerSpec::Bert(text) => text,
        TextTowerSpec::Transformer(_) => panic!("no BERT"),
    }
}

fn transformer(plan: &mut Plan) -> &mut TransformerSpec {
    match &mut plan.spec.text {
        TextTowerSpec::Transformer(text) => text,
        TextTowerSpec::Bert(_) => panic!("no transformer"),
    }
}

fn pool(plan: &mut Plan) -> &mut ImagePool {
    &mut vit(plan).pool
}

#[test]
fn another_activation_or_epsilon_shows() {
    for golden in ALL.map(Golden::named) {
        let act = |blocks: &mut BlocksSpec| {
            blocks.act = if blocks.act == Activation::GeluErf { Activation::GeluTanh } else { Activation::GeluErf };
        };
        let eps = |blocks: &mut BlocksSpec| blocks.eps = if blocks.eps < 5e-6 { 1e-5 } else { 1e-6 };
        check("another image activation", &golden, image_error(&golden, |plan| act(image_blocks(plan))));
        check("another text activation", &golden, text_error(&golden, |plan| act(text_blocks(plan))));
        check("another image epsilon", &golden, image_error(&golden, |plan| eps(image_blocks(plan))));
        check("another text epsilon", &golden, text_error(&golden, |plan| eps(text_blocks(plan))));
    }
}

#[test]
fn roberta_counts_positions_in_its_own_way() {
    for golden in ["hf-altclip", "open_clip-roberta", "open_clip-xlm-roberta"].map(Golden::named) {
        for first in [0, 1] {
            let error = text_error(&golden, |plan| bert(plan).first_position = first);
            check("positions from elsewhere", &golden, error);
        }
        let error = text_error(&golden, |plan| bert(plan).holes = !bert(plan).holes);
        check("the other way to hide padding inside a text", &golden, error);
    }
}

#[test]
fn what_follows_the_encoder_shows() {
    for golden in ["hf-altclip", "open_clip-roberta", "open_clip-xlm-roberta"].map(Golden::named) {
        let error = text_error(&golden, |plan| {
            let act = &mut bert(plan).hidden[0].act;
            *act = if *act == Activation::GeluTanh { Activation::GeluErf } else { Activation::GeluTanh };
        });
        check("another activation behind the encoder", &golden, error);
    }
    for golden in ["hf-altclip", "hf-chinese-clip", "open_clip-roberta", "open_clip-xlm-roberta"].map(Golden::named) {
        let error = text_error(&golden, |plan| {
            let pool = &mut bert(plan).pool;
            *pool = if *pool == TextPool::Mean { TextPool::First } else { TextPool::Mean };
        });
        check("another pooling", &golden, error);
    }
}

#[test]
fn the_end_of_a_text_shows() {
    for golden in ["hf-metaclip2", "open_clip-metaclip2"].map(Golden::named) {
        check("the largest id", &golden, text_error(&golden, |plan| transformer(plan).pool = TextPool::LargestId));
        check("no causal mask", &golden, text_error(&golden, |plan| transformer(plan).causal = false));
    }
    let golden = Golden::named("open_clip-clipa");
    check("the first token", &golden, text_error(&golden, |plan| transformer(plan).pool = TextPool::First));
    check("a causal mask", &golden, text_error(&golden, |plan| transformer(plan).causal = true));
    let golden = Golden::named("open_clip-coca");
    let padding = |pad_id| text_error(&golden, |plan| transformer(plan).class_token.as_mut().unwrap().pad_id = pad_id);
    check("padding that is seen", &golden, padding(u32::MAX));
    check("another token hidden", &golden, padding(1));
}

#[test]
fn a_pooling_of_image_tokens_shows() {
    let golden = Golden::named("open_clip-clipa");
    check("a norm before the mean", &golden, image_error(&golden, |plan| vit(plan).norm_after_pool = false));
    check("the class token", &golden, image_error(&golden, |plan| *pool(plan) = ImagePool::ClassToken));
    let golden = Golden::named("open_clip-coca");
    let error = image_error(&golden, |plan| match pool(plan) {
        ImagePool::Queries { heads, .. } => *heads = 1,
        other => panic!("{other:?}"),
    });
    check("other pooling heads", &golden, error);
}
