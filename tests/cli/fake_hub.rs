//! A small Hugging Face Hub on loopback: one repository, and faults on demand.

use sha2_like::etag;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The commit that `main` means.
pub(crate) const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every request is answered with this status and `X-Error-Code`.
    Status(u16, &'static str),
    /// The first `n` downloads of the weights end too early.
    Truncated(usize),
    /// Downloads of the weights end too early and claim that this is all.
    Short,
    /// Downloads of the weights never begin.
    Silent,
}

/// A running hub.
pub(crate) struct FakeHub {
    pub(crate) endpoint: String,
    log: Arc<Mutex<Vec<String>>>,
}

struct State {
    repository: String,
    files: BTreeMap<String, Vec<u8>>,
    fault: Fault,
    truncated: Mutex<usize>,
    log: Arc<Mutex<Vec<String>>>,
}

impl FakeHub {
    /// Serves the files of a directory as `repository`.
    pub(crate) fn of_directory(repository: &str, directory: &Path, fault: Fault) -> Self {
        let mut files = BTreeMap::new();
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_file() && !name.starts_with("golden") {
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
        Self::start(repository, files, fault)
    }

    /// Serves files as `repository`.
    pub(crate) fn start(repository: &str, files: BTreeMap<String, Vec<u8>>, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (repository, truncated) = (repository.to_owned(), Mutex::new(0));
        let state = Arc::new(State { repository, files, fault, truncated, log: log.clone() });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Self { endpoint, log }
    }

    /// The requests so far, as `METHOD path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut request = String::new();
            if reader.read_line(&mut request).unwrap_or(0) == 0 {
                return;
            }
            let mut header = String::new();
            while reader.read_line(&mut header).unwrap_or(0) > 2 {
                header.clear();
            }
            let mut words = request.split_whitespace();
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            self.log.lock().unwrap().push(format!("{method} {path}"));
            if !self.answer(&mut stream, method, path) {
                return;
            }
        }
    }

    /// Answers a request; returns whether the connection goes on.
    fn answer(&self, stream: &mut TcpStream, method: &str, path: &str) -> bool {
        if let Fault::Status(status, code) = self.fault {
            return send(stream, method, status, &[("X-Error-Code", code)], b"{\"error\":\"no\"}");
        }
        let path = path.split('?').next().unwrap_or_default();
        let repository = &self.repository;
        let api = format!("/api/models/{repository}");
        if path == api || path == format!("{api}/revision/main") {
            let body = format!("{{\"id\":\"{repository}\",\"sha\":\"{SHA}\"}}");
            return send(stream, method, 200, &[], body.as_bytes());
        }
        if path == format!("{api}/tree/{SHA}") {
            let entry = |(name, data): (&String, &Vec<u8>)| serde_json::json!({"type": "file", "oid": etag(data), "size": data.len(), "path": name});
            let body = serde_json::Value::from_iter(self.files.iter().map(entry)).to_string();
            return send(stream, method, 200, &[], body.as_bytes());
        }
        let resolve = format!("/{repository}/resolve/{SHA}/");
        match path.strip_prefix(&resolve).and_then(|name| Some((name, self.files.get(name)?))) {
            Some((name, data)) => self.file(stream, method, name, data),
            None if path.starts_with(&format!("/{repository}/")) => {
                send(stream, method, 404, &[("X-Error-Code", "EntryNotFound")], b"{}")
            }
            None if path.starts_with(&format!("{api}/revision/")) => {
                send(stream, method, 404, &[("X-Error-Code", "RevisionNotFound")], b"{}")
            }
            None => send(stream, method, 401, &[("X-Error-Code", "RepoNotFound")], b"{}"),
        }
    }

    fn file(&self, stream: &mut TcpStream, method: &str, name: &str, data: &[u8]) -> bool {
        let tag = format!("\"{}\"", etag(data));
        let headers = [("ETag", tag.as_str()), ("X-Repo-Commit", SHA)];
        if method != "GET" || !name.ends_with(".safetensors") {
            return send(stream, method, 200, &headers, data);
        }
        let half = &data[..data.len() / 2];
        match self.fault {
            Fault::Silent => {
                std::thread::sleep(std::time::Duration::from_secs(30));
                false
            }
            Fault::Short => send(stream, method, 200, &headers, half),
            Fault::Truncated(times) if *self.truncated.lock().unwrap() < times => {
                *self.truncated.lock().unwrap() += 1;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: {tag}\r\n\r\n", data.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(half));
                let _ = stream.shutdown(std::net::Shutdown::Both);
                false
            }
            _ => send(stream, method, 200, &headers, data),
        }
    }
}

fn send(stream: &mut TcpStream, method: &str, status: u16, headers: &[(&str, &str)], body: &[u8]) -> bool {
    let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let body = if method == "HEAD" { &[] } else { body };
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_ok()
}

mod sha2_like {
    /// A name for content; the client does not look behind it.
    pub(super) fn etag(data: &[u8]) -> String {
        blake3::hash(data).to_hex()[..40].to_owned()
    }
}
