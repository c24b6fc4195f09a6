//! Renewal: a node that has proved its key gets a new certificate, for the same key or for a new one.
//!
//! The sealing key stays: a gateway passes renewals on, and what one says of a node must not open what is sealed to that node. A machine with another
//! one enrols anew.
//!
//! A new key counts beside the old one (`next_key_id`) until the node is seen with it: an answer that is lost costs nothing.

use std::time::{Duration, SystemTime};

use skerry_api::{Caused, Tries};
use skerry_identity::csr::Request;
use skerry_identity::hpke::HpkePublicKey;
use skerry_identity::{KeyId, PublicKey};
use skerry_model::{Code, Fault, NodeRef, Violations};
use skerry_proto::gateway::v1::IssuedCertificate;
use skerry_proto::registry::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::{Key, Txn};

use super::decide::has_key;
use super::enroller::Enroller;

/// Renewals of one node at once after a quiet time: answers may be lost. Each is a certificate and a record of the audit log, so a node that was
/// broken into must not ask for them without end.
pub(super) const BURST: u32 = 8;
/// The time in which one more is earned. A certificate lives for weeks.
pub(super) const EARNED_IN: Duration = Duration::from_secs(15 * 60);
/// Nodes that are remembered: all of a fleet may renew in one hour.
pub(super) const NODES_MAX: usize = 1 << 17;

/// What a node asks that has a key.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) node: NodeRef,
    pub(super) uid: String,
    /// The key that it has proved.
    pub(super) proved: KeyId,
    /// The key that it wants a certificate for.
    pub(super) wanted: PublicKey,
    pub(super) sealing_key: Option<HpkePublicKey>,
}

impl Renewal {
    pub(super) fn parse(request: &pb::RenewNodeRequest) -> Result<Self, Fault> {
        let mut wrong = Violations::new();
        let node = wrong.check("node", NodeRef::parse(&request.node));
        let proved = wrong.check("key_id", KeyId::try_from(request.key_id.as_ref()));
        let csr = wrong.check("certificate_request", Request::parse(&request.certificate_request));
        let sealing_key = match request.sealing_key.as_ref() {
            [] => None,
            key => wrong.check("sealing_key", HpkePublicKey::from_bytes(key)),
        };
        let renewal = node.zip(proved).zip(csr).map(|((node, proved), csr)| Self {
            node,
            uid: request.node_uid.clone(),
            proved,
            wanted: csr.public_key().clone(),
            sealing_key,
        });
        wrong.finish(renewal)
    }
}

/// The node's record after the renewal, or nothing: the key is that of nobody. Pure.
pub(super) fn renewed(record: &stored::NodeRecord, renewal: &Renewal) -> Option<stored::NodeRecord> {
    let uid = record.meta.as_ref().map_or("", |meta| meta.uid.as_str());
    if uid != renewal.uid || !has_key(record, &renewal.proved) {
        return None;
    }
    let mut record = record.clone();
    let wanted = renewal.wanted.id();
    // Who proves the newer of two keys has done with the older.
    if record.next_key_id[..] == renewal.proved.as_bytes()[..] {
        record.key_id = std::mem::take(&mut record.next_key_id);
    }
    if record.key_id[..] != wanted.as_bytes()[..] {
        record.next_key_id = bytes::Bytes::copy_from_slice(wanted.as_bytes());
    }
    Some(record)
}

impl Enroller {
    /// Issues a new certificate.
    pub(super) async fn renew(&self, renewal: &Renewal, caused: &Caused) -> Result<IssuedCertificate, Fault> {
        let key = Key::<stored::NodeRecord>::of(&renewal.node);
        if let Err(wait) = self.renewals.admit(renewal.node.clone(), tokio::time::Instant::now()) {
            let message = format!("{} renews too often: again in {} s", renewal.node, wait.as_secs() + 1);
            return Err(Fault::new(Code::ResourceExhausted, "RENEWS_TOO_OFTEN", message));
        }
        let mut tries = Tries::default();
        loop {
            let read = self.store.get(&key).await?;
            let after = read.as_ref().and_then(|read| renewed(&read.value, renewal));
            let Some((read, after)) = read.zip(after) else {
                tracing::warn!(node = %renewal.node, key = %renewal.proved, "a renewal was refused: the key is not the node's");
                let message = format!("the key is not that of {}: the machine must enrol anew", renewal.node);
                return Err(Fault::new(Code::PermissionDenied, "KEY_STRUCK_OUT", message));
            };
            if let Some(key) = &renewal.sealing_key
                && read.value.sealing_key[..] != key.as_bytes()[..]
            {
                let message =
                    "a renewal keeps the sealing key: leave it empty; a machine with another one enrols anew";
                return Err(Fault::invalid_field("sealing_key", message));
            }
            let granted = self.issuer.issue_node(&renewal.node, &renewal.wanted)?;
            let act = caused.of(&renewal.node, AuditOutcome::Issued);
            let act = act.detail(format!("to the node itself, for the key {}", renewal.wanted.id()));
            let txn = Txn::new().when_same(&read).audit(act);
            // With the same key the record stays as it is: it is not written anew, since sessions look again whenever it is.
            let txn = if after == read.value { txn } else { txn.put(&key, &after) };
            if self.committed(txn).await? {
                return Ok(granted.to_proto(SystemTime::now()));
            }
            tries.again(&renewal.node).await?;
        }
    }
}
