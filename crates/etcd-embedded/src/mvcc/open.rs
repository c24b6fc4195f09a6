//! Making a new store, and bringing one back from durable rows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::entry::{self, FORMAT_VERSION, Row, Table, Write, meta};
use super::fault::CorruptState;
use super::index::Index;
use super::lease::{LEASE_COST_BYTES, Leases};
use super::{Core, Identity};

/// Main revision of a store in which nothing was ever written, as in etcd.
const FIRST_REVISION: i64 = 1;

#[derive(Default)]
struct Meta {
    format: Option<i64>,
    cluster_id: Option<i64>,
    member_id: Option<i64>,
    term: Option<i64>,
    compacted: Option<i64>,
}

impl Core {
    /// The rows of a new, empty store. They are to be durable before [`Core::open`] sees them.
    pub fn format(identity: Identity) -> Vec<Write> {
        vec![
            entry::put_meta(meta::FORMAT, FORMAT_VERSION),
            entry::put_meta(meta::CLUSTER_ID, identity.cluster_id.cast_signed()),
            entry::put_meta(meta::MEMBER_ID, identity.member_id.cast_signed()),
            entry::put_meta(meta::TERM, 1),
        ]
    }

    /// Brings a store back from its rows. Those of [`Table::Revisions`] come in the order of their keys.
    /// Every lease gets its whole time again from `now`.
    pub fn open(rows: impl IntoIterator<Item = Row>, now: Duration) -> Result<Self, CorruptState> {
        let mut found = Meta::default();
        let mut index = Index::default();
        let mut log = VecDeque::new();
        let mut leases = Leases::default();
        let mut size_bytes = 0;
        for row in rows {
            match row.table {
                Table::Meta => found.take(&row)?,
                Table::Leases => {
                    let id = entry::parse_i64(&row.key, "lease")?;
                    leases.insert(id, entry::parse_i64(&row.value, "lease")?, now);
                    size_bytes += LEASE_COST_BYTES;
                }
                Table::Revisions => {
                    let mut entry = entry::parse_entry(&row.key, &row.value)?;
                    if index.newest(&entry.key).is_some_and(|newest| newest >= entry.revision) {
                        return Err(CorruptState::Row { what: "revision" });
                    }
                    if let Some(key) = index.shared_key(&entry.key) {
                        entry.key = key;
                    }
                    let entry = Arc::new(entry);
                    size_bytes += entry.cost_bytes();
                    index.push(Arc::clone(&entry));
                    log.push_back(entry);
                }
            }
        }
        let format = found.format.ok_or(CorruptState::Missing { what: "format" })?;
        if format != FORMAT_VERSION {
            return Err(CorruptState::Format { found: format });
        }
        let compacted = found.compacted.unwrap_or(-1);
        let newest = log.back().map_or(FIRST_REVISION, |entry| entry.revision.main);
        let revision = newest.max(compacted).max(FIRST_REVISION);
        for entry in index.live() {
            if entry.lease != 0 {
                leases.attach(entry.lease, Arc::clone(&entry.key));
            }
        }
        let mut core = Self {
            identity: Identity {
                cluster_id: found
                    .cluster_id
                    .ok_or(CorruptState::Missing { what: "cluster id" })?
                    .cast_unsigned(),
                member_id: found
                    .member_id
                    .ok_or(CorruptState::Missing { what: "member id" })?
                    .cast_unsigned(),
            },
            term: found.term.ok_or(CorruptState::Missing { what: "term" })?,
            revision,
            committed: revision,
            compacted,
            index,
            log,
            log_start: compacted,
            leases,
            garbage: VecDeque::new(),
            size_bytes,
            quota_bytes: usize::MAX,
        };
        core.resume_compaction();
        Ok(core)
    }

    /// Counts one more opening of the store; the driver makes the write durable before it serves.
    pub fn begin_term(&mut self) -> Vec<Write> {
        self.term += 1;
        vec![entry::put_meta(meta::TERM, self.term)]
    }

    /// Finds the rows that a compaction had made useless and that were not removed before the stop.
    fn resume_compaction(&mut self) {
        let compacted = self.compacted;
        while self.log.front().is_some_and(|entry| entry.revision.main < compacted) {
            self.log.pop_front();
        }
        let keys: Vec<_> = self.index.all_keys().cloned().collect();
        for key in keys {
            self.forget_before(&key, compacted);
        }
    }
}

impl Meta {
    fn take(&mut self, row: &Row) -> Result<(), CorruptState> {
        let place = match row.key.as_slice() {
            meta::FORMAT => &mut self.format,
            meta::CLUSTER_ID => &mut self.cluster_id,
            meta::MEMBER_ID => &mut self.member_id,
            meta::TERM => &mut self.term,
            meta::COMPACTED => &mut self.compacted,
            _ => return Err(CorruptState::Row { what: "meta" }),
        };
        *place = Some(entry::parse_i64(&row.value, "meta")?);
        Ok(())
    }
}
