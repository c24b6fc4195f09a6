//! The store's term: which of several lives of the store this is. Raised when the store turns out to be an older one, so that
//! `(term, revision)` only ever grows although etcd's revision fell back.
//!
//! Signs of a restore: another cluster id than `meta/store` names; an answer older than one that came before; a term lower than the
//! one known; a mirror whose past is not the store's; an agent that holds a newer version. Who sees one raises the term by
//! compare-and-set; who comes later sees that it is raised already.

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::store::v1 as pb;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::client::{Client, Header, Range};
use crate::error::TermError;
use crate::failure::Failure;
use crate::keys::{Key, TheStore};
use crate::record::{Entry, StoreVersion, Versioned};
use crate::store::Store;

/// How often a lost race for `meta/store` is tried again.
const ATTEMPTS_MAX: u32 = 10;
/// A claim that is further ahead than this is a lie: each step is a restore that somebody made by hand.
const TERM_STEP_MAX: u64 = 1 << 20;
/// The longest wait between two tries of following `meta/store`.
const FOLLOW_WAIT_MAX: Duration = Duration::from_secs(5);

/// `meta/store` as it was settled last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The term.
    pub term: u64,
    /// When it was written.
    pub mod_revision: i64,
    /// The store's revision when it was read: what changes later is newer.
    pub read_at: i64,
}

/// Why the term may have to be raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing but what `meta/store` and the cluster id say.
    None,
    /// Something that was seen in this term is no longer there.
    LostHistory {
        /// The term in which it was seen.
        term: u64,
    },
    /// Somebody holds this version.
    Seen(StoreVersion),
}

/// The term as this process knows it.
#[derive(Debug)]
pub(crate) struct Term {
    known: watch::Sender<Known>,
}

impl Term {
    pub(crate) fn new(known: Known) -> Self {
        Self { known: watch::Sender::new(known) }
    }

    pub(crate) fn known(&self) -> Known {
        *self.known.borrow()
    }

    /// Takes what was settled, unless a newer one is known already.
    pub(crate) fn learn(&self, new: Known) {
        self.known.send_if_modified(|known| {
            let newer =
                new.term > known.term || (new.term == known.term && new.mod_revision > known.mod_revision);
            if newer {
                *known = new;
            }
            newer
        });
    }
}

impl Store {
    /// The store's term, as this process knows it.
    pub fn term(&self) -> u64 {
        self.term.known().term
    }

    /// Wakes when the term is raised.
    pub fn watch_term(&self) -> TermWatch {
        TermWatch { known: self.term.known.subscribe(), last: self.term() }
    }

    /// Somebody holds `seen`, a version that this store gave out: if it is newer than the store is now, the store is an older one, and
    /// its term is raised above. Answers the term.
    pub async fn raise_term(&self, seen: StoreVersion) -> Result<u64, TermError> {
        let known = settle(&self.client, Some(self.term.known()), Evidence::Seen(seen)).await?;
        self.term.learn(known);
        Ok(self.term())
    }
}

/// Wakes when the term is raised.
#[derive(Debug, Clone)]
pub struct TermWatch {
    known: watch::Receiver<Known>,
    last: u64,
}

impl TermWatch {
    /// Waits for a term above the one that was told last. `None`: the store is closed.
    pub async fn raised(&mut self) -> Option<u64> {
        let last = self.last;
        self.last = self.known.wait_for(|known| known.term > last).await.ok()?.term;
        Some(self.last)
    }
}

pub(crate) fn meta_key() -> Key<pb::StoreMeta> {
    Key::of(&TheStore)
}

/// Reads `meta/store`.
pub(crate) async fn read(client: &Client) -> Result<(Header, Option<Versioned<pb::StoreMeta>>), TermError> {
    let range = Range { key: meta_key().as_str().into(), ..Range::default() };
    let found = client.range(&range).await?;
    let meta = found.entries.first().map(Entry::decode).transpose()?;
    Ok((found.header, meta))
}

/// Makes `meta/store` true: creates it, or raises its term if the evidence says that the store is an older one.
pub(crate) async fn settle(
    client: &Client,
    known: Option<Known>,
    evidence: Evidence,
) -> Result<Known, TermError> {
    for _ in 0..ATTEMPTS_MAX {
        let (header, stored) = read(client).await?;
        let next = next_term(header, stored.as_ref().map(|meta| &meta.value), known, evidence)?;
        let (term, mod_revision) = match (next, stored) {
            (None, Some(stored)) => (stored.value.term, stored.mod_revision),
            (None, None) => return Err(TermError::Contended),
            (Some(term), stored) => {
                let meta = pb::StoreMeta { term, cluster_id: header.cluster_id };
                let Some(revision) =
                    write(client, &meta, stored.as_ref().map_or(0, |stored| stored.mod_revision)).await?
                else {
                    continue;
                };
                if term == 1 && stored.is_none() {
                    tracing::info!(cluster_id = header.cluster_id, "a new store");
                } else {
                    tracing::warn!(
                        term,
                        cluster_id = header.cluster_id,
                        ?evidence,
                        "the store is another or an older one: a new term begins"
                    );
                }
                (term, revision)
            }
        };
        let read_at = header.revision.max(mod_revision);
        client.settle(Header { revision: read_at, ..header });
        return Ok(Known { term, mod_revision, read_at });
    }
    Err(TermError::Contended)
}

/// The term that has to be written. `None`: the stored one is right.
pub fn next_term(
    header: Header,
    stored: Option<&pb::StoreMeta>,
    known: Option<Known>,
    evidence: Evidence,
) -> Result<Option<u64>, TermError> {
    let known = known.map_or(0, |known| known.term);
    let Some(stored) = stored else {
        // New, or restored to before it was first used.
        return Ok(Some(known + 1));
    };
    let above = |term: u64| term.max(stored.term).max(known) + 1;
    if stored.cluster_id != header.cluster_id || stored.term < known {
        return Ok(Some(above(0)));
    }
    let now = StoreVersion { term: stored.term, revision: header.revision };
    match evidence {
        Evidence::LostHistory { term } if stored.term <= term => Ok(Some(above(term))),
        Evidence::Seen(seen) if seen.term > stored.term.saturating_add(TERM_STEP_MAX) => {
            Err(TermError::Implausible { claimed: seen.term, stored: stored.term })
        }
        Evidence::Seen(seen) if seen > now => Ok(Some(above(seen.term))),
        Evidence::None | Evidence::LostHistory { .. } | Evidence::Seen(_) => Ok(None),
    }
}

/// Writes `meta/store` if it still stands at `mod_revision`. Answers the revision of the write, or none if it does not.
async fn write(client: &Client, meta: &pb::StoreMeta, mod_revision: i64) -> Result<Option<i64>, TermError> {
    use etcd_client::{Compare, CompareOp, Txn, TxnOp};
    use prost::Message as _;
    let key = meta_key();
    let txn = Txn::new()
        .when(vec![Compare::mod_revision(key.as_str(), CompareOp::Equal, mod_revision)])
        .and_then(vec![TxnOp::put(key.as_str(), meta.encode_to_vec(), None)]);
    match client.txn(txn).await {
        Ok((header, answer)) => Ok(answer.succeeded().then_some(header.revision)),
        // If it has happened, the next round reads it.
        Err(Failure::Unclear(_)) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// Keeps the process's term true until `stop`.
pub(crate) async fn follow(client: Arc<Client>, term: Arc<Term>, stop: CancellationToken) {
    let mut backoff = Backoff::up_to(FOLLOW_WAIT_MAX);
    let mut evidence = Evidence::None;
    // Not from when it was written: once that is compacted, each wait would end at once. After a failure it is read anew first, since
    // the store may have been restored to before this revision.
    let mut from = Some(term.known().read_at);
    loop {
        let known = term.known();
        let step = async {
            if evidence == Evidence::None
                && let Some(revision) = from.take()
            {
                let key = meta_key();
                tokio::select! {
                    changed = client.wait_change(key.as_str(), revision) => changed?,
                    () = client.suspicion.notified() => evidence = Evidence::LostHistory { term: known.term },
                }
            }
            settle(&client, Some(known), evidence).await
        };
        let settled = tokio::select! {
            () = stop.cancelled() => return,
            settled = step => settled,
        };
        match settled {
            Ok(settled) => {
                from = Some(settled.read_at);
                term.learn(settled);
                evidence = Evidence::None;
                backoff.reset();
            }
            Err(error) => {
                tracing::debug!(%error, "following the store's term");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.next()) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { cluster_id: 7, revision: 100 };

    fn stored(term: u64, cluster_id: u64) -> pb::StoreMeta {
        pb::StoreMeta { term, cluster_id }
    }

    fn known(term: u64) -> Known {
        Known { term, mod_revision: 1, read_at: 1 }
    }

    fn seen(term: u64, revision: i64) -> Evidence {
        Evidence::Seen(StoreVersion { term, revision })
    }

    #[test]
    fn a_new_store_begins_in_term_one() {
        assert_eq!(next_term(HEADER, None, None, Evidence::None), Ok(Some(1)));
    }

    #[test]
    fn a_store_that_lost_everything_begins_above_what_was_known() {
        assert_eq!(next_term(HEADER, None, Some(known(4)), Evidence::None), Ok(Some(5)));
    }

    #[test]
    fn another_cluster_id_raises_the_term() {
        assert_eq!(next_term(HEADER, Some(&stored(3, 7)), None, Evidence::None), Ok(None));
        assert_eq!(next_term(HEADER, Some(&stored(3, 8)), None, Evidence::None), Ok(Some(4)));
        assert_eq!(next_term(HEADER, Some(&stored(3, 8)), Some(known(5)), Evidence::None), Ok(Some(6)));
    }

    #[test]
    fn lost_history_raises_the_term_once_for_all_who_saw_it() {
        let evidence = Evidence::LostHistory { term: 3 };
        assert_eq!(next_term(HEADER, Some(&stored(3, 7)), Some(known(3)), evidence), Ok(Some(4)));
        assert_eq!(next_term(HEADER, Some(&stored(4, 7)), Some(known(3)), evidence), Ok(None));
    }

    #[test]
    fn a_newer_version_in_somebody_s_hands_raises_the_term_above_it() {
        let stored = stored(3, 7);
        assert_eq!(next_term(HEADER, Some(&stored), Some(known(3)), seen(3, 100)), Ok(None));
        assert_eq!(next_term(HEADER, Some(&stored), Some(known(3)), seen(3, 101)), Ok(Some(4)));
        assert_eq!(next_term(HEADER, Some(&stored), Some(known(3)), seen(9, 1)), Ok(Some(10)));
        assert_eq!(next_term(HEADER, Some(&stored), Some(known(3)), seen(2, 900)), Ok(None));
        assert!(matches!(
            next_term(HEADER, Some(&stored), Some(known(3)), seen(u64::MAX, 1)),
            Err(TermError::Implausible { .. })
        ));
    }
}
