//! What `tune` does: a run for each number of shots and each seed, and what came of them.

use super::args::TuneArgs;
use super::judged::Judged;
use super::learn::trained;
use super::{show, words};
use crate::app::App;
use crate::commands::Status;
use crate::data::{ClassNames, LabelledOptions, SourceOptions};
use crate::error::{Error, Result};
use crate::image::DecodeOptions;
use crate::model::Clip;
use crate::tune::data::{Image, Protocol, Seen, Set, Shots, Split, Subset, check_names, decoded, photos};
use crate::tune::method::{self, Entry, Options, Recipe, Sees};
use crate::tune::photos::Photos;
use crate::tune::{Saved, Task};
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything that is the same for all seeds.
pub(super) struct Job<'a> {
    pub(super) app: &'a App,
    pub(super) args: &'a TuneArgs,
    pub(super) entry: &'static Entry,
    pub(super) recipe: Recipe,
    /// What the method looks at.
    pub(super) sees: Sees,
    pub(super) set: Set,
    /// Other images to judge by: what they are called, and the images.
    pub(super) others: Vec<(String, Set)>,
    /// What the frozen tower made of images to judge by, by name: seeds do not matter.
    pub(super) seen: RefCell<BTreeMap<(String, bool), Tensor>>,
}

/// What came of one number of shots.
pub(super) struct Round {
    pub(super) shots: Shots,
    /// The directory of its run, or of those of its seeds; none of a dry run.
    pub(super) place: Option<PathBuf>,
    /// One for each seed.
    pub(super) outcomes: Vec<Outcome>,
}

/// What came of one seed.
pub(super) struct Outcome {
    pub(super) seed: u64,
    /// The run's directory.
    pub(super) place: PathBuf,
    pub(super) split: Split,
    pub(super) options: Options,
    pub(super) judged: Vec<Judged>,
    /// The images that were judged, in the order of `judged`.
    pub(super) exams: Vec<(Vec<String>, Photos)>,
    /// How many images to judge by could not be read.
    unread: usize,
    /// How many numbers were trained.
    pub(super) parameters: usize,
    /// How long training took, in seconds.
    pub(super) seconds: f64,
    pub(super) words: words::Words,
    pub(super) notes: Vec<String>,
    pub(super) model: String,
}

/// What a run's directory holds beside the model.
pub(super) const CHECKPOINT: &str = "checkpoint.safetensors";
const SPLIT: &str = "split.json";
pub(super) const METRICS: &str = "metrics.jsonl";

pub(super) fn run(app: &App, args: &TuneArgs) -> Result<Status> {
    let job = Job::open(app, args)?;
    let (shots, seeds) = (&args.protocol.shots, &args.protocol.seeds);
    let below = |place: &Path, all: usize, name: String| if all == 1 { place.to_owned() } else { place.join(name) };
    let mut rounds = Vec::new();
    for &shots_now in shots {
        let place = args.output.as_ref().map(|output| below(output, shots.len(), format!("shots-{shots_now}")));
        let mut outcomes = Vec::new();
        for &seed in seeds {
            let directory = place.as_ref().map(|place| below(place, seeds.len(), format!("seed-{seed}")));
            outcomes.extend(job.seed(shots_now, seed, directory.as_deref())?);
        }
        rounds.push(Round { shots: shots_now, place, outcomes });
    }
    if args.dry_run {
        return Ok(Status::Done);
    }
    show::rounds(&job, &rounds)?;
    let outcomes = rounds.iter().flat_map(|round| &round.outcomes);
    let left_out = job.set.left_out.count + outcomes.map(|one| one.split.left_out.count + one.unread).sum::<usize>();
    Ok(if left_out > 0 { Status::SomeFailed } else { Status::Done })
}

impl<'a> Job<'a> {
    fn open(app: &'a App, args: &'a TuneArgs) -> Result<Self> {
        let entry = method::entry(&args.method)?;
        let recipe = args.recipe(entry)?;
        // What can be refused is refused before anything is read.
        let sees = entry.sees(&args.options(entry, 0)?);
        if Saved::find(args.model.model.as_deref()).is_some() {
            return Err(Error::usage("the model is a run of `tune`").hint("tune the model that it was made from"));
        }
        let protocol = &args.protocol;
        differ("--shots", &protocol.shots)?;
        differ("--seeds", &protocol.seeds)?;
        let options = LabelledOptions {
            names: args.classes.classnames.as_deref().map(ClassNames::load).transpose()?,
            source: SourceOptions {
                label_key: protocol.label_key.clone(),
                root: protocol.image_root.clone(),
                ..SourceOptions::default()
            },
            ..LabelledOptions::default()
        };
        let data = args.data.as_deref().ok_or_else(|| Error::usage("--data names the images"))?;
        let set = Set::open(data, &options)?;
        for (id, reason) in set.left_out.first.iter().take(3) {
            app.warn(format_args!("{id}: {reason}"));
        }
        let other = |path: &PathBuf| Ok((path.display().to_string(), Set::open(path, &options)?));
        let others = protocol.eval_data.iter().map(other).collect::<Result<_>>()?;
        Ok(Self { app, args, entry, recipe, sees, set, others, seen: RefCell::default() })
    }

    /// A run of so many shots and one seed; nothing comes of a dry one.
    fn seed(&self, shots: Shots, seed: u64, directory: Option<&Path>) -> Result<Option<Outcome>> {
        let (app, args, entry) = (self.app, self.args, self.entry);
        let resumed = directory.is_some_and(|directory| args.resume && directory.join("tune.json").is_file());
        if let Some(directory) = directory.filter(|_| !args.resume && !args.dry_run) {
            check_free(directory)?;
        }
        let split = self.split(shots, seed, directory.filter(|_| resumed))?;
        app.note(split.summary().trim_end());
        let templates = args.templates()?;
        templates.check(&split.classes)?;
        let mut clip = app.open_model(&args.model)?;
        entry.check(&clip)?;
        let options = args.options(entry, seed)?;
        let card = self.card(&clip, &options, &split)?;
        if let Some(prepare) = entry.prepare {
            prepare(&mut clip, &options)?;
        }
        let clip = clip;
        let tokenizer = clip.tokenizer()?;
        check_names(&split.classes, &|name| tokenizer.0.encode(&tokenizer.1.clean.apply(name)))?;
        let task = Task::new(&clip, &split.classes, &templates)?;
        let method = (entry.build)(&task, &options)?;
        if args.dry_run {
            return show::plan(self, &split, &options, &*method, trained(&*method)).map(|()| None);
        }
        let directory = directory.ok_or_else(|| Error::usage("--output names the run's directory"))?;
        std::fs::create_dir_all(directory).map_err(|e| Error::run(e).at(directory.display()))?;
        if resumed {
            same(&Saved::open(directory)?, &card).map_err(|e| e.at(directory.display()))?;
        } else {
            split.write(&directory.join(SPLIT))?;
            card.begin(directory)?;
        }
        let decode = DecodeOptions::default();
        let (train, val) = (photos(&split.train, &decode), photos(&split.val, &decode));
        let (mut notes, exams, unread) = self.exams(&task, &split)?;
        let (support, validation) = (self.support(&task, &train, seed)?, self.plain(&task, &val)?);
        let begun = Instant::now();
        let method = self.train(&task, method, (&train, &support), (directory, seed))?;
        let method = self.choose(&task, method, &val, &validation)?;
        let seconds = begun.elapsed().as_secs_f64();
        // Some are made of the training images.
        let parameters = trained(&*method);
        Saved::finish(directory, &method.state()?)?;
        let (mut judged, mut seen) = (Vec::new(), Vec::new());
        for exam in exams {
            seen.push((exam.test.classes.clone(), exam.photos.clone()));
            judged.extend(self.judge(exam, &task, &*method, &support, &validation)?);
        }
        let checkpoint = directory.join(CHECKPOINT);
        if checkpoint.is_file() {
            std::fs::remove_file(&checkpoint).map_err(|e| Error::run(e).at(checkpoint.display()))?;
        }
        if !entry.new_classes && args.protocol.split == Subset::Base {
            notes.push(format!("{} knows only the classes that it was tuned on: no new ones are judged", entry.name));
        }
        let words = words::nearest(&task, &*method)?;
        let model = clip.id();
        Ok(Some(Outcome {
            seed,
            place: directory.to_owned(),
            split,
            options,
            judged,
            exams: seen,
            unread,
            parameters,
            seconds,
            words,
            notes,
            model,
        }))
    }

    /// Draws the images, or reads which ones a run that goes on has drawn.
    fn split(&self, shots: Shots, seed: u64, resumed: Option<&Path>) -> Result<Split> {
        let look = self.look();
        let (subset, strict) = (self.args.protocol.split, self.args.protocol.strict);
        let Some(directory) = resumed else {
            return Protocol { shots, seed, subset, strict }.split(&self.set, &look);
        };
        let split = Split::load(&directory.join(SPLIT), &self.set, &look)?;
        match (split.shots, split.subset) == (shots, subset) {
            true => Ok(split),
            false => Err(Error::usage("the run was begun with other --shots, or another --split")
                .at(directory.display())
                .hint("split.json in it says which")),
        }
    }

    /// Looks at images, and hears Ctrl-C.
    pub(super) fn look(&self) -> impl Fn(&Image) -> Result<Seen> + Sync {
        let (decode, interrupt) = (DecodeOptions::default(), self.app.interrupt);
        move |image| interrupt.check().map(|()| decoded(image, &decode))
    }

    fn card(&self, clip: &Clip, options: &Options, split: &Split) -> Result<Saved> {
        let place = |name: &String| match Path::new(name).canonicalize() {
            Ok(path) => path.display().to_string(),
            Err(_) => clip.origin().map_or_else(|| name.clone(), str::to_owned),
        };
        Ok(Saved {
            model: self.args.model.model.as_ref().filter(|name| *name != "builtin").map(place),
            model_sha: clip.sha().to_owned(),
            method: self.entry.name.to_owned(),
            options: options.clone(),
            classes: split.classes.iter().map(|name| name.replace('_', " ")).collect(),
            templates: self.args.template_name(),
            image_size: self.args.model.image_size,
            recipe: serde_json::to_value(self.recipe).map_err(Error::run)?,
            data: [split.data.clone(), split.fingerprint.clone()],
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

/// Fails when something is named twice: it would be one directory.
fn differ<T: PartialEq + std::fmt::Display>(option: &str, all: &[T]) -> Result<()> {
    match all.iter().enumerate().find(|(at, one)| all[..*at].contains(one)) {
        Some((_, one)) => Err(Error::usage(format!("{option} names {one} twice"))),
        None => Ok(()),
    }
}

/// Fails when there is something in the directory of a new run.
fn check_free(directory: &Path) -> Result<()> {
    match directory.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        false => Ok(()),
        true => Err(Error::usage("there is something in the output directory")
            .at(directory.display())
            .hint("--resume goes on with a run; or name another directory")),
    }
}

/// Refuses to go on with another run than the one that was begun.
fn same(begun: &Saved, now: &Saved) -> Result<()> {
    if begun.model_sha != now.model_sha {
        return Err(Error::usage("the run was begun with another model"));
    }
    if begun.data != now.data {
        return Err(Error::usage("the data are not those that the run was begun with"));
    }
    match begun == now {
        true => Ok(()),
        false => Err(Error::usage("the run was begun with other options").hint("tune.json beside it says which")),
    }
}
