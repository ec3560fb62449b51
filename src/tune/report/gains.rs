//! Recall by class before and after: bars, the largest gain first.

use super::Gains;
use super::page::{cut, share, signed, text};
use crate::output::html::escaped;
use std::fmt::Write;

/// So many bars are drawn: of more classes those that gained and those that lost most.
const MOST: usize = 100;
/// The drawing's width, the room for names on the left and for figures on the right, in pixels.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 150.0;
const ROW: f64 = 20.0;

pub(super) fn figure(gains: &Gains) -> String {
    let mut rows: Vec<(&str, u64, f64, f64)> = gains
        .classes
        .iter()
        .map(|(name, n, before, after)| (name.as_str(), *n, *before, *after))
        .filter(|(.., before, after)| before.is_finite() && after.is_finite())
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    // Classes in the order of their names where they gained the same.
    rows.sort_by(|a, b| (b.3 - b.2).total_cmp(&(a.3 - a.2)).then_with(|| a.0.cmp(b.0)));
    let (all, better) = (rows.len(), rows.iter().filter(|row| row.3 > row.2).count());
    let worse = rows.iter().filter(|row| row.3 < row.2).count();
    if all > MOST {
        rows.drain(MOST / 2..all - MOST / 2);
    }
    let most = rows.iter().map(|row| (row.3 - row.2).abs()).fold(0.0, f64::max).max(0.01);
    let has_losses = rows.iter().any(|row| row.3 < row.2);
    let has_gains = rows.iter().any(|row| row.3 > row.2);
    let room = WIDTH - LEFT - RIGHT;
    let zero = LEFT
        + match (has_gains, has_losses) {
            (true, true) => room / 2.0,
            (false, true) => room,
            _ => 0.0,
        };
    let scale = if has_gains && has_losses { room / 2.0 } else { room } / most;
    let height = rows.len() as f64 * ROW + 4.0;
    let mut out = format!(
        "<div class=\"wide fit\"><svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Gain in recall by class\">\n<path class=\"a\" d=\"M{zero} 0V{height}\"/>\n"
    );
    for (at, (name, n, before, after)) in rows.iter().enumerate() {
        let (top, gain) = (at as f64 * ROW, after - before);
        let (x, width) = if gain >= 0.0 { (zero, gain * scale) } else { (zero + gain * scale, -gain * scale) };
        let _ = writeln!(
            out,
            "<g><title>{}: {} → {} % of {n}</title><text class=\"v\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"var(--{})\"/>\
             <text class=\"v\" x=\"{:.0}\" y=\"{:.0}\">{}<tspan class=\"k\" dx=\"8\">{} → {}</tspan></text></g>",
            text(name),
            share(*before),
            share(*after),
            LEFT - 10.0,
            top + 15.0,
            escaped(&cut(name, 22)),
            top + 4.0,
            ROW - 7.0,
            if gain >= 0.0 { "good" } else { "bad" },
            WIDTH - RIGHT + 10.0,
            top + 15.0,
            signed(gain),
            share(*before),
            share(*after),
        );
    }
    let _ = write!(
        out,
        "</svg></div>\n<p class=\"note\">Recall in per cent, {} → this method: {better} of {all} classes are better, {worse} worse.{}</p>\n",
        text(&gains.before),
        if all > MOST { format!(" The {MOST} that changed most are shown.") } else { String::new() },
    );
    out
}
