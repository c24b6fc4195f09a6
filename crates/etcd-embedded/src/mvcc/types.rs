//! Commands, reads and answers of the core, free of any wire format.

use std::sync::Arc;

use super::entry::{Entry, Key};

/// A key, or a range of keys, as etcd's `key` and `range_end` say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The key, or the first key of the range.
    pub key: Vec<u8>,
    /// Empty: one key. One zero byte: every key from `key` on. Else the first key after the range.
    pub range_end: Vec<u8>,
}

impl KeyRange {
    /// The range of exactly one key.
    pub fn one(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), range_end: Vec::new() }
    }

    /// The range of all keys that begin with `prefix`, which is not empty.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let key = prefix.into();
        let mut range_end = key.clone();
        while let Some(last) = range_end.pop() {
            if last < 0xff {
                range_end.push(last + 1);
                return Self { key, range_end };
            }
        }
        Self { key, range_end: vec![0] }
    }

    /// The range of all keys.
    pub fn all() -> Self {
        Self { key: vec![0], range_end: vec![0] }
    }

    /// Whether the range is one key by its form.
    pub fn is_one(&self) -> bool {
        self.range_end.is_empty()
    }

    /// Whether the range has no upper end.
    pub fn is_open(&self) -> bool {
        self.range_end == [0]
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_one() {
            return key == self.key;
        }
        key >= self.key.as_slice() && (self.is_open() || key < self.range_end.as_slice())
    }
}

/// By which field an answer is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// How often the key has been put.
    Version,
    /// When the key was created.
    Create,
    /// When the key was last put.
    Mod,
    /// The value.
    Value,
}

/// In which direction an answer is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// Not at all: by key, as the index has them.
    #[default]
    None,
    /// Lowest first.
    Ascend,
    /// Highest first.
    Descend,
}

/// A read of keys at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// At most this many; 0 or less is no limit.
    pub limit: i64,
    /// As of this main revision; 0 or less is now.
    pub revision: i64,
    /// Direction of sorting.
    pub order: SortOrder,
    /// Field of sorting.
    pub target: SortTarget,
    /// Count and return nothing.
    pub count_only: bool,
    /// Filters on the revisions of what is returned; 0 is no filter.
    pub min_mod_revision: i64,
    /// See `min_mod_revision`.
    pub max_mod_revision: i64,
    /// See `min_mod_revision`.
    pub min_create_revision: i64,
    /// See `min_mod_revision`.
    pub max_create_revision: i64,
}

impl Range {
    /// All of `keys` as they are now.
    pub fn new(keys: KeyRange) -> Self {
        Self {
            keys,
            limit: 0,
            revision: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            count_only: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }
}

/// A write of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Vec<u8>,
    /// Its new value.
    pub value: Vec<u8>,
    /// The lease that shall hold the key, or 0.
    pub lease: i64,
    /// Answer with what was there before.
    pub prev_kv: bool,
    /// Keep the value that is there.
    pub ignore_value: bool,
    /// Keep the lease that is there.
    pub ignore_lease: bool,
}

impl Put {
    /// A plain write.
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            lease: 0,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        }
    }
}

/// A removal of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Which keys.
    pub keys: KeyRange,
    /// Answer with what was there before.
    pub prev_kv: bool,
}

/// What a comparison compares with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// How often the key has been put.
    Version(i64),
    /// When the key was created.
    Create(i64),
    /// When the key was last put.
    Mod(i64),
    /// The value. Never true of a key that does not exist.
    Value(Vec<u8>),
    /// The lease that holds the key.
    Lease(i64),
}

/// How a comparison compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The key's field equals the operand.
    Equal,
    /// The key's field is above the operand.
    Greater,
    /// The key's field is below the operand.
    Less,
    /// The key's field differs from the operand.
    NotEqual,
}

/// A condition on one key, or on every key of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub keys: KeyRange,
    /// How.
    pub relation: Relation,
    /// With what.
    pub operand: Operand,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A read.
    Range(Range),
    /// A write.
    Put(Put),
    /// A removal.
    Delete(Delete),
    /// A transaction within.
    Txn(Txn),
    /// An operation without content; refused.
    Empty,
}

/// Comparisons, and what to do when they all hold or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All of these must hold.
    pub compare: Vec<Compare>,
    /// Done in order when they do.
    pub success: Vec<Op>,
    /// Done in order when one does not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// Whether no branch of the transaction can write.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| match op {
            Op::Range(_) | Op::Empty => true,
            Op::Put(_) | Op::Delete(_) => false,
            Op::Txn(txn) => txn.is_read_only(),
        })
    }
}

/// What the core can be told to do. Reads of keys are not commands: see [`Core::range`](super::Core::range).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write one key.
    Put(Put),
    /// Remove keys.
    Delete(Delete),
    /// Compare, then read and write.
    Txn(Txn),
    /// Forget what was superseded before this revision.
    Compact {
        /// Main revision that stays readable.
        revision: i64,
    },
    /// Make a lease.
    LeaseGrant {
        /// Its id, chosen by the caller, not 0.
        id: i64,
        /// Seconds that it lives without being kept alive.
        ttl_s: i64,
    },
    /// End a lease and remove its keys.
    LeaseRevoke {
        /// Which one.
        id: i64,
    },
    /// Let a lease live for its whole time from now.
    LeaseKeepAlive {
        /// Which one.
        id: i64,
    },
    /// Let every lease live for its whole time from now: after a stall in which nobody could be heard.
    LeaseKeepAll,
    /// How long a lease has to live, and its keys.
    LeaseTimeToLive {
        /// Which one.
        id: i64,
    },
    /// All leases.
    LeaseList,
}

/// Answer to a read of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeAnswer {
    /// Main revision of the store at the read.
    pub revision: i64,
    /// What was found.
    pub entries: Vec<Arc<Entry>>,
    /// Whether the limit cut something off.
    pub more: bool,
    /// How many keys the range holds, without limit and filters.
    pub count: i64,
}

/// Answer to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutAnswer {
    /// Main revision after the write.
    pub revision: i64,
    /// What was there before, when asked for.
    pub prev: Option<Arc<Entry>>,
}

/// Answer to a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteAnswer {
    /// Main revision after the removal.
    pub revision: i64,
    /// How many keys were removed.
    pub deleted: i64,
    /// What was there before, when asked for.
    pub prev: Vec<Arc<Entry>>,
}

/// Answer to one operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpAnswer {
    /// Of a read.
    Range(RangeAnswer),
    /// Of a write.
    Put(PutAnswer),
    /// Of a removal.
    Delete(DeleteAnswer),
    /// Of a transaction within; its revision is 0, as in etcd.
    Txn(TxnAnswer),
}

/// Answer to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Main revision after the transaction.
    pub revision: i64,
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// Answers of the operations that were done, in order.
    pub answers: Vec<OpAnswer>,
}

/// A lease as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Its id.
    pub id: i64,
    /// Seconds for which it was granted.
    pub granted_ttl_s: i64,
    /// Whole seconds that remain.
    pub remaining_s: i64,
    /// The keys that it holds, in order.
    pub keys: Vec<Key>,
}

/// Answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To `Put`.
    Put(PutAnswer),
    /// To `Delete`.
    Delete(DeleteAnswer),
    /// To `Txn`.
    Txn(TxnAnswer),
    /// To `Compact`, `LeaseRevoke`, `LeaseKeepAll`: the main revision.
    Done {
        /// Main revision of the store.
        revision: i64,
    },
    /// To `LeaseGrant` and `LeaseKeepAlive`.
    Lease {
        /// Main revision of the store.
        revision: i64,
        /// The lease's id.
        id: i64,
        /// Seconds that it lives from now.
        ttl_s: i64,
    },
    /// To `LeaseTimeToLive`.
    LeaseState {
        /// Main revision of the store.
        revision: i64,
        /// How it stands.
        state: LeaseState,
    },
    /// To `LeaseList`: ids, the one that ends first at the head.
    LeaseList {
        /// Main revision of the store.
        revision: i64,
        /// The leases' ids.
        ids: Vec<i64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_what_begins_with_it_and_nothing_else() {
        let range = KeyRange::prefix(b"a\xff".to_vec());
        assert!(range.contains(b"a\xff"));
        assert!(range.contains(b"a\xff\xff"));
        assert!(!range.contains(b"b"));
        assert!(!range.contains(b"a\xfe"));
        assert!(KeyRange::prefix(b"\xff".to_vec()).contains(b"\xff\xff\xff"));
    }

    #[test]
    fn a_range_whose_end_is_before_its_start_is_empty() {
        let range = KeyRange { key: b"b".to_vec(), range_end: b"a".to_vec() };
        assert!(!range.contains(b"a") && !range.contains(b"b"));
    }
}
