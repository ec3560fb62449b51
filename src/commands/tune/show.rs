//! What is shown: the methods, what a run would do, and what came of one.

use super::job::{Job, Outcome};
use super::judged::{Answers, Judged};
use crate::commands::show::{Shape, table, write_jsonl, write_table};
use crate::error::{Error, Result};
use crate::eval::{Paired, Spread, harmonic_mean};
use crate::train::save::write_file;
use crate::tune::Method;
use crate::tune::data::Split;
use crate::tune::method::{METHODS, Options, Sees};
use crate::tune::report::{Comparison, Confusion, Gains, Mistake, Report, Score, picture};
use serde::Serialize;
use serde_json::json;

/// The registry.
pub(super) fn methods(shape: Shape) -> Result<()> {
    if !shape.is_table() {
        return write_jsonl(METHODS.iter().map(|entry| {
            json!({
                "name": entry.name,
                "trains": entry.trains,
                "sees": sees(entry.sees),
                "needs": needs(entry.needs.image_tokens),
                "new_classes": entry.new_classes,
                "model": entry.example(),
                "settings": entry.options.iter().map(|s| json!({
                    "name": s.name, "default": s.default, "least": s.range.0, "most": s.range.1, "about": s.help,
                })).collect::<Vec<_>>(),
                "recipe": entry.recipe,
                "source": entry.source,
                "differs": entry.differs,
            })
        }));
    }
    let mut rows = table(&["METHOD", "TRAINS", "NEEDS", "NEW CLASSES", "MODEL OF THE EXAMPLE", "SOURCE"]);
    for entry in METHODS {
        let settings = entry.options.iter().map(|s| format!("{}={}", s.name, s.default)).collect::<Vec<_>>().join(" ");
        let trains =
            if settings.is_empty() { entry.trains.to_owned() } else { format!("{} ({settings})", entry.trains) };
        let source = match entry.differs {
            Some(differs) => format!("{} (differs: {differs})", entry.source),
            None => entry.source.to_owned(),
        };
        let new = if entry.new_classes { "yes" } else { "no" };
        rows.add_row([entry.name, &trains, needs(entry.needs.image_tokens), new, entry.example(), &source]);
    }
    write_table(&rows)
}

fn sees(sees: Sees) -> &'static str {
    match sees {
        Sees::Texts => "class names",
        Sees::Unlabelled => "embeddings without labels",
        Sees::Features => "embeddings",
        Sees::Pixels => "images",
    }
}

fn needs(image_tokens: bool) -> &'static str {
    if image_tokens { "a transformer for images" } else { "any towers" }
}

/// What a run would do.
pub(super) fn plan(
    job: &Job<'_>,
    split: &Split,
    options: &Options,
    method: &dyn Method,
    parameters: usize,
) -> Result<()> {
    let steps = job.recipe.epochs * (split.train.len() / job.recipe.batch).max(1);
    let names: Vec<String> =
        method.params().iter().map(|(name, var)| format!("{name} {:?}", var.dims())).take(40).collect();
    write_jsonl([json!({
        "method": job.entry.name,
        "classes": split.classes,
        "images": split.train.len(),
        "validation": split.val.len(),
        "parameters": parameters,
        "trained": names,
        "steps": steps,
        "recipe": job.recipe,
        "options": options,
    })])
}

/// One classifier on one set with one seed, as a line.
#[derive(Serialize)]
struct Line<'a> {
    method: &'a str,
    seed: u64,
    set: &'a str,
    n: u64,
    acc1: f64,
    acc1_interval: [f64; 2],
    mean_per_class_recall: f64,
    macro_f1: f64,
    zeroshot_acc1: f64,
    over_zeroshot: Paired,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe_acc1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    over_probe: Option<Paired>,
    parameters: usize,
    seconds: f64,
}

/// Shows what came of all seeds, and writes `results.json` and `report.html` beside the runs.
pub(super) fn outcomes(job: &Job<'_>, outcomes: &[Outcome]) -> Result<()> {
    let lines = || outcomes.iter().flat_map(|one| one.judged.iter().map(move |judged| line(job, one, judged)));
    let summary = summary(outcomes);
    if job.args.shape.is_table() {
        let mut rows = table(&["SET", "SEED", "ZERO-SHOT", "LINEAR PROBE", "TUNED", "OVER ZERO-SHOT", "SECONDS"]);
        for line in lines() {
            let over = &line.over_zeroshot;
            let gain = [over.difference, over.interval.0, over.interval.1].map(|x| 100.0 * x);
            rows.add_row([
                line.set.to_owned(),
                line.seed.to_string(),
                percent(line.zeroshot_acc1),
                line.probe_acc1.map(percent).unwrap_or_default(),
                percent(line.acc1),
                format!("{:+.1} ({:+.1} to {:+.1})", gain[0], gain[1], gain[2]),
                format!("{:.1}", line.seconds),
            ]);
        }
        write_table(&rows)?;
        for (name, spread) in &summary {
            job.app.note(format_args!("{name}: {}", spoken(spread)));
        }
    } else {
        write_jsonl(lines())?;
    }
    let Some(output) = &job.args.output else { return Ok(()) };
    let results = json!({
        "method": job.entry.name,
        "lines": lines().collect::<Vec<_>>(),
        "summary": summary.iter().map(|(name, spread)| json!({"name": name, "spread": spread})).collect::<Vec<_>>(),
    });
    let mut text = serde_json::to_vec_pretty(&results).map_err(Error::run)?;
    text.push(b'\n');
    write_file(&output.join("results.json"), &text)?;
    write_file(&output.join("report.html"), report(job, outcomes).html().as_bytes())?;
    let place = output.display();
    let model = match outcomes {
        [_] => format!("the model is in {place}"),
        _ => format!(
            "the models are in {place}/seed-…; --model {place}/seed-{} takes one",
            outcomes.first().map_or(0, |one| one.seed)
        ),
    };
    job.app.note(format_args!("{model}; {place}/report.html shows what came of it"));
    Ok(())
}

fn line<'a>(job: &'a Job<'_>, one: &Outcome, judged: &'a Judged) -> Line<'a> {
    let metrics = &judged.method.metrics;
    Line {
        method: job.entry.name,
        seed: one.seed,
        set: &judged.name,
        n: metrics.n,
        acc1: metrics.acc1,
        acc1_interval: [metrics.acc1_interval.0, metrics.acc1_interval.1],
        mean_per_class_recall: metrics.mean_per_class_recall,
        macro_f1: metrics.macro_f1,
        zeroshot_acc1: judged.zero_shot.metrics.acc1,
        over_zeroshot: judged.method.better_than(&judged.zero_shot),
        probe_acc1: judged.probe.as_ref().map(|probe| probe.metrics.acc1),
        over_probe: judged.probe.as_ref().map(|probe| judged.method.better_than(probe)),
        parameters: one.parameters,
        seconds: (one.seconds * 100.0).round() / 100.0,
    }
}

/// The mean and deviation over seeds of each set's accuracy, and of the harmonic mean of base and new classes.
fn summary(outcomes: &[Outcome]) -> Vec<(String, Spread)> {
    let mut found = Vec::new();
    let sets = outcomes.first().map_or(0, |one| one.judged.len());
    let accuracy = |set: usize| -> Vec<f64> {
        outcomes.iter().filter_map(|one| Some(one.judged.get(set)?.method.metrics.acc1)).collect()
    };
    for set in 0..sets {
        let name = outcomes[0].judged[set].name.clone();
        found.extend(Spread::of(&accuracy(set)).map(|spread| (name.clone(), spread)));
        // The new half follows its base half.
        if name.ends_with(", new classes") && set > 0 {
            let both = accuracy(set - 1).into_iter().zip(accuracy(set));
            let means: Vec<f64> = both.map(|(base, new)| harmonic_mean(base, new)).collect();
            let name = format!("harmonic mean of both halves ({name})");
            found.extend(Spread::of(&means).map(|spread| (name, spread)));
        }
    }
    found
}

fn spoken(spread: &Spread) -> String {
    match spread.std {
        Some(std) => format!("{} ± {:.1} over {} seeds", percent(spread.mean), 100.0 * std, spread.n),
        None => percent(spread.mean),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn report(job: &Job<'_>, outcomes: &[Outcome]) -> Report {
    let Some(first) = outcomes.first() else { return Report::default() };
    let mut report = Report {
        title: format!("{} on {}", job.entry.name, job.set.name),
        subtitle: format!("{}, clip-cli {}", first.model, env!("CARGO_PKG_VERSION")),
        settings: settings(job, first),
        split: outcomes.iter().map(|one| one.split.summary()).collect(),
        notes: outcomes.iter().flat_map(|one| one.notes.clone()).collect(),
        seeds: outcomes.iter().map(|one| one.seed).collect(),
        words: first.words.clone(),
        ..Report::default()
    };
    for (set, judged) in first.judged.iter().enumerate() {
        let row = |classifier: &str, own: bool, of: &dyn Fn(&Judged) -> Option<f64>| Score {
            classifier: classifier.to_owned(),
            set: judged.name.clone(),
            metric: "acc1".to_owned(),
            values: outcomes.iter().map(|one| of(one.judged.get(set)?)).collect(),
            own,
        };
        report.scores.push(row("zero-shot", false, &|judged| Some(judged.zero_shot.metrics.acc1)));
        if judged.probe.is_some() {
            report.scores.push(row("linear probe", false, &|judged| Some(judged.probe.as_ref()?.metrics.acc1)));
        }
        report.scores.push(row(job.entry.name, true, &|judged| Some(judged.method.metrics.acc1)));
        for one in outcomes {
            let Some(judged) = one.judged.get(set) else { continue };
            let others = [("zero-shot", Some(&judged.zero_shot)), ("linear probe", judged.probe.as_ref())];
            for (name, other) in others.into_iter().filter_map(|(name, other)| Some((name, other?))) {
                report.comparisons.push(Comparison {
                    with: name.to_owned(),
                    set: judged.name.clone(),
                    seed: Some(one.seed),
                    paired: judged.method.better_than(other),
                });
            }
        }
    }
    if let (Some(judged), Some((classes, photos))) = (first.judged.first(), first.exams.first()) {
        report.gains = Some(gains(classes, judged));
        report.confusion = Some(Confusion { classes: classes.clone(), counts: judged.method.tally.confusion() });
        report.mistakes = mistakes(classes, photos, &judged.method);
    }
    report
}

fn settings(job: &Job<'_>, one: &Outcome) -> Vec<(String, String)> {
    let recipe = &job.recipe;
    let mut rows = vec![
        ("method".to_owned(), format!("{}: {}", job.entry.name, job.entry.trains)),
        ("source".to_owned(), job.entry.source.to_owned()),
        ("trained numbers".to_owned(), one.parameters.to_string()),
    ];
    if recipe.epochs > 0 {
        let steps = format!("{} epochs, batches of {}", recipe.epochs, recipe.batch);
        rows.push(("training".to_owned(), format!("{steps}, {}, rate {}", recipe.optimizer, recipe.lr)));
    }
    rows.extend(one.options.numbers().map(|(name, value)| (name.to_owned(), value.to_string())));
    rows.push(("templates".to_owned(), job.args.template_name()));
    rows
}

fn gains(classes: &[String], judged: &Judged) -> Gains {
    let (before, after) = (&judged.zero_shot.metrics.classes, &judged.method.metrics.classes);
    let rows = classes.iter().zip(before).zip(after);
    let rows = rows.filter_map(|((name, before), after)| Some((name.clone(), after.n, before.recall?, after.recall?)));
    Gains { before: "zero-shot".to_owned(), classes: rows.collect() }
}

/// The surest wrong answers.
fn mistakes(classes: &[String], photos: &crate::tune::photos::Photos, answers: &Answers) -> Vec<Mistake> {
    let mut wrong: Vec<usize> = (0..answers.right.len()).filter(|&i| !answers.right[i]).collect();
    wrong.sort_by(|&a, &b| answers.sure[b].0.total_cmp(&answers.sure[a].0).then(a.cmp(&b)));
    let shown = wrong.into_iter().take(Report::MISTAKES).map(|i| Mistake {
        id: photos.ids[i].clone(),
        truth: classes[photos.labels[i] as usize].clone(),
        answer: classes[answers.answers[i]].clone(),
        scores: Some(answers.sure[i]),
        picture: picture(&photos.places[i]).ok(),
    });
    shown.collect()
}
