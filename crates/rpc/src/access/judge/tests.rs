//! Who may what, as sentences. The whole table of methods and callers is a test of the running services.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;
use skerry_identity::KeyId;
use skerry_model::Grant;
use skerry_proto::registry::v1::{Cluster, GetNodeRequest, IssueCertificateRequest, Node, Project, User};
use skerry_proto::scheduler::v1::any_resource::Kind;
use skerry_proto::scheduler::v1::{AnyResource, App, ApplyRequest, Config, ResourceChange, Secret};
use skerry_proto::types::v1::Metadata;
use skerry_testing::Authority;
use tokio::sync::watch;

use super::*;

const GET: &str = "/skerry.registry.v1.NodeService/GetNode";
const DELETE: &str = "/skerry.registry.v1.NodeService/DeleteNode";
const ISSUE: &str = "/skerry.registry.v1.UserService/IssueCertificate";
const KEY: KeyId = KeyId::from_bytes([7; 32]);

/// One user of project `a`, who has one role in one project.
#[derive(Debug)]
struct Knows(&'static str, &'static str, Role);

impl Authorizer for Knows {
    fn knows(&self, user: &UserRef, key: &KeyId) -> bool {
        user.to_string() == self.0 && *key == KEY
    }

    fn role(&self, user: &UserRef, project: &ProjectName) -> Option<Role> {
        let holds = user.to_string() == self.0 && (project.as_str() == self.1 || self.1 == "system");
        holds.then_some(self.2)
    }

    fn roles(&self, _: &UserRef) -> Vec<(ProjectName, Role)> {
        Vec::new()
    }

    fn grants(&self, _: &UserRef) -> Arc<[Grant]> {
        Arc::default()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

fn peer(path: &str, key_id: KeyId) -> PeerCertificate {
    let authority = Authority::new("example.org");
    let (issued, _) = authority.issue(&format!("spiffe://example.org/project/{path}"));
    let says = PeerCertificate::parse(&issued.chain[0], authority.bundle().domain()).expect("ours");
    PeerCertificate { key_id, ..says }
}

fn told(method: &str, who: Option<&PeerCertificate>, request: &[u8], knows: &Knows) -> &'static str {
    let judged = judge(method, who, knows).and_then(|early| match early {
        Early::Pass | Early::Everywhere(_) => Ok(()),
        Early::ByProject(claim) => {
            judge_request(method, &claim, request, knows, SystemTime::now()).map(|_| ())
        }
        Early::ByEach(user, each) => judge_each(&user, &each, request, knows),
    });
    judged.map_or_else(|fault| fault.reason, |()| "may")
}

fn node(name: &str) -> Vec<u8> {
    GetNodeRequest { name: name.to_owned() }.encode_to_vec()
}

#[test]
fn a_role_holds_in_its_project_and_in_system_everywhere() {
    let ada = peer("a/user/ada", KEY);
    let ask = |method, name: &str, knows| told(method, Some(&ada), &node(name), knows);
    let here = Knows("projects/a/users/ada", "a", Role::Viewer);
    assert_eq!(ask(GET, "projects/a/nodes/n", &here), "may");
    assert_eq!(ask(GET, "projects/b/nodes/n", &here), "ROLE_NEEDED");
    assert_eq!(ask(DELETE, "projects/a/nodes/n", &here), "ROLE_NEEDED");
    assert_eq!(ask(GET, "nodes/n", &here), "INVALID_FIELD");
    let everywhere = Knows("projects/a/users/ada", "system", Role::Admin);
    assert_eq!(ask(DELETE, "projects/b/nodes/n", &everywhere), "may");
}

#[test]
fn what_is_the_installation_s_takes_a_role_in_system_and_a_project_is_read_by_its_own() {
    let ada = peer("a/user/ada", KEY);
    let update = "/skerry.registry.v1.ProjectService/UpdateProject";
    let list = "/skerry.registry.v1.ProjectService/ListProjects";
    let get = "/skerry.registry.v1.ProjectService/GetProject";
    let ask = |method, knows| told(method, Some(&ada), &node("projects/a"), knows);
    let here = Knows("projects/a/users/ada", "a", Role::Admin);
    assert_eq!([update, list, get].map(|method| ask(method, &here)), ["ROLE_NEEDED", "ROLE_NEEDED", "may"]);
    assert_eq!(told(get, Some(&ada), &node("projects/b"), &here), "ROLE_NEEDED");
    let reads = Knows("projects/a/users/ada", "system", Role::Viewer);
    assert_eq!([update, list, get].map(|method| ask(method, &reads)), ["ROLE_NEEDED", "may", "may"]);
    let everywhere = Knows("projects/a/users/ada", "system", Role::Admin);
    assert_eq!(ask(update, &everywhere), "may");
}

#[test]
fn a_key_that_does_not_count_is_nobody_s_whatever_the_name() {
    let knows = Knows("projects/a/users/ada", "a", Role::Admin);
    let other_key = peer("a/user/ada", KeyId::from_bytes([8; 32]));
    for method in [GET, "/skerry.registry.v1.AccessService/WhoAmI", "/grpc.health.v1.Health/Check"] {
        assert_eq!(told(method, Some(&other_key), &node("projects/a/nodes/n"), &knows), "USER_UNKNOWN");
        assert_eq!(told(method, None, &[], &knows), "PEER_UNKNOWN");
    }
    let namesake = peer("b/user/ada", KEY);
    assert_eq!(told(GET, Some(&namesake), &node("projects/a/nodes/n"), &knows), "USER_UNKNOWN");
}

#[test]
fn a_user_without_a_role_may_renew_its_own_certificate_and_no_other() {
    let ada = peer("a/user/ada", KEY);
    let knows = Knows("projects/a/users/ada", "b", Role::Viewer);
    let ask = |name: &str| {
        let request = IssueCertificateRequest { name: name.to_owned(), ..Default::default() };
        told(ISSUE, Some(&ada), &request.encode_to_vec(), &knows)
    };
    assert_eq!(ask("projects/a/users/ada"), "may");
    assert_eq!(ask("projects/a/users/bob"), "ROLE_NEEDED");
    assert_eq!(ask("projects/b/users/ada"), "ROLE_NEEDED");
    assert_eq!(ask("projects/a/users/adaa"), "ROLE_NEEDED");
}

#[test]
fn services_are_those_of_the_system_project() {
    let knows = Knows("projects/a/users/ada", "a", Role::Admin);
    let issue = "/skerry.registry.v1.IssuerService/GetRoots";
    assert_eq!(told(issue, Some(&peer("system/service/gateway", KEY)), &[], &knows), "may");
    assert_eq!(told(issue, Some(&peer("a/service/gateway", KEY)), &[], &knows), "NOT_FOR_SERVICES");
    assert_eq!(told(issue, Some(&peer("system/service/scheduler", KEY)), &[], &knows), "NOT_FOR_SERVICES");
    assert_eq!(told(issue, Some(&peer("a/node/gateway", KEY)), &[], &knows), "NOT_FOR_NODES");
    assert_eq!(told(issue, Some(&peer("a/user/ada", KEY)), &[], &knows), "NOT_FOR_USERS");
}

#[test]
fn a_method_that_is_not_in_the_table_is_refused() {
    let knows = Knows("projects/a/users/ada", "system", Role::Admin);
    let made_up = "/skerry.registry.v1.NodeService/MadeUp";
    assert_eq!(told(made_up, Some(&peer("a/user/ada", KEY)), &[], &knows), "METHOD_UNKNOWN");
    assert_eq!(told(made_up, None, &[], &knows), "PEER_UNKNOWN");
}

#[test]
fn tasks_of_system_take_an_admin_and_those_of_other_projects_an_operator() {
    let ada = peer("a/user/ada", KEY);
    let create = "/skerry.registry.v1.TaskService/CreateTask";
    let cancel = "/skerry.registry.v1.TaskService/CancelTask";
    let ask = |method, name: &str, knows: &Knows| told(method, Some(&ada), &node(name), knows);
    let operator = Knows("projects/a/users/ada", "system", Role::Operator);
    for (method, there, of_system) in
        [(create, "projects/b", "projects/system"), (cancel, "projects/b/tasks/t", "projects/system/tasks/t")]
    {
        assert_eq!(ask(method, there, &operator), "may");
        assert_eq!(ask(method, of_system, &operator), "ROLE_NEEDED");
        let admin = Knows("projects/a/users/ada", "system", Role::Admin);
        assert_eq!(ask(method, of_system, &admin), "may");
        let viewer = Knows("projects/a/users/ada", "b", Role::Viewer);
        assert_eq!(ask(method, there, &viewer), "ROLE_NEEDED");
    }
    let said = would_say(create, Some(&ada), "projects/system", &operator, SystemTime::now()).unwrap_err();
    assert!(said.message.contains("takes the role admin"), "{said}");
}

const APPLY: &str = "/skerry.scheduler.v1.ApplyService/Apply";

/// One of each kind that has another rule, in a project.
fn resource(kind: u8, name: &str) -> Kind {
    let metadata = Some(Metadata { name: name.to_owned(), ..Metadata::default() });
    match kind % 7 {
        0 => Kind::App(App { metadata, ..App::default() }),
        1 => Kind::Config(Config { metadata, ..Config::default() }),
        2 => Kind::Secret(Secret { metadata, ..Secret::default() }),
        3 => Kind::Node(Node { metadata, ..Node::default() }),
        4 => Kind::Cluster(Cluster { metadata, ..Cluster::default() }),
        5 => Kind::Project(Project { metadata, ..Project::default() }),
        _ => Kind::User(User { metadata, ..User::default() }),
    }
}

/// The role that a resource takes, and where.
fn takes(kind: &Kind) -> (Role, Option<String>) {
    let of = |metadata: &Option<Metadata>| metadata.as_ref().map(|metadata| metadata.name.clone());
    match kind {
        Kind::App(app) => (Role::Operator, of(&app.metadata)),
        Kind::Config(config) => (Role::Operator, of(&config.metadata)),
        Kind::Secret(secret) => (Role::Operator, of(&secret.metadata)),
        Kind::Node(node) => (Role::Operator, of(&node.metadata)),
        Kind::Cluster(cluster) => (Role::Operator, of(&cluster.metadata)),
        Kind::Project(_) => (Role::Admin, Some("projects/system".to_owned())),
        Kind::User(user) => (Role::Admin, of(&user.metadata)),
        Kind::Group(_) | Kind::RoleBinding(_) => unreachable!("not made here"),
    }
}

fn change(kinds: Vec<Kind>) -> Vec<u8> {
    // As a hostile caller may write it: the parts of one message apart, which a decoder merges.
    let parts = kinds.into_iter().map(|kind| {
        let resource = Some(AnyResource { kind: Some(kind) });
        ResourceChange { resource, ..ResourceChange::default() }.encode_to_vec()
    });
    parts.collect::<Vec<_>>().concat()
}

fn apply(changes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for change in changes {
        prost::encoding::bytes::encode(1, change, &mut bytes);
    }
    bytes
}

proptest! {
    /// Whatever the decoder makes of the bytes: nothing of it is what the user may not change alone.
    #[test]
    fn of_several_each_is_one_that_the_user_may_change(
        parts in proptest::collection::vec(proptest::collection::vec((0..7_u8, 0..3_usize), 1..3), 1..4),
        role in prop_oneof![Just(Role::Viewer), Just(Role::Operator), Just(Role::Admin)],
    ) {
        let name = |project: usize| ["projects/a/things/n", "projects/b/things/n", ""][project];
        let of = |parts: &Vec<(u8, usize)>| parts.iter().map(|(kind, project)| resource(*kind, name(*project))).collect();
        let bytes = apply(&parts.iter().map(|parts| change(of(parts))).collect::<Vec<_>>());
        let knows = Knows("projects/a/users/ada", "a", role);
        let user = UserRef::parse("projects/a/users/ada").unwrap();
        let Some(Rule::UsersOfEach(each)) = rule(APPLY) else { panic!("it is of each") };
        let decoded = ApplyRequest::decode(&bytes[..]).unwrap();
        let may_all = decoded.resources.iter().all(|change| {
            let kind = change.resource.as_ref().and_then(|resource| resource.kind.as_ref());
            let (needs, name) = takes(kind.expect("one is there"));
            let project = name.and_then(|name| ProjectName::of_resource(&name).ok());
            role >= needs && project.is_some_and(|project| project.as_str() == "a")
        });
        let judged = judge_each(&user, &each, &bytes, &knows);
        prop_assert!(judged.is_err() || may_all, "{parts:?}");
        // And what is written plainly is let through.
        if may_all && parts.iter().all(|parts| parts.len() == 1) {
            prop_assert!(judged.is_ok(), "{judged:?}");
        }
    }
}

#[test]
fn one_resource_that_a_user_may_not_change_refuses_all() {
    let ada = peer("a/user/ada", KEY);
    let here = Knows("projects/a/users/ada", "a", Role::Operator);
    let ask = |kinds: Vec<Kind>| {
        let changes: Vec<_> = kinds.into_iter().map(|kind| change(vec![kind])).collect();
        told(APPLY, Some(&ada), &apply(&changes), &here)
    };
    let (app, config) = (resource(0, "projects/a/apps/x"), resource(1, "projects/a/configs/x"));
    assert_eq!(ask(vec![app.clone(), config.clone()]), "may");
    assert_eq!(ask(vec![config.clone(), resource(0, "projects/b/apps/x")]), "ROLE_NEEDED");
    assert_eq!(ask(vec![config.clone(), resource(5, "projects/a")]), "ROLE_NEEDED");
    assert_eq!(ask(vec![config, resource(6, "projects/a/users/x")]), "ROLE_NEEDED");
    assert_eq!(ask(vec![app, resource(0, "")]), "INVALID_FIELD");
    assert_eq!(ask(Vec::new()), "INVALID_FIELD");
    assert_eq!(told(APPLY, Some(&ada), &apply(&[Vec::new()]), &here), "INVALID_FIELD");
    assert_eq!(would_say(APPLY, Some(&ada), "projects/a", &here, SystemTime::now()), Ok(()));
    assert!(would_say(APPLY, Some(&ada), "projects/b", &here, SystemTime::now()).is_err());
}
