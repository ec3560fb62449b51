//! `models convert`: the same tensors, the same embeddings, and nothing run.

use super::{Ran, Sandbox, checkpoints, model, root};
use candle_core::{DType, Device};
use clip_cli::model::{Clip, LoadOptions, ModelFiles};
use clip_cli::weights::Files;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const OPEN_CLIP: [&str; 4] = ["open_clip-vit", "open_clip-vit-quickgelu", "open_clip-siglip", "open_clip-siglip2"];

fn convert(sandbox: &Sandbox, source: &str, output: &str, layout: &str, more: &[&str]) -> Ran {
    sandbox.run(&[&["models", "convert", source, "--output", output, "--layout", layout][..], more].concat())
}

fn file(name: &str) -> String {
    root().join("tests/golden/data/convert").join(name).display().to_string()
}

/// All tensors of a file of any kind: kind, shape and bytes by name.
fn tensors(path: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let files = Files::open_any(path).unwrap();
    let tensor = |name: &str| {
        let raw = files.raw(name).unwrap().unwrap();
        (format!("{:?}", raw.dtype), raw.shape, raw.bytes.into_owned())
    };
    files.names().map(|name| (name.to_owned(), tensor(name))).collect()
}

fn open(path: &Path, image_size: Option<usize>) -> Clip {
    Clip::open(ModelFiles::open(path).unwrap(), &LoadOptions { image_size, ..LoadOptions::default() }).unwrap()
}

/// Embeddings of the same noise and the same texts.
fn embeddings(clip: &Clip) -> [Vec<f32>; 2] {
    let noise = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    let pixels = (0..clip.preprocess().len()).map(noise).collect();
    let unit = |mut row: Vec<f32>| {
        clip_cli::ops::normalize::normalize_row(&mut row);
        row
    };
    let texts = ["a photo of a cat", "A red-haired DOG,  on_the street!", ""];
    let texts = texts.map(|text| unit(clip.embed_texts(&[text]).unwrap().0));
    [unit(clip.embed_pixels(pixels).unwrap()), texts.concat()]
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Same pixels, same texts, same embeddings.
#[track_caller]
fn assert_same(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| embeddings(&open(path, None)));
    for (a, b) in a.iter().zip(&b) {
        let difference = largest_difference(a, b);
        assert!(difference <= 1e-6, "embeddings differ by {difference}");
    }
}

fn head(path: &Path) -> [f32; 2] {
    let head = open(path, None).head().unwrap();
    [head.scale, head.bias]
}

#[test]
fn open_clip_to_transformers_and_back() {
    for name in OPEN_CLIP {
        let sandbox = Sandbox::new();
        convert(&sandbox, &model(name), "hf", "hf", &[]).ok();
        convert(&sandbox, "hf", "back", "open_clip", &["-q"]).ok();
        convert(&sandbox, "back", "again", "hf", &["-q"]).ok();
        let source = Path::new(&model(name)).to_owned();
        assert_same(&source, &sandbox.path("hf"));
        assert_eq!(head(&source), head(&sandbox.path("hf")), "{name}");
        // The source was written by safetensors' own writer: even its bytes come back.
        let weights = "open_clip_model.safetensors";
        assert_eq!(std::fs::read(source.join(weights)).unwrap(), sandbox.read(&format!("back/{weights}")), "{name}");
        assert_same(&source, &sandbox.path("back"));
        for file in ["model.safetensors", "config.json", "preprocessor_config.json"] {
            assert!(sandbox.read(&format!("hf/{file}")) == sandbox.read(&format!("again/{file}")), "{name}: {file}");
        }
        assert_eq!(sandbox.names(), ["again", "back", "hf"], "{name}: something was left behind");
    }
}

#[test]
fn transformers_to_open_clip_and_back() {
    for name in ["hf-clip-quickgelu", "hf-clip-gelu"] {
        let sandbox = Sandbox::new();
        convert(&sandbox, &model(name), "oc", "open_clip", &[]).ok();
        convert(&sandbox, "oc", "back", "hf", &["-q"]).ok();
        convert(&sandbox, "back", "again", "open_clip", &["-q"]).ok();
        let source = Path::new(&model(name)).to_owned();
        assert_same(&source, &sandbox.path("oc"));
        assert_same(&source, &sandbox.path("back"));
        let mut before = BTreeMap::new();
        for entry in source.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let named = path.file_name().unwrap().to_str().unwrap().starts_with("model");
            if named && path.extension().is_some_and(|e| e == "safetensors") {
                before.extend(tensors(&path));
            }
        }
        before.retain(|name, _| !name.ends_with("position_ids"));
        assert!(before == tensors(&sandbox.path("back/model.safetensors")), "{name}");
        let weights = "open_clip_model.safetensors";
        assert!(sandbox.read(&format!("oc/{weights}")) == sandbox.read(&format!("again/{weights}")), "{name}");
        let config = |directory: &str| {
            let config = sandbox.read(&format!("{directory}/open_clip_config.json"));
            let mut config: Value = serde_json::from_slice(&config).unwrap();
            // The tokenizer is called after the directory that it came from.
            assert!(config["model_cfg"]["text_cfg"]["hf_tokenizer_name"].take().is_string());
            config
        };
        assert_eq!(config("oc"), config("again"), "{name}");
    }
}

#[test]
fn what_differs_is_said() {
    let sandbox = Sandbox::new();
    // SigLIP with the activation that transformers gives it, in sizes that open_clip can name.
    convert(&sandbox, &model("open_clip-siglip"), "hf", "hf", &["-q"]).ok();
    let mut config: Value = serde_json::from_slice(&sandbox.read("hf/config.json")).unwrap();
    assert_eq!(config["vision_config"]["hidden_act"], "gelu");
    for tower in ["vision_config", "text_config"] {
        config[tower]["hidden_act"] = json!("gelu_pytorch_tanh");
    }
    sandbox.write("hf/config.json", config.to_string());
    let said = convert(&sandbox, "hf", "oc", "open_clip", &[]).code(0).stderr;
    assert!(said.contains("differs: every image embedding, slightly: timm's vit_base_patch16_siglip_48"), "{said}");
    assert!(said.contains("open_clip needs one registered as"), "{said}");
    let readme = String::from_utf8(sandbox.read("oc/README.md")).unwrap();
    assert!(readme.contains("- every image embedding, slightly"), "{readme}");
    let [[image, text], [other_image, other_text]] =
        ["hf", "oc"].map(|path| embeddings(&open(&sandbox.path(path), None)));
    assert!(largest_difference(&text, &other_text) <= 1e-6);
    assert!(largest_difference(&image, &other_image) > 1e-6);

    // Heads of 16 have no name in timm.
    let refused = convert(&sandbox, &model("hf-siglip"), "no", "open_clip", &[]).fails(3);
    assert!(refused.contains("timm has no SigLIP trunk with 2 blocks of width 64"), "{refused}");
    let refused = convert(&sandbox, &model("custom-text-effnet"), "no", "hf", &[]).fails(2);
    assert!(refused.contains("exist in one layout alone"), "{refused}");
    assert_eq!(sandbox.names(), ["hf", "oc"]);
}

#[test]
fn the_same_layout_keeps_everything_else() {
    for source in checkpoints() {
        let (sandbox, name) = (Sandbox::new(), source.display());
        convert_as_it_is(&sandbox, &source);
        let [before, after] = [&source, &sandbox.path("new")].map(|path| open(path, None));
        assert_eq!(before.spec, after.spec, "{name}");
        let noise = vec![0.25; before.preprocess().len()];
        assert_eq!(before.embed_pixels(noise.clone()).unwrap(), after.embed_pixels(noise).unwrap(), "{name}");
        if before.tokenizer().is_ok() {
            let texts = |clip: &Clip| clip.embed_texts(&["a photo of a cat"]).unwrap().0;
            assert_eq!(texts(&before), texts(&after), "{name}");
        }
        // Shards become one file; a single file stays as it is, bit by bit, and so does the configuration.
        for file in ["config.json", "open_clip_config.json", "model.safetensors", "open_clip_model.safetensors"] {
            if let Ok(bytes) = std::fs::read(source.join(file)) {
                assert!(bytes == sandbox.read(&format!("new/{file}")), "{name}: {file}");
            }
        }
    }
}

#[track_caller]
fn convert_as_it_is(sandbox: &Sandbox, source: &Path) {
    sandbox.run(&["models", "convert", source.to_str().unwrap(), "--output", "new", "-q"]).ok();
}

#[test]
fn other_kinds_of_numbers() {
    let sandbox = Sandbox::new();
    convert(&sandbox, &model("hf-clip-quickgelu"), "half", "hf", &["--output-dtype", "f16"]).ok();
    let (wide, half) = (model("hf-clip-quickgelu"), sandbox.path("half/model.safetensors"));
    let wide = Files::open(&Path::new(&wide).join("model.safetensors")).unwrap();
    let half = Files::open(&half).unwrap();
    let mut weights = 0;
    for name in wide.names() {
        let read =
            |files: &Files, dtype| files.read(name, dtype, &Device::Cpu).unwrap().unwrap().flatten_all().unwrap();
        if name.ends_with("position_ids") {
            assert_eq!(half.dtype(name), wide.dtype(name));
            continue;
        }
        // candle rounds to the nearest even, too.
        let expected = read(&wide, DType::F16).to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(read(&half, DType::F32).to_vec1::<f32>().unwrap(), expected, "{name}");
        assert_eq!(format!("{:?}", half.dtype(name).unwrap()), "F16");
        weights += 1;
    }
    assert!(weights > 60);
    let config: Value = serde_json::from_slice(&sandbox.read("half/config.json")).unwrap();
    assert_eq!(config["torch_dtype"], "float16");
    // Half precision is widened exactly.
    convert(&sandbox, "half", "wide", "open_clip", &["--output-dtype", "f32", "-q"]).ok();
    assert_same(&sandbox.path("half"), &sandbox.path("wide"));
}

#[test]
fn other_input_sizes() {
    for (name, layout, side) in [
        ("hf-clip-quickgelu", "hf", 40),
        ("hf-clip-quickgelu", "open_clip", 24),
        ("open_clip-vit", "open_clip", 64),
        ("open_clip-siglip", "hf", 64),
        ("open_clip-siglip", "open_clip", 32),
        ("hf-siglip", "hf", 32),
    ] {
        let sandbox = Sandbox::new();
        let more = ["--image-size", &side.to_string(), "--output-dtype", "f32", "-q"];
        convert(&sandbox, &model(name), "new", layout, &more).ok();
        let (before, after) = (open(Path::new(&model(name)), Some(side)), open(&sandbox.path("new"), None));
        assert_eq!(after.preprocess().size, [side; 2]);
        assert_eq!(before.preprocess().resize, after.preprocess().resize, "{name} {layout} {side}");
        let [before, after] = [before, after].map(|clip| embeddings(&clip));
        assert!(largest_difference(&before[0], &after[0]) <= 1e-6, "{name} {layout} {side}");
        assert!(largest_difference(&before[1], &after[1]) <= 1e-6, "{name} {layout} {side}");
    }
    let sandbox = Sandbox::new();
    let refused = convert(&sandbox, &model("hf-siglip"), "new", "hf", &["--image-size", "33"]).fails(2);
    assert!(refused.contains("no multiple of the patch size"), "{refused}");
}

#[test]
fn torch_files_hold_what_torch_reads_out_of_them() {
    let expected = tensors(Path::new(&file("odd.safetensors")));
    assert!(expected.len() >= 12);
    for name in ["odd.pt", "odd-legacy.bin"] {
        let read = tensors(Path::new(&file(name)));
        assert_eq!(read.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, expected) in &expected {
            assert_eq!(&read[tensor], expected, "{name}: {tensor}");
        }
    }
    let script = tensors(Path::new(&file("script.pt")));
    let names: Vec<&str> = script.keys().map(String::as_str).collect();
    assert_eq!(names, ["blocks.0.offset", "blocks.0.weight", "blocks.1.offset", "blocks.1.weight", "scale"]);
    let (kind, shape, bytes) = &script["blocks.1.weight"];
    let numbers: Vec<u8> = (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect();
    assert_eq!((kind.as_str(), &shape[..], bytes), ("F32", &[2, 3][..], &numbers));
}

/// Embeddings of a golden file, by its reference.
fn assert_answers(directory: &Path, answers: &str) {
    let clip = open(directory, None);
    let answers = Files::open(Path::new(&file(answers))).unwrap();
    let read = |name: &str, dtype| answers.read(name, dtype, &Device::Cpu).unwrap().unwrap();
    let numbers = |name: &str| read(name, DType::F32).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let ids = read("input_ids", DType::I64);
    let len = ids.dim(1).unwrap();
    let ids: Vec<u32> = ids.flatten_all().unwrap().to_vec1::<i64>().unwrap().iter().map(|&id| id as u32).collect();
    let image = clip.embed_pixels(numbers("pixels")).unwrap();
    let text = clip.embed_ids(&ids, len).unwrap();
    for (ours, theirs) in [(image, numbers("image_embeds_raw")), (text, numbers("text_embeds_raw"))] {
        let scale = theirs.iter().fold(0f32, |max, x| max.max(x.abs()));
        let difference = largest_difference(&ours, &theirs) / scale;
        assert!(difference <= 5e-6, "{}: {difference}", directory.display());
    }
}

#[test]
fn training_checkpoints_and_openai_archives() {
    let sandbox = Sandbox::new();
    convert(&sandbox, &file("training"), "trained", "open_clip", &[]).ok();
    assert_answers(&sandbox.path("trained"), "openai.safetensors");
    convert(&sandbox, &file("training"), "trained-hf", "hf", &[]).ok();
    assert_answers(&sandbox.path("trained-hf"), "openai.safetensors");
    // The archive has no configuration: sizes come from the tensors, the rest is known of OpenAI's models.
    convert(&sandbox, &file("openai.pt"), "openai", "open_clip", &[]).ok();
    assert_answers(&sandbox.path("openai"), "openai.safetensors");
    convert(&sandbox, &file("openai.pt"), "openai-hf", "hf", &[]).ok();
    assert_answers(&sandbox.path("openai-hf"), "openai.safetensors");
    let config: Value = serde_json::from_slice(&sandbox.read("openai-hf/config.json")).unwrap();
    assert_eq!(config["vision_config"]["hidden_act"], "quick_gelu");
    let refused = convert(&sandbox, &file("odd.pt"), "no", "hf", &[]).fails(3);
    assert!(refused.contains("weights without a config.json"), "{refused}");
    let refused = convert(&sandbox, &file("script.pt"), "no", "hf", &[]).fails(3);
    assert!(refused.contains("no CLIP of OpenAI's"), "{refused}");
}

#[test]
fn big_vision_archives() {
    for name in ["siglip.npz", "siglip-scanned.npz"] {
        let sandbox = Sandbox::new();
        let said = convert(&sandbox, &file(name), "new", "hf", &[]).code(0).stderr;
        assert!(said.contains("copy those of the model into the output"), "{said}");
        assert_answers(&sandbox.path("new"), "siglip.safetensors");
        let refused = convert(&sandbox, &file(name), "no", "open_clip", &[]).fails(3);
        assert!(refused.contains("timm has no SigLIP trunk"), "{refused}");
    }
}

#[test]
fn pickles_that_call_something_are_refused_and_run_nothing() {
    let sandbox = Sandbox::new();
    for name in ["evil.pt", "evil-legacy.bin"] {
        let refused = convert(&sandbox, &file(name), "no", "hf", &[]).fails(3);
        assert!(refused.contains("system`") && refused.contains("nothing was run"), "{refused}");
    }
    assert!(!Path::new("/tmp/clip-cli-was-here").exists());
    assert!(sandbox.names().is_empty());
}

#[test]
fn damaged_files_are_refused() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("model")).unwrap();
    sandbox.write("model/open_clip_config.json", std::fs::read(file("training/open_clip_config.json")).unwrap());
    for (name, source) in [("a.pt", "odd.pt"), ("b.bin", "odd-legacy.bin"), ("c.npz", "siglip-scanned.npz")] {
        let bytes = std::fs::read(file(source)).unwrap();
        for keep in [0, 1, 10, 200, bytes.len() / 2, bytes.len() - 200, bytes.len() - 1] {
            let path = sandbox.write(Path::new("model").join(name), &bytes[..keep.min(bytes.len() - 1)]);
            let refused = convert(&sandbox, path.to_str().unwrap(), "no", "open_clip", &[]).fails(3);
            assert!(refused.starts_with("error: ") && !refused.contains("panicked"), "{name} {keep}: {refused}");
        }
    }
    // Every byte may lie: reading ends, one way or the other.
    for source in ["odd.pt", "odd-legacy.bin", "siglip-scanned.npz"] {
        let bytes = std::fs::read(file(source)).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len() / 300 + 1) {
            let mut broken = bytes.clone();
            broken[at] ^= 0x5a;
            let path = sandbox.write("model/broken", &broken);
            if let Ok(files) = Files::open_any(&path) {
                for name in files.names() {
                    let _ = files.raw(name);
                }
            }
        }
    }
}

#[test]
fn incomplete_checkpoints_are_refused() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("model")).unwrap();
    for entry in std::fs::read_dir(model("hf-clip-quickgelu")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), sandbox.path("model").join(entry.file_name())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&sandbox.read("model/config.json")).unwrap();
    config["vision_config"]["num_hidden_layers"] = json!(3);
    config["text_config"]["num_hidden_layers"] = json!(1);
    config["text_config"]["vocab_size"] = json!(601);
    sandbox.write("model/config.json", config.to_string());
    let refused = convert(&sandbox, "model", "no", "open_clip", &[]).fails(3);
    assert!(refused.contains("missing tensor `vision_model.encoder.layers.2."), "{refused}");
    assert!(refused.contains("unexpected tensor `text_model.encoder.layers.1."), "{refused}");
    assert_eq!(sandbox.names(), ["model"]);
}

#[test]
fn outputs_are_not_replaced() {
    let sandbox = Sandbox::new();
    sandbox.file("taken/file", "mine");
    let refused = convert(&sandbox, &model("hf-clip-gelu"), "taken", "hf", &[]).fails(2);
    assert!(refused.contains("already there"), "{refused}");
    assert_eq!(sandbox.read("taken/file"), b"mine");
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    let out = convert(&sandbox, &model("hf-clip-gelu"), "empty", "hf", &["-q"]).ok();
    assert_eq!(out, "empty\n");
    let refused = convert(&sandbox, &model("hf-clip-gelu"), "no/such/place", "hf", &[]).fails(3);
    assert!(refused.contains("mkdir -p no/such"), "{refused}");
    let refused = convert(&sandbox, "nothing-here", "new", "hf", &["--offline"]).fails(2);
    assert!(refused.contains("nothing-here"), "{refused}");
    assert_eq!(sandbox.names(), ["empty", "taken"]);
}

#[test]
fn licences_and_cards_come_along() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("model")).unwrap();
    for entry in std::fs::read_dir(model("hf-clip-gelu")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), sandbox.path("model").join(entry.file_name())).unwrap();
    }
    sandbox.write("model/README.md", "---\nlicense: other\nlicense_name: ours\n---\n# Ours\n");
    sandbox.write("model/LICENSE", "Do as you like.\n");
    convert(&sandbox, "model", "new", "open_clip", &["--output-dtype", "bf16"]).ok();
    let readme = String::from_utf8(sandbox.read("new/README.md")).unwrap();
    assert!(readme.starts_with("---\nlicense: other\nlicense_name: ours\nlibrary_name: open_clip\n"), "{readme}");
    assert!(readme.contains("| model-00001-of-00002.safetensors | `") && readme.contains("bfloat16"), "{readme}");
    assert_eq!(sandbox.read("new/LICENSE"), b"Do as you like.\n");
    assert_eq!(sandbox.read("new/README.source.md"), sandbox.read("model/README.md"));
}
