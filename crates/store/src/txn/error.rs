//! What a transaction can answer instead of having happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_model::{Code, Fault};

use crate::failure::Outage;
use crate::keys::{Key, Record};
use crate::record::{DecodeError, Entry, TooLarge, Versioned};

/// What was found where something else was expected. Read in the transaction itself, so it is what the compares saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The revision at which the compares were made.
    pub revision: i64,
    /// Keys whose compare failed. At least one.
    pub(crate) failed: Vec<Arc<str>>,
    /// What is at the compared keys.
    pub(crate) found: BTreeMap<Arc<str>, Option<Seen>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) entry: Entry,
    /// The values of all compared keys might not have fit into one answer: this one was left out.
    pub(crate) without_value: bool,
}

impl Conflict {
    /// Whether the compare of `key` failed.
    pub fn failed<R>(&self, key: &Key<R>) -> bool {
        self.failed.iter().any(|failed| **failed == *key.as_str())
    }

    /// The keys whose compare failed.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.failed.iter().map(|key| &**key)
    }

    /// Whether there is something at `key`, which was compared, and when it was last written. 0: nothing.
    pub fn mod_revision<R>(&self, key: &Key<R>) -> i64 {
        self.seen(key).map_or(0, |seen| seen.entry.mod_revision)
    }

    /// What is at `key`, which was compared. `None`: nothing, or it was too large to be read along: see
    /// [`Conflict::mod_revision`], and read it.
    pub fn found<R: Record>(&self, key: &Key<R>) -> Result<Option<Versioned<R>>, DecodeError> {
        self.seen(key).filter(|seen| !seen.without_value).map(|seen| seen.entry.decode()).transpose()
    }

    fn seen<R>(&self, key: &Key<R>) -> Option<&Seen> {
        self.found.get(key.as_str())?.as_ref()
    }
}

/// Why a transaction has not happened, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// A key was not what was expected. Nothing happened.
    #[error("`{}` was changed by somebody else", .0.failed.first().map_or("", |key| key))]
    Conflict(Box<Conflict>),
    /// The same request was answered before. Nothing happened now.
    #[error("the request was answered before, with {resource}")]
    Repeated {
        /// What it made or changed then.
        resource: String,
    },
    /// The request id belongs to another request. Nothing happened.
    #[error("the request id `{request_id}` was used for another request")]
    RequestIdReused {
        /// The id.
        request_id: String,
    },
    /// Somebody else leads. Nothing happened.
    #[error("the leadership of `{key}` is lost")]
    Deposed {
        /// What was led.
        key: Arc<str>,
    },
    /// No answer came: it may or may not have happened. Read again before trying again.
    #[error("writing `{subject}`: it may have happened: {outage}")]
    Indeterminate {
        /// The first key that it writes.
        subject: Arc<str>,
        /// The failure.
        outage: Outage,
    },
    /// The store could not be reached or takes nothing. Nothing happened.
    #[error("writing `{subject}`: {outage}")]
    Unavailable {
        /// The first key that it writes.
        subject: Arc<str>,
        /// The failure.
        outage: Outage,
    },
    /// The lease of a key is lost. Nothing happened.
    #[error("writing `{key}`: its lease is lost")]
    LeaseLost {
        /// The key, or the first of several.
        key: Arc<str>,
    },
    /// A value is larger than its family allows.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// More operations, or more compares, than one transaction may have.
    #[error("a transaction of {operations} operations: at most {operations_max} are allowed")]
    TooManyOperations {
        /// How many it has.
        operations: usize,
        /// How many it may have.
        operations_max: usize,
    },
    /// More bytes than one transaction may have.
    #[error("a transaction of {bytes} bytes: at most {bytes_max} are allowed")]
    TooManyBytes {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        bytes_max: usize,
    },
    /// A key would be written twice.
    #[error("a transaction writes `{key}` twice")]
    KeyTwice {
        /// The key.
        key: Arc<str>,
    },
    /// It changes what never changes without a record in the audit log, and has none: a defect of who made it.
    #[error("writing `{key}` without a record in the audit log")]
    Unaudited {
        /// The key.
        key: Arc<str>,
    },
    /// The chain of the audit log moved under it again and again. Nothing happened.
    #[error("writing `{subject}`: the chain of the audit log moved again and again: try again")]
    AuditContended {
        /// The first key that it writes.
        subject: Arc<str>,
    },
    /// A compared record does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store has no room left. Nothing happened.
    #[error("writing `{subject}`: {outage}")]
    Full {
        /// The first key that it writes.
        subject: Arc<str>,
        /// The failure.
        outage: Outage,
    },
    /// The store said no. Nothing happened.
    #[error("writing `{subject}`: {reason}")]
    Refused {
        /// The first key that it writes.
        subject: Arc<str>,
        /// The store's words.
        reason: String,
    },
}

impl TxnError {
    /// The conflict, if it is one.
    pub fn conflict(&self) -> Option<&Conflict> {
        match self {
            Self::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }

    /// Whether it is certain that nothing was written.
    pub fn nothing_happened(&self) -> bool {
        !matches!(self, Self::Indeterminate { .. })
    }
}

impl From<TxnError> for Fault {
    fn from(error: TxnError) -> Self {
        let message = error.to_string();
        match error {
            TxnError::Conflict(conflict) => Fault::contended(conflict.failed.first().map_or("", |key| key)),
            TxnError::Repeated { resource } => {
                Fault::new(Code::AlreadyExists, "REQUEST_REPEATED", message).with("resource", resource)
            }
            TxnError::RequestIdReused { .. } => Fault::invalid_field("request_id", message),
            TxnError::Deposed { .. } => Fault::new(Code::Unavailable, "LEADERSHIP_LOST", message),
            TxnError::Indeterminate { subject, outage } => {
                let plain = outage.plain(&subject);
                let message = format!("{plain}: the change may have been made or not; it can be sent again");
                Fault::new(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", message)
            }
            TxnError::Unavailable { subject, outage } => {
                Fault::unavailable(format!("{}: try again", outage.plain(&subject)))
            }
            TxnError::LeaseLost { .. } | TxnError::AuditContended { .. } => Fault::unavailable(message),
            TxnError::TooLarge(error) => error.into(),
            TxnError::TooManyOperations { .. } | TxnError::TooManyBytes { .. } => {
                Fault::new(Code::ResourceExhausted, "TRANSACTION_TOO_LARGE", message)
            }
            TxnError::Full { subject, outage } => {
                let message = format!("{}: nothing was changed", outage.plain(&subject));
                Fault::new(Code::ResourceExhausted, "STORE_FULL", message)
            }
            TxnError::Unaudited { .. }
            | TxnError::KeyTwice { .. }
            | TxnError::Decode(_)
            | TxnError::Refused { .. } => Fault::internal(message),
        }
    }
}
