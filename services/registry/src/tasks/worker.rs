//! The worker of this replica: claims tasks that are due, goes on with each, and removes those that ended long ago.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_api::audit;
use skerry_daemon::Shutdown;
use skerry_model::TaskRef;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::AuditOutcome;
use skerry_store::{Act, Key, Lease, Prefix, Store, Txn};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::claim::claim;
use super::drive::drive;
use super::queue::{queue, surplus};
use super::shown::Shown;
use super::work::Env;

/// How long a worker may be silent before others take over what it claimed.
const CLAIM_TTL: Duration = Duration::from_secs(8);
/// Tasks that one replica works on at once. Most of them wait for something most of the time.
const AT_ONCE: usize = 128;
/// The longest between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest: a task that goes on changes what is seen with each step.
const LOOK_AT_MOST: Duration = Duration::from_millis(100);
/// Between two looks for what ended long ago.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// One replica's.
pub(super) struct Worker {
    pub(super) env: Arc<Env>,
    pub(super) shown: Arc<Shown>,
    /// The replica's id.
    pub(super) member: String,
}

impl Worker {
    /// Works until the end. Then what it was at is another replica's at once.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let lease = Lease::keep_for(&self.env.store, CLAIM_TTL, &self.member);
        let mut running = JoinSet::new();
        let mut names = HashMap::new();
        let mut wake = self.shown.mirror.subscribe();
        let mut swept = Instant::now();
        while !shutdown.is_ending() {
            let next = self.look(&lease, &mut running, &mut names, &shutdown).await;
            if swept.elapsed() >= SWEEP_EVERY {
                self.sweep().await;
                swept = Instant::now();
            }
            tokio::select! {
                () = shutdown.wait() => break,
                () = tokio::time::sleep(LOOK_AT_MOST) => {}
            }
            let pause = next.map_or(LOOK_EVERY, |next| next.min(LOOK_EVERY));
            tokio::select! {
                () = shutdown.wait() => break,
                more = wake.changed() => if !more { break },
                ended = running.join_next_with_id(), if !running.is_empty() => forget(&mut names, ended),
                () = tokio::time::sleep(pause) => {}
            }
            while let Some(ended) = running.try_join_next_with_id() {
                forget(&mut names, Some(ended));
            }
        }
        while running.join_next().await.is_some() {}
        if let Err(error) = lease.revoke().await {
            debug!(%error, "the claims of this worker are left to expire");
        }
    }

    /// Claims what is due, as much as one replica works on; answers how long until more is.
    async fn look(
        &self,
        lease: &Lease,
        running: &mut JoinSet<()>,
        names: &mut HashMap<Id, TaskRef>,
        shutdown: &Shutdown,
    ) -> Option<Duration> {
        // Whose lease is lost claims nothing: it is granted anew as soon as the store is there.
        lease.id()?;
        self.release(names).await;
        let now = SystemTime::now();
        let found = queue(&self.shown.tasks.snapshot(), now);
        for name in found.due {
            if names.len() >= AT_ONCE || shutdown.is_ending() {
                break;
            }
            if names.values().any(|at| *at == name) {
                continue;
            }
            match claim(&self.env.store, lease, &self.member, &name, now).await {
                Ok(Some(held)) => {
                    let (env, shown) = (Arc::clone(&self.env), Arc::clone(&self.shown));
                    let (lease, shutdown) = (lease.clone(), shutdown.clone());
                    let spawned = running.spawn(drive(env, shown, held, lease, shutdown));
                    names.insert(spawned.id(), name);
                }
                Ok(None) => {}
                Err(error) => {
                    debug!(task = %name, %error, "a task could not be claimed");
                    break;
                }
            }
        }
        found.next.and_then(|next| next.duration_since(now).ok())
    }

    /// Gives up claims of this worker that it does not know of: the answer to the claim was lost.
    async fn release(&self, names: &HashMap<Id, TaskRef>) {
        let snapshot = self.shown.mirror.snapshot();
        for read in snapshot.iter(&Prefix::<stored::TaskClaimRecord>::all()).filter_map(Result::ok) {
            let name = read.key.name();
            if read.value.worker == self.member && names.values().all(|at| *at != name) {
                let txn = Txn::new().when_same(&read).delete(&read.key);
                if let Err(error) = self.env.store.commit(txn).await {
                    debug!(task = %name, %error, "a claim that nobody knows of stays for now");
                }
            }
        }
    }

    /// Deletes tasks that ended and are not kept. Replicas may do it at the same time.
    async fn sweep(&self) {
        let surplus = surplus(&self.shown.tasks.snapshot());
        for name in surplus {
            if let Err(error) = remove(&self.env.store, &name).await {
                debug!(task = %name, %error, "a task that ended long ago stays for now");
            }
        }
    }
}

async fn remove(store: &Store, name: &TaskRef) -> Result<(), skerry_model::Fault> {
    let key = Key::<stored::TaskRecord>::of(name);
    let progress_key = Key::<stored::TaskProgressRecord>::of(name);
    let (Some(read), Some(progress)) = (store.get(&key).await?, store.get(&progress_key).await?) else {
        return Ok(());
    };
    // Somebody may have retried it just now.
    let wanted = super::journal::Wanted::of(&read.value);
    if super::journal::ended(Some(&progress.value), wanted).is_none() {
        return Ok(());
    }
    let by = audit::itself("registry");
    let act = Act::new(by, "sweep", name.project.clone(), name.to_string(), AuditOutcome::Deleted);
    let act = act.detail("only the last that ended are kept");
    let asked = Key::<stored::PrefetchRecord>::of(name);
    let txn =
        Txn::new().when_same(&read).when_same(&progress).delete(&key).delete(&progress_key).delete(&asked);
    let txn = txn.audit(act);
    store.commit(txn).await?;
    Ok(())
}

/// One is not worked on any more. After a defect its claim is given up at the next look, as any that nobody knows of.
fn forget(names: &mut HashMap<Id, TaskRef>, ended: Option<Result<(Id, ()), JoinError>>) {
    let id = match ended {
        Some(Ok((id, ()))) => id,
        Some(Err(error)) => {
            warn!(%error, "a task was left by its worker");
            error.id()
        }
        None => return,
    };
    names.remove(&id);
}
