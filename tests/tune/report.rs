//! The report: what it says, and that nothing of it is anybody else's markup.

use clip_cli::eval::{Interval, paired};
use clip_cli::tune::report::{Comparison, Confusion, Gains, Line, Mistake, Report, Score, shots_svg};

fn words(n: usize) -> Vec<String> {
    let stems =
        ["ant", "beech marten", "t-shirt", "long-sleeved pullover", "red fox", "aeroplane", "ice cream cone", "hat"];
    (0..n)
        .map(|at| {
            format!("{}{}", stems[at % stems.len()], if at < stems.len() { String::new() } else { format!(" {at}") })
        })
        .collect()
}

/// A page with everything, of so many classes.
fn report(classes: usize) -> Report {
    let names = words(classes);
    let score = |classifier: &str, set: &str, values: &[Option<f64>], own| Score {
        classifier: classifier.into(),
        set: set.into(),
        metric: "acc1".into(),
        values: values.to_vec(),
        own,
    };
    let right = |of: usize| (0..200).map(|at| at * 7 % 10 < of).collect::<Vec<bool>>();
    let compare = |with: &str, seed, of| Comparison {
        with: with.into(),
        set: "test".into(),
        seed: Some(seed),
        paired: paired(&right(8), &right(of), 0),
    };
    let mut counts = vec![0; classes * classes];
    for truth in 0..classes {
        counts[truth * classes + truth] = 20 + (truth * 13 % 25) as u64;
        counts[truth * classes + (truth * 3 + 1) % classes] += 1 + (truth * 7 % 11) as u64;
        counts[truth * classes + (truth + 2) % classes] += 1;
    }
    let png = include_bytes!("../golden/images/tiny.png").to_vec();
    let line = |name: &str, from: f64, by: f64| Line {
        name: name.into(),
        points: [1, 2, 4, 8, 16]
            .map(|shots| {
                let value = from + by * f64::from(shots).log2();
                (shots, value, Some(Interval(value - 0.03, value + 0.02)))
            })
            .to_vec(),
    };
    Report {
        title: "coop on clothing10/train".into(),
        subtitle: "ViT-B-32, openai@01234567 · clip-cli 0.1.0".into(),
        settings: [("method", "coop"), ("shots", "16"), ("context", "16 vectors, end"), ("learning rate", "0.002, cosine")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        split: "clothing10/train: 10 classes, shots 16, seed 1; images: 160 to learn from, 40 for validation\n  fewer than 16 images: hat 12\n".into(),
        notes: vec!["The epoch was chosen by the validation images.".into()],
        seeds: vec![1, 2, 3],
        scores: vec![
            score("zero-shot", "test", &[Some(0.611)], false),
            score("linear probe", "test", &[Some(0.71), Some(0.70), Some(0.722)], false),
            score("coop", "test", &[Some(0.801), Some(0.79), None], true),
            score("coop", "harmonic mean of base and new", &[Some(0.741), Some(0.75), Some(0.742)], true),
        ],
        comparisons: vec![compare("zero-shot", 1, 6), compare("linear probe", 1, 8), compare("tip-f", 2, 9)],
        gains: Some(Gains {
            before: "zero-shot".into(),
            classes: names.iter().enumerate().map(|(at, name)| {
                (name.clone(), 20 + at as u64, 0.5, 0.5 + 0.4 * (at as f64 * 1.7).sin())
            }).collect(),
        }),
        confusion: Some(Confusion { classes: names.clone(), counts }),
        words: (1..=4).map(|at| (format!("position {at}"), vec![("photo".into(), 0.61), ("of".into(), 0.42), ("ñandú".into(), 0.4)])).collect(),
        mistakes: (0..30).map(|at| Mistake {
            id: format!("test/{}/{at:03}.jpg", names[at % classes]),
            truth: names[at % classes].clone(),
            answer: names[(at + 1) % classes].clone(),
            scores: Some((0.7, 0.2)),
            picture: (at % 5 != 4).then(|| png.clone()),
        }).collect(),
        shots: vec![line("coop", 0.55, 0.06), line("linear probe", 0.4, 0.08), line("tip-f", 0.6, 0.04), Line { name: "zero-shot".into(), points: vec![(0, 0.61, None)] }],
    }
}

#[test]
fn a_page_has_everything_and_needs_nothing() {
    let page = report(10).html();
    let directory = env!("CARGO_TARGET_TMPDIR");
    for (name, classes) in [("10", 10), ("25", 25), ("100", 100)] {
        std::fs::write(format!("{directory}/few-shot-{name}.html"), report(classes).html()).unwrap();
    }
    for text in [
        "coop on clothing10/train",
        "<td class=\"same\" colspan=\"3\">the same for every seed</td><td>61.1</td>",
        "<td>71.0</td><td>70.0</td><td>72.2</td><td>71.1 <small>± 1.1</small></td>",
        "<td>80.1</td><td>79.0</td><td></td>",
        "fewer than 16 images: hat 12",
        "The epoch was chosen by the validation images.",
        "position 4",
        "ñandú <small>0.40</small>",
        "<dt>context</dt><dd>16 vectors, end</dd>",
        "+20.0",
        "data:image/png;base64,",
        "No_such_text",
    ] {
        assert_eq!(page.contains(text), text != "No_such_text", "{text}");
    }
    assert_eq!(page.matches("class=\"card\"").count(), Report::MISTAKES);
    assert_eq!(page.matches("<svg").count(), 3);
    for text in ["<script", "http-equiv=\"refresh\"", "src=\"http", "url(", "NaN", "inf", "@import"] {
        assert!(!page.contains(text), "{text}");
    }
    // The namespace of drawings is the only address.
    assert_eq!(page.matches("http://").count(), page.matches("http://www.w3.org/2000/svg").count());
    assert!(!page.contains("https://"));
    assert!(report(100).html().len() < 1_000_000);
    assert_eq!(Report::default().html().matches("<section>").count(), 0);
}

#[test]
fn nothing_of_a_name_is_markup() {
    let evil = "<img src=x onerror=alert(1)>\"'&\u{202e}".to_owned();
    let mut report = report(3);
    report.title.clone_from(&evil);
    report.subtitle.clone_from(&evil);
    report.split.clone_from(&evil);
    report.notes = vec![evil.clone()];
    report.settings = vec![(evil.clone(), evil.clone())];
    report.words = vec![(evil.clone(), vec![(evil.clone(), f64::NAN)])];
    for score in &mut report.scores {
        (score.classifier, score.set, score.metric) = (evil.clone(), evil.clone(), evil.clone());
    }
    for comparison in &mut report.comparisons {
        (comparison.with, comparison.set) = (evil.clone(), evil.clone());
    }
    for mistake in &mut report.mistakes {
        (mistake.id, mistake.truth, mistake.answer) = (evil.clone(), evil.clone(), evil.clone());
        mistake.picture = Some(format!("{evil} no picture").into_bytes());
    }
    report.confusion.as_mut().unwrap().classes = vec![evil.clone(), evil.repeat(100), "x".into()];
    report.gains.as_mut().unwrap().classes = vec![(evil.clone(), 3, 0.1, 0.9)];
    report.gains.as_mut().unwrap().before.clone_from(&evil);
    report.shots.iter_mut().for_each(|line| line.name.clone_from(&evil));
    let page = report.html();
    assert!(!page.contains("<img src=x") && !page.contains('\u{202e}') && !page.contains("onerror=alert(1)>\"'"));
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;"));
    assert!(!page.contains("base64"), "what is no picture is not shown");
}

#[test]
fn odd_numbers_are_drawn_or_left_out() {
    let mut report = report(4);
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -1.0, 0.0, 5e-324] {
        report.scores.iter_mut().for_each(|score| score.values = vec![Some(odd)]);
        report.shots.iter_mut().for_each(|line| line.points = vec![(3, odd, Some(Interval(odd, odd))), (5, 0.5, None)]);
        report.gains.as_mut().unwrap().classes = vec![("x".into(), 1, odd, 0.5), ("y".into(), 1, 0.5, 0.5)];
        report.confusion.as_mut().unwrap().counts = vec![0; 16];
        let page = report.html();
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{odd}");
    }
    report.confusion.as_mut().unwrap().counts = vec![1; 3];
    assert!(!report.html().contains("What is taken for what"), "counts that are no matrix");
    assert_eq!(shots_svg(&[]), "");
    let drawing = shots_svg(&[Line { name: "a".into(), points: vec![(16, 0.7, None)] }]);
    assert!(drawing.starts_with("<?xml") && drawing.contains("<style>"), "{drawing}");
}
