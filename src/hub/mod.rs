//! A model reference becomes files on this machine: a path, an alias of a card, or `org/name[@revision]` on the
//! Hugging Face Hub, through the cache that Python's tools share.
//!
//! Architecture invariant: this is the one place that opens outgoing sockets, and it does so only when the cache does
//! not hold what is asked for. A branch is resolved to a commit when it is first used and keeps that meaning until
//! somebody asks to [refresh](Options::refresh) it, so that a job gives the same results tomorrow and on a train.

#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "only downloads write to the cache"))]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "only downloads are promised"))]
mod digest;
#[cfg(feature = "hub")]
mod elsewhere;
#[cfg(feature = "hub")]
mod explain;
#[cfg(feature = "hub")]
mod fetch;
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "only downloads plan"))]
mod plan;
mod sha1;

pub use cache::directory as cache_directory;
pub use digest::Digest;

use crate::card::{self, Card};
use crate::error::{Error, Result};
use crate::model::ModelFiles;
use cache::{Cache, Known};
use plan::Plan;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a reference is resolved.
#[derive(Clone, Default)]
pub struct Options {
    /// Whether only files on this machine count.
    pub offline: bool,
    /// Whether to ask what a branch means now, even if the cache knows what it meant.
    pub refresh: bool,
    /// Who hears of progress and may end the download.
    pub watch: Option<Arc<dyn Watch>>,
}

/// Somebody who watches a download.
pub trait Watch: Send + Sync {
    /// So many more bytes will come.
    fn expect(&self, bytes: u64);
    /// So many more bytes have come.
    fn advance(&self, bytes: u64);
    /// Something holds the download up.
    fn tell(&self, what: &str);
    /// Whether the download should end.
    fn cancelled(&self) -> bool;
}

/// What a reference stands for.
#[derive(Clone, Debug)]
pub struct Found {
    /// The checkpoint's files.
    pub files: ModelFiles,
    /// The repository and the commit that they come from, if they come from the Hub.
    pub origin: Option<Origin>,
    /// The card of the checkpoint, if it has one.
    pub card: Option<&'static Card>,
    /// Whether the Hub was asked.
    pub asked: bool,
    /// What a user should know about how it was found.
    pub notes: Vec<String>,
}

/// Where on the Hub files come from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Origin {
    /// The repository, as `org/name`.
    pub repository: String,
    /// What was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// The commit.
    pub sha: String,
}

/// A repository on the Hub and a revision in it.
#[derive(Clone, Debug, PartialEq)]
struct Remote {
    repository: String,
    revision: String,
    card: Option<&'static Card>,
}

/// The files of the model that a reference names.
pub fn resolve(reference: &str, offline: bool) -> Result<ModelFiles> {
    Ok(resolve_with(reference, &Options { offline, ..Options::default() })?.files)
}

/// The files of the model that a reference names, and how they were found.
pub fn resolve_with(reference: &str, options: &Options) -> Result<Found> {
    let local = |files| Found { files, origin: None, card: None, asked: false, notes: Vec::new() };
    #[cfg(feature = "builtin")]
    if reference == "builtin" {
        return Ok(local(ModelFiles::builtin()));
    }
    if Path::new(reference).exists() || looks_like_path(reference) {
        return ModelFiles::open(Path::new(reference)).map(local);
    }
    Remote::parse(reference)?.resolve(options)
}

/// Where a reference's files are from, if the cache holds them. Never uses the network.
pub fn cached(reference: &str) -> Option<Origin> {
    let remote = Remote::parse(reference).ok()?;
    let cache = Cache::new(&cache_directory(), &remote.repository);
    let sha = cache.commit(&remote.revision)?;
    let held = Holding::of(&cache, &sha) != Holding::Part;
    held.then_some(Origin { repository: remote.repository, revision: remote.revision, sha })
}

/// A model's files on this machine.
#[derive(Clone, Debug)]
pub struct Here {
    /// The model's name.
    pub name: String,
    /// Where its files are.
    pub directory: PathBuf,
    /// The file that was named, if it was one.
    pub weights: Option<PathBuf>,
    /// The repository and the commit that they come from, if they come from the Hub.
    pub origin: Option<Origin>,
    whole: bool,
}

/// Where a model's files are on this machine, all of them or some. Never uses the network.
pub fn here(reference: &str) -> Result<Here> {
    let path = Path::new(reference);
    if path.exists() || looks_like_path(reference) {
        let files = ModelFiles::open(path)?;
        let directory = files.directory().map(Path::to_owned).unwrap_or_default();
        let weights = path.is_file().then(|| path.to_owned());
        return Ok(Here { name: files.name().to_owned(), directory, weights, origin: None, whole: true });
    }
    if reference == "builtin" {
        return Err(Error::run("the built-in model is part of the program, and has no directory"));
    }
    let remote = Remote::parse(reference)?;
    let cache = Cache::new(&cache_directory(), &remote.repository);
    let snapshot = cache.commit(&remote.revision).map(|sha| (cache.snapshot(&sha), sha));
    let Some((directory, sha)) = snapshot.filter(|(directory, _)| directory.is_dir()) else {
        return Err(remote.not_cached());
    };
    let whole = Holding::of(&cache, &sha) != Holding::Part;
    let origin = Origin { repository: remote.repository.clone(), revision: remote.revision, sha };
    Ok(Here { name: remote.repository, directory, weights: None, origin: Some(origin), whole })
}

/// Fetches a checkpoint without opening it, also one whose weights are a pickle.
pub fn fetch_pickled(reference: &str, options: &Options) -> Result<Here> {
    let remote = Remote::parse(reference)?;
    if options.offline {
        return here(reference);
    }
    let directory = cache_directory();
    let cache = Cache::new(&directory, &remote.repository);
    let sha = remote.download(&directory, &cache, options, true).map_err(Failure::into_error)?;
    let origin = Origin { repository: remote.repository.clone(), revision: remote.revision, sha };
    let directory = cache.snapshot(&origin.sha);
    Ok(Here { name: remote.repository, directory, weights: None, origin: Some(origin), whole: true })
}

/// The checksum by which a file of the cache is called, and how it is made.
pub fn checksum(path: &Path) -> Option<(Digest, String)> {
    let name = cache::blob_name(path)?;
    Some((Digest::of_name(&name)?, name))
}

impl Here {
    /// An error unless the configuration and all weights are here.
    pub fn whole(self) -> Result<Self> {
        match &self.origin {
            Some(origin) if !self.whole => {
                let Origin { repository, revision, .. } = origin;
                Err(Error::run("only a part of the model is in the cache")
                    .at(self.directory.display())
                    .hint(format!("fetch the rest: clip-cli models pull {repository}@{revision}")))
            }
            _ => Ok(self),
        }
    }

    /// The files that models are made of, below the directory and sorted: of a directory of the user's own those of
    /// known kinds, of the cache all.
    pub fn files(&self) -> Vec<PathBuf> {
        let known = |path: &Path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| ["json", "safetensors", "txt", "gz", "model"].contains(&extension))
        };
        let tree = walkdir::WalkDir::new(&self.directory).max_depth(3).sort_by_file_name().into_iter().flatten();
        let files = tree.filter(|entry| !entry.file_type().is_dir());
        let below = files.filter_map(|entry| Some(entry.path().strip_prefix(&self.directory).ok()?.to_owned()));
        below.filter(|path| self.origin.is_some() || known(path)).take(1000).collect()
    }
}

/// Asks the Hub for one small answer; returns its address, or why it cannot be reached.
#[cfg(feature = "hub")]
pub fn reach() -> Result<String> {
    client::reach()
}

/// Whether a reference can only be meant as a path.
pub fn looks_like_path(reference: &str) -> bool {
    Path::new(reference).is_absolute()
        || reference.starts_with(['.', '~'])
        || reference.ends_with(".safetensors")
        || reference.ends_with(std::path::is_separator)
        || reference.matches('/').count() > 1 && !reference.contains('@')
}

impl Remote {
    /// Reads an alias or `org/name`, either with `@revision`.
    fn parse(reference: &str) -> Result<Self> {
        let (name, revision) = match reference.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (reference, None),
        };
        if let Some(revision) = revision
            && !is_revision(revision)
        {
            return Err(Error::usage(format!("{revision:?} is no branch, tag or commit")).at(reference));
        }
        if let Some(card) = card::find(name)
            && let Some(repository) = &card.repository
        {
            let revision = revision.unwrap_or(&card.revision).to_owned();
            return Ok(Self { repository: repository.value.clone(), revision, card: Some(card) });
        }
        if !name.contains('/') {
            return Err(unknown(name));
        }
        if !is_repository(name) {
            return Err(Error::usage(format!("no such file or directory, and no name on the Hub: {name}"))
                .hint("names on the Hub are org/name, in letters, digits, `-`, `_` and `.`"));
        }
        let revision = revision.unwrap_or("main").to_owned();
        Ok(Self { repository: name.to_owned(), revision, card: card::of_repository(name) })
    }

    fn resolve(&self, options: &Options) -> Result<Found> {
        let directory = cache_directory();
        let cache = Cache::new(&directory, &self.repository);
        let local = cache.commit(&self.revision).map(|sha| (Holding::of(&cache, &sha), sha));
        match local {
            Some((Holding::Whole, sha)) if !options.refresh || options.offline => {
                self.open(&cache, sha, false, Vec::new())
            }
            Some((Holding::Enough { unknown }, sha)) if options.offline => {
                let note = format!("{self}: the cache does not say whether there is a {}", unknown.join(", a "));
                self.open(&cache, sha, false, vec![note])
            }
            _ if options.offline => Err(self.not_cached()),
            local => match self.download(&directory, &cache, options, false) {
                Ok(sha) => self.open(&cache, sha, true, Vec::new()),
                Err(Failure::Away { error, .. } | Failure::Silent(error)) => match local {
                    Some((Holding::Whole | Holding::Enough { .. }, sha)) => {
                        let note = format!("{error}; using the copy in the cache, commit {sha}");
                        self.open(&cache, sha, true, vec![note])
                    }
                    _ => Err(error),
                },
                Err(failure) => Err(failure.into_error()),
            },
        }
    }

    fn open(&self, cache: &Cache, sha: String, asked: bool, notes: Vec<String>) -> Result<Found> {
        let files = ModelFiles::in_directory(&cache.snapshot(&sha), self.repository.clone())?;
        let origin = Origin { repository: self.repository.clone(), revision: self.revision.clone(), sha };
        Ok(Found { files, origin: Some(origin), card: self.card, asked, notes })
    }

    fn not_cached(&self) -> Error {
        Error::run(format!("{self} is not in the cache"))
            .at(cache_directory().display())
            .hint(format!("fetch it once with a network: clip-cli models pull {self}"))
    }

    #[cfg(feature = "hub")]
    fn download(&self, directory: &Path, cache: &Cache, options: &Options, pickled: bool) -> Result<String, Failure> {
        client::Download::start(self, directory, cache, options)?.run(pickled)
    }

    #[cfg(not(feature = "hub"))]
    fn download(&self, _: &Path, _: &Cache, _: &Options, _: bool) -> Result<String, Failure> {
        Err(Failure::Other(
            Error::run(format!("{self} is not in the cache, and this program was built without the Hub"))
                .hint("build with the cargo feature `hub`, or give the directory of a downloaded checkpoint"),
        ))
    }

    /// The two halves of the repository's name.
    #[cfg(feature = "hub")]
    fn names(&self) -> (&str, &str) {
        self.repository.split_once('/').unwrap_or(("", &self.repository))
    }

    /// Where else to look when a repository has no weights that we read.
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only downloads ask"))]
    fn elsewhere(&self) -> Option<String> {
        let card = self.card?;
        match &card.repository {
            Some(other) if other.value != self.repository => {
                Some(format!("the same weights: --model {} ({})", card.alias, other.value))
            }
            _ => card.note.clone(),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != "main" { write!(f, "@{}", self.revision) } else { Ok(()) }
    }
}

/// Why a download gave nothing.
#[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only downloads fail so"))]
enum Failure {
    /// The Hub cannot be reached, or has a bad moment: trying again may help, and a copy in the cache is as good.
    Away {
        error: Error,
        /// How long the Hub asks us to wait.
        wait: Option<Duration>,
    },
    /// The Hub says nothing; the request goes on without us.
    Silent(Error),
    /// The Hub knows no such model.
    Missing(Error),
    /// The Hub answered, and the answer is no.
    Other(Error),
}

impl Failure {
    #[cfg(feature = "hub")]
    fn away(error: Error) -> Self {
        Self::Away { error, wait: None }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Away { error, .. } | Self::Silent(error) | Self::Missing(error) | Self::Other(error) => error,
        }
    }
}

/// How much of a commit the cache holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holding {
    /// All that a download would fetch.
    Whole,
    /// Weights and configuration, but nobody asked the Hub about these names.
    Enough { unknown: Vec<String> },
    /// Not what a model needs.
    Part,
}

impl Holding {
    fn of(cache: &Cache, sha: &str) -> Self {
        let here = |name: &str| cache.known(sha, name) == Known::Here;
        let read = |name: &str| std::fs::read(cache.snapshot(sha).join(name)).ok();
        let (config, open_clip) = (read("config.json"), read("open_clip_config.json"));
        let plan = Plan { config: config.as_deref(), open_clip: open_clip.as_deref() };
        let Some(weights) = plan.weights(here) else { return Self::Part };
        if weights.ends_with(".json") {
            let shards = read(weights).and_then(|index| plan::shards(&index)).unwrap_or_default();
            if shards.is_empty() || !shards.iter().all(|shard| here(shard)) {
                return Self::Part;
            }
        }
        let is_unknown = |name: &&str| cache.known(sha, name) == Known::Unknown;
        let mut unknown: Vec<String> =
            plan::CONFIGS.iter().filter(|name| is_unknown(name)).map(|&n| n.into()).collect();
        if plan.tokenizer(here).is_empty() && is_unknown(&"tokenizer.json") {
            unknown.push("tokenizer.json".to_owned());
        }
        if unknown.is_empty() { Self::Whole } else { Self::Enough { unknown } }
    }
}

fn unknown(name: &str) -> Error {
    let error = Error::usage(format!("no model of this name, and no such file or directory: {name}"));
    let list = "`clip-cli models list` shows the known names; a repository on the Hub is org/name";
    match card::closest(name) {
        Some(near) => error.hint(format!("did you mean {near}? {list}")),
        None => error.hint(list),
    }
}

/// Whether a name can be `org/name` on the Hub; nothing else may become part of a path in the cache.
fn is_repository(name: &str) -> bool {
    let plain = |part: &str| {
        let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        letters && !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains("..") && !part.contains("--")
    };
    name.len() <= 96 && name.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name))
}

/// Whether a word can be a branch, a tag or a commit; nothing else may become part of a path in the cache.
fn is_revision(word: &str) -> bool {
    let plain = |part: &str| {
        let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
        letters && !part.is_empty() && !part.starts_with('.') && !part.contains("..")
    };
    word.len() <= 200 && word.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn references() {
        let parse = |reference| Remote::parse(reference).unwrap();
        let remote = parse("laion/CLIP-ViT-B-32-laion2B-s34B-b79K");
        assert_eq!((remote.revision.as_str(), remote.card.unwrap().alias.as_str()), ("main", "laion2b-b32"));
        assert_eq!(parse("openai-b32").repository, "timm/vit_base_patch32_clip_224.openai");
        assert_eq!(parse("openai/clip-vit-base-patch32@refs/pr/15").revision, "refs/pr/15");
        assert_eq!(parse("openai-b32@v1").to_string(), "timm/vit_base_patch32_clip_224.openai@v1");
        for bad in ["a/b@../../x", "a/b@", "../b", "a/b/c", "a/..", "a/b c", "org/--x", "a--b/c"] {
            assert!(Remote::parse(bad).is_err(), "{bad}");
        }
        let hint = |reference| Remote::parse(reference).unwrap_err().advice().unwrap().to_owned();
        assert!(hint("opnai-b32").contains("did you mean openai-b32?"));
        assert!(looks_like_path("./model") && looks_like_path("x.safetensors") && looks_like_path("a/b/c"));
        assert!(!looks_like_path("org/name@refs/pr/1") && !looks_like_path("openai-b32"));
    }

    #[test]
    fn holdings() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path(), "org/name");
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let put = |name: &str, text: &str| {
            fs::create_dir_all(cache.snapshot(sha)).unwrap();
            fs::write(cache.snapshot(sha).join(name), text).unwrap();
        };
        assert_eq!((cache.commit("main"), cache.commit(sha).as_deref()), (None, Some(sha)));
        cache.remember("main", sha).unwrap();
        assert_eq!(cache.commit("main").as_deref(), Some(sha));
        assert_eq!(Holding::of(&cache, sha), Holding::Part);
        put("config.json", r#"{"model_type": "clip"}"#);
        put("model.safetensors.index.json", r#"{"weight_map": {"a": "m.safetensors"}}"#);
        assert_eq!(Holding::of(&cache, sha), Holding::Part);
        put("m.safetensors", "");
        put("tokenizer.json", "");
        assert!(matches!(Holding::of(&cache, sha), Holding::Enough { unknown } if unknown.len() == 4));
        for name in plan::CONFIGS {
            cache.mark_absent(sha, name).unwrap();
        }
        assert_eq!(Holding::of(&cache, sha), Holding::Whole);
    }
}
