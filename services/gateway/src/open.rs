//! Opening a session: who may, what the store has of the node, and the record whose revision fences all that the session writes.

use std::time::{Duration, SystemTime};

use skerry_api::audit;
use skerry_identity::PeerCertificate;
use skerry_model::{Code, Fault, NodeRef};
use skerry_proto::gateway::v1::Hello;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_rpc::Peer;
use skerry_store::keys::Counted;
use skerry_store::{Act, Committed, Key, ReadError, StoreVersion, TermError, Txn, TxnError, Versioned};
use skerry_sync::{Assignment, OpenFailure, Opened, Version, merge};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::claims::is_plausible;
use crate::clock::jitter;
use crate::keys::{Key as NodeKey, is_out_of_time};
use crate::trust;

/// How long opening may take, beside waiting to be admitted.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a transaction that somebody else came before is tried again.
const ATTEMPTS_MAX: u32 = 5;
/// How long an agent stays away from a gateway that has as many sessions as it may.
const FULL_WAIT: Duration = Duration::from_secs(30);

/// A session that is in the store.
pub(crate) struct Session {
    pub(crate) opened: Opened,
    pub(crate) record: stored::SessionRecord,
    /// The revision at which the node's record was as it was looked at.
    pub(crate) node_revision: i64,
}

/// Puts the session of `hello` into the store, unless the agent is `gone` by then: a gateway that stood still finds hellos whose agents have
/// long opened a session elsewhere.
pub(crate) async fn open(
    shared: &Shared,
    peer: &Peer,
    node: &NodeRef,
    hello: &Hello,
    gone: &CancellationToken,
) -> Result<Session, OpenFailure> {
    admit_peer(peer, node)?;
    admit_time(shared, peer)?;
    if shared.live.len() > shared.config.sessions_max {
        return Err(OpenFailure::Overloaded { retry_after: FULL_WAIT + jitter(FULL_WAIT) });
    }
    match shared.admission.reserve(Instant::now()) {
        Ok(at) => tokio::time::sleep_until(at).await,
        Err(wait) => return Err(OpenFailure::Overloaded { retry_after: wait / 2 + jitter(wait) }),
    }
    let opening = async {
        for _ in 0..ATTEMPTS_MAX {
            match attempt(shared, peer, node, hello, gone).await? {
                Some(session) => return Ok(session),
                None => tokio::time::sleep(jitter(Duration::from_millis(20))).await,
            }
        }
        Err(OpenFailure::Unavailable("too many others write the session of this node".to_owned()))
    };
    tokio::time::timeout(DEADLINE, opening)
        .await
        .unwrap_or_else(|_| Err(OpenFailure::Unavailable("the store is too slow".to_owned())))
}

/// A peer speaks for its own node. Without TLS nobody has an identity, and the listener has decided whom it lets in.
fn admit_peer(peer: &Peer, node: &NodeRef) -> Result<(), OpenFailure> {
    match peer.identity() {
        None => Ok(()),
        Some(identity) if identity.node().as_ref() == Some(node) => Ok(()),
        Some(identity) => Err(OpenFailure::Denied(format!("{identity} may not speak for {node}"))),
    }
}

/// A certificate that is out of time renews, where there is somebody to renew it.
fn admit_time(shared: &Shared, peer: &Peer) -> Result<(), OpenFailure> {
    match &peer.certificate {
        Some(own) if is_out_of_time(own, SystemTime::now()) && !trust::has_authority(&shared.mirror) => {
            let who = &own.identity;
            Err(OpenFailure::Denied(format!(
                "the certificate of {who} is out of time: it must be issued anew, unless a clock is wrong"
            )))
        }
        _ => Ok(()),
    }
}

/// One try; nothing where somebody else came in between.
async fn attempt(
    shared: &Shared,
    peer: &Peer,
    node: &NodeRef,
    hello: &Hello,
    gone: &CancellationToken,
) -> Result<Option<Session>, OpenFailure> {
    let store = &shared.store;
    let node_key = Key::<stored::NodeRecord>::of(node);
    let session_key = Key::<stored::SessionRecord>::of(node);
    let status_key = Key::<stored::StatusRecord>::of(node);
    let assignment_key = Key::<stored::AssignmentRecord>::of(node);
    let (known, session, status, assignment) = tokio::try_join!(
        store.get(&node_key),
        store.get(&session_key),
        store.get(&status_key),
        store.get(&assignment_key),
    )
    .map_err(|error: ReadError| OpenFailure::Unavailable(error.to_string()))?;
    if let Some(held) = hello.version {
        check_term(shared, held.into(), assignment.as_ref()).await?;
    }
    // Read before the write: a term that is raised in between makes the session's version older than it is, and it is woken to see.
    let term = store.term();

    let record = stored::SessionRecord {
        gateway: shared.id.to_string(),
        open_time: Some(skerry_model::time::to_timestamp(SystemTime::now())),
        close_time: None,
        boot_id: hello.boot_id.clone(),
    };
    let mut txn = Txn::new()
        .when_unchanged(&session_key, session.map_or(0, |session| session.mod_revision))
        .put(&session_key, &record);
    let certificate = peer.certificate.as_deref();
    let has_authority = trust::has_authority(&shared.mirror);
    let mut node_revision = known.as_ref().map(|known| known.mod_revision);
    let node_uid = match known {
        Some(known) => {
            let key = node_key_of(node, certificate, &known.value, has_authority)?;
            txn = txn.when_same(&known);
            if let Some(seen) = key.seen(&known.value) {
                let act = act(peer, node, AuditOutcome::Updated).detail("it was seen with its new key");
                txn = txn.put(&node_key, &seen).audit(act);
                node_revision = None;
            }
            known.value.meta.unwrap_or_default().uid
        }
        // Where certificates are issued by enrolment, that is how a node is made: one that is gone took its key with it.
        None if shared.config.auto_register && (certificate.is_none() || !has_authority) => {
            let meta = stored::Meta {
                uid: uuid::Uuid::new_v4().to_string(),
                create_time: record.open_time,
                generation: 1,
                ..stored::Meta::default()
            };
            let uid = meta.uid.clone();
            let new = stored::NodeRecord { meta: Some(meta), ..stored::NodeRecord::default() };
            let act = act(peer, node, AuditOutcome::Created).detail("it connected, and was not known");
            txn = skerry_api::admit(store, &node.project, &[(Counted::Nodes, 1)], txn)
                .await
                .map_err(not_admitted)?
                .when_absent(&node_key)
                .put(&node_key, &new)
                .audit(act);
            uid
        }
        None => return Err(OpenFailure::UnknownNode(format!("{node} is not registered"))),
    };
    if gone.is_cancelled() {
        return Err(OpenFailure::Unavailable("the agent has gone".to_owned()));
    }
    let Committed { revision, .. } = match store.commit(txn).await {
        Ok(committed) => committed,
        // Of a try whose answer was lost the record says whether it happened; a second one takes over from it.
        Err(TxnError::Conflict(_) | TxnError::Indeterminate { .. }) => return Ok(None),
        Err(error) => return Err(OpenFailure::Unavailable(error.to_string())),
    };
    let status = status.map(|status| status.value);
    Ok(Some(Session {
        opened: Opened {
            epoch: Version::new(term, revision),
            node_uid,
            status_digest: status.as_ref().map(merge::status_digest).unwrap_or_default(),
            acknowledged: status.as_ref().and_then(merge::acknowledged_version),
            has_refused: status.as_ref().is_some_and(|status| !status.refused.is_empty()),
            reported: status.into_iter().flat_map(reported).collect(),
            assignment: assignment.map(|assignment| assignment_of(term, assignment)),
            renew_only: certificate.is_some_and(|own| is_out_of_time(own, SystemTime::now())),
            roots: certificate.and_then(|_| shared.trusted.roots(&shared.mirror)),
        },
        record,
        node_revision: node_revision.unwrap_or(revision),
    }))
}

/// The instances and images that a node was known to have.
fn reported(status: stored::StatusRecord) -> impl Iterator<Item = String> {
    let images = status.images.into_iter().map(|image| image.id);
    status.instances.into_iter().map(|instance| instance.instance).chain(images)
}

/// Why a new node is not made: its project is not there or full, or the store is away.
fn not_admitted(fault: Fault) -> OpenFailure {
    match fault.code {
        Code::NotFound | Code::ResourceExhausted | Code::FailedPrecondition => {
            OpenFailure::UnknownNode(fault.message)
        }
        _ => OpenFailure::Unavailable(fault.message),
    }
}

/// What the audit log says of a node that its own session makes or changes.
fn act(peer: &Peer, node: &NodeRef, outcome: AuditOutcome) -> Act {
    let method = "skerry.gateway.v1.SyncService/Sync";
    Act::new(audit::caller(peer), method, node.project.clone(), node.to_string(), outcome)
}

/// What the peer's key is to the node, if it is anything.
fn node_key_of(
    node: &NodeRef,
    certificate: Option<&PeerCertificate>,
    record: &stored::NodeRecord,
    has_authority: bool,
) -> Result<NodeKey, OpenFailure> {
    match NodeKey::of(certificate, record, has_authority) {
        NodeKey::Foreign => Err(OpenFailure::Revoked(format!(
            "the key of this certificate is not that of {node}: the machine must enrol anew"
        ))),
        key => Ok(key),
    }
}

/// A stored assignment as a version of the desired state.
pub(crate) fn assignment_of(term: u64, stored: Versioned<stored::AssignmentRecord>) -> Assignment {
    Assignment { version: Version::new(term, stored.mod_revision), record: stored.value.into() }
}

/// An agent that holds a newer version than the store has shows that the store is an older one: its term is raised.
async fn check_term(
    shared: &Shared,
    held: Version,
    assignment: Option<&Versioned<stored::AssignmentRecord>>,
) -> Result<(), OpenFailure> {
    if newer_than_the_store(shared, held, assignment).is_none() {
        return Ok(());
    }
    let turn = shared.claims.turn().await;
    // Whoever had the turn before has raised the term for all who come back after a restore.
    let Some(seen) = newer_than_the_store(shared, held, assignment) else { return Ok(()) };
    let stored = shared.mirror.snapshot().revision();
    if !is_plausible(held.revision, stored) {
        return Err(OpenFailure::Denied(format!(
            "it holds a version of revision {}; the store is at revision {stored}",
            held.revision
        )));
    }
    let now = Instant::now();
    turn.may_raise(now).map_err(|retry_after| OpenFailure::Overloaded { retry_after })?;
    let term = shared.store.term();
    match shared.store.raise_term(seen).await {
        Ok(raised) => {
            if raised > term {
                turn.raised(now);
                tracing::warn!(%held, term = raised, "an agent holds a newer version than the store: the store was restored");
            }
            Ok(())
        }
        Err(TermError::Implausible { claimed, stored }) => Err(OpenFailure::Denied(format!(
            "it holds a version of term {claimed}; the store is in term {stored}"
        ))),
        Err(error) => Err(OpenFailure::Unavailable(error.to_string())),
    }
}

/// What the store must have given out, if that is newer than what it is known to have.
fn newer_than_the_store(
    shared: &Shared,
    held: Version,
    assignment: Option<&Versioned<stored::AssignmentRecord>>,
) -> Option<StoreVersion> {
    let term = shared.store.term();
    if assignment.is_some_and(|stored| held > Version::new(term, stored.mod_revision)) {
        // Within a term the revision of a node's assignment never falls, so that term is over even if the store has counted on
        // beyond what the agent holds.
        return Some(StoreVersion { term: held.term, revision: i64::MAX });
    }
    let known = Version::new(term, shared.mirror.snapshot().revision());
    (held > known).then_some(StoreVersion { term: held.term, revision: held.revision })
}
