//! The last changes of a mirror, for consumers that want deltas. Bounded: who lags behind it starts over from the snapshot.

use std::collections::VecDeque;

use super::core::Change;

/// Changes that are kept, at most: some seconds of a busy fleet.
const CHANGES_MAX: usize = 16 * 1024;
/// Bytes of old and new values that are kept alive by changes, at most.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// Where a consumer stands in the changes of one mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(u64);

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// All changes, in the order in which they became visible. Of one key, in the order of their revisions.
    Since(Vec<Change>),
    /// They are not known: begin anew from the snapshot.
    Resync,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    changes: VecDeque<Change>,
    bytes: usize,
    /// The number of the first kept change.
    first: u64,
    /// All changes above this revision are kept.
    floor: i64,
}

impl Log {
    pub(super) fn extend(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.bytes += bytes(&change);
            self.changes.push_back(change);
        }
        while self.changes.len() > CHANGES_MAX || self.bytes > BYTES_MAX {
            let Some(change) = self.changes.pop_front() else { break };
            self.bytes -= bytes(&change);
            self.floor = self.floor.max(change.revision);
            self.first += 1;
        }
    }

    /// Forgets everything: nobody continues from before.
    pub(super) fn restart(&mut self, revision: i64) {
        // One number is left out, so that a cursor at the end does not continue either.
        self.first += self.changes.len() as u64 + 1;
        self.changes.clear();
        self.bytes = 0;
        self.floor = revision;
    }

    pub(super) fn since(&self, cursor: Option<Cursor>) -> (Changes, Cursor) {
        let end = Cursor(self.first + self.changes.len() as u64);
        let skip = cursor.filter(|cursor| *cursor <= end).and_then(|cursor| cursor.0.checked_sub(self.first));
        let changes = match skip.and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) => Changes::Since(self.changes.iter().skip(skip).cloned().collect()),
            None => Changes::Resync,
        };
        (changes, end)
    }

    pub(super) fn after_revision(&self, revision: i64) -> Option<Cursor> {
        if revision < self.floor {
            return None;
        }
        let skip =
            self.changes.iter().position(|change| change.revision > revision).unwrap_or(self.changes.len());
        Some(Cursor(self.first + skip as u64))
    }
}

fn bytes(change: &Change) -> usize {
    [&change.old, &change.new].into_iter().flatten().map(|entry| entry.bytes.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::record::Entry;

    fn change(revision: i64, bytes: usize) -> Change {
        let entry = Entry {
            key: Arc::from("k"),
            bytes: Bytes::from(vec![0; bytes]),
            create_revision: 1,
            mod_revision: revision,
        };
        Change { old: None, new: Some(Arc::new(entry)), revision }
    }

    fn revisions(changes: &Changes) -> Vec<i64> {
        match changes {
            Changes::Since(changes) => changes.iter().map(|change| change.revision).collect(),
            Changes::Resync => panic!("resync"),
        }
    }

    #[test]
    fn a_cursor_continues_where_it_was() {
        let mut log = Log::default();
        log.restart(5);
        let (changes, cursor) = log.since(None);
        assert_eq!(changes, Changes::Resync);
        log.extend(vec![change(6, 1), change(8, 1)]);
        let (changes, next) = log.since(Some(cursor));
        assert_eq!(revisions(&changes), [6, 8]);
        assert!(revisions(&log.since(Some(next)).0).is_empty());
        assert_eq!(revisions(&log.since(log.after_revision(6)).0), [8]);
        assert_eq!(log.after_revision(4), None);
        log.restart(9);
        assert_eq!(log.since(Some(next)).0, Changes::Resync);
        assert_eq!(log.since(Some(cursor)).0, Changes::Resync);
    }

    #[test]
    fn who_lags_behind_the_bound_starts_over() {
        let mut log = Log::default();
        log.restart(0);
        let cursor = log.since(None).1;
        log.extend((1..=CHANGES_MAX as i64).map(|revision| change(revision, 0)).collect());
        assert_eq!(revisions(&log.since(Some(cursor)).0).len(), CHANGES_MAX);
        log.extend(vec![change(CHANGES_MAX as i64 + 1, 0)]);
        assert_eq!(log.since(Some(cursor)).0, Changes::Resync);
        assert_eq!(log.after_revision(0), None);
        assert!(log.after_revision(1).is_some());
    }

    #[test]
    fn large_values_are_not_kept_beyond_the_bound() {
        let mut log = Log::default();
        log.restart(0);
        log.extend((1..=100).map(|revision| change(revision, 1024 * 1024)).collect());
        assert_eq!(log.changes.len(), 32);
        assert!(log.bytes <= BYTES_MAX);
    }
}
