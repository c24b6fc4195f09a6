//! Roles, and who knows who has which.

use std::fmt;
use std::sync::Arc;

use skerry_identity::KeyId;
use skerry_model::{Grant, ProjectName, UserRef};
use tokio::sync::watch;

/// What a user may do in a project. Each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Get, list, watch.
    Viewer,
    /// Change what runs.
    Operator,
    /// Decide who is in.
    Admin,
}

impl Role {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who knows the users of an installation and their roles. Answers from memory: it is asked with each call.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Whether there is that user, and the key is one of those that count.
    fn knows(&self, user: &UserRef, key: &KeyId) -> bool;

    /// The user's highest role in `project`, one in project `system` included.
    fn role(&self, user: &UserRef, project: &ProjectName) -> Option<Role>;

    /// All roles of the user, each project's highest. What holds everywhere is under `system`.
    fn roles(&self, user: &UserRef) -> Vec<(ProjectName, Role)>;

    /// The grants of the user, those of its groups included, and perhaps some that have expired.
    fn grants(&self, user: &UserRef) -> Arc<[Grant]>;

    /// Changes whenever an answer may have become another: streams that are open are then judged anew.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Knows nobody: what a server has that was not told whom to ask.
#[derive(Debug)]
pub(crate) struct KnowsNobody(watch::Sender<u64>);

impl KnowsNobody {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Authorizer for KnowsNobody {
    fn knows(&self, _: &UserRef, _: &KeyId) -> bool {
        false
    }

    fn role(&self, _: &UserRef, _: &ProjectName) -> Option<Role> {
        None
    }

    fn roles(&self, _: &UserRef) -> Vec<(ProjectName, Role)> {
        Vec::new()
    }

    fn grants(&self, _: &UserRef) -> Arc<[Grant]> {
        Arc::default()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
