//! The laws of planning, on a world that does at once what it is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use skerry_model::app::{Dependency, RestartWhen, ServiceSpec};
use skerry_model::{AppSpec, ContentHash, ServiceName};

use super::*;
use crate::memory::Busy;
use crate::runtime::{Observed, RuntimeError};
use crate::testing::{app, process, service};

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];

/// What a test says of one service. Dependencies go to earlier services only.
#[derive(Debug, Clone)]
struct Sketch {
    image: u8,
    is_process: bool,
    when: RestartWhen,
    needs: Vec<(usize, DependencyCondition)>,
    wanted: bool,
}

fn name(index: usize) -> InstanceName {
    InstanceName::parse(&format!("app/{}/n1/0", SERVICES[index])).unwrap()
}

fn spec(index: usize, sketch: &Sketch) -> InstanceSpec {
    let wire = if sketch.is_process { process(SERVICES[index]) } else { service(SERVICES[index]) };
    let mut spec: ServiceSpec = AppSpec::from_proto(&app(vec![wire])).unwrap().services.remove(0);
    spec.restart.when = sketch.when;
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
        fingerprint: format!("image {} of {}", sketch.image, sketch.is_process),
    }
}

fn desired(sketches: &[Sketch]) -> Desired {
    let specs = sketches.iter().enumerate().filter(|(_, sketch)| sketch.wanted);
    Desired {
        instances: specs.map(|(index, sketch)| (name(index), Arc::new(spec(index, sketch)))).collect(),
        blocked: BTreeMap::new(),
        formers: BTreeMap::new(),
        authoritative: true,
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
    );
    prop::collection::vec(one, 4).prop_map(|parts| {
        let whens: Vec<RestartWhen> = parts.iter().map(|part| part.2).collect();
        let wanted_ones: Vec<bool> = parts.iter().map(|part| part.4).collect();
        let sketch = |(at, (image, is_process, when, needs, wanted)): (usize, (_, _, _, Vec<_>, _))| Sketch {
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
        started: None,
        warnings: Vec::new(),
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
        let busy = if action.act == Act::Remove { Busy::Stopping } else { Busy::Starting };
        memory.acts(busy, MonoTime::default());
        memory.busy = None;
        let view = world.get_mut(&action.runtime).unwrap();
        if action.act == Act::Remove {
            assert!(view.instances.remove(&action.instance).is_some(), "removes what is there");
            continue;
        }
        let specs = if action.former { &desired.formers } else { &desired.instances };
        let spec = &specs[&action.instance];
        let state = match spec.service.restart.when {
            RestartWhen::Always => running(),
            RestartWhen::OnFailure | RestartWhen::Never => exited(Some(0)),
        };
        view.instances.insert(spec.name.clone(), observed(spec, state));
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
    memories: BTreeMap<InstanceName, Memory>,
    health: BTreeMap<InstanceName, HealthState>,
}

impl Fixture {
    fn new() -> Self {
        Self { memories: BTreeMap::new(), health: BTreeMap::new() }
    }

    fn plan(&self, desired: &Desired, world: &World) -> Plan {
        let (memories, health, now) = (&self.memories, &self.health, MonoTime::default());
        plan(Inputs { desired, world, memories, health, now })
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
    ) {
        prop_assume!(!waits_for_ever(&new));
        let mut fixture = Fixture::new();
        let desired = desired(&new);
        let mut world = world(&old, &states);
        let mut acted: Vec<Action> = Vec::new();
        // At most: a fetch, a removal from the other runtime and a start for each link of the longest chain.
        for _ in 0..=3 * SERVICES.len() + 1 {
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
            for (name, observed) in &view.instances {
                let spec = desired.instances.get(name).expect("nothing unwanted is left");
                prop_assert_eq!(&observed.fingerprint, &spec.fingerprint);
            }
        }
        let there: usize = world.values().map(|view| view.instances.len()).sum();
        prop_assert_eq!(there, desired.instances.len(), "{:?}", fixture.plan(&desired, &world).holds);
    }

    #[test]
    fn a_former_copy_runs_exactly_while_its_successor_cannot_be_fetched(
        old in sketches(),
        new in sketches(),
        states in prop::collection::vec(prop::option::of(state()), 4),
        fetchable in prop::collection::vec(any::<bool>(), 4),
    ) {
        let mut fixture = Fixture::new();
        let mut all = desired(&new);
        all.formers = desired(&old).instances;
        let whole: Vec<RunState> = states.iter().map(|state| state.unwrap_or(RunState::Created)).collect();
        let mut world = world(&old, &whole);
        for (index, _) in states.iter().enumerate().filter(|(_, state)| state.is_none()) {
            for view in world.values_mut() { view.instances.remove(&name(index)); }
        }
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
                    prop_assert!(!prepared, "{:?}: its successor is there", action);
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
            if fetchable[at] || former.fingerprint == spec.fingerprint {
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

fn plain() -> Sketch {
    Sketch { image: 0, is_process: false, when: RestartWhen::Always, needs: Vec::new(), wanted: true }
}

#[test]
fn a_dependent_starts_when_what_it_waits_for_is_healthy() {
    let mut sketches = vec![plain(), Sketch { needs: vec![(0, DependencyCondition::Healthy)], ..plain() }];
    let mut fixture = Fixture::new();
    let mut all = desired(&sketches);
    // `a` has a health check.
    let mut checked = spec(0, &sketches[0]);
    Arc::make_mut(&mut checked.service).health_check = Some(skerry_model::app::HealthCheck {
        probe: skerry_model::app::Probe::Tcp { port: 1 },
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        start_period: Duration::ZERO,
        retries: 1,
    });
    all.instances.insert(name(0), Arc::new(checked));
    let mut seen = world(&sketches[..1], &[running()]);
    fixture.health.insert(name(0), HealthState::Starting);
    let plan = fixture.plan(&all, &seen);
    assert!(plan.actions.is_empty());
    assert_eq!(
        plan.holds[&name(1)],
        Hold::Dependency { message: "waits until app/a/n1/0 is healthy".into() }
    );
    fixture.health.insert(name(0), HealthState::Healthy);
    let plan = fixture.plan(&all, &seen);
    assert_eq!(plan.actions[0].act, Act::Fetch);
    // Once it ran, a dependency that fails later does not hold up its restart.
    sketches[1].image = 0;
    let dependent = spec(1, &sketches[1]);
    seen.get_mut(&RuntimeKind::Docker)
        .unwrap()
        .instances
        .insert(name(1), observed(&dependent, exited(Some(1))));
    fixture.health.insert(name(0), HealthState::Unhealthy { message: "no".into() });
    assert!(fixture.plan(&all, &seen).actions.is_empty());
    fixture.memories.entry(name(1)).or_default().started = Some(dependent.fingerprint);
    assert_eq!(fixture.plan(&all, &seen).actions[0].act, Act::Restart);
}

#[test]
fn what_depends_on_a_service_that_this_node_has_none_of_waits_unless_it_ran() {
    let sketches = [
        Sketch { wanted: false, ..plain() },
        Sketch { needs: vec![(0, DependencyCondition::Started)], ..plain() },
    ];
    let all = desired(&sketches);
    let plan = Fixture::new().plan(&all, &empty_world());
    assert!(plan.actions.is_empty());
    let message = "waits for a, of which this node has none".to_owned();
    assert_eq!(plan.holds[&name(1)], Hold::Dependency { message });
    let ran = world(&sketches, &[running(), exited(Some(1))]);
    assert_eq!(Fixture::new().plan(&all, &ran).actions[0].act, Act::Restart);
}

#[test]
fn one_that_moves_to_the_other_runtime_runs_on_until_its_successor_can_be_made() {
    let (old, new) = ([plain()], [Sketch { is_process: true, ..plain() }]);
    let mut all = desired(&new);
    all.formers = desired(&old).instances;
    let mut fixture = Fixture::new();
    let acts = |fixture: &Fixture, world: &World| -> Vec<(RuntimeKind, Act, bool)> {
        let actions = fixture.plan(&all, world).actions;
        actions.into_iter().map(|action| (action.runtime, action.act, action.former)).collect()
    };
    let runs = world(&old, &[running()]);
    assert_eq!(acts(&fixture, &runs), [(RuntimeKind::Process, Act::Fetch, false)]);
    let fingerprint = all.instances[&name(0)].fingerprint.clone();
    let memory = fixture.memories.entry(name(0)).or_default();
    memory.not_fetched(fingerprint.clone(), not_there(), MonoTime::default(), 0.0);
    assert_eq!(acts(&fixture, &runs), []);
    // Nor is it left as it is when it ends, or went with a reboot.
    let ended = world(&old, &[exited(Some(1))]);
    assert_eq!(acts(&fixture, &ended), [(RuntimeKind::Docker, Act::Restart, true)]);
    assert_eq!(acts(&fixture, &empty_world()), [(RuntimeKind::Docker, Act::Start, true)]);
    fixture.memories.entry(name(0)).or_default().fetched(&fingerprint);
    assert_eq!(acts(&fixture, &runs), [(RuntimeKind::Docker, Act::Remove, false)]);
    let mut away = runs.clone();
    away.get_mut(&RuntimeKind::Process).unwrap().available = false;
    assert_eq!(acts(&fixture, &away), []);
}

/// A service whose new revision waits for its image, and a copy of the former one that ended.
fn superseded() -> (Desired, World, Fixture) {
    let (old, new) = ([plain()], [Sketch { image: 1, ..plain() }]);
    let mut all = desired(&new);
    all.formers = desired(&old).instances;
    (all, world(&old, &[exited(Some(1))]), Fixture::new())
}

#[test]
fn a_former_copy_is_run_again_once_fetching_its_successor_failed_or_takes_long() {
    let (all, seen, mut fixture) = superseded();
    let plan = fixture.plan(&all, &seen);
    assert_eq!((plan.actions.len(), plan.actions[0].act), (1, Act::Fetch), "what is wanted is tried first");
    assert_eq!(plan.wake, Some(MonoTime::default() + FORMER_PATIENCE));
    let fetch = crate::memory::Fetch {
        fingerprint: all.instances[&name(0)].fingerprint.clone(),
        reason: "Pulling",
        message: String::new(),
        since: MonoTime::default(),
    };
    fixture.memories.entry(name(0)).or_default().fetch = Some(fetch);
    let plan = fixture.plan(&all, &seen);
    assert!(plan.actions.is_empty());
    assert_eq!(plan.wake, Some(MonoTime::default() + FORMER_PATIENCE));
    let inputs = Inputs {
        desired: &all,
        world: &seen,
        memories: &fixture.memories,
        health: &fixture.health,
        now: MonoTime::default() + FORMER_PATIENCE,
    };
    let action = Action { instance: name(0), runtime: RuntimeKind::Docker, act: Act::Restart, former: true };
    assert_eq!(super::plan(inputs).actions, std::slice::from_ref(&action));
    let (all, seen, mut fixture) = superseded();
    let fingerprint = all.instances[&name(0)].fingerprint.clone();
    let memory = fixture.memories.entry(name(0)).or_default();
    memory.not_fetched(fingerprint, not_there(), MonoTime::default(), 0.0);
    assert_eq!(fixture.plan(&all, &seen).actions, [action]);
}

#[test]
fn one_that_is_unchanged_starts_beside_the_former_copy_of_what_it_comes_after() {
    let needs = vec![(0, DependencyCondition::Started)];
    let old = [plain(), Sketch { needs: needs.clone(), ..plain() }];
    let new = [Sketch { image: 1, ..plain() }, Sketch { needs, ..plain() }];
    let mut all = desired(&new);
    all.formers = [(name(0), Arc::clone(&desired(&old).instances[&name(0)]))].into();
    let seen = world(&old, &[running(), exited(None)]);
    let plan = Fixture::new().plan(&all, &seen);
    let acts: Vec<(InstanceName, Act)> =
        plan.actions.into_iter().map(|action| (action.instance, action.act)).collect();
    assert_eq!(acts, [(name(0), Act::Fetch), (name(1), Act::Restart)]);
    // A new one waits for the new one.
    let changed = [new[0].clone(), Sketch { image: 1, ..new[1].clone() }];
    let all = Desired { instances: desired(&changed).instances, ..all };
    assert!(matches!(Fixture::new().plan(&all, &seen).holds[&name(1)], Hold::Dependency { .. }));
}

#[test]
fn the_former_copy_of_a_blocked_one_is_run_again() {
    let (mut all, seen, fixture) = superseded();
    all.instances.clear();
    let blocked =
        crate::desired::Blocked { revision: "r".into(), reason: "InvalidSpec", message: "no".into() };
    all.blocked.insert(name(0), blocked);
    let plan = fixture.plan(&all, &seen);
    assert!(plan.actions.len() == 1 && plan.actions[0].former, "{:?}", plan.actions);
}

#[test]
fn one_that_waits_is_planned_when_its_wait_is_over() {
    let sketches = [plain()];
    let mut fixture = Fixture::new();
    let error = RuntimeError { reason: "ImagePullFailed", message: "no".into(), transient: true };
    let memory = fixture.memories.entry(name(0)).or_default();
    memory.failed(Some(spec(0, &sketches[0]).fingerprint), error, MonoTime::default(), 0.0);
    let plan = fixture.plan(&desired(&sketches), &empty_world());
    assert!(plan.actions.is_empty());
    assert_eq!(plan.holds[&name(0)], Hold::Waits);
    assert_eq!(plan.wake, Some(MonoTime::from_origin(Duration::from_secs(1))));
    // Another revision does not wait for the failure of the old one.
    let other = [Sketch { image: 1, ..plain() }];
    assert_eq!(fixture.plan(&desired(&other), &empty_world()).actions.len(), 1);
}

#[test]
fn policies_say_what_an_end_means() {
    for (when, code, expected) in [
        (RestartWhen::Always, Some(0), None),
        (RestartWhen::OnFailure, Some(0), Some(Hold::Completed)),
        (RestartWhen::OnFailure, Some(2), None),
        (RestartWhen::OnFailure, None, None),
        (RestartWhen::Never, Some(0), Some(Hold::Completed)),
        (RestartWhen::Never, Some(2), Some(Hold::Ended)),
        (RestartWhen::Never, None, Some(Hold::Ended)),
    ] {
        let sketches = [Sketch { when, ..plain() }];
        let plan = Fixture::new().plan(&desired(&sketches), &world(&sketches, &[exited(code)]));
        assert_eq!(plan.holds.get(&name(0)), expected.as_ref(), "{when:?} {code:?}");
        assert_eq!(plan.actions.len(), usize::from(expected.is_none()));
    }
}

#[test]
fn what_is_blocked_is_left_alone() {
    let sketches = [plain()];
    let mut all = desired(&sketches);
    all.instances.clear();
    let blocked =
        crate::desired::Blocked { revision: "r".into(), reason: "InvalidSpec", message: "no".into() };
    all.blocked.insert(name(0), blocked);
    assert!(Fixture::new().plan(&all, &world(&sketches, &[running()])).actions.is_empty());
}

#[test]
fn what_other_hands_changed_about_a_running_copy_is_put_right_but_not_without_pause() {
    let all = desired(&[plain()]);
    let mut seen = world(&[plain()], &[running()]);
    let copy = seen.get_mut(&RuntimeKind::Docker).unwrap().instances.get_mut(&name(0)).unwrap();
    copy.drift = Some("Paused");
    let fingerprint = copy.fingerprint.clone();
    let mut fixture = Fixture::new();
    assert_eq!(fixture.plan(&all, &seen).actions[0].act, Act::Repair);
    let error = RuntimeError { reason: "NameTaken", message: "taken".into(), transient: false };
    fixture.memories.entry(name(0)).or_default().failed(Some(fingerprint), error, MonoTime::default(), 0.0);
    assert_eq!(fixture.plan(&all, &seen).holds[&name(0)], Hold::Waits);
}
