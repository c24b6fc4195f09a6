//! Commits a transaction together with its records: takes a chain that is free, appends, and finds out how it stands when the head was not as
//! it was left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use rand::RngExt as _;
use skerry_proto::store::v1::AuditHead;
use skerry_proto::types::v1::{AuditStart, AuditTip};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use super::chain::Chain;
use crate::error::ReadError;
use crate::failure::{Failure, Outage};
use crate::keys::{ChainId, Prefix};
use crate::page::PageRequest;
use crate::record::Versioned;
use crate::store::Store;
use crate::txn::commit::Answer;
use crate::txn::{Txn, TxnError};

/// Chains of one process: as many of its changes are committed at once.
const CHAINS_MAX: usize = 8;
/// How often the head may have moved under one commit: by a removal, and by commits whose answer was lost.
const TRIES_MAX: usize = 8;
/// Heads that are looked through when a chain begins.
const HEADS_READ_MAX: usize = 4096;
/// Heads of one page.
const PAGE_SIZE: usize = 500;
/// Other chains that a first record names: those that were written to last.
const OTHERS_MAX: usize = 64;
/// What a process is called that was given no name, as in tests.
const UNNAMED: &str = "unnamed";

/// The chains of this process. Each begins with the first change that needs it.
#[derive(Debug)]
pub(crate) struct Chains {
    writer: Option<&'static str>,
    slots: [Mutex<Option<Chain>>; CHAINS_MAX],
    next: AtomicUsize,
}

impl Chains {
    pub(crate) fn new(writer: Option<&'static str>) -> Self {
        Self { writer, slots: std::array::from_fn(|_| Mutex::new(None)), next: AtomicUsize::new(0) }
    }

    /// Whether nothing that is audited may change without a record.
    pub(crate) fn is_strict(&self) -> bool {
        self.writer.is_some()
    }

    /// The first chain that is free; else one after the other is waited for.
    async fn take(&self) -> MutexGuard<'_, Option<Chain>> {
        if let Some(free) = self.slots.iter().find_map(|chain| chain.try_lock().ok()) {
            return free;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed) % CHAINS_MAX;
        self.slots[index].lock().await
    }

    fn begin(&self, former: Option<AuditTip>, others: Vec<AuditTip>) -> Chain {
        let service = self.writer.unwrap_or(UNNAMED);
        let random: u64 = rand::rng().random();
        let id = ChainId::parse(&format!("{service}-{random:016x}")).expect("words and digits are an id");
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Chain::begin(id, AuditStart { service: service.to_owned(), version, former, others })
    }
}

impl Store {
    /// Runs a valid transaction that has records. A head that moved is no conflict of the caller's.
    pub(crate) async fn run_audited(&self, txn: &Txn) -> Result<Answer, TxnError> {
        let mut slot = self.chain_for(txn).await?;
        for _ in 0..TRIES_MAX {
            let mut former = None;
            if slot.as_ref().is_some_and(Chain::is_lost) {
                former = slot.take().and_then(|lost| lost.ended());
            }
            let chain = match &mut *slot {
                Some(chain) => chain,
                None => slot.insert(self.audit.begin(former, self.other_chains().await)),
            };
            let appended = chain.append(txn.clone(), SystemTime::now());
            let key = chain.head_key();
            appended.txn.validate()?;
            chain.sending(&appended);
            let (revision, mut found) = match self.send(&appended.txn).await {
                Ok(Answer::Done { revision, changed }) => {
                    chain.landed(appended, revision);
                    return Ok(Answer::Done { revision, changed });
                }
                Ok(Answer::Found { revision, found }) => (revision, found),
                Err(error) => {
                    if error.nothing_happened() {
                        chain.failed();
                    }
                    return Err(error);
                }
            };
            chain.failed();
            let head = found.remove(key.as_str()).flatten();
            let head = head.map(|seen| seen.entry.decode::<AuditHead>()).transpose();
            if head.as_ref().is_ok_and(|head| chain.is_as_held(head.as_ref())) {
                return Ok(Answer::Found { revision, found });
            }
            // One that does not decode is nothing that this process left, and must not stop every change from now on.
            if !head.is_ok_and(|head| chain.adopt(head)) {
                tracing::warn!(chain = %key.name(), "the audit log is not as this process left it: the store was restored, all records of the chain were removed for age, or other hands were at it; a new chain begins");
                let former = chain.ended();
                let others = self.other_chains().await;
                *slot = Some(self.audit.begin(former, others));
            }
            if txn.judge(revision, &found)?.is_some() {
                return Ok(Answer::Found { revision, found });
            }
        }
        Err(TxnError::AuditContended { subject: txn.subject() })
    }

    /// A chain for `txn`. While the store does not answer, chains are held by those who wait for it, each for its deadline: nobody waits here
    /// longer than that.
    async fn chain_for(&self, txn: &Txn) -> Result<MutexGuard<'_, Option<Chain>>, TxnError> {
        timeout(self.client.deadline, self.audit.take()).await.map_err(|_| {
            let failure = Failure::Overloaded("every chain of the audit log is in use".to_owned());
            let outage = Outage::of(&self.client.store, &failure);
            TxnError::Unavailable { subject: txn.subject(), outage }
        })
    }

    /// How the chains stand that were written to last. Where that cannot be read the change will tell: it is not held up for this.
    async fn other_chains(&self) -> Vec<AuditTip> {
        let mut heads = match self.audit_heads(HEADS_READ_MAX).await {
            Ok(heads) => heads,
            Err(error) => {
                tracing::debug!(%error, "a chain of the audit log begins without naming others");
                return Vec::new();
            }
        };
        heads.retain(|head| head.value.sequence > head.value.removed_sequence);
        let age = |head: &Versioned<AuditHead>| {
            std::cmp::Reverse(head.value.last_time.map(|time| (time.seconds, time.nanos)))
        };
        heads.sort_by_key(age);
        heads.truncate(OTHERS_MAX);
        let tip = |head: Versioned<AuditHead>| AuditTip {
            chain: head.key.name().to_string(),
            sequence: head.value.sequence,
            hash: head.value.hash,
        };
        heads.into_iter().map(tip).collect()
    }

    /// The heads of all chains, by name, but at most `max`.
    pub async fn audit_heads(&self, max: usize) -> Result<Vec<Versioned<AuditHead>>, ReadError> {
        let prefix = Prefix::<AuditHead>::all();
        let mut heads = Vec::new();
        let mut page = PageRequest::first(PAGE_SIZE);
        loop {
            let read = self.list(&prefix, &page).await?;
            heads.extend(read.items);
            match read.next {
                Some(next) if heads.len() < max => page = PageRequest::after(PAGE_SIZE, next),
                _ => return Ok(heads),
            }
        }
    }
}
