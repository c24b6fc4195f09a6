//! Removes records by age and number, from the beginning of each chain, whoever wrote it. The head keeps place and hash of the last one
//! that was removed, so that what is left is still held against something. Each removal compares the head: a writer who was faster wins.

use std::time::{Duration, SystemTime};

use skerry_model::time;
use skerry_proto::store::v1::{AuditHead, AuditRecord};

use crate::error::ReadError;
use crate::keys::{AuditName, Key};
use crate::record::Versioned;
use crate::store::Store;
use crate::txn::{Txn, TxnError};

/// Records that one transaction removes.
const REMOVED_AT_ONCE: u64 = 100;
/// Removals from one chain in one pass: what is left goes with the next one.
const STEPS_MAX: usize = 200;
/// So many times as long as records are kept is the head of a chain that has none. First records name chains that had records left, which are
/// no older than one age when these are written, and stay for one age more; the third is for passes that come late.
const HEAD_AGES: u32 = 3;
/// When the newest record of all is older than this by the clock of who removes, its clock may be one that jumped: nothing goes for its age then. A log that
/// nobody writes to does not grow.
const IDLE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Chains of one pass.
const CHAINS_MAX: usize = 10_000;

/// What is kept of each chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditKeep {
    /// Records that are older go.
    pub age_max: Duration,
    /// Of more, the oldest go.
    pub records_max: u64,
}

/// Why records could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrimError {
    /// They could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The removal failed.
    #[error(transparent)]
    Write(#[from] TxnError),
}

impl AuditKeep {
    /// How many of the oldest records are too many.
    fn excess(&self, head: &AuditHead) -> u64 {
        (head.sequence - head.removed_sequence.min(head.sequence)).saturating_sub(self.records_max)
    }

    fn is_old(&self, timestamp: Option<&prost_types::Timestamp>, now: SystemTime, times: u32) -> bool {
        let at = timestamp.and_then(time::from_timestamp);
        at.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > self.age_max.saturating_mul(times)))
    }

    /// Whether the head goes too: it has no records, and so long that no record is left that names it.
    fn is_over(&self, head: &AuditHead, now: SystemTime) -> bool {
        head.removed_sequence == head.sequence && self.is_old(head.last_time.as_ref(), now, HEAD_AGES)
    }
}

impl Store {
    /// Removes what is not kept. Answers how many records that were. The head of a chain stays for one pass longer than its last record.
    pub async fn trim_audit(&self, keep: AuditKeep, now: SystemTime) -> Result<u64, TrimError> {
        let mut removed = 0;
        let heads = self.audit_heads(CHAINS_MAX).await?;
        let newest =
            heads.iter().filter_map(|head| time::from_timestamp(head.value.last_time.as_ref()?)).max();
        let keep = match newest {
            Some(newest) if now.duration_since(newest).is_ok_and(|idle| idle > IDLE_MAX) => {
                AuditKeep { age_max: Duration::MAX, ..keep }
            }
            _ => keep,
        };
        for mut head in heads {
            let was_empty = head.value.removed_sequence == head.value.sequence;
            for _ in 0..STEPS_MAX {
                let Some((txn, after, count)) = self.removal(&head, keep, now).await? else { break };
                match self.commit(txn).await {
                    Ok(done) => head.mod_revision = done.revision,
                    // Its writer was faster: the next pass looks again.
                    Err(TxnError::Conflict(_)) => break,
                    Err(error) => return Err(error.into()),
                }
                removed += count;
                head.value = after;
            }
            if was_empty && keep.is_over(&head.value, now) {
                match self.commit(Txn::new().when_same(&head).delete(&head.key)).await {
                    Ok(_) | Err(TxnError::Conflict(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(removed)
    }

    /// What is removed next from a chain, the head after it, and how many records that are.
    async fn removal(
        &self,
        head: &Versioned<AuditHead>,
        keep: AuditKeep,
        now: SystemTime,
    ) -> Result<Option<(Txn, AuditHead, u64)>, TrimError> {
        let Versioned { key, value, .. } = head;
        let first = value.removed_sequence + 1;
        let end = value.sequence.min(value.removed_sequence + REMOVED_AT_ONCE);
        let keys: Vec<Key<AuditRecord>> =
            (first..=end).map(|sequence| Key::of(&AuditName { chain: key.name(), sequence })).collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let excess = keep.excess(value);
        // Of a chain that is neither too long nor old, one record is read.
        let look = if excess == 0 { 1 } else { keys.len() };
        let mut records = self.get_many(&keys[..look]).await?;
        let old = |record: &Option<Versioned<AuditRecord>>| {
            let record = record.as_ref().and_then(|record| entry_time(&record.value));
            keep.is_old(record.as_ref(), now, 1)
        };
        if excess == 0 && records.first().is_some_and(old) && keys.len() > 1 {
            records = self.get_many(&keys).await?;
        }
        let mut txn = Txn::new().when_same(head);
        let mut after = value.clone();
        let mut count = 0;
        for (key, record) in keys.iter().zip(&records) {
            if count >= excess && !old(record) {
                break;
            }
            // One that other hands took away stays missed: nothing behind it is removed.
            let Some(record) = record else { break };
            count += 1;
            after.removed_sequence = value.removed_sequence + count;
            after.removed_hash = record.value.hash.clone();
            txn = txn.delete(key);
        }
        Ok((count > 0).then(|| (txn.put(key, &after), after, count)))
    }
}

fn entry_time(record: &AuditRecord) -> Option<prost_types::Timestamp> {
    use prost::Message as _;
    skerry_proto::types::v1::AuditEntry::decode(record.entry.clone()).ok()?.time
}
