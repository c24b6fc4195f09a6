//! For how long a machine that waits is remembered: ten minutes after it asked last. Each time it asks its record is put under the lease of
//! the moment; a lease is given to new records for a while, then left to expire, so that a thousand machines that wait cost a handful.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use skerry_model::Fault;
use skerry_store::{Lease, Store};
use tokio::time::Instant;

/// What the machine is promised.
pub(super) const REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// How long a lease is given to new records.
const USED: Duration = Duration::from_secs(2 * 60);
/// A lease is kept alive at every third of its life while it is used, so two thirds are left at the least when it is no longer.
const TTL: Duration = Duration::from_secs(15 * 60);
/// Longest wait for a lease.
const PATIENCE: Duration = Duration::from_secs(5);

/// The lease of the moment.
#[derive(Debug, Default)]
pub(super) struct Leases {
    current: Mutex<Option<(Lease, Instant)>>,
}

impl Leases {
    /// A lease that lives for [`REMEMBERED`] at least.
    pub(super) async fn current(&self, store: &Store) -> Result<Lease, Fault> {
        let lease = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            match &*current {
                Some((lease, made)) if made.elapsed() < USED => lease.clone(),
                _ => {
                    let lease = Lease::keep(store, TTL);
                    *current = Some((lease.clone(), Instant::now()));
                    lease
                }
            }
        };
        let alive = tokio::time::timeout(PATIENCE, lease.alive()).await;
        alive
            .ok()
            .flatten()
            .map(|_| lease)
            .ok_or_else(|| Fault::unavailable("the store grants no lease: try again"))
    }
}
