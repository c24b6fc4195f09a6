//! `members/<id>`: this replica of a service is alive, of this version, at this address. Leased; written again whenever the lease had to be
//! granted anew.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use skerry_proto::store::v1 as stored;
use skerry_store::keys::MemberId;
use skerry_store::{Key, Lease, LeaseState, Store, Txn};

/// How long a replica that died is still counted.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// Wait between two tries to write the key.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// One replica of a service.
#[derive(Debug, Clone)]
pub struct Member {
    id: MemberId,
    record: stored::MemberRecord,
}

impl Member {
    /// A replica of `service` that started now, of the version of this workspace.
    pub fn new(service: &str, address: SocketAddr, metrics: Option<SocketAddr>) -> Self {
        let record = stored::MemberRecord {
            service: service.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: address.to_string(),
            metrics_address: metrics.map(|address| address.to_string()).unwrap_or_default(),
            start_time: Some(skerry_model::time::to_timestamp(SystemTime::now())),
        };
        Self { id: MemberId::parse(&uuid::Uuid::new_v4().to_string()).expect("a uuid is an id"), record }
    }

    /// Its id: random for each start.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// Keeps it known until `end`; then it is gone at once.
    pub async fn keep(self, store: Store, end: impl Future<Output = ()>) {
        let lease = Lease::keep(&store, LEASE_TTL);
        tokio::select! {
            () = end => {}
            () = self.write(&store, &lease) => {}
        }
        if let Err(error) = lease.revoke().await {
            tracing::debug!(%error, "the member's lease is left to expire");
        }
    }

    async fn write(&self, store: &Store, lease: &Lease) {
        let key = Key::<stored::MemberRecord>::of(&self.id);
        let mut state = lease.state();
        loop {
            let alive = matches!(*state.borrow_and_update(), LeaseState::Alive { .. });
            if alive && let Err(error) = store.commit(Txn::new().put_leased(&key, &self.record, lease)).await
            {
                tracing::debug!(%error, "this member's key could not be written");
                tokio::time::sleep(RETRY_WAIT).await;
                continue;
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }
}
