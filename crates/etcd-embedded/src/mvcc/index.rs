//! Every key's changes in memory, and what of them is visible at a revision.
//!
//! Knows nothing of leases, transactions or disks.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::entry::{Entry, Key, Revision};
use super::types::KeyRange;

/// All keys with their changes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<Key, Vec<Arc<Entry>>>,
}

impl Index {
    /// Adds a change, which is newer than every other of its key.
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        match self.keys.get_mut(&entry.key) {
            Some(changes) => changes.push(entry),
            None => {
                self.keys.insert(Arc::clone(&entry.key), vec![entry]);
            }
        }
    }

    /// The key as it was after main revision `at`, if it lived then.
    pub(super) fn get(&self, key: &[u8], at: i64) -> Option<&Arc<Entry>> {
        visible(self.keys.get(key)?, at)
    }

    /// A key that the index knows, to share its bytes.
    pub(super) fn shared_key(&self, key: &[u8]) -> Option<Key> {
        self.keys.get_key_value(key).map(|(key, _)| Arc::clone(key))
    }

    /// The keys of a range that lived after main revision `at`, in order.
    pub(super) fn range<'a>(&'a self, keys: &'a KeyRange, at: i64) -> impl Iterator<Item = &'a Arc<Entry>> {
        let start = Bound::Included(keys.key.as_slice());
        let end = if keys.is_one() {
            Bound::Included(keys.key.as_slice())
        } else if keys.is_open() {
            Bound::Unbounded
        } else {
            Bound::Excluded(keys.range_end.as_slice())
        };
        // A range that ends where it begins, or before, is empty; BTreeMap would panic.
        let empty = !keys.is_one() && !keys.is_open() && keys.range_end <= keys.key;
        (!empty)
            .then(|| self.keys.range::<[u8], _>((start, end)))
            .into_iter()
            .flatten()
            .filter_map(move |(_, changes)| visible(changes, at))
    }

    /// Forgets what of one key no read at `at` or later, and no watch from `at` on, can see.
    pub(super) fn compact_key(&mut self, key: &[u8], at: i64, mut forgotten: impl FnMut(&Entry)) {
        let Some(changes) = self.keys.get_mut(key) else { return };
        let before = changes.partition_point(|entry| entry.revision.main < at);
        let changed_at = changes.get(before).is_some_and(|entry| entry.revision.main == at);
        // The newest change before `at` is still visible, unless the key changed at `at` or was gone.
        let keep_newest =
            !changed_at && before.checked_sub(1).is_some_and(|newest| !changes[newest].is_tombstone());
        let drop = if keep_newest { before - 1 } else { before };
        for entry in changes.drain(..drop) {
            forgotten(&entry);
        }
        if changes.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Every key, whether it lives or not.
    pub(super) fn all_keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.keys()
    }

    /// How many changes of a key are kept.
    #[cfg(test)]
    pub(super) fn changes(&self, key: &[u8]) -> usize {
        self.keys.get(key).map_or(0, Vec::len)
    }

    /// Every key that lives now.
    pub(super) fn live(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.keys.values().filter_map(|changes| visible(changes, i64::MAX))
    }

    /// The newest revision of a key, for checking order on load.
    pub(super) fn newest(&self, key: &[u8]) -> Option<Revision> {
        self.keys.get(key)?.last().map(|entry| entry.revision)
    }
}

fn visible(changes: &[Arc<Entry>], at: i64) -> Option<&Arc<Entry>> {
    let newest = changes.last()?;
    let entry = if newest.revision.main <= at {
        newest
    } else {
        let after = changes.partition_point(|entry| entry.revision.main <= at);
        changes.get(after.checked_sub(1)?)?
    };
    (!entry.is_tombstone()).then_some(entry)
}
