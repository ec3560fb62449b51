//! The report about some runs.

use super::job::{Job, Outcome, Round};
use super::judged::{Answers, Judged};
use crate::eval::{Interval, Spread};
use crate::tune::data::Shots;
use crate::tune::photos::Photos;
use crate::tune::report::{Comparison, Confusion, Gains, Line, Mistake, Report, Score, picture};

/// What came of several numbers of shots, or of one: everything about the last of them, and accuracy against all.
pub(super) fn report(job: &Job<'_>, rounds: &[Round]) -> Report {
    let Some(last) = rounds.last() else { return Report::default() };
    let mut report = report_of(job, &last.outcomes);
    if rounds.len() > 1 {
        report.shots = curves(job.entry.name, rounds);
        let one = last.outcomes.len() == 1;
        let range = if one { "the 95 % of its images" } else { "mean ± standard deviation over seeds" };
        report.notes.insert(
            0,
            format!(
                "Accuracy against shots has intervals: {range}. All else is about {} shots; each directory below has \
                 a report about its own.",
                last.shots
            ),
        );
    }
    report
}

/// Accuracy against shots, on each set: of zero-shot, a linear probe and the method.
fn curves(method: &str, rounds: &[Round]) -> Vec<Line> {
    let judged = || rounds.iter().flat_map(|round| &round.outcomes).flat_map(|one| &one.judged);
    let mut sets: Vec<&str> = Vec::new();
    judged().for_each(|judged| {
        if !sets.contains(&judged.name.as_str()) {
            sets.push(&judged.name);
        }
    });
    type Of = fn(&Judged) -> Option<&Answers>;
    let classifiers: [(&str, Of); 3] = [
        ("zero-shot", |judged| Some(&judged.zero_shot)),
        ("linear probe", |judged| judged.probe.as_ref()),
        (method, |judged| Some(&judged.method)),
    ];
    let mut lines = Vec::new();
    for set in &sets {
        for (name, of) in classifiers {
            let points = rounds.iter().filter_map(|round| {
                // "All" has no place on the axis.
                let Shots::Some(shots) = round.shots else { return None };
                let judged = round.outcomes.iter().flat_map(|one| &one.judged).filter(|judged| judged.name == *set);
                let answers: Vec<&Answers> = judged.filter_map(of).collect();
                let spread = Spread::of(&answers.iter().map(|one| one.metrics.acc1).collect::<Vec<_>>())?;
                let interval = match spread.std {
                    Some(std) => Interval(spread.mean - std, spread.mean + std),
                    None => answers.first()?.metrics.acc1_interval,
                };
                Some((u32::try_from(shots.get()).ok()?, spread.mean, Some(interval)))
            });
            let points: Vec<_> = points.collect();
            let name = if sets.len() == 1 { name.to_owned() } else { format!("{name}: {set}") };
            lines.extend((!points.is_empty()).then_some(Line { name, points }));
        }
    }
    lines
}

fn report_of(job: &Job<'_>, outcomes: &[Outcome]) -> Report {
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
fn mistakes(classes: &[String], photos: &Photos, answers: &Answers) -> Vec<Mistake> {
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
