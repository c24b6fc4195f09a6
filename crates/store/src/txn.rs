//! Transactions: compare and set, all or nothing. What is compared, what is written, and within which limits; how it is run is in
//! `commit`, how many are packed together in `batch`.

mod batch;
pub(crate) mod commit;
pub(crate) mod error;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::store::v1 as pb;

pub use self::batch::BATCH_OPERATIONS_MAX;
pub use self::error::{Conflict, TxnError};
use crate::audit::Act;
use crate::keys::{Family, Key, Prefix, Record};
use crate::leader::Leadership;
use crate::lease::Lease;
use crate::record::{TooLarge, Versioned, check, encode};
use crate::request::RequestMark;

/// Most compares of one transaction, and most operations of one list: etcd's own default.
pub const OPERATIONS_MAX: usize = 128;
/// Most operations of one transaction. Beyond [`OPERATIONS_MAX`] they go in lists within it, as far as its compares leave room for that.
pub const WRITES_MAX: usize = 512;
/// Most bytes of one transaction, keys, values and overhead together. etcd takes 1.5 MiB.
pub const TXN_BYTES_MAX: usize = 1_500_000;
/// What one operation or compare takes beside its keys and value, at most.
const OVERHEAD_BYTES: usize = 48;

/// What a key must be for the transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Absent,
    /// Anything.
    Exists,
    /// Last written at this revision.
    ModRevision(i64),
    /// These bytes.
    Value(Bytes),
    /// A leader's key, as it was when it began to lead.
    Led {
        /// When the key was made.
        create_revision: i64,
        /// Its bytes.
        holder: Bytes,
    },
    /// No answer is remembered for this request yet.
    FirstTime(Arc<RequestMark>),
}

/// One compare.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Of what.
    pub key: Arc<str>,
    /// With what.
    pub expect: Expect,
}

/// Whose lease a written key is under.
#[derive(Debug, Clone)]
pub enum LeaseOf {
    /// It stays.
    Nobody,
    /// This one's.
    Id(i64),
    /// The process's rolling lease of request ids.
    Requests,
}

/// One write.
#[derive(Debug, Clone)]
pub enum Op {
    /// Writes a value.
    Put {
        /// Where.
        key: Arc<str>,
        /// What.
        value: Bytes,
        /// For how long.
        lease: LeaseOf,
    },
    /// Deletes one key.
    Delete {
        /// Which.
        key: Arc<str>,
    },
    /// Deletes all keys that begin so.
    DeletePrefix {
        /// How.
        prefix: Arc<str>,
    },
}

impl Op {
    /// The key, or what all of its keys begin with.
    pub(crate) fn target(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
            Self::DeletePrefix { prefix } => prefix,
        }
    }

    /// Whether both may write one key, which etcd refuses.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::DeletePrefix { prefix }, other) | (other, Self::DeletePrefix { prefix }) => {
                other.target().starts_with(&**prefix) || prefix.starts_with(&**other.target())
            }
            (one, other) => one.target() == other.target(),
        }
    }
}

/// Compares and writes that happen together or not at all. Built first, checked and run by [`crate::Store::commit`].
#[derive(Debug, Clone, Default)]
#[must_use = "nothing happens before it is committed"]
pub struct Txn {
    pub(crate) guards: Vec<Guard>,
    pub(crate) ops: Vec<Op>,
    /// What the audit log says of it: one record each.
    pub(crate) acts: Vec<Act>,
    bytes: usize,
    invalid: Option<Invalid>,
}

/// What was wrong while it was built; told at the commit.
#[derive(Debug, Clone)]
enum Invalid {
    TooLarge(TooLarge),
    LeaseLost(Arc<str>),
}

impl Txn {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A compare that it has already is made once.
    fn guard(mut self, key: Arc<str>, expect: Expect) -> Self {
        let guard = Guard { key, expect };
        if !self.compares(&guard) {
            self.bytes += guard.key.len() * 2 + OVERHEAD_BYTES * 2;
            self.guards.push(guard);
        }
        self
    }

    fn op(mut self, op: Op) -> Self {
        let value = if let Op::Put { value, .. } = &op { value.len() } else { 0 };
        self.bytes += op.target().len() + value + OVERHEAD_BYTES;
        self.ops.push(op);
        self
    }

    fn spoil(mut self, invalid: Invalid) -> Self {
        self.invalid.get_or_insert(invalid);
        self
    }

    /// Only if there is nothing at `key`.
    pub fn when_absent<R>(self, key: &Key<R>) -> Self {
        self.guard(key.to_shared(), Expect::Absent)
    }

    /// Only if there is something at `key`: a reference to it is written.
    pub fn when_exists<R>(self, key: &Key<R>) -> Self {
        self.guard(key.to_shared(), Expect::Exists)
    }

    /// Only if `key` was last written at `mod_revision`. 0: if there is nothing.
    pub fn when_unchanged<R>(self, key: &Key<R>, mod_revision: i64) -> Self {
        let expect = if mod_revision == 0 { Expect::Absent } else { Expect::ModRevision(mod_revision) };
        self.guard(key.to_shared(), expect)
    }

    /// Only if `key` is still as this `record` was written there, at `mod_revision`. A restored store gives the same revisions out again:
    /// where a transaction may be late by that much, the record has something in it that no other has.
    pub fn when_written<R: Record>(self, key: &Key<R>, mod_revision: i64, record: &R) -> Self {
        match encode(key, record) {
            Ok(value) => self.when_unchanged(key, mod_revision).guard(key.to_shared(), Expect::Value(value)),
            Err(error) => self.spoil(Invalid::TooLarge(error)),
        }
    }

    /// Only if the record is still the one that was read.
    pub fn when_same<R: Record>(self, read: &Versioned<R>) -> Self {
        self.when_unchanged(&read.key, read.mod_revision)
    }

    /// Only as long as `leadership` lasts: a deposed leader writes nothing.
    pub fn fenced(self, leadership: &Leadership) -> Self {
        let expect =
            Expect::Led { create_revision: leadership.create_revision(), holder: leadership.holder_bytes() };
        self.guard(leadership.key().to_shared(), expect)
    }

    /// Only as long as `key` is as it was made at `create_revision`, with this `record`: for what is held under a lease and never written
    /// twice. Who holds it no more is told [`TxnError::Deposed`]. Of a restored store, which gives the same revisions out again, the record
    /// tells: it has something in it that no other has.
    pub fn when_held<R: Record>(self, key: &Key<R>, create_revision: i64, record: &R) -> Self {
        match encode(key, record) {
            Ok(holder) => self.guard(key.to_shared(), Expect::Led { create_revision, holder }),
            Err(error) => self.spoil(Invalid::TooLarge(error)),
        }
    }

    /// Remembers, for a day, that the request was answered with `mark.resource`; only if it is not remembered already.
    pub fn request(self, mark: RequestMark) -> Self {
        self.request_of_several(mark, Vec::new())
    }

    /// The same for a request of several resources, with what became of each.
    pub fn request_of_several(self, mark: RequestMark, outcomes: Vec<i32>) -> Self {
        let key = mark.key();
        let record = pb::RequestRecord { outcomes, ..mark.record() };
        match encode(&key, &record) {
            Ok(value) => self.guard(key.to_shared(), Expect::FirstTime(Arc::new(mark))).op(Op::Put {
                key: key.to_shared(),
                value,
                lease: LeaseOf::Requests,
            }),
            Err(error) => self.spoil(Invalid::TooLarge(error)),
        }
    }

    /// Leaves a record of `act` in the audit log, with all else or not at all.
    pub fn audit(mut self, act: Act) -> Self {
        self.bytes += act.bytes_max();
        self.acts.push(act);
        self
    }

    /// Writes `record` at `key`.
    pub fn put<R: Record>(self, key: &Key<R>, record: &R) -> Self {
        match encode(key, record) {
            Ok(value) => self.op(Op::Put { key: key.to_shared(), value, lease: LeaseOf::Nobody }),
            Err(error) => self.spoil(Invalid::TooLarge(error)),
        }
    }

    /// Writes bytes that are an encoded `R` already, as they are.
    pub fn put_bytes<R: Record>(self, key: &Key<R>, bytes: Bytes) -> Self {
        match check(key, bytes) {
            Ok(value) => self.op(Op::Put { key: key.to_shared(), value, lease: LeaseOf::Nobody }),
            Err(error) => self.spoil(Invalid::TooLarge(error)),
        }
    }

    /// Writes `record` at `key` for as long as `lease` lives.
    pub fn put_leased<R: Record>(self, key: &Key<R>, record: &R, lease: &Lease) -> Self {
        match (encode(key, record), lease.id()) {
            (Ok(value), Some(id)) => self.op(Op::Put { key: key.to_shared(), value, lease: LeaseOf::Id(id) }),
            (Err(error), _) => self.spoil(Invalid::TooLarge(error)),
            (_, None) => self.spoil(Invalid::LeaseLost(key.to_shared())),
        }
    }

    /// Writes a leader's record under a lease that was alive a moment ago.
    pub(crate) fn put_leased_bytes(self, key: &Key<pb::LeaderRecord>, value: Bytes, lease: i64) -> Self {
        self.op(Op::Put { key: key.to_shared(), value, lease: LeaseOf::Id(lease) })
    }

    /// Deletes what is at `key`, if anything.
    pub fn delete<R>(self, key: &Key<R>) -> Self {
        self.op(Op::Delete { key: key.to_shared() })
    }

    /// Deletes everything under `prefix`.
    pub fn delete_prefix<R>(self, prefix: &Prefix<R>) -> Self {
        self.op(Op::DeletePrefix { prefix: prefix.to_shared() })
    }

    /// What it compares and what it writes, for simulators, which run it on a store of their own.
    #[doc(hidden)]
    pub fn into_parts(self) -> Result<(Vec<Guard>, Vec<Op>), TxnError> {
        self.validate()?;
        Ok((self.guards, self.ops))
    }

    /// The record that it writes at `key`, if it does: for who adds to it what depends on that.
    pub fn written<R: Record>(&self, key: &Key<R>) -> Option<R> {
        self.ops.iter().find_map(|op| match op {
            Op::Put { key: put, value, .. } if **put == *key.as_str() => R::decode(value.clone()).ok(),
            _ => None,
        })
    }

    /// Whether it would write nothing.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.acts.is_empty()
    }

    /// How many operations it has.
    pub fn operations(&self) -> usize {
        self.ops.len() + self.audit_operations()
    }

    /// Operations that the audit log adds: a record for each act, and the head of their chain.
    fn audit_operations(&self) -> usize {
        if self.acts.is_empty() { 0 } else { self.acts.len() + 1 }
    }

    /// A key that it writes of what never changes without a record.
    pub(crate) fn unaudited(&self) -> Option<&Arc<str>> {
        let audited = |op: &&Op| Family::of_key(op.target()).is_some_and(Family::is_audited);
        self.ops.iter().find(audited).map(Op::target).filter(|_| self.acts.is_empty())
    }

    /// How many bytes it may have on the wire.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it has this very compare.
    pub(crate) fn compares(&self, guard: &Guard) -> bool {
        self.guards.iter().any(|have| have.key == guard.key && have.expect == guard.expect)
    }

    /// Adds the other's compares and operations.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        for guard in other.guards {
            self = self.guard(guard.key, guard.expect);
        }
        for op in other.ops {
            self = self.op(op);
        }
        for act in other.acts {
            self = self.audit(act);
        }
        match other.invalid {
            Some(invalid) => self.spoil(invalid),
            None => self,
        }
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.ops.iter().any(|op| other.ops.iter().any(|theirs| op.overlaps(theirs)))
    }

    /// What is wrong with it before it is sent.
    pub(crate) fn validate(&self) -> Result<(), TxnError> {
        match &self.invalid {
            Some(Invalid::TooLarge(error)) => return Err(error.clone().into()),
            Some(Invalid::LeaseLost(key)) => return Err(TxnError::LeaseLost { key: Arc::clone(key) }),
            None => {}
        }
        // etcd counts the compares and either branch apart. A leader's compare is two.
        let fences = self.guards.iter().filter(|guard| matches!(guard.expect, Expect::Led { .. })).count();
        // The head of a chain is compared by revision and by value.
        let heads = if self.acts.is_empty() { 0 } else { 2 };
        let compares = self.guards.len() + fences + heads;
        if compares > OPERATIONS_MAX {
            return Err(TxnError::TooManyOperations { operations: compares, operations_max: OPERATIONS_MAX });
        }
        let operations = self.operations();
        if list_size(operations, compares).is_none() {
            return Err(TxnError::TooManyOperations { operations, operations_max: WRITES_MAX });
        }
        let bytes = self.bytes + if self.acts.is_empty() { 0 } else { crate::audit::HEAD_BYTES_MAX };
        if bytes > TXN_BYTES_MAX {
            return Err(TxnError::TooManyBytes { bytes, bytes_max: TXN_BYTES_MAX });
        }
        let mut keys = BTreeSet::new();
        for (index, op) in self.ops.iter().enumerate() {
            let ranged = self.ops[..index].iter().any(|before| {
                (matches!(op, Op::DeletePrefix { .. }) || matches!(before, Op::DeletePrefix { .. }))
                    && before.overlaps(op)
            });
            if ranged || !keys.insert(op.target()) {
                return Err(TxnError::KeyTwice { key: Arc::clone(op.target()) });
            }
        }
        Ok(())
    }

    /// For logs and errors: what it is about.
    pub(crate) fn subject(&self) -> Arc<str> {
        let op = self.ops.first().map(Op::target);
        op.or(self.guards.first().map(|guard| &guard.key)).cloned().unwrap_or_else(|| Arc::from("nothing"))
    }
}

/// A transaction that has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The revision at which it happened: the `mod_revision` of everything that it wrote.
    pub revision: i64,
    /// Keys that it wrote and prefixes that it deleted something under.
    pub(crate) touched: Vec<Arc<str>>,
}

/// How many operations go in one list, beside that many compares: all of them where that is allowed, else so many that etcd takes the lists
/// within the transaction. It allows each as many operations as are left of [`OPERATIONS_MAX`] beside the longest list around it, compares
/// included. `None`: they do not fit.
pub(crate) fn list_size(operations: usize, compares: usize) -> Option<usize> {
    if operations <= OPERATIONS_MAX {
        return Some(OPERATIONS_MAX);
    }
    let size = |lists: usize| operations.div_ceil(lists);
    let fits = |lists: &usize| size(*lists) + compares.max(*lists) <= OPERATIONS_MAX;
    (1..OPERATIONS_MAX).find(fits).map(size).filter(|_| operations <= WRITES_MAX)
}

/// The bound on the value at `key`, for how much an answer may hold.
fn value_bytes_max(key: &str) -> usize {
    Family::of_key(key).map_or(0, Family::value_bytes_max)
}

/// Used by `commit` to judge a remembered request.
type Remembered = pb::RequestRecord;

#[cfg(test)]
mod tests {
    use skerry_model::NodeRef;

    use super::*;

    fn key(name: &str) -> Key<pb::NodeRecord> {
        Key::of(&NodeRef::parse(&format!("projects/p/nodes/{name}")).unwrap())
    }

    #[test]
    fn a_value_above_its_bound_is_refused_by_name_and_size() {
        let labels = [("k".to_owned(), "v".repeat(200 * 1024))].into();
        let record = pb::NodeRecord {
            meta: Some(pb::Meta { labels, ..pb::Meta::default() }),
            ..pb::NodeRecord::default()
        };
        let error = Txn::new().put(&key("n1"), &record).validate().unwrap_err();
        let TxnError::TooLarge(error) = error else { panic!("{error}") };
        assert_eq!(error.bytes_max, 128 * 1024);
        assert!(error.to_string().contains("/skerry/v1/nodes/p/n1"), "{error}");
    }

    #[test]
    fn more_than_128_compares_or_512_operations_or_1_5_mb_are_refused() {
        let deletes = |count| (0..count).fold(Txn::new(), |txn, n| txn.delete(&key(&format!("n{n}"))));
        assert!(deletes(512).validate().is_ok());
        assert!(matches!(deletes(513).validate(), Err(TxnError::TooManyOperations { operations: 513, .. })));
        let guards = (0..129).fold(Txn::new(), |txn, n| txn.when_exists(&key(&format!("n{n}"))));
        assert!(matches!(guards.validate(), Err(TxnError::TooManyOperations { .. })));
        let bytes = Bytes::from(vec![0; 120 * 1024]);
        let large = (0..13).fold(Txn::new(), |txn, n| txn.put_bytes(&key(&format!("n{n}")), bytes.clone()));
        assert!(matches!(large.validate(), Err(TxnError::TooManyBytes { .. })));
    }

    proptest::proptest! {
        #[test]
        fn lists_within_a_transaction_are_as_long_as_etcd_takes_them(operations in 0_usize..600, compares in 0..=OPERATIONS_MAX) {
            let Some(size) = list_size(operations, compares) else { return Ok(()) };
            let lists = operations.div_ceil(size);
            if operations <= OPERATIONS_MAX {
                proptest::prop_assert!(lists <= 1);
            } else {
                proptest::prop_assert!(compares.max(lists) + size <= OPERATIONS_MAX);
            }
        }
    }

    #[test]
    fn as_many_writes_fit_as_sixty_apps_take() {
        assert!(list_size(60 * 4 + 8, 2 * 60 + 6).is_some(), "new ones: two compares and four writes each");
        assert!(list_size(WRITES_MAX + 1, 0).is_none() && list_size(129, OPERATIONS_MAX).is_none());
    }

    #[test]
    fn what_it_writes_is_known_before_it_happens() {
        let record = pb::NodeRecord { cordoned: true, ..pb::NodeRecord::default() };
        let txn = Txn::new().put(&key("n1"), &record).delete(&key("n2"));
        assert_eq!(txn.written(&key("n1")), Some(record));
        assert_eq!((txn.written(&key("n2")), txn.written(&key("n3"))), (None, None));
    }

    #[test]
    fn one_key_is_written_once() {
        let twice = Txn::new().put(&key("n1"), &pb::NodeRecord::default()).delete(&key("n1"));
        assert!(matches!(twice.validate(), Err(TxnError::KeyTwice { .. })));
        let under = Txn::new()
            .put(&key("n1"), &pb::NodeRecord::default())
            .delete_prefix(&Prefix::<pb::NodeRecord>::all());
        assert!(matches!(under.validate(), Err(TxnError::KeyTwice { .. })));
        let fine = Txn::new()
            .put(&key("n1"), &pb::NodeRecord::default())
            .delete_prefix(&Prefix::<pb::AppRecord>::all());
        assert!(fine.validate().is_ok());
    }
}
