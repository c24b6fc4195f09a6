//! One chain as its writer knows it: what comes next, and what to make of the head that was found. No I/O.

use std::time::SystemTime;

use bytes::Bytes;
use prost::Message as _;
use skerry_model::audit::{AuditHash, BEGINNING};
use skerry_model::time;
use skerry_proto::store::v1::{AuditHead, AuditRecord};
use skerry_proto::types::v1::{AuditEntry, AuditStart, AuditTip};

use super::act::Act;
use crate::keys::{AuditName, ChainId, Key};
use crate::record::Versioned;
use crate::txn::Txn;

/// Commits whose answer was lost and that may still come to pass; beyond, the chain is given up for a new one.
const UNCLEAR_MAX: usize = 16;

/// Where a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tip {
    sequence: u64,
    hash: AuditHash,
}

/// The head as it was last written or read.
#[derive(Debug, Clone)]
struct Held {
    mod_revision: i64,
    record: AuditHead,
}

/// One chain of this process.
#[derive(Debug)]
pub(super) struct Chain {
    id: ChainId,
    tip: Tip,
    /// Absent: nothing was written yet.
    held: Option<Held>,
    time: SystemTime,
    /// Ends that commits would have made whose answer was lost.
    unclear: Vec<Tip>,
    /// How the first record tells of its beginning.
    start: AuditStart,
}

/// A transaction with its records, and how the chain ends once it has happened.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) txn: Txn,
    tip: Tip,
    head: AuditHead,
    time: SystemTime,
}

impl Chain {
    /// A chain that nothing was written to.
    pub(super) fn begin(id: ChainId, start: AuditStart) -> Self {
        let tip = Tip { sequence: 0, hash: BEGINNING };
        Self { id, tip, held: None, time: SystemTime::UNIX_EPOCH, unclear: Vec::new(), start }
    }

    /// The key of its head.
    pub(super) fn head_key(&self) -> Key<AuditHead> {
        Key::of(&self.id)
    }

    /// Where it ends, for the chain that follows it. Where it has no record that is known of: where the one ended that it followed itself.
    pub(super) fn ended(&self) -> Option<AuditTip> {
        let Tip { sequence, hash } = self.tip;
        match sequence {
            0 => self.start.former.clone(),
            _ => Some(AuditTip { chain: self.id.to_string(), sequence, hash: hash.to_bytes() }),
        }
    }

    /// `txn` with its records behind the newest of the chain. The head is compared first, and by value too: a restored store gives the same
    /// revisions out again.
    pub(super) fn append(&self, mut txn: Txn, now: SystemTime) -> Appended {
        let acts = std::mem::take(&mut txn.acts);
        let key = self.head_key();
        let guarded = match &self.held {
            None => Txn::new().when_absent(&key),
            Some(held) => Txn::new().when_written(&key, held.mod_revision, &held.record),
        };
        let mut txn = guarded.merge(txn);
        let (mut tip, time) = (self.tip, now.max(self.time));
        for act in acts {
            let sequence = tip.sequence + 1;
            let entry = Bytes::from(self.entry(act.bounded(), sequence, time).encode_to_vec());
            let hash = AuditHash::of(&tip.hash, &entry);
            let record = AuditRecord { entry, previous_hash: tip.hash.to_bytes(), hash: hash.to_bytes() };
            txn = txn.put(&Key::of(&AuditName { chain: self.id.clone(), sequence }), &record);
            tip = Tip { sequence, hash };
        }
        let before = self.held.as_ref().map(|held| held.record.clone()).unwrap_or_default();
        let head = AuditHead {
            sequence: tip.sequence,
            hash: tip.hash.to_bytes(),
            last_time: Some(time::to_timestamp(time)),
            ..before
        };
        Appended { txn: txn.put(&key, &head), tip, head, time }
    }

    fn entry(&self, act: Act, sequence: u64, time: SystemTime) -> AuditEntry {
        AuditEntry {
            chain: self.id.to_string(),
            sequence,
            time: Some(time::to_timestamp(time)),
            caller: Some(act.caller),
            project: act.project.to_string(),
            method: act.method,
            resource: act.resource,
            outcome: act.outcome.into(),
            request_id: act.request_id,
            request_hash: act.request_hash.map(|hash| hash.as_bytes().to_vec().into()).unwrap_or_default(),
            trace_id: act.trace_id,
            detail: act.detail,
            start: (sequence == 1).then(|| self.start.clone()),
        }
    }

    /// It is about to be sent. From here on it may have happened, also where nobody waits for the answer any more.
    pub(super) fn sending(&mut self, appended: &Appended) {
        self.unclear.push(appended.tip);
    }

    /// It has not happened and will not.
    pub(super) fn failed(&mut self) {
        self.unclear.pop();
    }

    /// It has happened. With the head that they compared, commits that are still unclear cannot any more.
    pub(super) fn landed(&mut self, appended: Appended, mod_revision: i64) {
        let Appended { tip, head, time, .. } = appended;
        (self.tip, self.time) = (tip, time);
        self.held = Some(Held { mod_revision, record: head });
        self.unclear.clear();
    }

    /// Whether the head is as this writer left it.
    pub(super) fn is_as_held(&self, found: Option<&Versioned<AuditHead>>) -> bool {
        match (found, &self.held) {
            (None, None) => true,
            (Some(found), Some(held)) => {
                found.mod_revision == held.mod_revision && found.value == held.record
            }
            _ => false,
        }
    }

    /// Takes the head that was found: as it was left but for removed records, or as a commit made it whose answer was lost. False: it is none of
    /// these, and the chain has ended for this process. Then the store is an older one, or other hands were at it.
    pub(super) fn adopt(&mut self, found: Option<Versioned<AuditHead>>) -> bool {
        let Some(found) = found else { return self.held.is_none() };
        let Some(hash) = AuditHash::from_bytes(&found.value.hash) else { return false };
        let tip = Tip { sequence: found.value.sequence, hash };
        if tip != self.tip && !self.unclear.contains(&tip) {
            return false;
        }
        self.tip = tip;
        let last = found.value.last_time.as_ref().and_then(time::from_timestamp);
        self.time = last.map_or(self.time, |last| last.max(self.time));
        self.held = Some(Held { mod_revision: found.mod_revision, record: found.value });
        self.unclear.clear();
        true
    }

    /// Whether too much of it is unclear.
    pub(super) fn is_lost(&self) -> bool {
        self.unclear.len() >= UNCLEAR_MAX
    }
}
