//! Transactions in the form of `skerry_store::Txn`, and made of those: compares and writes that happen together or not at all; when a compare
//! fails, all compared keys are read in the same transaction.

use std::collections::BTreeMap;

use skerry_etcd_embedded::mvcc::{self, Answer, Command, Compare, KeyRange, Op, OpAnswer, Operand, Relation};
use skerry_proto::store::v1 as stored;
use skerry_store::sans_io::{Expect, Failure, LeaseOf, Op as RealOp};
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

impl Txn {
    /// A transaction that a service has built, as the store would send it; what it refuses to send fails the simulation.
    pub(super) fn of(real: skerry_store::Txn) -> Result<Self, String> {
        let (guards, ops) =
            real.into_parts().map_err(|error| format!("a transaction is not valid: {error}"))?;
        let mut txn = Self::new();
        for guard in guards {
            let equal = |txn: Self, operand| txn.when(&guard.key, Relation::Equal, operand);
            txn = match guard.expect {
                Expect::Absent | Expect::FirstTime(_) => equal(txn, Operand::Create(0)),
                Expect::Exists => txn.when(&guard.key, Relation::Greater, Operand::Create(0)),
                Expect::ModRevision(revision) => equal(txn, Operand::Mod(revision)),
                Expect::Value(value) => equal(txn, Operand::Value(value.to_vec())),
                Expect::Led { create_revision, holder } => {
                    equal(equal(txn, Operand::Create(create_revision)), Operand::Value(holder.to_vec()))
                }
            };
        }
        txn.ops = ops.into_iter().map(op_of).collect();
        Ok(txn)
    }
}

fn op_of(op: RealOp) -> Op {
    match op {
        RealOp::Put { key, value, lease } => {
            // Request ids are remembered for longer than a simulation lasts.
            let lease = if let LeaseOf::Id(id) = lease { id } else { 0 };
            Op::Put(mvcc::Put { lease, ..mvcc::Put::new(key.as_bytes(), value.to_vec()) })
        }
        RealOp::Delete { key } => Op::Delete(mvcc::Delete { keys: one(&key), prev_kv: false }),
        RealOp::DeletePrefix { prefix } => {
            Op::Delete(mvcc::Delete { keys: KeyRange::prefix(prefix.as_bytes()), prev_kv: false })
        }
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
