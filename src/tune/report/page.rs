//! The page around all sections.

use super::{Report, confusion, gains, mistakes, shots, tables};
use crate::output::html::escaped;
use std::fmt::Write;

/// Longer names are cut.
const MAX_LETTERS: usize = 80;

pub(super) fn html(report: &Report) -> String {
    let title = text(&report.title);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{SVG_STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1>\n<p>{}</p></header>\n",
        escaped(&report.subtitle),
    );
    let sections = [
        ("Accuracy", tables::scores(report)),
        ("Differences on the same images", tables::comparisons(&report.comparisons)),
        ("Accuracy against shots", shots::figure(&report.shots)),
        ("Recall by class", report.gains.as_ref().map(gains::figure).unwrap_or_default()),
        ("What is taken for what", report.confusion.as_ref().map(confusion::figure).unwrap_or_default()),
        ("Nearest words of the learnt prompts", tables::words(&report.words)),
        ("Wrong answers", mistakes::cards(&report.mistakes)),
        ("Settings", tables::settings(&report.settings)),
        ("Split", tables::split(report)),
    ];
    for (heading, body) in sections.iter().filter(|(_, body)| !body.is_empty()) {
        let _ = writeln!(out, "<section>\n<h2>{heading}</h2>\n{body}</section>");
    }
    out + "</body>\n</html>\n"
}

/// A name for HTML, not too long.
pub(super) fn text(name: &str) -> String {
    escaped(&cut(name, MAX_LETTERS))
}

/// A name of so many letters at most.
pub(super) fn cut(name: &str, letters: usize) -> String {
    match name.char_indices().nth(letters) {
        Some(_) => name.chars().take(letters.saturating_sub(1)).chain(['…']).collect(),
        None => name.to_owned(),
    }
}

/// A share of 1 in per cent, without the sign.
pub(super) fn share(value: f64) -> String {
    if value.is_finite() { format!("{:.1}", 100.0 * value).replace('-', "−") } else { "–".to_owned() }
}

/// The same with its sign: a difference in percentage points.
pub(super) fn signed(value: f64) -> String {
    let text = share(value);
    if text.starts_with(['−', '–']) || text == "0.0" { text } else { format!("+{text}") }
}

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--card:#f6f6f4;--ink:#1c1e21;--dim:#5b6068;--line:#d9dade;--own:#eef4fb;\
--good:#0072b2;--bad:#c4500a;--heat:0,114,178}\n\
@media(prefers-color-scheme:dark){:root{--back:#16181c;--card:#212429;--ink:#e3e5e8;--dim:#a4a9b1;--line:#3a3e45;--own:#1d2936;\
--good:#56b4e9;--bad:#ff8a3d;--heat:86,180,233}}\n\
*{box-sizing:border-box}\n\
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem;color:var(--ink);background:var(--back)}\n\
h1{font-size:1.45rem;margin:0;overflow-wrap:anywhere}\nh2{font-size:1.1rem;margin:0 0 .6rem}\n\
header p{margin:.2rem 0 0;color:var(--dim);overflow-wrap:anywhere}\n\
section{margin-top:1.6rem;padding-top:1.1rem;border-top:1px solid var(--line)}\n\
p.note,figcaption{color:var(--dim);font-size:.88rem;margin:.5rem 0 0}\n\
.wide{overflow-x:auto}\n.fit svg{max-width:100%;min-width:560px;height:auto}\n.note+.wide{margin-top:1rem}\n\
.full{width:max-content;max-width:calc(100vw - 3rem);min-width:100%;position:relative;left:50%;transform:translateX(-50%)}\n.wide svg{display:block}\n\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n\
th,td{text-align:right;padding:.25rem .7rem;border-bottom:1px solid var(--line);white-space:nowrap}\n\
th{font-weight:600;color:var(--dim)}\nth.l,td.l{text-align:left;white-space:normal;overflow-wrap:break-word}\n\
tr.own td{background:var(--own);font-weight:600}\ntd small{color:var(--dim);font-weight:400}\ntd.same{color:var(--dim);text-align:center}\n\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:0}\n\
dt{color:var(--dim)}\ndd{margin:0;overflow-wrap:anywhere}\n\
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,monospace;margin:0}\n\
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.8rem}\n\
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;overflow:hidden;min-width:0}\n\
.card img,.card .none{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--back)}\n\
.card .none{display:grid;place-items:center;color:var(--dim);font-size:.85rem}\n\
.card p{margin:.3rem .6rem;font-size:.88rem;overflow-wrap:anywhere}\n.card p.id{color:var(--dim);font-size:.78rem}\n\
.bad{color:var(--bad)}.good{color:var(--good)}\n\
@media print{body{max-width:none}section{break-inside:avoid}}\n";

/// What drawings need, in the page and alone. Colours that colour-blind people can tell apart (Okabe and Ito), darker on
/// white, lighter on black.
pub(super) const SVG_STYLE: &str = "\
.k{font:12px system-ui,sans-serif;fill:#5b6068}.v{font:12px system-ui,sans-serif;fill:#1c1e21}\
.g{stroke:#8883;stroke-width:1}.a{stroke:#888;stroke-width:1}\
.s{fill:none;stroke-width:2;stroke-linejoin:round}.e{fill:none;stroke-width:1.2;opacity:.65}\n\
.c0{stroke:#0072b2;fill:#0072b2}.c1{stroke:#d55e00;fill:#d55e00}.c2{stroke:#008f68;fill:#008f68}.c3{stroke:#b0578d;fill:#b0578d}\
.c4{stroke:#b58900;fill:#b58900}.c5{stroke:#555b66;fill:#555b66}.c6{stroke:#2c8fc9;fill:#2c8fc9}.c7{stroke:#a11d33;fill:#a11d33}\
.s,.e{fill:none}\n\
@media(prefers-color-scheme:dark){.k{fill:#a4a9b1}.v{fill:#e3e5e8}\
.c0{stroke:#56b4e9;fill:#56b4e9}.c1{stroke:#ff8a3d;fill:#ff8a3d}.c2{stroke:#2fc99c;fill:#2fc99c}.c3{stroke:#e59cc8;fill:#e59cc8}\
.c4{stroke:#f0d24a;fill:#f0d24a}.c5{stroke:#b9bec7;fill:#b9bec7}.c6{stroke:#8fd3ff;fill:#8fd3ff}.c7{stroke:#ff7a8c;fill:#ff7a8c}.s,.e{fill:none}}\n";
