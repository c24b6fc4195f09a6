//! Looking at runtimes: at most one look at a time for each, with a deadline; a runtime that is away is asked again with backoff.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skerry_model::InstanceName;
use skerry_sync::MonoTime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Copy, PERIOD, Reconciler};
use crate::clock::random_unit;
use crate::gpu::Containers;
use crate::jobs::{Gate, unmark};
use crate::memory::{Busy, Happening, Memory};
use crate::runtime::{Observed, Place, RunState, Runtime, RuntimeError, RuntimeKind};
use crate::world::World;

/// Longest that a look, or a cleaning, may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);
/// Shortest time between two looks that a runtime itself asks for.
const STIR_INTERVAL: Duration = Duration::from_millis(50);
/// First and longest wait before a runtime that is away is asked again.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What a look showed.
pub(super) struct Seen {
    kind: RuntimeKind,
    began: MonoTime,
    /// None: it did not answer in time.
    result: Option<Result<Shown, RuntimeError>>,
}

/// What there is, and the runtime's version, if that was asked for.
type Shown = (Vec<Observed>, Option<String>);

/// When each runtime is looked at.
pub(super) struct Looks {
    states: BTreeMap<RuntimeKind, State>,
    tasks: JoinSet<Seen>,
}

#[derive(Default)]
struct State {
    due: MonoTime,
    looking: bool,
    /// Something stirred while a look was under way: it may not show it.
    again: bool,
    failures: u32,
    ended: MonoTime,
    seen: bool,
}

/// Says each time that a runtime may have changed by itself.
pub(super) async fn watch(runtime: Arc<dyn Runtime>, stir: mpsc::Sender<RuntimeKind>) {
    loop {
        runtime.changed().await;
        if stir.send(runtime.kind()).await.is_err() {
            return;
        }
        tokio::time::sleep(STIR_INTERVAL).await;
    }
}

impl Looks {
    pub(super) fn new(kinds: impl Iterator<Item = RuntimeKind>) -> Self {
        Self { states: kinds.map(|kind| (kind, State::default())).collect(), tasks: JoinSet::new() }
    }

    /// Wants a look at `kind` soon.
    pub(super) fn stir(&mut self, kind: RuntimeKind) {
        if let Some(state) = self.states.get_mut(&kind) {
            state.again = state.looking;
            // One that is away may stir without end.
            let soonest = if state.failures > 0 { state.ended + AWAY.0 } else { MonoTime::default() };
            state.due = state.due.min(soonest);
        }
    }

    /// Whether each runtime was looked at, or failed to answer.
    pub(super) fn all_seen(&self) -> bool {
        self.states.values().all(|state| state.seen)
    }

    /// Begins the looks that are due. Answers when the next one is.
    pub(super) fn begin(
        &mut self,
        runtimes: &BTreeMap<RuntimeKind, Arc<dyn Runtime>>,
        world: &World,
        now: MonoTime,
    ) -> MonoTime {
        let mut next = now + PERIOD;
        for (kind, runtime) in runtimes {
            let Some(state) = self.states.get_mut(kind) else { continue };
            if state.looking {
                continue;
            }
            if state.due > now {
                next = next.min(state.due);
                continue;
            }
            state.looking = true;
            state.due = now + PERIOD;
            let greet = !world.get(kind).is_some_and(|view| view.available);
            let (kind, runtime) = (*kind, Arc::clone(runtime));
            self.tasks.spawn(async move {
                let look = async {
                    let version = if greet { Some(runtime.probe().await?) } else { None };
                    Ok((runtime.observe().await?, version))
                };
                Seen { kind, began: now, result: tokio::time::timeout(DEADLINE, look).await.ok() }
            });
        }
        next
    }

    pub(super) async fn next(&mut self) -> Option<Seen> {
        self.tasks.join_next().await?.ok()
    }

    fn ended(&mut self, kind: RuntimeKind, failed: bool, now: MonoTime) {
        let Some(state) = self.states.get_mut(&kind) else { return };
        state.looking = false;
        state.seen = true;
        state.ended = now;
        state.failures = if failed { state.failures.saturating_add(1) } else { 0 };
        if failed {
            let wait = AWAY.0.saturating_mul(1 << (state.failures - 1).min(10)).min(AWAY.1);
            state.due = now + wait.mul_f64(1.0 - 0.25 * random_unit());
        } else if std::mem::take(&mut state.again) {
            state.due = now;
        }
    }
}

impl Reconciler {
    /// Takes in what a look showed.
    pub(super) fn take_look(&mut self, seen: Seen) {
        let now = self.clock.mono();
        let Seen { kind, began, result } = seen;
        let hangs = result.is_none();
        let result = result.unwrap_or_else(|| {
            let message = format!("{} did not answer within {} s", kind.as_str(), DEADLINE.as_secs());
            Err(RuntimeError { reason: "RuntimeUnavailable", message, transient: true })
        });
        self.looks.ended(kind, result.is_err(), now);
        if let Some(view) = self.world.get_mut(&kind) {
            view.hangs = hangs;
        }
        match result {
            Ok((instances, version)) => {
                self.runtime_answers(kind, version);
                self.take_observed(kind, instances, began, now);
                self.names.looked();
                self.tell_containers();
            }
            Err(error) => self.runtime_is_away(kind, error),
        }
        self.tell_runtimes();
    }

    /// Which containers are whose: for who finds processes in them.
    fn tell_containers(&self) {
        let Some(to) = self.containers.as_ref().filter(|to| to.receiver_count() > 0) else { return };
        let views = self.world.get(&RuntimeKind::Docker).into_iter();
        let copies = views.flat_map(|view| view.instances.iter().chain(&view.beside));
        let new: Containers = copies.map(|(name, copy)| (copy.runtime_id.clone(), name.clone())).collect();
        to.send_if_modified(|told| {
            let is_news = **told != new;
            if is_news {
                *told = Arc::new(new);
            }
            is_news
        });
    }

    fn take_observed(&mut self, kind: RuntimeKind, instances: Vec<Observed>, began: MonoTime, now: MonoTime) {
        let elsewhere: BTreeSet<InstanceName> = self
            .world
            .iter()
            .filter(|(other, _)| **other != kind)
            .flat_map(|(_, view)| view.instances.keys().cloned())
            .collect();
        if !self.update_view(kind, instances, began) {
            return;
        }
        // What ended is known before it is said whether it is started again.
        self.step_jobs(now);
        let Some(view) = self.world.get(&kind) else { return };
        let stale = |memory: &Memory| is_stale(memory, kind, began);
        let settles = |memory: &Memory| matches!(&memory.busy, Some((Busy::Settling { runtime }, _)) if *runtime == kind);
        let mut happenings = Vec::new();
        let wall = SystemTime::now();
        for (name, memory) in &mut self.memories {
            let spec = self.desired.instances.get(name);
            let observed = view.instances.get(name);
            let here = spec.is_some_and(|spec| crate::world::kind_of(spec) == kind);
            if stale(memory) {
                continue;
            }
            if settles(memory) {
                memory.busy = None;
            }
            memory.given.take_if(|(of, _)| *of == kind && memory.busy.is_none());
            // What is seen by another runtime did not vanish because this one, which it is to move to, has none of it.
            if observed.is_none() && (!here || elsewhere.contains(name)) {
                continue;
            }
            if let Some(entry) = self.ledger.get(name).filter(|_| !memory.was_looked_at()) {
                memory.recall(entry, observed, now, wall);
            }
            let made_from = observed.and_then(|seen| self.desired.spec_of(name, &seen.fingerprint));
            let is_halted = self.desk.hands().get(name).is_some_and(|hand| hand.is_halt());
            let goes_on = !is_halted
                && !matches!(
                    self.jobs.gates().get(name),
                    Some(Gate::Turn { .. } | Gate::Done(_) | Gate::Rest(_))
                );
            let policy = made_from.or(spec).map(|spec| &spec.service.restart).filter(|_| goes_on);
            if let Some(happening) = memory.look(observed, policy, now, random_unit()) {
                // That it was stopped is told by who asked for it, and is no crash.
                if is_halted && matches!(happening, Happening::Ended(_)) {
                    continue;
                }
                if let Some(entry) = memory.entry(name, &happening, observed, wall) {
                    self.ledger.put(name, entry);
                }
                happenings.push((name.clone(), happening));
            }
        }
        let beside = self.look_beside(kind, now);
        for (name, happening) in beside {
            self.tell_beside(&name, &happening);
        }
        for (name, happening) in happenings {
            self.tell_happening(&name, &happening);
        }
        let (world, desired) = (&self.world, &self.desired);
        self.memories.retain(|name, memory| {
            memory.busy.is_some()
                || memory.fetch.is_some()
                || memory.given.is_some()
                || desired.wants(name)
                || world.values().any(|view| view.instances.contains_key(name))
        });
        self.copies.made.retain(|name, _| self.memories.contains_key(name));
        let memories = &self.memories;
        self.ledger
            .retain(|name| !desired.authoritative || memories.contains_key(name) || desired.wants(name));
        self.ledger.write();
        self.tell_copies();
    }

    /// Takes what was observed for what there is, but for what was acted on meanwhile: of that the old picture stays until the next look.
    fn update_view(&mut self, kind: RuntimeKind, instances: Vec<Observed>, began: MonoTime) -> bool {
        let Some(view) = self.world.get_mut(&kind) else { return false };
        let (own, beside): (Vec<_>, Vec<_>) =
            instances.into_iter().partition(|observed| observed.place == Place::Own);
        let by_name = |copies: Vec<Observed>| -> BTreeMap<InstanceName, Observed> {
            copies.into_iter().map(|observed| (observed.instance.clone(), observed)).collect()
        };
        let (mut new, mut beside) = (by_name(own), by_name(beside));
        for name in
            self.memories.iter().filter(|(_, memory)| is_stale(memory, kind, began)).map(|(name, _)| name)
        {
            for (new, old) in [(&mut new, &mut view.instances), (&mut beside, &mut view.beside)] {
                new.remove(name);
                new.extend(old.remove_entry(name));
            }
        }
        for (name, observed) in &mut new {
            if let Some(memory) = self.memories.get(name) {
                memory.judge(observed);
            }
        }
        view.instances = new;
        view.beside = beside;
        self.copies.looked.insert(kind);
        for observed in view.instances.values().filter(|observed| observed.state != RunState::Created) {
            let copy = Copy { fingerprint: unmark(&observed.fingerprint).0.to_owned(), ran: true };
            self.copies.made.insert(observed.instance.clone(), copy);
        }
        let names = self.desired.instances.keys().chain(view.instances.keys());
        for name in names {
            if !self.memories.contains_key(name) {
                self.memories.insert(name.clone(), Memory::default());
            }
        }
        true
    }

    /// Takes in what was observed of copies beside those that they are to replace.
    fn look_beside(&mut self, kind: RuntimeKind, now: MonoTime) -> Vec<(InstanceName, Happening)> {
        let Some(view) = self.world.get(&kind) else { return Vec::new() };
        let mut happenings = Vec::new();
        for (name, memory) in &mut self.memories {
            let Some(spec) =
                self.desired.instances.get(name).filter(|spec| crate::world::kind_of(spec) == kind)
            else {
                continue;
            };
            match (view.instances.get(name), view.beside.get(name)) {
                (Some(own), _) if own.fingerprint == spec.fingerprint => memory.forget_beside(),
                (_, Some(beside)) if beside.fingerprint == spec.fingerprint => {
                    let (copy, policy) = (memory.beside_mut(&spec.fingerprint), &spec.service.restart);
                    let happening = copy.look(Some(beside), Some(policy), now, random_unit());
                    happenings.extend(happening.map(|happening| (name.clone(), happening)));
                }
                _ => {}
            }
        }
        happenings
    }

    fn runtime_answers(&mut self, kind: RuntimeKind, version: Option<String>) {
        let Some(view) = self.world.get_mut(&kind) else { return };
        let was_away = view.error.take().is_some() && !view.version.is_empty();
        if !std::mem::replace(&mut view.available, true) {
            self.collector.hurry();
        }
        if let Some(version) = version {
            view.version = version;
        }
        if was_away {
            tracing::info!(runtime = kind.as_str(), "the runtime answers again");
            self.tell_node_event("RuntimeAvailable", format!("{} answers again", kind.as_str()), false);
        }
    }

    fn runtime_is_away(&mut self, kind: RuntimeKind, error: RuntimeError) {
        let Some(view) = self.world.get_mut(&kind) else { return };
        let message = format!("{} is away: {}", kind.as_str(), error.message);
        let news = view.available;
        view.available = false;
        view.error = Some(error);
        // What ended meanwhile is seen when it answers again.
        for memory in self.memories.values_mut() {
            if matches!(&memory.busy, Some((Busy::Settling { runtime }, _)) if *runtime == kind) {
                memory.busy = None;
            }
        }
        if news {
            tracing::warn!(runtime = kind.as_str(), %message, "the runtime does not answer");
            self.tell_node_event("RuntimeUnavailable", message, true);
        } else {
            tracing::debug!(runtime = kind.as_str(), %message, "the runtime does not answer");
        }
    }
}

/// Whether what was seen since `began` may be as it was before something was done about it.
fn is_stale(memory: &Memory, kind: RuntimeKind, began: MonoTime) -> bool {
    match &memory.busy {
        Some((Busy::Settling { runtime }, since)) => *runtime == kind && began < *since,
        Some(_) => true,
        None => false,
    }
}
