//! Health checks: one prober task per instance that has a check, and what it found.
//!
//! The reconciler says with `set` what to watch and asks with `state` what came of it. What an unhealthy instance means for
//! gates, rollbacks and reports is the reconciler's to decide.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use skerry_model::InstanceName;
use skerry_model::app::{HealthCheck, Probe};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::probe::Inside;
use crate::lock::lock;
use crate::runtime::{Place, Runtime};

mod probe;
mod verdict;

pub use verdict::{HealthState, Outcome, Verdict};

/// What to watch.
#[derive(Clone)]
pub struct Target {
    /// How to tell.
    pub check: HealthCheck,
    /// Where the instance's ports are reached: `Observed::address`.
    pub address: Option<IpAddr>,
    /// When this copy started: `RunState::Running::since`. Another time is another copy, and its health begins anew.
    pub started_at: SystemTime,
    /// Which copy of the instance, for commands inside.
    pub place: Place,
    /// What runs it, for commands inside.
    pub runtime: Arc<dyn Runtime>,
    /// `Observed::image_health`, for a check of the image's own.
    pub image_health: Option<bool>,
}

/// Watches the health of instances. At most one task and one try at a time for each instance that is set.
///
/// Belongs to one reconciler: `changed` wakes one waiter.
pub struct Monitor {
    probers: Mutex<HashMap<InstanceName, Prober>>,
    shared: Arc<Shared>,
    tracker: TaskTracker,
    root: CancellationToken,
}

/// One watched instance. Dropping it ends its task.
struct Prober {
    check: HealthCheck,
    started_at: SystemTime,
    /// What may change without beginning anew.
    reach: watch::Sender<Reach>,
    state: Arc<Mutex<HealthState>>,
    _task: DropGuard,
}

#[derive(Clone)]
struct Reach {
    address: Option<IpAddr>,
    place: Place,
    runtime: Arc<dyn Runtime>,
}

#[derive(Default)]
struct Shared {
    changed: Notify,
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Monitor {
    /// Watches nothing yet.
    pub fn new() -> Self {
        Self {
            probers: Mutex::default(),
            shared: Arc::default(),
            tracker: TaskTracker::new(),
            root: CancellationToken::new(),
        }
    }

    /// Watches `instance`, or with `None` watches it no longer. Saying the same again changes nothing; another copy (`started_at`) or
    /// another check begins anew at `Starting`. Must be called within a tokio runtime.
    pub fn set(&self, instance: &InstanceName, target: Option<Target>) {
        let mut probers = lock(&self.probers);
        let Some(target) = target else {
            probers.remove(instance);
            return;
        };
        let reach =
            Reach { address: target.address, place: target.place, runtime: Arc::clone(&target.runtime) };
        match probers.get(instance) {
            Some(known) if known.check == target.check && known.started_at == target.started_at => {
                known.reach.send_if_modified(|old| {
                    let moved = old.address != reach.address
                        || old.place != reach.place
                        || !Arc::ptr_eq(&old.runtime, &reach.runtime);
                    *old = reach;
                    moved
                });
            }
            _ => {
                let prober = self.start(instance, &target, reach);
                probers.insert(instance.clone(), prober);
            }
        }
        if target.check.probe == Probe::Image
            && let Some(prober) = probers.get(instance)
        {
            publish(&prober.state, of_image(target.image_health), &self.shared);
        }
    }

    /// Watches here what `other` has watched until now, if it did: what was found of it stays true.
    pub fn take_over(&self, instance: &InstanceName, other: &Self) {
        let taken = lock(&other.probers).remove(instance);
        if let Some(prober) = taken {
            lock(&self.probers).insert(instance.clone(), prober);
        }
    }

    /// What is known of `instance`: `Starting` when it is not watched.
    pub fn state(&self, instance: &InstanceName) -> HealthState {
        match lock(&self.probers).get(instance) {
            Some(prober) => lock(&prober.state).clone(),
            None => HealthState::Starting,
        }
    }

    /// The instances that are watched.
    pub fn watched(&self) -> Vec<InstanceName> {
        lock(&self.probers).keys().cloned().collect()
    }

    /// Returns when some state has changed since the last return. May be dropped and called again without losing one.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Ends all tries and waits for their tasks. `set` starts no more of them.
    pub async fn shutdown(&self) {
        self.root.cancel();
        lock(&self.probers).clear();
        self.tracker.close();
        self.tracker.wait().await;
    }

    fn start(&self, instance: &InstanceName, target: &Target, reach: Reach) -> Prober {
        let cancel = self.root.child_token();
        let (sender, receiver) = watch::channel(reach);
        let state = Arc::new(Mutex::new(HealthState::Starting));
        if target.check.probe != Probe::Image {
            let verdict = Verdict::new(&target.check, started(target.started_at));
            let task = Task {
                instance: instance.clone(),
                check: target.check.clone(),
                reach: receiver,
                verdict,
                state: Arc::clone(&state),
                shared: Arc::clone(&self.shared),
            };
            let until = cancel.clone();
            self.tracker.spawn(async move {
                tokio::select! {
                    () = until.cancelled() => {}
                    () = task.run() => {}
                }
            });
        }
        Prober {
            check: target.check.clone(),
            started_at: target.started_at,
            reach: sender,
            state,
            _task: cancel.drop_guard(),
        }
    }
}

struct Task {
    instance: InstanceName,
    check: HealthCheck,
    reach: watch::Receiver<Reach>,
    verdict: Verdict,
    state: Arc<Mutex<HealthState>>,
    shared: Arc<Shared>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let reach = self.reach.borrow_and_update().clone();
            let inside =
                Inside { runtime: reach.runtime.as_ref(), place: reach.place, instance: &self.instance };
            let outcome = probe::attempt(&self.check, reach.address, inside).await;
            drop(reach);
            let wait = self.verdict.fold(outcome, Instant::now());
            publish(&self.state, self.verdict.state().clone(), &self.shared);
            // A new address is tried at once: the old one's failures say nothing about it.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = self.reach.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn publish(state: &Mutex<HealthState>, new: HealthState, shared: &Shared) {
    let mut state = lock(state);
    if *state != new {
        *state = new;
        shared.changed.notify_one();
    }
}

fn of_image(health: Option<bool>) -> HealthState {
    match health {
        None => HealthState::Starting,
        Some(true) => HealthState::Healthy,
        Some(false) => HealthState::Unhealthy { message: "the image's own health check fails".to_owned() },
    }
}

/// The monotonic time of `started_at`. A wall clock that was set back since gives now, one that was set forward the earliest that can be told.
fn started(started_at: SystemTime) -> Instant {
    let now = Instant::now();
    let ago = SystemTime::now().duration_since(started_at).unwrap_or_default();
    now.checked_sub(ago).unwrap_or(now)
}

#[cfg(test)]
mod tests;
