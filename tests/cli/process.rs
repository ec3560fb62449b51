//! Signals, pipes that close, and memory.
#![cfg(unix)]

use super::{Sandbox, records, tiny};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn spawn(sandbox: &Sandbox, args: &[&str]) -> Child {
    let mut command = sandbox.command(&["embed", "--model"]);
    command.arg(tiny()).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: resetting a signal's handling is allowed between fork and exec. Whoever runs the tests in the
    // background has Ctrl-C ignored, which the child would inherit.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    command.spawn().unwrap()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the child is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// Waits until something is true.
#[track_caller]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it did not happen within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn stderr(mut child: Child) -> (Option<i32>, String) {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), None);
    (status.code(), text)
}

#[test]
fn a_reader_that_leaves_ends_the_job_quietly() {
    let sandbox = Sandbox::new();
    let mut child = spawn(&sandbox, &["-"]);
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || while stdin.write_all(b"photos/tiny.png\n").is_ok() {});
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("{\"id\":\"photos/tiny.png\""));
    drop(lines);
    let (code, stderr) = stderr(child);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    writer.join().unwrap();
}

#[test]
fn records_arrive_while_the_list_is_still_open() {
    let sandbox = Sandbox::new();
    let mut child = spawn(&sandbox, &["-"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for name in ["photos/tiny.png", "none.png", "photos/rgba.png"] {
        writeln!(stdin, "{name}").unwrap();
        assert!(lines.next().unwrap().unwrap().contains(name));
    }
    drop(stdin);
    assert!(lines.next().is_none());
    assert_eq!(stderr(child).0, Some(1));
}

#[test]
fn an_interrupted_job_keeps_what_it_did() {
    for (number, output) in [(libc::SIGINT, "out.jsonl"), (libc::SIGTERM, "out.npy"), (libc::SIGINT, "out.safetensors")]
    {
        let sandbox = Sandbox::new();
        let mut child = spawn(&sandbox, &["-", "-o", output, "--batch-size", "1", "-v"]);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"none.png\nphotos/tiny.png\n").unwrap();
        // The job now waits for standard input, with one embedding written.
        let mut log = BufReader::new(child.stderr.take().unwrap());
        wait_for(|| {
            let mut line = String::new();
            log.read_line(&mut line).unwrap() > 0 && line.starts_with("none.png: ")
        });
        std::thread::sleep(Duration::from_millis(2000));
        signal(&child, number);
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
        assert!(rest.contains("error: interrupted\nhint: what was done before that is in "), "{rest}");
        assert!(rest.trim_end().ends_with(&format!("{output}.part; --resume goes on from there")), "{rest}");
        assert!(!sandbox.path(output).exists());
        let part = sandbox.read(&format!("{output}.part"));
        match output {
            "out.jsonl" => assert_eq!(records(&part).len(), 2),
            "out.npy" => assert!(String::from_utf8_lossy(&part[..128]).contains("'shape': (1, ")),
            _ => assert_eq!(safetensors::SafeTensors::deserialize(&part).unwrap().len(), 2),
        }
    }
}

#[test]
fn an_interrupted_job_that_did_nothing_leaves_nothing() {
    let sandbox = Sandbox::new();
    let child = spawn(&sandbox, &["-", "-o", "out.jsonl", "-v"]);
    wait_for(|| sandbox.path("out.jsonl.part").exists());
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, libc::SIGINT);
    let (code, stderr) = stderr(child);
    assert_eq!(code, Some(130));
    assert!(stderr.ends_with("error: interrupted\n"), "{stderr}");
    assert!(sandbox.names().is_empty());
}

#[test]
fn closed_standard_streams() {
    let sandbox = Sandbox::new();
    let sh = |script: &str| {
        let mut command = std::process::Command::new("sh");
        command.current_dir(sandbox.path("")).args(["-c", script, env!("CARGO_BIN_EXE_clip-cli")]).arg(tiny());
        command.output().unwrap()
    };
    let output = sh(r#""$0" embed -m "$1" - <&-"#);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "nothing to embed: the list is empty\n");
    assert_eq!(sh(r#""$0" embed -m "$1" photos none.png 2>&-"#).status.code(), Some(1));
    assert_eq!(sh(r#""$0" embed -m "$1" - < photos"#).status.code(), Some(3));
    assert_eq!(sh(r#""$0" --help | head -1; "$0" embed photos 2>&1 -m "$1" | head -c 10"#).stdout[..5], *b"Embed");
}

/// The most memory that embedding this many files takes, in KiB.
#[cfg(target_os = "linux")]
fn peak(sandbox: &Sandbox, files: usize) -> i64 {
    let list = sandbox.write("list", "photos/tiny.png\nphotos/gray.jpg\n".repeat(files / 2));
    let mut command = sandbox.command(&["embed", "--threads", "2", "--workers", "2", "-", "-m"]);
    command.arg(tiny()).stdin(std::fs::File::open(list).unwrap()).stdout(Stdio::null());
    #[expect(clippy::zombie_processes, reason = "`wait4` below waits, and knows its memory")]
    let child = command.spawn().unwrap();
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the child is ours, nobody else waits for it, both pointers are valid, and all zeros is a valid `rusage`.
    unsafe {
        assert_eq!(libc::wait4(child.id() as i32, &raw mut status, 0, usage.as_mut_ptr()), child.id() as i32);
        assert_eq!(status, 0);
        usage.assume_init().ru_maxrss
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_number_of_items() {
    let sandbox = Sandbox::new();
    // How threads meet the allocator varies between runs by a few MiB, more on a busy machine: the best of three counts.
    // Keeping just the pixels of each item would cost 20 MiB.
    let best = |items| (0..3).map(|_| peak(&sandbox, items)).min().unwrap();
    let (few, many) = (best(200), best(2000));
    assert!(many as f64 <= 1.15 * few as f64 + 4096.0, "{few} KiB for 200 items, {many} KiB for 2,000");
}
