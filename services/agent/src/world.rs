//! What the runtimes showed when they were last looked at.

use std::collections::BTreeMap;

use skerry_model::InstanceName;

use crate::desired::InstanceSpec;
use crate::runtime::{Observed, RunState, RuntimeError, RuntimeKind};
use skerry_model::app::Program;

/// One runtime, as last seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// What carries our mark. Kept from the last good look while the runtime is away.
    pub(crate) instances: BTreeMap<InstanceName, Observed>,
    /// Copies beside those, each to take the place of one.
    pub(crate) beside: BTreeMap<InstanceName, Observed>,
    /// Whether it answered the last time.
    pub(crate) available: bool,
    /// Why it did not. Absent: it was not asked yet, or answers.
    pub(crate) error: Option<RuntimeError>,
    /// It gave no answer at all the last time: it is there, and what it has runs on.
    pub(crate) hangs: bool,
    /// Its version, once it answered.
    pub(crate) version: String,
}

/// All runtimes that this agent drives.
pub(crate) type World = BTreeMap<RuntimeKind, View>;

/// The runtime that an instance needs.
pub(crate) fn kind_of(spec: &InstanceSpec) -> RuntimeKind {
    match spec.service.program {
        Program::Container(_) => RuntimeKind::Docker,
        Program::Process(_) => RuntimeKind::Process,
    }
}

/// The runtime that has a copy of `name`: `wanted`, if it does.
pub(crate) fn place_of(world: &World, name: &InstanceName, wanted: RuntimeKind) -> Option<RuntimeKind> {
    let has = |kind: &RuntimeKind| world.get(kind).is_some_and(|view| view.instances.contains_key(name));
    Some(wanted).filter(has).or_else(|| world.keys().copied().find(has))
}

/// Whether `observed` runs.
pub(crate) fn is_running(observed: &Observed) -> bool {
    matches!(observed.state, RunState::Running { .. })
}
