//! Merging what an agent said into the store, fenced by its session; and looking whether the session is still the node's.

use bytes::Bytes;
use skerry_identity::PeerCertificate;
use skerry_model::NodeRef;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::EventSource;
use skerry_store::{Key, Txn, TxnError};
use skerry_sync::{Assignment, Change, Version, merge};

use crate::Shared;
use crate::keys::Key as NodeKey;
use crate::open::assignment_of;
use crate::trust;

/// How often a commit that somebody else came before is merged anew.
const ATTEMPTS_MAX: u32 = 3;

/// What became of a commit.
pub(crate) enum Outcome {
    /// It is in the store, with this digest of the status.
    Committed(Bytes),
    /// It is not, or nobody knows.
    Failed(String),
    /// The session is over.
    Over(Over),
}

/// Why a session is no longer its node's.
#[derive(Debug, Clone)]
pub(crate) enum Over {
    /// A newer session, of this boot.
    Superseded {
        /// The boot of the newer one.
        boot_id: String,
    },
    /// The node was deleted.
    Deleted,
    /// The key that the peer proved is not the node's any more.
    Revoked,
}

/// Merges `change` into status and events of `node`, as long as its session is the one that wrote `session` at `epoch`.
pub(crate) async fn commit(
    shared: &Shared,
    node: &NodeRef,
    epoch: Version,
    session: &stored::SessionRecord,
    change: &Change,
) -> Outcome {
    let status_key = Key::<stored::StatusRecord>::of(node);
    let events_key = Key::<stored::EventsRecord>::of(&EventSource::Node(node.clone()));
    let session_key = Key::<stored::SessionRecord>::of(node);
    for _ in 0..ATTEMPTS_MAX {
        let read = tokio::try_join!(shared.store.get(&status_key), shared.store.get(&events_key));
        let (status, events) = match read {
            Ok(read) => read,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let (status_revision, status) = status.map_or((0, None), |r| (r.mod_revision, Some(r.value)));
        let (events_revision, events) = events.map_or((0, None), |r| (r.mod_revision, Some(r.value)));
        let status = status.unwrap_or_default();
        let merged = merge::merge(&status, &events.unwrap_or_default(), change);

        let digest = merge::status_digest(merged.status.as_ref().unwrap_or(&status));
        let mut txn = Txn::new().when_written(&session_key, epoch.revision, session);
        if let Some(status) = &merged.status {
            txn = txn.when_unchanged(&status_key, status_revision).put(&status_key, status);
        }
        if let Some(events) = &merged.events {
            txn = txn.when_unchanged(&events_key, events_revision).put(&events_key, events);
        }
        if txn.is_empty() {
            return Outcome::Committed(digest);
        }
        match shared.store.commit(txn).await {
            Ok(_) => return Outcome::Committed(digest),
            Err(TxnError::Conflict(conflict)) if conflict.failed(&session_key) => {
                return match conflict.found(&session_key) {
                    Ok(Some(newer)) => Outcome::Over(Over::Superseded { boot_id: newer.value.boot_id }),
                    Ok(None) => Outcome::Over(Over::Deleted),
                    Err(error) => Outcome::Failed(error.to_string()),
                };
            }
            Err(TxnError::Conflict(_)) => {}
            Err(error) => return Outcome::Failed(error.to_string()),
        }
    }
    Outcome::Failed("the node's status is being written by somebody else".to_owned())
}

/// What a look at the store said.
pub(crate) enum Look {
    /// The session is still the node's.
    Ours {
        /// The assignment, where it was read.
        assignment: Option<Assignment>,
        /// At which revision the node's record was looked at, where it was.
        node_revision: Option<i64>,
    },
    /// It is over.
    Over(Over),
    /// The store did not answer.
    Failed(String),
}

/// What the mirrored keys suggest that a session should read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Suspicion {
    /// The session's record is another one, or the node is gone.
    pub(crate) session: bool,
    /// The assignment is newer.
    pub(crate) assignment: bool,
    /// The node's record is newer: its key may be another one.
    pub(crate) node: bool,
}

/// What a session knows of the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) epoch: Version,
    pub(crate) assignment: Option<Version>,
    pub(crate) node_revision: i64,
}

impl Suspicion {
    /// Compares the mirrored keys with what the session knows. A mirror lags for moments, so it is never the last word.
    pub(crate) fn of(shared: &Shared, node: &NodeRef, seen: Seen) -> Self {
        let Seen { epoch, assignment, node_revision } = seen;
        let snapshot = shared.mirror.snapshot();
        let revision =
            |entry: Option<&std::sync::Arc<skerry_store::Entry>>| entry.map(|entry| entry.mod_revision);
        let session = revision(snapshot.entry(&Key::<stored::SessionRecord>::of(node)));
        let known = revision(snapshot.entry(&Key::<stored::NodeRecord>::of(node)));
        let assigned = revision(snapshot.entry(&Key::<stored::AssignmentRecord>::of(node)));
        let term = snapshot.term().max(epoch.term);
        Self {
            session: known.is_none() || session.is_none_or(|session| session > epoch.revision),
            assignment: assigned.is_some_and(|assigned| Some(Version::new(term, assigned)) > assignment),
            node: known.is_some_and(|known| known > node_revision),
        }
    }

    /// Whether there is nothing to read.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Reads what is suspected.
pub(crate) async fn look(
    shared: &Shared,
    node: &NodeRef,
    (epoch, ours): (Version, &stored::SessionRecord),
    certificate: Option<&PeerCertificate>,
    suspicion: Suspicion,
) -> Look {
    if suspicion.session {
        let session = match shared.store.get(&Key::<stored::SessionRecord>::of(node)).await {
            Ok(session) => session,
            Err(error) => return Look::Failed(error.to_string()),
        };
        match session {
            None => return Look::Over(Over::Deleted),
            Some(session) if session.mod_revision != epoch.revision || session.value != *ours => {
                return Look::Over(Over::Superseded { boot_id: session.value.boot_id });
            }
            Some(_) => {}
        }
    }
    let mut node_revision = None;
    if suspicion.node {
        let found = match shared.store.get(&Key::<stored::NodeRecord>::of(node)).await {
            Ok(Some(found)) => found,
            Ok(None) => return Look::Over(Over::Deleted),
            Err(error) => return Look::Failed(error.to_string()),
        };
        let has_authority = trust::has_authority(&shared.mirror);
        if NodeKey::of(certificate, &found.value, has_authority) == NodeKey::Foreign {
            return Look::Over(Over::Revoked);
        }
        node_revision = Some(found.mod_revision);
    }
    let mut assignment = None;
    if suspicion.assignment {
        match shared.store.get(&Key::<stored::AssignmentRecord>::of(node)).await {
            Ok(found) => assignment = found.map(|found| assignment_of(shared.store.term(), found)),
            Err(error) => return Look::Failed(error.to_string()),
        }
    }
    Look::Ours { assignment, node_revision }
}
