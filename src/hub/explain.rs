//! What the client's errors mean for a user.

use super::{Failure, Remote};
use crate::error::Error;
use hf_hub::HFError;
use std::time::Duration;

const NETWORK: &str = "check the network and HF_ENDPOINT; models in the cache work without (--offline)";

impl Remote {
    /// What the client's error means for a user.
    pub(super) fn explain(&self, error: HFError) -> Failure {
        let page = format!("https://huggingface.co/{}", self.repository);
        let other = |message: String, hint: String| Failure::Other(Error::run(message).at(self).hint(hint));
        let away = |message: String| Failure::away(Error::run(message).at(self).hint(NETWORK));
        let missing = || {
            let hint = "check the spelling. A private or gated one needs HF_TOKEN";
            Failure::Missing(Error::run("there is no such model on the Hub").at(self).hint(hint))
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
            HFError::RepoNotFound { .. } => missing(),
            _ if code.as_deref() == Some("RepoNotFound") => missing(),
            HFError::RevisionNotFound { .. } if code.is_none() && self.revision == "main" => missing(),
            HFError::RevisionNotFound { revision, .. } => {
                other(format!("the repository has no revision {revision:?}"), format!("see {page}/branches"))
            }
            HFError::AuthRequired { .. } if code.as_deref() == Some("GatedRepo") => other(
                "the model is gated, and the Hub wants a login (401)".to_owned(),
                format!("accept the terms on {page}, then set HF_TOKEN to a token that may read it"),
            ),
            HFError::AuthRequired { .. } => other(
                "the Hub wants a login (401)".to_owned(),
                format!("set HF_TOKEN to a token that is valid and may read {page}"),
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
                let error = Error::run("the Hub allows no more requests for now (429)").at(self);
                Failure::Away {
                    error: error.hint(format!("try again {when}; HF_TOKEN raises the limit")),
                    wait: retry_after,
                }
            }
            HFError::Request { source, .. } if source.is_connect() => {
                away(format!("the Hub cannot be reached: {}", root(&source)))
            }
            HFError::Request { source, .. } => away(format!("the connection to the Hub broke: {}", root(&source))),
            HFError::Http { context } if context.status.is_server_error() => {
                away(format!("the Hub has a fault ({})", context.status))
            }
            HFError::Http { context } if context.status.as_u16() == 408 => {
                away("the Hub was too slow (408)".to_owned())
            }
            HFError::Xet { operation, source } => {
                away(format!("the xet {operation} failed: {}", root(source.as_ref())))
            }
            HFError::Io(error) => Failure::Other(disk(&error).at(super::cache_directory().display())),
            error => other(error.to_string(), NETWORK.to_owned()),
        }
    }

    /// What it means that the Hub said nothing for so long.
    pub(super) fn silent(&self, patience: Duration) -> Failure {
        let message = format!("the Hub said nothing for {} seconds", patience.as_secs());
        Failure::Silent(Error::run(message).at(self).hint(NETWORK))
    }
}

/// What it means that the cache cannot be written.
pub(super) fn disk(error: &std::io::Error) -> Error {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let hint = match error.kind() {
        StorageFull | QuotaExceeded => {
            "make room and try again (what has come is kept), or set HF_HOME to a place that has some"
        }
        FileTooLarge => {
            "this process may not write such large files (see `ulimit -f`, and what the file system can hold)"
        }
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
