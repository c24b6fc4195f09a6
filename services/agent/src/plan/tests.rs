//! The laws of planning, on a world that does at once what it is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use skerry_model::app::{Dependency, RestartWhen, ServiceSpec, UpdateOrder};
use skerry_model::{AppSpec, ContentHash, ServiceName};

use super::*;
use crate::memory::Busy;
use crate::runtime::{Observed, Place, RuntimeError};
use crate::testing::{app, process, service};

mod by_hand;
mod cases;
mod gpus;

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];

/// What a test says of one service. Dependencies go to earlier services only.
#[derive(Debug, Clone)]
struct Sketch {
    image: u8,
    is_process: bool,
    when: RestartWhen,
    needs: Vec<(usize, DependencyCondition)>,
    wanted: bool,
    start_first: bool,
}

fn name(index: usize) -> InstanceName {
    InstanceName::parse(&format!("app/{}/n1/0", SERVICES[index])).unwrap()
}

fn spec(index: usize, sketch: &Sketch) -> InstanceSpec {
    let wire = if sketch.is_process { process(SERVICES[index]) } else { service(SERVICES[index]) };
    let mut spec: ServiceSpec = AppSpec::from_proto(&app(vec![wire])).unwrap().services.remove(0);
    spec.restart.when = sketch.when;
    if sketch.start_first && !sketch.is_process {
        spec.update = UpdateOrder::StartFirst;
    }
    spec.depends_on = sketch
        .needs
        .iter()
        .map(|(on, condition)| Dependency {
            service: ServiceName::parse(SERVICES[*on]).unwrap(),
            condition: *condition,
        })
        .collect();
    InstanceSpec {
        name: name(index),
        revision: ContentHash::of(b"r"),
        service: Arc::new(spec),
        configs: BTreeMap::new(),
        secrets: BTreeMap::new(),
        gpus: Vec::new(),
        fingerprint: format!("image {} of {}", sketch.image, sketch.is_process),
    }
}

fn desired(sketches: &[Sketch]) -> Desired {
    let specs = sketches.iter().enumerate().filter(|(_, sketch)| sketch.wanted);
    Desired {
        instances: specs.map(|(index, sketch)| (name(index), Arc::new(spec(index, sketch)))).collect(),
        authoritative: true,
        ..Desired::default()
    }
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let when = prop_oneof![Just(RestartWhen::Always), Just(RestartWhen::OnFailure)];
    let condition = prop_oneof![
        Just(DependencyCondition::Started),
        Just(DependencyCondition::Healthy),
        Just(DependencyCondition::Completed),
    ];
    let one = (
        0..3u8,
        any::<bool>(),
        when,
        prop::collection::vec((any::<prop::sample::Index>(), condition), 0..3),
        prop::bool::weighted(0.8),
        any::<bool>(),
    );
    prop::collection::vec(one, 4).prop_map(|parts| {
        let whens: Vec<RestartWhen> = parts.iter().map(|part| part.2).collect();
        let wanted_ones: Vec<bool> = parts.iter().map(|part| part.4).collect();
        let sketch = |(at, (image, is_process, when, needs, wanted, start_first)): (
            usize,
            (_, _, _, Vec<_>, _, _),
        )| Sketch {
            image,
            is_process,
            when,
            needs: needs
                .into_iter()
                .filter(|_| at > 0)
                .map(|(on, condition): (prop::sample::Index, _)| (on.index(at), condition))
                // What this node has none of is waited for, for ever: tested apart.
                .filter(|(on, _)| wanted_ones[*on])
                // What never completes is refused by the parser: not waited for here either.
                .filter(|(on, condition)| {
                    *condition != DependencyCondition::Completed || whens[*on] != RestartWhen::Always
                })
                .collect(),
            wanted,
            start_first,
        };
        parts.into_iter().enumerate().map(sketch).collect()
    })
}

fn observed(spec: &InstanceSpec, state: RunState) -> Observed {
    Observed {
        instance: spec.name.clone(),
        fingerprint: spec.fingerprint.clone(),
        revision: spec.revision.to_string(),
        runtime_id: format!("id of {}", spec.fingerprint),
        state,
        address: None,
        image_health: None,
        drift: None,
        place: crate::runtime::Place::Own,
        started: None,
        warnings: Vec::new(),
        gpus: spec.gpus.clone(),
    }
}

fn running() -> RunState {
    RunState::Running { since: SystemTime::UNIX_EPOCH }
}

fn exited(code: Option<i32>) -> RunState {
    RunState::Exited { code, at: SystemTime::UNIX_EPOCH, out_of_memory: false }
}

fn empty_world() -> World {
    [RuntimeKind::Docker, RuntimeKind::Process]
        .into_iter()
        .map(|kind| (kind, View { available: true, ..View::default() }))
        .collect()
}

/// A world in which `sketches` were applied before, in the states given.
fn world(sketches: &[Sketch], states: &[RunState]) -> World {
    let mut world = empty_world();
    for (index, (sketch, state)) in sketches.iter().zip(states).enumerate() {
        let spec = spec(index, sketch);
        if sketch.wanted {
            let view = world.get_mut(&kind_of(&spec)).unwrap();
            view.instances.insert(name(index), observed(&spec, *state));
        }
    }
    world
}

/// Puts copies of these images beside those that are there, as an agent may find them that starts anew.
fn put_beside(world: &mut World, sketches: &[Sketch], images: &[Option<(u8, RunState)>]) {
    let view = world.get_mut(&RuntimeKind::Docker).unwrap();
    for (index, (sketch, image)) in sketches.iter().zip(images).enumerate() {
        if let (Some((image, state)), Some(own)) = (image, view.instances.get(&name(index))) {
            let spec = spec(index, &Sketch { image: *image, ..sketch.clone() });
            if own.fingerprint != spec.fingerprint {
                let beside = Observed { place: Place::Beside, ..observed(&spec, *state) };
                view.beside.insert(name(index), beside);
            }
        }
    }
}

fn not_there() -> RuntimeError {
    RuntimeError { reason: "ImagePullFailed", message: "no route".into(), transient: true }
}

/// Does what a plan says; only what needs `fetchable` is fetched. Services that restart only on failure do their work at once and complete.
fn carry_out(
    plan: &Plan,
    desired: &Desired,
    world: &mut World,
    memories: &mut BTreeMap<InstanceName, Memory>,
    fetchable: impl Fn(&InstanceName) -> bool,
) {
    for action in &plan.actions {
        let memory = memories.entry(action.instance.clone()).or_default();
        if action.act == Act::Fetch {
            let fingerprint = &desired.instances[&action.instance].fingerprint;
            if fetchable(&action.instance) {
                memory.fetched(fingerprint);
            } else {
                memory.not_fetched(fingerprint.clone(), not_there(), MonoTime::default(), 0.0);
            }
            continue;
        }
        let busy =
            if matches!(action.act, Act::Remove | Act::Stop) { Busy::Stopping } else { Busy::Starting };
        memory.acts(busy, MonoTime::default());
        memory.busy = None;
        let view = world.get_mut(&action.runtime).unwrap();
        if action.act == Act::Stop {
            let copies = [view.instances.get_mut(&action.instance), view.beside.get_mut(&action.instance)];
            let running: Vec<&mut Observed> =
                copies.into_iter().flatten().filter(|one| is_running(one)).collect();
            assert!(!running.is_empty(), "stops what runs");
            for one in running {
                one.state = exited(Some(0));
            }
            continue;
        }
        if action.act == Act::Withdraw {
            assert!(view.beside.remove(&action.instance).is_some(), "withdraws what is there");
            continue;
        }
        if action.act == Act::Remove {
            view.beside.remove(&action.instance);
            assert!(view.instances.remove(&action.instance).is_some(), "removes what is there");
            continue;
        }
        let specs = if action.former { &desired.formers } else { &desired.instances };
        let spec = &specs[&action.instance];
        let state = match spec.service.restart.when {
            RestartWhen::Always => running(),
            RestartWhen::OnFailure | RestartWhen::Never => exited(Some(0)),
        };
        if action.act == Act::StartBeside {
            let own = view.instances.get(&spec.name).expect("there is one to be beside of");
            assert_ne!(own.fingerprint, spec.fingerprint, "never two of one fingerprint");
            view.beside.insert(spec.name.clone(), Observed { place: Place::Beside, ..observed(spec, state) });
            continue;
        }
        // As a runtime does it: the one beside takes the place as it is.
        let beside = if action.former { None } else { view.beside.remove(&spec.name) };
        let beside = beside.filter(|beside| beside.fingerprint == spec.fingerprint && is_running(beside));
        let own =
            beside.map_or_else(|| observed(spec, state), |beside| Observed { place: Place::Own, ..beside });
        view.instances.insert(spec.name.clone(), own);
        let copies = world.values().filter(|view| view.instances.contains_key(&action.instance)).count();
        assert_eq!(copies, 1, "{} has {copies} copies", action.instance);
    }
}

/// What does its work and ends has done so.
fn complete(desired: &Desired, world: &mut World) {
    let running =
        world.values_mut().flat_map(|view| view.instances.values_mut()).filter(|one| is_running(one));
    for observed in running {
        let spec = desired.spec_of(&observed.instance, &observed.fingerprint);
        if spec.is_some_and(|spec| spec.service.restart.when == RestartWhen::OnFailure) {
            observed.state = exited(Some(0));
        }
    }
}

struct Fixture {
    hands: Hands,
    memories: BTreeMap<InstanceName, Memory>,
    health: BTreeMap<InstanceName, HealthState>,
    beside_health: BTreeMap<InstanceName, HealthState>,
    gpus: BTreeMap<GpuId, u64>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            hands: Hands::new(),
            memories: BTreeMap::new(),
            health: BTreeMap::new(),
            beside_health: BTreeMap::new(),
            gpus: BTreeMap::new(),
        }
    }

    fn plan(&self, desired: &Desired, world: &World) -> Plan {
        let (memories, health, now) = (&self.memories, &self.health, MonoTime::default());
        plan(Inputs {
            desired,
            world,
            memories,
            hands: &self.hands,
            gates: &BTreeMap::new(),
            health,
            beside_health: &self.beside_health,
            gpus: &self.gpus,
            now,
        })
    }
}

/// Whether a `Healthy` dependency is on something that completes and is not running any more: that waits for ever, rightly.
fn waits_for_ever(sketches: &[Sketch]) -> bool {
    sketches.iter().flat_map(|sketch| &sketch.needs).any(|(on, condition)| {
        *condition == DependencyCondition::Healthy && sketches[*on].when != RestartWhen::Always
    })
}

fn state() -> impl Strategy<Value = RunState> {
    prop_oneof![
        Just(RunState::Created),
        Just(running()),
        Just(exited(Some(0))),
        Just(exited(Some(1))),
        Just(exited(None)),
    ]
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_is_not_planned_again_and_leads_to_what_is_wanted(
        old in sketches(),
        new in sketches(),
        states in prop::collection::vec(state(), 4),
        beside in prop::collection::vec(prop::option::of((0..3u8, state())), 4),
    ) {
        prop_assume!(!waits_for_ever(&new));
        let mut fixture = Fixture::new();
        let desired = desired(&new);
        let mut world = world(&old, &states);
        put_beside(&mut world, &old, &beside);
        let mut acted: Vec<Action> = Vec::new();
        // At most, for each link of the longest chain: the one beside goes, a fetch, a removal from the other runtime, a start beside, a start.
        for _ in 0..=5 * SERVICES.len() + 1 {
            let plan = fixture.plan(&desired, &world);
            for action in &plan.actions {
                prop_assert!(!acted.contains(action), "{:?} again", action);
                acted.push(action.clone());
            }
            carry_out(&plan, &desired, &mut world, &mut fixture.memories, |_| true);
            complete(&desired, &mut world);
        }
        prop_assert!(fixture.plan(&desired, &world).actions.is_empty());
        for view in world.values() {
            prop_assert!(view.beside.is_empty(), "one is left");
            for (name, observed) in &view.instances {
                let spec = desired.instances.get(name).expect("nothing unwanted is left");
                prop_assert_eq!(&observed.fingerprint, &spec.fingerprint);
            }
        }
        let there: usize = world.values().map(|view| view.instances.len()).sum();
        prop_assert_eq!(there, desired.instances.len(), "{:?}", fixture.plan(&desired, &world).holds);
    }

    #[test]
    fn former_copies_run_exactly_while_one_of_their_successors_cannot_be_fetched(
        old in sketches(),
        new in sketches(),
        states in prop::collection::vec(prop::option::of(state()), 4),
        fetchable in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut fixture = Fixture::new();
        let new: Vec<Sketch> = new.into_iter().map(|one| Sketch { start_first: false, ..one }).collect();
        let mut all = desired(&new);
        all.formers = desired(&old).instances;
        let whole: Vec<RunState> = states.iter().map(|state| state.unwrap_or(RunState::Created)).collect();
        let mut world = world(&old, &whole);
        for (index, _) in states.iter().enumerate().filter(|(_, state)| state.is_none()) {
            for view in world.values_mut() { view.instances.remove(&name(index)); }
        }
        let current = |at: usize| {
            let same = spec(at, &old[at]).fingerprint == spec(at, &new[at]).fingerprint;
            old[at].wanted && states[at].is_some() && same
        };
        let held = (0..SERVICES.len()).any(|at| new[at].wanted && !fetchable[at] && !current(at));
        let index = |instance: &InstanceName| SERVICES.iter().position(|one| *one == instance.service.as_str()).unwrap();
        let mut acted: Vec<Action> = Vec::new();
        for _ in 0..=4 * SERVICES.len() + 1 {
            let plan = fixture.plan(&all, &world);
            for action in &plan.actions {
                prop_assert!(!acted.contains(action), "{:?} again", action);
                acted.push(action.clone());
                if action.former {
                    let memory = fixture.memories.get(&action.instance);
                    let prepared = memory.is_some_and(|memory| {
                        all.instances.get(&action.instance).is_some_and(|spec| memory.is_prepared(&spec.fingerprint))
                    });
                    prop_assert!(held || !prepared, "{:?}: all successors are there", action);
                }
            }
            // That there is never a second copy is checked there.
            carry_out(&plan, &all, &mut world, &mut fixture.memories, |instance| fetchable[index(instance)]);
            complete(&all, &mut world);
        }
        prop_assert!(fixture.plan(&all, &world).actions.is_empty());
        for (at, (old, new)) in old.iter().zip(&new).enumerate() {
            if !(old.wanted && new.wanted && old.needs.is_empty() && new.needs.is_empty()) {
                continue;
            }
            let (former, spec) = (spec(at, old), spec(at, new));
            let there = world[&kind_of(&spec)].instances.get(&name(at));
            if !held || former.fingerprint == spec.fingerprint {
                // Same fingerprint, and gone or never fetched: nothing else than the wanted one is run.
                prop_assert!(there.is_none_or(|there| there.fingerprint == spec.fingerprint));
                prop_assert!(there.is_some() || !fetchable[at]);
            } else {
                // Also on the other runtime.
                let there = world[&kind_of(&former)].instances.get(&name(at)).expect("the former one is run");
                prop_assert_eq!(&there.fingerprint, &former.fingerprint);
                let ended = matches!(there.state, RunState::Exited { code, .. } if !restarts(old.when, code));
                prop_assert!(is_running(there) || ended, "{:?}", there);
            }
        }
    }

    #[test]
    fn what_is_unchanged_and_runs_is_never_touched(
        old in sketches(),
        new in sketches(),
        states in prop::collection::vec(state(), 4),
    ) {
        let desired = desired(&new);
        let world = world(&old, &states);
        let plan = Fixture::new().plan(&desired, &world);
        for action in plan.actions {
            if let (Some(observed), Some(spec)) =
                (world[&action.runtime].instances.get(&action.instance), desired.instances.get(&action.instance))
            {
                let unchanged = observed.fingerprint == spec.fingerprint && kind_of(spec) == action.runtime;
                prop_assert!(!(unchanged && is_running(observed)), "{:?}", action);
            }
        }
    }

    #[test]
    fn without_authority_nothing_that_runs_is_stopped(
        old in sketches(),
        new in sketches(),
        states in prop::collection::vec(state(), 4),
    ) {
        let desired = Desired { authoritative: false, ..desired(&new) };
        let world = world(&old, &states);
        for action in Fixture::new().plan(&desired, &world).actions {
            let there = world[&action.runtime].instances.get(&action.instance);
            prop_assert!(action.act != Act::Remove && !there.is_some_and(is_running), "{:?}", action);
        }
    }

    #[test]
    fn a_runtime_that_is_away_holds_up_only_its_own(
        old in sketches(),
        new in sketches(),
        states in prop::collection::vec(state(), 4),
    ) {
        let desired = desired(&new);
        let mut world = world(&old, &states);
        world.get_mut(&RuntimeKind::Docker).unwrap().available = false;
        let plan = Fixture::new().plan(&desired, &world);
        prop_assert!(plan.actions.iter().all(|action| action.runtime == RuntimeKind::Process));
        for (name, spec) in &desired.instances {
            if kind_of(spec) == RuntimeKind::Docker {
                prop_assert_eq!(plan.holds.get(name), Some(&Hold::RuntimeAway));
            }
        }
    }
}
