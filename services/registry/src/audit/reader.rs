//! Reads chains. A place in a chain is a key, and times never go back in a chain, so the first record of a time is found by halving.

use std::collections::BTreeMap;

use prost::Message as _;
use skerry_model::Fault;
use skerry_proto::registry::v1 as pb;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditEntry;
use skerry_store::keys::{AuditName, ChainId};
use skerry_store::{Key, Store, Versioned};

use super::filter::{Moment, Place, Wanted};

/// Records that are read at once.
pub(super) const CHUNK: u64 = 100;
/// How many times as many of a chain are read as before, up to that.
const STEP_GROWTH: u64 = 10;
/// Records that one page looks through: what comes behind is the next page's.
const SCANNED_MAX: usize = 5000;
/// Chains that are looked through.
pub(super) const CHAINS_MAX: usize = 10_000;

/// A record as clients see it, and its entry.
pub(super) struct Read {
    pub(super) record: pb::AuditRecord,
    pub(super) entry: AuditEntry,
}

/// A record of a chain as it is stored. One that is not there is left out: who verifies misses it.
pub(super) async fn range(store: &Store, chain: &ChainId, first: u64, last: u64) -> Result<Vec<Read>, Fault> {
    let keys: Vec<_> = (first..=last)
        .map(|sequence| Key::<stored::AuditRecord>::of(&AuditName { chain: chain.clone(), sequence }))
        .collect();
    let read = store.get_many(&keys).await?;
    Ok(read.into_iter().flatten().map(shown).collect())
}

fn shown(read: Versioned<stored::AuditRecord>) -> Read {
    let AuditName { chain, sequence } = read.key.name();
    let stored::AuditRecord { entry: bytes, previous_hash, hash } = read.value;
    // What does not decode is shown as what it is: who verifies says so.
    let entry = AuditEntry::decode(bytes.clone()).unwrap_or_default();
    let record = pb::AuditRecord {
        chain: chain.to_string(),
        sequence,
        entry: bytes,
        previous_hash,
        hash,
        content: Some(entry.clone()),
    };
    Read { record, entry }
}

/// A chain as clients see it.
pub(super) fn chain_of(head: &Versioned<stored::AuditHead>) -> pb::AuditChain {
    let stored::AuditHead { sequence, hash, last_time, removed_sequence, removed_hash } = head.value.clone();
    pb::AuditChain {
        name: head.key.name().to_string(),
        sequence,
        hash,
        removed_sequence,
        removed_hash,
        last_time,
    }
}

/// The last place in a chain whose record is before `end`, by halving.
pub(super) async fn last_before(
    store: &Store,
    head: &Versioned<stored::AuditHead>,
    end: impl Fn(&AuditEntry) -> bool,
) -> Result<u64, Fault> {
    let chain = head.key.name();
    let (mut before, mut after) = (head.value.removed_sequence, head.value.sequence + 1);
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        let read = range(store, &chain, middle, middle).await?;
        match read.first() {
            Some(read) if end(&read.entry) => after = middle,
            _ => before = middle,
        }
    }
    Ok(before)
}

/// What is left to look through of one chain, newest first.
struct Left {
    chain: ChainId,
    /// Read and not taken yet; the newest last.
    read: Vec<Read>,
    /// Up to here it is not read yet.
    next: u64,
    first: u64,
    /// How many are read next. One of each chain is looked at, and of most of them no more is wanted: so many are in memory at once.
    step: u64,
}

impl Left {
    /// The newest record that is left.
    async fn newest(&mut self, store: &Store) -> Result<Option<&Read>, Fault> {
        while self.read.is_empty() && self.next >= self.first {
            let from = self.first.max(self.next.saturating_sub(self.step - 1));
            self.step = CHUNK.min(self.step * STEP_GROWTH);
            self.read = range(store, &self.chain, from, self.next).await?;
            self.next = from - 1;
        }
        Ok(self.read.last())
    }
}

/// A page of the records that are meant, the newest first, behind `after`.
pub(super) async fn page(
    store: &Store,
    wanted: &Wanted,
    size: usize,
    after: Option<&Place>,
) -> Result<(Vec<pb::AuditRecord>, Option<Place>), Fault> {
    let mut chains: BTreeMap<ChainId, Left> = BTreeMap::new();
    // By time, the newest last.
    let mut queue: BTreeMap<Place, ChainId> = BTreeMap::new();
    for head in store.audit_heads(CHAINS_MAX).await? {
        let is_behind = |entry: &AuditEntry| {
            let place = Place::of(entry);
            wanted.until.is_some_and(|until| place.time >= until)
                || after.is_some_and(|after| place >= *after)
        };
        let older =
            wanted.since.is_some_and(|since| head.value.last_time.is_some_and(|last| moment(last) < since));
        if older {
            continue;
        }
        let narrowed = wanted.until.is_some() || after.is_some();
        let next = if narrowed { last_before(store, &head, is_behind).await? } else { head.value.sequence };
        let chain = head.key.name();
        let first = head.value.removed_sequence + 1;
        let mut left = Left { chain: chain.clone(), read: Vec::new(), next, first, step: 1 };
        if let Some(newest) = left.newest(store).await? {
            queue.insert(Place::of(&newest.entry), chain.clone());
            chains.insert(chain, left);
        }
    }
    let mut records = Vec::new();
    let mut scanned = 0;
    while let Some((place, chain)) = queue.pop_last() {
        let left = chains.get_mut(&chain).expect("what is in the queue is left");
        let Some(read) = left.read.pop() else { continue };
        if wanted.since.is_some_and(|since| place.time < since) {
            // All that is left is older.
            return Ok((records, None));
        }
        scanned += 1;
        if wanted.matches(&read.entry) {
            records.push(read.record);
        }
        if let Some(newest) = left.newest(store).await? {
            queue.insert(Place::of(&newest.entry), chain);
        }
        if (records.len() >= size || scanned >= SCANNED_MAX) && !queue.is_empty() {
            return Ok((records, Some(place)));
        }
    }
    Ok((records, None))
}

fn moment(time: prost_types::Timestamp) -> Moment {
    (time.seconds, time.nanos)
}
