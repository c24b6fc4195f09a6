//! `gateways/<id>`: this gateway is alive. Leased; written again whenever the lease had to be granted anew, as after a store that
//! stalled.

use std::time::{Duration, SystemTime};

use skerry_daemon::Shutdown;
use skerry_proto::store::v1 as stored;
use skerry_store::keys::GatewayId;
use skerry_store::{Key, Lease, LeaseState, Store, Txn};
use tokio::sync::watch;

use crate::clock::jitter;

/// Longest wait between two tries to write the key.
const RETRY_MAX: Duration = Duration::from_secs(2);

pub(crate) struct Presence {
    pub(crate) store: Store,
    pub(crate) lease: Lease,
    pub(crate) id: GatewayId,
    pub(crate) address: String,
    /// Becomes true with the first write.
    pub(crate) written: watch::Sender<bool>,
}

impl Presence {
    /// Keeps the key until `shutdown`; then its nodes count as disconnected at once.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.wait() => {}
            () = self.keep() => {}
        }
        if let Err(error) = self.lease.revoke().await {
            tracing::debug!(%error, "the gateway's lease is left to expire");
        }
    }

    async fn keep(&self) {
        let key = Key::<stored::GatewayRecord>::of(&self.id);
        let record = stored::GatewayRecord {
            start_time: Some(skerry_model::time::to_timestamp(SystemTime::now())),
            address: self.address.clone(),
        };
        let mut state = self.lease.state();
        loop {
            let alive = *state.borrow_and_update();
            let LeaseState::Alive { .. } = alive else {
                if state.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match self.store.commit(Txn::new().put_leased(&key, &record, &self.lease)).await {
                Ok(_) => {
                    self.written.send_replace(true);
                    if state.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "this gateway's key could not be written");
                    tokio::time::sleep(RETRY_MAX / 10 + jitter(RETRY_MAX)).await;
                }
            }
        }
    }
}
