//! Class labels from the command line or a file.

use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;

use crate::error::{Error, Result};

/// Class labels in the order in which they were given: not empty, all different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// Labels separated by commas. Quotes hold a label with a comma together: `cat, "dog, wet"`.
    pub fn from_list(list: &str) -> Result<Self> {
        let fields = split(list).map_err(|error| error.at("--labels"))?;
        let numbered = (1..).zip(fields).collect();
        Self::checked("label", numbered).map_err(|error| Error::usage(error).at("--labels"))
    }

    /// Labels from a file: one a line, a table with tabs, or a JSON list.
    ///
    /// In a table the column with the heading `label`, `name`, `class` or `classname` counts, else the last one.
    pub fn from_file(path: &Path) -> Result<Self> {
        let at = |error: Error| error.at(path.display());
        let bytes = std::fs::read(path).map_err(|error| at(error.into()))?;
        let text = String::from_utf8(bytes).map_err(|_| at(Error::run("not UTF-8 text")))?;
        Self::parse(&text).map_err(at)
    }

    fn parse(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim_start().starts_with('[')
            && let Ok(list) = serde_json::from_str::<Vec<String>>(text)
        {
            return Self::checked("label", (1..).zip(list).collect());
        }
        let lines: Vec<(usize, &str)> = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect();
        let is_table = lines.iter().any(|(_, line)| line.contains('\t'));
        if !is_table {
            return Self::checked("line", lines.into_iter().map(|(n, line)| (n, line.to_owned())).collect());
        }
        let heading = lines.first().and_then(|(_, line)| {
            let known =
                |cell: &str| ["label", "name", "class", "classname"].contains(&cell.trim().to_lowercase().as_str());
            line.split('\t').position(known)
        });
        let cell = |line: &str| match heading {
            Some(column) => line.split('\t').nth(column).unwrap_or_default().to_owned(),
            None => line.rsplit('\t').next().unwrap_or_default().to_owned(),
        };
        let rows = lines.into_iter().skip(usize::from(heading.is_some()));
        Self::checked("line", rows.map(|(n, line)| (n, cell(line))).collect())
    }

    /// Trims the labels and refuses what would make no sense as a class.
    fn checked(unit: &str, numbered: Vec<(usize, String)>) -> Result<Self> {
        let mut seen = HashMap::new();
        let mut labels = Vec::with_capacity(numbered.len());
        for (number, label) in numbered {
            let label = label.trim().to_owned();
            if label.is_empty() {
                return Err(Error::run(format!("{unit} {number} is empty")));
            }
            if let Some(first) = seen.insert(label.clone(), number) {
                return Err(Error::run(format!("the label {label:?} occurs twice, as {unit} {first} and {number}")));
            }
            labels.push(label);
        }
        if labels.is_empty() { Err(Error::run("no labels")) } else { Ok(Self(labels)) }
    }
}

impl Deref for Labels {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

/// Splits at commas outside quotes; inside quotes a doubled quote stands for one.
fn split(list: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = list.trim();
    if rest.is_empty() {
        return Ok(fields);
    }
    loop {
        let (field, tail) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

/// A field behind its opening quote, and what follows its closing quote.
fn quoted_field(text: &str) -> Result<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or_else(|| Error::usage(format!("the quote before {text:?} is never closed")))?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => break,
        }
    }
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with(',') {
        Ok((field, rest))
    } else {
        Err(Error::usage(format!("expected a comma after {field:?}, found {rest:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<String>, String> {
        Labels::from_list(text).map(|labels| labels.to_vec()).map_err(|error| error.to_string())
    }

    fn file(text: &str) -> Result<Vec<String>, String> {
        Labels::parse(text).map(|labels| labels.to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn lists() {
        assert_eq!(list(" cat, dog ,red fox").unwrap(), ["cat", "dog", "red fox"]);
        assert_eq!(list(r#"cat, "dog, wet","say ""hi""" "#).unwrap(), ["cat", "dog, wet", "say \"hi\""]);
        assert_eq!(list("a,,b").unwrap_err(), "--labels: label 2 is empty");
        assert_eq!(list("a,b,").unwrap_err(), "--labels: label 3 is empty");
        assert_eq!(list(" ").unwrap_err(), "--labels: no labels");
        assert_eq!(list("a,b, a").unwrap_err(), "--labels: the label \"a\" occurs twice, as label 1 and 3");
        assert_eq!(list("\"a").unwrap_err(), "--labels: the quote before \"a\" is never closed");
        assert_eq!(list("\"a\"b").unwrap_err(), "--labels: expected a comma after \"a\", found \"b\"");
        assert_eq!(Labels::from_list("a,a").unwrap_err().kind(), crate::error::Kind::Usage);
    }

    #[test]
    fn files() {
        assert_eq!(file("\u{feff}cat\r\n\n  dog, wet \n").unwrap(), ["cat", "dog, wet"]);
        assert_eq!(file("[\"cat\", \"dog\"]").unwrap(), ["cat", "dog"]);
        assert_eq!(file("0\tn01\ttench\n1\tn02\tgoldfish\n").unwrap(), ["tench", "goldfish"]);
        assert_eq!(file("Label\tnote\ntench\ta fish\n").unwrap(), ["tench"]);
        assert_eq!(file("cat\ndog\n\ncat\n").unwrap_err(), "the label \"cat\" occurs twice, as line 1 and 4");
        assert_eq!(file("1\tcat\n2\t\n").unwrap_err(), "line 2 is empty");
        assert_eq!(file("\n \n").unwrap_err(), "no labels");
        assert_eq!(file("[not json\n").unwrap(), ["[not json"]);
    }
}
