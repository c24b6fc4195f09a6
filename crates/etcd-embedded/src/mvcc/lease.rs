//! Leases: how long they live and which keys they hold. Which writes that makes is the core's business.
//!
//! Deadlines live in memory only: whoever opens the store gives every lease its whole time again, as etcd
//! does after an election, because nobody could keep a lease alive while the store was closed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::entry::Key;
use super::types::LeaseState;

/// A shorter time to live is raised to this. What etcd takes with its default election time-out.
pub const MIN_LEASE_TTL_S: i64 = 2;
/// A longer time to live is refused. etcd's bound.
pub const MAX_LEASE_TTL_S: i64 = 9_000_000_000;
/// What a lease without keys takes of memory, roughly. It counts against the quota, so that nobody can grant without end.
pub(super) const LEASE_COST_BYTES: usize = 256;

#[derive(Debug)]
struct Lease {
    ttl_s: i64,
    deadline: Duration,
    keys: BTreeSet<Key>,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    by_deadline: BTreeSet<(Duration, i64)>,
}

impl Leases {
    pub(super) fn contains(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Adds a lease whose id is not taken.
    pub(super) fn insert(&mut self, id: i64, ttl_s: i64, now: Duration) {
        let deadline = deadline(now, ttl_s);
        self.by_id.insert(id, Lease { ttl_s, deadline, keys: BTreeSet::new() });
        self.by_deadline.insert((deadline, id));
    }

    /// Removes a lease and says which keys it held, in order.
    pub(super) fn remove(&mut self, id: i64) -> Option<BTreeSet<Key>> {
        let lease = self.by_id.remove(&id)?;
        self.by_deadline.remove(&(lease.deadline, id));
        Some(lease.keys)
    }

    /// Lets a lease live for its whole time from `now`, and says how long that is.
    pub(super) fn renew(&mut self, id: i64, now: Duration) -> Option<i64> {
        let lease = self.by_id.get_mut(&id)?;
        self.by_deadline.remove(&(lease.deadline, id));
        lease.deadline = deadline(now, lease.ttl_s);
        self.by_deadline.insert((lease.deadline, id));
        Some(lease.ttl_s)
    }

    pub(super) fn renew_all(&mut self, now: Duration) {
        self.by_deadline.clear();
        for (id, lease) in &mut self.by_id {
            lease.deadline = deadline(now, lease.ttl_s);
            self.by_deadline.insert((lease.deadline, *id));
        }
    }

    pub(super) fn attach(&mut self, id: i64, key: Key) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    pub(super) fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    pub(super) fn state(&self, id: i64, now: Duration) -> Option<LeaseState> {
        let lease = self.by_id.get(&id)?;
        let remaining_s = lease.deadline.saturating_sub(now).as_secs();
        Some(LeaseState {
            id,
            granted_ttl_s: lease.ttl_s,
            remaining_s: i64::try_from(remaining_s).unwrap_or(i64::MAX),
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// Ids, the lease that ends first at the head.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.by_deadline.iter().map(|(_, id)| *id).collect()
    }

    /// The lease that ends first, and when.
    pub(super) fn first_deadline(&self) -> Option<(Duration, i64)> {
        self.by_deadline.first().copied()
    }
}

fn deadline(now: Duration, ttl_s: i64) -> Duration {
    now.saturating_add(Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0)))
}
