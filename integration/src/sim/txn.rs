//! Transactions in the form of `skerry_store::Txn`: compares and writes that happen together or not at all; when a compare fails, all
//! compared keys are read in the same transaction.

use std::collections::BTreeMap;

use skerry_etcd_embedded::mvcc::{self, Answer, Command, Compare, KeyRange, Op, OpAnswer, Operand, Relation};
use skerry_proto::store::v1 as stored;
use skerry_store::sans_io::Failure;
use skerry_store::{Entry, Key, Record};

use super::check::Origin;
use super::client::{Client, encoded, entry_of};

/// Compares and writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Txn {
    compares: Vec<Compare>,
    ops: Vec<Op>,
}

/// What was found at the compared keys.
pub(super) type Seen = BTreeMap<String, Option<Entry>>;

/// Why a transaction is not known to have happened.
#[derive(Debug)]
pub(super) enum TxnError {
    /// A compare failed, at this revision.
    Conflict(i64, Seen),
    /// It may have happened.
    Indeterminate,
    /// It has not.
    Unavailable,
    /// It has not: its lease is gone.
    LeaseLost,
}

/// Who leads, and since when.
#[derive(Debug, Clone)]
pub(super) struct Leadership {
    pub(super) key: Key<stored::LeaderRecord>,
    pub(super) create_revision: i64,
    pub(super) holder: Vec<u8>,
}

impl Txn {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn when(mut self, key: &str, relation: Relation, operand: Operand) -> Self {
        self.compares.push(Compare { keys: one(key), relation, operand });
        self
    }

    pub(super) fn when_absent<R>(self, key: &Key<R>) -> Self {
        self.when(key.as_str(), Relation::Equal, Operand::Create(0))
    }

    pub(super) fn when_exists<R>(self, key: &Key<R>) -> Self {
        self.when(key.as_str(), Relation::Greater, Operand::Create(0))
    }

    /// Only if `key` was last written at `mod_revision`. 0: if there is nothing.
    pub(super) fn when_unchanged<R>(self, key: &Key<R>, mod_revision: i64) -> Self {
        match mod_revision {
            0 => self.when_absent(key),
            _ => self.when(key.as_str(), Relation::Equal, Operand::Mod(mod_revision)),
        }
    }

    /// Only as long as `leadership` lasts.
    pub(super) fn fenced(self, leadership: &Leadership) -> Self {
        let key = leadership.key.as_str();
        self.when(key, Relation::Equal, Operand::Create(leadership.create_revision)).when(
            key,
            Relation::Equal,
            Operand::Value(leadership.holder.clone()),
        )
    }

    /// Only if `key` is still as this `record` was written there.
    pub(super) fn when_written<R: Record>(self, key: &Key<R>, mod_revision: i64, record: &R) -> Self {
        let txn = self.when_unchanged(key, mod_revision);
        txn.when(key.as_str(), Relation::Equal, Operand::Value(encoded(record)))
    }

    pub(super) fn put<R: Record>(mut self, key: &Key<R>, record: &R) -> Self {
        self.ops.push(Op::Put(mvcc::Put::new(key.as_str(), encoded(record))));
        self
    }

    pub(super) fn put_leased<R: Record>(mut self, key: &Key<R>, record: &R, lease: i64) -> Self {
        self.ops.push(Op::Put(mvcc::Put { lease, ..mvcc::Put::new(key.as_str(), encoded(record)) }));
        self
    }

    pub(super) fn delete<R>(mut self, key: &Key<R>) -> Self {
        self.ops.push(Op::Delete(mvcc::Delete { keys: one(key.as_str()), prev_kv: false }));
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

fn one(key: &str) -> KeyRange {
    KeyRange { key: key.as_bytes().to_vec(), range_end: Vec::new() }
}

impl Client {
    /// Runs a transaction. Tried again only while it is certain that it was never sent. Answers its revision.
    pub(super) async fn commit(&self, txn: Txn, origin: Origin) -> Result<i64, TxnError> {
        let keys: Vec<KeyRange> = txn.compares.iter().map(|compare| compare.keys.clone()).collect();
        let failure = keys.iter().map(|keys| Op::Range(mvcc::Range::new(keys.clone()))).collect();
        let command = Command::Txn(mvcc::Txn { compare: txn.compares, success: txn.ops, failure });
        let until = self.process().sim.now() + super::client::DEADLINE;
        let mut attempt = 0;
        let answer = loop {
            match self.command(command.clone(), origin.clone()).await {
                Ok(Answer::Txn(answer)) => break answer,
                Ok(_) | Err(Failure::Unclear(_)) => return Err(TxnError::Indeterminate),
                Err(Failure::LeaseGone) => return Err(TxnError::LeaseLost),
                Err(Failure::NotSent(_)) => {
                    let wait = self.process().backoff(attempt, 1_000);
                    attempt += 1;
                    if self.process().sim.now() + wait >= until {
                        return Err(TxnError::Unavailable);
                    }
                    self.process().sleep(wait).await;
                }
                Err(_) => return Err(TxnError::Unavailable),
            }
        };
        if answer.succeeded {
            return Ok(answer.revision);
        }
        let found = answer.answers.into_iter().map(|answer| match answer {
            OpAnswer::Range(range) => range.entries.first().map(|entry| entry_of(entry, false)),
            OpAnswer::Put(_) | OpAnswer::Delete(_) | OpAnswer::Txn(_) => None,
        });
        let keys = keys.iter().map(|keys| String::from_utf8_lossy(&keys.key).into_owned());
        Err(TxnError::Conflict(answer.revision, keys.zip(found).collect()))
    }
}
