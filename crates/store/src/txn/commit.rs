//! Runs a transaction: into etcd's form, through the client, and back into an outcome. When a compare fails, all compared keys are read
//! in the same transaction, so that the caller learns what changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::proto::{PbResponseOp, PbTxnOpResponse};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, TxnOp};

use super::error::{Conflict, Seen, TxnError};
use super::{
    Committed, Expect, Guard, LeaseOf, OPERATIONS_MAX, Op, Remembered, Txn, list_size, value_bytes_max,
};
use crate::client;
use crate::failure::{Failure, Outage};
use crate::keys::range_end;
use crate::record::Entry;
use crate::request;
use crate::store::Store;

/// The values of compared keys are read back as long as they fit into so many bytes together; beyond, only their revisions.
const READ_BACK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What etcd answered.
pub(crate) enum Answer {
    /// All compares held. For each operation: whether it changed anything.
    Done { revision: i64, changed: Vec<bool> },
    /// A compare failed.
    Found { revision: i64, found: BTreeMap<Arc<str>, Option<Seen>> },
}

impl Store {
    /// Runs `txn`: it happens as a whole or not at all. Only [`TxnError::Indeterminate`] leaves open whether it has.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, TxnError> {
        self.admit(&txn)?;
        match self.run(&txn).await? {
            Answer::Done { revision, changed } => Ok(txn.committed(revision, &changed)),
            Answer::Found { revision, found } => {
                Err(txn.judge(revision, &found)?.unwrap_or_else(|| TxnError::Refused {
                    subject: txn.subject(),
                    reason: "a compare failed, but all compared keys are as expected".to_owned(),
                }))
            }
        }
    }

    /// Whether it may be sent: what [`Store::commit`] finds wrong with it before it asks etcd.
    pub fn admit(&self, txn: &Txn) -> Result<(), TxnError> {
        match txn.unaudited() {
            Some(key) if self.audit.is_strict() => Err(TxnError::Unaudited { key: Arc::clone(key) }),
            _ => txn.validate(),
        }
    }

    /// Runs a valid transaction, with what it leaves in the audit log.
    pub(super) async fn run(&self, txn: &Txn) -> Result<Answer, TxnError> {
        if txn.acts.is_empty() { self.send(txn).await } else { self.run_audited(txn).await }
    }

    /// Runs a valid transaction as it is. A request lease that is gone (the store was restored) is replaced once.
    pub(crate) async fn send(&self, txn: &Txn) -> Result<Answer, TxnError> {
        let remembers = txn.ops.iter().any(|op| matches!(op, Op::Put { lease: LeaseOf::Requests, .. }));
        let mut renewed = false;
        loop {
            let lease = if remembers {
                self.request_lease
                    .id(&self.client)
                    .await
                    .map_err(|failure| self.failed_before(txn, &failure))?
            } else {
                0
            };
            let (etcd_txn, with_value) = txn.to_etcd(lease);
            match self.client.txn(etcd_txn).await {
                Ok((header, answer)) if answer.succeeded() => {
                    let changed = changed(&answer.0.responses);
                    return Ok(Answer::Done { revision: header.revision, changed });
                }
                Ok((header, answer)) => {
                    let found =
                        txn.read_back(answer, &with_value).map_err(|failure| self.failed(txn, &failure))?;
                    return Ok(Answer::Found { revision: header.revision, found });
                }
                Err(Failure::LeaseGone) if remembers && !renewed => {
                    renewed = true;
                    self.request_lease.forget(lease);
                }
                Err(failure) => return Err(self.failed(txn, &failure)),
            }
        }
    }

    /// The transaction was not sent yet.
    fn failed_before(&self, txn: &Txn, failure: &Failure) -> TxnError {
        TxnError::Unavailable { subject: txn.subject(), outage: Outage::of(&self.client.store, failure) }
    }

    fn failed(&self, txn: &Txn, failure: &Failure) -> TxnError {
        let subject = txn.subject();
        let outage = Outage::of(&self.client.store, failure);
        match failure {
            Failure::NotSent(_) | Failure::Overloaded(_) => TxnError::Unavailable { subject, outage },
            Failure::Unclear(_) | Failure::AnswerTooLarge => TxnError::Indeterminate { subject, outage },
            Failure::LeaseGone => TxnError::LeaseLost { key: subject },
            Failure::Full(_) => TxnError::Full { subject, outage },
            Failure::Compacted | Failure::Future | Failure::Refused(_) => {
                TxnError::Refused { subject, reason: failure.to_string() }
            }
        }
    }
}

impl Txn {
    fn to_etcd(&self, request_lease: i64) -> (etcd_client::Txn, Vec<bool>) {
        let mut compares = Vec::with_capacity(self.guards.len() + 1);
        let mut reads = Vec::with_capacity(self.guards.len());
        let mut with_value = Vec::with_capacity(self.guards.len());
        let mut room = READ_BACK_BYTES_MAX;
        for Guard { key, expect } in &self.guards {
            let key = &**key;
            match expect {
                Expect::Absent | Expect::FirstTime(_) => {
                    compares.push(Compare::create_revision(key, CompareOp::Equal, 0));
                }
                Expect::Exists => compares.push(Compare::create_revision(key, CompareOp::Greater, 0)),
                Expect::ModRevision(revision) => {
                    compares.push(Compare::mod_revision(key, CompareOp::Equal, *revision));
                }
                Expect::Value(value) => {
                    compares.push(Compare::value(key, CompareOp::Equal, value.to_vec()));
                }
                Expect::Led { create_revision, holder } => {
                    compares.push(Compare::create_revision(key, CompareOp::Equal, *create_revision));
                    // A restored store gives the same revisions out again; the holder is random.
                    compares.push(Compare::value(key, CompareOp::Equal, holder.to_vec()));
                }
            }
            let bytes = value_bytes_max(key);
            let fits = bytes <= room;
            room -= if fits { bytes } else { 0 };
            let options = if fits { None } else { Some(GetOptions::new().with_keys_only()) };
            reads.push(TxnOp::get(key, options));
            with_value.push(fits);
        }
        let ops: Vec<TxnOp> = self
            .ops
            .iter()
            .map(|op| match op {
                Op::Put { key, value, lease } => {
                    let id = match lease {
                        LeaseOf::Nobody => 0,
                        LeaseOf::Id(id) => *id,
                        LeaseOf::Requests => request_lease,
                    };
                    let options = (id != 0).then(|| PutOptions::new().with_lease(id));
                    TxnOp::put(&**key, value.to_vec(), options)
                }
                Op::Delete { key } => TxnOp::delete(&**key, None),
                Op::DeletePrefix { prefix } => {
                    TxnOp::delete(&**prefix, Some(DeleteOptions::new().with_range(range_end(prefix))))
                }
            })
            .collect();
        let ops = in_lists(ops, compares.len());
        (etcd_client::Txn::new().when(compares).and_then(ops).or_else(reads), with_value)
    }

    fn read_back(
        &self,
        answer: etcd_client::TxnResponse,
        with_value: &[bool],
    ) -> Result<BTreeMap<Arc<str>, Option<Seen>>, Failure> {
        let entries = client::ranges(answer)?;
        if entries.len() != self.guards.len() {
            return Err(Failure::Refused("the answer has another length".to_owned()));
        }
        let seen = entries
            .into_iter()
            .zip(with_value)
            .map(|(entry, with_value)| entry.map(|entry| Seen { entry, without_value: !with_value }));
        Ok(self.guards.iter().map(|guard| Arc::clone(&guard.key)).zip(seen).collect())
    }

    pub(super) fn committed(&self, revision: i64, changed: &[bool]) -> Committed {
        let touched = self.ops.iter().zip(changed).filter(|(_, changed)| **changed);
        Committed { revision, touched: touched.map(|(op, _)| Arc::clone(op.target())).collect() }
    }

    /// Why this transaction could not happen, given what is at the compared keys. `None`: it could have.
    pub(crate) fn judge(
        &self,
        revision: i64,
        found: &BTreeMap<Arc<str>, Option<Seen>>,
    ) -> Result<Option<TxnError>, TxnError> {
        let mut failed = Vec::new();
        let mut deposed = None;
        for Guard { key, expect } in &self.guards {
            let seen = found.get(key).and_then(Option::as_ref);
            if holds(expect, seen.map(|seen| &seen.entry)) {
                continue;
            }
            match (expect, seen) {
                (Expect::FirstTime(mark), Some(seen)) => {
                    let remembered = seen.entry.decode::<Remembered>()?;
                    // The request was made before: whatever else has changed since, its answer stands.
                    return Ok(Some(match request::answer(mark, &remembered.value) {
                        Some(resource) => TxnError::Repeated { resource },
                        None => TxnError::RequestIdReused { request_id: mark.id.to_string() },
                    }));
                }
                (Expect::Led { .. }, _) => deposed = Some(TxnError::Deposed { key: Arc::clone(key) }),
                _ => failed.push(Arc::clone(key)),
            }
        }
        if deposed.is_some() || failed.is_empty() {
            return Ok(deposed);
        }
        let mine = |key: &Arc<str>| self.guards.iter().any(|guard| guard.key == *key);
        let found =
            found.iter().filter(|(key, _)| mine(key)).map(|(key, seen)| (Arc::clone(key), seen.clone()));
        Ok(Some(TxnError::Conflict(Box::new(Conflict { revision, failed, found: found.collect() }))))
    }
}

/// As many as one list takes as they are, more as lists within the transaction, which happen with it.
fn in_lists(ops: Vec<TxnOp>, compares: usize) -> Vec<TxnOp> {
    if ops.len() <= OPERATIONS_MAX {
        return ops;
    }
    let size = list_size(ops.len(), compares).unwrap_or(OPERATIONS_MAX);
    let list = |list: &[TxnOp]| TxnOp::txn(etcd_client::Txn::new().and_then(list.to_vec()));
    ops.chunks(size).map(list).collect()
}

/// For each operation, those in lists included: whether it changed anything.
fn changed(responses: &[PbResponseOp]) -> Vec<bool> {
    let of_one = |response: &PbResponseOp| match &response.response {
        Some(PbTxnOpResponse::ResponseDeleteRange(deleted)) => vec![deleted.deleted > 0],
        Some(PbTxnOpResponse::ResponseTxn(list)) => changed(&list.responses),
        _ => vec![true],
    };
    responses.iter().flat_map(of_one).collect()
}

fn holds(expect: &Expect, entry: Option<&Entry>) -> bool {
    match expect {
        Expect::Absent | Expect::FirstTime(_) => entry.is_none(),
        Expect::Exists => entry.is_some(),
        Expect::ModRevision(revision) => entry.is_some_and(|entry| entry.mod_revision == *revision),
        Expect::Value(value) => entry.is_some_and(|entry| entry.bytes == *value),
        Expect::Led { create_revision, holder } => {
            entry.is_some_and(|entry| entry.create_revision == *create_revision && entry.bytes == *holder)
        }
    }
}
