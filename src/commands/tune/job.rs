//! What `tune` does: a run for each seed, and what came of them.

use super::args::TuneArgs;
use super::judged::{Exam, IMAGES, Judged, embed, tick};
use super::{show, words};
use crate::app::App;
use crate::commands::Status;
use crate::data::{ClassNames, LabelledOptions, SourceOptions};
use crate::error::{Error, Result};
use crate::image::DecodeOptions;
use crate::image::augment::Augment;
use crate::model::Clip;
use crate::train::log::metrics::Metrics;
use crate::tune::data::{Image, Seen, Set, Split, Subset, Test, canonical, check_names, decoded, photos, usable};
use crate::tune::method::{self, Entry, Method, Options, Recipe, Sees};
use crate::tune::photos::{Photos, Support, View};
use crate::tune::run::Run;
use crate::tune::{Saved, Task};
use candle_core::Tensor;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything that is the same for all seeds.
pub(super) struct Job<'a> {
    pub(super) app: &'a App,
    pub(super) args: &'a TuneArgs,
    pub(super) entry: &'static Entry,
    pub(super) recipe: Recipe,
    pub(super) set: Set,
    /// Other images to judge by: what they are called, and the images.
    others: Vec<(String, Set)>,
    /// What the frozen tower made of images to judge by, by name: seeds do not matter.
    seen: std::cell::RefCell<std::collections::BTreeMap<(String, bool), Tensor>>,
}

/// What came of one seed.
pub(super) struct Outcome {
    pub(super) seed: u64,
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
const CHECKPOINT: &str = "checkpoint.safetensors";
const SPLIT: &str = "split.json";
const METRICS: &str = "metrics.jsonl";

pub(super) fn run(app: &App, args: &TuneArgs) -> Result<Status> {
    let job = Job::open(app, args)?;
    let mut outcomes = Vec::new();
    for &seed in &args.protocol.seeds {
        let directory = args.output.as_ref().map(|output| match args.protocol.seeds.len() {
            1 => output.clone(),
            _ => output.join(format!("seed-{seed}")),
        });
        outcomes.extend(job.seed(seed, directory.as_deref())?);
    }
    if args.dry_run {
        return Ok(Status::Done);
    }
    show::outcomes(&job, &outcomes)?;
    let left_out =
        job.set.left_out.count + outcomes.iter().map(|one| one.split.left_out.count + one.unread).sum::<usize>();
    Ok(if left_out > 0 { Status::SomeFailed } else { Status::Done })
}

impl<'a> Job<'a> {
    fn open(app: &'a App, args: &'a TuneArgs) -> Result<Self> {
        let entry = method::entry(&args.method)?;
        let recipe = args.recipe(entry)?;
        // What can be refused is refused before anything is read.
        args.options(entry, 0)?;
        if Saved::find(args.model.model.as_deref()).is_some() {
            return Err(Error::usage("the model is a run of `tune`").hint("tune the model that it was made from"));
        }
        let protocol = &args.protocol;
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
        Ok(Self { app, args, entry, recipe, set, others, seen: Default::default() })
    }

    /// A run of one seed; nothing comes of a dry one.
    fn seed(&self, seed: u64, directory: Option<&Path>) -> Result<Option<Outcome>> {
        let (app, args, entry) = (self.app, self.args, self.entry);
        let resumed = directory.is_some_and(|directory| args.resume && directory.join("tune.json").is_file());
        if let Some(directory) = directory.filter(|_| !args.resume && !args.dry_run) {
            check_free(directory)?;
        }
        let split = self.split(seed, directory.filter(|_| resumed))?;
        app.note(split.summary().trim_end());
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
        let task = Task::new(&clip, &split.classes, &args.templates()?)?;
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
    fn split(&self, seed: u64, resumed: Option<&Path>) -> Result<Split> {
        let look = self.look();
        match resumed {
            Some(directory) => Split::load(&directory.join(SPLIT), &self.set, &look),
            None => {
                let protocol = &self.args.protocol;
                let (shots, subset, strict) = (protocol.shots, protocol.split, protocol.strict);
                crate::tune::data::Protocol { shots, seed, subset, strict }.split(&self.set, &look)
            }
        }
    }

    /// Looks at images, and hears Ctrl-C.
    fn look(&self) -> impl Fn(&Image) -> Result<Seen> + Sync {
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

    /// Everything to judge by: what was learnt, and where the method can, the new half of the classes. Also what people should
    /// know, and how many images cannot be read.
    fn exams(&self, task: &Task<'_>, split: &Split) -> Result<(Vec<String>, Vec<Exam>, usize)> {
        let own = match &self.set.test {
            Some(_) => Some(("test".to_owned(), self.set.tested().clone())),
            None if self.others.is_empty() => {
                let rest = split.rest(&self.set);
                (!rest.images.is_empty()).then(|| ("the rest".to_owned(), rest))
            }
            None => None,
        };
        let of_others = self.others.iter().map(|(name, set)| (name.clone(), set.tested().clone()));
        let (mut notes, mut exams, mut unread) = (Vec::new(), Vec::new(), 0);
        let halves: &[(Subset, bool)] = match self.args.protocol.split {
            Subset::Base if self.entry.new_classes => &[(Subset::Base, false), (Subset::New, true)],
            Subset::Base => &[(Subset::Base, false)],
            Subset::New => &[(Subset::New, false)],
            Subset::All => &[(Subset::All, false)],
        };
        for (name, part) in own.into_iter().chain(of_others) {
            for &(subset, new) in halves {
                // What was not drawn has images of the learnt half alone, in its own numbers.
                let (classes, subset) = match name == "the rest" {
                    true if new => continue,
                    true => (&split.classes, Subset::All),
                    false => (&self.set.train.classes, subset),
                };
                // Of other classes altogether, where the method can tell them apart.
                let other = name != "test" && classes_differ(&part.classes, classes) && self.entry.new_classes;
                let (classes, subset, new) =
                    if other { (&part.classes, Subset::All, true) } else { (classes, subset, new) };
                let mut test = Test::new(&part, classes, subset)?;
                let (images, left_out) = usable(test.images, &self.look())?;
                test.images = images;
                notes.extend(test.notes().into_iter().map(|note| format!("{name}: {note}")));
                unread += left_out.count;
                if let Some((id, reason)) = left_out.first.first() {
                    notes.push(format!("{name}: {} images cannot be read: {id}: {reason} …", left_out.count));
                }
                let twice = split.overlap(&test.images).len();
                if twice > 0 {
                    notes.push(format!("{name}: {twice} images are among those that are learnt from or chosen by"));
                }
                match test.images.is_empty() {
                    // What was not drawn may be nothing but what cannot be read.
                    true if name == "the rest" => continue,
                    true => return Err(Error::run("none of the images can be read").at(&name)),
                    false => {}
                }
                let name = if subset == Subset::All { name.clone() } else { format!("{name}, {subset} classes") };
                let photos = photos(&test.images, &DecodeOptions::default());
                let frozen = self.frozen(task, &name, new, &photos)?;
                exams.push(Exam::new(task, name, new, (test, photos, frozen))?);
            }
        }
        if exams.is_empty() {
            notes.push("nothing to judge by: --eval-data names images".to_owned());
        }
        notes.iter().for_each(|note| self.app.warn(note));
        Ok((notes, exams, unread))
    }

    fn frozen(&self, task: &Task<'_>, name: &str, new: bool, photos: &Photos) -> Result<Tensor> {
        let key = (name.to_owned(), new);
        // The rest differs from seed to seed.
        if let Some(rows) = self.seen.borrow().get(&key).filter(|_| name != "the rest") {
            return Ok(rows.clone());
        }
        let rows = embed(self.app, task, photos)?;
        self.seen.borrow_mut().insert(key, rows.clone());
        Ok(rows)
    }

    /// What the frozen tower makes of the training images: of augmented views, where the method wants some.
    fn support(&self, task: &Task<'_>, train: &Photos, seed: u64) -> Result<Support> {
        let labels = train.labels.clone();
        if self.recipe.views == 0 || self.entry.sees == Sees::Pixels {
            return Ok(Support { labels, views: vec![embed(self.app, task, train)?] });
        }
        let (tower, augment) = (task.clip.image()?, augmented());
        let progress = self.app.progress("images");
        progress.expect((train.len() * self.recipe.views) as u64);
        let views = (0..self.recipe.views as u64).map(|view| {
            let view = View { augment: &augment, seed: [seed, view] };
            train.embed(task, Some(view), 4 * IMAGES, &tick(self.app, &progress), &|pixels| tower.forward(pixels))
        });
        let views = views.collect::<Result<_>>()?;
        progress.finish();
        Ok(Support { labels, views })
    }

    fn plain(&self, task: &Task<'_>, photos: &Photos) -> Result<Support> {
        if photos.is_empty() {
            return Ok(Support::default());
        }
        Ok(Support { labels: photos.labels.clone(), views: vec![embed(self.app, task, photos)?] })
    }

    fn train<'t>(
        &self,
        task: &'t Task<'t>,
        method: Box<dyn Method>,
        (train, support): (&'t Photos, &'t Support),
        (directory, seed): (&Path, u64),
    ) -> Result<Box<dyn Method>> {
        let mut run = Run::new(self.entry, self.recipe, task, method, (train, support), seed)?;
        run.checkpoint = Some(directory.join(CHECKPOINT));
        run.augment = (self.entry.sees == Sees::Pixels).then(augmented);
        let resumed = self.args.resume && run.resume(&directory.join(CHECKPOINT))?;
        let each = run.epoch_steps();
        let first = run.epoch() * each;
        let path = directory.join(METRICS);
        let mut metrics = if resumed { Metrics::resume(&path, first as u64)? } else { Metrics::create(&path)? };
        let progress = self.app.progress("steps");
        progress.expect((self.recipe.epochs * each) as u64);
        progress.skip(first as u64);
        let done = run.run(&mut |report| {
            progress.add(1);
            progress.say(format!("loss {:.4}  lr {:.2e}  epoch {}", report.loss, report.rate, report.epoch + 1));
            let epoch = report.step as f64 / each as f64;
            let values = [
                ("epoch", json!(epoch)),
                ("loss", json!(report.loss)),
                ("lr", json!(report.rate)),
                ("grad_norm", json!(report.gradient_norm)),
                ("seconds", json!((report.seconds * 1e4).round() / 1e4)),
            ];
            metrics.write(report.step as u64, &values)?;
            self.app.interrupt.check()
        });
        progress.finish();
        done?;
        Ok(run.method)
    }

    /// Lets the method choose its numbers by the validation images, as the tuned tower sees them.
    fn choose(
        &self,
        task: &Task<'_>,
        mut method: Box<dyn Method>,
        photos: &Photos,
        plain: &Support,
    ) -> Result<Box<dyn Method>> {
        if photos.is_empty() {
            return Ok(method);
        }
        if self.entry.sees == Sees::Pixels {
            let views = vec![self.features(task, &*method, photos)?];
            method.choose(task, &Support { labels: photos.labels.clone(), views })?;
        } else {
            method.choose(task, plain)?;
        }
        Ok(method)
    }

    /// What the tuned tower makes of images.
    fn features(&self, task: &Task<'_>, method: &dyn Method, photos: &Photos) -> Result<Tensor> {
        let progress = self.app.progress("images");
        progress.expect(photos.len() as u64);
        let see = |pixels: &Tensor| method.features(task, pixels);
        let rows = photos.embed(task, None, IMAGES, &tick(self.app, &progress), &see);
        progress.finish();
        rows
    }

    fn judge(
        &self,
        exam: Exam,
        task: &Task<'_>,
        method: &dyn Method,
        support: &Support,
        validation: &Support,
    ) -> Result<Option<Judged>> {
        let other;
        let task = match exam.new {
            false => task,
            true => {
                other = Task::new(task.clip, &exam.test.classes, &task.templates)?;
                &other
            }
        };
        let features = match self.entry.sees {
            Sees::Pixels => self.features(task, method, &exam.photos)?,
            _ => exam.frozen.clone(),
        };
        let own = exam.answers(task, method, &features)?;
        let probe = if exam.new { None } else { exam.probe(task, support, validation)? };
        let (Some(method), Some(zero_shot)) = (own, exam.zero_shot) else { return Ok(None) };
        Ok(Some(Judged { name: exam.name, method, zero_shot, probe }))
    }
}

/// How many numbers a method trains.
fn trained(method: &dyn Method) -> usize {
    method.params().values().map(|var| var.elem_count()).sum()
}

/// How training images are changed: CoOp's random resized crop and flip.
fn augmented() -> Augment {
    Augment { scale: [0.08, 1.0], flip: 0.5, ..Augment::default() }
}

/// Whether two sets have no class in common.
fn classes_differ(a: &[String], b: &[String]) -> bool {
    let known: std::collections::HashSet<String> = b.iter().map(|name| canonical(name)).collect();
    !a.iter().any(|name| known.contains(&canonical(name)))
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
