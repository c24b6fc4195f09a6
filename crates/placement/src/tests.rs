//! The laws of placement.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use skerry_model::{
    AppName, AppSpec, ClusterName, ConfigName, ContentHash, NodeName, SealId, SecretName, SecretVersion,
    Selector,
};
use skerry_proto::types::v1 as pb;

use super::*;

#[derive(Debug, Clone)]
struct ServiceShape {
    replicas: u32,
    port: Option<u16>,
    memory: Option<i64>,
    config: bool,
}

fn app(site: Option<u8>, services: &[ServiceShape], config: Option<u8>) -> App {
    let services = services.iter().enumerate().map(|(n, shape)| service(n, shape)).collect();
    let mut spec =
        AppSpec::from_proto(&pb::AppSpec { services, ..Default::default() }).expect("a valid spec");
    if let Some(site) = site {
        spec.selector = Selector::parse(&format!("site={site}")).unwrap();
    }
    let revision = ContentHash::of(format!("{spec:?}").as_bytes());
    let configs =
        config.map(|n| (ConfigName::parse("c").unwrap(), ContentHash::of(&[n]))).into_iter().collect();
    Wanted { revision, spec: Arc::new(spec), configs, secrets: BTreeMap::new() }.into()
}

fn service(n: usize, shape: &ServiceShape) -> pb::ServiceSpec {
    let ports: Vec<pb::Port> = shape
        .port
        .map(|port| pb::Port {
            container_port: 80,
            host_port: Some(u32::from(port) + u32::try_from(n).unwrap() * 10),
            ..Default::default()
        })
        .into_iter()
        .collect();
    let replicas = if ports.is_empty() { shape.replicas } else { 1 };
    let container = pb::Container { image: "x:1".into(), ports, ..Default::default() };
    let requests = pb::ResourceList { memory_bytes: shape.memory, ..Default::default() };
    let mount = pb::ConfigMount { config: "c".into(), path: "/c".into(), ..Default::default() };
    pb::ServiceSpec {
        name: format!("s{n}"),
        kind: Some(pb::service_spec::Kind::Deployment(pb::Deployment { replicas: Some(replicas) })),
        program: Some(pb::service_spec::Program::Container(container)),
        resources: Some(pb::Resources { requests: Some(requests), limits: None }),
        configs: if shape.config { vec![mount] } else { vec![] },
        ..Default::default()
    }
}

fn node(site: u8, cordoned: bool, memory: Option<u64>) -> Node {
    Node {
        labels: BTreeMap::from([("site".to_owned(), site.to_string())]),
        cordoned,
        cpu_millis: None,
        memory_bytes: memory,
        seal: None,
    }
}

fn shapes() -> impl Strategy<Value = Vec<ServiceShape>> {
    let shape =
        (0_u32..3, proptest::option::of(8000_u16..8003), proptest::option::of(1_i64..60), any::<bool>())
            .prop_map(|(replicas, port, memory, config)| ServiceShape { replicas, port, memory, config });
    proptest::collection::vec(shape, 1..3)
}

fn whole_apps() -> impl Strategy<Value = App> {
    (proptest::option::of(0_u8..2), shapes(), proptest::option::of(0_u8..2))
        .prop_map(|(site, shapes, config)| app(site, &shapes, config))
}

/// Apps of which some clusters have another revision than the rest.
fn apps() -> impl Strategy<Value = App> {
    let elsewhere = proptest::collection::vec(0_u8..3, 0..3);
    (whole_apps(), whole_apps(), elsewhere).prop_map(|(app, other, elsewhere)| {
        let other = other.base;
        let cluster = |n: u8| (ClusterName::from(node_name(n)), other.revision);
        let elsewhere = Arc::new(elsewhere.into_iter().map(cluster).collect());
        App { others: BTreeMap::from([(other.revision, other)]), elsewhere, ..app }
    })
}

fn nodes() -> impl Strategy<Value = Node> {
    (0_u8..2, any::<bool>(), proptest::option::of(20_u64..100))
        .prop_map(|(site, cordoned, memory)| node(site, cordoned, memory))
}

#[derive(Debug, Clone)]
enum Step {
    Node(u8, Option<Node>),
    App(u8, Option<App>),
    /// The store takes a node's plan as its assignment.
    Commit(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0_u8..3, proptest::option::weighted(0.8, nodes())).prop_map(|(n, node)| Step::Node(n, node)),
        3 => (0_u8..3, proptest::option::weighted(0.8, apps())).prop_map(|(n, app)| Step::App(n, app)),
        3 => (0_u8..3).prop_map(Step::Commit),
    ];
    proptest::collection::vec(step, 1..30)
}

fn node_name(n: u8) -> NodeName {
    NodeName::parse(&format!("n{n}")).unwrap()
}

fn run(steps: Vec<Step>, mut check: impl FnMut(&State, &Solution)) {
    let (mut state, mut solution) = (State::default(), Solution::new());
    for step in steps {
        let delta = match step {
            Step::Node(n, node) => Delta::Node(node_name(n), node),
            Step::App(n, app) => Delta::App(AppName::parse(&format!("a{n}")).unwrap(), app),
            Step::Commit(n) => {
                let name = node_name(n);
                let placed = solution.get(&name).map(|plan| plan.placed.clone()).unwrap_or_default();
                Delta::Previous(name, placed)
            }
        };
        let before = solution.clone();
        let changed = apply(&mut state, &mut solution, delta);
        for name in before.keys().chain(solution.keys()) {
            assert_eq!(before.get(name) != solution.get(name), changed.contains(name), "{name}");
        }
        check(&state, &solution);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_incremental_answer_is_the_full_one(steps in steps()) {
        run(steps, |state, solution| assert_eq!(*solution, solve(state)));
    }

    #[test]
    fn solving_again_moves_nothing(steps in steps()) {
        run(steps, |state, solution| {
            let mut settled = state.clone();
            settled.previous = solution.iter().map(|(name, plan)| (name.clone(), plan.placed.clone())).collect();
            let again = solve(&settled);
            for (name, plan) in solution {
                assert_eq!(plan.placed, again[name].placed);
            }
        });
    }

    #[test]
    fn what_is_wanted_is_placed_or_has_a_reason(steps in steps()) {
        run(steps, |state, solution| {
            for (name, plan) in solution {
                let node = &state.nodes[name];
                for (app_name, app) in &state.apps {
                    let app = app.wanted(&ClusterName::from(name.clone()));
                    let wanted: u32 = if app.spec.selector.matches(&node.labels) {
                        app.spec.services.iter().map(|s| match &s.kind {
                            skerry_model::app::Kind::Deployment { replicas } => *replicas,
                            skerry_model::app::Kind::DaemonSet => 1,
                            skerry_model::app::Kind::Job(job) => job.completions,
                            skerry_model::app::Kind::CronJob(cron) => cron.job.completions * cron.runs_max(),
                        }).sum()
                    } else { 0 };
                    let current = plan.placed.iter().filter(|p| p.instance.app == *app_name && p.revision == app.revision).count();
                    let explained = plan.unplaced.iter().filter(|u| u.instance.app == *app_name).count();
                    let here = plan.placed.iter().filter(|p| p.instance.app == *app_name).count();
                    assert!(current + explained >= wanted as usize, "{app_name} on {name}");
                    assert!(here <= wanted as usize, "{app_name} on {name}");
                }
                assert!(plan.placed.iter().all(|p| state.apps.contains_key(&p.instance.app)));
            }
        });
    }

    #[test]
    fn nothing_new_overbooks_a_node_or_a_port(steps in steps()) {
        run(steps, |state, solution| {
            for (name, plan) in solution {
                let held = state.previous.get(name).cloned().unwrap_or_default();
                let fresh = plan.placed.iter().any(|p| !held.contains(p));
                let used: u64 = plan.placed.iter().filter_map(|p| p.booked.memory_bytes).sum();
                let newest = plan.placed.iter().filter(|p| !held.contains(p) && p.booked.memory_bytes.is_some()).count();
                if let (true, true, Some(capacity)) = (fresh, newest > 0, state.nodes[name].memory_bytes) {
                    assert!(used <= capacity, "{name}: {used} of {capacity}");
                }
                let mut ports: Vec<u16> = plan.placed.iter().flat_map(|p| &p.ports).map(|p| p.host_port).collect();
                let count = ports.len();
                ports.sort_unstable();
                ports.dedup();
                assert_eq!(ports.len(), count, "{name}");
            }
        });
    }
}

#[test]
fn an_update_that_does_not_fit_leaves_the_old_copy_running() {
    let shape = |memory| ServiceShape { replicas: 1, port: None, memory: Some(memory), config: false };
    let mut state = State::default();
    state.nodes.insert(node_name(0), node(0, false, Some(50)));
    state.apps.insert(AppName::parse("a").unwrap(), app(None, &[shape(10)], None));
    let first = solve(&state);
    state.previous = first.iter().map(|(name, plan)| (name.clone(), plan.placed.clone())).collect();
    state.apps.insert(AppName::parse("a").unwrap(), app(None, &[shape(60)], None));
    let plan = &solve(&state)[&node_name(0)];
    assert_eq!(plan.placed, first[&node_name(0)].placed);
    assert_eq!(plan.unplaced[0].reason, Reason::InsufficientMemory { wanted: 60, free: 50 });
    assert!(plan.unplaced[0].kept);
}

/// An app of one service that uses the secret `s`.
fn with_secret(secret: Option<Secret>) -> App {
    let mount = pb::SecretMount { secret: "s".to_owned(), path: "/s".to_owned(), ..Default::default() };
    let program =
        pb::service_spec::Program::Container(pb::Container { image: "i:1".into(), ..Default::default() });
    let service = pb::ServiceSpec {
        name: "x".to_owned(),
        program: Some(program),
        secrets: vec![mount],
        ..Default::default()
    };
    let spec = AppSpec::from_proto(&pb::AppSpec { services: vec![service], ..Default::default() }).unwrap();
    let secrets = secret.into_iter().map(|secret| (SecretName::parse("s").unwrap(), secret)).collect();
    Wanted { revision: ContentHash::of(b"r"), spec: Arc::new(spec), configs: BTreeMap::new(), secrets }.into()
}

#[test]
fn an_instance_gets_its_secrets_sealed_or_a_reason_and_keeps_what_it_has() {
    let secret = |n, unreadable: Option<&str>| {
        let version = SecretVersion::from_bytes([n; 16]);
        Some(Secret { version, unreadable: unreadable.map(str::to_owned) })
    };
    let seal = |n| Some(SealId::from_bytes([n; 8]));
    let name = SecretName::parse("s").unwrap();
    let plan = |app: App, seal, previous: &[Placed]| {
        let mut state = State::default();
        state.nodes.insert(node_name(0), Node { seal, ..node(0, false, None) });
        state.apps.insert(AppName::parse("a").unwrap(), app);
        state.previous.insert(node_name(0), previous.to_vec());
        solve(&state).remove(&node_name(0)).unwrap()
    };
    let reason = |app, seal| plan(app, seal, &[]).unplaced[0].reason.word();
    assert_eq!(reason(with_secret(None), seal(1)), "SecretMissing");
    assert_eq!(reason(with_secret(secret(1, None)), None), "NodeHasNoSealingKey");
    assert_eq!(reason(with_secret(secret(1, Some("no key"))), seal(1)), "SecretUnreadable");
    let first = plan(with_secret(secret(1, None)), seal(1), &[]).placed;
    assert_eq!(first[0].secrets[&name].seal, seal(1).unwrap());
    // Another key, and another version, are news.
    for (version, key) in [(1, 2), (2, 1)] {
        let next = plan(with_secret(secret(version, None)), seal(key), &first).placed;
        let expected =
            SealedSecret { version: SecretVersion::from_bytes([version; 16]), seal: seal(key).unwrap() };
        assert_eq!(next[0].secrets[&name], expected);
    }
    // What a node has it keeps, though it could not be sealed now; what is new waits, and the old runs on.
    for (app, key) in
        [(with_secret(secret(1, Some("no key"))), seal(2)), (with_secret(secret(1, None)), None)]
    {
        let held = plan(app, key, &first);
        assert_eq!((held.placed, held.unplaced), (first.clone(), Vec::new()));
    }
    let waits = plan(with_secret(secret(2, Some("no key"))), seal(1), &first);
    assert_eq!((waits.placed, waits.unplaced[0].kept), (first.clone(), true));
}

#[test]
fn a_cordoned_node_keeps_what_it_runs_and_takes_updates_but_nothing_new() {
    let shape = ServiceShape { replicas: 1, port: None, memory: None, config: false };
    let mut state = State::default();
    state.nodes.insert(node_name(0), node(0, false, None));
    state.apps.insert(AppName::parse("a").unwrap(), app(None, std::slice::from_ref(&shape), None));
    state.previous = solve(&state).into_iter().map(|(name, plan)| (name, plan.placed)).collect();
    state.nodes.insert(node_name(0), node(0, true, None));
    state.apps.insert(AppName::parse("b").unwrap(), app(None, &[shape], None));
    let plan = &solve(&state)[&node_name(0)];
    assert_eq!(plan.placed.len(), 1);
    assert_eq!(plan.unplaced[0].reason, Reason::NodeCordoned);
}

#[test]
fn a_node_takes_what_it_has_room_for_and_the_rest_carries_the_reason() {
    let mut state = State::default();
    state.nodes.insert(node_name(0), node(0, false, None));
    for n in 0..6 {
        let big = app(
            None,
            &vec![ServiceShape { replicas: 100, port: None, memory: None, config: false }; 2],
            None,
        );
        state.apps.insert(AppName::parse(&format!("a{n}")).unwrap(), big);
    }
    let plan = &solve(&state)[&node_name(0)];
    assert_eq!(plan.placed.len(), INSTANCES_MAX);
    assert_eq!(plan.unplaced.len(), 1200 - INSTANCES_MAX);
    assert!(
        plan.unplaced.iter().all(|unplaced| unplaced.reason == Reason::NodeFull { instances: INSTANCES_MAX })
    );
}

#[test]
fn a_cluster_that_has_another_revision_is_planned_in_it_and_the_others_are_left_alone() {
    let shape = |memory| ServiceShape { replicas: 1, port: None, memory: Some(memory), config: false };
    let (old, new) = (app(None, &[shape(10)], None), app(None, &[shape(20)], None));
    let name = AppName::parse("a").unwrap();
    let (mut state, mut solution) = (State::default(), Solution::new());
    for n in 0..3 {
        apply(&mut state, &mut solution, Delta::Node(node_name(n), Some(node(0, false, None))));
    }
    apply(&mut state, &mut solution, Delta::App(name.clone(), Some(old.clone())));
    let elsewhere = BTreeMap::from([(ClusterName::from(node_name(1)), new.base.revision)]);
    let others = BTreeMap::from([(new.base.revision, new.base.clone())]);
    let mixed = App { others, elsewhere: Arc::new(elsewhere), ..old.clone() };
    let changed = apply(&mut state, &mut solution, Delta::App(name, Some(mixed)));
    assert_eq!(changed, [node_name(1)].into());
    let revisions: Vec<_> = solution.values().map(|plan| plan.placed[0].revision).collect();
    assert_eq!(revisions, [old.base.revision, new.base.revision, old.base.revision]);
}
