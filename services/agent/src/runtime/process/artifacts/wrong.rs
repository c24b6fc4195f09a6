//! Downloads that had the wrong checksum: not made again before the server has something else, however often they are tried.
//!
//! In memory only: an agent that starts downloads once more.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use skerry_model::app::Artifact;
use tokio::time::Instant;

use super::super::error::failed;
use super::url_for_people;
use crate::runtime::RuntimeError;

/// How long a server is not asked again that does not say which content it has.
const AGAIN: Duration = Duration::from_secs(6 * 60 * 60);

/// By what a server tells one content from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Version {
    etag: Option<String>,
    modified: Option<String>,
}

impl Version {
    /// As an answer says it.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Self { etag: text(ETAG), modified: text(LAST_MODIFIED) }
    }

    /// The header that asks for any other content.
    pub(super) fn unless(&self) -> Option<(HeaderName, &str)> {
        let etag = self.etag.as_deref().map(|etag| (IF_NONE_MATCH, etag));
        etag.or_else(|| Some((IF_MODIFIED_SINCE, self.modified.as_deref()?)))
    }

    fn is_told(&self) -> bool {
        *self != Self::default()
    }
}

/// Content that had the wrong checksum.
#[derive(Debug, Clone)]
pub(super) struct Wrong {
    pub(super) url: String,
    /// The checksum that it had.
    found: String,
    pub(super) version: Version,
    at: Instant,
}

impl Wrong {
    /// What was downloaded just now.
    pub(super) fn new(artifact: &Artifact, found: String, version: Version) -> Self {
        Self { url: artifact.url.clone(), found, version, at: Instant::now() }
    }

    /// Whether the server need not be asked.
    pub(super) fn holds(&self) -> bool {
        !self.version.is_told() && self.at.elapsed() < AGAIN
    }

    /// The same each time: it is one event.
    pub(super) fn error(&self, artifact: &Artifact, transient: bool) -> RuntimeError {
        let url = url_for_people(&self.url);
        let again = if transient {
            String::new()
        } else if self.version.is_told() {
            "; it is downloaded again when the server has another one".to_owned()
        } else {
            format!("; it is downloaded again after {} h", AGAIN.as_secs() / 3600)
        };
        let message = format!("{url} has the SHA-256 {}, not {}{again}", self.found, artifact.sha256);
        failed("ChecksumMismatch", message, transient)
    }
}
