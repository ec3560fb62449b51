//! Tokens on their way through both towers, against `output_hidden_states` and `forward_intermediates`.

use super::{Golden, checkpoints, largest_difference};
use candle_core::{DType, Device, Tensor};
use clip_cli::model::readout::{TokenPool, TokenReadout};
use clip_cli::model::{Clip, ImageTower, Readout, TextTower};
use clip_cli::weights::Files;

const ALL: TokenReadout = TokenReadout { layer: -1, norm: false, project: false, pool: None };

/// What the reference's blocks leave: `hidden.safetensors` beside a checkpoint.
struct Hidden {
    golden: Golden,
    clip: Clip,
    files: Files,
}

fn hidden() -> Vec<Hidden> {
    let with = checkpoints().into_iter().filter(|golden| golden.directory.join("hidden.safetensors").is_file());
    let open = |golden: Golden| Hidden {
        clip: golden.clip(),
        files: Files::open(&golden.directory.join("hidden.safetensors")).unwrap(),
        golden,
    };
    let all: Vec<Hidden> = with.map(open).collect();
    assert!(all.len() >= 7);
    all
}

impl Hidden {
    fn names(&self, tower: &str) -> Vec<String> {
        let below = |name: &&str| name.starts_with(tower);
        let mut names: Vec<String> = self.files.names().filter(below).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The rows of one item: (tokens, width).
    fn item(&self, name: &str, item: usize) -> Vec<f32> {
        let tensor = self.files.read(name, DType::F32, &Device::Cpu).unwrap().unwrap();
        tensor.get(item).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn check(&self, name: &str, ours: &[f32], theirs: &[f32]) {
        let scale = theirs.iter().fold(0f32, |max, x| max.max(x.abs()));
        let difference = largest_difference(ours, theirs) / scale;
        assert!(difference <= 1e-5, "{}: {name} differs by {difference} of its largest number", self.golden.name());
    }
}

/// The readout that a tensor's name stands for.
fn named(name: &str) -> TokenReadout {
    match name.split_once('.').unwrap().1 {
        "norm" => TokenReadout { norm: true, ..ALL },
        "projected" => TokenReadout { norm: true, project: true, ..ALL },
        layer => TokenReadout { layer: layer.parse().unwrap(), ..ALL },
    }
}

#[test]
fn image_tokens_are_those_of_the_reference() {
    for hidden in hidden() {
        let images = || hidden.golden.pixels("pixels").into_iter().take(2).collect::<Vec<_>>();
        let names = hidden.names("image");
        assert!(names.len() >= 2);
        for name in names {
            let ours = hidden.clip.read_images(images(), &Readout::Tokens(named(&name))).unwrap();
            for (item, ours) in ours.iter().enumerate() {
                hidden.check(&name, ours, &hidden.item(&name, item));
            }
        }
    }
}

#[test]
fn text_tokens_are_those_of_the_reference() {
    for hidden in hidden() {
        let texts: Vec<String> = hidden.golden.texts().into_iter().take(2).collect();
        let names = hidden.names("text");
        assert!(names.len() >= 2);
        for name in names {
            let ours = hidden.clip.read_texts(&texts, &Readout::Tokens(named(&name))).unwrap().0;
            for (item, ours) in ours.iter().enumerate() {
                // Ours end where the text does, unless the tower sees its padding.
                let theirs = hidden.item(&name, item);
                hidden.check(&name, ours, &theirs[..ours.len()]);
            }
        }
    }
}

#[test]
fn pooled_tokens_of_the_last_layer_are_the_embedding() {
    // The class token or the end of the text, normalised and projected.
    let cls = TokenReadout { norm: true, project: true, pool: Some(TokenPool::Cls), ..ALL };
    for name in ["hf-clip-gelu", "open_clip-vit", "eva02-clip", "timm-vit-clip"] {
        let golden = Golden::named(name);
        let clip = golden.clip();
        let read = |readout: &Readout| clip.read_images(golden.pixels("pixels"), readout).unwrap().concat();
        let difference = largest_difference(&read(&Readout::Tokens(cls)), &read(&Readout::Embedding));
        assert!(difference <= 1e-5, "{name}: images: {difference}");
        let read = |readout: &Readout| clip.read_texts(&golden.texts(), readout).unwrap().0.concat();
        let difference = largest_difference(&read(&Readout::Tokens(cls)), &read(&Readout::Embedding));
        assert!(difference <= 1e-5, "{name}: texts: {difference}");
    }
    // SigLIP's text tower looks at its padding and pools the last token, wherever the text ends.
    let golden = Golden::named("hf-siglip");
    let clip = golden.clip();
    let read = |readout: &Readout| clip.read_texts(&golden.texts(), readout).unwrap().0.concat();
    for pool in [TokenPool::Cls, TokenPool::Last] {
        let last = Readout::Tokens(TokenReadout { pool: Some(pool), ..cls });
        assert!(largest_difference(&read(&last), &read(&Readout::Embedding)) <= 1e-5);
    }
}

#[test]
fn tokens_do_not_depend_on_batch_mates() {
    for golden in checkpoints() {
        let clip = golden.clip();
        let readout = Readout::Tokens(ALL);
        if clip.image_width(&readout).is_ok() {
            let images = golden.pixels("pixels");
            let together = clip.read_images(images.clone(), &readout).unwrap();
            for (one, all) in images.into_iter().zip(together) {
                assert_eq!(clip.read_images(vec![one], &readout).unwrap()[0], all, "{}", golden.name());
            }
        }
        let texts = golden.texts();
        let together = clip.read_texts(&texts, &readout).unwrap().0;
        for (one, all) in texts.iter().zip(together) {
            assert_eq!(clip.read_texts(&[one], &readout).unwrap().0[0], all, "{}: {one:?}", golden.name());
        }
    }
}

#[test]
fn whoever_looks_between_blocks_sees_all_of_them_and_may_change_them() {
    let golden = Golden::named("hf-clip-gelu");
    let clip = golden.clip();
    let (image, text) = (clip.image().unwrap(), clip.text().unwrap());
    let (ImageTower::Vit(image), TextTower::Transformer(text)) = (&*image, &*text) else { panic!("other towers") };
    let pixels = golden.tensor("pixels");
    let (ids, len) = golden.ids();
    let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let mut seen = Vec::new();
    let last = image.tokens(&pixels, 2, &mut |n, x| {
        seen.push((n, numbers(&x)));
        Ok(x)
    });
    assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(numbers(&last.unwrap()), seen[2].1);
    for (n, tokens) in &seen {
        assert_eq!(numbers(&image.tokens(&pixels, *n, &mut |_, x| Ok(x)).unwrap()), *tokens);
    }
    // A token that is replaced before the second block changes what comes out, as learnt prompts do.
    let plain = numbers(&text.tokens(&ids, len, 2, &mut |_, x| Ok(x)).unwrap());
    let changed = text.tokens(&ids, len, 2, &mut |n, x| match n {
        1 => Ok(Tensor::cat(&[&x.narrow(1, 0, 1)?, &x.narrow(1, 1, 1)?.zeros_like()?, &x.narrow(1, 2, len - 2)?], 1)?),
        _ => Ok(x),
    });
    let changed = numbers(&changed.unwrap());
    let width = plain.len() / ids.len();
    // The tower is causal: the first token does not see the second.
    assert_eq!(plain[..width], changed[..width]);
    assert!(largest_difference(&plain[2 * width..3 * width], &changed[2 * width..3 * width]) > 1e-4);
}
