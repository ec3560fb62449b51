//! What holds for every objective of the registry, whatever its formula.

use super::{Batch, Case, LEAVES, distance, golden, numbers, rng, sizes};
use candle_core::{DType, Device, Tensor, Var};
use clip_cli::train::objective::{
    Duplicates, Embeddings, Entry, Head, Negatives, OBJECTIVES, Objective, Pairs, Progress, Settings, Tokens, table,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn finite_differences_agree() {
    let golden = golden();
    for case in golden.cases() {
        let name = case.entry().name;
        // Its weights are constants on purpose: what they are the gradient of is tested beside it.
        if name == "isogclr" {
            continue;
        }
        let batch = case.batch(0, DType::F64);
        let value = |case: &Case| case.objective().value(&batch.pairs, &batch.head, &mut rng()).unwrap();
        let gradients = value(&case).backward().unwrap();
        let mut source = rng();
        for (leaf, var) in &batch.leaves {
            // Soft targets are constants, and they depend on the scale.
            if name == "albef" && *leaf == "log_scale" {
                continue;
            }
            let Some(gradient) = gradients.get(var) else { continue };
            let (start, direction) = (var.as_tensor().copy().unwrap(), normals(&mut source, var));
            let slope: f64 = numbers(gradient).iter().zip(numbers(&direction)).map(|(a, b)| a * b).sum();
            let at = |h: f64| {
                var.set(&(&start + (&direction * h).unwrap()).unwrap()).unwrap();
                numbers(&value(&case))[0]
            };
            let h = 1e-3;
            let found = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            var.set(&start).unwrap();
            let size = slope.abs().max(numbers(gradient).iter().map(|x| x * x).sum::<f64>().sqrt());
            assert!((found - slope).abs() <= 1e-6 * size.max(1e-3), "{}: {leaf}: {found} and {slope}", case.name);
        }
    }
}

/// With γ = 1 and nothing seen before, isogclr's gradient is that of Σ τ log mean exp(h / τ).
#[test]
fn isogclr_is_the_gradient_of_the_logarithm() {
    let golden = golden();
    let case = golden.cases().find(|case| case.entry().name == "isogclr").unwrap();
    let batch = case.batch(0, DType::F64);
    let value = case.objective().value(&batch.pairs, &batch.head, &mut rng()).unwrap();
    let found = value.backward().unwrap();
    let tau = 0.01;
    let unit = |x: &Tensor| clip_cli::ops::normalize(x).unwrap();
    let cosines = unit(&batch.pairs.images).matmul(&unit(&batch.pairs.texts).t().unwrap()).unwrap();
    let n = batch.pairs.len();
    let eye = Tensor::eye(n, DType::F64, &Device::Cpu).unwrap();
    let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
    for cosines in [&cosines, &cosines.t().unwrap().contiguous().unwrap()] {
        let own = (cosines * &eye).unwrap().sum_keepdim(1).unwrap();
        let h = (cosines.broadcast_sub(&own).unwrap() / tau).unwrap();
        let exp = (h.exp().unwrap() * (1.0 - &eye).unwrap()).unwrap().sum(1).unwrap();
        sum = (sum + (exp.log().unwrap().mean_all().unwrap() * tau).unwrap()).unwrap();
    }
    let wanted = sum.backward().unwrap();
    for leaf in ["images", "texts"] {
        let of = |store: &candle_core::backprop::GradStore| numbers(store.get(&batch.leaves[leaf]).unwrap());
        assert!(distance(&of(&found), &of(&wanted)) < 1e-9);
    }
}

#[test]
fn a_resumed_objective_goes_on_exactly() {
    let golden = golden();
    for case in golden.cases() {
        let batches: Vec<Batch> = (0..3).map(|step| case.batch(step, DType::F32)).collect();
        let step = |objective: &mut Box<dyn Objective>, i: usize, rng: &mut ChaCha8Rng| {
            let value = objective.value(&batches[i].pairs, &batches[i].head, rng).unwrap();
            let gradients = value.backward().unwrap();
            let of = |leaf: &&str| gradients.get(&batches[i].leaves[*leaf]).map(numbers);
            (numbers(&value), LEAVES.iter().map(of).collect::<Vec<_>>())
        };
        let (mut whole, mut random) = (case.objective(), rng());
        step(&mut whole, 0, &mut random);
        step(&mut whole, 1, &mut random);
        let (state, mut again) = (whole.state().unwrap(), random.clone());
        let mut resumed = case.objective();
        resumed.restore(&state).unwrap();
        assert_eq!(step(&mut whole, 2, &mut random), step(&mut resumed, 2, &mut again), "{}", case.name);
    }
}

#[test]
fn no_two_objectives_are_one() {
    let golden = golden();
    let case = golden.cases().find(|case| case.entry().name == "supcon").unwrap();
    let found: Vec<_> = OBJECTIVES
        .iter()
        .map(|entry| {
            let batch = case.batch(0, DType::F64);
            let value = made(entry, &[]).value(&batch.pairs, &batch.head, &mut rng()).unwrap();
            let gradients = value.backward().unwrap();
            let of = |leaf: &str| gradients.get(&batch.leaves[leaf]).map_or(Vec::new(), numbers);
            (entry.name, numbers(&value), [of("images"), of("texts")].concat())
        })
        .collect();
    for (i, (a, value, gradient)) in found.iter().enumerate() {
        for (b, other, others) in &found[..i] {
            let same =
                distance(value, other) < 1e-6 && gradient.len() == others.len() && distance(gradient, others) < 1e-6;
            assert!(!same, "{a} and {b} are the same");
        }
    }
}

#[test]
fn the_registry_documents_itself() {
    let names: BTreeSet<_> = OBJECTIVES.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), OBJECTIVES.len(), "two objectives have one name");
    for (row, entry) in table().iter().zip(OBJECTIVES) {
        assert_eq!(row.name, entry.name);
        assert!(row.equation.len() > 10 && row.source.contains("20") && !row.fidelity.is_empty(), "{}", row.name);
        assert_eq!(row.columns.contains(&"neg_caption"), entry.needs.neg_texts);
        let settings: BTreeSet<_> = row.settings.iter().map(|setting| setting.name).collect();
        assert_eq!(settings.len(), row.settings.len(), "{} has a setting twice", row.name);
        for setting in row.settings {
            assert!(!setting.help.is_empty(), "{}.{} is not documented", row.name, setting.name);
            let (least, most) = setting.range;
            assert!((least..=most).contains(&setting.default), "{}.{}", row.name, setting.name);
        }
    }
}

#[test]
fn what_is_said_of_the_head_is_true() {
    let golden = golden();
    for case in golden.cases() {
        let batch = case.batch(0, DType::F64);
        let mut objective = case.objective();
        let value = objective.value(&batch.pairs, &batch.head, &mut rng()).unwrap();
        let gradients = value.backward().unwrap();
        assert_eq!(gradients.get(&batch.leaves["log_scale"]).is_some(), objective.uses_scale(), "{}", case.name);
        let bias = batch.head.bias.is_some() && objective.uses_bias();
        assert_eq!(gradients.get(&batch.leaves["bias"]).is_some(), bias, "{}", case.name);
    }
}

/// A caption that fits all pairs is as if it were not there; one that fits one of them is hidden from that one alone.
#[test]
fn a_caption_that_fits_another_pair_is_no_negative_of_it() {
    let golden = golden();
    let case = golden.cases().find(|case| case.entry().name == "negclip").unwrap();
    let batch = case.batch(0, DType::F64);
    let (n, negatives) = (batch.pairs.len(), batch.pairs.neg_texts.clone().unwrap());
    let columns = negatives.there.len();
    let at = negatives.there.iter().position(|there| *there).unwrap();
    let value = |negatives: Negatives| {
        let pairs = Pairs { neg_texts: Some(negatives), ..batch.pairs.clone() };
        numbers(&case.objective().value(&pairs, &batch.head, &mut rng()).unwrap())[0]
    };
    let fits = |who: &dyn Fn(usize) -> bool| {
        let fits = (0..n * columns).map(|k| k % columns == at && who(k / columns)).collect();
        value(Negatives { fits, ..negatives.clone() })
    };
    let mut gone = negatives.clone();
    gone.there[at] = false;
    assert!((fits(&|_| true) - value(gone)).abs() < 1e-12);
    let plain = value(negatives.clone());
    assert!((fits(&|_| false) - plain).abs() < 1e-12);
    // What each one loses adds up to what all lose.
    let all: f64 = (0..n).map(|who| plain - fits(&|i| i == who)).sum();
    assert!(all > 1e-6 && (all - (plain - fits(&|_| true))).abs() < 1e-12);
}

#[test]
fn what_is_said_of_extra_negatives_is_true() {
    let golden = golden();
    let with = golden.cases().find(|case| case.flag("extra")).unwrap().batch(0, DType::F64).pairs.extra;
    for entry in OBJECTIVES {
        let case = golden.cases().find(|case| case.entry().name == entry.name).unwrap();
        let batch = case.batch(0, DType::F64);
        let value = |extra: Option<_>| {
            let mut objective = case.objective();
            let pairs = Pairs { extra, ..batch.pairs.clone() };
            (numbers(&objective.value(&pairs, &batch.head, &mut rng()).unwrap()), objective.uses_extra())
        };
        let ((plain, _), (more, uses)) = (value(None), value(with.clone()));
        assert_eq!(plain != more, uses, "{}", entry.name);
        let tried = golden.cases().any(|case| case.entry().name == entry.name && case.flag("extra"));
        assert_eq!(tried, uses, "{} has no golden case with extra negatives", entry.name);
    }
}

/// Image 0 and text 1 alone have something along the first axis. Turning the text's round changes the cosine of these
/// two and nothing else, so if they are duplicates and duplicates are left out, nothing may change.
#[test]
fn a_masked_duplicate_has_no_influence() {
    // What binds each embedding on its own to something else sees it, and is switched off.
    let own: BTreeMap<&str, &[(&str, f64)]> = [
        ("clip-refine", &[("rafa", 0.0)][..]),
        ("distill", &[("features", 0.0), ("cross", 0.0)]),
        ("degla", &[("distill", 0.0)]),
    ]
    .into();
    for entry in OBJECTIVES {
        let set = own.get(entry.name).copied().unwrap_or_default();
        let value = |duplicates, sign: f64| {
            let (pairs, head) = crossing(duplicates, sign);
            numbers(&made(entry, set).value(&pairs, &head, &mut rng()).unwrap())[0]
        };
        let [hidden, seen] = [Duplicates::Mask, Duplicates::Off]
            .map(|duplicates| (value(duplicates, 1.0) - value(duplicates, -1.0)).abs());
        assert!(hidden < 1e-12, "{}: a duplicate moves the value by {hidden}", entry.name);
        assert!(seen > 1e-6, "{}: the test is blind", entry.name);
    }
}

#[test]
fn poor_batches_give_finite_numbers() {
    for entry in OBJECTIVES {
        for dtype in [DType::F32, DType::F64] {
            for (what, n, same, weights, scale) in [
                ("one pair", 1, false, None, 3.0),
                ("only duplicates", 5, true, None, 3.0),
                ("no weight", 5, false, Some(0.0), 3.0),
                ("a large scale", 5, false, None, 100f64.ln()),
            ] {
                let (pairs, head, leaves) = poor(n, same, weights, scale, dtype);
                for duplicates in [Duplicates::Mask, Duplicates::Multi, Duplicates::Off] {
                    let pairs = Pairs { duplicates, ..pairs.clone() };
                    let value = made(entry, &[]).value(&pairs, &head, &mut rng()).unwrap();
                    assert!(numbers(&value)[0].is_finite(), "{}: {what}, {duplicates:?}, {dtype:?}", entry.name);
                    let gradients = value.backward().unwrap();
                    for leaf in &leaves {
                        let finite = gradients.get(leaf).is_none_or(|x| numbers(x).iter().all(|x| x.is_finite()));
                        assert!(finite, "{}: gradient of {what}, {duplicates:?}, {dtype:?}", entry.name);
                    }
                }
            }
        }
    }
}

fn made(entry: &Entry, set: &[(&str, f64)]) -> Box<dyn Objective> {
    (entry.build)(&Settings::of(entry, set, &sizes(12)).unwrap()).unwrap()
}

fn normals(source: &mut ChaCha8Rng, like: &Tensor) -> Tensor {
    let mut draw = || f64::from(source.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
    let values: Vec<f64> = (0..like.elem_count()).map(|_| draw() + draw() + draw()).collect();
    Tensor::from_vec(values, like.shape(), &Device::Cpu).unwrap()
}

/// Random pairs with everything that an objective may ask for.
fn poor(n: usize, same: bool, weight: Option<f32>, scale: f64, dtype: DType) -> (Pairs, Head, Vec<Var>) {
    let mut source = rng();
    let mut draw = |shape: &[usize]| {
        let like = Tensor::zeros(shape, DType::F64, &Device::Cpu).unwrap();
        Var::from_tensor(&normals(&mut source, &like).to_dtype(dtype).unwrap()).unwrap()
    };
    let leaves = vec![draw(&[n, 12]), draw(&[n, 12]), draw(&[n, 2, 12]), draw(&[n, 3, 12]), draw(&[n, 4, 12])];
    let (x, y, bad) = (leaves[0].as_tensor(), leaves[1].as_tensor(), leaves[2].as_tensor());
    let slow =
        || Some(Embeddings { images: x.detach(), texts: y.detach(), neg_texts: Some(bad.detach()), scale: 10.0 });
    let pairs = Pairs {
        images: x.clone(),
        texts: y.clone(),
        neg_texts: Some(Negatives { embeddings: bad.clone(), there: vec![false; n * 2], fits: Vec::new() }),
        neg_images: None,
        tokens: Some(Tokens {
            images: leaves[3].as_tensor().clone(),
            texts: leaves[4].as_tensor().clone(),
            words: (0..n * 4).map(|at| at % 4 == 0 && at != 0).collect(),
        }),
        extra: None,
        start: slow(),
        ema: slow(),
        teacher: slow(),
        index: (0..n as u32).collect(),
        image_ids: (0..n as u64).collect(),
        keys: Vec::new(),
        labels: Some(vec![0; n]),
        same: (0..n * n).map(|at| same && at % (n + 1) != 0).collect(),
        duplicates: Duplicates::Mask,
        weights: weight.map(|weight| vec![weight; n]),
        progress: Progress::default(),
    };
    let log_scale = Var::from_tensor(&Tensor::new(scale, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
    let head = Head { log_scale: log_scale.as_tensor().clone(), bias: None };
    (pairs, head, leaves.into_iter().chain([log_scale]).collect())
}

/// Five pairs, of which image 0 and text 1 are duplicates, and only they have something along the first axis.
fn crossing(duplicates: Duplicates, sign: f64) -> (Pairs, Head) {
    let n = 5;
    let (pairs, head, _) = poor(n, false, None, 2.0, DType::F64);
    let first = |x: &Tensor, value: f64, rows: std::ops::Range<usize>| {
        let mut all = numbers(x);
        let each = x.elem_count() / n;
        for (at, x) in all.iter_mut().enumerate() {
            let (row, axis) = (at / each, at % 12);
            if axis == 0 {
                *x = if rows.contains(&row) { value } else { 0.0 };
            }
        }
        Tensor::from_vec(all, x.shape(), &Device::Cpu).unwrap()
    };
    let (images, texts) = (first(&pairs.images, 1.5, 0..1), first(&pairs.texts, 1.5 * sign, 1..2));
    let bad = pairs.neg_texts.clone().unwrap();
    let bad = Negatives { embeddings: first(&bad.embeddings, 0.0, 0..0), there: vec![true; n * 2], fits: Vec::new() };
    let slow = Embeddings {
        images: images.clone(),
        texts: texts.clone(),
        neg_texts: Some(bad.embeddings.clone()),
        scale: 10.0,
    };
    let start =
        Embeddings { images: first(&pairs.images, 0.0, 0..0), texts: first(&pairs.texts, 0.0, 0..0), ..slow.clone() };
    let tokens = pairs.tokens.clone().unwrap();
    let tokens = Tokens {
        images: first(&tokens.images, 5.0, 0..1),
        texts: first(&tokens.texts, 5.0 * sign, 1..2),
        words: vec![true; n * 4],
    };
    let mut same = vec![false; n * n];
    (same[1], same[n]) = (true, true);
    let pairs = Pairs {
        images,
        texts,
        neg_texts: Some(bad),
        tokens: Some(tokens),
        start: Some(start.clone()),
        ema: Some(slow),
        teacher: Some(start),
        labels: Some((0..n as u32).collect()),
        same,
        duplicates,
        ..pairs
    };
    (pairs, head)
}
