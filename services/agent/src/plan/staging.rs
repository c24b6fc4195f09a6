//! Images ahead of the switch: an update of an app replaces nothing here before all that its instances need is here.
//!
//! Then they change together. A first installation has nothing to keep, and starts as things come.

use std::collections::BTreeMap;
use std::sync::Arc;

use skerry_model::app::Program;
use skerry_model::{AppName, InstanceName};
use skerry_sync::MonoTime;

use super::{Act, Hold, Inputs, by_hand};
use crate::desired::InstanceSpec;
use crate::jobs::{Gate, unmark};
use crate::memory::Memory;
use crate::world::{World, kind_of};

/// The apps whose update waits.
#[derive(Debug, Default)]
pub(super) struct Staging(BTreeMap<AppName, Awaited>);

/// What an app waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    /// In words.
    message: String,
    /// Since when the last fetch for it is under way, if any is.
    pub(super) since: Option<MonoTime>,
}

impl Awaited {
    pub(super) fn hold(&self) -> Hold {
        Hold::Staging { message: self.message.clone() }
    }
}

impl Staging {
    pub(super) fn of(inputs: Inputs<'_>) -> Self {
        // What is not known to be wanted replaces nothing in any case.
        if !inputs.desired.authoritative {
            return Self::default();
        }
        let mut apps: BTreeMap<&AppName, Vec<&InstanceSpec>> = BTreeMap::new();
        // What is stopped by hand holds up nothing: what it needs is fetched when it is started.
        let goes_on = |spec: &&Arc<InstanceSpec>| !by_hand::is_halted(inputs, &spec.name);
        for spec in inputs.desired.instances.values().filter(goes_on) {
            apps.entry(&spec.name.app).or_default().push(spec);
        }
        let awaits = |(app, specs): (&AppName, Vec<&InstanceSpec>)| {
            if !is_update(inputs, app, &specs) {
                return None;
            }
            let message = awaited(inputs, app, &specs)?;
            let fetch = |spec: &&InstanceSpec| Some(inputs.memories.get(&spec.name)?.fetch.as_ref()?.since);
            Some((app.clone(), Awaited { message, since: specs.iter().filter_map(fetch).max() }))
        };
        Self(apps.into_iter().filter_map(awaits).collect())
    }

    /// Whether the update of an app waits.
    pub(super) fn is_held(&self, app: &AppName) -> bool {
        self.0.contains_key(app)
    }

    /// What an instance waits for with its app. One that the update leaves as it was waits for nothing.
    pub(super) fn awaited(&self, inputs: Inputs<'_>, name: &InstanceName) -> Option<&Awaited> {
        let awaited = self.0.get(&name.app)?;
        let good = inputs.desired.goods.get(&name.app).and_then(|good| good.instances.get(name));
        let before = good.or_else(|| inputs.desired.formers.get(name));
        let wanted = inputs.desired.instances.get(name);
        let same = before.zip(wanted).is_some_and(|(before, wanted)| {
            !is_other(&before.fingerprint, wanted) && !is_behind(inputs, wanted)
        });
        (!same).then_some(awaited)
    }

    /// Whether an instance that nobody wants stays for now: the update takes its service away, and waits; or it was taken back, and what it is to
    /// be then is lost.
    pub(super) fn keeps(&self, inputs: Inputs<'_>, name: &InstanceName) -> bool {
        let is_lost = inputs.desired.taken_back.get(&name.app).is_some_and(|taken_back| taken_back.is_lost);
        (is_lost || self.is_held(&name.app)) && is_dropped(inputs, name)
    }
}

/// Whether the revision that is wanted has no such service. Otherwise the instance went elsewhere.
fn is_dropped(inputs: Inputs<'_>, name: &InstanceName) -> bool {
    inputs.desired.apps.get(&name.app).is_some_and(|here| !here.services.contains(&name.service))
}

/// Whether something of the app is here as it was before.
fn is_update(inputs: Inputs<'_>, app: &AppName, specs: &[&InstanceSpec]) -> bool {
    let is_behind = |spec: &&InstanceSpec| {
        let former = inputs.desired.formers.get(&spec.name).filter(|_| !is_there(inputs, &spec.name));
        is_behind(inputs, spec) || former.is_some_and(|former| is_other(&former.fingerprint, spec))
    };
    let mut there = inputs.world.values().flat_map(|view| view.instances.keys());
    specs.iter().any(is_behind)
        || there.any(|name| name.app == *app && !inputs.desired.wants(name) && is_dropped(inputs, name))
}

/// Whether a copy is here.
fn is_there(inputs: Inputs<'_>, name: &InstanceName) -> bool {
    inputs.world.values().any(|view| view.instances.contains_key(name))
}

/// Whether a copy is here, of another spec.
fn is_behind(inputs: Inputs<'_>, spec: &InstanceSpec) -> bool {
    let mut copies = inputs.world.values().filter_map(|view| view.instances.get(&spec.name));
    copies.any(|copy| is_other(&copy.fingerprint, spec))
}

/// Whether a copy is of another spec, runs of a job apart.
fn is_other(fingerprint: &str, spec: &InstanceSpec) -> bool {
    unmark(fingerprint).0 != unmark(&spec.fingerprint).0
}

/// What is not here yet of what the app needs, in words. The first is named.
fn awaited(inputs: Inputs<'_>, app: &AppName, specs: &[&InstanceSpec]) -> Option<String> {
    if let Some((name, blocked)) = inputs.desired.blocked.iter().find(|(name, _)| name.app == *app) {
        return Some(format!("{name} cannot be run as it was sent: {}", blocked.message));
    }
    let missing = |spec: &&&InstanceSpec| is_missing(inputs.world, inputs.memories, inputs.gates, spec);
    let spec = specs.iter().find(missing)?;
    let what = match &spec.service.program {
        Program::Container(container) => format!("waits for image {} of {}", container.image, spec.name),
        Program::Process(_) => format!("waits for the files of {}", spec.name),
    };
    let view = inputs.world.get(&kind_of(spec));
    let error = inputs.memories.get(&spec.name).and_then(|memory| memory.error(Some(&spec.fingerprint)));
    Some(match (view, error) {
        (None, _) => format!("{what}, and this agent does not drive the runtime that it needs"),
        (Some(view), _) if !view.available => format!("{what}, whose runtime does not answer"),
        (Some(_), Some(error)) => format!("{what}: {}", error.message),
        (Some(_), None) => what,
    })
}

/// Whether what an instance needs is not known to be here: no copy of it is, and it was not fetched.
pub(crate) fn is_missing(
    world: &World,
    memories: &BTreeMap<InstanceName, Memory>,
    gates: &BTreeMap<InstanceName, Gate>,
    spec: &InstanceSpec,
) -> bool {
    let (name, wanted) = (&spec.name, unmark(&spec.fingerprint).0);
    if matches!(gates.get(name), Some(Gate::Done(_))) {
        return false;
    }
    let copies = world
        .get(&kind_of(spec))
        .into_iter()
        .flat_map(|view| view.instances.get(name).into_iter().chain(view.beside.get(name)));
    let mut copies = copies.filter(|copy| unmark(&copy.fingerprint).0 == wanted);
    copies.next().is_none() && !memories.get(name).is_some_and(|memory| memory.has_fetched(wanted))
}

/// What to do about an instance that is missing while its app waits: it is fetched, whatever it comes after.
pub(super) fn fetch_ahead(inputs: Inputs<'_>, spec: &InstanceSpec, memory: &Memory) -> Result<Act, Hold> {
    if memory.waits(Some(&spec.fingerprint), inputs.now).is_some() {
        return Err(Hold::Waits);
    }
    if memory.fetch.is_some() { Err(Hold::Busy) } else { Ok(Act::Fetch) }
}
