//! Clusters as the world joins them from the store, told one record after the other.

use std::time::Instant;

use prost::Message as _;
use skerry_model::app::Kind;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_model::{ClusterRef, RevisionRef};
use skerry_proto::types::v1 as types;
use skerry_rollout::Shown;
use skerry_store::keys::GatewayId;

use super::*;
use crate::status;

mod ahead;
mod drain;
mod gpus;
mod peers;

const FAILOVER_AFTER: Duration = Duration::from_secs(60);

/// A world, and the store that tells it.
struct Told {
    world: World,
    /// Of each key what was told last.
    entries: BTreeMap<String, Entry>,
    revision: i64,
    now: Instant,
}

impl Told {
    fn new() -> Self {
        let world = World::new(SecretKeys::none());
        Self { world, entries: BTreeMap::new(), revision: 1, now: Instant::now() }
    }

    fn put<R: Record>(&mut self, name: &R::Name, record: &R) {
        self.revision += 1;
        let key = Key::<R>::of(name);
        let bytes = record.encode_to_vec().into();
        let entry = Entry {
            key: key.to_shared(),
            bytes,
            create_revision: self.revision,
            mod_revision: self.revision,
        };
        self.world.take(key.as_str(), Some(&entry), &mut Touched::default());
        self.entries.insert(key.as_str().to_owned(), entry);
    }

    fn node(&mut self, n: usize, change: impl FnOnce(&mut stored::NodeRecord)) {
        let labels = [(CLUSTER_LABEL.to_owned(), "c".to_owned())].into();
        let meta = stored::Meta { labels, ..Default::default() };
        let mut record = stored::NodeRecord { meta: Some(meta), ..Default::default() };
        change(&mut record);
        self.put(&node(n), &record);
    }

    fn cluster(&mut self) {
        let labels = [("site".to_owned(), "oslo".to_owned())].into();
        let meta = stored::Meta { labels, ..Default::default() };
        let failover_after = Some(skerry_model::time::to_proto_duration(FAILOVER_AFTER));
        let name = ClusterRef::parse("projects/p/clusters/c").unwrap();
        self.put(&name, &stored::ClusterRecord { meta: Some(meta), failover_after });
    }

    fn connect(&mut self, n: usize, connected: bool) {
        let close_time = (!connected).then(prost_types::Timestamp::default);
        let session = stored::SessionRecord { gateway: "g".to_owned(), close_time, ..Default::default() };
        self.put(&node(n), &session);
    }

    /// An app of so many copies of a service for clusters in Oslo.
    fn app(&mut self, replicas: u32) {
        self.app_with(replicas, "");
    }

    /// The same, of which a drain may make so many unready at once.
    fn app_with(&mut self, replicas: u32, max_unavailable: &str) {
        let process = types::Process { program: "/bin/sleep".to_owned(), ..Default::default() };
        let deployment = types::Deployment {
            replicas: Some(replicas),
            max_unavailable: max_unavailable.to_owned(),
            ..Default::default()
        };
        let service = types::ServiceSpec {
            name: "s".to_owned(),
            kind: Some(types::service_spec::Kind::Deployment(deployment)),
            program: Some(types::service_spec::Program::Process(process)),
            ..Default::default()
        };
        let match_labels = [("site".to_owned(), "oslo".to_owned())].into();
        let selector = Some(types::LabelSelector { match_labels, ..Default::default() });
        let spec = WireSpec { selector, services: vec![service], ..WireSpec::default() }.encode_to_vec();
        let hash = ContentHash::of(&spec);
        let revision = stored::RevisionRecord { spec: spec.into(), number: 1, ..Default::default() };
        self.put(&RevisionRef { app: app(), hash }, &revision);
        let record = stored::AppRecord { revision: hash.to_string(), ..Default::default() };
        self.put(&app(), &record);
    }

    /// Writes what is to be assigned, and nodes that are connected run it; answers the nodes that were written.
    fn settle(&mut self) -> Vec<String> {
        let open = self.world.unsettled(100);
        for one in &open {
            let placed = one.placed.as_deref().unwrap_or_default();
            let (peers, images) = (one.peers.clone(), one.images.clone());
            self.put(&one.node, &stored::AssignmentRecord { peers, images, ..writes::record(placed) });
            let view = self.project().nodes.get(&one.node.node).unwrap();
            if self.world.is_connected(view) {
                self.report(&one.node, placed);
            }
        }
        open.into_iter().map(|one| one.node.node.to_string()).collect()
    }

    fn report(&mut self, node: &NodeRef, placed: &[Placed]) {
        self.report_as(node, placed, &types::InstanceStatus::default());
    }

    /// Reports that all runs, and more of each.
    fn report_as(&mut self, node: &NodeRef, placed: &[Placed], more: &types::InstanceStatus) {
        let instance = |placed: &Placed| types::InstanceStatus {
            instance: placed.instance.to_string(),
            revision: placed.revision.to_string(),
            phase: types::InstancePhase::Running.into(),
            ready: true,
            ..more.clone()
        };
        let machine = types::MachineStatus { architecture: "amd64".to_owned(), ..Default::default() };
        let status = stored::StatusRecord {
            machine: Some(machine),
            instances: placed.iter().map(instance).collect(),
            acknowledged_revision: self.revision,
            ..Default::default()
        };
        self.put(node, &status);
    }

    /// So many seconds later, with a look every five.
    fn later(&mut self, seconds: u64) -> bool {
        let mut any = false;
        for _ in 0..seconds / 5 {
            self.now += Duration::from_secs(5);
            any |= self.world.look(self.now, &mut Touched::default());
            any |= self.world.drain(&mut Touched::default());
        }
        any
    }

    fn project(&self) -> &Project {
        self.world.project(&app().project).unwrap()
    }

    /// Which nodes each instance is said to be on, with its reason.
    fn shown(&self) -> Vec<String> {
        let seen = status::instances(&self.world, &app().project, self.project(), &app().app);
        let told = |one: &types::InstanceStatus| {
            let node = one.node.rsplit('/').next().unwrap_or_default();
            format!("{} {node} {}", one.instance, one.reason).trim_end().to_owned()
        };
        let mut told: Vec<String> = seen.iter().map(|one| told(&one.status)).collect();
        told.sort();
        told
    }

    /// How its cluster is, to a rollout.
    fn cluster_shown(&self) -> Shown {
        let project = self.project();
        let cluster = project.solution.iter().next().unwrap();
        status::shown(&self.world, &app().project, project, &app().app, cluster)
    }
}

fn node(n: usize) -> NodeRef {
    NodeRef::parse(&format!("projects/p/nodes/n{n}")).unwrap()
}

fn app() -> AppRef {
    AppRef::parse("projects/p/apps/a").unwrap()
}

/// A cluster of three nodes that are connected, with an app of three copies that run.
fn three() -> Told {
    let mut told = Told::new();
    told.put(&GatewayId::parse("g").unwrap(), &stored::GatewayRecord::default());
    told.cluster();
    told.app(3);
    for n in 1..=3 {
        told.node(n, |_| ());
        told.connect(n, true);
    }
    while !told.settle().is_empty() {}
    told
}

#[test]
fn copies_of_a_member_that_is_gone_for_long_enough_move_and_leave_it_when_it_is_back() {
    let mut told = three();
    assert_eq!(told.shown(), ["a/s/c/0 n1", "a/s/c/1 n2", "a/s/c/2 n3"]);
    told.later(10);
    told.connect(2, false);
    assert!(!told.later(60), "not yet");
    assert_eq!(told.shown()[1], "a/s/c/1 n2 NodeDisconnected");
    assert_eq!(told.cluster_shown(), Shown::Healthy, "what nobody can see holds nothing up");
    assert!(told.later(10));
    assert_eq!(told.settle(), ["n1", "n2"]);
    let moved = ["a/s/c/0 n1", "a/s/c/1 n1", "a/s/c/1 n2 NodeDisconnected", "a/s/c/2 n3"];
    assert_eq!(told.shown(), moved);
    assert!(told.settle().is_empty());
    // Another world, told the same anew, knows what was seen before it.
    let before = std::mem::replace(&mut told.world, World::new(SecretKeys::none()));
    told.world = before.emptied();
    for (key, entry) in &told.entries {
        told.world.take(key, Some(entry), &mut Touched::default());
    }
    assert_eq!(told.shown(), moved);
    assert!(told.project().state.nodes[&node(2).node].lost);
    // It is back, and learns that it runs nothing any more.
    told.connect(2, true);
    assert_eq!(told.shown()[2], "a/s/c/1 n2 Removing");
    assert!(told.later(5));
    told.report(&node(2), &[]);
    assert_eq!(told.shown(), ["a/s/c/0 n1", "a/s/c/1 n1", "a/s/c/2 n3"]);
    assert!(told.world.unsettled(9).is_empty());
}

#[test]
fn nothing_moves_when_the_control_plane_loses_sight() {
    let mut told = three();
    told.later(10);
    let gateway = Key::<stored::GatewayRecord>::of(&GatewayId::parse("g").unwrap());
    told.world.take(gateway.as_str(), None, &mut Touched::default());
    assert!(!told.later(3600));
    assert_eq!(told.cluster_shown(), Shown::Away);
    assert!(told.world.unsettled(9).is_empty());
}

#[test]
fn what_a_node_took_back_by_itself_is_seen_as_failed_there_and_never_as_healthy() {
    let mut told = three();
    let placed = told.project().plan_of(&node(3).node).unwrap().to_vec();
    let of = |rejected: String| types::InstanceStatus {
        reason: skerry_model::app::ROLLED_BACK.to_owned(),
        rejected_revision: rejected,
        ..Default::default()
    };
    // The same revision with other configs was taken back: what runs has its name.
    told.report_as(&node(3), &placed, &of(placed[0].revision.to_string()));
    let Shown::TakenBack { why } = told.cluster_shown() else { panic!("{:?}", told.cluster_shown()) };
    assert!(why.starts_with("a/s/c/2 RolledBack"), "{why}");
    assert_eq!(told.shown()[2], "a/s/c/2 n3 RolledBack");
    // What is told of another one says nothing about this one.
    told.report_as(&node(3), &placed, &of(ContentHash::of(b"other").to_string()));
    assert_eq!(told.cluster_shown(), Shown::Healthy);
    told.report_as(&node(3), &placed, &of(placed[0].revision.to_string()));
    told.connect(3, false);
    assert_eq!(told.cluster_shown(), Shown::Healthy, "nobody knows how it is there");
}

#[test]
fn a_cluster_s_health_is_that_of_its_members_that_are_connected() {
    let mut told = three();
    assert_eq!(told.cluster_shown(), Shown::Healthy);
    told.report(&node(3), &[]);
    assert!(matches!(told.cluster_shown(), Shown::Unhealthy { .. }));
    told.connect(3, false);
    assert_eq!(told.cluster_shown(), Shown::Healthy);
    told.connect(1, false);
    told.connect(2, false);
    assert_eq!(told.cluster_shown(), Shown::Away);
    told.app(0);
    told.settle();
    told.connect(1, true);
    assert!(matches!(told.cluster_shown(), Shown::Unhealthy { .. }), "n1 has not removed it");
    told.report(&node(1), &[]);
    assert_eq!(told.cluster_shown(), Shown::Away, "the others have it still");
}

#[test]
fn an_app_tells_how_it_stands_in_each_cluster_and_what_has_no_place() {
    let mut told = three();
    let taint = types::Taint {
        key: "wet".to_owned(),
        value: String::new(),
        effect: types::taint::Effect::NoSchedule.into(),
    };
    for n in 1..=3 {
        told.node(n, |record| record.taints = vec![taint.clone()]);
    }
    told.app(4);
    while !told.settle().is_empty() {}
    let name = app();
    let status =
        status::status_of(&told.world, &name.project, told.project(), &name.app, None, SystemTime::now());
    let [cluster] = status.clusters.as_slice() else { panic!("{:?}", status.clusters) };
    let counts = cluster.counts.unwrap();
    assert_eq!((cluster.cluster.as_str(), counts.desired, counts.ready), ("c", 4, 3));
    let [problem] = status.problems.as_slice() else { panic!("{:?}", status.problems) };
    assert_eq!((problem.instance.as_str(), problem.node.as_str()), ("a/s/c/3", ""));
    assert_eq!(problem.message, "0/3 members: 3 tainted wet:NoSchedule");
}

#[test]
fn a_node_whose_cluster_is_not_there_is_one_of_its_own() {
    let mut told = Told::new();
    told.app(1);
    told.node(1, |record| {
        let labels = &mut record.meta.as_mut().unwrap().labels;
        labels.insert("site".to_owned(), "oslo".to_owned());
    });
    assert_eq!(told.shown(), ["a/s/n1/0 n1 NodeDisconnected"]);
    told.cluster();
    assert_eq!(told.shown(), ["a/s/c/0 n1 NodeDisconnected"]);
    let spec = &told.project().state.apps[&app().app].base.spec;
    assert_eq!(spec.services[0].kind, Kind::Deployment { replicas: 1 });
}
