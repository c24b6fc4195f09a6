//! Letting machines in: reads the records, asks `decide`, issues, and writes all that changes in one transaction; again when somebody else was
//! faster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_api::{Caused, Tries};
use skerry_identity::PublicKey;
use skerry_identity::token::Token;
use skerry_model::{Code, Fault, NodeName, NodeRef, ProjectName, time};
use skerry_proto::gateway::v1 as pb;
use skerry_proto::gateway::v1::enroll_response::Outcome;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_proto::types::v1::event::Severity;
use skerry_store::keys::{Counted, EnrollmentKey, EnrollmentName, EventSource, TokenId, TokenName};
use skerry_store::{Act, Key, Prefix, Store, Txn, TxnError, Versioned};

use super::asked::Asked;
use super::decide::{
    By, Grant, Keys, Refusal, Refused, admit, annotations_of, authenticate, has_key, labels_of,
    name_by_token, same_sealing_key, settle, token_refused,
};
use super::lease::{Leases, REMEMBERED};
use super::renew;
use super::room::Room;
use super::told::Ring;
use crate::authority::Issuer;
use crate::follow::Shared;
use crate::nodes::Nodes;

/// A machine that waits asks again after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// One second more for each so many that wait: what they ask costs a write each.
const WAITING_PER_SECOND: usize = 50;

/// Lets machines in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Enroller {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Store,
    pub(super) issuer: Issuer,
    /// For showing what was made.
    pub(super) nodes: Nodes,
    leases: Arc<Leases>,
    /// How often each node renews.
    pub(super) renewals: Arc<skerry_rpc::Rate<NodeRef>>,
}

/// What one try came to; nothing where somebody else came in between.
type Tried<T> = Result<Option<T>, Fault>;

impl Enroller {
    pub(crate) fn new(shared: Arc<Shared>, store: Store, issuer: Issuer, nodes: Nodes) -> Self {
        let renewals = Arc::new(skerry_rpc::Rate::new(renew::BURST, renew::EARNED_IN, renew::NODES_MAX));
        Self { shared, store, issuer, nodes, leases: Arc::default(), renewals }
    }

    /// Answers a machine.
    pub(super) async fn enrol(&self, asked: &Asked, caused: &Caused) -> Result<pb::EnrollResponse, Fault> {
        // Before anything is looked up or used up.
        self.issuer.roots()?;
        let mut tries = Tries::default();
        loop {
            let tried = match &asked.token {
                Some(token) => self.by_token(asked, token, caused).await?,
                None => self.by_approval(asked, caused).await?,
            };
            if let Some(outcome) = tried {
                return Ok(pb::EnrollResponse { outcome: Some(outcome) });
            }
            tries.again(&"the enrolment").await?;
        }
    }

    async fn by_token(&self, asked: &Asked, token: &Token, caused: &Caused) -> Tried<Outcome> {
        let Some(name) = self.token_name(asked, token) else {
            return Err(self.refuse(asked, token, None, Refusal::Unknown).await);
        };
        let read = self.store.get(&Key::<stored::TokenRecord>::of(&name)).await?;
        if let Err(refusal) = authenticate(token, read.as_ref().map(|read| &read.value)) {
            return Err(self.refuse(asked, token, None, refusal).await);
        }
        let read = read.expect("an authentic token has a record");
        if asked.project.as_ref().is_some_and(|project| *project != name.project) {
            return Err(self.refuse(asked, token, Some(&name), Refusal::Project).await);
        }
        let enrollment = enrollment_key(&name.project, asked);
        let waiting = self.store.get(&enrollment).await?;
        if let Some(node) = self.node_of_key(&name.project, asked, waiting.as_ref()).await? {
            return self.again(asked, &node, caused).await;
        }
        match self.first_time(asked, &name, &read, waiting.as_ref(), caused).await {
            Ok(outcome) => Ok(outcome),
            Err(Refused::Openly(fault)) => Err(fault),
            Err(Refused::Quietly(refusal)) => Err(self.refuse(asked, token, Some(&name), refusal).await),
        }
    }

    /// The machine's first use of the token.
    async fn first_time(
        &self,
        asked: &Asked,
        token: &TokenName,
        read: &Versioned<stored::TokenRecord>,
        waiting: Option<&Versioned<stored::EnrollmentRecord>>,
        caused: &Caused,
    ) -> Result<Option<Outcome>, Refused> {
        let now = SystemTime::now();
        let used = admit(&read.value, &asked.machine, now)?;
        let node = NodeRef { project: token.project.clone(), node: name_by_token(asked, &used)? };
        let node_key = Key::<stored::NodeRecord>::of(&node);
        let before = self.store.get(&node_key).await.map_err(Fault::from)?;
        let made = read.value.meta.as_ref().and_then(|meta| meta.create_time.as_ref());
        let made = made.and_then(time::from_timestamp).unwrap_or(SystemTime::UNIX_EPOCH);
        let grant = Grant {
            labels: &labels_of(&read.value),
            annotations: annotations_of(token.id.as_str()),
            by: By::Token { made },
        };
        let record = settle(&node, before.as_ref().map(|b| &b.value), &keys_of(asked), &grant, now, new_uid)?;
        let ring = Ring::read(&self.store, EventSource::Node(node.clone())).await.map_err(Fault::from)?;
        let message = format!("by the token {}, from {}", token.id, asked.address);
        let txn = Txn::new().when_same(read).put(&read.key, &used);
        let txn = self.make_room(txn, &node, before.as_ref()).await?;
        let txn = ring.add(txn, Severity::Normal, node.to_string(), ("Enrolled", message.clone()));
        let act = act(asked, caused, &node, before.is_none(), &message);
        let txn = self.remember(txn.audit(act), asked, waiting, &node).await?;
        let outcome = self.commit(asked, &node, before.as_ref(), &record, txn).await?;
        if outcome.is_some() {
            tracing::info!(%node, token = %token.id, address = %asked.address, "a machine has enrolled");
        }
        Ok(outcome)
    }

    async fn by_approval(&self, asked: &Asked, caused: &Caused) -> Tried<Outcome> {
        let project = asked.project.as_ref().expect("parsed: without a token there is a project");
        let key = enrollment_key(project, asked);
        let waiting = self.store.get(&key).await?;
        if let Some(node) = self.node_of_key(project, asked, waiting.as_ref()).await? {
            return self.again(asked, &node, caused).await;
        }
        let room = self.room(project, &asked.address);
        if waiting.is_none() {
            room.admit()?;
        }
        let now = SystemTime::now();
        let former = waiting.as_ref().map(|waiting| &waiting.value);
        if let Some(former) = former {
            same_sealing_key(&former.sealing_key, &asked.sealing_key)?;
        }
        let denied = former.is_some_and(|former| former.denied);
        let record = stored::EnrollmentRecord {
            create_time: former
                .and_then(|former| former.create_time)
                .or_else(|| Some(time::to_timestamp(now))),
            denied,
            ..enrollment_of(asked)
        };
        let lease = self.leases.current(&self.store).await?;
        let revision = waiting.as_ref().map_or(0, |waiting| waiting.mod_revision);
        let txn = Txn::new().when_unchanged(&key, revision).put_leased(&key, &record, &lease);
        let txn = match waiting {
            Some(_) => txn,
            None => skerry_api::admit(&self.store, project, &[], txn).await?,
        };
        if !self.committed(txn).await? {
            return Ok(None);
        }
        if denied {
            let message = "an operator has turned this machine away";
            return Err(Fault::new(Code::PermissionDenied, "ENROLLMENT_DENIED", message));
        }
        if waiting.is_none() {
            tracing::info!(%project, fingerprint = %asked.fingerprint(), address = %asked.address, "a machine waits for approval");
        }
        let more = u64::try_from(room.project / WAITING_PER_SECOND).unwrap_or_default();
        Ok(Some(Outcome::Pending(pb::EnrollmentPending {
            fingerprint: asked.fingerprint().to_string(),
            retry_after: Some(time::to_proto_duration(RETRY_AFTER + Duration::from_secs(more))),
            expire_time: Some(time::to_timestamp(now + REMEMBERED)),
        })))
    }

    /// The machine is a node already and asks again: it is answered as before. A node that has no sealing key yet gets the one that it names.
    async fn again(
        &self,
        asked: &Asked,
        read: &Versioned<stored::NodeRecord>,
        caused: &Caused,
    ) -> Tried<Outcome> {
        let node = read.key.name();
        same_sealing_key(&read.value.sealing_key, &asked.sealing_key)?;
        if read.value.sealing_key.is_empty() {
            let sealing_key = bytes::Bytes::copy_from_slice(asked.sealing_key.as_bytes());
            let record = stored::NodeRecord { sealing_key, ..read.value.clone() };
            let act = act(asked, caused, &node, false, "again, with another sealing key");
            return self.commit(asked, &node, Some(read), &record, Txn::new().audit(act)).await;
        }
        self.enrolled(&node, &read.value, &asked.public_key).map(Some)
    }

    /// The node that this key makes it; read, so that it is known and not guessed.
    async fn node_of_key(
        &self,
        project: &ProjectName,
        asked: &Asked,
        waiting: Option<&Versioned<stored::EnrollmentRecord>>,
    ) -> Result<Option<Versioned<stored::NodeRecord>>, Fault> {
        let approved = waiting.and_then(|waiting| NodeName::parse(&waiting.value.approved_as).ok());
        let approved = approved.map(|node| NodeRef { project: project.clone(), node });
        let indexed = self.shared.keys.node(project, &asked.key_id());
        for node in approved.into_iter().chain(indexed) {
            let read = self.store.get(&Key::<stored::NodeRecord>::of(&node)).await?;
            if let Some(read) = read.filter(|read| has_key(&read.value, &asked.key_id())) {
                return Ok(Some(read));
            }
        }
        Ok(None)
    }

    /// Remembers by the machine's key what it has become, for as long as an answer may be lost.
    async fn remember(
        &self,
        txn: Txn,
        asked: &Asked,
        waiting: Option<&Versioned<stored::EnrollmentRecord>>,
        node: &NodeRef,
    ) -> Result<Txn, Fault> {
        let key = enrollment_key(&node.project, asked);
        let record = stored::EnrollmentRecord { approved_as: node.node.to_string(), ..enrollment_of(asked) };
        let lease = self.leases.current(&self.store).await?;
        let revision = waiting.map_or(0, |waiting| waiting.mod_revision);
        Ok(txn.when_unchanged(&key, revision).put_leased(&key, &record, &lease))
    }

    /// A node that is new counts against its project's quota.
    async fn make_room(
        &self,
        txn: Txn,
        node: &NodeRef,
        before: Option<&Versioned<stored::NodeRecord>>,
    ) -> Result<Txn, Fault> {
        match before {
            Some(_) => Ok(txn),
            None => skerry_api::admit(&self.store, &node.project, &[(Counted::Nodes, 1)], txn).await,
        }
    }

    /// Issues, then writes the node's record with all of `txn`: what cannot be issued uses nothing up.
    async fn commit(
        &self,
        asked: &Asked,
        node: &NodeRef,
        before: Option<&Versioned<stored::NodeRecord>>,
        record: &stored::NodeRecord,
        txn: Txn,
    ) -> Tried<Outcome> {
        let outcome = self.enrolled(node, record, &asked.public_key)?;
        let key = Key::<stored::NodeRecord>::of(node);
        let txn = txn.when_unchanged(&key, before.map_or(0, |before| before.mod_revision)).put(&key, record);
        Ok(self.committed(txn).await?.then_some(outcome))
    }

    /// Whether it is in the store. Of a write whose answer was lost the next try finds out.
    pub(super) async fn committed(&self, txn: Txn) -> Result<bool, Fault> {
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(TxnError::Conflict(_) | TxnError::Indeterminate { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn enrolled(
        &self,
        node: &NodeRef,
        record: &stored::NodeRecord,
        key: &PublicKey,
    ) -> Result<Outcome, Fault> {
        let granted = self.issuer.issue_node(node, key)?;
        Ok(Outcome::Enrolled(pb::Enrolled {
            node: node.to_string(),
            node_uid: record.meta.as_ref().map(|meta| meta.uid.clone()).unwrap_or_default(),
            certificate: Some(granted.to_proto(SystemTime::now())),
        }))
    }

    /// Where the token's record is. Its text does not name the project, so that is looked up by its id.
    fn token_name(&self, asked: &Asked, token: &Token) -> Option<TokenName> {
        let id = TokenId::parse(token.id().as_str()).ok()?;
        let snapshot = self.shared.mirror.snapshot();
        let end = format!("/{id}");
        let prefix = Prefix::<stored::TokenRecord>::all();
        let mut found = snapshot.entries(&prefix).filter(|entry| entry.key.ends_with(&end));
        let found = found.next().and_then(|entry| Key::<stored::TokenRecord>::parse(&*entry.key).ok());
        // The mirror may lag: where the machine names the project, the store is asked.
        found.map(|key| key.name()).or_else(|| Some(TokenName { project: asked.project.clone()?, id }))
    }

    /// Who waits, seen by a machine of this project and address. What was answered already counts everywhere while it is remembered.
    fn room(&self, project: &ProjectName, address: &str) -> Room {
        let snapshot = self.shared.mirror.snapshot();
        let everywhere = snapshot.entries(&Prefix::<stored::EnrollmentRecord>::all()).count();
        let mut room = Room { everywhere, ..Room::default() };
        let prefix = Prefix::<stored::EnrollmentRecord>::project(project);
        for record in snapshot.iter(&prefix).filter_map(Result::ok).map(|read| read.value) {
            if record.approved_as.is_empty() {
                room.project += 1;
                room.address += usize::from(record.address == address);
            }
        }
        room
    }

    /// Tells the log why, and the token's ring where there is one that its holder knows; the machine is told only that it is refused.
    async fn refuse(&self, asked: &Asked, token: &Token, known: Option<&TokenName>, why: Refusal) -> Fault {
        let (reason, message) = why.told();
        tracing::warn!(token = %token.id(), address = %asked.address, fingerprint = %asked.fingerprint(), reason, "an enrolment was refused");
        if let Some(name) = known {
            let message = format!("{message}; asked from {}", asked.address);
            if let Err(error) = self.tell_token(name, (reason, message)).await {
                tracing::debug!(%error, "the refusal is only in the log");
            }
        }
        token_refused()
    }

    /// An event in the ring of a token, lost where somebody writes there at the same time.
    async fn tell_token(&self, name: &TokenName, what: (&str, String)) -> Result<(), Fault> {
        let ring = Ring::read(&self.store, EventSource::Token(name.clone())).await?;
        let token = Key::<stored::TokenRecord>::of(name);
        let regarding = format!("{}/tokens/{}", name.project.parent(), name.id);
        let txn = ring.add(Txn::new().when_exists(&token), Severity::Warning, regarding, what);
        self.committed(txn).await.map(|_| ())
    }

    /// Lets a machine in that waits: it is a node, and hears so when it asks again. `act` is of a new node; where it takes the place of one that
    /// is there, that was changed.
    pub(super) async fn approve(
        &self,
        read: &Versioned<stored::EnrollmentRecord>,
        node: &NodeRef,
        labels: &BTreeMap<String, String>,
        replace: bool,
        act: Act,
    ) -> Tried<()> {
        let now = SystemTime::now();
        let bad = || Fault::internal("the record of the machine that waits cannot be read");
        let keys = Keys {
            key_id: read.value.key_id.as_ref().try_into().map_err(|_| bad())?,
            sealing_key: read.value.sealing_key.as_ref().try_into().map_err(|_| bad())?,
        };
        let key = Key::<stored::NodeRecord>::of(node);
        let before = self.store.get(&key).await?;
        let grant = Grant { labels, annotations: BTreeMap::new(), by: By::Operator { replace } };
        let record = match settle(node, before.as_ref().map(|b| &b.value), &keys, &grant, now, new_uid) {
            Ok(record) => record,
            Err(Refused::Openly(fault)) => return Err(fault),
            Err(Refused::Quietly(_)) => return Err(token_refused()),
        };
        let ring = Ring::read(&self.store, EventSource::Node(node.clone())).await?;
        let message = format!("approved by an operator; it asked from {}", read.value.address);
        let approved = stored::EnrollmentRecord {
            approved_as: node.node.to_string(),
            denied: false,
            ..read.value.clone()
        };
        let lease = self.leases.current(&self.store).await?;
        let txn = Txn::new().when_same(read).put_leased(&read.key, &approved, &lease);
        let txn = self.make_room(txn, node, before.as_ref()).await?;
        let txn = ring.add(txn, Severity::Normal, node.to_string(), ("Enrolled", message));
        let revision = before.as_ref().map_or(0, |before| before.mod_revision);
        let act = if before.is_some() { Act { outcome: AuditOutcome::Updated, ..act } } else { act };
        let txn = txn.when_unchanged(&key, revision).put(&key, &record).audit(act);
        Ok(self.committed(txn).await?.then_some(()))
    }

    /// Turns a machine away that waits, for as long as it goes on asking.
    pub(super) async fn deny(&self, read: &Versioned<stored::EnrollmentRecord>, act: Act) -> Tried<()> {
        let denied = stored::EnrollmentRecord { denied: true, ..read.value.clone() };
        let lease = self.leases.current(&self.store).await?;
        let txn = Txn::new().when_same(read).put_leased(&read.key, &denied, &lease).audit(act);
        Ok(self.committed(txn).await?.then_some(()))
    }
}

/// What the audit log says of a machine that becomes a node, or gets another key as one.
fn act(asked: &Asked, caused: &Caused, node: &NodeRef, is_new: bool, how: &str) -> Act {
    let outcome = if is_new { AuditOutcome::Created } else { AuditOutcome::Updated };
    caused.of(node, outcome).detail(format!("the machine {} enrolled {how}", asked.fingerprint()))
}

fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn keys_of(asked: &Asked) -> Keys {
    Keys { key_id: asked.key_id(), sealing_key: *asked.sealing_key.as_bytes() }
}

fn enrollment_key(project: &ProjectName, asked: &Asked) -> Key<stored::EnrollmentRecord> {
    let key = EnrollmentKey::parse(&asked.key_id().to_string()).expect("hexadecimal");
    Key::of(&EnrollmentName { project: project.clone(), key })
}

/// What is kept of a machine that asks.
fn enrollment_of(asked: &Asked) -> stored::EnrollmentRecord {
    stored::EnrollmentRecord {
        key_id: bytes::Bytes::copy_from_slice(asked.key_id().as_bytes()),
        public_key: asked.public_key.to_spki().into(),
        sealing_key: bytes::Bytes::copy_from_slice(asked.sealing_key.as_bytes()),
        node: asked.wanted_name().map(|node| node.to_string()).unwrap_or_default(),
        machine_id: asked.machine.id.clone(),
        serial: asked.machine.serial.clone(),
        host_name: asked.machine.host_name.clone(),
        address: asked.address.clone(),
        create_time: None,
        approved_as: String::new(),
        denied: false,
    }
}
