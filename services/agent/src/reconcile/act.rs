//! Acting: each action in a task of its own, with deadlines; one at a time for each instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skerry_model::InstanceName;
use skerry_rpc::trace;
use skerry_sync::MonoTime;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tracing::{Instrument as _, Span};

use super::{Copy, Reconciler};
use crate::clock::random_unit;
use crate::desired::{Desired, InstanceSpec};
use crate::hand::Hand;
use crate::health::HealthState;
use crate::jobs::unmark;
use crate::memory::{Busy, Fetch};
use crate::plan::{Act, Action};
use crate::runtime::{Place, Progress, Runtime, RuntimeError, RuntimeKind};

/// Fetches at once. More are allowed once a fetch had to wait for [`PATIENCE`]: one that hangs holds up nobody for ever.
pub(super) const PREPARES_MAX: usize = 4;
/// Longest that a fetch waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest that a fetch may take: 1 GB at 5 Mbit/s.
pub(super) const PREPARE_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Longest that looking for what a former copy needs may take.
const FORMER_DEADLINE: Duration = Duration::from_secs(10);
/// What is done longer than this after an update is no part of its trace.
const TRACE_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// Longest that making or removing may take, beyond the grace that stopping needs.
const ACT_DEADLINE: Duration = Duration::from_secs(120);

/// What a task says while it runs.
pub(super) struct News {
    instance: InstanceName,
    lane: Lane,
    progress: Progress,
}

/// Of each instance at most one act touches its copy, and at most one fetches beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Copy,
    Fetch,
}

fn lane(act: Act) -> Lane {
    match act {
        Act::Fetch => Lane::Fetch,
        Act::Start
        | Act::Restart
        | Act::Repair
        | Act::Replace
        | Act::StartBeside
        | Act::Withdraw
        | Act::Stop
        | Act::Kill
        | Act::Remove => Lane::Copy,
    }
}

/// How a task ended.
pub(super) struct End {
    instance: InstanceName,
    running: Running,
    /// None: given up.
    result: Option<Result<(), RuntimeError>>,
}

struct Running {
    abort: AbortHandle,
    act: Act,
    runtime: RuntimeKind,
    /// None: it is removed.
    fingerprint: Option<String>,
}

/// The acts under way.
pub(super) struct Acts {
    tasks: JoinSet<Result<(), RuntimeError>>,
    names: BTreeMap<Id, (InstanceName, Lane)>,
    running: BTreeMap<(InstanceName, Lane), Running>,
    slots: Arc<Semaphore>,
}

impl Acts {
    pub(super) fn new(slots: Arc<Semaphore>) -> Self {
        Self { tasks: JoinSet::new(), names: BTreeMap::new(), running: BTreeMap::new(), slots }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether something is fetched that an instance waits for.
    pub(super) fn is_fetching(&self) -> bool {
        self.running.keys().any(|(_, lane)| *lane == Lane::Fetch)
    }

    /// Gives up what makes another copy than is wanted, or was until its successor runs, and what fetches for any but the wanted one.
    /// Removals go on: half of one is nothing that anybody wants.
    pub(super) fn abort_unless_of(&self, desired: &Desired) {
        for ((name, lane), running) in &self.running {
            let Some(fingerprint) = &running.fingerprint else { continue };
            let spec = match lane {
                Lane::Copy => desired.spec_of(name, fingerprint),
                Lane::Fetch => desired.instances.get(name).filter(|spec| spec.fingerprint == *fingerprint),
            };
            if spec.is_none() {
                running.abort.abort();
            }
        }
    }

    pub(super) fn abort_all(&mut self) {
        self.tasks.abort_all();
    }

    /// The next act that ends.
    pub(super) async fn next(&mut self) -> Option<End> {
        let joined = self.tasks.join_next_with_id().await?;
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let key = self.names.remove(&id)?;
        let running = self.running.remove(&key)?;
        let result = match joined {
            Ok((_, result)) => Some(result),
            Err(error) => defect(&error),
        };
        Some(End { instance: key.0, running, result })
    }
}

fn defect(error: &JoinError) -> Option<Result<(), RuntimeError>> {
    error.is_panic().then(|| {
        let message = "a defect of the agent's: see its log".to_owned();
        Err(RuntimeError { reason: "Internal", message, transient: false })
    })
}

fn name_of(act: Act) -> &'static str {
    match act {
        Act::Fetch => "fetch",
        Act::Start => "start",
        Act::Restart => "restart",
        Act::Repair => "repair",
        Act::Replace => "replace",
        Act::Remove => "remove",
        Act::StartBeside => "start beside",
        Act::Withdraw => "withdraw",
        Act::Stop => "stop",
        Act::Kill => "kill",
    }
}

/// Runs a job and notes how it ended.
async fn observed(job: Job) -> Result<(), RuntimeError> {
    let act = name_of(job.act);
    let result = job.run().await;
    crate::meters::acted(act, result.is_ok());
    if result.is_err() {
        Span::current().record("otel.status_code", "ERROR");
    }
    result
}

/// All that a task needs.
struct Job {
    instance: InstanceName,
    act: Act,
    work: Work,
    runtime: Arc<dyn Runtime>,
    slots: Arc<Semaphore>,
    news: mpsc::Sender<News>,
    deadline: Duration,
}

/// What a task does, with what it takes.
enum Work {
    Fetch(Arc<InstanceSpec>),
    Run {
        spec: Arc<InstanceSpec>,
        /// Absent: it shall be the only copy.
        place: Option<Place>,
        /// Whether what it needs is looked for first.
        look: bool,
    },
    /// Of this copy, by its id.
    Withdraw(String),
    /// All copies, which stay there.
    Stop,
    /// The same, at once.
    Kill,
    /// Of all copies.
    Remove,
}

impl Work {
    fn with(spec: Arc<InstanceSpec>, act: Act, former: bool) -> Self {
        let place = match (act, former) {
            (Act::Fetch, _) => return Self::Fetch(spec),
            (Act::StartBeside, _) => Some(Place::Beside),
            (_, true) => Some(Place::Own),
            (_, false) => None,
        };
        Self::Run { spec, place, look: former && act == Act::Start }
    }

    fn spec(&self) -> Option<&Arc<InstanceSpec>> {
        match self {
            Self::Fetch(spec) | Self::Run { spec, .. } => Some(spec),
            Self::Withdraw(_) | Self::Stop | Self::Kill | Self::Remove => None,
        }
    }
}

impl Job {
    async fn run(self) -> Result<(), RuntimeError> {
        let sink = |progress| self.say(progress);
        match &self.work {
            Work::Fetch(spec) => {
                let _slot = tokio::time::timeout(PATIENCE, self.slots.acquire()).await;
                let prepare = self.runtime.prepare(spec, &sink);
                in_time(PREPARE_DEADLINE, "fetching what it needs", prepare).await
            }
            Work::Run { spec, place, look } => {
                // What a former copy needs was here once, and should it not be any more, the wanted one is not held up by that for long.
                if *look {
                    let prepare = self.runtime.prepare(spec, &sink);
                    in_time(FORMER_DEADLINE, "looking for what it needs", prepare).await?;
                }
                let run = match place {
                    Some(place) => self.runtime.ensure_at(*place, spec, &sink),
                    None => self.runtime.ensure(spec, &sink),
                };
                in_time(self.deadline, "starting it", run).await
            }
            Work::Withdraw(copy) => {
                let withdraw = self.runtime.withdraw(&self.instance, copy);
                in_time(self.deadline, "removing the copy beside", withdraw).await
            }
            Work::Stop => in_time(self.deadline, "stopping it", self.runtime.stop(&self.instance)).await,
            Work::Kill => in_time(self.deadline, "killing it", self.runtime.kill(&self.instance)).await,
            Work::Remove => in_time(self.deadline, "removing it", self.runtime.remove(&self.instance)).await,
        }
    }

    fn say(&self, progress: Progress) {
        // A full queue drops progress; see `NEWS_MAX`.
        let _ = self.news.try_send(News { instance: self.instance.clone(), lane: lane(self.act), progress });
    }
}

pub(super) async fn in_time(
    deadline: Duration,
    what: &str,
    work: impl Future<Output = Result<(), RuntimeError>>,
) -> Result<(), RuntimeError> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        let message = format!("{what} took more than {} s", deadline.as_secs());
        Err(RuntimeError { reason: "TimedOut", message, transient: true })
    })
}

impl Reconciler {
    /// Begins `action`.
    pub(super) fn begin_act(&mut self, action: &Action, news: &mpsc::Sender<News>, now: MonoTime) {
        let Some(driver) = self.runtimes.get(&action.runtime).cloned() else { return };
        let work = match action.act {
            Act::Remove => Work::Remove,
            Act::Stop => Work::Stop,
            Act::Kill => Work::Kill,
            Act::Withdraw => {
                let Some(copy) = self.give_up_beside(action, now) else { return };
                Work::Withdraw(copy)
            }
            Act::Fetch | Act::Start | Act::Restart | Act::Repair | Act::Replace | Act::StartBeside => {
                let specs = if action.former { &self.desired.formers } else { &self.desired.instances };
                let Some(spec) = specs.get(&action.instance) else { return };
                Work::with(Arc::clone(spec), action.act, action.former)
            }
        };
        let fingerprint = work.spec().map(|spec| spec.fingerprint.clone());
        let memory = self.memories.entry(action.instance.clone()).or_default();
        let grace = match (action.act, &fingerprint) {
            (Act::Fetch, Some(fingerprint)) => {
                memory.fetch = Some(Fetch {
                    fingerprint: fingerprint.clone(),
                    reason: "",
                    message: String::new(),
                    since: now,
                });
                Duration::ZERO
            }
            (_, Some(fingerprint)) => {
                memory.acts(Busy::Starting, now);
                memory.given = work.spec().map(|spec| (action.runtime, spec.gpus.clone()));
                if action.act == Act::StartBeside {
                    memory.beside_mut(fingerprint).looked_at();
                } else {
                    let (of, _) = unmark(fingerprint);
                    let made = self.copies.made.get(&action.instance);
                    if made.is_none_or(|copy| copy.fingerprint != of) {
                        let copy = Copy { fingerprint: of.to_owned(), ran: false };
                        self.copies.made.insert(action.instance.clone(), copy);
                    }
                }
                memory.grace(work.spec().map(|spec| spec.service.stop.grace_period))
            }
            (_, None) => {
                memory.acts(Busy::Stopping, now);
                memory.grace(None)
            }
        };
        let (former, runtime) = (action.former, action.runtime.as_str());
        tracing::debug!(instance = %action.instance, act = ?action.act, former, runtime, "acting");
        self.tell_copies();
        let job = Job {
            instance: action.instance.clone(),
            act: action.act,
            work,
            runtime: driver,
            slots: Arc::clone(&self.acts.slots),
            news: news.clone(),
            deadline: ACT_DEADLINE + grace,
        };
        let span = self.span_of(action, now);
        let abort = self.acts.tasks.spawn(observed(job).instrument(span));
        let key = (action.instance.clone(), lane(action.act));
        self.acts.names.insert(abort.id(), key.clone());
        let running = Running { abort, act: action.act, runtime: action.runtime, fingerprint };
        self.acts.running.insert(key, running);
    }

    /// The span of an act that follows from the update that brought the desired state. What is done to keep it so does not.
    fn span_of(&self, action: &Action, now: MonoTime) -> Span {
        let follows = match action.act {
            Act::Fetch | Act::Start | Act::StartBeside | Act::Replace | Act::Remove => true,
            Act::Restart | Act::Repair | Act::Withdraw | Act::Stop | Act::Kill => false,
        };
        let recent = now.saturating_since(self.traced_since) <= TRACE_AGE_MAX;
        if self.desired.trace_parent.is_empty() || !follows || !recent {
            return Span::none();
        }
        let span = tracing::info_span!(
            "act",
            otel.name = name_of(action.act),
            otel.status_code = tracing::field::Empty,
            instance = %action.instance,
            trace_id = tracing::field::Empty
        );
        trace::follow(&span, &self.desired.trace_parent);
        span
    }

    /// The id of the copy beside, which is to be withdrawn. One that did not become healthy is waited for before another is started.
    fn give_up_beside(&mut self, action: &Action, now: MonoTime) -> Option<String> {
        let name = &action.instance;
        let beside = self.world.get(&action.runtime)?.beside.get(name)?;
        let (id, fingerprint) = (beside.runtime_id.clone(), beside.fingerprint.clone());
        let wanted = self.desired.instances.get(name).filter(|spec| spec.fingerprint == fingerprint).cloned();
        let health = self.beside_health.get(name).cloned();
        if let (Some(spec), Some(HealthState::Unhealthy { message })) = (wanted, health) {
            let message = format!("the new copy did not become healthy: {message}");
            let error = RuntimeError { reason: "UpdateUnhealthy", message, transient: true };
            let memory = self.memories.entry(name.clone()).or_default().beside_mut(&fingerprint);
            let wait = memory.gave_up(&fingerprint, &spec.service.restart, error.clone(), now, random_unit());
            let message = format!("{}; started again after {:.1} s", error.message, wait.as_secs_f64());
            self.tell_failure(name, &RuntimeError { message, ..error });
        }
        Some(id)
    }

    /// Takes in what a task says.
    pub(super) fn take_news(&mut self, news: News) {
        let News { instance, lane, progress } = news;
        let Some(memory) = self.memories.get_mut(&instance) else { return };
        if let (Lane::Fetch, Some(fetch)) = (lane, &mut memory.fetch) {
            fetch.reason = progress.reason;
            fetch.message.clone_from(&progress.message);
        }
        self.tell_progress(&instance, progress);
    }

    /// Takes in how a task ended.
    pub(super) fn take_end(&mut self, end: End) {
        let now = self.clock.mono();
        let End { instance, running, result } = end;
        let memory = self.memories.entry(instance.clone()).or_default();
        if let (Act::Fetch, Some(fingerprint)) = (running.act, &running.fingerprint) {
            memory.fetch = None;
            match result {
                None => tracing::debug!(%instance, "given up: something else is wanted"),
                Some(Ok(())) => memory.fetched(fingerprint),
                Some(Err(error)) => {
                    let news = memory.not_fetched(fingerprint.clone(), error.clone(), now, random_unit());
                    self.failed(&instance, &error, news);
                }
            }
            return;
        }
        // What it laid out may be of before the last change.
        self.secrets.changed();
        memory.busy = Some((Busy::Settling { runtime: running.runtime }, now));
        self.looks.stir(running.runtime);
        match result {
            None => tracing::debug!(%instance, "given up: something else is wanted"),
            Some(Ok(())) => {
                memory.succeeded(running.fingerprint.as_deref());
                let is_due = self.desk.hands().get(&instance) == Some(&Hand::Due);
                if running.act == Act::Restart && memory.ended.is_some() && !is_due {
                    memory.restarts = memory.restarts.saturating_add(1);
                }
                if matches!(running.act, Act::Start | Act::Restart | Act::Replace | Act::StartBeside) {
                    self.desk.started(&instance);
                }
                if running.act == Act::Remove {
                    self.sweep_due = true;
                    self.collector.hurry();
                    // What was removed may have held a port that another one waits for.
                    for memory in self.memories.values_mut() {
                        memory.hurry("PortTaken", now);
                    }
                    self.tell_removed(&instance);
                }
            }
            Some(Err(error)) => {
                let news = memory.failed(running.fingerprint, error.clone(), now, random_unit());
                self.failed(&instance, &error, news);
            }
        }
    }

    fn failed(&mut self, instance: &InstanceName, error: &RuntimeError, news: bool) {
        tracing::debug!(%instance, reason = error.reason, message = %error.message, "failed");
        if news {
            self.tell_failure(instance, error);
        }
    }
}
