//! Fetches the files of a checkpoint from the Hub into the cache.

use super::cache::{is_commit, setting};
use super::digest::{Digest, Promise};
use super::plan::{self, CONFIGS, Plan};
use super::{Cache, Failure, Options, Remote, Watch};
use crate::error::Error;
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClientBuilder, HFClientSync, HFError, HFRepositorySync, RepoTypeModel};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often in a row something is tried in vain.
const ATTEMPTS: u32 = 4;

/// The pause after the first attempt; each one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause that the Hub may ask for; its limits are counted over five minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How long the Hub may say nothing, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a waiting thread looks whether it should go on waiting.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The most files that a repository may list.
const MOST_FILES: usize = 20_000;

/// One checkpoint on its way into the cache.
pub(super) struct Download<'a> {
    pub(super) remote: &'a Remote,
    pub(super) cache: &'a Cache,
    pub(super) directory: &'a Path,
    pub(super) client: HFClientSync,
    pub(super) repository: HFRepositorySync<RepoTypeModel>,
    pub(super) watch: Option<Arc<dyn Watch>>,
    pub(super) sha: String,
    pub(super) files: BTreeMap<String, Promise>,
    patience: Duration,
}

impl<'a> Download<'a> {
    /// Resolves the revision to a commit and asks which files it has.
    pub(super) fn start(
        remote: &'a Remote,
        directory: &'a Path,
        cache: &'a Cache,
        options: &Options,
    ) -> Result<Self, Failure> {
        let client = client().map_err(|e| remote.explain(e))?;
        let seconds = setting("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.to_str()?.parse().ok());
        let (org, name) = remote.names();
        let mut download = Self {
            remote,
            cache,
            directory,
            repository: client.model(org, name),
            client,
            watch: options.watch.clone(),
            sha: remote.revision.clone(),
            files: BTreeMap::new(),
            patience: seconds.map_or(PATIENCE, Duration::from_secs),
        };
        if !is_commit(&remote.revision) {
            download.sha = download.resolve()?;
        }
        download.files = download.list(&download.sha)?;
        Ok(download)
    }

    /// Fetches what the checkpoint needs; returns the commit. If `pickled`, weights that are a pickle will do.
    pub(super) fn run(self, pickled: bool) -> Result<String, Failure> {
        let has = |name: &str| self.files.contains_key(name);
        self.fetch_all(CONFIGS.iter().copied().filter(|name| has(name)))?;
        let (config, open_clip) = (self.content("config.json"), self.content("open_clip_config.json"));
        let plan = Plan { config: config.as_deref(), open_clip: open_clip.as_deref() };
        let pickle = || plan.pickle(has).filter(|_| pickled);
        let Some(weights) = plan.weights(has).or_else(pickle) else { return Err(Failure::Other(self.no_weights())) };
        let tokenizer = plan.tokenizer(has);
        self.fetch_all(tokenizer.iter().map(String::as_str))?;
        self.fetch_all([weights].into_iter())?;
        if weights.ends_with(".json") {
            let shards = self.content(weights).and_then(|index| plan::shards(&index)).unwrap_or_default();
            if let Some(lost) = shards.iter().find(|shard| !has(shard)) {
                return Err(Failure::Other(
                    Error::run(format!("{weights} names {lost}, which is not there")).at(self.remote),
                ));
            }
            self.fetch_all(shards.iter().map(String::as_str))?;
        }
        // Only now is the commit as good as its name: what is absent is known, and the branch means this commit.
        let absent = plan.candidates().into_iter().filter(|name| !has(name));
        let noted = absent.map(|name| self.cache.mark_absent(&self.sha, &name)).collect::<Result<Vec<()>, _>>();
        noted.and_then(|_| self.cache.remember(&self.remote.revision, &self.sha)).map_err(|e| self.disk(&e))?;
        Ok(self.sha)
    }

    /// The files of a commit.
    pub(super) fn list(&self, revision: &str) -> Result<BTreeMap<String, Promise>, Failure> {
        let tree = self.ask(|| {
            let (repository, revision) = (self.repository.clone(), revision.to_owned());
            move |_| repository.list_tree().revision(revision).recursive(true).limit(MOST_FILES).send()
        })?;
        let files = tree.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File { path, size, oid, lfs, .. } => {
                let digest = if lfs.is_some() { Digest::Sha256 } else { Digest::Git };
                Some((path, Promise { size, oid, digest }))
            }
            RepoTreeEntry::Directory { .. } => None,
        });
        Ok(files.collect())
    }

    /// The commit that the revision means now.
    fn resolve(&self) -> Result<String, Failure> {
        let info = self.ask(|| {
            let (repository, revision) = (self.repository.clone(), self.remote.revision.clone());
            move |_| repository.info().revision(revision).send()
        });
        let info = match info {
            Err(Failure::Missing(error)) => return Err(Failure::Other(self.other_kind(error))),
            info => info?,
        };
        let sha = info.sha.filter(|sha| is_commit(sha));
        sha.ok_or_else(|| {
            Failure::Other(
                Error::run("the Hub does not say which commit this is")
                    .at(self.remote)
                    .hint("is HF_ENDPOINT the address of a Hub?"),
            )
        })
    }

    /// Makes requests until one is answered, as long as asking again may help.
    pub(super) fn ask<T, R>(&self, mut request: impl FnMut() -> R) -> Result<T, Failure>
    where
        T: Send + 'static,
        R: FnOnce(Arc<Pulse>) -> Result<T, HFError> + Send + 'static,
    {
        let mut attempt = 1;
        loop {
            match self.wait(request(), &mut |_| Ok(())) {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.pause(attempt, failure)?,
            }
            attempt += 1;
        }
    }

    /// Sleeps before another attempt, or says that there should be none.
    pub(super) fn pause(&self, attempt: u32, failure: Failure) -> Result<(), Failure> {
        let (error, asked) = match &failure {
            Failure::Away { error, wait } => (error, *wait),
            Failure::Silent(error) => (error, None),
            Failure::Missing(_) | Failure::Other(_) => return Err(failure),
        };
        // Silence takes long enough to be believed sooner.
        let enough = if matches!(failure, Failure::Silent(_)) { ATTEMPTS / 2 } else { ATTEMPTS };
        if attempt >= enough || asked.is_some_and(|asked| asked > LONGEST_PAUSE) {
            return Err(failure);
        }
        let pause = asked.unwrap_or(FIRST_PAUSE * 2u32.pow(attempt - 1));
        if let Some(watch) = &self.watch
            && pause >= Duration::from_secs(1)
        {
            watch.tell(&format!("{error}; trying again in {} s", pause.as_secs()));
        }
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if self.cancelled() {
                return Err(Failure::Other(Error::interrupted()));
            }
            std::thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Runs a request on a thread of its own, because the client itself would wait for ever for a silent Hub and
    /// would not hear Ctrl-C. `heard` hears how many bytes have come, and may call it off.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        request: impl FnOnce(Arc<Pulse>) -> Result<T, HFError> + Send + 'static,
        heard: &mut dyn FnMut(u64) -> Result<(), Failure>,
    ) -> Result<T, Failure> {
        let pulse = Arc::new(Pulse { last: Mutex::new(Instant::now()), bytes: AtomicU64::new(0) });
        let (sender, receiver) = channel();
        let theirs = pulse.clone();
        std::thread::spawn(move || {
            // Nobody listens any more when the wait was given up.
            let _ = sender.send(request(theirs));
        });
        loop {
            let outcome = receiver.recv_timeout(TICK);
            heard(pulse.bytes.load(Ordering::Relaxed))?;
            match outcome {
                Ok(outcome) => return outcome.map_err(|e| self.remote.explain(e)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Other(Error::run("the download ended without a word").at(self.remote)));
                }
            }
            if self.cancelled() {
                return Err(Failure::Other(Error::interrupted()));
            }
            if pulse.silence() > self.patience {
                return Err(self.remote.silent(self.patience));
            }
        }
    }

    pub(super) fn cancelled(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.cancelled())
    }

    pub(super) fn disk(&self, error: &std::io::Error) -> Failure {
        Failure::Other(super::explain::disk(error).at(self.directory.display()))
    }

    fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.files.contains_key(name).then(|| std::fs::read(self.cache.snapshot(&self.sha).join(name)).ok())?
    }
}

/// Asks the Hub for one small answer; returns its address.
pub(super) fn reach() -> Result<String, Error> {
    let remote =
        Remote { repository: "openai/clip-vit-base-patch32".to_owned(), revision: "main".to_owned(), card: None };
    let asked = client().and_then(|client| {
        let (org, name) = remote.names();
        client.model(org, name).info().send()
    });
    match asked.map_err(|e| remote.explain(e)) {
        Ok(_) => Ok(endpoint()),
        Err(failure) => Err(failure.into_error()),
    }
}

/// The address of the Hub: `HF_ENDPOINT`, or Hugging Face's own.
pub(super) fn endpoint() -> String {
    let set = setting("HF_ENDPOINT").map(|endpoint| endpoint.to_string_lossy().trim_end_matches('/').to_owned());
    set.unwrap_or_else(|| "https://huggingface.co".to_owned())
}

/// The client; it makes every request once, because we know better when to make it again.
fn client() -> Result<HFClientSync, HFError> {
    HFClientBuilder::new()
        .endpoint(endpoint())
        .user_agent(concat!("clip-cli/", env!("CARGO_PKG_VERSION")))
        .retry_max_attempts(0)
        .build_sync()
}

/// Hears of a transfer's progress.
pub(super) struct Pulse {
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
