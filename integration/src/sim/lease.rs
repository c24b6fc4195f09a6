//! A lease that is kept alive, and leadership under it: as `skerry_store` does both.

use std::rc::Rc;
use std::time::Duration;

use prost::Message as _;
use skerry_etcd_embedded::mvcc::{Answer, Command};
use skerry_proto::store::v1 as stored;
use skerry_store::Key;
use skerry_store::keys::LeaderName;
use skerry_store::sans_io::{Failure, Range};
use tokio::sync::Notify;

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
    state: Rc<super::signal::Sender<Option<i64>>>,
    holder: stored::LeaderRecord,
    stop: Rc<Notify>,
}

impl Lease {
    pub(super) fn keep(client: &Client, ttl: Duration) -> Self {
        let lease = Self {
            client: client.clone(),
            state: Rc::new(super::signal::Sender::new(None)),
            holder: stored::LeaderRecord {
                holder: format!("{:016x}", client.process().seed()),
                ..Default::default()
            },
            stop: Rc::default(),
        };
        let keeper = lease.clone();
        client.process().spawn(async move {
            tokio::select! {
                biased;
                () = keeper.stop.notified() => {}
                () = keeper.run(ttl) => {}
            }
            keeper.set(None);
        });
        lease
    }

    pub(super) fn state(&self) -> super::signal::Receiver<Option<i64>> {
        self.state.subscribe()
    }

    pub(super) fn id(&self) -> Option<i64> {
        *self.state.borrow()
    }

    /// Ends it at once.
    pub(super) async fn revoke(&self) {
        let id = self.id();
        self.stop.notify_one();
        if let Some(id) = id {
            let _ = self.client.command(Command::LeaseRevoke { id }, Origin::Other).await;
        }
    }

    fn set(&self, id: Option<i64>) {
        if self.id() != id {
            self.state.set(id);
        }
    }

    async fn run(&self, ttl: Duration) {
        let process = self.client.process();
        let ttl_s = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let mut attempt = 0;
        loop {
            let asked = process.sim.now();
            let id = i64::try_from(process.seed() >> 2).unwrap_or(1).max(1);
            let granted = self.client.command(Command::LeaseGrant { id, ttl_s }, Origin::Other).await;
            if let Ok(Answer::Lease { id, .. }) = granted {
                attempt = 0;
                self.set(Some(id));
                self.renew(id, asked, ttl).await;
                self.set(None);
                process.trace(format_args!("its lease is lost"));
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
        let Some(id) = state.wait_for(Option::is_some).await.ok().flatten() else { continue };
        let txn = Txn::new().when_absent(&key).put_leased(&key, &lease.holder, id);
        match client.commit(txn, Origin::Other).await {
            Ok(create_revision) => {
                process.trace(format_args!("leads since {create_revision}"));
                return (Leadership { key, create_revision, holder }, id);
            }
            Err(TxnError::Conflict(at, seen)) => match seen.get(key.as_str()) {
                // Ours of an earlier campaign, or of this one with its answer lost: begin anew.
                Some(Some(held)) if *held.bytes == *holder => {
                    let txn = Txn::new().when_unchanged(&key, held.mod_revision).delete(&key);
                    if client.commit(txn, Origin::Other).await.is_ok() {
                        continue;
                    }
                }
                Some(Some(_)) => {
                    if client.wait_change(key.as_str(), at).await.is_ok() {
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
            let range = Range { key: leadership.key.as_str().into(), ..Range::default() };
            if let Ok(found) = client.range(&range).await {
                let ours = |held: &skerry_store::Entry| {
                    held.create_revision == leadership.create_revision && *held.bytes == *leadership.holder
                };
                if !found.entries.first().is_some_and(ours) {
                    return;
                }
                revision = found.header.revision;
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
