//! Fetches the files of a checkpoint from the Hub into the cache.

use super::cache::{is_commit, setting};
use super::plan::{self, CONFIGS, Plan};
use super::{Cache, Failure, Options, Remote, Watch};
use crate::error::Error;
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClientBuilder, HFError, HFRepositorySync, RepoTypeModel};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a broken transfer is begun again.
const ATTEMPTS: u32 = 3;

/// How long the Hub may say nothing, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a waiting thread looks whether it should go on waiting.
const TICK: Duration = Duration::from_millis(50);

/// One checkpoint on its way into the cache.
pub(super) struct Download<'a> {
    remote: &'a Remote,
    cache: &'a Cache,
    directory: &'a Path,
    repository: HFRepositorySync<RepoTypeModel>,
    patience: Duration,
    watch: Option<Arc<dyn Watch>>,
    sha: String,
    sizes: BTreeMap<String, u64>,
}

impl<'a> Download<'a> {
    /// Resolves the revision to a commit and asks which files it has.
    pub(super) fn start(
        remote: &'a Remote,
        directory: &'a Path,
        cache: &'a Cache,
        options: &Options,
    ) -> Result<Self, Failure> {
        let client = HFClientBuilder::new()
            .cache_dir(directory)
            .user_agent(concat!("clip-cli/", env!("CARGO_PKG_VERSION")))
            .retry_max_attempts(ATTEMPTS as usize)
            .build_sync()
            .map_err(|e| remote.explain(e))?;
        let (org, name) = remote.repository.split_once('/').unwrap_or(("", &remote.repository));
        let seconds = setting("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.to_str()?.parse().ok());
        let mut download = Self {
            remote,
            cache,
            directory,
            repository: client.model(org, name),
            patience: seconds.map_or(PATIENCE, Duration::from_secs),
            watch: options.watch.clone(),
            sha: remote.revision.clone(),
            sizes: BTreeMap::new(),
        };
        if !is_commit(&remote.revision) {
            let (repository, revision) = (download.repository.clone(), remote.revision.clone());
            let info = download.wait(None, move |_| repository.info().revision(revision).send())?;
            download.sha = info
                .sha
                .filter(|sha| is_commit(sha))
                .ok_or_else(|| Failure::Other(Error::run(format!("the Hub does not say which commit {remote} is"))))?;
        }
        let (repository, sha) = (download.repository.clone(), download.sha.clone());
        let tree = download.wait(None, move |_| repository.list_tree().revision(sha).recursive(true).send())?;
        download.sizes.extend(tree.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File { path, size, .. } => Some((path, size)),
            RepoTreeEntry::Directory { .. } => None,
        }));
        Ok(download)
    }

    /// Fetches what the checkpoint needs; returns the commit.
    pub(super) fn run(self) -> Result<String, Failure> {
        let has = |name: &str| self.sizes.contains_key(name);
        self.fetch_all(CONFIGS.iter().copied().filter(|name| has(name)))?;
        let (config, open_clip) = (self.content("config.json"), self.content("open_clip_config.json"));
        let plan = Plan { config: config.as_deref(), open_clip: open_clip.as_deref() };
        let Some(weights) = plan.weights(has) else { return Err(Failure::Other(self.no_weights())) };
        let tokenizer = plan.tokenizer(has);
        self.fetch_all(tokenizer.iter().map(String::as_str))?;
        if weights.ends_with(".json") {
            self.fetch_all([weights].into_iter())?;
            let shards = self.content(weights).and_then(|index| plan::shards(&index)).unwrap_or_default();
            if let Some(lost) = shards.iter().find(|shard| !has(shard)) {
                return Err(Failure::Other(
                    Error::run(format!("{weights} names {lost}, which is not there")).at(self.remote),
                ));
            }
            self.fetch_all(shards.iter().map(String::as_str))?;
        } else {
            self.fetch_all([weights].into_iter())?;
        }
        // Only now is the commit as good as its name: what is absent is known, and the branch means this commit.
        let absent = plan.candidates().into_iter().filter(|name| !has(name));
        let noted = absent.map(|name| self.cache.mark_absent(&self.sha, &name)).collect::<Result<Vec<()>, _>>();
        noted.and_then(|_| self.cache.remember(&self.remote.revision, &self.sha)).map_err(|e| self.disk(&e))?;
        Ok(self.sha)
    }

    fn fetch_all<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<(), Failure> {
        let missing: Vec<(&str, u64)> = names
            .map(|name| (name, self.sizes.get(name).copied().unwrap_or_default()))
            .filter(|&(name, size)| self.size_here(name) != Some(size))
            .collect();
        if let Some(watch) = &self.watch {
            watch.expect(missing.iter().map(|(_, size)| size).sum());
        }
        missing.into_iter().try_for_each(|(name, size)| self.fetch(name, size))
    }

    /// Fetches one file. The client does not compare what came with what was promised, so that is done here.
    fn fetch(&self, name: &str, size: u64) -> Result<(), Failure> {
        let mut attempt = 1;
        loop {
            if self.size_here(name) == Some(size) {
                // Another process was faster.
                return Ok(());
            }
            self.cache.forget(&self.sha, name);
            let (repository, sha, file) = (self.repository.clone(), self.sha.clone(), name.to_owned());
            let outcome = self.wait(Some(size), move |pulse| {
                repository.download_file().filename(file).revision(sha).progress(pulse).send()
            });
            let failure = match outcome {
                Ok(_) if self.size_here(name) == Some(size) => return Ok(()),
                Ok(_) => {
                    let got = self.size_here(name).unwrap_or_default();
                    self.cache.forget(&self.sha, name);
                    let message = format!("{name} arrived with {got} of {size} bytes");
                    Failure::Away(Error::run(message).at(self.remote).hint("try again: what is complete is kept"))
                }
                Err(Failure::Away(error)) => Failure::Away(error),
                Err(other) => return Err(other),
            };
            if attempt >= ATTEMPTS || self.cancelled() {
                return Err(failure);
            }
            std::thread::sleep(Duration::from_millis(200 << attempt));
            attempt += 1;
        }
    }

    /// Runs a request on a thread of its own, because the client itself would wait for ever for a silent Hub and
    /// would not hear Ctrl-C. `size` is the number of bytes that progress is to be reported for.
    fn wait<T: Send + 'static>(
        &self,
        size: Option<u64>,
        request: impl FnOnce(Arc<Pulse>) -> Result<T, HFError> + Send + 'static,
    ) -> Result<T, Failure> {
        let pulse = Arc::new(Pulse { last: Mutex::new(Instant::now()), bytes: AtomicU64::new(0) });
        let (sender, receiver) = channel();
        let theirs = pulse.clone();
        std::thread::spawn(move || {
            // Nobody listens any more when the wait was given up.
            let _ = sender.send(request(theirs));
        });
        let mut told = 0;
        let mut tell = |bytes: u64| {
            if let (Some(watch), Some(size)) = (&self.watch, size) {
                let bytes = bytes.min(size);
                watch.advance(bytes.saturating_sub(told));
                told = told.max(bytes);
            }
        };
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(outcome) => {
                    if outcome.is_ok() {
                        tell(size.unwrap_or_default());
                    }
                    return outcome.map_err(|e| self.remote.explain(e));
                }
                Err(RecvTimeoutError::Timeout) => tell(pulse.bytes.load(Ordering::Relaxed)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Other(Error::run("the download ended without a word").at(self.remote)));
                }
            }
            if self.cancelled() {
                return Err(Failure::Other(Error::interrupted()));
            }
            if pulse.silence() > self.patience {
                let seconds = self.patience.as_secs();
                return Err(Failure::Away(
                    Error::run(format!("the Hub said nothing for {seconds} seconds")).at(self.remote).hint(NETWORK),
                ));
            }
        }
    }

    fn cancelled(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.cancelled())
    }

    fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.sizes.contains_key(name).then(|| std::fs::read(self.cache.snapshot(&self.sha).join(name)).ok())?
    }

    fn size_here(&self, name: &str) -> Option<u64> {
        std::fs::metadata(self.cache.snapshot(&self.sha).join(name)).ok().map(|data| data.len())
    }

    fn disk(&self, error: &std::io::Error) -> Failure {
        Failure::Other(disk(error).at(self.directory.display()))
    }

    fn no_weights(&self) -> Error {
        let has = |name: &str| self.sizes.contains_key(name);
        let error = |message: &str| Error::run(message).at(self.remote);
        let elsewhere = self.remote.elsewhere();
        let safetensors = self.sizes.keys().find(|name| name.ends_with(".safetensors"));
        let (error, hint) = match (plan::pickles(self.sizes.keys().map(String::as_str)), safetensors) {
            (Some(pickle), None) => (
                error(&format!("no safetensors on this revision, only {pickle}, which can run code and is not read")),
                "look in the repository's pull requests for a conversion and name it: org/name@refs/pr/N",
            ),
            (_, Some(_)) if !has("config.json") && !has("open_clip_config.json") => (
                error("there are weights, but neither config.json nor open_clip_config.json says what they are"),
                "is this a CLIP or SigLIP model?",
            ),
            _ => (error("no weights of a layout that we read"), "is this a CLIP or SigLIP model?"),
        };
        error.hint(elsewhere.as_deref().unwrap_or(hint))
    }
}

/// Asks the Hub for one small answer; returns its address.
pub(super) fn reach() -> Result<String, Error> {
    let remote =
        Remote { repository: "openai/clip-vit-base-patch32".to_owned(), revision: "main".to_owned(), card: None };
    let asked = HFClientBuilder::new().retry_max_attempts(1).build_sync().and_then(|client| {
        let (org, name) = remote.repository.split_once('/').unwrap_or_default();
        client.model(org, name).info().send()
    });
    match asked.map_err(|e| remote.explain(e)) {
        Ok(_) => {
            let endpoint = setting("HF_ENDPOINT").map(|endpoint| endpoint.to_string_lossy().into_owned());
            Ok(endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned()))
        }
        Err(Failure::Away(error) | Failure::Other(error)) => Err(error),
    }
}

const NETWORK: &str = "check the network and HF_ENDPOINT; models in the cache work without (--offline)";

impl Remote {
    /// What the client's error means for a user.
    fn explain(&self, error: HFError) -> Failure {
        let page = format!("https://huggingface.co/{}", self.repository);
        let other = |message: String, hint: String| Failure::Other(Error::run(message).at(self).hint(hint));
        let away = |message: String| Failure::Away(Error::run(message).at(self).hint(NETWORK));
        let unnamed = || {
            let hint = "check the spelling; it must be a model, not a data set or a space. A private or gated one needs \
                        HF_TOKEN";
            other("there is no such repository on the Hub".to_owned(), hint.to_owned())
        };
        let code = match &error {
            HFError::AuthRequired { context } | HFError::Forbidden { context } | HFError::Http { context } => {
                context.error_code.clone()
            }
            HFError::RevisionNotFound { context, .. } | HFError::EntryNotFound { context, .. } => {
                context.as_ref().and_then(|context| context.error_code.clone())
            }
            _ => None,
        };
        match error {
            HFError::RepoNotFound { .. } => unnamed(),
            _ if code.as_deref() == Some("RepoNotFound") => unnamed(),
            HFError::RevisionNotFound { .. } if code.is_none() && self.revision == "main" => unnamed(),
            HFError::RevisionNotFound { revision, .. } => {
                other(format!("the repository has no revision {revision:?}"), format!("see {page}/branches"))
            }
            HFError::AuthRequired { .. } => other(
                "the Hub wants a login (401)".to_owned(),
                format!("accept the terms on {page} if it is gated, then set HF_TOKEN to a token that may read it"),
            ),
            HFError::Forbidden { .. } => other(
                "the Hub refuses the token (403)".to_owned(),
                format!("ask for access on {page}, and see that the token in HF_TOKEN may read gated repositories"),
            ),
            HFError::EntryNotFound { path, .. } => {
                other(format!("{path} is listed but cannot be fetched (404)"), "try again later".to_owned())
            }
            HFError::RateLimited { retry_after, .. } => {
                let when = retry_after.map_or("later".to_owned(), |wait| format!("in {} seconds", wait.as_secs()));
                other(
                    "the Hub allows no more requests (429)".to_owned(),
                    format!("try again {when}; HF_TOKEN raises the limit"),
                )
            }
            HFError::Request { source, .. } if source.is_connect() => away("the Hub cannot be reached".to_owned()),
            HFError::Request { source, .. } => away(format!("the connection to the Hub broke: {}", root(&source))),
            HFError::Http { context } if context.status.is_server_error() => {
                away(format!("the Hub has a fault ({})", context.status))
            }
            HFError::CacheLockTimeout { path } => other(
                "another process holds the cache".to_owned(),
                format!("wait for it to end; the lock is {}", path.display()),
            ),
            HFError::Io(error) => Failure::Other(disk(&error).at(super::cache_directory().display())),
            error => other(error.to_string(), NETWORK.to_owned()),
        }
    }
}

fn disk(error: &std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::StorageFull => "make room, or set HF_HOME to a place that has some",
        _ => "set HF_HOME to a directory that can be written",
    };
    Error::run(format!("the cache cannot be written: {error}")).hint(hint)
}

/// The innermost cause, which says most.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Hears of a transfer's progress.
struct Pulse {
    last: Mutex<Instant>,
    bytes: AtomicU64,
}

impl Pulse {
    fn silence(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl ProgressHandler for Pulse {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        let bytes = match event {
            DownloadEvent::Progress { files } => files.iter().map(|file| file.bytes_completed).sum(),
            DownloadEvent::AggregateProgress { bytes_completed, .. } => *bytes_completed,
            DownloadEvent::Start { .. } | DownloadEvent::Complete => 0,
        };
        // Transfers report on a clock, too: only new bytes are a sign of life.
        if self.bytes.fetch_max(bytes, Ordering::Relaxed) < bytes || matches!(event, DownloadEvent::Start { .. }) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}
