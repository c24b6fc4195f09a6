//! What a session asks of the store: to be opened, to be merged into, to be looked at, contents. As the gateway does it, down to which
//! compares a transaction makes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use skerry_model::{AppRef, ConfigRef, NodeRef, RevisionRef};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::{ConfigRevisionRef, EventSource};
use skerry_store::sans_io::{Evidence, Failure};
use skerry_store::{Key, StoreVersion, Versioned};
use skerry_sync::desired::{ResourceName, content_resource};
use skerry_sync::{Assignment, Change, OpenFailure, Opened, Version, merge};

use super::Planted;
use super::check::{Origin, session_of};
use super::gateway::{Gateway, path_of};
use super::txn::{Txn, TxnError};

/// How long opening may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// How often a transaction that somebody else came before is tried again.
const OPENS_MAX: u32 = 5;
const COMMITS_MAX: u32 = 3;

/// A session that is in the store.
pub(super) struct Session {
    pub(super) opened: Opened,
    pub(super) record: stored::SessionRecord,
}

/// What became of a commit.
pub(super) enum Outcome {
    Committed(bytes::Bytes),
    Failed(String),
    Over(Over),
}

/// Why a session is no longer its node's.
pub(super) enum Over {
    Superseded { boot_id: String },
    Deleted,
}

/// What a look at the store said.
pub(super) enum Look {
    Ours(Option<Assignment>),
    Over(Over),
    Failed,
}

/// Puts the session of `hello` into the store.
pub(super) async fn open(
    gateway: Rc<Gateway>,
    node: NodeRef,
    hello: pb::Hello,
) -> Result<Session, OpenFailure> {
    let process = &gateway.process;
    let opening = async {
        for _ in 0..OPENS_MAX {
            match attempt(&gateway, &node, &hello).await? {
                Some(session) => return Ok(session),
                None => process.sleep(process.sim.between_ms(0, 20)).await,
            }
        }
        Err(OpenFailure::Unavailable("too many others write the session of this node".to_owned()))
    };
    let opened = process.timeout(OPEN_DEADLINE, opening).await;
    opened.unwrap_or_else(|| Err(OpenFailure::Unavailable("the store is too slow".to_owned())))
}

fn unavailable(failure: &Failure) -> OpenFailure {
    OpenFailure::Unavailable(failure.to_string())
}

async fn attempt(
    gateway: &Gateway,
    node: &NodeRef,
    hello: &pb::Hello,
) -> Result<Option<Session>, OpenFailure> {
    let client = &gateway.client;
    let node_key = Key::<stored::NodeRecord>::of(node);
    let session_key = Key::<stored::SessionRecord>::of(node);
    let status_key = Key::<stored::StatusRecord>::of(node);
    let assignment_key = Key::<stored::AssignmentRecord>::of(node);
    let (known, session, status, assignment) = tokio::try_join!(
        client.get(&node_key),
        client.get(&session_key),
        client.get(&status_key),
        client.get(&assignment_key),
    )
    .map_err(|failure| unavailable(&failure))?;
    if let Some(held) = hello.version {
        check_term(gateway, held.into(), assignment.as_ref()).await?;
    }
    let term = client.term();
    let mut opened_at = gateway.process.now().wall.to_proto();
    // Sets this record apart from all others, for the checks.
    opened_at.nanos = i32::try_from(gateway.process.sim.unique()).unwrap_or(i32::MAX);
    let record = stored::SessionRecord {
        gateway: gateway.id.to_string(),
        open_time: Some(opened_at),
        close_time: None,
        boot_id: hello.boot_id.clone(),
    };
    let mut txn = Txn::new()
        .when_unchanged(&session_key, session.map_or(0, |session| session.mod_revision))
        .put(&session_key, &record);
    let node_uid = if let Some(known) = known {
        txn = txn.when_unchanged(&node_key, known.mod_revision);
        known.value.meta.unwrap_or_default().uid
    } else {
        let uid = format!("uid-{}", gateway.process.sim.unique());
        let meta = stored::Meta { uid: uid.clone(), generation: 1, ..stored::Meta::default() };
        let new = stored::NodeRecord { meta: Some(meta), ..stored::NodeRecord::default() };
        txn = txn.when_absent(&node_key).put(&node_key, &new);
        uid
    };
    let revision = match client.commit(txn, Origin::Other).await {
        Ok(revision) => revision,
        Err(TxnError::Conflict(..) | TxnError::Indeterminate) => return Ok(None),
        Err(TxnError::Unavailable | TxnError::LeaseLost) => {
            return Err(OpenFailure::Unavailable("the store is away".to_owned()));
        }
    };
    let status = status.map(|status| status.value);
    Ok(Some(Session {
        opened: Opened {
            epoch: Version::new(term, revision),
            node_uid,
            status_digest: status.as_ref().map(merge::status_digest).unwrap_or_default(),
            acknowledged: status.as_ref().and_then(merge::acknowledged_version),
            has_refused: status.as_ref().is_some_and(|status| !status.refused.is_empty()),
            reported: status.into_iter().flat_map(|s| s.instances).map(|i| i.instance).collect(),
            assignment: assignment.map(|assignment| assignment_of(term, assignment)),
            renew_only: false,
            roots: None,
        },
        record,
    }))
}

fn assignment_of(term: u64, stored: Versioned<stored::AssignmentRecord>) -> Assignment {
    Assignment { version: Version::new(term, stored.mod_revision), record: stored.value.into() }
}

/// An agent that holds a newer version than the store has shows that the store is an older one.
async fn check_term(
    gateway: &Gateway,
    held: Version,
    assignment: Option<&Versioned<stored::AssignmentRecord>>,
) -> Result<(), OpenFailure> {
    let term = gateway.client.term();
    let behind = assignment.is_some_and(|stored| held > Version::new(term, stored.mod_revision));
    let known = Version::new(term, gateway.mirror.revision());
    let revision = if behind {
        i64::MAX
    } else if held > known {
        held.revision
    } else {
        return Ok(());
    };
    let seen = StoreVersion { term: held.term, revision };
    gateway.client.settle(Evidence::Seen(seen)).await.map(drop).map_err(|failure| unavailable(&failure))
}

/// Merges `change` into status and events, as long as the session has `epoch`.
pub(super) async fn commit(
    gateway: Rc<Gateway>,
    node: NodeRef,
    epoch: Version,
    record: stored::SessionRecord,
    change: Arc<Change>,
) -> Outcome {
    let client = &gateway.client;
    let status_key = Key::<stored::StatusRecord>::of(&node);
    let events_key = Key::<stored::EventsRecord>::of(&EventSource::Node(node.clone()));
    let session_key = Key::<stored::SessionRecord>::of(&node);
    for _ in 0..COMMITS_MAX {
        let (status, events) = match tokio::try_join!(client.get(&status_key), client.get(&events_key)) {
            Ok(read) => read,
            Err(failure) => return Outcome::Failed(failure.to_string()),
        };
        let (status_revision, status) = status.map_or((0, None), |r| (r.mod_revision, Some(r.value)));
        let (events_revision, events) = events.map_or((0, None), |r| (r.mod_revision, Some(r.value)));
        let status = status.unwrap_or_default();
        let merged = merge::merge(&status, &events.unwrap_or_default(), &change);
        let digest = merge::status_digest(merged.status.as_ref().unwrap_or(&status));
        let mut txn = Txn::new();
        if !gateway.process.sim.planted(Planted::EpochNotCompared) {
            txn = txn.when_written(&session_key, epoch.revision, &record);
        }
        if let Some(status) = &merged.status {
            txn = txn.when_unchanged(&status_key, status_revision).put(&status_key, status);
        }
        if let Some(events) = &merged.events {
            txn = txn.when_unchanged(&events_key, events_revision).put(&events_key, events);
        }
        if txn.is_empty() {
            return Outcome::Committed(digest);
        }
        let origin = Origin::Commit { node: path_of(&node), session: session_of(&record) };
        match client.commit(txn, origin).await {
            Ok(_) => return Outcome::Committed(digest),
            Err(TxnError::Conflict(_, seen)) => match seen.get(session_key.as_str()) {
                Some(None) => return Outcome::Over(Over::Deleted),
                Some(Some(newer)) => match newer.decode::<stored::SessionRecord>() {
                    Ok(newer) if newer.mod_revision != epoch.revision || newer.value != record => {
                        return Outcome::Over(Over::Superseded { boot_id: newer.value.boot_id });
                    }
                    Ok(_) => {}
                    Err(error) => return Outcome::Failed(error.to_string()),
                },
                None => {}
            },
            Err(error) => return Outcome::Failed(format!("{error:?}")),
        }
    }
    Outcome::Failed("the node's status is being written by somebody else".to_owned())
}

/// What the mirrored keys suggest that a session should read: its record, its assignment.
pub(super) fn suspicion(
    gateway: &Gateway,
    node: &NodeRef,
    epoch: Version,
    assignment: Option<Version>,
) -> (bool, bool) {
    let mirror = &gateway.mirror;
    let session = mirror.mod_revision(&Key::<stored::SessionRecord>::of(node));
    let known = mirror.mod_revision(&Key::<stored::NodeRecord>::of(node));
    let assigned = mirror.mod_revision(&Key::<stored::AssignmentRecord>::of(node));
    let term = mirror.term().max(epoch.term);
    (
        known.is_none() || session.is_none_or(|session| session > epoch.revision),
        assigned.is_some_and(|assigned| Some(Version::new(term, assigned)) > assignment),
    )
}

/// Reads what is suspected.
pub(super) async fn look(
    gateway: Rc<Gateway>,
    node: NodeRef,
    epoch: Version,
    ours: stored::SessionRecord,
    suspected: (bool, bool),
) -> Look {
    let client = &gateway.client;
    if suspected.0 {
        match client.get(&Key::<stored::SessionRecord>::of(&node)).await {
            Err(_) => return Look::Failed,
            Ok(None) => return Look::Over(Over::Deleted),
            Ok(Some(session)) if session.mod_revision != epoch.revision || session.value != ours => {
                return Look::Over(Over::Superseded { boot_id: session.value.boot_id });
            }
            Ok(Some(_)) => {}
        }
    }
    if !suspected.1 {
        return Look::Ours(None);
    }
    match client.get(&Key::<stored::AssignmentRecord>::of(&node)).await {
        Ok(found) => Look::Ours(found.map(|found| assignment_of(client.term(), found))),
        Err(_) => Look::Failed,
    }
}

/// Contents by resource name, and the names of those that the store does not have.
pub(super) async fn load(
    gateway: Rc<Gateway>,
    node: NodeRef,
    names: Vec<String>,
) -> Result<(Vec<pb::Resource>, Vec<String>), Failure> {
    let (mut resources, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let cached = gateway.contents.borrow().get(&name).cloned();
        let resource = match cached {
            Some(resource) => Some(resource),
            None => read(&gateway, &node, &name).await?,
        };
        match resource {
            Some(resource) => {
                gateway.contents.borrow_mut().insert(name, resource.clone());
                resources.push(resource);
            }
            None => missing.push(name),
        }
    }
    Ok((resources, missing))
}

async fn read(gateway: &Gateway, node: &NodeRef, text: &str) -> Result<Option<pb::Resource>, Failure> {
    let Some(name) = ResourceName::parse(text) else { return Ok(None) };
    let project = node.project.clone();
    let bytes = match &name {
        ResourceName::Instance(_)
        | ResourceName::Secret { .. }
        | ResourceName::Peers(_)
        | ResourceName::Image(_) => None,
        ResourceName::Revision { app, hash } => {
            let app = AppRef { project, app: app.clone() };
            let key = Key::<stored::RevisionRecord>::of(&RevisionRef { app, hash: *hash });
            gateway.client.get(&key).await?.map(|record| record.value.spec)
        }
        ResourceName::Config { config, hash } => {
            let config = ConfigRef { project, config: config.clone() };
            let key = Key::<stored::ConfigRevisionRecord>::of(&ConfigRevisionRef { config, hash: *hash });
            gateway.client.get(&key).await?.map(|record| record.value.spec)
        }
    };
    Ok(bytes.and_then(|bytes| content_resource(&name, bytes, Vec::new())))
}
