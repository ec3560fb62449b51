//! Runs that stop and go on, and what is saved of them.

use super::case::{self, data};
use candle_core::{DType, Tensor};
use clip_cli::error::Error;
use clip_cli::tune::context::Place;
use clip_cli::tune::method::{Batch, Images, Options, Recipe, Sees, Tensors};
use clip_cli::tune::photos::{Photos, Support};
use clip_cli::tune::run::Run;
use clip_cli::tune::{Entry, METHODS, Saved, Task};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Arc;

const CHECKPOINT: &str = "hf-clip-quickgelu";
const TEMPLATE: &str = "a photo of a {}.";
const IMAGES: usize = 9;

fn names() -> Vec<String> {
    ["cat", "dog", "red fox"].map(str::to_owned).into()
}

/// Some photos of the fixtures, with classes.
pub(super) fn photos(count: usize) -> Photos {
    let mut files: Vec<_> = std::fs::read_dir(data("images")).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with("_base.jpg"));
    files.sort();
    let mut photos = Photos::default();
    for (n, path) in files.iter().cycle().take(count).enumerate() {
        photos.ids.push(format!("{n} {}", path.display()));
        photos.places.push(clip_cli::train::data::Place::File(path.clone()));
        photos.labels.push((n % 3) as u32);
    }
    photos
}

fn options(entry: &Entry) -> Options {
    let mut options = Options::new(entry, &[], 7).unwrap();
    options.n_ctx = Some(4);
    options.ctx_init = Some(String::new());
    options
}

/// What a run leaves: the method's state, and what it says of some images.
#[derive(Debug)]
struct Left {
    state: Tensors,
    logits: Tensor,
}

/// Trains for four epochs, or for some of them, from the checkpoint on if there is one.
fn train(entry: &'static Entry, directory: &Path, stop_after: Option<usize>) -> Option<Left> {
    let options = options(entry);
    let clip = case::open(CHECKPOINT, DType::F32, entry, &options);
    let task = Task::new(&clip, &names(), &case::template_set(&[TEMPLATE])).unwrap();
    let photos = photos(IMAGES);
    let tower = |x: &Tensor| clip.image()?.forward(x);
    let views = match entry.sees {
        Sees::Pixels => Vec::new(),
        _ => vec![photos.embed(&task, None, 4, &|_| Ok(()), &tower).unwrap()],
    };
    let support = Support { labels: photos.labels.clone(), views };
    let recipe = Recipe { epochs: if entry.recipe.epochs > 0 { 4 } else { 0 }, batch: 4, ..entry.recipe };
    let method = (entry.build)(&task, &options).unwrap();
    let mut run = Run::new(entry, recipe, &task, method, (&photos, &support), 5).unwrap();
    let checkpoint = directory.join("checkpoint.safetensors");
    run.resume(&checkpoint).unwrap();
    let started = run.epoch();
    run.checkpoint = Some(checkpoint);
    let ended = run.run(&mut |report| match stop_after {
        Some(epoch) if report.epoch == epoch => Err(Error::run("stopped")),
        _ => Ok(()),
    });
    if stop_after.is_some() && recipe.epochs > 0 {
        assert_eq!(ended.unwrap_err().to_string(), "stopped");
        return None;
    }
    ended.unwrap();
    assert_eq!(started, if stop_after.is_none() && directory.ends_with("resumed") { 2.min(recipe.epochs) } else { 0 });
    let state = run.method.state().unwrap();
    let logits = case::logits(entry, &task, &*run.method, 3);
    save(entry, &options, &state, &clip, directory);
    Some(Left { state, logits })
}

fn save(entry: &Entry, options: &Options, state: &Tensors, clip: &clip_cli::model::Clip, directory: &Path) {
    let saved = Saved {
        model: Some(CHECKPOINT.to_owned()),
        model_sha: clip.sha().to_owned(),
        method: entry.name.to_owned(),
        options: options.clone(),
        classes: names(),
        templates: TEMPLATE.to_owned(),
        image_size: None,
        recipe: serde_json::Value::Null,
        data: [String::new(), String::new()],
        version: "0".to_owned(),
    };
    saved.begin(directory).unwrap();
    Saved::finish(directory, state).unwrap();
    assert_eq!(Saved::open(directory).unwrap(), saved);
}

fn bytes(x: &Tensor) -> Vec<u32> {
    x.detach()
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|x| x.to_bits())
        .collect()
}

fn all(state: &Tensors) -> Vec<(&String, Vec<u32>)> {
    state.iter().map(|(name, x)| (name, bytes(x))).collect()
}

#[test]
fn a_run_that_stops_and_goes_on_learns_the_same() {
    for entry in METHODS {
        let home = tempfile::tempdir().unwrap();
        let [straight, resumed] = ["straight", "resumed"].map(|name| home.path().join(name));
        [&straight, &resumed].into_iter().for_each(|directory| std::fs::create_dir(directory).unwrap());
        let whole = train(entry, &straight, None).unwrap();
        train(entry, &resumed, Some(2));
        let again = train(entry, &resumed, None).unwrap();
        assert_eq!(all(&whole.state), all(&again.state), "{}", entry.name);
        assert_eq!(bytes(&whole.logits), bytes(&again.logits), "{}", entry.name);
        moved(entry, &whole.state);
        load(entry, &straight, &whole.logits);
    }
}

/// What is trained has moved.
fn moved(entry: &'static Entry, state: &Tensors) {
    if entry.recipe.epochs == 0 {
        return;
    }
    let options = options(entry);
    let clip = case::open(CHECKPOINT, DType::F32, entry, &options);
    let task = Task::new(&clip, &names(), &case::template_set(&[TEMPLATE])).unwrap();
    let mut start = (entry.build)(&task, &options).unwrap();
    let photos = photos(IMAGES);
    if entry.sees == Sees::Features {
        let views = vec![photos.embed(&task, None, 4, &|_| Ok(()), &|x| clip.image()?.forward(x)).unwrap()];
        start.fit(&task, &Support { labels: photos.labels.clone(), views }).unwrap();
    }
    let params = start.params();
    assert!(!params.is_empty(), "{}", entry.name);
    let stayed = params.iter().filter(|(name, var)| bytes(var) == bytes(&state[*name])).map(|(name, _)| name);
    assert_eq!(stayed.collect::<Vec<_>>(), Vec::<&String>::new(), "{} leaves these as they were", entry.name);
}

/// What was saved says the same of the same images, in a model that was opened anew.
fn load(entry: &'static Entry, directory: &Path, logits: &Tensor) {
    let saved = Saved::open(directory).unwrap();
    assert_eq!(saved.entry().unwrap().name, entry.name);
    let zero_shot = clip_cli::tune::method::entry("zeroshot").unwrap();
    let mut clip = case::open(CHECKPOINT, DType::F32, zero_shot, &Options::default());
    saved.apply(directory, &mut clip).unwrap();
    let task = Task::new(&clip, &saved.classes, &saved.templates().unwrap()).unwrap();
    let method = saved.method(directory, &task).unwrap();
    assert_eq!(bytes(logits), bytes(&case::logits(entry, &task, &*method, 3)), "{}", entry.name);
    if entry.sees == Sees::Pixels {
        // The model itself embeds as the method does.
        let pixels = case::pixels(&task, 3);
        let ours = clip.forward_images(&pixels).unwrap();
        assert_eq!(bytes(&ours), bytes(&method.features(&task, &pixels).unwrap()), "{}", entry.name);
    }
    let others = Task::new(&clip, &["bee".to_owned(), "owl".to_owned()], &saved.templates().unwrap()).unwrap();
    let told = saved.method(directory, &others).map(|method| case::logits(entry, &others, &*method, 0));
    match told {
        Ok(logits) => assert!(entry.new_classes && logits.dims() == [case::BATCH, 2], "{}", entry.name),
        Err(error) => assert!(!entry.new_classes, "{}: {error}", entry.name),
    }
}

#[test]
fn changes_of_the_text_tower_alone_see_features() {
    for name in ["lora", "layernorm", "bitfit"] {
        let entry = clip_cli::tune::method::entry(name).unwrap();
        let options = Options::new(entry, &[("tower".to_owned(), 2.0)], 7).unwrap();
        assert_eq!((entry.sees, entry.sees(&options)), (Sees::Pixels, Sees::Features), "{name}");
        assert_eq!(entry.sees(&Options::new(entry, &[], 7).unwrap()), Sees::Pixels, "{name}");
        let clip = case::open(CHECKPOINT, DType::F32, entry, &options);
        let task = Task::new(&clip, &names(), &case::template_set(&[TEMPLATE])).unwrap();
        let mut method = (entry.build)(&task, &options).unwrap();
        let (pixels, features) = (case::batch(entry, &task, 0), case::features(&task, 0));
        let same =
            Batch { images: Images::Features(features), labels: pixels.labels.clone(), index: pixels.index.clone() };
        let mut learn = |batch: &Batch| method.gradients(&task, batch, &mut ChaCha8Rng::seed_from_u64(3)).unwrap();
        let ((loss, gradients), (again, others)) = (learn(&pixels), learn(&same));
        assert!(loss == again && all(&gradients) == all(&others), "{name}");
        assert!(gradients.values().any(|gradient| case::largest(gradient) > 0.0), "{name}");
    }
}

#[test]
fn prompts_are_tokenized_once() {
    let entry = clip_cli::tune::method::entry("coop").unwrap();
    let clip = case::open(CHECKPOINT, DType::F32, entry, &options(entry));
    let task = Task::new(&clip, &names(), &case::template_set(&[TEMPLATE])).unwrap();
    let context = |count: usize, fixed: &[u32], place| task.context(count, fixed, place).unwrap();
    let known = context(4, &[], Place::End);
    assert!(Arc::ptr_eq(&known, &context(4, &[], Place::End)));
    for other in [context(3, &[], Place::End), context(4, &[7], Place::End), context(4, &[], Place::Front)] {
        assert!(!Arc::ptr_eq(&known, &other));
    }
    assert!(Arc::ptr_eq(&task.first_prompts().unwrap(), &task.first_prompts().unwrap()));
}
