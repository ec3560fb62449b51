//! What is taken for what: a matrix, and the pairs that are mixed up most.

use super::Confusion;
use super::page::{cut, text};
use crate::output::html::escaped;
use std::cmp::Reverse;
use std::fmt::Write;

/// A matrix of more classes is not drawn.
const MOST: usize = 150;
/// Up to so many classes the cells have their numbers in them.
const NUMBERS: usize = 26;
/// How many pairs are named.
const PAIRS: usize = 12;
/// The width that cells share if they can be large, in pixels.
const WIDTH: f64 = 640.0;
/// The letters of a name that are shown, and about what one takes of its height.
const LETTERS: usize = 18;
const LETTER: f64 = 0.56;

pub(super) fn figure(confusion: &Confusion) -> String {
    let n = confusion.classes.len();
    if n == 0 || n.checked_mul(n) != Some(confusion.counts.len()) {
        return String::new();
    }
    let mut out = String::new();
    if n <= MOST {
        out += &matrix(confusion, n);
        out += "<p class=\"note\">Rows are the true classes, columns the answers; a cell has the more colour the larger its share of the row.</p>\n";
    }
    out + &pairs(confusion, n)
}

fn matrix(confusion: &Confusion, n: usize) -> String {
    let cell = (WIDTH / n as f64).clamp(9.0, 44.0);
    let font = (cell - 1.0).min(12.0);
    let longest = confusion.classes.iter().map(|name| name.chars().count().min(LETTERS)).max().unwrap_or(1);
    let room = (longest as f64 * LETTER * font + 14.0).ceil();
    let (width, height) = (room + cell * n as f64 + room * 0.75, room + cell * n as f64 + 2.0);
    let mut out = format!(
        "<div class=\"wide full\"><svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"Confusion matrix\">\n<g style=\"font-size:{font}px\">\n"
    );
    for (at, name) in confusion.classes.iter().enumerate() {
        let middle = room + (at as f64 + 0.5) * cell;
        let shown = escaped(&cut(name, LETTERS));
        let _ = writeln!(
            out,
            "<text class=\"k\" style=\"font-size:inherit\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{shown}</text>\
             <text class=\"k\" style=\"font-size:inherit\" transform=\"translate({:.1} {:.0}) rotate(-60)\">{shown}</text>",
            room - 6.0,
            middle + 0.35 * font,
            middle + 0.3 * font,
            room - 6.0,
        );
    }
    let side = n as f64 * cell;
    let _ = writeln!(
        out,
        "<rect x=\"{room}\" y=\"{room}\" width=\"{side:.1}\" height=\"{side:.1}\" fill=\"var(--card)\"/>"
    );
    for (truth, row) in confusion.counts.chunks_exact(n).enumerate() {
        let sum: u64 = row.iter().sum();
        for (answer, &count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
            let share = count as f64 / sum as f64;
            let (x, y) = (room + answer as f64 * cell, room + truth as f64 * cell);
            let color = if truth == answer { "var(--good)" } else { "var(--bad)" };
            // A single mistake among many must be seen too.
            let opacity = if truth == answer { 0.06 + 0.8 * share } else { 0.16 + 0.84 * share };
            let _ = write!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{0:.1}\" height=\"{0:.1}\" fill=\"{color}\" fill-opacity=\"{opacity:.2}\">\
                 <title>{1} → {2}: {count} of {sum}</title></rect>",
                cell - 0.8,
                text(&confusion.classes[truth]),
                text(&confusion.classes[answer]),
            );
            if n <= NUMBERS {
                let _ = write!(
                    out,
                    "<text class=\"v\" style=\"font-size:{:.0}px;pointer-events:none\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{count}</text>",
                    font.min(0.42 * cell),
                    x + 0.5 * cell,
                    y + 0.62 * cell,
                );
            }
            out.push('\n');
        }
    }
    out + "</g></svg></div>\n"
}

fn pairs(confusion: &Confusion, n: usize) -> String {
    let counts = confusion.counts.iter().enumerate();
    let mut wrong: Vec<(usize, u64)> =
        counts.filter(|(at, count)| at / n != at % n && **count > 0).map(|(at, count)| (at, *count)).collect();
    wrong.sort_by_key(|&(at, count)| (Reverse(count), at));
    if wrong.is_empty() {
        return "<p class=\"note\">No answer was wrong.</p>\n".to_owned();
    }
    let mut out = String::from(
        "<div class=\"wide\"><table>\n<tr><th class=\"l\">class</th><th class=\"l\">taken for</th><th>times</th><th>of</th></tr>\n",
    );
    for (at, count) in wrong.into_iter().take(PAIRS) {
        let all: u64 = confusion.counts[at / n * n..][..n].iter().sum();
        let [truth, answer] = [at / n, at % n].map(|class| text(&confusion.classes[class]));
        let _ = writeln!(
            out,
            "<tr><td class=\"l\">{truth}</td><td class=\"l\">{answer}</td><td>{count}</td><td>{all}</td></tr>"
        );
    }
    out + "</table></div>\n"
}
