//! A directory of its own for a test, and whole commands on tiny checkpoints in it.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory of its own for a test, with the golden images in `photos/`.
pub(super) struct Sandbox(pub(super) TempDir);

/// What a command did.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Sandbox {
    pub(super) fn new() -> Self {
        let sandbox = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(sandbox.path("photos")).unwrap();
        for entry in std::fs::read_dir(root().join("tests/golden/images")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), sandbox.path("photos").join(entry.file_name())).unwrap();
        }
        sandbox
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(&name), bytes).unwrap();
        self.path(name)
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The names in the sandbox, without the photos.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "photos");
        names.sort();
        names
    }

    /// A command that runs here.
    pub(super) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clip-cli"));
        command.current_dir(self.0.path()).env_remove("RAYON_NUM_THREADS").env_remove("COLUMNS").args(args);
        command
    }

    pub(super) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.run_with(args, "")
    }

    pub(super) fn run_with<S: AsRef<OsStr>>(&self, args: &[S], stdin: impl Into<Vec<u8>>) -> Ran {
        let output = assert_cmd::Command::from_std(self.command(args)).write_stdin(stdin).output().unwrap();
        Ran { code: output.status.code(), stdout: output.stdout, stderr: String::from_utf8(output.stderr).unwrap() }
    }

    /// Runs `embed` with a tiny model.
    pub(super) fn embed<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        self.embed_with(args, "")
    }

    pub(super) fn embed_with<S: AsRef<OsStr>>(&self, args: &[S], stdin: impl Into<Vec<u8>>) -> Ran {
        let model = tiny();
        let before = [OsStr::new("embed"), OsStr::new("--model"), model.as_os_str()];
        let args: Vec<&OsStr> = before.into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        self.run_with(&args, stdin)
    }
}

impl Ran {
    /// The records on standard output.
    pub(super) fn records(&self) -> Vec<Value> {
        records(&self.stdout)
    }

    /// The ids of the records, failed ones with their kind of error.
    pub(super) fn ids(&self) -> Vec<String> {
        self.records().iter().map(summary).collect()
    }

    /// Fails unless the exit code is this one.
    #[track_caller]
    pub(super) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        self
    }
}

/// JSON Lines; every line must be whole.
pub(super) fn records(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn summary(record: &Value) -> String {
    let id = record["id"].as_str().unwrap();
    match record.get("error") {
        Some(error) => format!("{id}: {}", error["kind"].as_str().unwrap()),
        None => id.to_owned(),
    }
}

pub(super) fn numbers(record: &Value) -> Vec<f32> {
    record["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(super) fn tiny() -> PathBuf {
    root().join("tests/golden/data/hf-clip-quickgelu")
}

/// All golden checkpoints.
pub(super) fn checkpoints() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("tests/golden/data")).unwrap();
    let mut paths: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.join("golden.json").is_file()).collect();
    paths.sort();
    assert!(paths.len() >= 8);
    paths
}
