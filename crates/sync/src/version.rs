//! The version of a node's desired state, which is also how a session's epoch is counted.

use std::fmt;

use skerry_proto::gateway::v1 as pb;

/// Ordered by the store's term, then by its revision. Never counted by us: it is the modification revision of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// Raised when the store was restored from a backup.
    pub term: u64,
    /// Modification revision of the record.
    pub revision: i64,
}

impl Version {
    /// A version from its parts.
    pub const fn new(term: u64, revision: i64) -> Self {
        Self { term, revision }
    }
}

impl From<pb::Version> for Version {
    fn from(version: pb::Version) -> Self {
        Self { term: version.store_term, revision: version.revision }
    }
}

impl From<Version> for pb::Version {
    fn from(version: Version) -> Self {
        Self { store_term: version.term, revision: version.revision }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.revision)
    }
}
