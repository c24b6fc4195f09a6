//! Laws of changes of several resources, over a store in this process: all or none, whatever comes between; and what comes of all is what would
//! come of each.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use skerry_api::{Call, Changed};
use skerry_etcd_embedded::{Config as EtcdConfig, EmbeddedEtcd};
use skerry_model::{NodeRef, ProjectName};
use skerry_proto::registry::v1::{Cluster, ClusterSpec, Node, Project, ProjectQuota, ProjectSpec};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::update_app_response::Outcome::{Created, Unchanged, Updated};
use skerry_proto::scheduler::v1::{App, Config, ConfigSpec};
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::service_spec::Program;
use skerry_proto::types::v1::{AppSpec, Metadata, Process, ServiceSpec};
use skerry_store::keys::InProject;
use skerry_store::{Key, PageRequest, Prefix, Record, StoreConfig, Target, Txn};
use tempfile::TempDir;

use super::*;

const NOBODY: Peer = Peer { address: None, certificate: None };

struct World {
    rules: AllRules,
    etcd: EmbeddedEtcd,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etcd = EmbeddedEtcd::open(EtcdConfig::new(dir.path())).await.unwrap();
        let channel = etcd.serve_in_process().await.unwrap();
        let store = Store::connect(StoreConfig::new(Target::Channel(channel))).await.unwrap();
        skerry_api::ensure_project(&store, &project("p")).await.unwrap();
        for node in 0..3 {
            let key =
                Key::<stored::NodeRecord>::of(&NodeRef::parse(&format!("projects/p/nodes/n{node}")).unwrap());
            store.commit(Txn::new().put(&key, &stored::NodeRecord::default())).await.unwrap();
        }
        Self { rules: AllRules::new(store, SecretKeys::none()), etcd, _dir: dir }
    }

    async fn close(self) {
        self.rules.store().close().await;
        self.etcd.close().await;
    }

    async fn send(&self, request: &ApplyRequest) -> Result<Vec<Changed<AnyResource>>, Fault> {
        let several = self.rules.several(&NOBODY, request)?;
        let call = Call { method: "Apply", id: &request.request_id, request, peer: &NOBODY };
        several.change(self.rules.store(), &[], call, request.validate_only).await
    }

    async fn apply(&self, kinds: &[Kind]) -> Result<Vec<Outcome>, Fault> {
        let changed = self.send(&request("", kinds)).await?;
        Ok(changed.into_iter().map(|changed| changed.outcome).collect())
    }

    /// Every record of the family, by key: where it was changed last, and its bytes.
    async fn all<R: Record>(&self, into: &mut BTreeMap<String, (i64, Vec<u8>)>) {
        let page = self.rules.store().list(&Prefix::<R>::all(), &PageRequest::first(1000)).await.unwrap();
        for item in page.items {
            into.insert(item.key.as_str().to_owned(), (item.mod_revision, item.bytes.to_vec()));
        }
    }

    /// All that an apply may touch.
    async fn dump(&self) -> BTreeMap<String, (i64, Vec<u8>)> {
        let mut all = BTreeMap::new();
        self.all::<stored::ProjectRecord>(&mut all).await;
        self.all::<stored::UsageRecord>(&mut all).await;
        self.all::<stored::NodeRecord>(&mut all).await;
        self.all::<stored::ClusterRecord>(&mut all).await;
        self.all::<stored::AppRecord>(&mut all).await;
        self.all::<stored::RevisionRecord>(&mut all).await;
        self.all::<stored::ConfigRecord>(&mut all).await;
        self.all::<stored::ConfigRevisionRecord>(&mut all).await;
        self.all::<stored::EventsRecord>(&mut all).await;
        self.all::<stored::AuditRecord>(&mut all).await;
        self.all::<stored::RequestRecord>(&mut all).await;
        all
    }

    /// What users see of everything: specs and labels by name, and how often each was changed.
    async fn seen(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        let mut all = BTreeMap::new();
        self.all::<stored::AppRecord>(&mut all).await;
        self.all::<stored::ConfigRecord>(&mut all).await;
        self.all::<stored::NodeRecord>(&mut all).await;
        self.all::<stored::ClusterRecord>(&mut all).await;
        self.all::<stored::ProjectRecord>(&mut all).await;
        self.all::<stored::UsageRecord>(&mut all).await;
        for (key, (_, bytes)) in all {
            let of = |meta: Option<stored::Meta>| meta.map(|meta| (meta.generation, meta.labels));
            let bytes = &bytes[..];
            let text = match key.split('/').nth(3).unwrap() {
                "apps" => {
                    let record = <stored::AppRecord as prost::Message>::decode(bytes).unwrap();
                    format!("{} {} {:?}", record.revision, record.size_bytes, of(record.meta))
                }
                "configs" => {
                    let record = <stored::ConfigRecord as prost::Message>::decode(bytes).unwrap();
                    format!("{} {} {:?}", record.hash, record.size_bytes, of(record.meta))
                }
                "nodes" => {
                    let record = <stored::NodeRecord as prost::Message>::decode(bytes).unwrap();
                    format!("{:?}", of(record.meta))
                }
                "clusters" => {
                    let record = <stored::ClusterRecord as prost::Message>::decode(bytes).unwrap();
                    format!("{:?} {:?}", record.failover_after, of(record.meta))
                }
                "projects" => {
                    let record = <stored::ProjectRecord as prost::Message>::decode(bytes).unwrap();
                    format!("{} {:?} {:?}", record.description, record.quota, of(record.meta))
                }
                _ => format!("{:?}", <stored::UsageRecord as prost::Message>::decode(bytes).unwrap()),
            };
            seen.insert(key, text);
        }
        seen
    }

    async fn count<R: InProject>(&self) -> u64 {
        self.rules.store().count(&Prefix::<R>::project(&project("p"))).await.unwrap()
    }

    /// Whether each count of a quota is what is there.
    async fn counts_hold(&self, of: &str) {
        let healed = skerry_api::heal(self.rules.store(), &project(of)).await.unwrap();
        assert_eq!(healed, [], "a count was not what is there");
    }
}

fn project(name: &str) -> ProjectName {
    ProjectName::parse(name).unwrap()
}

fn request(id: &str, kinds: &[Kind]) -> ApplyRequest {
    let change = |kind: &Kind| ResourceChange {
        allow_missing: !matches!(kind, Kind::Node(_)),
        resource: Some(AnyResource { kind: Some(kind.clone()) }),
        update_mask: matches!(kind, Kind::Node(_))
            .then(|| prost_types::FieldMask { paths: vec!["metadata.labels".to_owned()] }),
    };
    ApplyRequest {
        resources: kinds.iter().map(change).collect(),
        request_id: id.to_owned(),
        validate_only: false,
    }
}

fn named(name: String) -> Metadata {
    Metadata { name, ..Metadata::default() }
}

fn config(project: &str, name: &str, text: &str) -> Kind {
    let data = [("text".to_owned(), text.to_owned())].into();
    Kind::Config(Config {
        metadata: Some(named(format!("projects/{project}/configs/{name}"))),
        spec: Some(ConfigSpec { data, ..ConfigSpec::default() }),
    })
}

fn app(project: &str, name: &str, argument: &str) -> Kind {
    let process =
        Process { program: "/bin/true".to_owned(), args: vec![argument.to_owned()], ..Process::default() };
    let service = ServiceSpec {
        name: "s".to_owned(),
        program: Some(Program::Process(process)),
        ..ServiceSpec::default()
    };
    Kind::App(App {
        metadata: Some(named(format!("projects/{project}/apps/{name}"))),
        spec: Some(AppSpec { services: vec![service], ..AppSpec::default() }),
        status: None,
    })
}

fn cluster(name: &str, seconds: i64) -> Kind {
    let failover_after = Some(prost_types::Duration { seconds, nanos: 0 });
    Kind::Cluster(Cluster {
        metadata: Some(named(format!("projects/p/clusters/{name}"))),
        spec: Some(ClusterSpec { failover_after }),
        status: None,
    })
}

fn node(name: &str, cluster: &str) -> Kind {
    let labels = [("skerry.dev/cluster".to_owned(), cluster.to_owned())].into();
    let metadata = Metadata { labels, ..named(format!("projects/p/nodes/{name}")) };
    Kind::Node(Node { metadata: Some(metadata), ..Node::default() })
}

fn project_of(name: &str, quota: ProjectQuota) -> Kind {
    let spec = Some(ProjectSpec { quota: Some(quota), ..ProjectSpec::default() });
    Kind::Project(Project { metadata: Some(named(format!("projects/{name}"))), spec, status: None })
}

fn apps_and_configs(apps: i64, configs: i64) -> ProjectQuota {
    ProjectQuota { apps: Some(apps), configs: Some(configs), ..ProjectQuota::default() }
}

/// Some resource, in the project that is there or in one that may be made, right or wrong.
fn some() -> impl Strategy<Value = Kind> {
    let place = prop_oneof![4 => Just("p"), 1 => Just("q")];
    prop_oneof![
        4 => (place.clone(), 0..4_u8, 0..3_u8).prop_map(|(p, n, t)| config(p, &format!("c{n}"), &t.to_string())),
        4 => (place, 0..4_u8, 0..3_u8).prop_map(|(p, n, t)| app(p, &format!("a{n}"), &t.to_string())),
        2 => (0..2_u8, 20..22_i64).prop_map(|(n, s)| cluster(&format!("k{n}"), s)),
        2 => (0..4_u8, 0..3_u8).prop_map(|(n, k)| node(&format!("n{n}"), &format!("k{k}"))),
        1 => (0..4_i64, 0..4_i64).prop_map(|(a, c)| project_of("q", apps_and_configs(a, c))),
        1 => (3..6_i64, 3..6_i64).prop_map(|(a, c)| project_of("p", apps_and_configs(a, c))),
        1 => Just(cluster("k9", 1)),
    ]
}

/// Each once, as a request has them.
fn each_once(kinds: Vec<Kind>) -> Vec<Kind> {
    let mut seen = std::collections::BTreeSet::new();
    kinds.into_iter().filter(|kind| seen.insert(name_of(kind))).collect()
}

fn name_of(kind: &Kind) -> String {
    let metadata = match kind {
        Kind::App(app) => app.metadata.clone(),
        Kind::Config(config) => config.metadata.clone(),
        Kind::Node(node) => node.metadata.clone(),
        Kind::Cluster(cluster) => cluster.metadata.clone(),
        Kind::Project(project) => project.metadata.clone(),
        _ => None,
    };
    metadata.unwrap().name
}

/// As a person would apply them one after the other.
fn in_order(kinds: &[Kind]) -> Vec<Kind> {
    let mut kinds = kinds.to_vec();
    kinds.sort_by_key(|kind| match kind {
        Kind::Project(_) => 0,
        Kind::Cluster(_) => 1,
        _ => 2,
    });
    kinds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn together_all_come_to_what_each_would_or_none_of_them(
        sets in proptest::collection::vec(proptest::collection::vec(some(), 1..7), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (together, apart) = (World::new().await, World::new().await);
            for set in sets {
                let set = each_once(set);
                let before = together.dump().await;
                let seen = apart.seen().await;
                let came = together.apply(&set).await;
                let mut singly = Ok(());
                for kind in in_order(&set) {
                    singly = singly.and(apart.apply(&[kind]).await.map(drop));
                }
                match (came, singly) {
                    (Ok(_), Ok(())) => assert_eq!(together.seen().await, apart.seen().await),
                    (Err(_), _) => {
                        assert_eq!(together.dump().await, before, "nothing is changed by what is refused");
                        break;
                    }
                    // Only a quota sees the sum where it would see the steps: none is below it at the end.
                    (Ok(_), Err(fault)) => {
                        assert_eq!(fault.reason, "QUOTA_USED_UP", "{fault:?}, and not of all, from {seen:?}");
                        break;
                    }
                }
                together.counts_hold("p").await;
                together.counts_hold("q").await;
            }
            together.close().await;
            apart.close().await;
        });
    }

    #[test]
    fn who_hangs_up_at_any_moment_leaves_all_or_none(micros in 0..20_000_u64, size in 2..12_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let set: Vec<Kind> = (0..size)
                .flat_map(|n| [config("p", &format!("c{n}"), "x"), app("p", &format!("a{n}"), "x")])
                .collect();
            let _ = tokio::time::timeout(Duration::from_micros(micros), world.apply(&set)).await;
            // What was sent may still come to pass.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let there = (world.count::<stored::AppRecord>().await, world.count::<stored::ConfigRecord>().await);
            let size = u64::try_from(size).unwrap();
            assert!(there == (0, 0) || there == (size, size), "{there:?} of {size}");
            world.close().await;
        });
    }
}

#[tokio::test]
async fn a_project_and_what_is_in_it_and_a_cluster_and_its_nodes_come_in_any_order() {
    let world = World::new().await;
    let set = [
        app("new", "web", "x"),
        node("n1", "plant"),
        config("new", "motd", "hello"),
        cluster("plant", 60),
        project_of("new", apps_and_configs(1, 1)),
        node("n0", "plant"),
    ];
    let came = world.apply(&set).await.unwrap();
    assert_eq!(came, [Created, Updated, Created, Created, Created, Updated]);
    world.counts_hold("new").await;
    let revisions: std::collections::BTreeSet<i64> =
        world.dump().await.into_values().map(|(revision, _)| revision).collect();
    assert!(revisions.len() <= 5, "what there was before, and one for all that came: {revisions:?}");

    let again = world.dump().await;
    assert_eq!(world.apply(&set).await.unwrap(), [Unchanged; 6]);
    assert_eq!(world.dump().await, again, "what is there already is not written, and told nobody");

    let fault = world.apply(&[app("new", "other", "x"), config("p", "c", "x")]).await.unwrap_err();
    assert_eq!(fault.reason, "QUOTA_USED_UP", "{fault:?}");
    let more = [project_of("new", apps_and_configs(2, 1)), app("new", "other", "x")];
    assert_eq!(world.apply(&more).await.unwrap(), [Updated, Created], "room is made by the same apply");
    world.counts_hold("new").await;
    world.close().await;
}

#[tokio::test]
async fn the_sum_counts_against_a_quota_exactly() {
    let world = World::new().await;
    world.apply(&[project_of("p", apps_and_configs(3, 100))]).await.unwrap();
    world.apply(&[app("p", "a0", "x")]).await.unwrap();
    let before = world.dump().await;
    let three: Vec<Kind> = (1..4).map(|n| app("p", &format!("a{n}"), "x")).collect();
    let fault = world.apply(&three).await.unwrap_err();
    assert_eq!(fault.reason, "QUOTA_USED_UP");
    assert!(fault.message.contains("has 1 of 3 apps, and these are 3 more"), "{fault:?}");
    assert_eq!(world.dump().await, before);
    world.apply(&three[..2]).await.unwrap();
    world.counts_hold("p").await;
    assert_eq!(world.count::<stored::AppRecord>().await, 3);
    world.close().await;
}

#[tokio::test]
async fn one_that_is_refused_is_named_and_refuses_all() {
    let world = World::new().await;
    let before = world.dump().await;
    let Kind::App(mut wrong) = app("p", "wrong", "x") else { unreachable!("an app") };
    wrong.spec.as_mut().unwrap().services[0].name = "No Name".to_owned();
    let set = [config("p", "a", "x"), config("p", "b", "x"), Kind::App(wrong)];
    let fault = world.apply(&set).await.unwrap_err();
    assert_eq!(fault.metadata["index"], "2");
    assert_eq!(
        (fault.metadata["kind"].as_str(), fault.metadata["name"].as_str()),
        ("App", "projects/p/apps/wrong")
    );
    assert!(fault.violations[0].field.starts_with("resources[2]."), "{fault:?}");
    assert!(fault.message.contains("projects/p/apps/wrong"), "{fault:?}");

    let fault = world.apply(&[config("p", "a", "x"), node("none", "k")]).await.unwrap_err();
    assert_eq!((fault.reason, fault.metadata["index"].as_str()), ("NOT_FOUND", "1"));
    let fault = world.apply(&[config("p", "a", "x"), node("n1", "none")]).await.unwrap_err();
    assert_eq!((fault.reason, fault.metadata["kind"].as_str()), ("NO_CLUSTER", "Node"));
    let twice = world.apply(&[config("p", "a", "x"), config("p", "a", "y")]).await.unwrap_err();
    assert_eq!(twice.violations[0].field, "resources[1].config.metadata.name");
    let nothing = world.send(&ApplyRequest::default()).await.unwrap_err();
    assert_eq!(nothing.violations[0].field, "resources");
    let mut made = request("", &[node("n9", "k")]);
    made.resources[0].allow_missing = true;
    assert_eq!(world.send(&made).await.unwrap_err().violations[0].field, "resources[0].allow_missing");
    let mut stale = request("", &[config("p", "a", "x"), node("n0", "k")]);
    if let Some(Kind::Node(node)) = stale.resources[1].resource.as_mut().and_then(|one| one.kind.as_mut()) {
        node.metadata.as_mut().unwrap().etag = "0".to_owned();
    }
    let stale = world.send(&stale).await.unwrap_err();
    assert_eq!((stale.code, stale.metadata["index"].as_str()), (skerry_model::Code::Aborted, "1"));
    assert_eq!(world.dump().await, before);
    world.close().await;
}

#[tokio::test]
async fn a_repeated_request_answers_the_same_and_changes_nothing() {
    let world = World::new().await;
    world.apply(&[config("p", "b", "old"), config("p", "c", "x")]).await.unwrap();
    let asked = request("id-1", &[config("p", "a", "x"), config("p", "b", "new"), config("p", "c", "x")]);
    let (one, two) = tokio::join!(world.send(&asked), world.send(&asked));
    let first = one.unwrap();
    let outcomes: Vec<Outcome> = first.iter().map(|changed| changed.outcome).collect();
    assert_eq!(outcomes, [Created, Updated, Unchanged]);
    assert_eq!(two.unwrap(), first);
    let before = world.dump().await;
    assert_eq!(world.send(&asked).await.unwrap(), first);
    assert_eq!(world.dump().await, before);
    let other = request("id-1", &[config("p", "a", "other")]);
    assert_eq!(world.send(&other).await.unwrap_err().violations[0].field, "request_id");
    world.close().await;
}

#[tokio::test]
async fn a_dry_run_answers_as_the_change_would_and_writes_nothing() {
    let world = World::new().await;
    let mut asked = request("", &[app("new", "web", "x"), project_of("new", ProjectQuota::default())]);
    asked.validate_only = true;
    let before = world.dump().await;
    let shown = world.send(&asked).await.unwrap();
    assert_eq!(shown[0].outcome, Outcome::Created);
    let Some(Kind::App(app)) = shown[0].resource.clone().and_then(|one| one.kind) else { panic!("an app") };
    assert_eq!(app.metadata.unwrap().name, "projects/new/apps/web");
    assert_eq!(world.dump().await, before);

    let mut large = request("", &(0..200).map(|n| config("p", &format!("c{n}"), "x")).collect::<Vec<_>>());
    large.validate_only = true;
    assert_eq!(world.send(&large).await.unwrap_err().reason, "TOO_MANY_AT_ONCE");
    world.close().await;
}

#[tokio::test]
async fn sixty_apps_are_one_revision_and_what_does_not_fit_is_refused_whole() {
    let world = World::new().await;
    world.apply(&[project_of("p", apps_and_configs(1000, 1000))]).await.unwrap();
    let apps: Vec<Kind> = (0..60).map(|n| app("p", &format!("a{n}"), "x")).collect();
    world.apply(&apps).await.unwrap();
    let mut there = BTreeMap::new();
    world.all::<stored::AppRecord>(&mut there).await;
    let revisions: std::collections::BTreeSet<i64> = there.values().map(|(revision, _)| *revision).collect();
    assert_eq!((there.len(), revisions.len()), (60, 1));
    world.counts_hold("p").await;

    let before = world.dump().await;
    let more: Vec<Kind> = (0..100).map(|n| app("p", &format!("b{n}"), "x")).collect();
    let fault = world.apply(&more).await.unwrap_err();
    assert_eq!(fault.reason, "TOO_MANY_AT_ONCE");
    assert!(fault.message.contains("--one-by-one"), "{fault:?}");
    let heavy: Vec<Kind> = (0..20).map(|n| config("p", &format!("c{n}"), &"x".repeat(100 * 1024))).collect();
    assert_eq!(world.apply(&heavy).await.unwrap_err().reason, "TOO_MANY_AT_ONCE");
    assert_eq!(world.dump().await, before);
    let configs: Vec<Kind> = (0..120).map(|n| config("p", &format!("c{n}"), "x")).collect();
    world.apply(&configs).await.unwrap();
    world.counts_hold("p").await;
    world.close().await;
}

#[tokio::test]
async fn of_two_that_overlap_one_whole_set_is_the_result() {
    let world = World::new().await;
    let set = |text: &str| -> Vec<Kind> { ["c0", "c1", "c2"].map(|name| config("p", name, text)).to_vec() };
    for round in 0..12_u32 {
        // Where one of them finds some as it wants them already, it still takes its stand on those.
        let mixed =
            [config("p", "c0", "one"), config("p", "c1", "two"), config("p", "c2", &round.to_string())];
        world.apply(&mixed).await.unwrap();
        let sets = [set("one"), set("two")];
        let (one, two) = tokio::join!(world.apply(&sets[0]), world.apply(&sets[1]));
        one.unwrap();
        two.unwrap();
        let mut there = BTreeMap::new();
        world.all::<stored::ConfigRecord>(&mut there).await;
        let hashes: std::collections::BTreeSet<String> = there
            .values()
            .map(|(_, bytes)| <stored::ConfigRecord as prost::Message>::decode(&bytes[..]).unwrap().hash)
            .collect();
        assert_eq!(hashes.len(), 1, "round {round}");
    }
    world.close().await;
}
