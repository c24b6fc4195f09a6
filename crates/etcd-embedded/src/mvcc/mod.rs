//! The store itself: a multi-version map with transactions, leases, history and compaction, as a state
//! machine without I/O, clock or randomness.
//!
//! Whoever drives it (the writer thread of this crate, or a simulator) does, in this order:
//! 1. [`Core::apply`] for one command or many. The state is ahead of the disk now; reads do not show that.
//! 2. Write the [`Effects::writes`] of each, in order, and sync. One command's writes are atomic together.
//! 3. [`Core::commit`] with [`Core::revision`] as it was after the last command written. Reads, watches and the
//!    answers to the commands may go out now, and not before.
//!
//! After a crash, [`Core::open`] on what the disk kept gives the state of some prefix of the commands, and
//! all those that were synced are in it. Time is a duration since any moment that stays the same while a
//! core lives; leases end through [`Core::tick`].

mod check;
mod entry;
mod fault;
mod history;
mod index;
mod lease;
mod mem_disk;
mod open;
mod read;
#[cfg(test)]
mod tests;
mod txn;
mod types;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use check::MAX_TXN_OPS;
pub use entry::{Entry, Key, Revision, Row, Table, Write};
pub use fault::{CorruptState, Fault};
pub use history::{HistoryItem, HistoryPage};
pub use lease::{MAX_LEASE_TTL_S, MIN_LEASE_TTL_S};
pub use mem_disk::MemDisk;
pub use types::{
    Answer, Command, Compare, Delete, DeleteAnswer, KeyRange, LeaseState, Op, OpAnswer, Operand, Put,
    PutAnswer, Range, RangeAnswer, Relation, SortOrder, SortTarget, Txn, TxnAnswer,
};

use index::Index;
use lease::{LEASE_COST_BYTES, Leases};

/// Changes below the compacted revision that stay readable to watchers that exist.
const LOG_GRACE_ENTRIES: usize = 10_000;
/// The same in bytes.
const LOG_GRACE_BYTES: usize = 4 << 20;

/// What one command changes beside the core's own memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Rows to write, atomically.
    pub writes: Vec<Write>,
    /// What watchers shall see once the writes are durable, in order.
    pub events: Vec<Arc<Entry>>,
}

/// Who the store says it is, in every answer's header. Chosen once and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Names the data.
    pub cluster_id: u64,
    /// Names the one member.
    pub member_id: u64,
}

/// The store. See the module's head for how to drive it.
#[derive(Debug)]
pub struct Core {
    identity: Identity,
    term: i64,
    /// Newest main revision that was applied.
    revision: i64,
    /// Newest main revision that is durable: what reads see.
    committed: i64,
    /// Oldest main revision that is kept; -1 before the first compaction, as in etcd.
    compacted: i64,
    index: Index,
    /// Every change from `log_start` on, oldest first.
    log: VecDeque<Arc<Entry>>,
    /// At or below `compacted`: what watchers that are about to be served may still read.
    log_start: i64,
    leases: Leases,
    /// Rows that compaction made useless and that are still on the disk.
    garbage: VecDeque<Revision>,
    size_bytes: usize,
    quota_bytes: usize,
}

/// A transaction that is being done: its main revision, and how many changes it has made.
struct Change {
    main: i64,
    changes: i64,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.changes == 0
    }
}

impl Core {
    /// Does one command. A refused command has no effects.
    pub fn apply(&mut self, command: Command, now: Duration) -> (Result<Answer, Fault>, Effects) {
        let mut effects = Effects::default();
        let answer = check::check_command(&command)
            .and_then(|()| self.check_space(&command))
            .and_then(|()| self.do_command(command, now, &mut effects));
        debug_assert!(answer.is_ok() || effects == Effects::default());
        (answer, effects)
    }

    /// Ends the leases whose time is over at `now`, at most `leases_max` of them.
    pub fn tick(&mut self, now: Duration, leases_max: usize) -> Effects {
        let mut effects = Effects::default();
        for _ in 0..leases_max {
            match self.leases.first_deadline() {
                Some((deadline, id)) if deadline <= now => self.end_lease(id, &mut effects),
                _ => break,
            }
        }
        effects
    }

    /// When the next lease ends, if nobody keeps it alive.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.leases.first_deadline().map(|(deadline, _)| deadline)
    }

    /// Removes rows that compaction made useless, at most `rows_max` of them.
    pub fn scrub(&mut self, rows_max: usize) -> Effects {
        let rows = rows_max.min(self.garbage.len());
        let writes = self.garbage.drain(..rows).map(entry::remove_entry).collect();
        Effects { writes, events: Vec::new() }
    }

    /// How many rows there are to [`scrub`](Self::scrub).
    pub fn garbage_rows(&self) -> usize {
        self.garbage.len()
    }

    /// Says that everything up to main revision `revision` is durable, and so may be seen.
    pub fn commit(&mut self, revision: i64) {
        debug_assert!(self.committed <= revision && revision <= self.revision);
        self.committed = revision;
    }

    /// Newest main revision that was applied.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Newest main revision that is durable.
    pub fn committed(&self) -> i64 {
        self.committed
    }

    /// Oldest main revision that can be read; negative when none was compacted.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Who the store says it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// How often the store has been opened, in the place of a raft term.
    pub fn term(&self) -> i64 {
        self.term
    }

    /// Bytes of memory that keys, values, leases and their bookkeeping take, roughly.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Above this many bytes, writes that add something are refused. Without limit until it is set.
    pub fn set_quota(&mut self, quota_bytes: usize) {
        self.quota_bytes = quota_bytes;
    }

    /// Reads keys, on committed state.
    pub fn range(&self, range: &Range) -> Result<RangeAnswer, Fault> {
        check::check_range(range)?;
        read::read(&self.index, range, self.committed, self.compacted)
    }

    fn check_space(&self, command: &Command) -> Result<(), Fault> {
        let adds = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => self.grows(txn),
            _ => false,
        };
        if adds && self.size_bytes > self.quota_bytes { Err(Fault::NoSpace) } else { Ok(()) }
    }

    /// Whether a transaction may add more than it takes away, whichever branch is taken. etcd refuses each that puts; here one that removes old records and
    /// notes up to where is taken, or a full store could never be made smaller by it.
    fn grows(&self, txn: &Txn) -> bool {
        let live =
            |key: &[u8]| self.index.get(key, i64::MAX).map_or(0, |entry| entry.key.len() + entry.value.len());
        [&txn.success, &txn.failure].into_iter().any(|ops| {
            let (mut put, mut removed, mut unknown) = (0, 0, false);
            for op in ops {
                match op {
                    Op::Put(one) => put += one.key.len() + one.value.len(),
                    Op::Delete(delete) if delete.keys.is_one() => removed += live(&delete.keys.key),
                    Op::Txn(within) => unknown |= can_put(within),
                    Op::Range(_) | Op::Delete(_) | Op::Empty => {}
                }
            }
            unknown || (put > 0 && put >= removed)
        })
    }

    fn do_command(
        &mut self,
        command: Command,
        now: Duration,
        effects: &mut Effects,
    ) -> Result<Answer, Fault> {
        match command {
            Command::Put(put) => {
                // The lease first, and in a transaction the key first: etcd's order.
                self.check_lease(&put)?;
                self.check_kept(&put)?;
                let mut change = self.begin();
                let answer = self.do_put(put, &mut change, effects);
                self.finish(&change);
                Ok(Answer::Put(answer))
            }
            Command::Delete(delete) => {
                let mut change = self.begin();
                let answer = self.do_delete(&delete, &mut change, effects);
                self.finish(&change);
                Ok(Answer::Delete(answer))
            }
            Command::Txn(txn) => self.apply_txn(txn, effects),
            Command::Compact { revision } => self.compact(revision, effects),
            Command::LeaseGrant { id, ttl_s } => self.grant(id, ttl_s, now, effects),
            Command::LeaseRevoke { id } => {
                if !self.leases.contains(id) {
                    return Err(Fault::LeaseNotFound);
                }
                self.end_lease(id, effects);
                Ok(Answer::Done { revision: self.revision })
            }
            Command::LeaseKeepAlive { id } => {
                let ttl_s = self.leases.renew(id, now).ok_or(Fault::LeaseNotFound)?;
                Ok(Answer::Lease { revision: self.revision, id, ttl_s })
            }
            Command::LeaseKeepAll => {
                self.leases.renew_all(now);
                Ok(Answer::Done { revision: self.revision })
            }
            Command::LeaseTimeToLive { id } => {
                let state = self.leases.state(id, now).ok_or(Fault::LeaseNotFound)?;
                Ok(Answer::LeaseState { revision: self.revision, state })
            }
            Command::LeaseList => Ok(Answer::LeaseList { revision: self.revision, ids: self.leases.ids() }),
        }
    }

    /// The key whose value or lease a put keeps exists.
    fn check_kept(&self, put: &Put) -> Result<(), Fault> {
        let keeps = put.ignore_value || put.ignore_lease;
        let missing = keeps && self.index.get(&put.key, i64::MAX).is_none();
        if missing { Err(Fault::KeyNotFound) } else { Ok(()) }
    }

    fn check_lease(&self, put: &Put) -> Result<(), Fault> {
        let missing = put.lease != 0 && !self.leases.contains(put.lease);
        if missing { Err(Fault::LeaseNotFound) } else { Ok(()) }
    }

    fn begin(&self) -> Change {
        Change { main: self.revision + 1, changes: 0 }
    }

    /// Ends a transaction and says the main revision after it.
    fn finish(&mut self, change: &Change) -> i64 {
        if !change.is_empty() {
            self.revision = change.main;
        }
        self.revision
    }

    fn do_put(&mut self, put: Put, change: &mut Change, effects: &mut Effects) -> PutAnswer {
        let prev = self.index.get(&put.key, i64::MAX).cloned();
        let old_lease = prev.as_ref().map_or(0, |prev| prev.lease);
        let lease = if put.ignore_lease { old_lease } else { put.lease };
        let value = match &prev {
            Some(prev) if put.ignore_value => prev.value.clone(),
            _ => put.value.into_boxed_slice(),
        };
        let key = self.index.shared_key(&put.key).unwrap_or_else(|| put.key.into());
        if old_lease != 0 && old_lease != lease {
            self.leases.detach(old_lease, &key);
        }
        if lease != 0 {
            self.leases.attach(lease, Arc::clone(&key));
        }
        let entry = Entry {
            revision: Revision { main: change.main, sub: change.changes },
            key,
            value,
            create_revision: prev.as_ref().map_or(change.main, |prev| prev.create_revision),
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
            lease,
        };
        self.record(entry, change, effects);
        PutAnswer { revision: change.main, prev: prev.filter(|_| put.prev_kv) }
    }

    fn do_delete(&mut self, delete: &Delete, change: &mut Change, effects: &mut Effects) -> DeleteAnswer {
        let found: Vec<Arc<Entry>> = self.index.range(&delete.keys, i64::MAX).cloned().collect();
        for old in &found {
            self.bury(old, change, effects);
        }
        DeleteAnswer {
            revision: if change.is_empty() { self.revision } else { change.main },
            deleted: i64::try_from(found.len()).unwrap_or(i64::MAX),
            prev: if delete.prev_kv { found } else { Vec::new() },
        }
    }

    /// Leaves a tombstone for a key that lives.
    fn bury(&mut self, old: &Entry, change: &mut Change, effects: &mut Effects) {
        if old.lease != 0 {
            self.leases.detach(old.lease, &old.key);
        }
        let tombstone = Entry {
            revision: Revision { main: change.main, sub: change.changes },
            key: Arc::clone(&old.key),
            value: Box::default(),
            create_revision: 0,
            version: 0,
            lease: 0,
        };
        self.record(tombstone, change, effects);
    }

    fn record(&mut self, entry: Entry, change: &mut Change, effects: &mut Effects) {
        let entry = Arc::new(entry);
        change.changes += 1;
        self.size_bytes += entry.cost_bytes();
        effects.writes.push(entry::put_entry(&entry));
        effects.events.push(Arc::clone(&entry));
        self.index.push(Arc::clone(&entry));
        self.log.push_back(entry);
    }

    fn grant(&mut self, id: i64, ttl_s: i64, now: Duration, effects: &mut Effects) -> Result<Answer, Fault> {
        if id == 0 {
            return Err(Fault::LeaseNotFound);
        }
        if ttl_s > MAX_LEASE_TTL_S {
            return Err(Fault::LeaseTtlTooLarge);
        }
        if self.leases.contains(id) {
            return Err(Fault::LeaseExists);
        }
        let ttl_s = ttl_s.max(MIN_LEASE_TTL_S);
        self.leases.insert(id, ttl_s, now);
        self.size_bytes += LEASE_COST_BYTES;
        effects.writes.push(entry::put_lease(id, ttl_s));
        Ok(Answer::Lease { revision: self.revision, id, ttl_s })
    }

    /// Ends a lease that exists, and removes its keys in one transaction.
    fn end_lease(&mut self, id: i64, effects: &mut Effects) {
        let keys = self.leases.remove(id).unwrap_or_default();
        self.size_bytes = self.size_bytes.saturating_sub(LEASE_COST_BYTES);
        let mut change = self.begin();
        for key in keys {
            if let Some(old) = self.index.get(&key, i64::MAX).cloned() {
                self.bury(&old, &mut change, effects);
            }
        }
        self.finish(&change);
        effects.writes.push(entry::remove_lease(id));
    }

    fn compact(&mut self, revision: i64, effects: &mut Effects) -> Result<Answer, Fault> {
        if revision <= self.compacted {
            return Err(Fault::Compacted);
        }
        // What is not durable yet nobody has seen, and reads still look below it.
        if revision > self.committed {
            return Err(Fault::FutureRevision);
        }
        // Only keys that changed in the part of the history that ends here can have lost something.
        let start = self.log.partition_point(|entry| entry.revision.main < self.compacted);
        let end = self.log.partition_point(|entry| entry.revision.main <= revision);
        let touched: Vec<Key> = self.log.range(start..end).map(|entry| Arc::clone(&entry.key)).collect();
        self.compacted = revision;
        effects.writes.push(entry::put_meta(entry::meta::COMPACTED, revision));
        for key in touched {
            self.forget_before(&key, revision);
        }
        self.trim_log();
        Ok(Answer::Done { revision: self.revision })
    }

    /// Forgets the compacted part of the log, but for its newest end: a compaction right after a write does not
    /// take the write away from watchers that were waiting for it.
    fn trim_log(&mut self) {
        let compacted = self.log.partition_point(|entry| entry.revision.main < self.compacted);
        let mut keep = 0;
        let mut bytes = 0;
        for entry in self.log.range(..compacted).rev().take(LOG_GRACE_ENTRIES) {
            bytes += entry.cost_bytes();
            if bytes > LOG_GRACE_BYTES {
                break;
            }
            keep += 1;
        }
        for entry in self.log.drain(..compacted - keep) {
            // Its transaction may go on in what is kept, and is no longer whole.
            self.log_start = entry.revision.main + 1;
        }
    }

    fn forget_before(&mut self, key: &[u8], revision: i64) {
        let (garbage, size_bytes) = (&mut self.garbage, &mut self.size_bytes);
        self.index.compact_key(key, revision, |entry| {
            garbage.push_back(entry.revision);
            *size_bytes = size_bytes.saturating_sub(entry.cost_bytes());
        });
    }
}

fn can_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(txn) => can_put(txn),
        Op::Range(_) | Op::Delete(_) | Op::Empty => false,
    })
}
