//! Showing what is known about models and machines: a table for people, JSON Lines for programs.

use crate::error::Result;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// How rows are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shape {
    /// A table on a terminal, else jsonl
    #[default]
    Auto,
    /// A table
    Table,
    /// One JSON object a line
    Jsonl,
}

impl Shape {
    /// Whether rows are shown as a table.
    pub(super) fn is_table(self) -> bool {
        match self {
            Self::Auto => std::io::stdout().is_terminal(),
            Self::Table => true,
            Self::Jsonl => false,
        }
    }
}

/// A table without lines, as wide as the terminal allows.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

/// Writes a table to standard output.
pub(super) fn write_table(table: &Table) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(out.flush()?)
}

/// Writes JSON Lines to standard output.
pub(super) fn write_jsonl<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for row in rows {
        serde_json::to_writer(&mut out, &row).map_err(std::io::Error::from)?;
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// Writes a path to standard output, as it is.
pub(super) fn write_path(path: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(path.as_os_str().as_encoded_bytes())?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// A number of bytes or parameters for people: `151 M`.
pub(super) fn human(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.0} k", count as f64 / 1e3),
        1_000_000..10_000_000 => format!("{:.1} M", count as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} M", count as f64 / 1e6),
        _ => format!("{:.2} G", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([840, 16_851, 4_690_000, 151_280_000].map(human), ["840", "17 k", "4.7 M", "151 M"]);
        assert_eq!(human(2_539_570_000), "2.54 G");
    }
}
