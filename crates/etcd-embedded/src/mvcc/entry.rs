//! What the store remembers of one change of one key, and how that is laid out on disk.
//!
//! A row of the disk is a key and a value in one of three tables. This file owns the bytes; which rows
//! are written when is decided by the core, and where they go is the business of a disk.

use std::sync::Arc;

use super::fault::CorruptState;

/// A key of the store. Shared between the index, the entries and the leases.
pub type Key = Arc<[u8]>;

/// A position in the history: the main revision counts transactions, the sub revision the changes in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Counts transactions that changed something; the first one is 2, as in etcd.
    pub main: i64,
    /// Counts the changes in one transaction, from 0.
    pub sub: i64,
}

/// One change of one key: a put, or a tombstone left by a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When the change happened.
    pub revision: Revision,
    /// The key that changed.
    pub key: Key,
    /// The value that was put; empty in a tombstone.
    pub value: Box<[u8]>,
    /// Main revision at which this life of the key began; 0 in a tombstone.
    pub create_revision: i64,
    /// How many times this life of the key has been put; 0 in a tombstone.
    pub version: i64,
    /// The lease that holds the key, or 0.
    pub lease: i64,
}

impl Entry {
    /// Whether the change is a delete.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// Whether the change began a life of the key.
    pub fn is_create(&self) -> bool {
        !self.is_tombstone() && self.create_revision == self.revision.main
    }

    /// What the entry costs in memory, in bytes: its data and a fixed share for the index.
    pub fn cost_bytes(&self) -> usize {
        /// Entry, two reference counts, and its places in the index and in the history.
        const OVERHEAD_BYTES: usize = 192;
        self.key.len() + self.value.len() + OVERHEAD_BYTES
    }
}

/// The three tables of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Every entry that is still needed, by revision.
    Revisions,
    /// Every granted lease, by id.
    Leases,
    /// Format version, identity, term and compaction.
    Meta,
}

/// One row to write or to remove. The writes of one [`Effects`](super::Effects) are atomic together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where the row is.
    pub table: Table,
    /// The row's key.
    pub key: Vec<u8>,
    /// The row's new value; `None` removes the row.
    pub value: Option<Vec<u8>>,
}

/// One row as read back from a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where the row is.
    pub table: Table,
    /// The row's key.
    pub key: Vec<u8>,
    /// The row's value.
    pub value: Vec<u8>,
}

/// Names of the rows in [`Table::Meta`].
pub(super) mod meta {
    pub(crate) const FORMAT: &[u8] = b"format";
    pub(crate) const CLUSTER_ID: &[u8] = b"cluster-id";
    pub(crate) const MEMBER_ID: &[u8] = b"member-id";
    pub(crate) const TERM: &[u8] = b"term";
    pub(crate) const COMPACTED: &[u8] = b"compacted";
}

/// Layout version of the rows. A store with another one is not opened.
pub(super) const FORMAT_VERSION: i64 = 1;

const KIND_PUT: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;
const HEADER_BYTES: usize = 1 + 3 * 8 + 4;

pub(super) fn put_meta(name: &[u8], value: i64) -> Write {
    Write { table: Table::Meta, key: name.to_vec(), value: Some(value.to_be_bytes().to_vec()) }
}

pub(super) fn put_lease(id: i64, ttl_s: i64) -> Write {
    Write { table: Table::Leases, key: id.to_be_bytes().to_vec(), value: Some(ttl_s.to_be_bytes().to_vec()) }
}

pub(super) fn remove_lease(id: i64) -> Write {
    Write { table: Table::Leases, key: id.to_be_bytes().to_vec(), value: None }
}

pub(super) fn put_entry(entry: &Entry) -> Write {
    let mut value = Vec::with_capacity(HEADER_BYTES + entry.key.len() + entry.value.len());
    value.push(if entry.is_tombstone() { KIND_TOMBSTONE } else { KIND_PUT });
    value.extend_from_slice(&entry.create_revision.to_be_bytes());
    value.extend_from_slice(&entry.version.to_be_bytes());
    value.extend_from_slice(&entry.lease.to_be_bytes());
    let key_len = u32::try_from(entry.key.len()).expect("a request is far below 4 GiB: checked on arrival");
    value.extend_from_slice(&key_len.to_be_bytes());
    value.extend_from_slice(&entry.key);
    value.extend_from_slice(&entry.value);
    Write { table: Table::Revisions, key: revision_bytes(entry.revision), value: Some(value) }
}

pub(super) fn remove_entry(revision: Revision) -> Write {
    Write { table: Table::Revisions, key: revision_bytes(revision), value: None }
}

fn revision_bytes(revision: Revision) -> Vec<u8> {
    // Big-endian, so that rows sort by revision; revisions are never negative.
    [revision.main.to_be_bytes(), revision.sub.to_be_bytes()].concat()
}

pub(super) fn parse_i64(bytes: &[u8], what: &'static str) -> Result<i64, CorruptState> {
    let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| CorruptState::Row { what })?;
    Ok(i64::from_be_bytes(bytes))
}

pub(super) fn parse_entry(key: &[u8], value: &[u8]) -> Result<Entry, CorruptState> {
    let bad = CorruptState::Row { what: "revision" };
    let (main, sub) = key.split_at_checked(8).ok_or(bad)?;
    let revision = Revision { main: parse_i64(main, "revision")?, sub: parse_i64(sub, "revision")? };
    let (header, body) = value.split_at_checked(HEADER_BYTES).ok_or(bad)?;
    let create_revision = parse_i64(&header[1..9], "entry")?;
    let version = parse_i64(&header[9..17], "entry")?;
    let lease = parse_i64(&header[17..25], "entry")?;
    let key_len = <[u8; 4]>::try_from(&header[25..29]).map_err(|_| bad)?;
    let key_len = usize::try_from(u32::from_be_bytes(key_len)).map_err(|_| bad)?;
    let (key, value) = body.split_at_checked(key_len).ok_or(bad)?;
    let tombstone = match header[0] {
        KIND_PUT => false,
        KIND_TOMBSTONE => true,
        _ => return Err(bad),
    };
    if tombstone != (version == 0) || key.is_empty() || revision.main < 1 || revision.sub < 0 {
        return Err(bad);
    }
    Ok(Entry { revision, key: Key::from(key), value: value.into(), create_revision, version, lease })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        for version in [0, 3] {
            let entry = Entry {
                revision: Revision { main: 7, sub: 1 },
                key: Key::from(b"key".as_slice()),
                value: b"value".to_vec().into(),
                create_revision: 5,
                version,
                lease: -4,
            };
            let write = put_entry(&entry);
            assert_eq!(parse_entry(&write.key, &write.value.unwrap()).unwrap(), entry);
        }
    }

    #[test]
    fn a_short_row_is_corrupt_and_does_not_panic() {
        let entry = Entry {
            revision: Revision { main: 7, sub: 1 },
            key: Key::from(b"key".as_slice()),
            value: b"v".to_vec().into(),
            create_revision: 5,
            version: 1,
            lease: 0,
        };
        let write = put_entry(&entry);
        let value = write.value.unwrap();
        for len in 0..HEADER_BYTES + 3 {
            assert!(parse_entry(&write.key, &value[..len]).is_err());
        }
        assert!(parse_entry(&write.key[..9], &value).is_err());
    }
}
