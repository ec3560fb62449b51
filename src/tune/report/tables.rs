//! The sections that are tables and words.

use super::page::{share, signed, text};
use super::{Comparison, Report};
use crate::eval::{Interval, Spread};
use crate::output::html::escaped;
use std::fmt::Write;

pub(super) fn scores(report: &Report) -> String {
    if report.scores.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<div class=\"wide\"><table>\n<tr><th class=\"l\">classifier</th><th class=\"l\">on</th><th class=\"l\">metric</th>",
    );
    for seed in &report.seeds {
        let _ = write!(out, "<th>seed {seed}</th>");
    }
    out += "<th>mean ± std</th></tr>\n";
    for score in &report.scores {
        let _ = write!(
            out,
            "<tr{}><td class=\"l\">{}</td><td class=\"l\">{}</td><td class=\"l\">{}</td>",
            if score.own { " class=\"own\"" } else { "" },
            text(&score.classifier),
            text(&score.set),
            text(&score.metric)
        );
        let known: Vec<f64> = score.values.iter().flatten().copied().filter(|value| value.is_finite()).collect();
        if score.values.len() == 1 && report.seeds.len() > 1 {
            let _ = write!(out, "<td class=\"same\" colspan=\"{}\">the same for every seed</td>", report.seeds.len());
        } else {
            for at in 0..report.seeds.len() {
                let value = score.values.get(at).copied().flatten();
                let _ = write!(out, "<td>{}</td>", value.map(share).unwrap_or_default());
            }
        }
        let shown = Spread::of(&known).map(|spread| match spread.std {
            Some(std) => format!("{} <small>± {}</small>", share(spread.mean), share(std)),
            None => share(spread.mean),
        });
        let _ = writeln!(out, "<td>{}</td></tr>", shown.unwrap_or_default());
    }
    out + "</table></div>\n<p class=\"note\">In per cent. The standard deviation over seeds is that of a sample (n − 1).</p>\n"
}

pub(super) fn comparisons(comparisons: &[Comparison]) -> String {
    if comparisons.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<div class=\"wide\"><table>\n<tr><th class=\"l\">beside</th><th class=\"l\">on</th><th>seed</th><th>difference</th>\
         <th>95 % interval</th><th>only this right</th><th>only the other</th><th>n</th><th>p</th></tr>\n",
    );
    for comparison in comparisons {
        let found = &comparison.paired;
        let Interval(low, high) = found.interval;
        let class = match (low > 0.0, high < 0.0) {
            (true, _) => " class=\"good\"",
            (_, true) => " class=\"bad\"",
            _ => "",
        };
        let _ = writeln!(
            out,
            "<tr><td class=\"l\">{}</td><td class=\"l\">{}</td><td>{}</td><td{class}>{}</td><td>{} … {}</td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{}</td></tr>",
            text(&comparison.with),
            text(&comparison.set),
            comparison.seed.map(|seed| seed.to_string()).unwrap_or_default(),
            signed(found.difference),
            signed(low),
            signed(high),
            found.first_only,
            found.second_only,
            found.n,
            if found.p < 1e-4 { "&lt; 0.0001".to_owned() } else { format!("{:.4}", found.p) },
        );
    }
    out + "</table></div>\n<p class=\"note\">Accuracy of this method less that of the other, in percentage points. The interval \
           is a bootstrap over images and knows nothing of other seeds; p is McNemar's exact test.</p>\n"
}

pub(super) fn words(words: &[(String, Vec<(String, f64)>)]) -> String {
    if words.is_empty() {
        return String::new();
    }
    let most = words.iter().map(|(_, near)| near.len()).max().unwrap_or(0).min(10);
    let mut out = String::from("<div class=\"wide\"><table>\n");
    for (position, near) in words {
        let _ = write!(out, "<tr><td class=\"l\">{}</td>", text(position));
        for (word, cosine) in near.iter().take(most) {
            let _ = write!(out, "<td class=\"l\">{} <small>{cosine:.2}</small></td>", text(word));
        }
        out += "</tr>\n";
    }
    out + "</table></div>\n<p class=\"note\">The words of the vocabulary whose embeddings point most nearly the same way, with the \
           cosine. A low cosine says that the prompt is near no word.</p>\n"
}

pub(super) fn settings(settings: &[(String, String)]) -> String {
    let mut out = String::new();
    for (name, value) in settings {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(value));
    }
    if out.is_empty() { out } else { format!("<dl>\n{out}</dl>\n") }
}

pub(super) fn split(report: &Report) -> String {
    let mut out = String::new();
    if !report.split.is_empty() {
        let lines: Vec<String> = report.split.lines().map(escaped).collect();
        let _ = writeln!(out, "<pre>{}</pre>", lines.join("\n"));
    }
    for note in &report.notes {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escaped(note));
    }
    out
}
