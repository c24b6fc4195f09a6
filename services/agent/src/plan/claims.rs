//! GPUs of copies: nobody is started on what another copy still has.
//!
//! What is wanted fits together: placement saw to it. What runs beside that is known for certain here alone: a former revision whose successor cannot start, a copy that is being
//! stopped, what an earlier process of the agent started.

use std::collections::{BTreeMap, BTreeSet};

use skerry_model::{GpuBooking, GpuId, GpuTaken, InstanceName};

use super::{Act, Action, Hold, Inputs, Plan};
use crate::desired::InstanceSpec;
use crate::runtime::{Observed, RuntimeKind};
use crate::world::is_running;

/// Most instances that a message names.
const NAMED_MAX: usize = 3;

/// Why an instance cannot have what is booked for it yet.
struct Held {
    /// Who has it.
    by: BTreeSet<InstanceName>,
    /// In words.
    message: String,
}

/// Takes out of a plan what would start on GPUs that others still have. Where they wait for each other, one that is to be replaced anyway is stopped first.
pub(super) fn hold(inputs: Inputs<'_>, plan: &mut Plan) {
    let mut claims = Claims::of(inputs);
    let mut held: BTreeMap<InstanceName, Held> = BTreeMap::new();
    plan.actions.retain(|action| {
        let specs = if action.former { &inputs.desired.formers } else { &inputs.desired.instances };
        let Some(spec) = specs.get(&action.instance).filter(|spec| !spec.gpus.is_empty()) else {
            return true;
        };
        if !matches!(action.act, Act::Start | Act::Restart | Act::Replace | Act::StartBeside) {
            return true;
        }
        let Some(why) = claims.held(spec) else {
            claims.add(&spec.name, &spec.gpus);
            return true;
        };
        if !action.former {
            plan.holds.insert(action.instance.clone(), Hold::Gpu { message: why.message.clone() });
            held.insert(action.instance.clone(), why);
        }
        false
    });
    if let Some((instance, runtime)) = deadlocked(inputs, plan, &held) {
        plan.holds.remove(&instance);
        plan.actions.push(Action { instance, runtime, act: Act::Stop, former: false });
    }
}

/// What copies have of the machine's GPUs, and what those are to have that are being made.
struct Claims<'a> {
    inputs: Inputs<'a>,
    by_instance: BTreeMap<&'a InstanceName, Vec<&'a GpuBooking>>,
}

impl<'a> Claims<'a> {
    fn of(inputs: Inputs<'a>) -> Self {
        let mut claims = Self { inputs, by_instance: BTreeMap::new() };
        for view in inputs.world.values() {
            for copy in view.instances.values().chain(view.beside.values()).filter(|copy| is_running(copy)) {
                claims.add(&copy.instance, &copy.gpus);
            }
        }
        for (name, memory) in inputs.memories {
            if let Some((_, gpus)) = &memory.given {
                claims.add(name, gpus);
            }
        }
        claims
    }

    fn add(&mut self, name: &'a InstanceName, gpus: &'a [GpuBooking]) {
        if !gpus.is_empty() {
            self.by_instance.entry(name).or_default().extend(gpus);
        }
    }

    /// Why an instance cannot be started on its GPUs now, if it cannot. Its own copies make way for it.
    fn held(&self, spec: &InstanceSpec) -> Option<Held> {
        let unseen = self.inputs.world.iter().find(|(_, view)| !view.available && view.error.is_none());
        if let Some((kind, _)) = unseen {
            let message = format!("it is not known yet what {} runs on its GPU", kind.as_str());
            return Some(Held { by: BTreeSet::new(), message });
        }
        let others = || {
            let others = self.by_instance.iter().filter(|(name, _)| ***name != spec.name);
            others.flat_map(|(name, gpus)| gpus.iter().map(move |booking| (*name, *booking)))
        };
        let mut taken: BTreeMap<&GpuId, GpuTaken> = BTreeMap::new();
        for (_, booking) in others() {
            taken.entry(&booking.gpu).or_default().add(&booking.share);
        }
        let lacks = |booking: &&GpuBooking| {
            let memory = self.inputs.gpus.get(&booking.gpu).copied();
            taken.get(&booking.gpu).is_some_and(|taken| !taken.leaves(&booking.share, memory))
        };
        let gpus: BTreeSet<&GpuId> = spec.gpus.iter().filter(lacks).map(|booking| &booking.gpu).collect();
        let first = gpus.first()?;
        let has = others().filter(|(_, booking)| gpus.contains(&booking.gpu));
        let by: BTreeSet<InstanceName> = has.map(|(name, _)| name.clone()).collect();
        let names: Vec<String> = by.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let more = if by.len() > NAMED_MAX { " and others" } else { "" };
        let message = format!(
            "what is booked for it of {first} is still held by {}{more}: it is started once that has ended",
            names.join(", ")
        );
        Some(Held { by, message })
    }
}

/// Somebody whose copy holds up another that it waits for itself, in however many steps, and is to be replaced anyway.
fn deadlocked(
    inputs: Inputs<'_>,
    plan: &Plan,
    held: &BTreeMap<InstanceName, Held>,
) -> Option<(InstanceName, RuntimeKind)> {
    let waits_for = |name: &InstanceName| -> BTreeSet<InstanceName> {
        if let Some(held) = held.get(name) {
            return held.by.clone();
        }
        let Some(Hold::Dependency { .. }) = plan.holds.get(name) else { return BTreeSet::new() };
        let spec = inputs.desired.instances.get(name);
        let needs = spec.into_iter().flat_map(|spec| &spec.service.depends_on);
        let of = |service| {
            let wanted = inputs.desired.instances.keys();
            wanted.filter(move |other| other.app == name.app && other.service == service).cloned()
        };
        needs.flat_map(|need| of(need.service.clone())).collect()
    };
    let waits_for_itself = |name: &InstanceName| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<InstanceName> = waits_for(name).into_iter().collect();
        while let Some(next) = open.pop() {
            if next == *name {
                return true;
            }
            if seen.insert(next.clone()) {
                open.extend(waits_for(&next));
            }
        }
        false
    };
    let old = |name: &InstanceName| -> Option<(InstanceName, RuntimeKind)> {
        let spec = inputs.desired.instances.get(name)?;
        let is_old = |copy: &&Observed| is_running(copy) && copy.fingerprint != spec.fingerprint;
        let mut views = inputs.world.iter().filter(|(_, view)| view.available);
        let (kind, _) = views.find(|(_, view)| view.instances.get(name).filter(is_old).is_some())?;
        (inputs.desired.authoritative && waits_for_itself(name)).then(|| (name.clone(), *kind))
    };
    held.values().flat_map(|held| &held.by).find_map(old)
}
