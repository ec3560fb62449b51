//! A small Hugging Face Hub on loopback, with faults on demand. Weights are large files (LFS, xet): they are redirected
//! to another server, as the Hub redirects to its CDN.

use clip_cli::hub::Digest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit that `main` means.
pub(crate) const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// Files by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every request is answered with this status and `X-Error-Code`.
    Status(u16, &'static str),
    /// Files, but not what is known about them, are answered with this status and `X-Error-Code`.
    NoFiles(u16, &'static str),
    /// The first `n` requests get a 429 with this `Retry-After`.
    Busy(usize, u64),
    /// The first `n` requests get this status.
    Broken(usize, u16),
    /// The first `n` downloads of the weights end in the middle.
    Truncated(usize),
    /// Downloads of the weights end in the middle and claim that this is all.
    Short,
    /// Downloads of the weights never begin.
    Silent,
    /// The first `n` downloads of the weights stop in the middle, with the connection open.
    Stalled(usize),
    /// Downloads of the weights come in 24 pieces, so many milliseconds apart.
    Drip(u64),
    /// The first `n` downloads of the weights have another content of the same length.
    Wrong(usize),
    /// Downloads of the weights have more bytes than was said.
    Long,
    /// The CDN, too, says that the weights are to be had by xet; but they are not.
    XetAlone,
}

/// A request as a server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// `METHOD path`.
    pub(crate) line: String,
    /// Whether it went to the CDN.
    pub(crate) cdn: bool,
    /// The `Authorization` header.
    pub(crate) token: Option<String>,
    /// The `Range` header.
    pub(crate) range: Option<String>,
}

/// A running hub.
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    state: Arc<State>,
}

struct State {
    /// `models`, `datasets` or `spaces`.
    kind: &'static str,
    repository: String,
    /// Reference, commit, files.
    revisions: Vec<(String, String, Files)>,
    cdn: String,
    fault: Mutex<Fault>,
    /// How often the fault has struck.
    struck: Mutex<usize>,
    log: Mutex<Vec<Request>>,
}

impl FakeHub {
    /// Serves the files of a directory as `repository`.
    pub(crate) fn of_directory(repository: &str, directory: &Path, fault: Fault) -> Self {
        Self::start(repository, files(directory), fault)
    }

    /// Serves files as `repository`.
    pub(crate) fn start(repository: &str, files: Files, fault: Fault) -> Self {
        Self::with_revisions("models", repository, vec![("main".to_owned(), files)], fault)
    }

    /// Serves revisions, the first of which is `main`, of a repository of `models`, `datasets` or `spaces`.
    pub(crate) fn with_revisions(
        kind: &'static str,
        repository: &str,
        revisions: Vec<(String, Files)>,
        fault: Fault,
    ) -> Self {
        let [hub, cdn] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let commit = |(i, (name, files)): (usize, (String, Files))| {
            let commit = if i == 0 { SHA.to_owned() } else { format!("{i:040x}") };
            (name, commit, files)
        };
        let endpoint = address(&hub);
        let state = Arc::new(State {
            kind,
            repository: repository.to_owned(),
            revisions: revisions.into_iter().enumerate().map(commit).collect(),
            cdn: address(&cdn),
            fault: Mutex::new(fault),
            struck: Mutex::new(0),
            log: Mutex::default(),
        });
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || state.serve(stream, is_cdn));
                }
            });
        }
        Self { endpoint, state }
    }

    /// The requests so far, as `METHOD path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log().into_iter().map(|request| request.line).collect()
    }

    /// The requests so far.
    pub(crate) fn log(&self) -> Vec<Request> {
        self.state.log.lock().unwrap().clone()
    }

    /// Another fault from now on.
    pub(crate) fn change(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
        *self.state.struck.lock().unwrap() = 0;
    }
}

/// The files of a directory, without what tests compare them with.
pub(crate) fn files(directory: &Path) -> Files {
    let entries = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path));
    let files = named.filter(|(name, path)| path.is_file() && !name.starts_with("golden"));
    files.map(|(name, path)| (name, std::fs::read(path).unwrap())).collect()
}

impl State {
    fn serve(&self, mut stream: TcpStream, cdn: bool) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let (mut token, mut range) = (None, None);
            let mut header = String::new();
            while reader.read_line(&mut header).unwrap_or(0) > 2 {
                let (name, value) = header.split_once(':').unwrap_or_default();
                match name.to_ascii_lowercase().as_str() {
                    "authorization" => token = Some(value.trim().to_owned()),
                    "range" => range = Some(value.trim().to_owned()),
                    _ => {}
                }
                header.clear();
            }
            let mut words = line.split_whitespace();
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let line = format!("{method} {path}");
            self.log.lock().unwrap().push(Request { line, cdn, token, range: range.clone() });
            let mut answer = Answer { stream: &mut stream, head: method == "HEAD" };
            let path = path.split('?').next().unwrap_or_default().replace("%2F", "/");
            let goes_on =
                if cdn { self.content(&mut answer, &path, range.as_deref()) } else { self.answer(&mut answer, &path) };
            if !goes_on {
                return;
            }
        }
    }

    /// Whether a fault that strikes so often strikes now.
    fn strikes(&self, times: usize) -> bool {
        let mut struck = self.struck.lock().unwrap();
        *struck += 1;
        *struck <= times
    }

    /// The Hub's own answers; returns whether the connection goes on.
    fn answer(&self, answer: &mut Answer, path: &str) -> bool {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::Status(status, code) => return answer.refuse(status, code),
            Fault::Busy(times, wait) if self.strikes(times) => {
                return answer.send(429, &[("Retry-After", &wait.to_string())], b"{}");
            }
            Fault::Broken(times, status) if self.strikes(times) => return answer.refuse(status, ""),
            _ => {}
        }
        let (kind, repository) = (self.kind, &self.repository);
        if let Some(rest) = path.strip_prefix(&format!("/api/{kind}/{repository}")) {
            return self.about(answer, rest);
        }
        let files = path.strip_prefix(&format!("/{repository}/resolve/"));
        let Some((commit, name)) = files.and_then(|rest| rest.split_once('/')).filter(|_| kind == "models") else {
            return answer.refuse(401, "RepoNotFound");
        };
        let Some(data) = self.files(commit).and_then(|files| files.get(name)) else {
            return answer.refuse(404, "EntryNotFound");
        };
        if let Fault::NoFiles(status, code) = fault {
            return answer.refuse(status, code);
        }
        if !is_large(name) {
            let tag = format!("\"{}\"", git(data));
            return answer.send(200, &[("ETag", tag.as_str()), ("X-Repo-Commit", commit)], data);
        }
        let (tag, size) = (format!("\"{}\"", sha256(data)), data.len().to_string());
        let place = format!("{}/{}", self.cdn, sha256(data));
        let headers = [
            ("Location", place.as_str()),
            ("ETag", tag.as_str()),
            ("X-Linked-ETag", tag.as_str()),
            ("X-Linked-Size", size.as_str()),
            ("X-Repo-Commit", commit),
            ("X-Xet-Hash", "d0f1e2"),
        ];
        answer.send(302, &headers, b"Found. Redirecting")
    }

    /// What is known about the repository, below `/api/KIND/NAME`.
    fn about(&self, answer: &mut Answer, rest: &str) -> bool {
        let (what, revision) = rest.strip_prefix('/').unwrap_or_default().split_once('/').unwrap_or((rest, "main"));
        let found = self.revisions.iter().find(|(name, commit, _)| name == revision || commit == revision);
        let value = match (what, found) {
            ("" | "revision", Some((_, commit, _))) => json!({ "id": self.repository, "sha": commit }),
            ("tree", Some((_, _, files))) => files.iter().map(|(name, data)| listed(name, data)).collect(),
            ("/refs", _) => {
                let reference = |(name, commit, _): &(String, String, Files)| {
                    let short = name.rsplit('/').next().unwrap();
                    json!({ "name": short, "ref": name, "targetCommit": commit })
                };
                let like = |part: &str| -> Value {
                    self.revisions.iter().filter(|(name, ..)| name.contains(part)).map(reference).collect()
                };
                let (converts, requests) = (like("refs/convert/"), like("refs/pr/"));
                json!({ "branches": [], "tags": [], "converts": converts, "pullRequests": requests })
            }
            ("revision" | "tree", None) => return answer.refuse(404, "RevisionNotFound"),
            _ => return answer.refuse(404, "EntryNotFound"),
        };
        answer.send(200, &[], value.to_string().as_bytes())
    }

    /// The CDN's answers: large files by their checksum.
    fn content(&self, answer: &mut Answer, path: &str, range: Option<&str>) -> bool {
        let named = |data: &&Vec<u8>| path.strip_prefix('/') == Some(sha256(data).as_str());
        let Some(data) = self.revisions.iter().flat_map(|(_, _, files)| files.values()).find(named) else {
            return answer.refuse(404, "");
        };
        let tag = format!("\"{}\"", sha256(data));
        let fault = *self.fault.lock().unwrap();
        let mut headers = vec![("ETag", tag.as_str()), ("Accept-Ranges", "bytes")];
        if fault == Fault::XetAlone {
            headers.push(("X-Xet-Hash", "d0f1e2"));
        }
        if answer.head {
            return answer.send(200, &headers, data);
        }
        let asked = range.and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some(start.parse().ok()?..end.parse::<usize>().ok()? + 1)
        });
        let (status, Range { start, end }) = (if asked.is_some() { 206 } else { 200 }, asked.unwrap_or(0..data.len()));
        let part = &data[start..end.min(data.len())];
        let half = &part[..part.len() / 2];
        match fault {
            Fault::Silent => {
                std::thread::sleep(Duration::from_secs(30));
                false
            }
            Fault::Stalled(times) if self.strikes(times) => {
                answer.begin(status, &headers, part.len());
                answer.write(half);
                std::thread::sleep(Duration::from_secs(30));
                false
            }
            Fault::Truncated(times) if self.strikes(times) => {
                answer.begin(status, &headers, part.len());
                answer.write(half);
                let _ = answer.stream.shutdown(std::net::Shutdown::Both);
                false
            }
            Fault::Short => answer.send(200, &headers, &data[..data.len() / 3]),
            Fault::Long => answer.send(200, &headers, &[data.as_slice(), b"more"].concat()),
            Fault::Wrong(times) if self.strikes(times) => {
                let wrong: Vec<u8> = part.iter().map(|byte| byte ^ 1).collect();
                answer.send(status, &headers, &wrong)
            }
            Fault::Drip(pause) => {
                answer.begin(status, &headers, part.len());
                part.chunks(part.len().div_ceil(24)).all(|piece| {
                    std::thread::sleep(Duration::from_millis(pause));
                    answer.write(piece)
                })
            }
            _ => answer.send(status, &headers, part),
        }
    }

    fn files(&self, commit: &str) -> Option<&Files> {
        self.revisions.iter().find(|(_, sha, _)| sha == commit).map(|(_, _, files)| files)
    }
}

/// A file as the Hub lists it.
fn listed(name: &str, data: &[u8]) -> Value {
    if !is_large(name) {
        return json!({ "type": "file", "oid": git(data), "size": data.len(), "path": name });
    }
    let (sha256, size) = (sha256(data), data.len());
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n");
    let lfs = json!({ "oid": sha256, "size": size, "pointerSize": pointer.len() });
    json!({ "type": "file", "oid": git(pointer.as_bytes()), "size": size, "path": name, "lfs": lfs, "xetHash": "d0f1e2" })
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

fn git(data: &[u8]) -> String {
    Digest::Git.of(&mut &*data, data.len() as u64).unwrap()
}

/// The checksum by which the Hub calls a large file.
pub(crate) fn sha256(data: &[u8]) -> String {
    Digest::Sha256.of(&mut &*data, data.len() as u64).unwrap()
}

struct Answer<'a> {
    stream: &'a mut TcpStream,
    head: bool,
}

impl Answer<'_> {
    fn refuse(&mut self, status: u16, code: &str) -> bool {
        self.send(status, &[("X-Error-Code", code)], b"{\"error\":\"no\"}")
    }

    fn send(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> bool {
        self.begin(status, headers, body.len()) && (self.head || self.write(body))
    }

    fn begin(&mut self, status: u16, headers: &[(&str, &str)], length: usize) -> bool {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.write(format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n{headers}\r\n").as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }
}
