//! Where to look when a repository is not what was hoped for.

use super::client::Download;
use super::plan;
use crate::error::Error;
use crate::model::files::WEIGHT_NAMES;

/// How many pull requests are looked into.
const PULL_REQUESTS: usize = 12;

impl Download<'_> {
    /// The error for a commit without weights that we read: it says where there are some.
    pub(super) fn no_weights(&self) -> Error {
        let has = |name: &str| self.files.contains_key(name);
        let error = |message: &str| Error::run(message).at(self.remote);
        let pickle = plan::pickles(self.files.keys().map(String::as_str));
        let safetensors = self.files.keys().any(|name| name.ends_with(".safetensors"));
        match pickle {
            Some(pickle) if !safetensors => {
                let convert = format!(
                    "`clip-cli models pull {} --pickle` fetches it, and `clip-cli models convert` makes safetensors of it \
                     without running anything",
                    self.remote
                );
                let ways = [self.remote.elsewhere(), self.other_revision(), Some(convert)];
                let ways: Vec<String> = ways.into_iter().flatten().collect();
                error(&format!("no safetensors on this revision, only {pickle}, which can run code and is not read"))
                    .hint(ways.join("; or "))
            }
            _ => {
                let configured = has("config.json") || has("open_clip_config.json");
                let message = if safetensors && !configured {
                    "there are weights, but neither config.json nor open_clip_config.json says what they are"
                } else {
                    "no weights of a layout that we read"
                };
                let hint = self.remote.elsewhere();
                error(message).hint(hint.as_deref().unwrap_or("is this a CLIP or SigLIP model?"))
            }
        }
    }

    /// A converted branch or a pull request that has weights which we read. Failing to find out is no failure.
    fn other_revision(&self) -> Option<String> {
        let refs = self
            .ask(|| {
                let repository = self.repository.clone();
                move |_| repository.list_refs().include_pull_requests(true).send()
            })
            .ok()?;
        let converted = refs.converts.into_iter();
        // Later pull requests are likelier to be of today's form.
        let mut requests = refs.pull_requests;
        requests.sort_by_key(|request| std::cmp::Reverse(number(&request.git_ref)));
        let revisions = converted.chain(requests.into_iter().take(PULL_REQUESTS)).map(|found| found.git_ref);
        let has_weights = |revision: &String| {
            self.list(revision).is_ok_and(|files| WEIGHT_NAMES.iter().any(|(name, _)| files.contains_key(*name)))
        };
        let found = revisions.filter(|revision| *revision != self.remote.revision).find(has_weights)?;
        Some(format!("{found} has safetensors: --model {}@{found}", self.remote.repository))
    }

    /// The error for a name under which there is no model: there may be a data set or a space.
    pub(super) fn other_kind(&self, error: Error) -> Error {
        let (org, name) = self.remote.names();
        let dataset = self.ask(|| {
            let dataset = self.client.dataset(org, name);
            move |_| dataset.exists().send()
        });
        let space = || {
            self.ask(|| {
                let space = self.client.space(org, name);
                move |_| space.exists().send()
            })
        };
        let is = |kind: &str| {
            let hint = format!("--model wants a model; look for the one that belongs to this {kind}");
            Error::run(format!("this is a {kind}, not a model")).at(self.remote).hint(hint)
        };
        match dataset {
            Ok(true) => is("data set"),
            Ok(false) | Err(_) if space().is_ok_and(|exists| exists) => is("space"),
            _ => error,
        }
    }
}

/// The number of a pull request.
fn number(git_ref: &str) -> u64 {
    git_ref.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
