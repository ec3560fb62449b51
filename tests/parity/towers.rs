//! Files to pixels to embeddings, texts to ids to embeddings, embeddings to scores.

use super::{Golden, checkpoints, embed, largest_difference, unit};
use candle_core::{DType, Var};
use clip_cli::model::spec::{ImageSpec, Objective};
use clip_cli::model::{Clip, LoadOptions};
use clip_cli::ops;

/// What the project promises for unit embeddings.
const PROMISE: f32 = 1e-4;
/// What the tiny towers really reach: the reference's own f32 error is up to 8e-6 in the EfficientNets (ALIGN's is one),
/// 3e-6 elsewhere.
const TIGHT: f32 = 5e-6;
const EFFICIENTNET: f32 = 5e-5;

fn bound(golden: &Golden) -> f32 {
    if golden.name().contains("effnet") || golden.name().contains("align") { EFFICIENTNET } else { TIGHT }
}

#[test]
fn pixels_are_those_of_the_reference() {
    for golden in checkpoints() {
        let clip = golden.clip();
        let (ours, theirs) = (golden.our_pixels(&clip), golden.pixels("pixels"));
        assert_eq!(ours.len(), theirs.len(), "{}", golden.name());
        for (path, (ours, theirs)) in golden.images.iter().zip(ours.iter().zip(&theirs)) {
            assert_eq!(ours.size, theirs.size, "{}: {}", golden.name(), path.display());
            let difference = largest_difference(&ours.values, &theirs.values);
            assert!(difference == 0.0, "{}: {}: pixels differ by {difference}", golden.name(), path.display());
        }
    }
}

#[test]
fn image_embeddings_are_those_of_the_reference() {
    for golden in checkpoints() {
        let clip = golden.clip();
        let dim = clip.spec.embed_dim;
        for (pixels, embeddings) in [("pixels", "image_embeds"), ("noise_pixels", "noise_image_embeds")] {
            let ours = unit(embed(&clip, golden.pixels(pixels)), dim);
            let difference = largest_difference(&ours, &golden.numbers(embeddings));
            assert!(difference <= bound(&golden), "{}: {embeddings} differ by {difference}", golden.name());
        }
        let raw = embed(&clip, golden.pixels("pixels"));
        let theirs = golden.numbers("image_embeds_raw");
        let scale = theirs.iter().fold(0f32, |max, x| max.max(x.abs()));
        let difference = largest_difference(&raw, &theirs) / scale;
        assert!(difference <= 10.0 * bound(&golden), "{}: raw embeddings differ by {difference}", golden.name());
    }
}

#[test]
fn files_become_the_embeddings_of_the_reference() {
    for golden in checkpoints() {
        let clip = golden.clip();
        let ours = unit(embed(&clip, golden.our_pixels(&clip)), clip.spec.embed_dim);
        let difference = largest_difference(&ours, &golden.numbers("image_embeds"));
        assert!(difference <= PROMISE.min(bound(&golden)), "{}: {difference}", golden.name());
    }
}

#[test]
fn other_input_sizes_interpolate_positions_as_the_reference_does() {
    let mut sizes = 0;
    for golden in checkpoints() {
        for kind in ["resized", "shrunk"] {
            let Some(side) = golden.about[format!("{kind}_image_size")].as_u64() else { continue };
            let options = LoadOptions { image_size: Some(side as usize), ..LoadOptions::default() };
            let clip = Clip::open(golden.files(), &options).unwrap();
            let ours = embed(&clip, golden.pixels(&format!("{kind}_pixels")));
            let theirs = golden.numbers(&format!("{kind}_image_embeds"));
            let difference = largest_difference(&unit(ours, clip.spec.embed_dim), &theirs);
            assert!(difference <= TIGHT, "{}: {kind} to {side}: {difference}", golden.name());
            sizes += 1;
        }
    }
    assert!(sizes >= 8, "only {sizes} other sizes were tested");
}

#[test]
fn token_ids_are_those_of_the_reference() {
    for golden in checkpoints() {
        let texts = golden.texts();
        if texts.len() != golden.texts.len() {
            continue;
        }
        let (theirs, len) = golden.ids();
        let tokenizer = golden.clip().tokenizer().unwrap();
        let ours = tokenizer.0.batch(&texts, &tokenizer.1).unwrap();
        for (i, text) in texts.iter().enumerate() {
            // Causal towers cannot see padding, so ours may stop at the longest text.
            let (ours, theirs) = (ours.row(i), &theirs[i * len..(i + 1) * len]);
            assert_eq!(ours, &theirs[..ours.len()], "{}: {text:?}", golden.name());
            let rest = &theirs[ours.len()..];
            assert!(rest.iter().all(|id| Some(id) == rest.first()), "{}: {text:?} lost tokens", golden.name());
        }
    }
}

#[test]
fn text_embeddings_are_those_of_the_reference() {
    for golden in checkpoints() {
        let clip = golden.clip();
        let (ids, len) = golden.ids();
        let ours = unit(clip.embed_ids(&ids, len).unwrap(), clip.spec.embed_dim);
        let difference = largest_difference(&ours, &golden.numbers("text_embeds"));
        assert!(difference <= TIGHT, "{}: from ids: {difference}", golden.name());
        let texts = golden.texts();
        if texts.len() == golden.texts.len() {
            let ours = unit(clip.embed_texts(&texts).unwrap().0, clip.spec.embed_dim);
            let difference = largest_difference(&ours, &golden.numbers("text_embeds"));
            assert!(difference <= TIGHT, "{}: from texts: {difference}", golden.name());
        }
    }
}

#[test]
fn scores_are_those_of_the_reference() {
    for golden in checkpoints() {
        let clip = golden.clip();
        let (head, dim) = (clip.head().unwrap(), clip.spec.embed_dim);
        let (images, texts) = (golden.numbers("image_embeds"), golden.numbers("text_embeds"));
        let mut logits = Vec::new();
        for image in images.chunks(dim) {
            for text in texts.chunks(dim) {
                let cosine: f32 = image.iter().zip(text).map(|(a, b)| a * b).sum();
                logits.push(head.scale * cosine + head.bias);
            }
        }
        let theirs = golden.numbers("logits_per_image");
        let scale = theirs.iter().fold(1f32, |max, x| max.max(x.abs()));
        let difference = largest_difference(&logits, &theirs) / scale;
        assert!(difference <= 1e-5, "{}: logits differ by {difference}", golden.name());
        let named = if head.objective == Objective::Softmax { "softmax" } else { "sigmoid" };
        assert_eq!(golden.about["probs"], named, "{}", golden.name());
    }
}

#[test]
fn an_embedding_does_not_depend_on_its_batch_mates() {
    for golden in checkpoints() {
        let clip = golden.clip();
        let dim = clip.spec.embed_dim;
        let pixels = golden.pixels("pixels");
        let together = embed(&clip, pixels.clone());
        for (one, all) in pixels.into_iter().zip(together.chunks(dim)) {
            assert_eq!(embed(&clip, vec![one]), all, "{}: images", golden.name());
        }
        let texts = golden.texts();
        if texts.len() == golden.texts.len() {
            let together = clip.embed_texts(&texts).unwrap().0;
            for (one, all) in texts.iter().zip(together.chunks(dim)) {
                assert_eq!(clip.embed_texts(&[one]).unwrap().0, all, "{}: {one:?}", golden.name());
            }
        }
    }
}

/// MobileCLIP as it was trained and after timm's re-parameterisation: the same reference, the same embeddings.
#[test]
fn folded_branches_equal_those_of_training() {
    let (trained, folded) = (Golden::named("open_clip-mobileclip"), Golden::named("open_clip-mobileclip-folded"));
    let named = |golden: &Golden, part: &str| golden.clip().store().files().names().any(|name| name.contains(part));
    assert!(named(&trained, "conv_kxk") && !named(&trained, "reparam_conv"));
    assert!(named(&folded, "reparam_conv") && !named(&folded, "conv_kxk"));
    let embed = |golden: &Golden| {
        let clip = golden.clip();
        unit(clip.embed_pixels(trained.numbers("pixels")).unwrap(), clip.spec.embed_dim)
    };
    for golden in [&trained, &folded] {
        let ours = embed(golden);
        for reference in [&trained, &folded] {
            let difference = largest_difference(&ours, &reference.numbers("image_embeds"));
            assert!(difference <= TIGHT, "{} from {}: {difference}", golden.name(), reference.name());
        }
    }
}

#[test]
fn convolutional_towers_pass_the_right_gradient_to_pixels() {
    for golden in checkpoints() {
        let clip = |dtype| Clip::open(golden.files(), &LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
        if matches!(clip(DType::F32).spec.image, ImageSpec::Vit(_)) {
            continue;
        }
        let gradient = |dtype| {
            let pixels = golden.tensor("pixels").narrow(0, 0, 2).unwrap().to_dtype(dtype).unwrap();
            let pixels = Var::from_tensor(&pixels).unwrap();
            let unit = ops::normalize(&clip(dtype).image().unwrap().forward(&pixels).unwrap()).unwrap();
            let weights = golden.tensor("image_embeds").narrow(0, 1, 2).unwrap().to_dtype(dtype).unwrap();
            let value = (unit * weights).unwrap().sum_all().unwrap();
            let gradient = value.backward().unwrap().get(&pixels).unwrap().to_dtype(DType::F32).unwrap();
            gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let (fused, composed) = (gradient(DType::F32), gradient(DType::F64));
        let scale = composed.iter().fold(0f32, |max, x| max.max(x.abs()));
        let difference = largest_difference(&fused, &composed) / scale;
        assert!(difference <= 1e-4, "{}: the gradient of the pixels differs by {difference:e}", golden.name());
    }
}
