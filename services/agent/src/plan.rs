//! What to do next, for each instance: a pure function of what is wanted, what was observed, what is remembered, and the time.
//!
//! Laws (tested below): planning again after a plan was carried out gives nothing for the same instances; going on so ends, and then
//! what runs is what is wanted; what is unchanged is never touched; no instance ever has two copies, but for one of another revision that is
//! started first, and never two of one fingerprint; nobody is started on a GPU that another copy still has (`claims`); nothing that runs is stopped
//! unless the desired state is known to be what the control plane wants, or somebody stops it by hand (`by_hand`): that one does not run until somebody starts it. An update of an app replaces nothing here before all that it needs is here (`staging`). A copy of the former revision that ended while its successor
//! cannot be fetched is run again, and so is one whose successor is started beside it and is not healthy; otherwise, once the successor is fetched it never is. Carrying out is the reconciler's.

use std::collections::BTreeMap;
use std::time::Duration;

use skerry_model::app::{DependencyCondition, UpdateOrder};
use skerry_model::{GpuId, InstanceName};
use skerry_sync::MonoTime;

use crate::desired::{Desired, InstanceSpec};
use crate::hand::Hands;
use crate::health::HealthState;
use crate::jobs::Gate;
use crate::memory::{Memory, restarts};
use crate::runtime::{RunState, RuntimeKind};
use crate::world::{View, World, is_running, kind_of};

use self::claims::Claims;
pub(crate) use self::staging::is_missing;
use self::staging::{Awaited, Staging};

/// So long a fetch may take before a former copy that ended is run again: an image that is there is found within it.
const FORMER_PATIENCE: Duration = Duration::from_secs(1);

/// What to do with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Fetch what it needs. What is there of it is not touched.
    Fetch,
    /// There is none: make it, start it.
    Start,
    /// One of this fingerprint is there and does not run: start it again.
    Restart,
    /// One of this fingerprint runs, and other hands changed something about it: put that right.
    Repair,
    /// One of another fingerprint is there: put the new one in its place.
    Replace,
    /// One of another fingerprint runs: start the new one beside it.
    StartBeside,
    /// It runs, and its job says that it shall not: stop it, and leave what there is of it.
    Stop,
    /// It uses what is not its own: end it at once, and leave what there is of it.
    Kill,
    /// The one beside is not wanted, or did not become healthy: stop and remove that one.
    Withdraw,
    /// Nobody wants it here: stop and remove it.
    Remove,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Action {
    /// With which instance.
    pub(crate) instance: InstanceName,
    /// On which runtime.
    pub(crate) runtime: RuntimeKind,
    /// What.
    pub(crate) act: Act,
    /// Whether it is about the former spec of the instance instead of the wanted one. Only to start or restart.
    pub(crate) former: bool,
}

/// Why an instance is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It runs as it should.
    Runs,
    /// Something is being done about it.
    Busy,
    /// It ended with exit code 0 and its policy leaves it so.
    Completed,
    /// It ended and its policy leaves it so.
    Ended,
    /// A wait in its memory is not over.
    Waits,
    /// Its job says why.
    Job,
    /// The update of its app waits until all that it needs is here.
    Staging {
        /// What is missing.
        message: String,
    },
    /// It comes after others.
    Dependency {
        /// What it waits for.
        message: String,
    },
    /// This agent does not drive the runtime that it needs.
    NoRuntime,
    /// The runtime does not answer.
    RuntimeAway,
    /// A copy on another runtime has to go first.
    OtherCopy,
    /// Another instance still has what is booked for it of a GPU.
    Gpu {
        /// Who has what.
        message: String,
    },
    /// The new copy runs beside the old one and is not healthy yet.
    Beside,
    /// Somebody stopped it by hand.
    ByHand,
    /// Another copy runs, and whether this one is still wanted is not known.
    NotAuthoritative,
}

/// What to do now, and why nothing is done about the rest.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Removals first, since they make room.
    pub(crate) actions: Vec<Action>,
    /// For each wanted instance without an action.
    pub(crate) holds: BTreeMap<InstanceName, Hold>,
    /// When to plan again, if nothing happens before.
    pub(crate) wake: Option<MonoTime>,
}

/// All that a plan is made of.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// What shall run.
    pub(crate) desired: &'a Desired,
    /// What was observed.
    pub(crate) world: &'a World,
    /// What is remembered.
    pub(crate) memories: &'a BTreeMap<InstanceName, Memory>,
    /// What people asked for by hand.
    pub(crate) hands: &'a Hands,
    /// What instances of jobs may do.
    pub(crate) gates: &'a BTreeMap<InstanceName, Gate>,
    /// Health of the instances that run and have a check.
    pub(crate) health: &'a BTreeMap<InstanceName, HealthState>,
    /// Health of the copies beside those that they are to replace.
    pub(crate) beside_health: &'a BTreeMap<InstanceName, HealthState>,
    /// Bytes of memory of each of the machine's GPUs, as far as is known.
    pub(crate) gpus: &'a BTreeMap<GpuId, u64>,
    /// The time.
    pub(crate) now: MonoTime,
}

/// Plans.
pub(crate) fn plan(inputs: Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    let staging = &Staging::of(inputs);
    for (kind, view) in inputs.world {
        plan_removals(inputs, staging, *kind, view, &mut plan);
    }
    let claims = Claims::of(inputs, &plan);
    for (name, spec) in &inputs.desired.instances {
        if by_hand::is_halted(inputs, name) {
            by_hand::halt(inputs, spec, &mut plan);
            continue;
        }
        let kind = kind_of(spec);
        let former = inputs.desired.formers.get(name);
        let awaited = staging.awaited(inputs, name);
        match decide(inputs, staging, spec) {
            // The old one goes on before its successor is tried again.
            Ok(Act::StartBeside)
                if former.is_some_and(|former| {
                    plan_former(inputs, (awaited, &claims), former, Some(spec), &mut plan)
                }) => {}
            Ok(act) => {
                plan.actions.push(Action { instance: name.clone(), runtime: kind, act, former: false });
                if act == Act::Fetch && former.is_some() {
                    wake_by(&mut plan, inputs.now + FORMER_PATIENCE);
                }
            }
            Err(hold) => {
                if hold == Hold::Waits
                    && let Some(memory) = inputs.memories.get(name)
                {
                    let waits =
                        [memory.waits(Some(&spec.fingerprint), inputs.now), memory.waits(None, inputs.now)];
                    let beside = memory.beside_waits(&spec.fingerprint, inputs.now);
                    for wait in waits.into_iter().flatten().chain(beside) {
                        wake_by(&mut plan, wait.until);
                    }
                }
                plan.holds.insert(name.clone(), hold);
                if let Some(former) = former {
                    plan_former(inputs, (awaited, &claims), former, Some(spec), &mut plan);
                }
            }
        }
    }
    for (name, former) in &inputs.desired.formers {
        if inputs.desired.blocked.contains_key(name) {
            plan_former(inputs, (staging.awaited(inputs, name), &claims), former, None, &mut plan);
        }
    }
    claims::hold(inputs, claims, &mut plan);
    plan
}

/// Runs the former copy of an instance, by its own policy, while the wanted one (none: it is blocked) cannot take its place. Answers
/// whether something is to be done about it.
fn plan_former(
    inputs: Inputs<'_>,
    (awaited, claims): (Option<&Awaited>, &Claims<'_>),
    former: &InstanceSpec,
    wanted: Option<&InstanceSpec>,
    plan: &mut Plan,
) -> bool {
    let blank = Memory::default();
    let (name, kind) = (&former.name, kind_of(former));
    let memory = inputs.memories.get(name).unwrap_or(&blank);
    let Some(view) = inputs.world.get(&kind).filter(|view| view.available) else { return false };
    // What ends by itself is not run again in a revision that is no longer wanted.
    if former.service.is_job() || by_hand::is_halted(inputs, name) {
        return false;
    }
    // Beside one that is there the wanted one takes its place only when it is healthy.
    let goes_on = |spec: &InstanceSpec| {
        view.instances.contains_key(name) && spec.service.update == UpdateOrder::StartFirst
    };
    let superseded = wanted.is_some_and(|spec| {
        let may_follow = awaited.is_none() && memory.is_prepared(&spec.fingerprint);
        former.fingerprint == spec.fingerprint || (may_follow && !goes_on(spec))
    });
    if memory.busy.is_some() || superseded || is_elsewhere(inputs, name, kind) {
        return false;
    }
    let act = match view.instances.get(name) {
        None => Act::Start,
        Some(observed) if observed.fingerprint != former.fingerprint => return false,
        Some(observed) => match observed.state {
            RunState::Running { .. } => return false,
            RunState::Exited { code, .. } if !restarts(former.service.restart.when, code) => return false,
            RunState::Created | RunState::Exited { .. } => Act::Restart,
        },
    };
    let fetch = memory.fetch.as_ref().map(|fetch| fetch.since);
    let patience = fetch.max(awaited.and_then(|awaited| awaited.since)).map(|since| since + FORMER_PATIENCE);
    let wait = memory.waits(Some(&former.fingerprint), inputs.now).map(|wait| wait.until);
    if let Some(until) = patience.max(wait).filter(|until| *until > inputs.now) {
        wake_by(plan, until);
        return false;
    }
    let met_before = memory.started.as_ref() == Some(&former.fingerprint);
    // Its successor is not held up by one that cannot be run.
    let due = (met_before || dependencies(inputs, former, true).is_ok()) && !claims.keep_off(former);
    if due {
        plan.actions.push(Action { instance: name.clone(), runtime: kind, act, former: true });
    }
    due
}

/// Whether there is a copy on another runtime than `kind`.
fn is_elsewhere(inputs: Inputs<'_>, name: &InstanceName, kind: RuntimeKind) -> bool {
    inputs.world.iter().any(|(other, view)| *other != kind && view.instances.contains_key(name))
}

/// What is wanted nowhere, or on another runtime.
fn plan_removals(inputs: Inputs<'_>, staging: &Staging, kind: RuntimeKind, view: &View, plan: &mut Plan) {
    if !view.available || !inputs.desired.authoritative {
        return;
    }
    for name in view.instances.keys() {
        let belongs = match inputs.desired.instances.get(name) {
            // It stays as it is until it is started.
            Some(_) if by_hand::is_halted(inputs, name) => true,
            // One that has to move goes when its successor can be made.
            Some(spec) => kind_of(spec) == kind || !may_move(inputs, staging.awaited(inputs, name), spec),
            None => inputs.desired.blocked.contains_key(name) || staging.keeps(inputs, name),
        };
        let memory = inputs.memories.get(name);
        if belongs || memory.is_some_and(|memory| memory.busy.is_some()) {
            continue;
        }
        if let Some(wait) = memory.and_then(|memory| memory.waits(None, inputs.now)) {
            wake_by(plan, wait.until);
            continue;
        }
        let act = Act::Remove;
        plan.actions.push(Action { instance: name.clone(), runtime: kind, act, former: false });
    }
}

fn wake_by(plan: &mut Plan, until: MonoTime) {
    plan.wake = Some(plan.wake.map_or(until, |wake| wake.min(until)));
}

/// What to do about a wanted instance, or why nothing.
fn decide(inputs: Inputs<'_>, staging: &Staging, spec: &InstanceSpec) -> Result<Act, Hold> {
    let blank = Memory::default();
    let memory = inputs.memories.get(&spec.name).unwrap_or(&blank);
    if memory.busy.is_some() {
        return Err(Hold::Busy);
    }
    let kind = kind_of(spec);
    let view = inputs.world.get(&kind).ok_or(Hold::NoRuntime)?;
    if !view.available {
        return Err(Hold::RuntimeAway);
    }
    if !is_elsewhere(inputs, &spec.name, kind)
        && overlap::is_left_over(view, spec)
        && inputs.desired.authoritative
    {
        return if memory.waits(None, inputs.now).is_some() { Err(Hold::Waits) } else { Ok(Act::Withdraw) };
    }
    if staging.is_held(&spec.name.app) && is_missing(inputs.world, inputs.memories, inputs.gates, spec) {
        return staging::fetch_ahead(inputs, spec, memory);
    }
    let awaited = staging.awaited(inputs, &spec.name);
    if is_elsewhere(inputs, &spec.name, kind) {
        return prepare_to_move(inputs, awaited, spec, memory);
    }
    if let Some(act) = gated::decide(inputs, spec, memory, view.instances.get(&spec.name))? {
        return Ok(act);
    }
    let beside = view.beside.get(&spec.name);
    let act = match view.instances.get(&spec.name) {
        None => Act::Start,
        Some(observed) if observed.fingerprint != spec.fingerprint => {
            if is_running(observed) && !inputs.desired.authoritative {
                return Err(Hold::NotAuthoritative);
            }
            overlap::replace(inputs, spec, observed, beside)?
        }
        Some(observed) => match observed.state {
            RunState::Running { .. } if observed.drift.is_some() => Act::Repair,
            RunState::Running { .. } => return Err(Hold::Runs),
            RunState::Exited { code, .. }
                if !restarts(spec.service.restart.when, code) && !by_hand::is_due(inputs, &spec.name) =>
            {
                return Err(if code == Some(0) { Hold::Completed } else { Hold::Ended });
            }
            RunState::Created | RunState::Exited { .. } => Act::Restart,
        },
    };
    if let (Some(awaited), Act::Start | Act::Replace | Act::StartBeside) = (awaited, act) {
        return Err(awaited.hold());
    }
    if memory.waits(Some(&spec.fingerprint), inputs.now).is_some() {
        return Err(Hold::Waits);
    }
    if act == Act::StartBeside && memory.beside_waits(&spec.fingerprint, inputs.now).is_some() {
        return Err(Hold::Waits);
    }
    // The one beside is there already: it only takes its place.
    if matches!(act, Act::Repair | Act::Withdraw) || (act == Act::Replace && beside.is_some()) {
        return Ok(act);
    }
    // One that ran in this life of the agent had its dependencies met: it is not held up by one that fails since.
    if memory.started.as_ref() != Some(&spec.fingerprint) {
        dependencies(inputs, spec, act == Act::Restart || beside.is_some())?;
    }
    let is_made = matches!(act, Act::Start | Act::Replace) || (act == Act::StartBeside && beside.is_none());
    if is_made && memory.fetch.is_some() {
        return Err(Hold::Busy);
    }
    Ok(if is_made && !memory.is_fresh(&spec.fingerprint) { Act::Fetch } else { act })
}

/// What to do about a wanted instance of which another runtime has a copy: what it needs is fetched first, then that copy goes.
fn prepare_to_move(
    inputs: Inputs<'_>,
    awaited: Option<&Awaited>,
    spec: &InstanceSpec,
    memory: &Memory,
) -> Result<Act, Hold> {
    if let Some(awaited) = awaited {
        return Err(awaited.hold());
    }
    if may_move(inputs, awaited, spec) {
        return Err(Hold::OtherCopy);
    }
    if !inputs.desired.authoritative {
        return Err(Hold::NotAuthoritative);
    }
    if memory.waits(Some(&spec.fingerprint), inputs.now).is_some() {
        return Err(Hold::Waits);
    }
    dependencies(inputs, spec, false)?;
    if memory.fetch.is_some() { Err(Hold::Busy) } else { Ok(Act::Fetch) }
}

/// Whether the copy that another runtime has of `spec` may go: its successor is there, or can be made as far as is known.
fn may_move(inputs: Inputs<'_>, awaited: Option<&Awaited>, spec: &InstanceSpec) -> bool {
    let memory = inputs.memories.get(&spec.name);
    let prepared = awaited.is_none() && memory.is_some_and(|memory| memory.is_prepared(&spec.fingerprint));
    let view = inputs.world.get(&kind_of(spec)).filter(|view| view.available);
    view.is_some_and(|view| prepared || view.instances.contains_key(&spec.name))
}

/// Whether all that `spec` comes after is there: on this node or, where it has none of it, on other members of the cluster. `formers`: this one ran before, so the former copy of another
/// instance will do, or none.
fn dependencies(inputs: Inputs<'_>, spec: &InstanceSpec, formers: bool) -> Result<(), Hold> {
    for dependency in &spec.service.depends_on {
        let of_service =
            |name: &&InstanceName| name.app == spec.name.app && name.service == dependency.service;
        let mut wanted = inputs.desired.instances.keys().chain(inputs.desired.blocked.keys());
        if !formers && !wanted.any(|name| of_service(&name)) {
            elsewhere::check(inputs, spec, dependency)?;
        }
        let former_is_met = |name: &InstanceName| {
            let former = inputs.desired.formers.get(name).filter(|_| formers);
            former.is_some_and(|former| met(inputs, dependency.condition, former))
        };
        if let Some(name) = inputs.desired.blocked.keys().filter(of_service).find(|name| !former_is_met(name))
        {
            return Err(Hold::Dependency { message: format!("{name} cannot be run as it was sent") });
        }
        for (name, other) in inputs.desired.instances.iter().filter(|(name, _)| of_service(name)) {
            if !met(inputs, dependency.condition, other) && !former_is_met(name) {
                let until = match dependency.condition {
                    DependencyCondition::Started => "runs",
                    DependencyCondition::Healthy => "is healthy",
                    DependencyCondition::Completed => "has completed",
                };
                return Err(Hold::Dependency { message: format!("waits until {name} {until}") });
            }
        }
    }
    Ok(())
}

/// Whether a copy of exactly `other` meets `condition`.
fn met(inputs: Inputs<'_>, condition: DependencyCondition, other: &InstanceSpec) -> bool {
    if let Some(Gate::Done(_)) = inputs.gates.get(&other.name) {
        return condition != DependencyCondition::Healthy;
    }
    let view = inputs.world.get(&kind_of(other)).filter(|view| view.available);
    let Some(observed) = view
        .and_then(|view| view.instances.get(&other.name))
        .filter(|observed| observed.fingerprint == other.fingerprint)
    else {
        return false;
    };
    let completed = matches!(observed.state, RunState::Exited { code: Some(0), .. });
    let stays = !restarts(other.service.restart.when, Some(0));
    match condition {
        // One that has done its work and stays so did start.
        DependencyCondition::Started => is_running(observed) || (completed && stays),
        DependencyCondition::Healthy => {
            is_running(observed)
                && (other.service.health_check.is_none()
                    || inputs.health.get(&other.name) == Some(&HealthState::Healthy))
        }
        DependencyCondition::Completed => completed,
    }
}

mod by_hand;
mod claims;
mod elsewhere;
mod gated;
mod overlap;
mod staging;
#[cfg(test)]
mod tests;
