//! What to do next, for each instance: a pure function of what is wanted, what was observed, what is remembered, and the time.
//!
//! Laws (tested below): planning again after a plan was carried out gives nothing for the same instances; going on so ends, and then
//! what runs is what is wanted; what is unchanged is never touched; no instance ever has two copies; nothing that runs is stopped
//! unless the desired state is known to be what the control plane wants. Carrying out is the reconciler's.

use std::collections::BTreeMap;

use skerry_model::InstanceName;
use skerry_model::app::DependencyCondition;
use skerry_sync::MonoTime;

use crate::desired::{Desired, InstanceSpec};
use crate::health::HealthState;
use crate::memory::{Memory, restarts};
use crate::runtime::{Observed, RunState, RuntimeKind};
use crate::world::{View, World, is_running, kind_of};

/// What to do with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// There is none: fetch what it needs, make it, start it.
    Start,
    /// One of this fingerprint is there and does not run: start it again.
    Restart,
    /// One of another fingerprint is there: fetch what the new one needs, then put it in place of the old one.
    Replace,
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
    /// Health of the instances that run and have a check.
    pub(crate) health: &'a BTreeMap<InstanceName, HealthState>,
    /// The time.
    pub(crate) now: MonoTime,
}

/// Plans.
pub(crate) fn plan(inputs: Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    for (kind, view) in inputs.world {
        plan_removals(inputs, *kind, view, &mut plan);
    }
    for (name, spec) in &inputs.desired.instances {
        let kind = kind_of(spec);
        match decide(inputs, spec) {
            Ok(act) => plan.actions.push(Action { instance: name.clone(), runtime: kind, act }),
            Err(hold) => {
                if hold == Hold::Waits
                    && let Some(wait) = inputs.memories.get(name).and_then(|memory| memory.wait.as_ref())
                {
                    wake_by(&mut plan, wait.until);
                }
                plan.holds.insert(name.clone(), hold);
            }
        }
    }
    plan
}

/// What is wanted nowhere, or on another runtime.
fn plan_removals(inputs: Inputs<'_>, kind: RuntimeKind, view: &View, plan: &mut Plan) {
    if !view.available || !inputs.desired.authoritative {
        return;
    }
    for name in view.instances.keys() {
        let belongs = match inputs.desired.instances.get(name) {
            Some(spec) => kind_of(spec) == kind,
            None => inputs.desired.blocked.contains_key(name),
        };
        let memory = inputs.memories.get(name);
        if belongs || memory.is_some_and(|memory| memory.busy.is_some()) {
            continue;
        }
        match memory.and_then(|memory| memory.waits(None, inputs.now)) {
            Some(wait) => wake_by(plan, wait.until),
            None => plan.actions.push(Action { instance: name.clone(), runtime: kind, act: Act::Remove }),
        }
    }
}

fn wake_by(plan: &mut Plan, until: MonoTime) {
    plan.wake = Some(plan.wake.map_or(until, |wake| wake.min(until)));
}

/// What to do about a wanted instance, or why nothing.
fn decide(inputs: Inputs<'_>, spec: &InstanceSpec) -> Result<Act, Hold> {
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
    if inputs.world.iter().any(|(other, view)| *other != kind && view.instances.contains_key(&spec.name)) {
        return Err(Hold::OtherCopy);
    }
    let act = match view.instances.get(&spec.name) {
        None => Act::Start,
        Some(observed) if observed.fingerprint != spec.fingerprint => {
            if is_running(observed) && !inputs.desired.authoritative {
                return Err(Hold::NotAuthoritative);
            }
            Act::Replace
        }
        Some(observed) => match observed.state {
            RunState::Running { .. } => return Err(Hold::Runs),
            RunState::Exited { code, .. } if !restarts(spec.service.restart.when, code) => {
                return Err(if code == Some(0) { Hold::Completed } else { Hold::Ended });
            }
            RunState::Created | RunState::Exited { .. } => Act::Restart,
        },
    };
    if memory.waits(Some(&spec.fingerprint), inputs.now).is_some() {
        return Err(Hold::Waits);
    }
    // One that ran in this life of the agent had its dependencies met: it is not held up by one that fails since.
    if memory.started.as_ref() != Some(&spec.fingerprint) {
        dependencies(inputs, spec)?;
    }
    Ok(act)
}

/// Whether all that `spec` comes after is there. Copies of a service on other nodes are not seen from here and not waited for.
fn dependencies(inputs: Inputs<'_>, spec: &InstanceSpec) -> Result<(), Hold> {
    for dependency in &spec.service.depends_on {
        let of_service =
            |name: &&InstanceName| name.app == spec.name.app && name.service == dependency.service;
        if let Some(name) = inputs.desired.blocked.keys().find(of_service) {
            return Err(Hold::Dependency { message: format!("{name} cannot be run as it was sent") });
        }
        for (name, other) in inputs.desired.instances.iter().filter(|(name, _)| of_service(name)) {
            let observed = inputs
                .world
                .get(&kind_of(other))
                .filter(|view| view.available)
                .and_then(|view| view.instances.get(name))
                .filter(|observed| observed.fingerprint == other.fingerprint);
            if !met(inputs, dependency.condition, other, observed) {
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

fn met(
    inputs: Inputs<'_>,
    condition: DependencyCondition,
    other: &InstanceSpec,
    observed: Option<&Observed>,
) -> bool {
    let Some(observed) = observed else { return false };
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

#[cfg(test)]
mod tests;
