//! The laws of placement, over random fleets, and what they mean for single nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use skerry_model::app::{Failover, Kind, ServiceSpec};
use skerry_model::{
    AppName, AppSpec, ClusterName, ConfigName, ContentHash, InstanceName, NodeName, SealId, SecretName,
    SecretVersion, Selector, Taint, TaintEffect,
};
use skerry_proto::types::v1 as pb;

use super::*;

mod asked;
mod clusters;
mod gpus;
mod index;
mod laws;

/// What a service of a test is like.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own, drawn by chance")]
#[derive(Debug, Clone, Copy, Default)]
struct ServiceShape {
    kind: Shape,
    port: Option<u16>,
    memory: Option<i64>,
    config: bool,
    /// It may be on nodes with `disk=ssd` only.
    on_ssd: bool,
    /// It bears every taint.
    bears: bool,
    architecture: Option<&'static str>,
    stays: bool,
    packs: bool,
    priority: i32,
    /// It depends on the first service.
    needs_first: bool,
    gpu: Option<GpuShape>,
}

/// What a service of a test asks of GPUs.
#[derive(Debug, Clone, Copy)]
struct GpuShape {
    need: NeedShape,
    /// Only on an A100.
    a100: bool,
    /// At least with MPS; only of a share.
    mps: bool,
    /// What it says of whether they are filled.
    packs: Option<bool>,
}

#[derive(Debug, Clone, Copy)]
enum NeedShape {
    Whole(u32),
    Share(Option<i64>, Option<u32>),
    Part(&'static str),
}

fn gpu_request(shape: &GpuShape) -> pb::GpuRequest {
    use pb::gpu_request::{Policy, Spread};
    let mut request = pb::GpuRequest::default();
    match shape.need {
        NeedShape::Whole(count) => request.count = Some(count),
        NeedShape::Share(memory_bytes, compute_percent) => {
            request =
                pb::GpuRequest { memory_bytes, compute_percent, policy: Policy::Shared.into(), ..request };
        }
        NeedShape::Part(profile) => request.mig_profile = profile.to_owned(),
    }
    if shape.a100 {
        request.model_selector = "*a100*".to_owned();
    }
    if shape.mps {
        request.isolation_min = pb::GpuIsolation::Mps.into();
    }
    let spread = shape.packs.map(|packs| if packs { Spread::Pack } else { Spread::Spread });
    request.spread = spread.unwrap_or_default().into();
    request
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Copies(u32),
    Everywhere,
    Job(u32, u32),
}

impl Default for Shape {
    fn default() -> Self {
        Self::Copies(1)
    }
}

fn copies(count: u32) -> ServiceShape {
    ServiceShape { kind: Shape::Copies(count), ..ServiceShape::default() }
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
    Wanted { revision, spec: Arc::new(spec), configs, secrets: BTreeMap::new(), bounds: None }.into()
}

/// The same as a system app.
fn system(app: &App) -> App {
    let spec = AppSpec { system: true, ..AppSpec::clone(&app.base.spec) };
    let revision = ContentHash::of(format!("{spec:?}").as_bytes());
    Wanted { revision, spec: Arc::new(spec), ..app.base.clone() }.into()
}

fn service(n: usize, shape: &ServiceShape) -> pb::ServiceSpec {
    use pb::service_spec::Kind as Wire;
    let ports: Vec<pb::Port> = shape
        .port
        .map(|port| pb::Port {
            container_port: 80,
            host_port: Some(u32::from(port) + u32::try_from(n).unwrap() * 10),
            ..Default::default()
        })
        .into_iter()
        .collect();
    // All of a job is on one node, which has each port once.
    let most = if ports.is_empty() { u32::MAX } else { 1 };
    let spread = if shape.packs { pb::deployment::Spread::Pack } else { pb::deployment::Spread::Spread };
    let kind = match shape.kind {
        Shape::Copies(count) => Wire::Deployment(pb::Deployment {
            replicas: Some(count),
            spread: spread.into(),
            ..Default::default()
        }),
        Shape::Everywhere => Wire::DaemonSet(pb::DaemonSet {}),
        Shape::Job(completions, parallelism) => Wire::Job(pb::Job {
            completions: Some(completions),
            // Each keeps its GPU.
            parallelism: Some(if shape.gpu.is_some() { completions } else { parallelism.min(most) }),
            ..Default::default()
        }),
    };
    let container = pb::Container { image: "x:1".into(), ports, ..Default::default() };
    let requests = pb::ResourceList { memory_bytes: shape.memory, ..Default::default() };
    let mount = pb::ConfigMount { config: "c".into(), path: "/c".into(), ..Default::default() };
    let ssd = [("disk".to_owned(), "ssd".to_owned())].into();
    let exists = pb::toleration::Operator::Exists.into();
    let need = pb::Dependency { service: "s0".to_owned(), condition: 0 };
    let failover = if shape.stays { pb::Failover::Never } else { pb::Failover::Always };
    pb::ServiceSpec {
        name: format!("s{n}"),
        kind: Some(kind),
        program: Some(pb::service_spec::Program::Container(container)),
        resources: Some(pb::Resources { requests: Some(requests), limits: None }),
        configs: if shape.config { vec![mount] } else { vec![] },
        node_selector: shape.on_ssd.then(|| pb::LabelSelector { match_labels: ssd, ..Default::default() }),
        tolerations: if shape.bears {
            vec![pb::Toleration { operator: exists, ..Default::default() }]
        } else {
            vec![]
        },
        architectures: shape.architecture.iter().map(|name| (*name).to_owned()).collect(),
        failover: failover.into(),
        priority: shape.priority,
        depends_on: if shape.needs_first && n > 0 { vec![need] } else { vec![] },
        gpu: shape.gpu.as_ref().map(gpu_request),
        ..Default::default()
    }
}

fn node(site: u8, cordoned: bool, memory: Option<u64>) -> Node {
    Node {
        labels: BTreeMap::from([("site".to_owned(), site.to_string())]),
        cordoned,
        memory_bytes: memory,
        ..Node::default()
    }
}

fn node_name(n: u8) -> NodeName {
    NodeName::parse(&format!("n{n}")).unwrap()
}

fn app_name(n: u8) -> AppName {
    AppName::parse(&format!("a{n}")).unwrap()
}

fn cluster_name(n: u8) -> ClusterName {
    ClusterName::parse(&format!("c{n}")).unwrap()
}

/// The store has what the solution says.
fn commit(state: &mut State, solution: &Solution) {
    let plans = solution.values().flat_map(|plan| &plan.nodes);
    state.previous = plans.map(|(name, placed)| (name.clone(), placed.clone())).collect();
}

/// The only plan of a cluster of one.
fn alone(state: &State) -> (Vec<Placed>, Vec<Unplaced>) {
    let plan = solve(state)[&ClusterName::from(node_name(0))].clone();
    (plan.nodes[&node_name(0)].clone(), plan.unplaced)
}

#[test]
fn an_update_that_does_not_fit_leaves_the_old_copy_running() {
    let shape = |memory| ServiceShape { memory: Some(memory), ..copies(1) };
    let mut state = State::default();
    state.nodes.insert(node_name(0), node(0, false, Some(50)));
    state.apps.insert(AppName::parse("a").unwrap(), app(None, &[shape(10)], None));
    let (first, _) = alone(&state);
    state.previous.insert(node_name(0), first.clone());
    state.apps.insert(AppName::parse("a").unwrap(), app(None, &[shape(60)], None));
    let (placed, unplaced) = alone(&state);
    assert_eq!(placed, first);
    assert_eq!(unplaced[0].reason, Reason::InsufficientMemory { wanted: 60, free: 50 });
    assert_eq!((unplaced[0].kept, &unplaced[0].node), (true, &Some(node_name(0))));
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
    Wanted {
        revision: ContentHash::of(b"r"),
        spec: Arc::new(spec),
        configs: BTreeMap::new(),
        secrets,
        bounds: None,
    }
    .into()
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
        alone(&state)
    };
    let reason = |app, seal| plan(app, seal, &[]).1[0].reason.word();
    assert_eq!(reason(with_secret(None), seal(1)), "SecretMissing");
    assert_eq!(reason(with_secret(secret(1, None)), None), "NodeHasNoSealingKey");
    assert_eq!(reason(with_secret(secret(1, Some("no key"))), seal(1)), "SecretUnreadable");
    let first = plan(with_secret(secret(1, None)), seal(1), &[]).0;
    assert_eq!(first[0].secrets[&name].seal, seal(1).unwrap());
    // Another key, and another version, are news.
    for (version, key) in [(1, 2), (2, 1)] {
        let next = plan(with_secret(secret(version, None)), seal(key), &first).0;
        let expected =
            SealedSecret { version: SecretVersion::from_bytes([version; 16]), seal: seal(key).unwrap() };
        assert_eq!(next[0].secrets[&name], expected);
    }
    // What a node has it keeps, though it could not be sealed now; what is new waits, and the old runs on.
    for (app, key) in
        [(with_secret(secret(1, Some("no key"))), seal(2)), (with_secret(secret(1, None)), None)]
    {
        let held = plan(app, key, &first);
        assert_eq!(held, (first.clone(), Vec::new()));
    }
    let waits = plan(with_secret(secret(2, Some("no key"))), seal(1), &first);
    assert_eq!((waits.0, waits.1[0].kept), (first.clone(), true));
}

#[test]
fn a_cordoned_node_keeps_what_it_runs_and_takes_updates_but_nothing_new() {
    let shape = copies(1);
    let mut state = State::default();
    state.nodes.insert(node_name(0), node(0, false, None));
    state.apps.insert(AppName::parse("a").unwrap(), app(None, std::slice::from_ref(&shape), None));
    let solution = solve(&state);
    commit(&mut state, &solution);
    state.nodes.insert(node_name(0), node(0, true, None));
    state.apps.insert(AppName::parse("b").unwrap(), app(None, &[shape], None));
    let (placed, unplaced) = alone(&state);
    assert_eq!(placed.len(), 1);
    assert_eq!(unplaced[0].reason, Reason::NodeCordoned);
}

#[test]
fn a_node_takes_what_it_has_room_for_and_the_rest_carries_the_reason() {
    let mut state = State::default();
    state.nodes.insert(node_name(0), node(0, false, None));
    for n in 0..6 {
        let big = app(None, &[copies(100); 2], None);
        state.apps.insert(AppName::parse(&format!("a{n}")).unwrap(), big);
    }
    let (placed, unplaced) = alone(&state);
    assert_eq!(placed.len(), INSTANCES_MAX);
    assert_eq!(unplaced.len(), 1200 - INSTANCES_MAX);
    assert!(unplaced.iter().all(|unplaced| unplaced.reason == Reason::NodeFull { instances: INSTANCES_MAX }));
}

#[test]
fn a_cluster_that_has_another_revision_is_planned_in_it_and_the_others_are_left_alone() {
    let shape = |memory| ServiceShape { memory: Some(memory), ..copies(1) };
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
    assert_eq!(changed.nodes, [node_name(1)].into());
    let placed = solution.values().flat_map(|plan| plan.nodes.values().flatten());
    let revisions: Vec<_> = placed.map(|placed| placed.revision).collect();
    assert_eq!(revisions, [old.base.revision, new.base.revision, old.base.revision]);
}
