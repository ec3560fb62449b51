//! Accuracy against shots: a line for each method, with intervals.

use super::Line;
use super::page::{SVG_STYLE, cut, share};
use crate::eval::Interval;
use crate::output::html::escaped;
use crate::train::log::axis::Axis;
use std::fmt::Write;

/// The drawing's measures, in pixels: the names of lines are on the right.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 12.0;
const PLOT: f64 = 340.0;
const BELOW: f64 = 44.0;
/// The least distance of two names.
const LINE: f64 = 17.0;
const COLORS: usize = 8;

pub(super) fn figure(lines: &[Line]) -> String {
    let drawing = drawing(lines, "");
    if drawing.is_empty() { drawing } else { format!("<div class=\"wide fit\">{drawing}</div>\n") }
}

pub(super) fn file(lines: &[Line]) -> String {
    let drawing = drawing(lines, &format!("<style>{SVG_STYLE}</style>\n"));
    if drawing.is_empty() { drawing } else { format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{drawing}\n") }
}

/// The points that can be drawn, by shots.
fn points(line: &Line) -> Vec<(u32, f64, Option<Interval>)> {
    let mut points: Vec<_> = line.points.iter().copied().filter(|point| point.1.is_finite()).collect();
    points.sort_by_key(|point| point.0);
    points
}

fn drawing(lines: &[Line], style: &str) -> String {
    let lines: Vec<(&str, Vec<_>)> = lines.iter().map(|line| (line.name.as_str(), points(line))).collect();
    let lines: Vec<_> = lines.into_iter().filter(|(_, points)| !points.is_empty()).collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    let mut ticks: Vec<u32> = all().map(|point| point.0).collect();
    ticks.sort_unstable();
    ticks.dedup();
    let Some(&last) = ticks.last() else { return String::new() };
    let finite =
        |Interval(low, high): Interval| [low, high].into_iter().filter(|end| end.is_finite()).collect::<Vec<_>>();
    let ends = all().flat_map(|point| point.2.map(finite).unwrap_or_default().into_iter().chain([point.1]));
    let values = Axis::new(ends.map(|value| (100.0 * value).clamp(-1e6, 1e6)), 6, true);
    // Twice the shots are a step to the right; none are a step left of one.
    let step = |shots: u32| if shots == 0 { -1.0 } else { f64::from(shots).log2() };
    let (first, last) = (step(ticks[0]), step(last));
    let right = WIDTH - RIGHT;
    let across = |shots: u32| {
        let share = if last > first { (step(shots) - first) / (last - first) } else { 0.5 };
        LEFT + 18.0 + share * (right - LEFT - 36.0)
    };
    let bottom = TOP + PLOT;
    let up = |value: f64| bottom - values.place((100.0 * value).clamp(values.low, values.high)) * PLOT;
    let height = bottom + BELOW;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"Accuracy against shots\">\n{style}"
    );
    for &tick in &values.ticks {
        let y = up(tick / 100.0);
        let _ = writeln!(
            out,
            "<path class=\"g\" d=\"M{LEFT} {y:.1}H{right}\"/><text class=\"k\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            values.label(tick)
        );
    }
    let _ = writeln!(out, "<path class=\"a\" d=\"M{LEFT} {bottom}H{right}\"/>");
    for (at, &tick) in ticks.iter().enumerate() {
        let x = across(tick);
        // A name for each tick that has the room for it.
        if at > 0 && x - across(ticks[at - 1]) < 24.0 {
            continue;
        }
        let _ = writeln!(
            out,
            "<path class=\"a\" d=\"M{x:.1} {bottom}v4\"/><text class=\"k\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            bottom + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"k\" x=\"{:.0}\" y=\"{}\" text-anchor=\"middle\">shots a class</text>",
        (LEFT + right) / 2.0,
        bottom + 37.0
    );
    let names =
        name_places(&lines.iter().map(|(_, points)| up(points[points.len() - 1].1)).collect::<Vec<_>>(), bottom);
    for (at, ((name, points), y)) in lines.iter().zip(names).enumerate() {
        let color = at % COLORS;
        // Beside each other, so that intervals at the same shots can be told apart.
        let shift = (at as f64 - (lines.len() - 1) as f64 / 2.0) * 3.0;
        let place = |shots: u32, value: f64| (across(shots) + shift, up(value));
        let mut path = String::new();
        for (shots, value, interval) in points {
            let (x, y) = place(*shots, *value);
            let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { 'M' } else { 'L' });
            let ends = interval.filter(|Interval(low, high)| low.is_finite() && high.is_finite());
            if let Some(Interval(low, high)) = ends {
                let (low, high) = (up(low), up(high));
                let _ = writeln!(
                    out,
                    "<path class=\"e c{color}\" d=\"M{x:.1} {low:.1}V{high:.1}M{0:.1} {low:.1}h6M{0:.1} {high:.1}h6\"/>",
                    x - 3.0
                );
            }
            let range =
                ends.map(|Interval(low, high)| format!(" ({} … {})", share(low), share(high))).unwrap_or_default();
            let _ = writeln!(
                out,
                "<circle class=\"c{color}\" stroke=\"none\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{}, {shots} shots: {} %{range}</title></circle>",
                escaped(name),
                share(*value)
            );
        }
        let dash = if at >= COLORS { " stroke-dasharray=\"6 3\"" } else { "" };
        let (x, end) = place(points[points.len() - 1].0, points[points.len() - 1].1);
        let _ = writeln!(
            out,
            "<path class=\"s c{color}\"{dash} d=\"{path}\"/>\n<path class=\"e c{color}\" stroke-dasharray=\"2 3\" d=\"M{:.1} {end:.1}L{:.1} {y:.1}\"/>\
             <text class=\"v\" x=\"{:.1}\" y=\"{:.1}\">{} <tspan class=\"k\">{}</tspan></text>",
            x + 5.0,
            right + 8.0,
            right + 12.0,
            y + 4.0,
            escaped(&cut(name, 18)),
            share(points[points.len() - 1].1),
        );
    }
    out + "</svg>"
}

/// Where names go: beside the ends of their lines, but not on top of each other.
fn name_places(ends: &[f64], bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by(|&a, &b| ends[a].total_cmp(&ends[b]));
    let mut places = ends.to_vec();
    let mut last = f64::NEG_INFINITY;
    for &at in &order {
        places[at] = ends[at].max(last + LINE);
        last = places[at];
    }
    let mut next = bottom + LINE;
    for &at in order.iter().rev() {
        places[at] = places[at].min(next - LINE);
        next = places[at];
    }
    places
}
