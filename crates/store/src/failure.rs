//! What can go wrong in one call to etcd, sorted by the one question that matters: may it have happened?
//!
//! What etcd or the transport said is kept for logs ([`std::fmt::Display`]); [`Failure::plain`] is what operators are told.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection: nothing happened.
    #[error("no connection: {0}")]
    NotSent(String),
    /// No answer, or none that tells: it may have happened.
    #[error("no answer: {0}")]
    Unclear(String),
    /// The store cannot take more at present: nothing happened.
    #[error("the store is overloaded: {0}")]
    Overloaded(String),
    /// The store has no room left: nothing happened.
    #[error("the store is full: {0}")]
    Full(String),
    /// The revision asked for is compacted.
    #[error("the revision is compacted")]
    Compacted,
    /// The revision asked for is not there yet: the store is an older one than the caller knew.
    #[error("the revision lies in the future")]
    Future,
    /// The answer is larger than is taken: ask for less.
    #[error("the answer is too large")]
    AnswerTooLarge,
    /// There is no such lease: nothing happened.
    #[error("no such lease")]
    LeaseGone,
    /// Any other no: nothing happened.
    #[error("refused: {0}")]
    Refused(String),
}

impl Failure {
    /// As in "the store does not answer": for people who know nothing of how the store is reached.
    pub(crate) fn plain(&self) -> &'static str {
        match self {
            // As rustls and its peers word it: "invalid peer certificate", "certificate required".
            Self::NotSent(detail) if detail.to_ascii_lowercase().contains("certificate") => {
                "is not reached by TLS, because a certificate is not as it should be (--etcd-ca, --etcd-cert, --etcd-key; the log says more at debug level)"
            }
            Self::NotSent(_) => "cannot be reached",
            Self::Unclear(_) => "does not answer",
            Self::Overloaded(_) => "is overloaded",
            Self::Full(_) => "has no room left",
            Self::Compacted => "no longer has that revision",
            Self::Future => "does not have that revision",
            Self::AnswerTooLarge => "would answer with more than is taken",
            Self::LeaseGone => "no longer has the lease",
            Self::Refused(_) => "refused it",
        }
    }

    /// Whether the same read may succeed soon.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Unclear(_) | Self::Overloaded(_))
    }
}

/// The store gave no answer, or takes nothing at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    store: Arc<str>,
    plain: &'static str,
    detail: String,
}

impl Outage {
    pub(crate) fn of(store: &Arc<str>, failure: &Failure) -> Self {
        Self { store: Arc::clone(store), plain: failure.plain(), detail: failure.to_string() }
    }

    /// As in "the store (etcd at http://127.0.0.1:2379) does not answer": what operators are told. What the transport said goes to
    /// the debug log of `doing`, when this is asked for.
    pub fn plain(&self, doing: &str) -> String {
        tracing::debug!(store = %self.store, doing, detail = %self.detail, "the store failed");
        format!("the store ({}) {}", self.store, self.plain)
    }
}

/// With what the transport said: for logs.
impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store ({}) {}: {}", self.store, self.plain, self.detail)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::GRpcStatus(status) => from_status(&status),
            Error::TransportError(error) => Self::NotSent(chain(&error)),
            Error::LeaseKeepAliveError(text) if text.contains("lease not found") => Self::LeaseGone,
            other @ (Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::EndpointsNotManaged) => {
                Self::Refused(other.to_string())
            }
            other => Self::Unclear(other.to_string()),
        }
    }
}

fn from_status(status: &Status) -> Failure {
    let message = status.message();
    match status.code() {
        _ if is_connect_error(status) => Failure::NotSent(chain(status)),
        Code::OutOfRange if message.contains("compacted") => Failure::Compacted,
        Code::OutOfRange if message.contains("future revision") => Failure::Future,
        Code::OutOfRange if message.contains("message length too large") => Failure::AnswerTooLarge,
        Code::NotFound if message.contains("lease not found") => Failure::LeaseGone,
        Code::ResourceExhausted if message.contains("space exceeded") => Failure::Full(message.to_owned()),
        Code::ResourceExhausted => Failure::Overloaded(message.to_owned()),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::OutOfRange => Failure::Refused(message.to_owned()),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Failure::Unclear(format!("{:?}: {message}", status.code())),
    }
}

fn is_connect_error(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The error and what caused it: the outermost is often only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, message: &str) -> Failure {
        Failure::from(Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn etcd_s_words_are_told_apart() {
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(of(Code::OutOfRange, compacted), Failure::Compacted);
        assert_eq!(
            of(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            Failure::Future
        );
        assert_eq!(of(Code::NotFound, "etcdserver: requested lease not found"), Failure::LeaseGone);
        assert!(matches!(
            of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            Failure::Full(_)
        ));
        assert!(matches!(
            of(Code::ResourceExhausted, "etcdserver: too many requests"),
            Failure::Overloaded(_)
        ));
        assert!(matches!(
            of(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            Failure::Refused(_)
        ));
    }

    #[test]
    fn whatever_does_not_say_no_may_have_happened() {
        for code in
            [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded, Code::Internal]
        {
            assert!(matches!(of(code, "etcdserver: request timed out"), Failure::Unclear(_)), "{code:?}");
        }
    }
}
