//! What is seen and written while a run goes on.

use crate::app::{App, Progress};
use crate::error::Result;
use crate::train::log::curve::{self, Series};
use crate::train::log::metrics::{self, Metrics};
use crate::train::log::tensorboard::Events;
use crate::train::run::{Report, Run, Watch};
use crate::train::run_dir::{RunDir, State};
use crate::train::save::write_file;
use crate::train::validate::Found;
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Shows progress, and writes metrics and events.
pub(super) struct Watching<'a> {
    app: &'a App,
    progress: Progress,
    /// Of the first process alone.
    files: Option<RefCell<(Metrics, Events)>>,
    /// Whether it was said that a batch has nothing to tell apart.
    told: Cell<bool>,
}

const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "events.out.tfevents.0.clip-cli";

impl<'a> Watching<'a> {
    /// Begins behind this step: what an earlier run noted of later ones goes.
    pub(super) fn new(app: &'a App, directory: &RunDir, run: &Run<'_>, step: usize) -> Result<Self> {
        let progress = app.progress("steps");
        progress.expect(run.steps() as u64);
        progress.skip(step as u64);
        let files = match run.group.rank() {
            0 => {
                let (metrics, events) = (directory.path().join(METRICS), directory.path().join(EVENTS));
                let files = match step {
                    0 => (Metrics::create(&metrics)?, Events::create(&events, now())?),
                    _ => (Metrics::resume(&metrics, step as u64)?, Events::resume(&events, step as u64, now())?),
                };
                Some(RefCell::new(files))
            }
            _ => None,
        };
        Ok(Self { app, progress, files, told: Cell::new(false) })
    }

    /// Draws the curves, and says how it ended.
    pub(super) fn finish(&self, directory: &RunDir, run: &Run<'_>, state: Option<&State>) -> Result<()> {
        self.progress.finish();
        if run.group.rank() > 0 {
            return Ok(());
        }
        draw(directory.path())?;
        let Some(state) = state else { return Ok(()) };
        let best = state.best.as_ref().map_or(String::new(), |best| format!(" (of step {})", best.step));
        let place = directory.path().display();
        self.app.note(format_args!("the model{best} is in {place}; {place}/curve.html shows how it went"));
        Ok(())
    }

    fn note(&self, step: usize, values: &Map<String, Value>) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let (metrics, events) = &mut *files.borrow_mut();
        let pairs: Vec<(&str, Value)> = values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        metrics.write(step as u64, &pairs)?;
        let numbers = values.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)));
        events.scalars(step as u64, now(), &numbers.collect::<Vec<_>>())
    }
}

impl Watch for Watching<'_> {
    fn step(&self, report: &Report) -> Result<()> {
        let rate = report.pairs as f64 / report.seconds.max(1e-9);
        self.progress.add(1);
        self.progress.say(format!(
            "loss {:.4}  scale {:.2}  lr {:.2e}  norm {:.3}  {rate:.1} pairs/s",
            report.loss, report.scale, report.rate, report.gradient_norm
        ));
        if report.alone == report.pairs && !self.told.replace(true) {
            self.warn(&format!(
                "no pair of the batch of step {} has a negative: all are duplicates of each other, and little is learnt",
                report.step
            ));
        }
        let mut values = Map::new();
        let mut add = |name: &str, value: f64| values.insert(name.to_owned(), json!(value));
        add("epoch", report.epoch);
        add("loss", report.loss);
        if report.terms.len() > 1 {
            report.terms.iter().for_each(|(name, value)| {
                add(&format!("loss/{name}"), *value);
            });
        }
        add("logit_scale", report.scale);
        add("lr", report.rate);
        add("grad_norm", report.gradient_norm);
        add("pairs_per_second", (rate * 10.0).round() / 10.0);
        self.note(report.step, &values)
    }

    fn validated(&self, step: usize, found: &Found, best: bool) -> Result<()> {
        let (to_image, to_text) = (&found.retrieval.image_retrieval, &found.retrieval.text_retrieval);
        let first = |recall: &[f64]| 100.0 * recall.first().copied().unwrap_or(0.0);
        let kept = found.retention.as_ref().map_or(String::new(), |retention| {
            format!(", {:.1} % of the images keep their class (KL {:.4})", 100.0 * retention.agreement, retention.kl)
        });
        let kept = match found.accuracy {
            Some([before, now]) => format!("{kept}, accuracy {:.1} % of {:.1} %", 100.0 * now, 100.0 * before),
            None => kept,
        };
        let mark = if best && step > 0 { " *" } else { "" };
        self.progress.aside(|| {
            self.app.note(format_args!(
                "step {step}: R@1 image to text {:.1} %, text to image {:.1} %{kept}{mark}",
                first(&to_text.recall),
                first(&to_image.recall)
            ));
        });
        let mut values = Map::new();
        for (k, (image, text)) in found.retrieval.ks.iter().zip(to_image.recall.iter().zip(&to_text.recall)) {
            values.insert(format!("val/image_retrieval_recall@{k}"), json!(image));
            values.insert(format!("val/text_retrieval_recall@{k}"), json!(text));
        }
        if let Some(retention) = &found.retention {
            values.insert("val/agreement".to_owned(), json!(retention.agreement));
            values.insert("val/kl".to_owned(), json!(retention.kl));
            values.insert("val/text_drift".to_owned(), json!(retention.text_drift));
        }
        if let Some([_, now]) = found.accuracy {
            values.insert("val/accuracy".to_owned(), json!(now));
        }
        self.note(step, &values)
    }

    fn saved(&self) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        let (metrics, events) = &mut *files.borrow_mut();
        metrics.sync()?;
        events.sync()
    }

    fn warn(&self, message: &str) {
        self.progress.aside(|| self.app.warn(message));
    }

    fn interrupted(&self) -> bool {
        self.app.interrupt.is_set()
    }
}

/// Draws what the metrics say.
fn draw(directory: &Path) -> Result<()> {
    const LINES: &[(&str, &str, &str)] = &[
        ("loss", "loss", "loss"),
        ("R@1", "image to text", "val/text_retrieval_recall@1"),
        ("R@1", "text to image", "val/image_retrieval_recall@1"),
        ("kept of the start", "same class", "val/agreement"),
        ("kept of the start", "accuracy", "val/accuracy"),
        ("learning rate", "lr", "lr"),
        ("gradient norm", "norm", "grad_norm"),
        ("logit scale", "scale", "logit_scale"),
    ];
    let names: Vec<&str> = LINES.iter().map(|(_, _, name)| *name).collect();
    let points = metrics::series(&directory.join(METRICS), &names)?;
    let drawn = LINES.iter().zip(points).filter(|(_, points)| !points.is_empty());
    let series: Vec<Series> = drawn.map(|((panel, name, _), points)| Series::new(panel, name, points)).collect();
    let title = directory.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
    write_file(&directory.join("curve.svg"), curve::svg(&title, &series).as_bytes())?;
    write_file(&directory.join("curve.html"), curve::html(&title, &series).as_bytes())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Watches a step that counts for nothing.
pub(super) struct Silent<'a>(pub(super) &'a App);

impl Watch for Silent<'_> {
    fn step(&self, _: &Report) -> Result<()> {
        Ok(())
    }

    fn validated(&self, _: usize, _: &Found, _: bool) -> Result<()> {
        Ok(())
    }

    fn saved(&self) -> Result<()> {
        Ok(())
    }

    fn warn(&self, message: &str) {
        self.0.warn(message);
    }

    fn interrupted(&self) -> bool {
        self.0.interrupt.is_set()
    }
}
