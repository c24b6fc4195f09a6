//! A lease that a task keeps alive, and grants anew when it is lost. What is written under it is its owner's affair: when the id changes,
//! the owner writes its keys again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use skerry_model::Fault;
use skerry_proto::store::v1 as pb;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::failure::Failure;
use crate::store::Store;

/// The shortest time to live that is asked for: below, a busy machine loses it without cause.
pub const TTL_MIN: Duration = Duration::from_secs(2);
/// A lease is renewed so many times within its time to live.
const RENEWALS_PER_TTL: u32 = 3;
/// The longest wait between two tries to renew or to grant.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);

/// Whether the lease is alive, by our own clock: it counts from when a renewal was sent, so it ends here no later than in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It is alive. Another id than before is another lease: what was written under the old one is gone or will be.
    Alive {
        /// etcd's id of the lease.
        id: i64,
    },
    /// It is not there yet, or was not renewed in time. It may still be alive in the store.
    Lost,
}

/// A lease that is kept alive as long as a clone of this is. Dropped, it expires; revoked, it ends at once.
#[derive(Debug, Clone)]
pub struct Lease {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Arc<Client>,
    state: watch::Receiver<LeaseState>,
    /// Random: tells who holds what is written under this lease.
    holder: Bytes,
    stop: CancellationToken,
    _guard: DropGuard,
}

/// Why a lease could not be ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revoking a lease: {reason}")]
pub struct RevokeError {
    /// The failure.
    pub reason: String,
}

impl From<RevokeError> for Fault {
    fn from(error: RevokeError) -> Self {
        Fault::unavailable(error.to_string())
    }
}

impl Lease {
    /// Begins to keep a lease of `ttl`, at least [`TTL_MIN`]. It is [`LeaseState::Lost`] until the store has granted it.
    pub fn keep(store: &Store, ttl: Duration) -> Self {
        Self::keep_for(store, ttl, "")
    }

    /// As [`Lease::keep`], for the member of that id: whoever looks at what is led sees by whom.
    pub fn keep_for(store: &Store, ttl: Duration, member: &str) -> Self {
        let (sender, state) = watch::channel(LeaseState::Lost);
        let client = Arc::clone(&store.client);
        let keeper = Keeper { client: Arc::clone(&client), ttl: ttl.max(TTL_MIN), state: sender };
        let stop = store.spawn(|stop| keeper.run(stop));
        let record = pb::LeaderRecord {
            holder: format!("{:032x}", rand::random::<u128>()),
            member: member.to_owned(),
        };
        let holder = Bytes::from(record.encode_to_vec());
        let guard = stop.clone().drop_guard();
        Self { inner: Arc::new(Inner { client, state, holder, stop, _guard: guard }) }
    }

    /// The lease as it is now.
    pub fn id(&self) -> Option<i64> {
        match *self.inner.state.borrow() {
            LeaseState::Alive { id } => Some(id),
            LeaseState::Lost => None,
        }
    }

    /// Tells each change.
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.inner.state.clone()
    }

    /// Waits until it is alive and gives its id. `None`: it was revoked or the store closed.
    pub async fn alive(&self) -> Option<i64> {
        let mut state = self.state();
        let alive = state.wait_for(|state| matches!(state, LeaseState::Alive { .. })).await.ok()?;
        match *alive {
            LeaseState::Alive { id } => Some(id),
            LeaseState::Lost => None,
        }
    }

    /// Ends it, and all that was written under it, at once.
    pub async fn revoke(&self) -> Result<(), RevokeError> {
        let id = self.id();
        self.inner.stop.cancel();
        match id {
            Some(id) => self
                .inner
                .client
                .revoke(id)
                .await
                .map_err(|failure| RevokeError { reason: failure.to_string() }),
            None => Ok(()),
        }
    }

    /// The encoded [`pb::LeaderRecord`] that leads under this lease.
    pub(crate) fn holder(&self) -> &Bytes {
        &self.inner.holder
    }
}

struct Keeper {
    client: Arc<Client>,
    ttl: Duration,
    state: watch::Sender<LeaseState>,
}

impl Keeper {
    async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
        self.set(LeaseState::Lost);
    }

    async fn keep(&self) {
        let mut backoff = Backoff::up_to(RETRY_WAIT_MAX);
        loop {
            let asked = Instant::now();
            match self.client.grant(self.ttl).await {
                Ok((id, ttl)) => {
                    backoff.reset();
                    self.set(LeaseState::Alive { id });
                    self.renew(id, asked, ttl.max(Duration::from_secs(1))).await;
                    self.set(LeaseState::Lost);
                    tracing::warn!(id, "the lease is lost");
                }
                Err(error) => tracing::info!(%error, "no lease is granted"),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Renews until the store says that there is no such lease.
    async fn renew(&self, id: i64, granted: Instant, ttl: Duration) {
        let mut renewed = granted;
        let mut backoff = Backoff::up_to(RETRY_WAIT_MAX);
        tokio::time::sleep_until(renewed + ttl / RENEWALS_PER_TTL).await;
        loop {
            let asked = Instant::now();
            // Until it is over by our clock, a try ends when it is; after that each try takes what a call may take.
            let left = (renewed + ttl).saturating_duration_since(asked);
            let deadline = if left.is_zero() { self.client.deadline } else { left.min(self.client.deadline) };
            match self.client.keep_alive(id, deadline).await {
                Ok(()) => {
                    renewed = asked;
                    backoff.reset();
                    self.set(LeaseState::Alive { id });
                    tokio::time::sleep_until(renewed + ttl / RENEWALS_PER_TTL).await;
                    continue;
                }
                Err(Failure::LeaseGone) => return,
                Err(error) => tracing::debug!(id, %error, "the lease is not renewed"),
            }
            if Instant::now() >= renewed + ttl {
                self.set(LeaseState::Lost);
            }
            let left = (renewed + ttl).saturating_duration_since(Instant::now());
            let wait = backoff.next();
            tokio::time::sleep(if left.is_zero() { wait } else { wait.min(left) }).await;
        }
    }

    fn set(&self, state: LeaseState) {
        self.state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }
}
