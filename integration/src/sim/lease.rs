//! A lease that is kept alive, and leadership under it: as `skerry_store` does both.

use std::rc::Rc;
use std::time::Duration;

use prost::Message as _;
use skerry_etcd_embedded::mvcc::{Answer, Command};
use skerry_proto::store::v1 as stored;
use skerry_store::keys::LeaderName;
use skerry_store::sans_io::Failure;
use skerry_store::Key;

use super::check::Origin;
use super::client::{Client, DEADLINE};
use super::txn::{Leadership, Txn, TxnError};

/// A lease is renewed so many times within its time to live.
const RENEWALS_PER_TTL: u32 = 3;

/// A lease. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lease {
    client: Client,
    /// Its id, as long as it is alive by our own clock.
    state: Rc<tokio::sync::watch::Sender<Option<i64>>>,
    holder: stored::LeaderRecord,
}

impl Lease {
    pub(super) fn keep(client: &Client, ttl: Duration) -> Self {
        let lease = Self {
            client: client.clone(),
            state: Rc::new(tokio::sync::watch::Sender::new(None)),
            holder: stored::LeaderRecord { holder: format!("{:016x}", client.process().seed()) },
        };
        let keeper = lease.clone();
        client.process().spawn(async move { keeper.run(ttl).await });
        lease
    }

    pub(super) fn state(&self) -> tokio::sync::watch::Receiver<Option<i64>> {
        self.state.subscribe()
    }

    pub(super) fn id(&self) -> Option<i64> {
        *self.state.borrow()
    }

    /// Ends it at once.
    pub(super) async fn revoke(&self) {
        if let Some(id) = self.id() {
            let _ = self.client.command(Command::LeaseRevoke { id }, Origin::Other).await;
        }
    }

    fn set(&self, id: Option<i64>) {
        self.state.send_if_modified(|current| std::mem::replace(current, id) != id);
    }

    async fn run(&self, ttl: Duration) {
        let process = self.client.process();
        let ttl_s = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let mut attempt = 0;
        loop {
            let asked = process.sim.now();
            let id = i64::try_from(process.seed() >> 2).unwrap_or(1).max(1);
            match self.client.command(Command::LeaseGrant { id, ttl_s }, Origin::Other).await {
                Ok(Answer::Lease { id, .. }) => {
                    attempt = 0;
                    self.set(Some(id));
                    self.renew(id, asked, ttl).await;
                    self.set(None);
                    process.trace(format_args!("its lease is lost"));
                }
                Ok(_) | Err(_) => {}
            }
            process.sleep(process.backoff(attempt, 1_000)).await;
            attempt += 1;
        }
    }

    async fn renew(&self, id: i64, granted: Duration, ttl: Duration) {
        let process = self.client.process();
        let mut renewed = granted;
        let mut attempt = 0;
        process.sleep_until(renewed + ttl / RENEWALS_PER_TTL).await;
        loop {
            let asked = process.sim.now();
            let left = (renewed + ttl).saturating_sub(asked);
            let deadline = if left.is_zero() { DEADLINE } else { left.min(DEADLINE) };
            let call = self.client.command(Command::LeaseKeepAlive { id }, Origin::Other);
            match process.timeout(deadline, call).await {
                Some(Ok(_)) => {
                    renewed = asked;
                    attempt = 0;
                    self.set(Some(id));
                    process.sleep_until(renewed + ttl / RENEWALS_PER_TTL).await;
                    continue;
                }
                Some(Err(Failure::LeaseGone)) => return,
                Some(Err(_)) | None => {}
            }
            if process.sim.now() >= renewed + ttl {
                self.set(None);
            }
            let left = (renewed + ttl).saturating_sub(process.sim.now());
            let wait = process.backoff(attempt, 1_000);
            attempt += 1;
            process.sleep(if left.is_zero() { wait } else { wait.min(left) }).await;
        }
    }
}

/// Waits until this process leads.
pub(super) async fn campaign(client: &Client, name: &LeaderName, lease: &Lease) -> (Leadership, i64) {
    let process = client.process();
    let key = Key::<stored::LeaderRecord>::of(name);
    let holder = lease.holder.encode_to_vec();
    let mut attempt = 0;
    loop {
        let mut state = lease.state();
        let Some(id) = state.wait_for(Option::is_some).await.ok().and_then(|id| *id) else { continue };
        let txn = Txn::new().when_absent(&key).put_leased(&key, &lease.holder, id);
        match client.commit(txn, Origin::Other).await {
            Ok(create_revision) => {
                process.trace(format_args!("leads since {create_revision}"));
                return (Leadership { key, create_revision, holder }, id);
            }
            Err(TxnError::Conflict(seen)) => match seen.get(key.as_str()) {
                // Ours of an earlier campaign, or of this one with its answer lost: begin anew.
                Some(Some(held)) if *held.bytes == *holder => {
                    let txn = Txn::new().when_unchanged(&key, held.mod_revision).delete(&key);
                    if client.commit(txn, Origin::Other).await.is_ok() {
                        continue;
                    }
                }
                Some(Some(held)) => {
                    if client.wait_change(key.as_str(), held.mod_revision).await.is_ok() {
                        attempt = 0;
                        continue;
                    }
                }
                Some(None) | None => {}
            },
            Err(TxnError::Indeterminate | TxnError::Unavailable | TxnError::LeaseLost) => {}
        }
        process.sleep(process.backoff(attempt, 2_000)).await;
        attempt += 1;
    }
}

/// Waits until the leadership is known to be lost; the fence is what holds.
pub(super) async fn lost(client: &Client, lease: &Lease, leadership: &Leadership, id: i64) {
    let mut state = lease.state();
    let replaced = async {
        let mut revision = leadership.create_revision;
        let mut attempt = 0;
        loop {
            let changed = client.wait_change(leadership.key.as_str(), revision).await;
            match client.get(&leadership.key).await {
                Ok(Some(held))
                    if held.create_revision == leadership.create_revision
                        && *held.bytes == *leadership.holder =>
                {
                    revision = held.mod_revision;
                }
                Ok(_) => return,
                Err(_) => {}
            }
            if changed.is_ok() {
                attempt = 0;
            }
            client.process().sleep(client.process().backoff(attempt, 2_000)).await;
            attempt += 1;
        }
    };
    tokio::select! {
        biased;
        _ = state.wait_for(|state| *state != Some(id)) => {}
        () = replaced => {}
    }
}
