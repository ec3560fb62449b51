//! Each mistake that is easy to make moves an embedding far beyond the tolerance: the parity tests can fail.

use super::{Golden, embed, largest_difference, unit};
use clip_cli::image::{CropRounding, DecodeOptions, Filter, Resize, decode};
use clip_cli::model::family::Plan;
use clip_cli::model::spec::{
    BlocksSpec, EfficientNetSpec, ImagePool, ImageSpec, NormPlace, Padding, RopeSpec, TextPool, TextTowerSpec, VitSpec,
};
use clip_cli::model::{Clip, LoadOptions};
use clip_cli::ops::Activation;
use clip_cli::weights::Layout;

/// The tolerance of `towers` on unit embeddings, ten times over.
const TEN_TIMES: f32 = 10.0 * 5e-6;

fn mistaken(golden: &Golden, mistake: impl FnOnce(&mut Plan)) -> Clip {
    let files = golden.files();
    let weights = files.weights().unwrap();
    let mut plan = Clip::plan(&files, &weights).unwrap();
    let before = format!("{plan:?}");
    mistake(&mut plan);
    assert_ne!(before, format!("{plan:?}"), "the mistake changed nothing");
    Clip::from_plan(files, weights, plan, &LoadOptions::default()).unwrap()
}

pub(super) fn image_error(golden: &Golden, mistake: impl FnOnce(&mut Plan)) -> f32 {
    let clip = mistaken(golden, mistake);
    let ours = unit(embed(&clip, golden.pixels("pixels")), clip.spec.embed_dim);
    largest_difference(&ours, &golden.numbers("image_embeds"))
}

pub(super) fn text_error(golden: &Golden, mistake: impl FnOnce(&mut Plan)) -> f32 {
    let clip = mistaken(golden, mistake);
    let (ids, len) = golden.ids();
    let ours = unit(clip.embed_ids(&ids, len).unwrap(), clip.spec.embed_dim);
    largest_difference(&ours, &golden.numbers("text_embeds"))
}

fn file_error(golden: &Golden, mistake: impl FnOnce(&mut Plan)) -> f32 {
    let clip = mistaken(golden, mistake);
    let mut worst = 0f32;
    let theirs = golden.numbers("image_embeds");
    for (path, theirs) in golden.images.iter().zip(theirs.chunks(clip.spec.embed_dim)) {
        let raster = decode(&std::fs::read(path).unwrap(), &DecodeOptions::default()).unwrap();
        let ours = embed(&clip, vec![clip.preprocess().run(&raster).unwrap()]);
        worst = worst.max(largest_difference(&unit(ours, clip.spec.embed_dim), theirs));
    }
    worst
}

pub(super) fn image_blocks(plan: &mut Plan) -> &mut BlocksSpec {
    match &mut plan.spec.image {
        ImageSpec::Vit(vit) => &mut vit.blocks,
        _ => panic!("no blocks"),
    }
}

pub(super) fn vit(plan: &mut Plan) -> &mut VitSpec {
    match &mut plan.spec.image {
        ImageSpec::Vit(vit) => vit,
        _ => panic!("no transformer"),
    }
}

pub(super) fn text_blocks(plan: &mut Plan) -> &mut BlocksSpec {
    match &mut plan.spec.text {
        TextTowerSpec::Transformer(text) => &mut text.blocks,
        TextTowerSpec::Bert(text) => &mut text.blocks,
    }
}

pub(super) fn check(what: &str, golden: &Golden, error: f32) {
    assert!(error >= TEN_TIMES, "{}: {what} would pass unseen: {error}", golden.name());
}

const VITS: [&str; 17] = [
    "hf-clip-quickgelu",
    "hf-clip-gelu",
    "open_clip-vit",
    "open_clip-vit-quickgelu",
    "hf-siglip",
    "hf-siglip2",
    "open_clip-siglip",
    "open_clip-siglip2",
    "custom-text-dinov2",
    "eva-clip",
    "eva02-clip-enormous",
    "hf-siglip2-naflex",
    "open_clip-siglip2-so400m",
    "pe-core",
    "timm-vit-avg",
    "timm-vit-clip",
    "timm-vit-gap",
];

#[test]
fn a_swapped_activation_shows() {
    let other = |act: Activation| match act {
        Activation::GeluErf => Activation::GeluTanh,
        Activation::GeluTanh => Activation::GeluErf,
        _ => Activation::GeluErf,
    };
    for golden in VITS.map(Golden::named) {
        let swap = |blocks: &mut BlocksSpec| blocks.act = other(blocks.act);
        check("another image activation", &golden, image_error(&golden, |plan| swap(image_blocks(plan))));
        check("another text activation", &golden, text_error(&golden, |plan| swap(text_blocks(plan))));
    }
}

#[test]
fn another_layer_norm_epsilon_shows() {
    for golden in VITS.map(Golden::named) {
        let swap = |blocks: &mut BlocksSpec| blocks.eps = if blocks.eps < 5e-6 { 1e-5 } else { 1e-6 };
        check("another image epsilon", &golden, image_error(&golden, |plan| swap(image_blocks(plan))));
        check("another text epsilon", &golden, text_error(&golden, |plan| swap(text_blocks(plan))));
    }
}

#[test]
fn a_dropped_or_added_mask_shows() {
    for golden in VITS.map(Golden::named) {
        let error = text_error(&golden, |plan| match &mut plan.spec.text {
            TextTowerSpec::Transformer(text) => text.causal = !text.causal,
            // Without its padding token a BERT attends to padding.
            TextTowerSpec::Bert(text) => text.pad_id = u32::MAX,
        });
        check("another mask", &golden, error);
    }
}

#[test]
fn a_pooled_token_off_by_one_shows() {
    for golden in VITS.map(Golden::named) {
        let error = text_error(&golden, |plan| match &mut plan.spec.text {
            TextTowerSpec::Transformer(text) => {
                text.pool = if text.pool == TextPool::Last { TextPool::First } else { TextPool::Last };
            }
            TextTowerSpec::Bert(text) => text.pool = TextPool::First,
        });
        check("another pooled token", &golden, error);
    }
    // The token before the end of the text.
    let golden = Golden::named("hf-clip-gelu");
    let (ids, len) = golden.ids();
    let clip = golden.clip();
    let tower = clip.text().unwrap();
    // The ids say that each text ends one token earlier.
    let mut shifted = ids.clone();
    for row in shifted.chunks_mut(len) {
        let end = row.iter().position(|&id| id == *row.iter().max().unwrap()).unwrap();
        row.swap(end - 1, end);
    }
    let ours = tower.forward_prompted(&tower.embed(&ids, len).unwrap(), &shifted, &[], 0).unwrap();
    let ours = unit(ours.flatten_all().unwrap().to_vec1().unwrap(), clip.spec.embed_dim);
    check("the token before the end", &golden, largest_difference(&ours, &golden.numbers("text_embeds")));
}

#[test]
fn another_interpolation_or_crop_shows() {
    for golden in VITS.map(Golden::named) {
        let error = file_error(&golden, |plan| {
            let filter = &mut plan.spec.preprocess.filter;
            *filter = if *filter == Filter::Bicubic { Filter::Bilinear } else { Filter::Bicubic };
        });
        check("another interpolation", &golden, error);
    }
    for golden in ["hf-clip-quickgelu", "open_clip-vit", "custom-text-dinov2"].map(Golden::named) {
        let error = file_error(&golden, |plan| {
            let crop = &mut plan.spec.preprocess.crop;
            *crop = if *crop == CropRounding::Floor { CropRounding::HalfEven } else { CropRounding::Floor };
        });
        check("a crop off by one", &golden, error);
        check("squashing", &golden, file_error(&golden, |plan| plan.spec.preprocess.resize = Resize::Squash));
    }
}

#[test]
fn a_transposed_projection_shows() {
    // The only square projections: a wrong orientation of any other is refused for its shape.
    let golden = Golden::named("hf-siglip");
    let error = text_error(&golden, |plan| {
        let wrong = Layout::default().transposed("text.proj.weight", "text_model.head.weight");
        plan.layout = wrong.and(std::mem::take(&mut plan.layout));
    });
    check("a transposed projection", &golden, error);
}

#[test]
fn mistakes_in_convolutional_towers_show() {
    let mistake = |name: &str, what: &str, mistake: &dyn Fn(&mut ImageSpec)| {
        let golden = Golden::named(name);
        check(what, &golden, image_error(&golden, |plan| mistake(&mut plan.spec.image)));
    };
    let with = |name, what, f: &dyn Fn(&mut EfficientNetSpec)| {
        mistake(name, what, &|spec| {
            if let ImageSpec::EfficientNet(net) = spec {
                f(net)
            }
        });
    };
    let symmetric = |size: usize| Padding::Zeros { before: size / 2, after: size / 2 };
    with("hf-align", "another activation", &|net| net.act = Activation::GeluErf);
    with("hf-align", "another epsilon", &|net| net.eps = 1e-5);
    with("hf-align", "a stem padded on the other side", &|net| {
        net.stem_padding = Padding::Zeros { before: 1, after: 0 };
    });
    with("hf-align", "symmetric padding", &|net| {
        net.blocks.iter_mut().for_each(|block| block.padding = symmetric(block.size));
    });
    with("hf-align", "a skip in a stage's first block", &|net| {
        net.blocks.iter_mut().for_each(|block| block.residual = true);
    });
    mistake("open_clip-resnet", "heads", &|spec| {
        if let ImageSpec::ResNet(net) = spec {
            net.heads *= 2;
        }
    });
    mistake("open_clip-mobileclip2", "another epsilon", &|spec| {
        if let ImageSpec::FastVit(net) = spec {
            net.layer_norm = Some(1e-3);
        }
    });
    for name in ["open_clip-convnext", "open_clip-convnext-mlp"] {
        mistake(name, "another epsilon", &|spec| {
            if let ImageSpec::ConvNext(net) = spec {
                net.eps = if net.eps < 5e-6 { 1e-5 } else { 1e-6 };
            }
        });
    }
    for name in ["hf-align", "open_clip-resnet", "open_clip-mobileclip", "open_clip-mobileclip2", "open_clip-convnext"]
    {
        let golden = Golden::named(name);
        let error = file_error(&golden, |plan| {
            let filter = &mut plan.spec.preprocess.filter;
            *filter = if *filter == Filter::Bicubic { Filter::Bilinear } else { Filter::Bicubic };
        });
        check("another interpolation", &golden, error);
    }
}

#[test]
fn a_branch_that_is_not_folded_is_an_error() {
    let golden = Golden::named("open_clip-mobileclip");
    let clip = mistaken(&golden, |plan| match &mut plan.spec.image {
        ImageSpec::FastVit(net) => net.stem_scale = false,
        _ => panic!("no FastViT"),
    });
    let error = clip.image().unwrap_err().to_string();
    assert!(error.contains("unexpected tensor `visual.trunk.stem.0.conv_scale.conv.weight`"), "{error}");
}

#[test]
fn wrong_rotary_positions_show() {
    for name in ["eva02-clip", "pe-core", "pe-core-gigantic"] {
        let golden = Golden::named(name);
        type Mistake = fn(&mut RopeSpec);
        let mistakes: [(&str, Mistake); 3] = [
            ("another offset", |rope| rope.offset = 1.0 - rope.offset),
            ("rows and columns exchanged", |rope| rope.columns_first = !rope.columns_first),
            ("another reference grid", |rope| rope.reference = [7; 2]),
        ];
        for (what, mistake) in mistakes {
            // Attention sees differences alone: without a class token an offset is no mistake.
            if what == "another offset" && name == "pe-core-gigantic" {
                continue;
            }
            check(what, &golden, image_error(&golden, |plan| mistake(vit(plan).rope.as_mut().unwrap())));
        }
        check("no rotation", &golden, image_error(&golden, |plan| vit(plan).rope = None));
    }
}

#[test]
fn a_misplaced_norm_or_head_shows() {
    let golden = Golden::named("eva02-clip-enormous");
    check("norms before", &golden, image_error(&golden, |plan| image_blocks(plan).norm = NormPlace::Before));
    let golden = Golden::named("timm-vit-avg");
    check("a norm before the mean", &golden, image_error(&golden, |plan| vit(plan).norm_after_pool = false));
    let golden = Golden::named("timm-vit-gap");
    check("a norm after the mean", &golden, image_error(&golden, |plan| vit(plan).norm_after_pool = true));
    for name in ["eva-clip", "eva02-clip"] {
        let golden = Golden::named(name);
        check("other heads", &golden, image_error(&golden, |plan| image_blocks(plan).heads = 4));
    }
    let golden = Golden::named("pe-core");
    let error = image_error(&golden, |plan| match &mut vit(plan).pool {
        ImagePool::Attention { heads, .. } => *heads = 1,
        other => panic!("{other:?}"),
    });
    check("other pooling heads", &golden, error);
}
