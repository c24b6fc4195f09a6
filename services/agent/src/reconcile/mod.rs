//! The loop that makes the machine run what is wanted: looks, plans, acts, tells.
//!
//! Level-triggered: a wake-up carries nothing; each pass plans anew from what was last observed. Nothing in a pass waits for a runtime:
//! looks and acts are tasks of their own with deadlines, one act at a time for each instance, one look at a time for each
//! runtime, so that what hangs holds up only itself. What to do is `plan`'s; what is told of it `status`'s.

mod act;
mod ahead;
mod collect;
mod gpus;
mod hand;
mod jobs;
mod look;
mod names;
mod report;
mod secrets;
mod tell;
mod updates;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skerry_model::{InstanceName, NodeRef};
use skerry_proto::types::v1 as pb;
use skerry_sync::MonoTime;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::act::{Acts, News};
use self::look::Looks;
use crate::channel::BundleFile;
use crate::clock::Clock;
use crate::desired::Desired;
use crate::gpu::Containers;
use crate::hand::Desk;
use crate::health::{HealthState, Monitor};
use crate::jobs::Jobs;
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::plan::{Inputs, plan};
use crate::runtime::{Runtime, RuntimeError, RuntimeKind};
use crate::secrets::Secrets;
use crate::update::{Contents, Updates};
use crate::world::World;

/// All is looked at again after this time, whatever happens.
const PERIOD: Duration = Duration::from_secs(30);
/// Progress that waits to be told. What does not fit is dropped: it is for people to read.
const NEWS_MAX: usize = 256;
/// Changes that wait for the uplink. It takes them at once; a full queue makes the loop wait for it.
pub(crate) const LOCAL_MAX: usize = 64;
/// Longest that the last write of the counts may take when the agent ends.
const LAST_WRITE_MAX: Duration = Duration::from_secs(2);
/// The first look is told as it is after this time, also when a runtime has not answered.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(3);

/// What the loop tells the uplink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Local {
    /// What an instance looks like now.
    Instance(Box<pb::InstanceStatus>),
    /// It is gone.
    Gone(String),
    /// How far an image is that is fetched ahead.
    Image(Box<pb::ImageStatus>),
    /// The image of this id is not any more.
    ImageGone(String),
    /// Something happened.
    Event(Box<pb::Event>),
    /// All that there is has been told once.
    Looked,
}

/// A runtime, for the status of the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuntimeStatus {
    /// Its version, once it answered.
    pub(crate) version: String,
    /// Whether it answers.
    pub(crate) available: bool,
    /// Why it does not.
    pub(crate) error: Option<RuntimeError>,
    /// Whether an instance needs it, or it was there before: then its absence is a fault.
    pub(crate) missed: bool,
}

/// All runtimes.
pub(crate) type RuntimeStatuses = BTreeMap<RuntimeKind, RuntimeStatus>;

/// What was last made of the instances, for the uplink, which keeps what is superseded before its successor runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Copies {
    /// Runtimes that were looked at: of an instance that needs one of these and is not in `made`, there was no copy.
    pub(crate) looked: BTreeSet<RuntimeKind>,
    /// The last copy of each instance, also when it is gone since.
    pub(crate) made: BTreeMap<InstanceName, Copy>,
    /// What was found good of each app, as far as that is on disk.
    pub(crate) good: Contents,
}

/// A copy of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    /// Of the spec that it was made from.
    pub(crate) fingerprint: String,
    /// Whether it was seen to have been started. Otherwise it is being made, or was.
    pub(crate) ran: bool,
}

/// What the loop is connected to.
pub(crate) struct Links {
    /// What shall run.
    pub(crate) desired: watch::Receiver<Arc<Desired>>,
    /// Where changes go.
    pub(crate) local: mpsc::Sender<Local>,
    /// Where the state of the runtimes goes.
    pub(crate) runtimes: watch::Sender<RuntimeStatuses>,
    /// Where the copies go.
    pub(crate) copies: watch::Sender<Copies>,
    /// Whether a session is open.
    pub(crate) link: watch::Receiver<bool>,
}

/// The loop.
pub(crate) struct Reconciler {
    node: NodeRef,
    clock: Clock,
    links: Links,
    /// As it came.
    wanted: Arc<Desired>,
    /// The same, with the last good revision of apps whose update was taken back.
    effective: Arc<Desired>,
    /// The same, each instance of a cron job as it is in its run.
    desired: Arc<Desired>,
    /// When the trace of the desired state began here.
    traced_since: MonoTime,
    runtimes: BTreeMap<RuntimeKind, Arc<dyn Runtime>>,
    world: World,
    memories: BTreeMap<InstanceName, Memory>,
    copies: Copies,
    looks: Looks,
    acts: Acts,
    monitor: Monitor,
    /// Of the copies beside those that they are to replace.
    beside_monitor: Monitor,
    beside_health: BTreeMap<InstanceName, HealthState>,
    /// Health as it was last told.
    health: BTreeMap<InstanceName, HealthState>,
    /// Statuses as they were last told.
    told: BTreeMap<InstanceName, pb::InstanceStatus>,
    /// Events of this pass; told after the statuses that they belong to.
    events: Vec<pb::Event>,
    looked: bool,
    looks_told: bool,
    sweeping: JoinSet<()>,
    sweep_due: bool,
    secrets: secrets::Keeper,
    names: names::Keeper,
    collector: collect::Collector,
    fetcher: ahead::Fetcher,
    ledger: Ledger,
    jobs: Jobs,
    updates: Updates,
    desk: Desk,
    gpus: gpus::Gpus,
    /// Who wants to know which containers are whose.
    containers: Option<Arc<watch::Sender<Arc<Containers>>>>,
    /// Who wants to know what is known here.
    reports: mpsc::Receiver<oneshot::Sender<Vec<BundleFile>>>,
}

impl Reconciler {
    /// A loop over these runtimes, not running yet.
    pub(crate) fn new(node: NodeRef, clock: Clock, runtimes: Vec<Arc<dyn Runtime>>, links: Links) -> Self {
        let runtimes: BTreeMap<_, _> =
            runtimes.into_iter().map(|runtime| (runtime.kind(), runtime)).collect();
        let world = runtimes.keys().map(|kind| (*kind, crate::world::View::default())).collect();
        Self {
            node,
            clock,
            wanted: Arc::default(),
            effective: Arc::default(),
            desired: Arc::default(),
            traced_since: clock.mono(),
            looks: Looks::new(runtimes.keys().copied()),
            acts: Acts::new(Arc::new(Semaphore::new(act::PREPARES_MAX))),
            runtimes,
            world,
            copies: Copies::default(),
            memories: BTreeMap::new(),
            monitor: Monitor::new(),
            beside_monitor: Monitor::new(),
            beside_health: BTreeMap::new(),
            health: BTreeMap::new(),
            told: BTreeMap::new(),
            events: Vec::new(),
            looked: false,
            looks_told: false,
            sweeping: JoinSet::new(),
            sweep_due: true,
            secrets: secrets::Keeper::default(),
            names: names::Keeper::default(),
            collector: collect::Collector::default(),
            fetcher: ahead::Fetcher::default(),
            ledger: Ledger::default(),
            jobs: Jobs::default(),
            updates: Updates::default(),
            desk: Desk::default(),
            gpus: gpus::Gpus::default(),
            containers: None,
            reports: mpsc::channel(1).1,
            links,
        }
    }

    /// Counts on from what an earlier process of the agent counted.
    pub(crate) fn with_ledger(self, ledger: Ledger) -> Self {
        Self { ledger, ..self }
    }

    /// Goes on with the jobs that an earlier process of the agent knew.
    pub(crate) fn with_jobs(self, jobs: Jobs) -> Self {
        Self { jobs, ..self }
    }

    /// Goes on with the updates that an earlier process of the agent knew.
    pub(crate) fn with_updates(self, updates: Updates) -> Self {
        Self { updates, ..self }
    }

    /// Does what people ask for at this desk.
    pub(crate) fn with_desk(self, desk: Desk) -> Self {
        Self { desk, ..self }
    }

    /// Tells those who ask here what it knows.
    pub(crate) fn with_looks(self, reports: mpsc::Receiver<oneshot::Sender<Vec<BundleFile>>>) -> Self {
        Self { reports, ..self }
    }

    /// Says here which containers are whose, as long as somebody listens.
    pub(crate) fn with_containers(self, containers: Arc<watch::Sender<Arc<Containers>>>) -> Self {
        Self { containers: Some(containers), ..self }
    }

    /// With the values of secrets that instances have.
    pub(crate) fn with_secrets(self, secrets: Arc<Secrets>) -> Self {
        Self { secrets: secrets::Keeper::new(secrets), ..self }
    }

    /// Runs until `shutdown`. What runs on the machine runs on.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let (news_in, mut news) = mpsc::channel(NEWS_MAX);
        let mut watchers = JoinSet::new();
        let (stir_in, mut stirs) = mpsc::channel(self.runtimes.len().max(1));
        for runtime in self.runtimes.values() {
            watchers.spawn(look::watch(Arc::clone(runtime), stir_in.clone()));
        }
        self.take_desired();
        loop {
            let wake = self.pass(&news_in).await;
            let sleep = tokio::time::sleep_until(self.clock.instant(wake));
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep => {}
                changed = self.links.desired.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.take_desired();
                }
                changed = self.links.link.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(kind) = stirs.recv() => self.looks.stir(kind),
                Some(news) = news.recv() => self.take_news(news),
                Some(ended) = self.acts.next() => self.take_end(ended),
                Some(seen) = self.looks.next() => self.take_look(seen),
                Some(_) = self.sweeping.join_next() => {}
                () = self.secrets.next() => {}
                () = self.names.next() => {}
                Some(ended) = self.collector.next() => self.take_collector(ended),
                happened = self.fetcher.next() => self.take_ahead(happened),
                () = self.monitor.changed() => {}
                () = self.beside_monitor.changed() => {}
                () = self.ledger.written() => self.ledger.write(),
                Some(answer) = self.reports.recv() => self.report(answer),
                news = self.desk.next() => self.take_hand(news),
                () = self.gpus.link.changed() => self.gpus_changed(),
                () = self.jobs.written() => {}
                () = self.updates.written() => {}
            }
            // Whatever else is there already is taken in before planning anew.
            while let Ok(kind) = stirs.try_recv() {
                self.looks.stir(kind);
            }
            while let Ok(news) = news.try_recv() {
                self.take_news(news);
            }
        }
        self.acts.abort_all();
        self.monitor.shutdown().await;
        self.beside_monitor.shutdown().await;
        let last = async {
            tokio::join!(self.ledger.finish(), self.jobs.finish(), self.updates.finish(), self.desk.finish())
        };
        if tokio::time::timeout(LAST_WRITE_MAX, last).await.is_err() {
            tracing::warn!(
                "the last write of the counts of restarts, of jobs or of updates did not end in time"
            );
        }
    }

    /// One pass. Answers when the next is due.
    async fn pass(&mut self, news: &mpsc::Sender<News>) -> MonoTime {
        let now = self.clock.mono();
        let mut wake = now + PERIOD;
        let soonest = self.looks.begin(&self.runtimes, &self.world, now);
        wake = wake.min(soonest);
        for due in [self.step_updates(now), self.step_jobs(now)].into_iter().flatten() {
            wake = wake.min(due);
        }
        self.watch_health();
        self.watch_beside();
        self.step_hands();
        let gpus = self.gpus.link.grants.memories();
        let inputs = Inputs {
            desired: &self.desired,
            world: &self.world,
            memories: &self.memories,
            hands: self.desk.hands(),
            gates: self.jobs.gates(),
            health: &self.health,
            beside_health: &self.beside_health,
            gpus: &gpus,
            now,
        };
        let plan = plan(inputs);
        if let Some(due) = plan.wake {
            wake = wake.min(due);
        }
        for action in &plan.actions {
            self.begin_act(action, news, now);
        }
        self.step_gpus(news, now);
        self.secrets.refresh(&self.desired);
        self.names.keep(&self.runtimes);
        if !self.looked {
            self.looked = self.looks.all_seen() || now >= MonoTime::from_origin(FIRST_LOOK_MAX);
            if !self.looked {
                wake = wake.min(MonoTime::from_origin(FIRST_LOOK_MAX));
            }
        }
        if let Some(due) = self.fetch_ahead(now) {
            wake = wake.min(due);
        }
        let outcomes = self.hand_outcomes(&plan.holds, now);
        if let Some(due) = self.tell(&plan.holds, now).await {
            wake = wake.min(due);
        }
        // Who asked knows no sooner than who looks.
        if let Some(due) = self.answer_hands(outcomes) {
            wake = wake.min(due);
        }
        if plan.actions.is_empty() {
            self.sweep();
        }
        wake = wake.min(self.collect(now));
        wake
    }

    /// Takes over a new desired state; acts on what is no longer wanted so are given up.
    fn take_desired(&mut self) {
        let desired = Arc::clone(&self.links.desired.borrow_and_update());
        self.sweeping.abort_all();
        if self.wanted.trace_parent != desired.trace_parent {
            self.traced_since = self.clock.mono();
        }
        self.fetcher.want(&desired);
        self.wanted = desired;
        let now = self.clock.mono();
        self.step_updates(now);
        self.step_jobs(now);
    }

    /// Keeps the monitor on what runs as it should, and says what changed. An instance that turns unhealthy is told as such and not
    /// restarted, as with Docker: what it means is for dependents, rollouts and people to say.
    fn watch_health(&mut self) {
        let mut watched: BTreeSet<InstanceName> = self.monitor.watched().into_iter().collect();
        for (name, wanted) in &self.desired.instances {
            // One on another runtime than is wanted runs on until it can be replaced.
            let Some(kind) = crate::world::place_of(&self.world, name, crate::world::kind_of(wanted)) else {
                continue;
            };
            let Some((view, runtime)) = self.world.get(&kind).zip(self.runtimes.get(&kind)) else { continue };
            let Some(observed) = view.instances.get(name) else { continue };
            let crate::runtime::RunState::Running { since } = observed.state else { continue };
            // An old copy that is not known is watched on as it was until it is replaced.
            let Some(spec) = self.desired.spec_of(name, &observed.fingerprint) else {
                watched.remove(name);
                continue;
            };
            if let Some(check) = &spec.service.health_check {
                watched.remove(name);
                let target = target(check, observed, since, runtime);
                // The copy that was beside has this place now. One that was withdrawn has left it to the old copy.
                let moved = !view.beside.contains_key(name) && observed.fingerprint == wanted.fingerprint;
                if moved && self.beside_health.contains_key(name) {
                    self.monitor.take_over(name, &self.beside_monitor);
                }
                self.monitor.set(name, Some(target));
            }
        }
        for name in watched {
            self.monitor.set(&name, None);
        }
        let new: BTreeMap<InstanceName, HealthState> = self
            .monitor
            .watched()
            .into_iter()
            .map(|name| (name.clone(), self.monitor.state(&name)))
            .collect();
        let old = std::mem::replace(&mut self.health, new);
        self.tell_health(&old);
    }

    /// Keeps the other monitor on the copies beside those that they are to replace.
    fn watch_beside(&mut self) {
        let mut watched: BTreeSet<InstanceName> = self.beside_monitor.watched().into_iter().collect();
        for (name, spec) in &self.desired.instances {
            let kind = crate::world::kind_of(spec);
            let Some((view, runtime)) = self.world.get(&kind).zip(self.runtimes.get(&kind)) else { continue };
            let beside = view.beside.get(name).filter(|beside| beside.fingerprint == spec.fingerprint);
            let Some((check, beside)) = spec.service.health_check.as_ref().zip(beside) else { continue };
            if let crate::runtime::RunState::Running { since } = beside.state {
                watched.remove(name);
                self.beside_monitor.set(name, Some(target(check, beside, since, runtime)));
            }
        }
        for name in watched {
            self.beside_monitor.set(&name, None);
        }
        let states = |name: InstanceName| (name.clone(), self.beside_monitor.state(&name));
        self.beside_health = self.beside_monitor.watched().into_iter().map(states).collect();
    }

    /// Lets runtimes clean up where nothing is under way that could still need it.
    fn sweep(&mut self) {
        let quiet = self.sweep_due
            && self.sweeping.is_empty()
            && self.acts.is_empty()
            && self.desired.authoritative
            && self.desired.blocked.is_empty()
            && self.desired.formers.is_empty();
        let clean = || {
            self.world.iter().all(|(kind, view)| {
                view.beside.is_empty()
                    && view.instances.iter().all(|(name, observed)| {
                        self.desired.instances.get(name).is_some_and(|spec| {
                            crate::world::kind_of(spec) == *kind && spec.fingerprint == observed.fingerprint
                        })
                    })
            })
        };
        if !quiet || !clean() {
            return;
        }
        self.sweep_due = false;
        self.secrets.sweep(&self.desired);
        for (kind, runtime) in &self.runtimes {
            if self.world.get(kind).is_some_and(|view| view.available) {
                let (runtime, wanted) = (Arc::clone(runtime), self.desired.wanted());
                self.sweeping.spawn(async move {
                    match tokio::time::timeout(look::DEADLINE, runtime.sweep(&wanted)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => {
                            tracing::warn!(runtime = runtime.kind().as_str(), %error, "cannot clean up");
                        }
                        Err(_) => {
                            tracing::warn!(runtime = runtime.kind().as_str(), "cleaning up takes too long");
                        }
                    }
                });
            }
        }
    }
}

/// How a copy that runs since then is watched.
fn target(
    check: &skerry_model::app::HealthCheck,
    observed: &crate::runtime::Observed,
    started_at: std::time::SystemTime,
    runtime: &Arc<dyn Runtime>,
) -> crate::health::Target {
    crate::health::Target {
        check: check.clone(),
        address: observed.address,
        started_at,
        place: observed.place,
        runtime: Arc::clone(runtime),
        image_health: observed.image_health,
    }
}

#[cfg(test)]
mod tests;
