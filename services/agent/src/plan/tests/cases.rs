//! Single cases, each the shortest that shows its law.

use super::*;

fn plain() -> Sketch {
    Sketch {
        image: 0,
        is_process: false,
        when: RestartWhen::Always,
        needs: Vec::new(),
        wanted: true,
        start_first: false,
    }
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
fn what_other_members_have_is_waited_for_as_the_control_plane_says() {
    let needs = vec![(0, DependencyCondition::Healthy)];
    let sketches = [Sketch { wanted: false, ..plain() }, Sketch { needs, ..plain() }];
    let mut all = desired(&sketches);
    let mut elsewhere = |met: Vec<DependencyCondition>| {
        let members = [(skerry_model::NodeName::parse("n2").unwrap(), None)].into();
        let service = crate::peers::PeerService { members, met, ..Default::default() };
        let peers = crate::peers::Peers { services: [(name(0).service, service)].into() };
        all.peers = [(name(0).app, Arc::new(peers))].into();
        Fixture::new().plan(&all, &empty_world())
    };
    let message = "waits until a is healthy on member n2".to_owned();
    let plan = elsewhere(vec![DependencyCondition::Started]);
    assert_eq!(plan.holds[&name(1)], Hold::Dependency { message });
    assert!(!elsewhere(vec![DependencyCondition::Healthy]).actions.is_empty());
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
        hands: &BTreeMap::new(),
        gates: &BTreeMap::new(),
        health: &fixture.health,
        beside_health: &BTreeMap::new(),
        gpus: &BTreeMap::new(),
        now: MonoTime::default() + FORMER_PATIENCE,
    };
    let action = Action { instance: name(0), runtime: RuntimeKind::Docker, act: Act::Restart, former: true };
    assert_eq!(super::super::plan(inputs).actions, std::slice::from_ref(&action));
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
    let mut fixture = Fixture::new();
    for (index, sketch) in changed.iter().enumerate() {
        fixture.memories.entry(name(index)).or_default().fetched(&spec(index, sketch).fingerprint);
    }
    assert!(matches!(fixture.plan(&all, &seen).holds[&name(1)], Hold::Dependency { .. }));
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

/// An update of an app of which one is replaced, one is unchanged, one is dropped, and one is new.
fn update() -> (Desired, World) {
    let gone = Sketch { wanted: false, ..plain() };
    let old = [plain(), plain(), plain(), gone.clone()];
    let new = [Sketch { image: 1, ..plain() }, plain(), gone, plain()];
    let mut all = desired(&new);
    let services = [0, 1, 3].map(|at| ServiceName::parse(SERVICES[at]).unwrap());
    let whole = crate::desired::Whole { services: services.into(), ..Default::default() };
    all.apps.insert(name(0).app, whole);
    (all, world(&old, &[running(); 4]))
}

fn acts(plan: &Plan) -> Vec<(usize, Act)> {
    let index = |name: &InstanceName| SERVICES.iter().position(|one| *one == name.service.as_str()).unwrap();
    plan.actions.iter().map(|action| (index(&action.instance), action.act)).collect()
}

#[test]
fn an_update_replaces_drops_and_starts_nothing_before_all_that_it_needs_is_here() {
    let (all, seen) = update();
    let mut fixture = Fixture::new();
    assert_eq!(acts(&fixture.plan(&all, &seen)), [(0, Act::Fetch), (3, Act::Fetch)]);
    fixture.memories.entry(name(0)).or_default().fetched(&all.instances[&name(0)].fingerprint);
    let memory = fixture.memories.entry(name(3)).or_default();
    memory.failed(Some(all.instances[&name(3)].fingerprint.clone()), not_there(), MonoTime::default(), 0.0);
    let plan = fixture.plan(&all, &seen);
    assert_eq!(acts(&plan), []);
    let message = "waits for image hello:1 of app/d/n1/0: no route".to_owned();
    assert_eq!(plan.holds[&name(0)], Hold::Staging { message });
    assert_eq!((&plan.holds[&name(1)], &plan.holds[&name(3)]), (&Hold::Runs, &Hold::Waits));
    fixture.memories.entry(name(3)).or_default().fetched(&all.instances[&name(3)].fingerprint);
    fixture.memories.entry(name(3)).or_default().succeeded(Some(&all.instances[&name(3)].fingerprint));
    let plan = fixture.plan(&all, &seen);
    assert_eq!(acts(&plan), [(2, Act::Remove), (0, Act::Replace), (3, Act::Start)]);
}

#[test]
fn what_cannot_be_run_as_it_was_sent_keeps_its_whole_app_and_no_other_one() {
    let (mut all, seen) = update();
    let blocked =
        crate::desired::Blocked { revision: "r".into(), reason: "InvalidSpec", message: "no".into() };
    all.instances.remove(&name(3));
    all.blocked.insert(name(3), blocked);
    let mut fixture = Fixture::new();
    fixture.memories.entry(name(0)).or_default().fetched(&all.instances[&name(0)].fingerprint);
    let plan = fixture.plan(&all, &seen);
    assert_eq!(acts(&plan), []);
    let message = "app/d/n1/0 cannot be run as it was sent: no".to_owned();
    assert_eq!(plan.holds[&name(0)], Hold::Staging { message });
    // Another app, and a first installation.
    let other = InstanceName::parse("other/a/n1/0").unwrap();
    let spec = InstanceSpec { name: other.clone(), ..InstanceSpec::clone(&all.instances[&name(0)]) };
    all.instances.insert(other.clone(), Arc::new(spec));
    let plan = fixture.plan(&all, &seen);
    assert_eq!((plan.actions.len(), plan.actions[0].act, &plan.actions[0].instance), (1, Act::Fetch, &other));
    fixture.memories.entry(other.clone()).or_default().fetched(&all.instances[&other].fingerprint);
    assert_eq!(fixture.plan(&all, &seen).actions[0].act, Act::Start);
    assert!(
        Fixture::new()
            .plan(&all, &empty_world())
            .holds
            .values()
            .all(|hold| !matches!(hold, Hold::Staging { .. }))
    );
}

#[test]
fn an_instance_that_went_elsewhere_goes_at_once_though_the_update_waits() {
    let (mut all, mut seen) = update();
    let moved = InstanceName::parse("app/b/n1/1").unwrap();
    let spec = InstanceSpec { name: moved.clone(), ..InstanceSpec::clone(&all.instances[&name(1)]) };
    seen.get_mut(&RuntimeKind::Docker).unwrap().instances.insert(moved.clone(), observed(&spec, running()));
    let plan = Fixture::new().plan(&all, &seen);
    let removed: Vec<&InstanceName> =
        plan.actions.iter().filter(|one| one.act == Act::Remove).map(|one| &one.instance).collect();
    assert_eq!(removed, [&moved]);
    // What is taken back and lost leaves what runs alone.
    all.taken_back.insert(
        name(0).app,
        crate::update::TakenBack {
            rejected: String::new(),
            message: String::new(),
            withheld: std::collections::BTreeSet::new(),
            is_lost: true,
        },
    );
    all.instances.clear();
    let plan = Fixture::new().plan(&all, &seen);
    assert!(plan.actions.iter().all(|one| one.instance != name(2)), "{:?}", plan.actions);
}
