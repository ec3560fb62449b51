//! Models by name, against a hub on loopback.
#![cfg(feature = "hub")]

use super::fake_hub::{FakeHub, Fault, Files, Request, SHA, files, sha256};
use assert_cmd::Command;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NAME: &str = "org/tiny-clip";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data").join(name)
}

/// The program with a cache of its own and this hub.
fn program(endpoint: &str, home: &Path) -> Command {
    let mut command = Command::cargo_bin("clip-cli").unwrap();
    command.env_clear().env("HF_ENDPOINT", endpoint).env("HF_HOME", home).env("HF_HUB_DOWNLOAD_TIMEOUT", "2");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Pulls a model; returns the exit code, standard output and standard error.
fn pull(endpoint: &str, home: &Path, reference: &str) -> (i32, String, String) {
    run(program(endpoint, home).args(["models", "pull", reference]))
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// An address at which nobody listens.
fn dead() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn fetched_once_then_never_again() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    let (code, out, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    let snapshot = home.path().join("hub/models--org--tiny-clip/snapshots").join(SHA);
    assert_eq!(out.trim_end(), snapshot.to_str().unwrap());
    assert!(err.contains(SHA), "{err}");
    // What is needed is there, what is not needed is not, and Python finds all of it.
    assert!(snapshot.join("model.safetensors").is_file() && snapshot.join("tokenizer.json").is_file());
    assert!(!snapshot.join("vocab.json").exists());
    let root = home.path().join("hub/models--org--tiny-clip");
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), SHA);
    assert!(root.join(".no_exist").join(SHA).join("open_clip_config.json").is_file());

    let asked = hub.requests().len();
    for reference in [NAME, &format!("{NAME}@{SHA}")] {
        let (code, out, err) =
            run(program(&hub.endpoint, home.path()).args(["embed", "--text", "a cat", "--model", reference]));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("\"model\":\"org/tiny-clip@"), "{out}");
    }
    assert_eq!(hub.requests().len(), asked, "the cache holds all that is needed");
    let (code, _, err) =
        run(program(&dead(), home.path()).args(["embed", "--offline", "--text", "a cat", "--model", NAME]));
    assert_eq!(code, 0, "{err}");
}

#[test]
fn shards_and_open_clip_layout() {
    let home = tempfile::tempdir().unwrap();
    for name in ["hf-clip-gelu", "open_clip-vit", "open_clip-siglip2"] {
        let repository = format!("org/{name}");
        let hub = FakeHub::of_directory(&repository, &golden(name), Fault::None);
        let (code, _, err) =
            run(program(&hub.endpoint, home.path()).args(["embed", "--text", "a cat", "--model", &repository]));
        assert_eq!(code, 0, "{name}: {err}");
    }
}

#[test]
fn a_moved_branch_is_seen_by_pull_alone() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-siglip"), Fault::None);
    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    let asked = hub.requests().len();
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    let new = hub.requests().split_off(asked);
    assert!(!new.is_empty() && new.iter().all(|request| request.starts_with("GET /api/")), "{new:?}");
}

/// The tiny checkpoint's weights.
fn weights() -> Vec<u8> {
    std::fs::read(golden("hf-clip-quickgelu").join("model.safetensors")).unwrap()
}

fn snapshot(home: &Path) -> PathBuf {
    home.join("hub/models--org--tiny-clip/snapshots").join(SHA)
}

/// Fails unless the cache holds the tiny checkpoint whole, each blob called by its checksum, and nothing half done.
#[track_caller]
fn is_whole(home: &Path) {
    assert_eq!(std::fs::read(snapshot(home).join("model.safetensors")).unwrap(), weights());
    let root = home.join("hub/models--org--tiny-clip");
    assert!(root.join("blobs").join(sha256(&weights())).is_file());
    for entry in root.join("blobs").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let digest = clip_cli::hub::Digest::of_name(name).unwrap_or_else(|| panic!("{name} is no checksum"));
        assert_eq!(digest.of_file(&path).unwrap(), name);
    }
    assert_eq!(root.join(".partial").read_dir().map_or(0, Iterator::count), 0, "partial files are left");
}

/// Fails unless no weights have a name.
#[track_caller]
fn has_no_weights(home: &Path) {
    assert!(!snapshot(home).join("model.safetensors").exists());
    assert!(!home.join("hub/models--org--tiny-clip/blobs").join(sha256(&weights())).exists());
    assert!(!home.join("hub/models--org--tiny-clip/refs/main").exists());
}

fn is_range(request: &Request) -> bool {
    request.range.is_some()
}

#[test]
fn faults_that_pass_are_sat_out() {
    let faults =
        [Fault::Truncated(3), Fault::Broken(3, 500), Fault::Broken(2, 503), Fault::Wrong(1), Fault::Stalled(1)];
    std::thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || {
                let home = tempfile::tempdir().unwrap();
                let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), fault);
                let (code, _, err) = run(program(&hub.endpoint, home.path())
                    .env("HF_HUB_DOWNLOAD_TIMEOUT", "1")
                    .args(["models", "pull", NAME]));
                assert_eq!(code, 0, "{fault:?}: {err}");
                is_whole(home.path());
                // What had come was not fetched again.
                let resumes = matches!(fault, Fault::Truncated(_) | Fault::Stalled(_));
                assert_eq!(hub.log().iter().any(is_range), resumes, "{fault:?}");
            });
        }
    });
}

#[test]
fn what_is_not_as_listed_never_gets_a_name() {
    let cases = [
        (Fault::Short, "model.safetensors arrived with", "what has come is kept"),
        (Fault::Wrong(9), "content that the Hub does not list: sha256", "the proxy, or at the mirror"),
        (Fault::Long, "content that the Hub does not list", "the proxy, or at the mirror"),
        (Fault::XetAlone, "model.safetensors", ""),
        (Fault::Silent, "said nothing for 1 seconds", "check the network"),
    ];
    std::thread::scope(|scope| {
        for (fault, message, hint) in cases {
            scope.spawn(move || {
                let home = tempfile::tempdir().unwrap();
                let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), fault);
                let mut command = program(&hub.endpoint, home.path());
                let (code, out, err) = run(command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1").args(["models", "pull", NAME]));
                assert_eq!((code, out.as_str()), (3, ""), "{fault:?}: {err}");
                assert!(err.contains(message) && err.contains(hint), "{fault:?}: {err}");
                has_no_weights(home.path());
                // Nothing of it stands in the way of the next attempt.
                hub.change(Fault::None);
                let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
                assert_eq!(code, 0, "{fault:?}: {err}");
                is_whole(home.path());
            });
        }
    });
}

#[test]
fn slow_is_not_silent() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Drip(60));
    let mut command = program(&hub.endpoint, home.path());
    let (code, _, err) = run(command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1").args(["models", "pull", NAME]));
    assert_eq!(code, 0, "{err}");
    is_whole(home.path());
    assert!(!hub.log().iter().any(is_range), "it was not begun again");
}

#[test]
fn a_busy_hub_gets_the_time_that_it_asks_for() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Busy(1, 1));
    let start = Instant::now();
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(err.contains("no more requests for now (429); trying again in 1 s"), "{err}");

    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Busy(9, 9999));
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 3);
    assert!(err.contains("try again in 9999 seconds"), "{err}");
    assert_eq!(hub.requests().len(), 1, "nobody waits so long, and nobody insists");
}

#[test]
fn a_token_goes_to_the_hub_alone() {
    let token = "hf_secret";
    let place = |home: &Path, name: &str| {
        std::fs::write(home.join(name), format!("{token}\n")).unwrap();
        home.join(name)
    };
    for way in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"] {
        let home = tempfile::tempdir().unwrap();
        let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
        let mut command = program(&hub.endpoint, home.path());
        match way {
            "HF_TOKEN" => command.env("HF_TOKEN", token),
            "HF_TOKEN_PATH" => command.env("HF_TOKEN_PATH", place(home.path(), "elsewhere")),
            _ => {
                place(home.path(), "token");
                &mut command
            }
        };
        let (code, out, err) = run(command.args(["-vv", "models", "pull", NAME]));
        assert_eq!(code, 0, "{way}: {err}");
        assert!(!out.contains(token) && !err.contains(token), "{way}: the token is shown");
        let bearer = Some(format!("Bearer {token}"));
        let (cdn, own): (Vec<_>, Vec<_>) = hub.log().into_iter().partition(|request| request.cdn);
        assert!(own.iter().all(|request| request.token == bearer), "{way}: {own:?}");
        assert!(!cdn.is_empty() && cdn.iter().all(|request| request.token.is_none()), "{way}: {cdn:?}");
    }
}

#[test]
fn the_cache_is_where_it_is_said_to_be() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    for (variable, below) in
        [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("XDG_CACHE_HOME", "huggingface/hub")]
    {
        let place = home.path().join(variable);
        let mut command = program(&hub.endpoint, home.path());
        let (code, out, err) = run(command.env_remove("HF_HOME").env(variable, &place).args(["models", "pull", NAME]));
        assert_eq!(code, 0, "{variable}: {err}");
        assert!(
            out.starts_with(place.join(below).join("models--org--tiny-clip").to_str().unwrap()),
            "{variable}: {out}"
        );
    }
    let (code, _, err) =
        run(program(&hub.endpoint, home.path()).env("HF_HUB_OFFLINE", "1").args(["models", "pull", NAME]));
    assert_eq!(code, 3);
    assert!(err.contains("not in the cache"), "{err}");
}

/// Starts a pull that lasts, and ends it in the middle of the weights.
#[cfg(unix)]
#[test]
fn killed_and_run_again() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Drip(40));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clip-cli"));
    command.env_clear().env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", home.path());
    command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut child = command.args(["models", "pull", NAME]).spawn().unwrap();
    let partial = home.path().join("hub/models--org--tiny-clip/.partial");
    let grown = || {
        let entries = walkdir::WalkDir::new(&partial).into_iter().flatten();
        entries
            .filter_map(|entry| entry.metadata().ok())
            .filter(|data| data.is_file())
            .map(|data| data.len())
            .sum::<u64>()
    };
    let start = Instant::now();
    while grown() < 100_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "the weights do not grow");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    has_no_weights(home.path());

    hub.change(Fault::None);
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    is_whole(home.path());
    assert!(hub.log().iter().any(is_range), "what had come was fetched again");
}

/// A limit on the size of files stands for a full disk: it works everywhere, and whoever runs the test.
#[cfg(unix)]
#[test]
fn no_room() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    let mut command = Command::new("sh");
    command.env_clear().env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", home.path());
    command.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" models pull \"$1\""]);
    let (code, out, err) = run(command.args([env!("CARGO_BIN_EXE_clip-cli"), NAME]));
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("the cache cannot be written") && err.contains("hint:"), "{err}");
    has_no_weights(home.path());
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    is_whole(home.path());
}

#[test]
fn the_same_content_is_fetched_once() {
    let home = tempfile::tempdir().unwrap();
    let main = files(&golden("hf-clip-quickgelu"));
    let mut next = main.clone();
    next.insert("preprocessor_config.json".to_owned(), [main["preprocessor_config.json"].as_slice(), b"\n"].concat());
    let revisions = vec![("main".to_owned(), main), ("next".to_owned(), next)];
    let hub = FakeHub::with_revisions("models", NAME, revisions, Fault::None);
    for reference in [NAME.to_owned(), format!("{NAME}@next")] {
        let (code, _, err) = pull(&hub.endpoint, home.path(), &reference);
        assert_eq!(code, 0, "{err}");
    }
    let fetched = |request: &&Request| request.line.starts_with("GET") && request.cdn;
    assert_eq!(hub.log().iter().filter(fetched).count(), 1);
    is_whole(home.path());
}

#[test]
fn a_dead_hub_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let endpoint = dead();
    let (code, _, err) = pull(&endpoint, home.path(), NAME);
    assert_eq!(code, 3);
    assert!(err.contains("cannot be reached") && err.contains("hint: check the network"), "{err}");

    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    let (code, out, err) = pull(&endpoint, home.path(), NAME);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(SHA) && err.contains("using the copy in the cache"), "{err}");
}

#[test]
fn refusals_say_what_to_do() {
    let cases = [
        (Fault::Status(401, ""), "login (401)", "HF_TOKEN"),
        (Fault::Status(401, "RepoNotFound"), "no such model", "check the spelling"),
        (Fault::Status(401, "GatedRepo"), "gated", "accept the terms on https://huggingface.co/org/tiny-clip"),
        (Fault::NoFiles(401, "GatedRepo"), "gated", "accept the terms on https://huggingface.co/org/tiny-clip"),
        (Fault::Status(403, "GatedRepo"), "refuses the token (403)", "ask for access"),
        (Fault::NoFiles(403, "GatedRepo"), "refuses the token (403)", "ask for access"),
        (Fault::Status(404, "RepoNotFound"), "no such model", "check the spelling"),
        (Fault::NoFiles(404, "EntryNotFound"), "listed but cannot be fetched (404)", "try again"),
        (Fault::Status(404, "RevisionNotFound"), "no revision \"main\"", "/branches"),
        (Fault::Status(429, ""), "no more requests for now (429)", "try again"),
        (Fault::Status(500, ""), "has a fault (500", "check the network"),
    ];
    std::thread::scope(|scope| {
        for (fault, message, hint) in cases {
            scope.spawn(move || {
                let home = tempfile::tempdir().unwrap();
                let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), fault);
                let (exit, out, err) = pull(&hub.endpoint, home.path(), NAME);
                assert_eq!((exit, out.as_str()), (3, ""), "{fault:?}: {err}");
                let (said, advised) = err.split_once("hint: ").unwrap_or_else(|| panic!("{fault:?}: {err}"));
                assert!(said.contains(message) && advised.contains(hint), "{fault:?}: {err}");
                assert!(hub.requests().len() <= 12, "{fault:?}: {:?}", hub.requests());
            });
        }
    });
}

#[test]
fn data_sets_and_spaces_are_told_apart() {
    for (kind, name) in [("datasets", "a data set"), ("spaces", "a space")] {
        let home = tempfile::tempdir().unwrap();
        let hub = FakeHub::with_revisions(kind, NAME, vec![("main".to_owned(), Files::new())], Fault::None);
        let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
        assert_eq!(code, 3);
        assert!(err.contains(&format!("this is {name}, not a model")), "{err}");
    }
}

#[test]
fn other_revisions_and_repositories() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    let (code, _, err) = pull(&hub.endpoint, home.path(), &format!("{NAME}@v9"));
    assert_eq!(code, 3);
    assert!(err.contains("no revision \"v9\""), "{err}");
    let (code, _, err) = pull(&hub.endpoint, home.path(), "org/nothing");
    assert_eq!(code, 3);
    assert!(err.contains("no such model"), "{err}");
}

#[test]
fn pickles_lead_to_where_safetensors_are() {
    let home = tempfile::tempdir().unwrap();
    let named = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), b"{}".to_vec())).collect::<Files>();
    let pickled = || named(&["config.json", "pytorch_model.bin"]);
    let hub = FakeHub::start("openai/clip-vit-base-patch32", pickled(), Fault::None);
    let (code, _, err) = pull(&hub.endpoint, home.path(), "openai/clip-vit-base-patch32");
    assert_eq!(code, 3);
    assert!(err.contains("no safetensors") && err.contains("--model openai-b32"), "{err}");

    let hub = FakeHub::start(NAME, pickled(), Fault::None);
    let (_, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert!(err.contains("only pytorch_model.bin") && err.contains("clip-cli models convert"), "{err}");
    assert!(!err.contains("refs/"), "{err}");
    let (code, out, err) = run(program(&hub.endpoint, home.path()).args(["models", "pull", NAME, "--pickle"]));
    assert_eq!(code, 0, "{err}");
    assert!(Path::new(out.trim_end()).join("pytorch_model.bin").is_file(), "{out}");

    // Pull requests are looked into, the latest first; so are the branches that the Hub's own converter makes.
    let converted = || named(&["config.json", "model.safetensors"]);
    let request = |n: u32, files| (format!("refs/pr/{n}"), files);
    let revisions = vec![
        ("main".to_owned(), pickled()),
        request(2, converted()),
        request(10, converted()),
        request(11, named(&["README.md"])),
    ];
    let hub = FakeHub::with_revisions("models", NAME, revisions, Fault::None);
    let (_, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert!(err.contains("--model org/tiny-clip@refs/pr/10"), "{err}");
    let revisions = vec![("main".to_owned(), pickled()), ("refs/convert/safetensors".to_owned(), converted())];
    let hub = FakeHub::with_revisions("models", NAME, revisions, Fault::None);
    let (_, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert!(err.contains("--model org/tiny-clip@refs/convert/safetensors"), "{err}");
}

#[test]
fn offline_asks_nobody() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    for set in [["--offline", ""], ["", "1"]] {
        let mut command = program(&hub.endpoint, home.path());
        command.args(["embed", "--text", "a", "--model", NAME]).env("HF_HUB_OFFLINE", set[1]);
        if !set[0].is_empty() {
            command.arg(set[0]);
        }
        let (code, _, err) = run(&mut command);
        assert_eq!(code, 3);
        assert!(err.contains("not in the cache") && err.contains("models pull org/tiny-clip"), "{err}");
    }
    assert_eq!(hub.requests(), Vec::<String>::new());
}

#[test]
fn unknown_names_get_a_suggestion() {
    let home = tempfile::tempdir().unwrap();
    let (code, _, err) = pull(&dead(), home.path(), "opnai-b32");
    assert_eq!(code, 2);
    assert!(err.contains("did you mean openai-b32?"), "{err}");
    let (code, _, err) = pull(&dead(), home.path(), "./nowhere");
    assert_eq!(code, 3);
    assert!(err.contains("no such model file or directory"), "{err}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    // A file where the cache should be: refused whoever runs the test.
    std::fs::write(home.path().join("hub"), "").unwrap();
    let (code, _, err) = pull(&hub.endpoint, home.path(), NAME);
    assert_eq!(code, 3);
    assert!(err.contains("HF_HOME"), "{err}");
}

#[test]
fn two_processes_at_once() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::Drip(20));
    let (endpoint, home) = (hub.endpoint.clone(), home.path().to_owned());
    let pulls = [(); 2].map(|()| {
        let (endpoint, home) = (endpoint.clone(), home.clone());
        std::thread::spawn(move || pull(&endpoint, &home, NAME))
    });
    for pull in pulls {
        let (code, _, err) = pull.join().unwrap();
        assert_eq!(code, 0, "{err}");
    }
    is_whole(&home);
    let fetched = |request: &&Request| request.line.starts_with("GET") && request.cdn;
    assert_eq!(hub.log().iter().filter(fetched).count(), 1, "the second one waits for the first");
}

/// A cache that others own is as good, as long as nothing is missing.
#[cfg(unix)]
#[test]
fn a_cache_that_is_only_read() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    let tree = || walkdir::WalkDir::new(home.path()).into_iter().map(Result::unwrap);
    let set = |mode| {
        for entry in tree().filter(|entry| entry.file_type().is_dir()) {
            std::fs::set_permissions(entry.path(), PermissionsExt::from_mode(mode)).unwrap();
        }
    };
    set(0o555);
    let written = || tree().filter_map(|entry| entry.metadata().ok()?.modified().ok()).max();
    let before = written();
    let pulled = pull(&hub.endpoint, home.path(), NAME);
    let embedded = run(program(&dead(), home.path()).args(["embed", "--text", "a cat", "--model", NAME]));
    let after = written();
    set(0o755);
    assert_eq!((pulled.0, embedded.0), (0, 0), "{}{}", pulled.2, embedded.2);
    assert_eq!(before, after, "something was written");
}

#[test]
fn where_a_model_is() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    let ask =
        |arguments: &[&str]| run(program(&dead(), home.path()).args([&["models", "where", NAME], arguments].concat()));
    let (code, out, err) = ask(&[]);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("not in the cache") && err.contains("clip-cli models pull org/tiny-clip"), "{err}");

    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    let snapshot = snapshot(home.path());
    assert_eq!(ask(&[]), (0, format!("{}\n", snapshot.display()), String::new()));
    let (_, out, _) = ask(&["--files"]);
    let files: Vec<&Path> = out.lines().map(Path::new).collect();
    assert!(files.contains(&snapshot.join("model.safetensors").as_path()), "{out}");
    assert!(files.iter().all(|file| file.is_file()), "{out}");
    let (_, out, _) = ask(&["--format", "jsonl"]);
    let place: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((place["origin"]["sha"].as_str(), place["origin"]["revision"].as_str()), (Some(SHA), Some("main")));

    // Half a model is not a model.
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let (code, _, err) = ask(&[]);
    assert_eq!(code, 3);
    assert!(err.contains("only a part of the model"), "{err}");
}

#[test]
fn what_is_broken_in_the_cache_is_found() {
    let home = tempfile::tempdir().unwrap();
    let hub = FakeHub::of_directory(NAME, &golden("hf-clip-quickgelu"), Fault::None);
    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    let verify = || {
        let (code, out, err) = run(program(&dead(), home.path()).args(["models", "verify", NAME]));
        let rows = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        (
            code,
            rows.map(|row| (row["what"].as_str().unwrap().to_owned(), row))
                .collect::<std::collections::BTreeMap<_, _>>(),
            err,
        )
    };
    let (code, rows, err) = verify();
    assert_eq!(code, 0, "{err}");
    assert_eq!(rows["model.safetensors"]["message"], "sha256 as the Hub lists it");
    assert_eq!(rows["tokenizer.json"]["message"], "git-sha1 as the Hub lists it");
    assert!(rows.contains_key("image tower") && rows.contains_key("text tower") && rows.contains_key("tokenizer"));

    // One byte of the weights, which neither their length nor their form shows.
    let blob = snapshot(home.path()).join("model.safetensors").canonicalize().unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let (code, rows, err) = verify();
    assert_eq!(code, 1, "{err}");
    assert_eq!((&rows["model.safetensors"]["ok"], &rows["tokenizer.json"]["ok"]), (&false.into(), &true.into()));
    let hint = rows["model.safetensors"]["hint"].as_str().unwrap();
    assert!(hint.contains(blob.to_str().unwrap()) && hint.contains("clip-cli models pull org/tiny-clip"), "{hint}");

    // What the hint says helps.
    std::fs::remove_file(&blob).unwrap();
    let (_, rows, _) = verify();
    assert_eq!(rows["model.safetensors"]["ok"], false);
    assert_eq!(pull(&hub.endpoint, home.path(), NAME).0, 0);
    assert_eq!(verify().0, 0);
    is_whole(home.path());
}
