//! What reading and connecting can answer instead, and what callers of the API are told about it.

use std::sync::Arc;

use skerry_model::{Code, Fault};

use crate::config::InvalidTarget;
use crate::failure::{Failure, Outage};
use crate::record::{DecodeError, TooLarge};

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store did not answer in time. Trying again is safe.
    #[error("reading {what}: {outage}")]
    Unavailable {
        /// What was being read.
        what: String,
        /// The last failure.
        outage: Outage,
    },
    /// The revision asked for is compacted, or of a time that a restore undid: begin anew.
    #[error("reading {what} at revision {revision}: that revision is gone")]
    RevisionGone {
        /// What was being read.
        what: String,
        /// The revision asked for.
        revision: i64,
    },
    /// The page token is not one of this list.
    #[error("the page token does not belong to {what}")]
    ForeignToken {
        /// What was being listed.
        what: String,
    },
    /// What is stored is not what it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store said no.
    #[error("reading {what}: {reason}")]
    Refused {
        /// What was being read.
        what: String,
        /// The store's words.
        reason: String,
    },
}

impl ReadError {
    pub(crate) fn of(store: &Arc<str>, what: &str, revision: i64, failure: Failure) -> Self {
        let what = what.to_owned();
        match failure {
            Failure::Compacted | Failure::Future => Self::RevisionGone { what, revision },
            failure @ (Failure::NotSent(_) | Failure::Unclear(_) | Failure::Overloaded(_)) => {
                Self::Unavailable { what, outage: Outage::of(store, &failure) }
            }
            failure @ (Failure::AnswerTooLarge
            | Failure::Full(_)
            | Failure::LeaseGone
            | Failure::Refused(_)) => Self::Refused { what, reason: failure.to_string() },
        }
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        let message = error.to_string();
        match error {
            ReadError::Unavailable { what, outage } => {
                Fault::unavailable(format!("{}: try again", outage.plain(&what)))
            }
            ReadError::RevisionGone { .. } => Fault::version_gone(message),
            ReadError::ForeignToken { .. } => Fault::invalid_field("page_token", message),
            ReadError::Decode(_) | ReadError::Refused { .. } => Fault::internal(message),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The configuration does not say where the store is.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    /// Nothing answered in time.
    #[error("the store ({store}) {reason}")]
    Unavailable {
        /// Which, as `etcd at http://127.0.0.1:2379`.
        store: Arc<str>,
        /// In plain words, as `does not answer`.
        reason: String,
    },
    /// The store's term could not be settled.
    #[error("connecting to the store ({store}): {source}")]
    Term {
        /// Which, as `etcd at http://127.0.0.1:2379`.
        store: Arc<str>,
        /// Why not.
        source: TermError,
    },
}

/// Why the store's term could not be settled or raised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermError {
    /// The store did not answer in time.
    #[error("settling the store's term: the store {plain}: {detail}")]
    Unavailable {
        /// In plain words, as `does not answer`.
        plain: &'static str,
        /// What the transport said: for logs.
        detail: String,
    },
    /// Others changed it each time.
    #[error("settling the store's term: too many others do the same")]
    Contended,
    /// `meta/store` holds something else.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Somebody claims to have seen a term that cannot be.
    #[error("a term of {claimed} cannot be: the store is in term {stored}")]
    Implausible {
        /// What was claimed.
        claimed: u64,
        /// The store's term.
        stored: u64,
    },
    /// The store said no.
    #[error("settling the store's term: {0}")]
    Refused(String),
}

impl From<Failure> for TermError {
    fn from(failure: Failure) -> Self {
        if failure.is_passing() {
            Self::Unavailable { plain: failure.plain(), detail: failure.to_string() }
        } else {
            Self::Refused(failure.to_string())
        }
    }
}

impl From<TermError> for Fault {
    fn from(error: TermError) -> Self {
        let message = error.to_string();
        match error {
            TermError::Unavailable { plain, .. } => {
                tracing::debug!(%message, "the store failed");
                Fault::unavailable(format!("the store {plain}: try again"))
            }
            TermError::Contended => Fault::unavailable(message),
            TermError::Implausible { .. } => Fault::new(Code::InvalidArgument, "IMPLAUSIBLE_TERM", message),
            TermError::Decode(_) | TermError::Refused(_) => Fault::internal(message),
        }
    }
}

impl From<TooLarge> for Fault {
    fn from(error: TooLarge) -> Self {
        Fault::new(Code::InvalidArgument, "RECORD_TOO_LARGE", error.to_string())
            .with("bytes", error.bytes)
            .with("bytes_max", error.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::txn::TxnError;

    #[test]
    fn operators_are_told_which_store_and_nothing_of_the_transport() {
        let store: Arc<str> = "etcd at http://e:2379".into();
        let refused = Failure::NotSent("transport error: tcp connect error: os error 111".into());
        let read = Fault::from(ReadError::of(&store, "/skerry/v1/apps/p/a", 0, refused.clone()));
        assert_eq!(read.code, Code::Unavailable);
        assert_eq!(read.message, "the store (etcd at http://e:2379) cannot be reached: try again");
        let outage = Outage::of(&store, &Failure::Unclear("Unavailable: h2 protocol error".into()));
        let written = Fault::from(TxnError::Indeterminate { subject: "k".into(), outage: outage.clone() });
        assert_eq!(written.code, Code::DeadlineExceeded);
        assert_eq!(
            written.message,
            "the store (etcd at http://e:2379) does not answer: the change may have been made or not; it can be sent again"
        );
        assert!(outage.to_string().contains("h2 protocol error"), "logs keep it");
        let term = Fault::from(TermError::from(refused));
        assert_eq!(term.message, "the store cannot be reached: try again");
    }
}
