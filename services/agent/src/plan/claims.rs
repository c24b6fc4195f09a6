//! GPUs of copies: nobody is started on what another copy still has.
//!
//! What is wanted fits together: placement saw to it. What runs beside that is known for certain here alone: a former revision whose successor cannot start, a copy that is being
//! stopped, what an earlier process of the agent started, and what an update that was taken back here leaves in place.

use std::collections::{BTreeMap, BTreeSet};

use skerry_model::{GpuBooking, GpuId, GpuShare, GpuTaken, InstanceName};

use super::{Act, Action, Hold, Inputs, Plan, wake_by};
use crate::desired::InstanceSpec;
use crate::memory::Busy;
use crate::runtime::{Observed, RunState, RuntimeKind};
use crate::world::{View, is_running};

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
pub(super) fn hold<'a>(inputs: Inputs<'a>, mut claims: Claims<'a>, plan: &mut Plan) {
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
    if let Some((instance, runtime)) = deadlocked(inputs, &claims, plan, &held) {
        plan.holds.remove(&instance);
        plan.actions.push(Action { instance, runtime, act: Act::Stop, former: false });
    }
}

/// What copies have of the machine's GPUs, and what those are to have that are being made.
pub(super) struct Claims<'a> {
    inputs: Inputs<'a>,
    by_instance: BTreeMap<&'a InstanceName, Vec<&'a GpuBooking>>,
}

impl<'a> Claims<'a> {
    pub(super) fn of(inputs: Inputs<'a>, plan: &Plan) -> Self {
        let mut claims = Self { inputs, by_instance: BTreeMap::new() };
        // What was given up while it was being started may come up yet, and has its grace then.
        let removed = plan.actions.iter().filter(|action| action.act == Act::Remove);
        let removed: BTreeSet<&InstanceName> = removed.map(|action| &action.instance).collect();
        let is_leaving = |copy: &Observed| {
            let memory = inputs.memories.get(&copy.instance);
            let is_stopped = memory.is_some_and(|memory| matches!(memory.busy, Some((Busy::Stopping, _))));
            copy.state == RunState::Created && (is_stopped || removed.contains(&copy.instance))
        };
        let counts = |copy: &&Observed| is_running(copy) || is_leaving(copy);
        for view in inputs.world.values() {
            for copy in view.instances.values().chain(view.beside.values()).filter(counts) {
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

    /// Whether others have what a copy of `spec` would have.
    pub(super) fn keep_off(&self, spec: &InstanceSpec) -> bool {
        self.held(spec).is_some()
    }

    fn add(&mut self, name: &'a InstanceName, gpus: &'a [GpuBooking]) {
        if !gpus.is_empty() {
            self.by_instance.entry(name).or_default().extend(gpus);
        }
    }

    /// Why an instance cannot be started on its GPUs now, if it cannot.
    fn held(&self, spec: &InstanceSpec) -> Option<Held> {
        if let Some(kind) = self.unseen() {
            let message = format!("it is not known yet what {} runs on its GPU", kind.as_str());
            return Some(Held { by: BTreeSet::new(), message });
        }
        let nobody = BTreeSet::new();
        let gpus = self.lacking(spec, &nobody);
        let first = gpus.first()?;
        let has = self.others(spec, &nobody).filter(|(_, booking)| gpus.contains(&booking.gpu));
        let by: BTreeSet<InstanceName> = has.map(|(name, _)| name.clone()).collect();
        let names: Vec<String> = by.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let more = if by.len() > NAMED_MAX { " and others" } else { "" };
        let message = format!(
            "what is booked for it of {first} is still held by {}{more}: it is started once that has ended",
            names.join(", ")
        );
        Some(Held { by, message })
    }

    /// A runtime of which nobody has seen yet what it has: it was not asked, or hangs since the agent started. One that cannot be reached has nothing.
    fn unseen(&self) -> Option<RuntimeKind> {
        let is_unseen = |view: &View| !view.available && view.version.is_empty();
        let mut views = self.inputs.world.iter();
        views.find(|(_, view)| is_unseen(view) && (view.error.is_none() || view.hangs)).map(|(kind, _)| *kind)
    }

    /// The GPUs of which others have too much for an instance; `gone` are as if they had ended.
    fn lacking<'b>(&self, spec: &'b InstanceSpec, gone: &BTreeSet<&InstanceName>) -> BTreeSet<&'b GpuId> {
        let mut taken: BTreeMap<&GpuId, GpuTaken> =
            spec.gpus.iter().map(|own| (&own.gpu, GpuTaken::default())).collect();
        for (_, booking) in self.others(spec, gone) {
            if let Some(taken) = taken.get_mut(&booking.gpu) {
                taken.add(&booking.share);
            }
        }
        let lacks = |booking: &&GpuBooking| {
            let GpuBooking { gpu, share, .. } = *booking;
            let Some(taken) = taken.get(gpu) else { return false };
            // A card that has less memory than it had keeps nobody off whom placement left there.
            let is_left = || taken.leaves(share, None) && self.are_wanted(gpu, spec, gone);
            !taken.leaves(share, self.inputs.gpus.get(gpu).copied()) && !is_left()
        };
        spec.gpus.iter().filter(lacks).map(|booking| &booking.gpu).collect()
    }

    /// Whether all that an instance meets on a GPU is wanted beside it.
    fn are_wanted(&self, gpu: &GpuId, spec: &InstanceSpec, gone: &BTreeSet<&InstanceName>) -> bool {
        let desired = self.inputs.desired;
        let is_wanted = |name: &InstanceName, share: &GpuShare| {
            let wanted =
                desired.instances.get(name).filter(|one| !desired.taken_back.contains_key(&one.name.app));
            wanted.is_some_and(|one| one.gpus.iter().any(|own| own.gpu == *gpu && own.share == *share))
        };
        let own = spec.gpus.iter().map(|own| (&spec.name, own));
        let mut all = own.chain(self.others(spec, gone)).filter(|(_, booking)| booking.gpu == *gpu);
        all.all(|(name, booking)| is_wanted(name, &booking.share))
    }

    /// What all but an instance have, whose own copies make way for it, and but those that are gone.
    fn others<'b>(
        &'b self,
        spec: &'b InstanceSpec,
        gone: &'b BTreeSet<&InstanceName>,
    ) -> impl Iterator<Item = (&'a InstanceName, &'a GpuBooking)> {
        let others =
            self.by_instance.iter().filter(|(name, _)| ***name != spec.name && !gone.contains(*name));
        others.flat_map(|(name, gpus)| gpus.iter().map(move |booking| (*name, *booking)))
    }
}

/// Somebody whose copy holds up another that it waits for itself, in however many steps, and is to be replaced anyway. None where that would make no room, or room is
/// being made.
fn deadlocked(
    inputs: Inputs<'_>,
    claims: &Claims<'_>,
    plan: &mut Plan,
    held: &BTreeMap<InstanceName, Held>,
) -> Option<(InstanceName, RuntimeKind)> {
    if held.is_empty() || !inputs.desired.authoritative {
        return None;
    }
    let waits = waits(inputs, plan, held);
    // Those that would get through if all of them ended at once. For the sake of another nobody is stopped.
    let mut going: BTreeSet<&InstanceName> = waits.keys().copied().collect();
    loop {
        let is_stuck = |name: &&&InstanceName| {
            let spec = inputs.desired.instances.get(**name);
            spec.is_some_and(|spec| !claims.lacking(spec, &going).is_empty())
        };
        let stuck: BTreeSet<&InstanceName> = going.iter().filter(is_stuck).copied().collect();
        if stuck.is_empty() {
            break;
        }
        going.retain(|name| !stuck.contains(name));
    }
    let acts = plan.actions.iter().filter(|action| action.act != Act::Fetch);
    let acts: BTreeSet<&InstanceName> = acts.map(|action| &action.instance).collect();
    let is_busy = |name: &InstanceName| {
        acts.contains(name) || inputs.memories.get(name).is_some_and(|memory| memory.busy.is_some())
    };
    let held = held.iter().filter(|(name, held)| going.contains(name) && !held.by.iter().any(is_busy));
    let in_the_way: BTreeSet<&InstanceName> = held.flat_map(|(_, held)| &held.by).collect();
    let mut wake = None;
    let stopped = in_the_way.intersection(&going).find_map(|name| {
        let kind = old_copy(inputs, name).filter(|_| waits_for_itself(&waits, name))?;
        // One that could not be stopped just now is not asked again at once.
        match inputs.memories.get(*name).and_then(|memory| memory.waits(None, inputs.now)) {
            None => Some(((*name).clone(), kind)),
            Some(wait) => {
                wake = wake.into_iter().chain([wait.until]).min();
                None
            }
        }
    });
    if let Some(wake) = wake {
        wake_by(plan, wake);
    }
    stopped
}

/// Which runtime has a copy of a wanted instance that runs and is to be replaced.
fn old_copy(inputs: Inputs<'_>, name: &InstanceName) -> Option<RuntimeKind> {
    let spec = inputs.desired.instances.get(name)?;
    let is_old = |copy: &Observed| is_running(copy) && copy.fingerprint != spec.fingerprint;
    let mut views = inputs.world.iter().filter(|(_, view)| view.available);
    views.find(|(_, view)| view.instances.get(name).is_some_and(is_old)).map(|(kind, _)| *kind)
}

/// Whom each instance waits for.
type Waits<'a> = BTreeMap<&'a InstanceName, BTreeSet<&'a InstanceName>>;

fn waits<'a>(inputs: Inputs<'a>, plan: &'a Plan, held: &'a BTreeMap<InstanceName, Held>) -> Waits<'a> {
    let mut waits: Waits<'a> = held.iter().map(|(name, held)| (name, held.by.iter().collect())).collect();
    for (name, hold) in &plan.holds {
        let (Hold::Dependency { .. }, Some(spec)) = (hold, inputs.desired.instances.get(name)) else {
            continue;
        };
        let is_need = |other: &&InstanceName| {
            let mut needs = spec.service.depends_on.iter();
            other.app == name.app && needs.any(|need| need.service == other.service)
        };
        waits.insert(name, inputs.desired.instances.keys().filter(is_need).collect());
    }
    waits
}

fn waits_for_itself(waits: &Waits<'_>, name: &InstanceName) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![name]);
    while let Some(next) = open.pop() {
        let Some(on) = waits.get(next) else { continue };
        if on.contains(name) {
            return true;
        }
        open.extend(on.iter().copied().filter(|one| seen.insert(*one)));
    }
    false
}
