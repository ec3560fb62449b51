//! What an evaluation found, for programs and for people.

use super::{Interval, Metrics};
use crate::error::ItemError;
use crate::output::ErrorLine;
use crate::output::rows::{percent, right, table, text};
use serde::Serialize;
use std::fmt::Write;

/// What was evaluated.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// The set of images.
    pub dataset: String,
    /// The model's name.
    pub model: String,
    /// The model's weights: `name@sha8`.
    pub pretrained: String,
    /// The templates that labels were put into.
    pub templates: String,
}

/// The report of a zero-shot classification.
///
/// `dataset`, `model`, `pretrained`, `task`, `metrics` and `language` are those of CLIP_benchmark, where `acc5` is NaN
/// for fewer than five classes; JSON has no NaN, so it is null here.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    dataset: &'a str,
    model: &'a str,
    pretrained: &'a str,
    task: &'static str,
    metrics: Values<f64>,
    language: &'static str,
    /// 95 % intervals: Wilson's of the accuracies, of the mean recall from Wilson's of the recalls.
    intervals: Values<Interval>,
    /// How many images were classified.
    n: u64,
    templates: &'a str,
    classes: Vec<Class<'a>>,
    /// Images that could not be read; they count neither as right nor as wrong.
    failed: Vec<ErrorLine<'a>>,
    version: &'static str,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Values<T> {
    acc1: T,
    acc5: Option<T>,
    mean_per_class_recall: T,
}

/// One class.
#[derive(Debug, Serialize)]
struct Class<'a> {
    label: &'a str,
    n: u64,
    recall: Option<f64>,
    precision: Option<f64>,
    /// The wrong class that its images were given most often.
    confused_with: Option<Confusion<'a>>,
}

#[derive(Debug, Serialize)]
struct Confusion<'a> {
    label: &'a str,
    n: u64,
}

impl<'a> Report<'a> {
    /// Puts a report together; `labels` are those of the classes that were counted.
    pub fn new(
        subject: &'a Subject,
        labels: &'a [String],
        metrics: &Metrics,
        failed: &'a [(String, ItemError)],
    ) -> Self {
        let class = |(label, class): (&'a String, &super::ClassMetrics)| Class {
            label,
            n: class.n,
            recall: class.recall,
            precision: class.precision,
            confused_with: class.confusion.map(|(other, n)| Confusion { label: &labels[other], n }),
        };
        Self {
            dataset: &subject.dataset,
            model: &subject.model,
            pretrained: &subject.pretrained,
            task: "zeroshot_classification",
            metrics: Values {
                acc1: metrics.acc1,
                acc5: metrics.acc5,
                mean_per_class_recall: metrics.mean_per_class_recall,
            },
            language: "en",
            intervals: Values {
                acc1: metrics.acc1_interval,
                acc5: metrics.acc5_interval,
                mean_per_class_recall: metrics.mean_per_class_recall_interval,
            },
            n: metrics.n,
            templates: &subject.templates,
            classes: labels.iter().zip(&metrics.classes).map(class).collect(),
            failed: failed.iter().map(|(id, error)| ErrorLine::new(id, error)).collect(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// The columns of [`Report::rows`].
    pub const COLUMNS: [&'static str; 6] = ["label", "n", "recall", "precision", "confused_with", "confused_n"];

    /// The classes as rows of values.
    pub fn rows(&self) -> impl Iterator<Item = [String; 6]> {
        let number = |x: Option<f64>| x.map(|x| x.to_string()).unwrap_or_default();
        self.classes.iter().map(move |class| {
            let (other, times) = match &class.confused_with {
                Some(confusion) => (confusion.label.to_owned(), confusion.n.to_string()),
                None => Default::default(),
            };
            [class.label.to_owned(), class.n.to_string(), number(class.recall), number(class.precision), other, times]
        })
    }

    /// Both tables, for people.
    pub fn text(&self) -> String {
        let share = |x: Option<f64>| x.map_or_else(|| "–".to_owned(), percent);
        let mut classes = table(&["class", "n", "recall", "precision", "most often taken for"]);
        for class in &self.classes {
            let confusion = class.confused_with.as_ref().map(|c| format!("{} ({})", c.label, c.n)).unwrap_or_default();
            classes.add_row([
                text(class.label),
                right(class.n),
                right(share(class.recall)),
                right(share(class.precision)),
                text(&confusion),
            ]);
        }
        let mut summary = table(&["metric", "value", "95 % interval"]);
        let (values, intervals) = (&self.metrics, &self.intervals);
        for (name, value, interval) in [
            ("acc1", Some(values.acc1), Some(intervals.acc1)),
            ("acc5", values.acc5, intervals.acc5),
            ("mean_per_class_recall", Some(values.mean_per_class_recall), Some(intervals.mean_per_class_recall)),
        ] {
            let interval = interval.map(|Interval(low, high)| format!("{} – {}", percent(low), percent(high)));
            summary.add_row([text(name), right(share(value)), text(&interval.unwrap_or_default())]);
        }
        let mut out = format!("{classes}\n{summary}\n");
        let _ = writeln!(
            out,
            "{}: {} images, {} classes, {}, templates {}",
            self.dataset,
            self.n,
            self.classes.len(),
            self.pretrained,
            self.templates
        );
        if !self.failed.is_empty() {
            let _ = writeln!(out, "{} images could not be read and are left out", self.failed.len());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ItemKind;
    use crate::eval::Tally;

    #[test]
    fn a_report() {
        let subject = Subject {
            dataset: "pets".into(),
            model: "tiny".into(),
            pretrained: "tiny@01234567".into(),
            templates: "simple".into(),
        };
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let mut tally = Tally::new(2);
        tally.add(0, &[1.0, 0.0]);
        tally.add(0, &[0.0, 1.0]);
        let metrics = tally.metrics().unwrap();
        let failed = [("x.jpg".to_owned(), ItemError::new(ItemKind::Empty, "the file is empty"))];
        let report = Report::new(&subject, &labels, &metrics, &failed);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["task"], "zeroshot_classification");
        assert_eq!(json["metrics"], serde_json::json!({"acc1": 0.5, "acc5": null, "mean_per_class_recall": 0.5}));
        assert_eq!(json["classes"][0]["confused_with"], serde_json::json!({"label": "dog", "n": 1}));
        assert_eq!(json["classes"][1]["recall"], serde_json::Value::Null);
        assert_eq!(json["failed"][0]["error"]["kind"], "empty");
        let rows: Vec<_> = report.rows().collect();
        assert_eq!(rows[0], ["cat", "2", "0.5", "1", "dog", "1"]);
        assert_eq!(rows[1], ["dog", "0", "", "0", "", ""]);
        let text = report.text();
        assert!(text.contains("dog (1)") && text.contains("50.0 %") && text.contains("1 images could not be read"));
    }
}
