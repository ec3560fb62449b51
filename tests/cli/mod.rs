//! Whole commands, on tiny checkpoints.

mod bad_input;
mod bad_models;
mod convert;
#[cfg(unix)]
mod docs;
mod doctor;
mod embed;
mod eval;
#[cfg(feature = "hub")]
mod fake_hub;
mod finetune;
mod help;
mod hub;
mod inputs;
mod mining;
mod models;
mod negatives;
mod outputs;
mod precision;
mod process;
#[cfg(unix)]
mod resume;
mod search;
mod shards;
mod similarity;
mod tokens;
mod tune;
mod zeroshot;

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory of its own for a test, with the golden images in `photos/`.
struct Sandbox(TempDir);

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(sandbox.path("photos")).unwrap();
        for entry in std::fs::read_dir(root().join("tests/golden/images")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), sandbox.path("photos").join(entry.file_name())).unwrap();
        }
        sandbox
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(&name), bytes).unwrap();
        self.path(name)
    }

    /// Writes a file below directories that need not exist, and returns its path for a command line.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        self.write(name, bytes).display().to_string()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The names in the sandbox, without the photos and what is kept between runs.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "photos" && name != "cache");
        names.sort();
        names
    }

    /// A command that runs here.
    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clip-cli"));
        command.current_dir(self.0.path()).env_remove("RAYON_NUM_THREADS").env_remove("COLUMNS").args(args);
        // Nothing is kept beyond the test.
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.run_with(args, "")
    }

    fn run_with<S: AsRef<OsStr>>(&self, args: &[S], stdin: impl Into<Vec<u8>>) -> Ran {
        let output = assert_cmd::Command::from_std(self.command(args)).write_stdin(stdin).output().unwrap();
        Ran { code: output.status.code(), stdout: output.stdout, stderr: String::from_utf8(output.stderr).unwrap() }
    }

    /// Runs `embed` with a tiny model.
    fn embed<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.embed_with(args, "")
    }

    fn embed_with<S: AsRef<OsStr>>(&self, args: &[S], stdin: impl Into<Vec<u8>>) -> Ran {
        let model = tiny();
        let before = [OsStr::new("embed"), OsStr::new("--model"), model.as_os_str()];
        let args: Vec<&OsStr> = before.into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        self.run_with(&args, stdin)
    }
}

impl Ran {
    /// The records on standard output.
    fn records(&self) -> Vec<Value> {
        records(&self.stdout)
    }

    /// The ids of the records, failed ones with their kind of error.
    fn ids(&self) -> Vec<String> {
        self.records().iter().map(summary).collect()
    }

    /// Standard output.
    fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Standard output, where all went well.
    #[track_caller]
    fn ok(self) -> String {
        self.code(0).text().to_owned()
    }

    /// Standard error, where the exit code is this one.
    #[track_caller]
    fn fails(self, code: i32) -> String {
        self.code(code).stderr
    }

    /// Fails unless the exit code is this one.
    #[track_caller]
    fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        self
    }
}

/// JSON Lines; every line must be whole.
fn records(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn summary(record: &Value) -> String {
    let id = record["id"].as_str().unwrap();
    match record.get("error") {
        Some(error) => format!("{id}: {}", error["kind"].as_str().unwrap()),
        None => id.to_owned(),
    }
}

fn numbers(record: &Value) -> Vec<f32> {
    record["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Cuts numbers to three digits, because the last ones differ between processors, and hides what names a build.
fn stable(text: &str) -> String {
    let cut = |text: &str, pattern, with| regex::Regex::new(pattern).unwrap().replace_all(text, with).into_owned();
    let text = cut(text, r"(\d\.\d{3})\d+", "$1");
    let text = cut(&text, "@[0-9a-f]{8}", "@SHA");
    cut(&text, r#""version":"[^"]+""#, r#""version":"VERSION""#)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A golden checkpoint, for a command line.
fn model(name: &str) -> String {
    root().join("tests/golden/data").join(name).display().to_string()
}

fn tiny() -> PathBuf {
    root().join("tests/golden/data/hf-clip-quickgelu")
}

/// All golden checkpoints.
fn checkpoints() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("tests/golden/data")).unwrap();
    let mut paths: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("golden.json").is_file()).collect();
    paths.sort();
    assert!(paths.len() >= 8);
    paths
}
