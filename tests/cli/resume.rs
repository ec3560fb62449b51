//! Runs that end early, and going on with them.

use super::{Ran, Sandbox, records, tiny};
use rand::Rng;
use rand::SeedableRng;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The formats, and what one output of each is called.
const OUTPUTS: &[(&str, &str)] = &[
    ("jsonl", "out.jsonl"),
    ("npy", "out.npy"),
    ("safetensors", "out.safetensors"),
    ("csv", "out.csv"),
    ("projector", "out"),
    #[cfg(feature = "parquet")]
    ("parquet", "out.parquet"),
    #[cfg(feature = "parquet")]
    ("clip-retrieval", "out"),
];

/// All files below a folder, but for the photos and what the caller knows of.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if path.is_dir() && name != "photos" && name != "cache" {
                folders.push(path);
            } else if path.is_file() && name != "list" {
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Room for a journal, and for some of the items of the tests.
const LIMIT: u64 = 4096;

/// Runs `embed` where no file may grow beyond a limit, as on a disk that is full.
fn embed_with_limit(sandbox: &Sandbox, args: &[&str], limit: u64) -> Ran {
    let mut command = sandbox.command(&["embed", "--model"]);
    command.arg(tiny()).args(args).stdin(Stdio::null());
    // SAFETY: setting a limit is allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            Ok(())
        });
    }
    let output = command.output().unwrap();
    Ran { code: output.status.code(), stdout: output.stdout, stderr: String::from_utf8(output.stderr).unwrap() }
}

/// A list that is long enough to be interrupted: good images, and some that are not there.
fn list(items: usize) -> Vec<String> {
    let names = ["photos/tiny.png", "photos/gray.jpg", "photos/rgba.png"];
    let name = |n: usize| if n % 17 == 5 { format!("none-{n}.png") } else { names[n % 3].to_owned() };
    (0..items).map(name).collect()
}

/// Starts a run that gets the list from standard input: what an earlier run has done at once, the rest slowly.
fn start(sandbox: &Sandbox, format: &str, output: &str, list: &[String]) -> Child {
    let mut command = sandbox.command(&["embed", "--threads", "1", "--resume", "--format", format, "-o", output, "-"]);
    command.arg("--model").arg(tiny()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, list, done) = (child.stdin.take().unwrap(), list.to_vec(), done(sandbox, output));
    std::thread::spawn(move || {
        for (n, line) in list.iter().enumerate() {
            if n >= done {
                std::thread::sleep(Duration::from_millis(10));
            }
            if writeln!(stdin, "{line}").is_err() {
                return;
            }
        }
    });
    child
}

/// How many items the journal has.
fn done(sandbox: &Sandbox, output: &str) -> usize {
    let journal = std::fs::read(sandbox.path(format!("{output}.journal"))).unwrap_or_default();
    let journal: serde_json::Value = serde_json::from_slice(&journal).unwrap_or_default();
    journal["taken"]["items"].as_u64().unwrap_or(0) as usize
}

/// Kills runs of a job ten times, completes it, and compares it with one that nobody interrupted.
fn killed_again_and_again(format: &str, output: &str, seed: u64) {
    // Ten runs get through some of it, not all.
    let list = list(1500);
    let whole = Sandbox::new();
    let lines = list.join("\n");
    let ran = whole.embed_with(&["--format", format, "-o", output, "-"], lines.as_str()).code(1);
    assert!(!ran.stderr.contains("going on"), "{}", ran.stderr);

    let sandbox = Sandbox::new();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..10 {
        let mut child = start(&sandbox, format, output, &list);
        std::thread::sleep(Duration::from_millis(random.random_range(50..2000)));
        child.kill().unwrap();
        child.wait().unwrap();
        if sandbox.path(output).exists() {
            break;
        }
    }
    // Once more, when there is certainly something to go on with.
    if !sandbox.path(output).exists() {
        let mut child = start(&sandbox, format, output, &list);
        let begun = Instant::now();
        while done(&sandbox, output) == 0 && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "no journal");
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
    if !sandbox.path(output).exists() {
        let before = done(&sandbox, output);
        let ran = sandbox.embed_with(&["--format", format, "-o", output, "--resume", "-"], lines.as_str()).code(1);
        assert!(ran.stderr.contains(&format!("going on after {before} items")), "{}", ran.stderr);
    }
    let (found, expected) = (files(sandbox.0.path()), files(whole.0.path()));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{format}: {name} differs");
    }
}

#[test]
fn runs_that_are_killed_go_on_to_the_same_bytes() {
    std::thread::scope(|scope| {
        for (seed, (format, output)) in (0..).zip(OUTPUTS) {
            scope.spawn(move || killed_again_and_again(format, output, seed));
        }
    });
}

#[test]
fn full_disks_leave_what_can_be_gone_on_with() {
    for (format, output) in OUTPUTS {
        let sandbox = Sandbox::new();
        let inputs = [&["none.png"][..], &["photos"; 30], &["--format", format, "-o", output]].concat();
        let args = &inputs[..];
        let ran = embed_with_limit(&sandbox, args, LIMIT);
        let stderr = ran.fails(3);
        assert!(stderr.contains("File too large") && stderr.contains("--resume goes on from there"), "{stderr}");
        let left = done(&sandbox, output);
        assert!((1..241).contains(&left), "{format}: {left}");

        // It is not overwritten by accident.
        let before = files(sandbox.0.path());
        let stderr = sandbox.embed(args).fails(3);
        let journal = format!("{output}.journal");
        assert!(stderr.contains(&format!("{output}: an earlier run ended early and left {left} items")), "{stderr}");
        assert!(stderr.contains("--resume") && stderr.contains(&journal), "{stderr}");
        assert_eq!(files(sandbox.0.path()), before);

        // Nor gone on with differently.
        let refused = |more: &[&str], why: &str| {
            let stderr = sandbox.embed(&[args, more].concat()).fails(3);
            assert!(stderr.starts_with("error: cannot resume: ") && stderr.contains(why), "{stderr}");
            assert_eq!(files(sandbox.0.path()), before, "{more:?}");
        };
        refused(&["--resume", "--no-normalize"], "normalized true, and this run has false");
        refused(&["--resume", "--exif"], "exif false, and this run has true");
        let other = super::model("hf-siglip");
        if Path::new(&other).exists() {
            let ran = sandbox.run(&[&["embed", "--model", &other], args, &["--resume"]].concat());
            let stderr = ran.fails(3);
            assert!(stderr.starts_with("error: cannot resume: ") && stderr.contains("begun with"), "{stderr}");
            assert_eq!(files(sandbox.0.path()), before);
        }
        let stderr = sandbox.embed(&["none.png", "--format", format, "-o", output, "--resume"]).fails(3);
        assert!(stderr.contains("no longer those that were embedded"), "{stderr}");

        // With the journal gone, or the disk free, all is well.
        let ran = sandbox.embed(&[args, &["--resume"]].concat()).code(1);
        assert!(ran.stderr.contains(&format!("going on after {left} items")), "{}", ran.stderr);
        let whole = Sandbox::new();
        whole.embed(args).code(1);
        assert_eq!(files(sandbox.0.path()), files(whole.0.path()), "{format}");
    }
}

#[test]
fn nothing_to_resume() {
    let sandbox = Sandbox::new();
    sandbox.embed(&["photos", "-o", "out.npy", "--resume"]).code(0);
    assert!(sandbox.embed(&["photos", "--resume"]).fails(2).contains("--resume needs a regular file"));
    // Files without a journal are what a run left that had nothing yet.
    sandbox.write("new.npy.part", "half");
    sandbox.embed(&["photos", "-o", "new.npy"]).code(0);
    assert_eq!(sandbox.read("new.npy"), sandbox.read("out.npy"));
    for journal in ["", "{}", "[1]", "{\"version\":1}"] {
        sandbox.write("bad.npy.part", "");
        sandbox.write("bad.npy.journal", journal);
        let stderr = sandbox.embed(&["photos", "-o", "bad.npy", "--resume"]).fails(3);
        assert!(stderr.contains("no journal of ours") && stderr.contains("delete bad.npy.journal"), "{stderr}");
    }
}

#[test]
fn journals_that_lie() {
    let sandbox = Sandbox::new();
    let args = [&["photos"; 30][..], &["-o", "out.npy"]].concat();
    let ran = embed_with_limit(&sandbox, &args, LIMIT);
    ran.fails(3);
    let journal = String::from_utf8(sandbox.read("out.npy.journal")).unwrap();
    let rows = regex::Regex::new("\"rows\":\\d+").unwrap();
    for lie in ["\"rows\":18446744073709551615", "\"rows\":9999", "\"rows\":-1"] {
        sandbox.write("out.npy.journal", rows.replace(&journal, lie).as_bytes());
        let stderr = sandbox.embed(&[&args[..], &["--resume"]].concat()).fails(3);
        assert!(stderr.contains("shorter than its journal says") || stderr.contains("cannot be used"), "{stderr}");
    }
}

#[test]
fn two_processes_do_not_write_one_output() {
    let sandbox = Sandbox::new();
    let mut child = start(&sandbox, "jsonl", "out.jsonl", &list(100_000));
    let begun = Instant::now();
    while !sandbox.path("out.jsonl.part").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    let stderr = sandbox.embed(&["photos", "-o", "out.jsonl", "--resume"]).fails(3);
    assert!(stderr.contains("out.jsonl: another process is writing this output"), "{stderr}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn growing_folders() {
    for (format, output) in OUTPUTS {
        let sandbox = Sandbox::new();
        let args = ["photos", "late.png", "--format", format, "-o", output, "--skip-existing"];
        if !["jsonl", "npy", "parquet"].contains(format) {
            let stderr = sandbox.embed(&args).fails(2);
            assert!(stderr.contains(&format!("{format} cannot be read back")), "{stderr}");
            continue;
        }
        sandbox.embed(&args).code(1);
        let before = sandbox.read(output);
        // Only what is new is read: the other files may be gone.
        for name in sandbox.embed(&["photos"]).ids() {
            sandbox.write(&name, "no image");
        }
        std::fs::copy(super::root().join("tests/golden/images/tiny.png"), sandbox.path("late.png")).unwrap();
        sandbox.embed(&args).code(0);
        assert!(sandbox.read(output).len() > before.len() - 200);
        if *format == "jsonl" {
            // What had failed is tried again; the rest stays as it was.
            let (old, new) = (records(&before), records(&sandbox.read(output)));
            assert_eq!((old.len(), new.len()), (9, 9));
            assert_eq!(old[..8], new[..8]);
            assert_eq!((&new[8]["id"], new[8].get("error")), (&"late.png".into(), None));
        }
        let once = files(sandbox.0.path());
        sandbox.embed(&args).code(0);
        assert_eq!(files(sandbox.0.path()), once);
        let stderr = sandbox.embed(&[&args[..], &["--no-normalize"]].concat()).fails(3);
        assert!(stderr.contains("made with normalized true, and this run has false"), "{stderr}");
        assert_eq!(files(sandbox.0.path()), once);
    }
}
