//! Every differentiable op against PyTorch: the composed path in f64, the fused path in f32, finite differences, and
//! what a frozen weight costs.

use super::{Golden, golden_directory};
use candle_core::{DType, Device, Tensor, Var};
use clip_cli::model::{Clip, LoadOptions};
use clip_cli::ops::{self, Activation, LayerNorm, Linear, Mask, Window};
use clip_cli::weights::Files;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One op with one set of inputs, and what PyTorch made of it in f64.
struct Case {
    name: String,
    settings: serde_json::Value,
    tensors: BTreeMap<String, Tensor>,
}

fn cases() -> Vec<Case> {
    ["ops", "conv-ops"].into_iter().flat_map(cases_of).collect()
}

fn cases_of(file: &str) -> Vec<Case> {
    let data = golden_directory().join("data");
    let files = Files::open(&data.join(format!("{file}.safetensors"))).unwrap();
    let settings = std::fs::read_to_string(data.join(format!("{file}.json"))).unwrap();
    let settings: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&settings).unwrap();
    let case = |(name, settings): (&String, &serde_json::Value)| Case {
        name: name.clone(),
        settings: settings.clone(),
        tensors: files
            .names()
            .filter_map(|full| Some((full, full.strip_prefix(name)?.strip_prefix('/')?)))
            .map(|(full, key)| (key.to_owned(), files.read(full, DType::F64, &Device::Cpu).unwrap().unwrap()))
            .collect(),
    };
    settings.iter().map(case).collect()
}

impl Case {
    fn op(&self) -> &str {
        self.name.split('/').next().unwrap()
    }

    fn number(&self, key: &str) -> usize {
        self.settings[key].as_u64().unwrap() as usize
    }

    /// The names of the inputs that have a gradient.
    fn inputs(&self) -> Vec<String> {
        self.tensors
            .keys()
            .filter_map(|key| key.strip_prefix('d'))
            .filter(|key| *key != "y")
            .map(str::to_owned)
            .collect()
    }

    fn vars(&self, dtype: DType) -> BTreeMap<String, Var> {
        let var = |key: &String| Var::from_tensor(&self.tensors[key].to_dtype(dtype).unwrap()).unwrap();
        self.inputs().iter().map(|key| (key.clone(), var(key))).collect()
    }

    /// The op's output for these inputs.
    fn forward(&self, x: &BTreeMap<String, Var>) -> Tensor {
        let act = self.settings["act"].as_str().map(|act| match act {
            "none" => Activation::Identity,
            "gelu_erf" => Activation::GeluErf,
            "gelu_tanh" => Activation::GeluTanh,
            name => Activation::from_hidden_act(name).unwrap(),
        });
        let linear = || Linear::new(x["w"].as_tensor().clone(), Some(x["b"].as_tensor().clone()));
        match self.op() {
            "act" => act.unwrap().forward(&x["x"]).unwrap(),
            "linear" => linear().forward(&x["x"], act.unwrap()).unwrap(),
            "layer_norm" => {
                let (weight, bias) = (x["w"].as_tensor().clone(), x["b"].as_tensor().clone());
                LayerNorm { weight, bias, eps: self.settings["eps"].as_f64().unwrap() }.forward(&x["x"]).unwrap()
            }
            "softmax" => ops::softmax(&x["x"]).unwrap(),
            "l2_normalise" => ops::normalize(&x["x"]).unwrap(),
            "attention" => ops::self_attention(&x["qkv"], self.number("heads"), &self.mask()).unwrap(),
            "patch_embed" => {
                let (outputs, channels, size, _) = x["w"].dims4().unwrap();
                let weight = x["w"].permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
                let weight = weight.reshape((outputs, size * size * channels)).unwrap();
                let (items, _, height, width) = x["x"].dims4().unwrap();
                let window = Window::tiles(size);
                let image = x["x"].permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
                let y = Linear::new(weight, Some(x["b"].as_tensor().clone()));
                let y = y.forward(&ops::unfold(&image, window).unwrap(), Activation::Identity).unwrap();
                let y = y.reshape((items, window.count(height), window.count(width), outputs)).unwrap();
                y.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
            }
            "depthwise" => {
                let (outputs, _, size, _) = x["w"].dims4().unwrap();
                let weight = x["w"].reshape((outputs, size * size)).unwrap().t().unwrap().contiguous().unwrap();
                let bias = x.get("b").map(|b| b.as_tensor());
                let act = act.unwrap_or(Activation::Identity);
                let y = ops::depthwise(&channels_last(&x["x"]), &weight, bias, self.window(size), act).unwrap();
                channels_first(&y)
            }
            "conv" => {
                let (outputs, channels, size, _) = x["w"].dims4().unwrap();
                let weight = channels_last(&x["w"]).reshape((outputs, size * size * channels)).unwrap();
                let linear = Linear::new(weight, Some(x["b"].as_tensor().clone()));
                let y = ops::conv(&channels_last(&x["x"]), &linear, self.window(size), act.unwrap()).unwrap();
                channels_first(&y)
            }
            "mean_pixels" => ops::mean_pixels(&channels_last(&x["x"])).unwrap(),
            "gate_channels" => channels_first(&ops::gate_channels(&channels_last(&x["x"]), &x["g"]).unwrap()),
            other => panic!("no test for the op {other}"),
        }
    }

    fn window(&self, size: usize) -> Window {
        let padding: Vec<usize> = serde_json::from_value(self.settings["pad_top_bottom"].clone()).unwrap();
        Window { size, stride: self.number("stride"), before: padding[0], after: padding[1] }
    }

    fn mask(&self) -> Mask {
        match self.settings["mask"].as_str().unwrap() {
            "none" => Mask::None,
            "causal" => Mask::Causal,
            _ => Mask::Lengths(Arc::new(serde_json::from_value(self.settings["lengths"].clone()).unwrap())),
        }
    }

    /// Σ y · dy, whose gradient is what PyTorch computed.
    fn objective(&self, x: &BTreeMap<String, Var>) -> Tensor {
        let y = self.forward(x);
        (&y * self.tensors["dy"].to_dtype(y.dtype()).unwrap()).unwrap().sum_all().unwrap()
    }
}

fn channels_last(x: &Tensor) -> Tensor {
    x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

fn channels_first(x: &Tensor) -> Tensor {
    x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// |a - b| / |b| over all numbers of a tensor.
fn relative(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let norm = |x: Vec<f64>| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let (a, b) = (numbers(a), numbers(b));
    norm(a.iter().zip(&b).map(|(a, b)| a - b).collect()) / norm(b).max(1e-12)
}

fn compare(dtype: DType, bound: f64) {
    let cases = cases();
    assert!(cases.len() >= 55);
    for case in cases {
        let x = case.vars(dtype);
        let y = case.forward(&x);
        let error = relative(&y, &case.tensors["y"]);
        assert!(error <= bound, "{}: y differs by {error:e}", case.name);
        let gradients = case.objective(&x).backward().unwrap();
        for (key, var) in &x {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{}: no gradient for {key}", case.name));
            let expected = &case.tensors[&format!("d{key}")];
            let error = relative(gradient, expected);
            assert!(error <= bound, "{}: d{key} differs by {error:e}", case.name);
        }
    }
}

#[test]
fn the_composed_path_equals_pytorch_in_f64() {
    compare(DType::F64, 1e-7);
}

#[test]
fn the_fused_path_equals_pytorch_in_f32() {
    compare(DType::F32, 1e-5);
}

#[test]
fn gradients_are_those_of_finite_differences() {
    const STEP: f64 = 1e-5;
    for case in cases() {
        let x = case.vars(DType::F64);
        let gradients = case.objective(&x).backward().unwrap();
        for (key, var) in &x {
            let gradient = numbers(gradients.get(var).unwrap());
            let start = numbers(var);
            let scale = gradient.iter().fold(1e-3f64, |max, g| max.max(g.abs()));
            // Every seventh number: all places take their turn over the cases.
            for i in (0..start.len()).step_by(7) {
                let value = |delta: f64| {
                    let mut moved = start.clone();
                    moved[i] += delta;
                    var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    case.objective(&x).to_scalar::<f64>().unwrap()
                };
                let slope = (value(STEP) - value(-STEP)) / (2.0 * STEP);
                let error = (slope - gradient[i]).abs() / scale;
                assert!(error <= 1e-6, "{}: d{key}[{i}] is {}, the slope {slope}", case.name, gradient[i]);
            }
            var.set(&Tensor::from_vec(start, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
    }
}

#[test]
fn cross_attention_equals_its_composed_form() {
    let draw = |tokens: usize, seed: usize| {
        let numbers = (0..2 * tokens * 12).map(|i| ((i * 7919 + seed * 104_729) % 997) as f32 / 400.0 - 1.2).collect();
        Var::from_vec(numbers, (2, tokens, 12), &Device::Cpu).unwrap()
    };
    let (q, k, v) = (draw(3, 1), draw(7, 2), draw(7, 3));
    let weight = draw(3, 4);
    let gradients = |y: Tensor| (y * weight.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
    let fused = ops::attention(&q, &k, &v, 3, &Mask::None).unwrap();
    let composed = ops::attention::composed(&q, &k, &v, 3, &Mask::None).unwrap();
    assert!(relative(&fused, &composed) <= 1e-5);
    let (fused, composed) = (gradients(fused), gradients(composed));
    for x in [&q, &k, &v] {
        assert!(relative(fused.get(x).unwrap(), composed.get(x).unwrap()) <= 1e-5);
    }
}

#[test]
fn marked_keys_and_tanh_equal_their_composed_forms() {
    let marks = [true, false, true, true, false, true, false, true, true, false, false, true, false, false];
    for causal in [false, true] {
        let mask = Mask::Keys { marks: Arc::new(marks.to_vec()), causal };
        let both = [DType::F32, DType::F64].map(|dtype| {
            let numbers = (0..2 * 7 * 36).map(|i| f64::from((i * 7919) % 997) / 400.0 - 1.2).collect();
            let qkv = Tensor::from_vec::<_, f64>(numbers, (2, 7, 36), &Device::Cpu).unwrap();
            let qkv = Var::from_tensor(&qkv.to_dtype(dtype).unwrap()).unwrap();
            let y = Activation::Tanh.forward(&ops::self_attention(&qkv, 3, &mask).unwrap()).unwrap();
            let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            (y.detach(), gradients.get(&qkv).unwrap().clone())
        });
        let [fused, composed] = both;
        assert!(relative(&fused.0, &composed.0) <= 1e-5 && relative(&fused.1, &composed.1) <= 1e-5);
        // A hidden key and its value have no influence, whatever they are.
        let key = composed.1.narrow(2, 12, 24).unwrap();
        for (at, seen) in marks.iter().enumerate() {
            let gradient = numbers(&key.narrow(0, at / 7, 1).unwrap().narrow(1, at % 7, 1).unwrap());
            assert_eq!(gradient.iter().any(|x| *x != 0.0), *seen, "causal {causal}, key {at}");
        }
    }
}

#[test]
fn a_frozen_weight_gets_no_gradient_and_passes_the_right_one() {
    for case in cases().iter().filter(|case| case.op() == "linear") {
        let vars = case.vars(DType::F32);
        let frozen = Linear::new(vars["w"].as_detached_tensor(), Some(vars["b"].as_detached_tensor()));
        let act = Activation::GeluErf;
        let y = frozen.forward(&vars["x"], act).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(frozen.weight()).is_none() && gradients.get(frozen.bias().unwrap()).is_none());
        let trained = Linear::new(vars["w"].as_tensor().clone(), Some(vars["b"].as_tensor().clone()));
        let reference = trained.forward(&vars["x"], act).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(relative(gradients.get(&vars["x"]).unwrap(), reference.get(&vars["x"]).unwrap()) <= 1e-5);
    }
}

#[test]
fn a_whole_tower_passes_the_right_gradient_to_learnt_prompts() {
    for name in [
        "hf-clip-quickgelu",
        "hf-siglip",
        "open_clip-vit",
        "custom-text-dinov2",
        "open_clip-coca",
        "open_clip-xlm-roberta",
        "hf-altclip",
    ] {
        let golden = Golden::named(name);
        let (ids, len) = golden.ids();
        let gradient = |dtype| {
            let clip = Clip::open(golden.files(), &LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
            let tower = clip.text().unwrap();
            let prompt = Var::from_tensor(&tower.embed(&ids, len).unwrap()).unwrap();
            let embeddings = tower.forward_prompted(&prompt, &ids, &[], 0);
            let unit = ops::normalize(&embeddings.unwrap()).unwrap();
            // Not along the embeddings themselves, where the gradient would be nothing but rounding.
            let weights = Tensor::arange(0f32, unit.elem_count() as f32, &Device::Cpu).unwrap().sin().unwrap();
            let weights = weights.reshape(unit.shape()).unwrap().to_dtype(dtype).unwrap();
            let value = (unit * weights).unwrap().sum_all().unwrap();
            value.backward().unwrap().get(&prompt).unwrap().clone()
        };
        let (fused, composed) = (gradient(DType::F32), gradient(DType::F64));
        let error = relative(&fused, &composed);
        assert!(error <= 1e-5, "{name}: the gradient of the prompt differs by {error:e}");
    }
}

/// Where nothing is trained, convolutions run in kernels of their own: blocks of windows, activations within.
#[test]
fn convolutions_without_gradient_equal_their_composed_forms() {
    let draw = |shape: &[usize], seed: usize| {
        let count: usize = shape.iter().product();
        let numbers = (0..count).map(|i| ((i * 7919 + seed * 104_729) % 997) as f32 / 400.0 - 1.2).collect::<Vec<_>>();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    };
    let act = Activation::GeluErf;
    // Small and large images, channels that fill no register, windows larger than the image.
    for (side, channels, size, stride) in [(40, 5, 3, 1), (41, 20, 3, 2), (33, 16, 7, 1), (19, 35, 7, 2), (3, 9, 7, 1)]
    {
        let x = draw(&[3, side, side + 2, channels], 1);
        let window = Window { size, stride, before: size / 2, after: size / 2 };
        let linear = Linear::new(draw(&[11, size * size * channels], 2), Some(draw(&[11], 3)));
        let y = ops::conv(&x, &linear, window, act).unwrap();
        let composed = linear.composed(&ops::unfold::composed(&x, window).unwrap()).unwrap();
        let composed = act.composed(&composed).unwrap().reshape(y.dims()).unwrap();
        assert!(relative(&y, &composed) <= 1e-5, "conv of {side} x {channels} by {size}/{stride}");
        for times in [1, 2] {
            let (weight, bias) = (draw(&[size * size, channels * times], 4), draw(&[channels * times], 5));
            let y = ops::depthwise(&x, &weight, Some(&bias), window, act).unwrap();
            let composed = ops::depthwise::composed(&x, &weight, Some(&bias), window).unwrap();
            let error = relative(&y, &act.composed(&composed).unwrap());
            assert!(error <= 1e-5, "depthwise of {side} x {channels} x {times} by {size}/{stride}: {error}");
            let one = ops::depthwise(&x.narrow(0, 1, 1).unwrap(), &weight, Some(&bias), window, act).unwrap();
            assert_eq!(numbers(&one), numbers(&y.narrow(0, 1, 1).unwrap()), "an item depends on its batch-mates");
        }
        let one = ops::conv(&x.narrow(0, 2, 1).unwrap(), &linear, window, act).unwrap();
        assert_eq!(numbers(&one), numbers(&y.narrow(0, 2, 1).unwrap()), "an item depends on its batch-mates");
    }
}
