//! Leadership: one process at a time holds `leaders/<name>` under its lease. Its writes compare that they still hold it, so a deposed
//! leader writes nothing, however late its writes arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_model::Fault;
use skerry_proto::store::v1 as pb;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::Backoff;
use crate::client::{Client, Range};
use crate::keys::{Key, LeaderName};
use crate::lease::{Lease, LeaseState};
use crate::record::Entry;
use crate::store::Store;
use crate::txn::{Txn, TxnError};

/// The longest wait between two tries.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Leadership, from winning it until it is lost or resigned. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leadership {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    key: Key<pb::LeaderRecord>,
    create_revision: i64,
    holder: Bytes,
    lost: CancellationToken,
    _guard: DropGuard,
}

/// Why one cannot campaign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// The lease was revoked, or the store closed.
    #[error("campaigning for `{key}`: the lease has ended")]
    LeaseEnded {
        /// What was to be led.
        key: String,
    },
    /// The store said no.
    #[error("campaigning for `{key}`: {source}")]
    Refused {
        /// What was to be led.
        key: String,
        /// Why.
        source: TxnError,
    },
}

impl From<CampaignError> for Fault {
    fn from(error: CampaignError) -> Self {
        match error {
            CampaignError::LeaseEnded { .. } => Fault::unavailable(error.to_string()),
            CampaignError::Refused { source, .. } => source.into(),
        }
    }
}

/// Waits until this process leads `name`. Ends only in leadership or when it can never lead; an unreachable store is waited for.
/// May be dropped at any point. One campaign at a time for each name and lease.
pub async fn campaign(store: &Store, name: &LeaderName, lease: &Lease) -> Result<Leadership, CampaignError> {
    let key = Key::<pb::LeaderRecord>::of(name);
    let mut backoff = Backoff::up_to(RETRY_WAIT_MAX);
    loop {
        let Some(id) = lease.alive().await else {
            return Err(CampaignError::LeaseEnded { key: key.to_string() });
        };
        let txn = Txn::new().when_absent(&key).put_leased_bytes(&key, lease.holder().clone(), id);
        match store.commit(txn).await {
            Ok(won) => {
                tracing::info!(%name, revision = won.revision, "this process leads");
                return Ok(begin(store, key, won.revision, lease, id));
            }
            Err(TxnError::Conflict(conflict)) => {
                let held = conflict
                    .found(&key)
                    .map_err(|error| CampaignError::Refused { key: key.to_string(), source: error.into() })?;
                match held {
                    // Ours of an earlier campaign, or of this one with its answer lost: begin anew, so that nothing that was written
                    // for it before counts as written for this one.
                    Some(held) if held.bytes == *lease.holder() => {
                        let ended = store.commit(Txn::new().when_same(&held).delete(&key)).await;
                        if ended.is_err() {
                            tokio::time::sleep(backoff.next()).await;
                        }
                        continue;
                    }
                    Some(_) | None => {
                        if store.client.wait_change(key.as_str(), conflict.revision).await.is_ok() {
                            backoff.reset();
                            continue;
                        }
                    }
                }
            }
            Err(
                error @ (TxnError::Indeterminate { .. }
                | TxnError::Unavailable { .. }
                | TxnError::LeaseLost { .. }
                | TxnError::Full { .. }),
            ) => tracing::info!(%name, %error, "campaigning"),
            Err(source) => return Err(CampaignError::Refused { key: key.to_string(), source }),
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

fn begin(
    store: &Store,
    key: Key<pb::LeaderRecord>,
    create_revision: i64,
    lease: &Lease,
    lease_id: i64,
) -> Leadership {
    let lost = CancellationToken::new();
    let observer = Observer {
        client: Arc::clone(&store.client),
        key: key.clone(),
        create_revision,
        holder: lease.holder().clone(),
        lease: lease.state(),
        lease_id,
    };
    let told = lost.clone();
    let stop = store.spawn(|stop| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = observer.until_lost() => {}
        }
        told.cancel();
    });
    let inner = Inner {
        store: store.clone(),
        key,
        create_revision,
        holder: lease.holder().clone(),
        lost,
        _guard: stop.drop_guard(),
    };
    Leadership { inner: Arc::new(inner) }
}

impl Leadership {
    /// The revision at which it was won: what [`Txn::fenced`] compares.
    pub fn create_revision(&self) -> i64 {
        self.inner.create_revision
    }

    /// Waits until it is lost, as far as this process can tell; the fence is what holds.
    pub async fn lost(&self) {
        self.inner.lost.cancelled().await;
    }

    /// Whether it is known to be lost.
    pub fn is_lost(&self) -> bool {
        self.inner.lost.is_cancelled()
    }

    /// Gives it up, so that another one leads at once. It being lost already is no error.
    pub async fn resign(self) -> Result<(), TxnError> {
        let txn = Txn::new().fenced(&self).delete(&self.inner.key);
        match self.inner.store.commit(txn).await {
            Ok(_) | Err(TxnError::Deposed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn key(&self) -> &Key<pb::LeaderRecord> {
        &self.inner.key
    }

    pub(crate) fn holder_bytes(&self) -> Bytes {
        self.inner.holder.clone()
    }
}

/// Sees that leadership is lost: the lease is, or the key is another one.
struct Observer {
    client: Arc<Client>,
    key: Key<pb::LeaderRecord>,
    create_revision: i64,
    holder: Bytes,
    lease: tokio::sync::watch::Receiver<LeaseState>,
    lease_id: i64,
}

impl Observer {
    async fn until_lost(self) {
        let mut lease = self.lease.clone();
        let alive = LeaseState::Alive { id: self.lease_id };
        tokio::select! {
            // An error means that the keeper has ended: lost as well.
            _ = lease.wait_for(|state| *state != alive) => {}
            () = self.until_replaced() => {}
        }
        tracing::debug!(key = %self.key, "the leadership is lost");
    }

    async fn until_replaced(&self) {
        let mut backoff = Backoff::up_to(RETRY_WAIT_MAX);
        let mut revision = self.create_revision;
        loop {
            let changed = self.client.wait_change(self.key.as_str(), revision).await;
            let range = Range { key: self.key.as_str().into(), ..Range::default() };
            match self.client.range(&range).await {
                Ok(found) => {
                    let ours = |held: &Entry| {
                        held.create_revision == self.create_revision && held.bytes == self.holder
                    };
                    if !found.entries.first().is_some_and(ours) {
                        return;
                    }
                    // Not when it was written: once that is compacted, each wait would end at once.
                    revision = found.header.revision;
                }
                Err(error) => tracing::debug!(key = %self.key, %error, "observing the leadership"),
            }
            if changed.is_ok() {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
