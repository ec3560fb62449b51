//! What is shown: the methods, what a run would do, and what came of one.

use super::job::{Job, Outcome, Round};
use super::judged::Judged;
use super::page::report;
use crate::commands::show::{Shape, table, write_jsonl, write_table};
use crate::error::{Error, Result};
use crate::eval::{Paired, Spread, harmonic_mean};
use crate::train::save::write_file;
use crate::tune::Method;
use crate::tune::data::{Shots, Split};
use crate::tune::method::{METHODS, Options, Sees};
use serde::Serialize;
use serde_json::json;
use std::path::Path;

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
        "shots": split.shots,
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
    shots: Shots,
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

/// Shows what came of all runs, and writes `results.json` and `report.html` beside them: about each number of shots, and about
/// all.
pub(super) fn rounds(job: &Job<'_>, rounds: &[Round]) -> Result<()> {
    if job.args.shape.is_table() {
        let mut rows =
            table(&["SET", "SHOTS", "SEED", "ZERO-SHOT", "LINEAR PROBE", "TUNED", "OVER ZERO-SHOT", "SECONDS"]);
        for line in lines(job, rounds) {
            let over = &line.over_zeroshot;
            let gain = [over.difference, over.interval.0, over.interval.1].map(|x| 100.0 * x);
            rows.add_row([
                line.set.to_owned(),
                line.shots.to_string(),
                line.seed.to_string(),
                percent(line.zeroshot_acc1),
                line.probe_acc1.map(percent).unwrap_or_default(),
                percent(line.acc1),
                format!("{:+.1} ({:+.1} to {:+.1})", gain[0], gain[1], gain[2]),
                format!("{:.1}", line.seconds),
            ]);
        }
        write_table(&rows)?;
        for Round { shots, outcomes, .. } in rounds {
            for (name, spread) in summary(outcomes) {
                let name = if rounds.len() > 1 { format!("{shots} shots, {name}") } else { name };
                job.app.note(format_args!("{name}: {}", spoken(&spread)));
            }
        }
    } else {
        write_jsonl(lines(job, rounds))?;
    }
    let Some(output) = &job.args.output else { return Ok(()) };
    if rounds.len() > 1 {
        for round in rounds {
            round.place.iter().try_for_each(|place| write(job, std::slice::from_ref(round), place))?;
        }
    }
    write(job, rounds, output)?;
    let mut places = rounds.iter().flat_map(|round| &round.outcomes).map(|one| one.place.display());
    let model = match (places.next(), places.next_back()) {
        (Some(first), Some(last)) => format!("the models are in {first} to {last}"),
        _ => format!("the model is in {}", output.display()),
    };
    job.app.note(format_args!("{model}; {}/report.html shows what came of it", output.display()));
    Ok(())
}

/// Writes the results of some rounds and the report about them.
fn write(job: &Job<'_>, rounds: &[Round], place: &Path) -> Result<()> {
    let summary = |round: &Round| -> Vec<_> {
        let shots = round.shots;
        summary(&round.outcomes)
            .into_iter()
            .map(|(name, spread)| json!({"name": name, "shots": shots, "spread": spread}))
            .collect()
    };
    let results = json!({
        "method": job.entry.name,
        "lines": lines(job, rounds).collect::<Vec<_>>(),
        "summary": rounds.iter().flat_map(summary).collect::<Vec<_>>(),
    });
    let mut text = serde_json::to_vec_pretty(&results).map_err(Error::run)?;
    text.push(b'\n');
    write_file(&place.join("results.json"), &text)?;
    write_file(&place.join("report.html"), report(job, rounds).html().as_bytes())
}

fn lines<'a>(job: &'a Job<'_>, rounds: &'a [Round]) -> impl Iterator<Item = Line<'a>> {
    let outcomes = rounds.iter().flat_map(|round| &round.outcomes);
    outcomes.flat_map(move |one| one.judged.iter().map(move |judged| line(job, one, judged)))
}

fn line<'a>(job: &'a Job<'_>, one: &Outcome, judged: &'a Judged) -> Line<'a> {
    let metrics = &judged.method.metrics;
    Line {
        method: job.entry.name,
        shots: one.split.shots,
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
