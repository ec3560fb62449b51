//! Objectives that go through large matrices block by block, on batches of several blocks, against the plain formula.

use super::{distance, numbers, rng, sizes};
use candle_core::{D, DType, Device, Tensor, Var};
use clip_cli::ops::normalize;
use clip_cli::train::objective::{Duplicates, Head, Pairs, Progress, Settings, Tokens, entry};
use rand_chacha::rand_core::RngCore;

fn draw(shape: &[usize], stream: u64) -> Var {
    let mut source = rng();
    source.set_stream(stream);
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|_| f64::from(source.next_u32()) / f64::from(u32::MAX) - 0.5).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn pairs(images: &Tensor, texts: &Tensor, tokens: Option<Tokens>) -> Pairs {
    let n = images.dim(0).unwrap();
    Pairs {
        images: images.clone(),
        texts: texts.clone(),
        neg_texts: None,
        neg_images: None,
        tokens,
        extra: None,
        start: None,
        ema: None,
        teacher: None,
        index: (0..n as u32).collect(),
        image_ids: (0..n as u64).collect(),
        keys: Vec::new(),
        labels: None,
        same: vec![false; n * n],
        duplicates: Duplicates::Mask,
        weights: None,
        progress: Progress::default(),
    }
}

fn number(x: f64) -> Var {
    Var::from_tensor(&Tensor::new(x, &Device::Cpu).unwrap()).unwrap()
}

/// Compares an objective's value and gradients with those of a formula.
fn compare(name: &str, pairs: &Pairs, head: &Head, plain: &Tensor, leaves: &[&Var]) {
    let entry = entry(name).unwrap();
    let mut objective = (entry.build)(&Settings::of(entry, &[], &sizes(12)).unwrap()).unwrap();
    let found = objective.value(pairs, head, &mut rng()).unwrap();
    assert!(distance(&numbers(&found), &numbers(plain)) < 1e-9, "{name}: {found} and {plain}");
    let (found, plain) = (found.backward().unwrap(), plain.backward().unwrap());
    for leaf in leaves {
        assert!(distance(&numbers(found.get(leaf).unwrap()), &numbers(plain.get(leaf).unwrap())) < 1e-9, "{name}");
    }
}

#[test]
fn siglip_over_several_blocks() {
    let n = 1100;
    let (images, texts, log_scale, bias) = (draw(&[n, 4], 0), draw(&[n, 4], 1), number(1.5), number(-3.0));
    let logits = normalize(&images).unwrap().matmul(&normalize(&texts).unwrap().t().unwrap()).unwrap();
    let logits = logits.broadcast_mul(&log_scale.exp().unwrap()).unwrap().broadcast_add(&bias).unwrap();
    let signs = ((Tensor::eye(n, DType::F64, &Device::Cpu).unwrap() * -2.0).unwrap() + 1.0).unwrap();
    let plain = ((logits * signs).unwrap().exp().unwrap() + 1.0).unwrap().log().unwrap();
    let plain = (plain.sum_all().unwrap() / n as f64).unwrap();
    let head = Head { log_scale: log_scale.as_tensor().clone(), bias: Some(bias.as_tensor().clone()) };
    compare("siglip", &pairs(&images, &texts, None), &head, &plain, &[&images, &texts, &log_scale, &bias]);
}

#[test]
fn filip_over_several_blocks() {
    let (n, patches, words, dim) = (40, 64, 48, 4);
    let (x, y, log_scale) = (draw(&[n, patches, dim], 0), draw(&[n, words, dim], 1), number(1.5));
    let flat = |x: &Var| normalize(x).unwrap().flatten(0, 1).unwrap();
    let all = flat(&x).matmul(&flat(&y).t().unwrap()).unwrap().reshape((n, patches, n, words)).unwrap();
    let of_images = all.max(D::Minus1).unwrap().mean(1).unwrap();
    let of_texts = all.max(1).unwrap().mean(D::Minus1).unwrap();
    let eye = Tensor::eye(n, DType::F64, &Device::Cpu).unwrap();
    let one_way = |x: &Tensor| {
        let x = x.broadcast_mul(&log_scale.exp().unwrap()).unwrap();
        let rows = (x.exp().unwrap().sum(1).unwrap().log().unwrap() - (&x * &eye).unwrap().sum(1).unwrap()).unwrap();
        (rows.mean_all().unwrap() * 0.5).unwrap()
    };
    let plain = (one_way(&of_images) + one_way(&of_texts.t().unwrap())).unwrap();
    let tokens = Tokens { images: x.as_tensor().clone(), texts: y.as_tensor().clone(), words: vec![true; n * words] };
    let pooled = draw(&[n, 4], 0);
    let head = Head { log_scale: log_scale.as_tensor().clone(), bias: None };
    compare("filip", &pairs(&pooled, &pooled, Some(tokens)), &head, &plain, &[&x, &y, &log_scale]);
}
