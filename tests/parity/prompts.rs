//! Learnt tokens in the towers, and the methods that put them there: what must hold of them in any tower.

use super::{Golden, checkpoints};
use candle_core::{DType, Device, Tensor, Var};
use clip_cli::model::spec::{BlocksSpec, ImagePool, ImageSpec, VitSpec};
use clip_cli::model::{Clip, ImageTower, LoadOptions};
use clip_cli::text::templates;
use clip_cli::tune::Task;
use clip_cli::tune::method::{self, Method, Options, Tensors};

/// How far f64 may be from f64.
const TIGHT: f64 = 1e-9;
const CLASSES: [&str; 3] = ["cat", "red fox", "ice cream cone"];

fn open(golden: &Golden) -> Clip {
    Clip::open(golden.files(), &LoadOptions { dtype: DType::F64, ..LoadOptions::default() }).unwrap()
}

fn vit(clip: &Clip) -> Option<&VitSpec> {
    match &clip.spec.image {
        ImageSpec::Vit(vit) => Some(vit),
        _ => None,
    }
}

/// Numbers that look random, (…) in f64.
fn numbers(shape: &[usize], seed: u64, scale: f64) -> Tensor {
    let wave = |i: usize| scale * ((i as f64 + 1.0) * (12.9898 + seed as f64)).sin();
    let count = shape.iter().product();
    Tensor::from_vec((0..count).map(wave).collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap()
}

fn pixels(clip: &Clip) -> Tensor {
    let [height, width] = clip.spec.preprocess.size;
    numbers(&[2, 3, height, width], 0, 1.0)
}

/// Three tokens in front of each of the first two blocks, or of the only one.
fn prompts(blocks: &BlocksSpec) -> Vec<Tensor> {
    (1..=blocks.layers.min(2)).map(|seed| numbers(&[3, blocks.width], seed as u64, 0.5)).collect()
}

fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let number = |x: Tensor| x.max_all().unwrap().to_scalar::<f64>().unwrap();
    number((a - b).unwrap().abs().unwrap().flatten_all().unwrap())
}

/// Tokens in another order.
fn turned(x: &Tensor) -> Tensor {
    x.index_select(&Tensor::new(&[2u32, 0, 1], &Device::Cpu).unwrap(), 0).unwrap()
}

#[test]
fn learnt_tokens_among_patches_have_no_place_and_none_change_nothing() {
    let mut turning = 0;
    for golden in checkpoints() {
        let clip = open(&golden);
        let Some(spec) = vit(&clip) else { continue };
        let (name, tower, pixels) = (golden.name(), clip.image().unwrap(), pixels(&clip));
        let plain = tower.forward(&pixels).unwrap();
        assert_eq!(apart(&plain, &tower.forward_prompted(&pixels, &[]).unwrap()), 0.0, "{name}");
        let prompts = prompts(&spec.blocks);
        let prompted = tower.forward_prompted(&pixels, &prompts).unwrap();
        assert!(apart(&plain, &prompted) > 1e-6, "{name}: learnt tokens change nothing");
        let others = tower.forward_prompted(&pixels, &prompts.iter().map(turned).collect::<Vec<_>>()).unwrap();
        assert!(apart(&prompted, &others) < TIGHT, "{name}: {}", apart(&prompted, &others));
        let shallow = tower.forward_prompted(&pixels, &prompts[..1]).unwrap();
        assert!(
            prompts.len() < 2 || apart(&prompted, &shallow) > 1e-6,
            "{name}: what stands in front of block 1 changes nothing"
        );
        turning += usize::from(spec.rope.is_some());
    }
    assert!(turning >= 2, "no tower with rotary positions");
}

#[test]
fn means_of_patches_leave_learnt_tokens_out() {
    let mut seen = 0;
    for golden in checkpoints() {
        let clip = open(&golden);
        let Some(spec) = vit(&clip).filter(|vit| vit.pool == ImagePool::Mean && vit.rope.is_none() && !vit.pre_norm)
        else {
            continue;
        };
        let (loaded, pixels, prompts) = (clip.image().unwrap(), pixels(&clip), prompts(&spec.blocks));
        let ImageTower::Vit(tower) = &*loaded else { panic!("no transformer") };
        // The same step by step: behind the patches, in their place in front of block 1, and left out at the end.
        let spread = |prompt: &Tensor| prompt.unsqueeze(0).unwrap().repeat((2, 1, 1)).unwrap();
        let mut patches = 0;
        let mut between = |layer: usize, x: Tensor| {
            patches = if layer == 0 { x.dim(1)? } else { patches };
            let own = x.narrow(1, 0, patches)?;
            Ok(match prompts.get(layer) {
                Some(prompt) => Tensor::cat(&[&own, &spread(prompt)], 1)?,
                None => x,
            })
        };
        let tokens = tower.tokens(&pixels, tower.layers(), &mut between).unwrap();
        let lead = tower.lead();
        let own = |x: &Tensor| x.narrow(1, lead, patches - lead).unwrap().mean(1).unwrap();
        let pooled = match spec.norm_after_pool {
            true => tower.norm(&own(&tokens)).unwrap(),
            false => own(&tower.norm(&tokens).unwrap()),
        };
        let ours = loaded.forward_prompted(&pixels, &prompts).unwrap();
        let difference = apart(&ours, &tower.project(&pooled).unwrap());
        assert!(difference < TIGHT, "{}: {difference}", golden.name());
        seen += 1;
    }
    assert!(seen > 0, "no tower pools by mean");
}

#[test]
fn gradients_of_learnt_tokens_are_those_of_differences() {
    for name in ["eva02-clip", "pe-core", "timm-vit-avg", "hf-siglip", "custom-text-dinov2", "open_clip-metaclip2"] {
        let golden = Golden::named(name);
        let clip = open(&golden);
        let Some(spec) = vit(&clip) else { continue };
        let (tower, pixels) = (clip.image().unwrap(), pixels(&clip));
        let start = prompts(&spec.blocks);
        let vars: Vec<Var> = start.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let loss = |prompts: &[Tensor]| {
            let out = tower.forward_prompted(&pixels, prompts).unwrap();
            (&out * numbers(out.dims(), 5, 1.0)).unwrap().sum_all().unwrap()
        };
        let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let gradients = loss(&tracked).backward().unwrap();
        for (i, var) in vars.iter().enumerate() {
            let way = numbers(var.dims(), 9, 1.0);
            let slope = (gradients.get(var).unwrap() * &way).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
            let at = |step: f64| {
                let mut moved = start.clone();
                moved[i] = (&start[i] + (&way * step).unwrap()).unwrap();
                loss(&moved).to_scalar::<f64>().unwrap()
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - difference).abs() <= 1e-6 * slope.abs().max(1.0), "{name}: {i}: {slope}, {difference}");
        }
    }
}

#[test]
fn towers_without_a_place_for_learnt_tokens_refuse_them() {
    let clip = open(&Golden::named("custom-text-effnet"));
    let refused = clip.image().unwrap().forward_prompted(&pixels(&clip), &[numbers(&[3, 32], 1, 0.5)]).unwrap_err();
    assert!(refused.to_string().contains("no transformer"), "{refused}");
    for entry in deep() {
        let refused = entry.check(&clip).unwrap_err().to_string();
        assert!(refused.contains(entry.name) && refused.contains("image tower"), "{refused}");
    }

    let clip = open(&Golden::named("hf-clip-quickgelu"));
    let blocks = vit(&clip).unwrap().blocks.clone();
    let three = vec![numbers(&[3, blocks.width], 1, 0.5); 3];
    let refused = clip.image().unwrap().forward_prompted(&pixels(&clip), &three).unwrap_err();
    assert!(refused.to_string().contains("2 blocks"), "{refused}");
    let text = clip.text().unwrap();
    let tokens = text.embed(&[1, 2, 3, 4], 4).unwrap();
    let deeper = vec![numbers(&[2, tokens.dim(2).unwrap()], 1, 0.5); 2];
    let refused = text.forward_prompted(&tokens, &[1, 2, 3, 4], &deeper, 1).unwrap_err();
    assert!(refused.to_string().contains("2 blocks"), "{refused}");
    assert!(text.forward_prompted(&tokens, &[1, 2, 3, 4], &deeper[..1], 3).is_err(), "learnt tokens behind the end");
}

/// The methods of learnt tokens in front of several blocks.
fn deep() -> impl Iterator<Item = &'static method::Entry> {
    ["vpt", "ivlp", "maple", "promptsrc", "restore"].into_iter().map(|name| method::entry(name).unwrap())
}

fn task<'a>(clip: &'a Clip) -> Task<'a> {
    Task::new(clip, &CLASSES.map(str::to_owned), &templates::load("simple").unwrap()).unwrap()
}

fn built(entry: &'static method::Entry, task: &Task<'_>, said: &[(&str, f64)], seed: u64) -> Box<dyn Method> {
    let said: Vec<(String, f64)> = said.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    (entry.build)(task, &Options::new(entry, &said, seed).unwrap()).unwrap()
}

#[test]
fn a_depth_that_somebody_says_must_fit_and_the_usual_one_is_made_to() {
    let clip = open(&Golden::named("hf-clip-quickgelu"));
    let task = task(&clip);
    for entry in deep() {
        let usual: Vec<String> = built(entry, &task, &[], 0).params().into_keys().collect();
        let two: Vec<String> = built(entry, &task, &[("depth", 2.0)], 0).params().into_keys().collect();
        assert_eq!(usual, two, "{}", entry.name);
        let one = built(entry, &task, &[("depth", 1.0)], 0);
        assert!(one.params().len() < two.len(), "{}", entry.name);
        let options = Options::new(entry, &[("depth".to_owned(), 3.0)], 0).unwrap();
        let refused = (entry.build)(&task, &options).err().unwrap().to_string();
        assert!(refused.contains("2 blocks") && refused.contains('3'), "{refused}");
    }
}

#[test]
fn words_that_are_not_learnt_stay() {
    let clip = open(&Golden::named("hf-clip-quickgelu"));
    let task = task(&clip);
    let entry = method::entry("maple").unwrap();
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = Options::new(entry, &[("depth".to_owned(), 1.0)], 0).unwrap();
        change(&mut options);
        (entry.build)(&task, &options)
    };
    // All tokens of the phrase, or its first two with the others as words: the same prompts at the beginning.
    let plain = task.zero_shot().unwrap();
    for count in [1, 2, 4] {
        let method = with(&|options| options.n_ctx = Some(count)).unwrap();
        assert_eq!(method.params()["ctx"].dim(0).unwrap(), count);
        assert!(apart(&method.texts(&task).unwrap(), &plain) < TIGHT, "{count}");
    }
    let random = with(&|options| options.ctx_init = Some(String::new())).unwrap();
    assert!(apart(&random.texts(&task).unwrap(), &plain) > 1e-4);
    let refused = with(&|options| (options.n_ctx, options.ctx_init) = (Some(9), Some("a".to_owned()))).err().unwrap();
    assert!(refused.to_string().contains("9 learnt vectors"), "{refused}");
    let refused = with(&|options| options.class_specific = true).err().unwrap();
    assert!(refused.to_string().contains("same for all classes"), "{refused}");
}

#[test]
fn state_brings_a_method_back() {
    for name in ["hf-clip-quickgelu", "custom-text-dinov2"] {
        let clip = open(&Golden::named(name));
        let (task, pixels) = (task(&clip), pixels(&clip));
        for entry in deep() {
            let mut first = built(entry, &task, &[], 1);
            for epoch in 1..=2 {
                first.end_epoch(epoch, 3).unwrap();
            }
            let state = first.state().unwrap();
            let mut second = built(entry, &task, &[], 2);
            second.restore(&state).unwrap();
            same(entry.name, &state, &second.state().unwrap());
            for method in [&mut first, &mut second] {
                method.end_epoch(3, 3).unwrap();
                method.finish().unwrap();
            }
            same(entry.name, &first.state().unwrap(), &second.state().unwrap());
            let out = |method: &dyn Method| {
                let features = method.features(&task, &pixels).unwrap();
                method.logits(&task, &method.texts(&task).unwrap(), &features).unwrap()
            };
            assert_eq!(apart(&out(&*first), &out(&*second)), 0.0, "{}", entry.name);
            // What a model of its own embeds is what the method sees.
            let prompted = clip.image().unwrap().forward_prompted(&pixels, &first.image_prompts().unwrap()).unwrap();
            assert_eq!(apart(&prompted, &first.features(&task, &pixels).unwrap()), 0.0, "{}", entry.name);
        }
    }
}

fn same(name: &str, a: &Tensors, b: &Tensors) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{name}");
    a.iter().for_each(|(key, x)| assert_eq!(apart(x, &b[key]), 0.0, "{name}: {key}"));
}

#[test]
fn an_average_over_epochs_is_one_of_numbers_however_far_its_middle_is() {
    let clip = open(&Golden::named("hf-clip-quickgelu"));
    let task = task(&clip);
    let entry = method::entry("promptsrc").unwrap();
    let mut method = built(entry, &task, &[("mean", 9000.0), ("std", 0.01)], 0);
    let ctx = method.params()["ctx"].clone();
    let ones = ctx.ones_like().unwrap();
    for epoch in 1..=3 {
        ctx.set(&(&ones * epoch as f64).unwrap()).unwrap();
        method.end_epoch(epoch, 3).unwrap();
    }
    ctx.set(&ctx.zeros_like().unwrap()).unwrap();
    method.finish().unwrap();
    // All of it is the last epoch's.
    assert!(apart(ctx.as_tensor(), &(ones * 3.0).unwrap()) < TIGHT);
}

#[test]
fn shares_of_adapters_grow_once_with_the_vectors() {
    let clip = open(&Golden::named("hf-clip-quickgelu"));
    let task = task(&clip);
    let mut method = built(method::entry("restore").unwrap(), &task, &[("text_ratio", 0.2)], 0);
    let params = method.params();
    let fill = |name: &str, x: f64| params[name].set(&(params[name].ones_like().unwrap() * x).unwrap()).unwrap();
    // Two vectors of ones in front of block 1 of both towers: the norm of PᵀP is twice their width.
    for (name, x) in [("text.1", 1.0), ("couple.1.weight", 0.0), ("couple.1.bias", 1.0)] {
        fill(name, x);
    }
    let widths = [params["text.1"].dim(1).unwrap(), params["couple.1.bias"].dim(0).unwrap()].map(|width| width as f64);
    for (epoch, grown) in [(1, 0.0), (2, 1.0), (3, 1.0)] {
        method.end_epoch(epoch, 3).unwrap();
        let ratios = method.state().unwrap()["ratios"].to_vec1::<f64>().unwrap();
        let expected = [0.2 + grown * 0.04 * widths[0], 0.1 + grown * 0.01 * widths[1]];
        assert!(ratios.iter().zip(expected).all(|(a, b)| (a - b).abs() < TIGHT), "{epoch}: {ratios:?}, {expected:?}");
    }
}
