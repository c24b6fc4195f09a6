//! A disk in memory that can forget what was not synced: for simulators and for tests of this crate.

use std::collections::BTreeMap;

use super::entry::{Row, Table, Write};

/// Rows that survive a crash, and batches of writes that may not.
///
/// A batch is atomic, and batches reach the disk in order: what redb promises too.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    synced: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    pending: Vec<Vec<Write>>,
}

impl MemDisk {
    /// Writes a batch. It is not durable yet.
    pub fn write(&mut self, batch: Vec<Write>) {
        if !batch.is_empty() {
            self.pending.push(batch);
        }
    }

    /// Makes everything written so far durable.
    pub fn sync(&mut self) {
        let batches = self.pending.len();
        self.crash(batches);
    }

    /// Loses power: of the batches that were not synced, the first `kept` reached the disk all the same.
    pub fn crash(&mut self, kept: usize) {
        let kept = kept.min(self.pending.len());
        for write in self.pending.drain(..).take(kept).flatten() {
            let place = (write.table, write.key);
            match write.value {
                Some(value) => self.synced.insert(place, value),
                None => self.synced.remove(&place),
            };
        }
    }

    /// How many batches are not synced.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many rows are durable.
    pub fn len(&self) -> usize {
        self.synced.len()
    }

    /// Whether nothing is durable.
    pub fn is_empty(&self) -> bool {
        self.synced.is_empty()
    }

    /// The durable rows, in order, as [`Core::open`](super::Core::open) takes them.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.synced.iter().map(|((table, key), value)| Row {
            table: *table,
            key: key.clone(),
            value: value.clone(),
        })
    }
}
