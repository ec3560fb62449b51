//! Tables for people, and the formats of results that are rows.

use super::Target;
use crate::error::Result;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle, presets};
use std::io::{IsTerminal, Write};
use std::path::Path;

/// How results are written that people read as a table and programs as rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum RowFormat {
    /// By the output's name; else a table on a terminal and JSON Lines anywhere else
    #[default]
    Auto,
    /// For people
    Table,
    /// One JSON record a line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
    /// Tab-separated values with a header
    Tsv,
}

impl RowFormat {
    /// The format to write to this output; never [`RowFormat::Auto`].
    pub fn resolve(self, output: &Path) -> Self {
        let extension = output.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match (self, extension.as_str()) {
            (Self::Auto, "csv") => Self::Csv,
            (Self::Auto, "tsv") => Self::Tsv,
            (Self::Auto, "txt") => Self::Table,
            (Self::Auto, _) if output.as_os_str() == "-" && std::io::stdout().is_terminal() => Self::Table,
            (Self::Auto, _) => Self::Jsonl,
            (format, _) => format,
        }
    }

    /// What stands between the values of a row.
    pub(crate) fn delimiter(self) -> u8 {
        if self == Self::Tsv { b'\t' } else { b',' }
    }
}

/// One row of values, quoted where necessary, with its newline.
pub(crate) fn delimited<T: AsRef<[u8]>>(delimiter: u8, values: impl IntoIterator<Item = T>) -> csv::Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
    writer.write_record(values)?;
    writer.into_inner().map_err(|error| error.into_error().into())
}

/// A number with the fewest digits that read back as the same f32, as JSON has it.
pub(crate) fn number(x: f32) -> String {
    serde_json::to_string(&x).unwrap_or_default()
}

/// A share of 1 as people read it.
pub fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

/// Lines above, below and under the headings.
const PLAIN: TableStyle = presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());

/// An empty table with these column headings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(PLAIN)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings.iter().map(|heading| text(heading)));
    table
}

/// A table for people, written page by page: it is laid out as a whole, and memory stays bounded.
#[derive(Debug)]
pub(super) struct Pages {
    headings: &'static [&'static str],
    page: Table,
}

impl Pages {
    /// This many rows make a page.
    const ROWS: usize = 500;

    /// An empty table with these column headings.
    pub(super) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, page: table(headings) }
    }

    /// Adds a row, which may be several lines high; a full page is written.
    pub(super) fn add(&mut self, target: &mut Target, cells: Vec<Cell>, high: bool) -> Result<()> {
        if high {
            rule(&mut self.page);
        }
        self.page.add_row(cells);
        if self.page.row_count() >= Self::ROWS { self.flush(target) } else { Ok(()) }
    }

    /// Writes what the last page has.
    pub(super) fn flush(&mut self, target: &mut Target) -> Result<()> {
        if self.page.is_empty() {
            return Ok(());
        }
        let page = std::mem::replace(&mut self.page, table(self.headings));
        writeln!(target, "{page}").map_err(|error| target.error(error))
    }
}

/// Puts lines between the rows, for rows that are several lines high.
pub fn rule(table: &mut Table) {
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
}

/// A cell with text. Control characters, which could change what a terminal shows, are spelt out; lines stay lines.
pub fn text(content: &str) -> Cell {
    if content.chars().any(|c| c.is_control() && c != '\n') {
        let spell = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
        return Cell::new(content.chars().map(spell).collect::<String>());
    }
    Cell::new(content)
}

/// A cell with numbers.
pub fn right(content: impl ToString) -> Cell {
    Cell::new(content).set_alignment(CellAlignment::Right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let auto = |output| RowFormat::Auto.resolve(Path::new(output));
        assert_eq!(
            ["a.csv", "a.TSV", "a.jsonl", "a"].map(auto),
            [RowFormat::Csv, RowFormat::Tsv, RowFormat::Jsonl, RowFormat::Jsonl]
        );
        assert_eq!(RowFormat::Table.resolve(Path::new("a.csv")), RowFormat::Table);
    }

    #[test]
    fn values() {
        let row = |delimiter, values: &[&str]| String::from_utf8(delimited(delimiter, values).unwrap()).unwrap();
        assert_eq!(row(b',', &["a", "b, \"c\"", ""]), "a,\"b, \"\"c\"\"\",\n");
        assert_eq!(row(b'\t', &["a, b", "c\td"]), "a, b\t\"c\td\"\n");
        assert_eq!([0.1f32, 1.0, 1e-30].map(number), ["0.1", "1.0", "1e-30"]);
        assert_eq!(percent(0.1234), "12.3 %");
    }

    #[test]
    fn tables_show_no_control_characters() {
        let mut table = table(&["x"]);
        table.add_row([text("a\u{1b}[2Jb\nc")]);
        let shown = table.to_string();
        assert!(shown.contains("\\u{1b}[2Jb") && !shown.contains('\u{1b}'), "{shown}");
    }
}
