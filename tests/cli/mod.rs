//! Whole commands, as a shell runs them.

mod bad_input;
mod doctor;
mod embed;
#[cfg(feature = "hub")]
mod fake_hub;
mod help;
mod hub;
mod models;
mod outputs;
mod process;
mod sandbox;
mod similarity;
mod zeroshot;

use crate::parity::{Golden, golden_directory};
use assert_cmd::Command;
use std::path::Path;
use tempfile::TempDir;

/// The program, in the directory of the golden images, with a cache of its own.
struct Program {
    home: TempDir,
}

/// What a run left behind.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Program {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    /// A directory for files of the test, which also holds the cache.
    fn directory(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file and returns its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], stdin: impl Into<Vec<u8>>) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clip-cli"));
        command.current_dir(golden_directory().join("images")).env("XDG_CACHE_HOME", self.home.path());
        let output = command.args(arguments).write_stdin(stdin.into()).output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    /// Standard output of a run that went well.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// Standard error of a run that ended with this code.
    #[track_caller]
    fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// The records of a JSON Lines output.
fn records(stdout: &str) -> Vec<serde_json::Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Cuts numbers to three digits, because the last ones differ between processors, and what names a build or a machine.
fn stable(text: &str) -> String {
    let cut = |text: &str, pattern: &str, with: &str| {
        regex::Regex::new(pattern).unwrap().replace_all(text, with).into_owned()
    };
    let text = cut(text, r"(\d\.\d{3})\d+", "$1");
    let text = cut(&text, r"@[0-9a-f]{8}", "@SHA");
    cut(&text, r#""version":"[^"]+""#, r#""version":"VERSION""#)
}

fn model(name: &str) -> String {
    golden_directory().join("data").join(name).display().to_string()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
