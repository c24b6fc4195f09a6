//! What members of a cluster are told of each other.

use proptest::prelude::*;
use skerry_model::ServiceName;
use skerry_model::app::Program;
use skerry_proto::types::v1::dependency::Condition;

use super::*;
use crate::world::peers::{self as peers_of, AppPeers, ServicePeers};

/// How an app looks.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Of `db`.
    copies: u32,
    /// Whether `db` publishes a port.
    published: bool,
    /// What `web` waits for.
    waits: Condition,
    /// Tells revisions of the same shape apart.
    number: u32,
}

const SHAPE: Shape = Shape { copies: 1, published: true, waits: Condition::Healthy, number: 0 };

/// `db`, and `web` that waits for it.
fn spec(shape: Shape) -> WireSpec {
    let service = |name: &str, replicas: u32, ports: Vec<u32>| {
        let port = |port| types::Port { container_port: port, host_port: Some(port), ..Default::default() };
        let container = types::Container {
            image: format!("{name}:{}", shape.number),
            ports: ports.into_iter().map(port).collect(),
            ..Default::default()
        };
        let deployment = types::Deployment { replicas: Some(replicas), ..Default::default() };
        types::ServiceSpec {
            name: name.to_owned(),
            kind: Some(types::service_spec::Kind::Deployment(deployment)),
            program: Some(types::service_spec::Program::Container(container)),
            ..Default::default()
        }
    };
    // So that it may complete.
    let policy = types::restart_policy::Policy::OnFailure.into();
    let restart = Some(types::RestartPolicy { policy, ..Default::default() });
    let ports = if shape.published { vec![5432] } else { Vec::new() };
    let db = types::ServiceSpec { restart, ..service("db", shape.copies, ports) };
    let waits = types::Dependency { service: "db".to_owned(), condition: shape.waits.into() };
    let web = types::ServiceSpec { depends_on: vec![waits], ..service("web", 2, vec![80]) };
    WireSpec { services: vec![db, web], ..WireSpec::default() }
}

impl Told {
    fn shape(&mut self, shape: Shape) {
        let spec = prost::Message::encode_to_vec(&spec(shape));
        AppSpec::decode(&spec).unwrap();
        let hash = ContentHash::of(&spec);
        let revision = stored::RevisionRecord { spec: spec.into(), number: 1, ..Default::default() };
        self.put(&RevisionRef { app: app(), hash }, &revision);
        self.put(&app(), &stored::AppRecord { revision: hash.to_string(), ..Default::default() });
    }

    /// A node that is in this cluster, or in none.
    pub(super) fn member(&mut self, n: usize, cluster: &str) {
        self.node(n, |record| {
            let labels = &mut record.meta.as_mut().unwrap().labels;
            labels.insert(CLUSTER_LABEL.to_owned(), cluster.to_owned());
        });
    }

    pub(super) fn named_cluster(&mut self, name: &str) {
        let name = ClusterRef::parse(&format!("projects/p/clusters/{name}")).unwrap();
        self.put(&name, &stored::ClusterRecord::default());
    }

    pub(super) fn remove<R: Record>(&mut self, name: &R::Name) {
        let key = Key::<R>::of(name);
        self.world.take(key.as_str(), None, &mut Touched::default());
        self.entries.remove(key.as_str());
    }

    /// A node has taken all that it is assigned, and says of each copy that it runs, and whether it is ready.
    fn reports(&mut self, n: usize, address: &str, ready: bool) {
        let Some(view) =
            self.world.project(&app().project).and_then(|project| project.nodes.get(&node(n).node))
        else {
            return;
        };
        let assigned = view.assignment.iter().flat_map(|(record, _)| &record.instances);
        let instance = |one: &stored::AssignedInstance| types::InstanceStatus {
            instance: one.instance.clone(),
            revision: one.revision.clone(),
            phase: types::InstancePhase::Running.into(),
            ready,
            ..Default::default()
        };
        let status = stored::StatusRecord {
            instances: assigned.map(instance).collect(),
            machine: Some(types::MachineStatus { address: address.to_owned(), ..Default::default() }),
            acknowledged_revision: self.revision,
            ..Default::default()
        };
        self.put(&node(n), &status);
    }

    /// Writes what is to be written, and nobody says anything.
    pub(super) fn write(&mut self) {
        for one in self.world.unsettled(100) {
            match one.placed {
                Some(placed) => {
                    let (peers, images) = (one.peers, one.images);
                    let record = stored::AssignmentRecord { peers, images, ..writes::record(&placed) };
                    self.put(&one.node, &record);
                }
                None => self.remove::<stored::AssignmentRecord>(&one.node),
            }
        }
    }

    fn told_of(&self, n: usize) -> Vec<stored::AssignedPeers> {
        let view = self.project().nodes.get(&node(n).node);
        let record = view.and_then(|view| view.assignment.as_ref());
        record.map(|(record, _)| record.peers.clone()).unwrap_or_default()
    }

    /// What a node is told of a service: members with their addresses, and what is met.
    fn told(&self, n: usize, service: &str) -> Option<(Vec<String>, Vec<Condition>)> {
        let told = self.told_of(n);
        let found = told.iter().flat_map(|told| &told.services).find(|one| one.service == service)?;
        let members = found.members.iter().map(|one| format!("{}={}", one.node, one.address)).collect();
        Some((members, found.met().collect()))
    }

    /// Where the copies of a service are.
    fn holders(&self, service: &str) -> Vec<usize> {
        let on = |n: &usize| {
            let plan = self.project().plan_of(&node(*n).node).unwrap_or_default();
            plan.iter().any(|placed| placed.instance.service.as_str() == service)
        };
        (1..=4).filter(on).collect()
    }
}

/// Two members of a cluster: `db` is on one, and `web` on both.
fn two() -> (Told, usize, usize) {
    let mut told = Told::new();
    told.named_cluster("c");
    told.shape(SHAPE);
    told.member(1, "c");
    told.member(2, "c");
    told.write();
    let holder = told.holders("db")[0];
    (told, holder, 3 - holder)
}

#[test]
fn a_member_is_told_who_has_what_it_lacks_and_when_that_is_ready() {
    let (mut told, holder, other) = two();
    assert_eq!(told.told(holder, "web"), None, "it has one itself");
    assert_eq!(told.told(other, "db"), Some((vec![format!("n{holder}=")], vec![])));
    told.reports(holder, "192.0.2.1", false);
    told.write();
    let at = |address: &str| vec![format!("n{holder}={address}")];
    assert_eq!(told.told(other, "db"), Some((at("192.0.2.1"), vec![])));
    told.reports(holder, "192.0.2.1", true);
    told.write();
    assert_eq!(told.told(other, "db"), Some((at("192.0.2.1"), vec![Condition::Healthy])));
    // It is ill for a while, and its machine has another address.
    told.reports(holder, "192.0.2.7", false);
    told.write();
    assert_eq!(told.told(other, "db"), Some((at("192.0.2.7"), vec![Condition::Healthy])));
    // Of a new revision nothing is known.
    told.shape(Shape { number: 1, ..SHAPE });
    told.write();
    assert_eq!(told.told(other, "db"), Some((at("192.0.2.7"), vec![])));
    // What nobody can reach has no address, and is waited for all the same.
    told.shape(Shape { number: 2, published: false, ..SHAPE });
    told.write();
    assert_eq!(told.told(other, "db"), Some((at(""), vec![])));
}

#[test]
fn nodes_that_are_clusters_of_their_own_are_told_nothing() {
    let (mut told, holder, other) = two();
    told.reports(holder, "192.0.2.1", true);
    told.write();
    assert!(!told.told_of(other).is_empty());
    told.remove::<stored::ClusterRecord>(&ClusterRef::parse("projects/p/clusters/c").unwrap());
    told.write();
    assert!(told.told_of(holder).is_empty() && told.told_of(other).is_empty());
    assert!(told.world.unsettled(9).is_empty());
}

#[test]
fn of_a_crowd_a_node_is_told_a_part() {
    let member = |n: u8| (node(n.into()).node, Some(std::net::Ipv4Addr::new(192, 0, 2, n).into()));
    let db = ServicePeers::of(true, (1..=40).map(member).collect());
    let revision = ContentHash::of(b"spec");
    let crowd = AppPeers::of(revision, [(ServiceName::parse("db").unwrap(), db)].into());
    let assigned = stored::AssignedInstance {
        instance: "a/web/c/0".to_owned(),
        revision: revision.to_string(),
        ..Default::default()
    };
    let placed = writes::placed(&assigned).unwrap();
    let told = crowd.told(&app().app, &[placed], None, 16).unwrap();
    let members: Vec<&str> = told.services[0].members.iter().map(|one| one.node.as_str()).collect();
    assert_eq!((members.len(), members[0], members[15]), (16, "n1", "n23"), "{members:?}");
}

#[derive(Debug, Clone)]
enum Op {
    Member { n: usize, cluster: usize },
    Gone { n: usize },
    Cluster { there: bool },
    App { shape: Shape },
    Report { n: usize, address: u8, ready: bool },
    Write,
}

fn op() -> impl Strategy<Value = Op> {
    let condition =
        prop_oneof![Just(Condition::Started), Just(Condition::Healthy), Just(Condition::Completed)];
    let shape = (1..4u32, any::<bool>(), condition, 0..2u32);
    let shape =
        shape.prop_map(|(copies, published, waits, number)| Shape { copies, published, waits, number });
    prop_oneof![
        3 => (1..=4usize, 0..3usize).prop_map(|(n, cluster)| Op::Member { n, cluster }),
        1 => (1..=4usize).prop_map(|n| Op::Gone { n }),
        1 => any::<bool>().prop_map(|there| Op::Cluster { there }),
        2 => shape.prop_map(|shape| Op::App { shape }),
        4 => (1..=4usize, 1..4u8, any::<bool>()).prop_map(|(n, address, ready)| Op::Report { n, address, ready }),
        4 => Just(Op::Write),
    ]
}

fn carry_out(told: &mut Told, op: &Op) {
    match op {
        Op::Member { n, cluster } => told.member(*n, ["c", "d", "none"][*cluster]),
        Op::Gone { n } => told.remove::<stored::NodeRecord>(&node(*n)),
        Op::Cluster { there: true } => told.named_cluster("d"),
        Op::Cluster { there: false } => {
            told.remove::<stored::ClusterRecord>(&ClusterRef::parse("projects/p/clusters/d").unwrap());
        }
        Op::App { shape } => told.shape(*shape),
        Op::Report { n, address, ready } => told.reports(*n, &format!("192.0.2.{address}"), *ready),
        Op::Write => told.write(),
    }
}

/// What a node is told names exactly the members of its cluster that have what it lacks and can use.
fn check_exact(told: &Told) {
    let project = told.project();
    for name in project.state.nodes.keys() {
        let cluster = project.state.cluster_of(name);
        let here = project.plan_of(name).unwrap_or_default();
        let has = |service: &str| here.iter().any(|placed| placed.instance.service.as_str() == service);
        let said: BTreeMap<String, BTreeSet<String>> = project
            .peers_of(name)
            .iter()
            .flat_map(|peers| &peers.services)
            .map(|one| (one.service.clone(), one.members.iter().map(|m| m.node.clone()).collect()))
            .collect();
        let mut expected = BTreeMap::new();
        let is_alone =
            !project.state.clusters.contains_key(&cluster) || project.solution[&cluster].nodes.len() < 2;
        if let Some(app) = project.state.apps.get(&app().app).filter(|_| !here.is_empty() && !is_alone) {
            for service in &app.base.spec.services {
                let service_name = service.name.as_str();
                let Program::Container(container) = &service.program else { panic!("a container") };
                let is_used = !container.ports.is_empty() || (service_name == "db" && has("web"));
                let holders: BTreeSet<String> = project.solution[&cluster]
                    .nodes
                    .iter()
                    .filter(|(_, placed)| placed.iter().any(|one| one.instance.service == service.name))
                    .map(|(node, _)| node.to_string())
                    .collect();
                if is_used && !has(service_name) {
                    expected.insert(service_name.to_owned(), holders);
                }
            }
        }
        assert_eq!(said, expected, "{name} in {cluster}");
    }
}

/// A world that hears all at once what the store has.
pub(super) fn anew(told: &Told) -> World {
    let mut anew = World::new(told.world.keys.clone());
    for (key, entry) in &told.entries {
        anew.take(key, Some(entry), &mut Touched::default());
    }
    anew
}

/// What is known after one change after the other is what is known of all at once; but that who saw a copy acknowledged before a change of others knows
/// that of it still.
fn check_incremental(told: &Told) {
    let anew = anew(told);
    let (project, anew) = (told.project(), anew.project(&app().project).unwrap());
    let all = |peers: &peers_of::ClusterPeers| {
        let apps =
            peers.iter().flat_map(|(cluster, apps)| apps.iter().map(move |(app, one)| (cluster, app, one)));
        apps.map(|(cluster, app, one)| ((cluster.clone(), app.clone()), one.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let (known, anew) = (all(&project.peers), all(&anew.peers));
    assert_eq!(known.keys().collect::<Vec<_>>(), anew.keys().collect::<Vec<_>>());
    for (at, one) in &known {
        assert!(one.knows_no_less(&anew[at]), "{one:?} {:?}", anew[at]);
    }
}

proptest! {
    #[test]
    fn members_are_told_exactly_who_has_what_they_lack_and_what_was_met_stays_met(
        ops in proptest::collection::vec(op(), 1..40)
    ) {
        let mut told = Told::new();
        told.named_cluster("c");
        told.named_cluster("d");
        told.shape(SHAPE);
        for n in 1..=4 {
            told.member(n, "c");
        }
        for op in &ops {
            let before: Vec<_> = (1..=4).map(|n| told.told_of(n)).collect();
            carry_out(&mut told, op);
            check_exact(&told);
            check_incremental(&told);
            for (n, before) in (1..=4).zip(before) {
                for (old, new) in before.iter().zip(told.told_of(n)).filter(|(old, new)| old.revision == new.revision) {
                    for service in &new.services {
                        let was = old.services.iter().find(|one| one.service == service.service);
                        let waits = was.map(|was| was.met.clone()).unwrap_or_default();
                        prop_assert!(waits.iter().all(|one| service.met.contains(one)), "{old:?} {new:?}");
                    }
                }
            }
        }
        // What is written may be what a node had acknowledged before and reported of: then what waits for it there is told so, once more.
        told.write();
        told.write();
        prop_assert!(told.world.unsettled(9).is_empty(), "written twice is settled");
        for n in 1..=4 {
            told.reports(n, "192.0.2.9", true);
        }
        // All have acknowledged all: nothing is left that only who was there knows.
        let anew = anew(&told);
        let (project, anew) = (told.project(), anew.project(&app().project).unwrap());
        prop_assert_eq!(&project.peers, &anew.peers);
        prop_assert_eq!(&project.unsettled, &anew.unsettled);
    }
}
