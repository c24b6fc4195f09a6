//! Every kind of change that there is, made as people make it: each leaves exactly the records that its line says.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use skerry_identity::KeyPair;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_integration::apps::{app, script};
use skerry_integration::stack::PATIENCE;
use skerry_model::NodeRef;
use skerry_proto::registry::v1 as registry;
use skerry_proto::registry::v1::issuer_service_client::IssuerServiceClient;
use skerry_proto::registry::v1::role_binding_service_client::RoleBindingServiceClient;
use skerry_proto::scheduler::v1 as scheduler;
use skerry_proto::scheduler::v1::app_service_client::AppServiceClient;
use skerry_proto::scheduler::v1::config_service_client::ConfigServiceClient;
use skerry_proto::scheduler::v1::secret_service_client::SecretServiceClient;
use skerry_proto::store::v1 as stored;
use skerry_proto::types::v1::{AuditEntry, AuditOutcome, Metadata};
use skerry_store::Key;
use skerry_testing::{Process, eventually};

use super::verified;
use crate::projects::World;

const ADMIN: &str = "spiffe://skerry.internal/project/system/user/admin";
const SERVICE: &str = "spiffe://skerry.internal/project/system/service/skerry";
/// How methods begin that only look.
const LOOKS: [&str; 10] =
    ["Get", "List", "Watch", "Read", "Check", "WhoAmI", "Explain", "Plan", "Query", "Stream"];
/// What a gateway passes on, where the registry's record says what became of it; and the streams of what nodes report.
const OF_MACHINES: [&str; 3] = [
    "skerry.gateway.v1.EnrollmentService/Enroll",
    "skerry.gateway.v1.SyncService/Sync",
    "skerry.gpu.v1.IngestService/Ingest",
];

/// Channels: their records are of what went on, and are shown by the tests of the relay. Between services there are none.
const OF_CHANNELS: [&str; 14] = [
    "skerry.gateway.v1.OfferService/OfferChannel",
    "skerry.relay.v1.ChannelService/Open",
    "skerry.relay.v1.PeerService/Forward",
    "skerry.relay.v1.PeerService/CutOwnChannel",
    "skerry.relay.v1.RelayService/Logs",
    "skerry.relay.v1.RelayService/Exec",
    "skerry.relay.v1.RelayService/ExecNode",
    "skerry.relay.v1.RelayService/PortForward",
    "skerry.relay.v1.RelayService/CopyTo",
    "skerry.relay.v1.RelayService/CopyFrom",
    "skerry.relay.v1.RelayService/CutChannel",
    "skerry.relay.v1.RelayService/ActOnInstances",
    "skerry.relay.v1.RelayService/BundleNode",
    "skerry.relay.v1.RelayService/StreamUsage",
];

/// Method without its package, resource (`*` at its end: whatever follows), outcome.
type Line = (&'static str, &'static str, AuditOutcome);

use AuditOutcome::{Created, Deleted, Issued, Revoked, Updated};

/// What machines do by themselves.
const BY_MACHINES: [&str; 2] =
    ["skerry.registry.v1.IssuerService/EnrollNode", "skerry.gateway.v1.SyncService/Sync"];

/// What a person types, and the records that it leaves.
#[rustfmt::skip]
const COMMANDS: &[(&str, &[Line])] = &[
    ("create project shop", &[("ProjectService/CreateProject", "projects/shop", Created)]),
    ("apply -f project.yaml", &[("ProjectService/UpdateProject", "projects/shop", Updated)]),
    ("apply -f project.yaml", &[]),
    // What runs.
    ("apply -p shop -f web.yaml", &[("AppService/UpdateApp", "projects/shop/apps/web", Created)]),
    ("apply -p shop -f web.yaml", &[]),
    ("apply -p shop -f other.yaml --dry-run", &[]),
    ("label -p shop app/web a=b", &[("AppService/UpdateApp", "projects/shop/apps/web", Updated)]),
    ("rollout -p shop restart app/web", &[("AppService/UpdateApp", "projects/shop/apps/web", Updated)]),
    ("apply -p shop -f site.yaml", &[("ConfigService/UpdateConfig", "projects/shop/configs/site", Created)]),
    // Two at once, of two kinds.
    ("apply -p shop -f pair.yaml", &[
        ("ApplyService/Apply", "projects/shop/apps/pair", Created),
        ("ApplyService/Apply", "projects/shop/configs/pair", Created),
    ]),
    ("apply -p shop -f pair.yaml", &[]),
    ("delete -p shop app/pair config/pair", &[
        ("AppService/DeleteApp", "projects/shop/apps/pair", Deleted),
        ("ConfigService/DeleteConfig", "projects/shop/configs/pair", Deleted),
    ]),
    ("annotate -p shop config/site a=b", &[("ConfigService/UpdateConfig", "projects/shop/configs/site", Updated)]),
    ("secret set -p shop db password=@password", &[("SecretService/UpdateSecret", "projects/shop/secrets/db", Created)]),
    ("secret set -p shop db user=@password", &[("SecretService/UpdateSecret", "projects/shop/secrets/db", Updated)]),
    ("secret rotate-key data/keys", &[]),
    ("secret reseal", &[
        ("SecretService/ResealSecrets", "projects/shop/secrets/db", Updated),
        ("SecretService/ResealSecrets", "projects/shop/secrets/db", Updated),
    ]),
    ("secret reseal", &[]),
    // Who may what.
    ("user create -p shop ada --role viewer", &[
        ("UserService/CreateUser", "projects/shop/users/ada", Created),
        ("RoleBindingService/UpdateRoleBinding", "projects/shop/roleBindings/viewers", Created),
        ("UserService/IssueCertificate", "projects/shop/users/ada", Issued),
    ]),
    ("role bind -p shop viewer --user bob", &[("RoleBindingService/UpdateRoleBinding", "projects/shop/roleBindings/viewers", Updated)]),
    ("role bind -p shop viewer --user bob", &[]),
    ("group create -p shop all --user ada", &[("GroupService/CreateGroup", "projects/shop/groups/all", Created)]),
    ("group add-user -p shop all bob", &[("GroupService/UpdateGroup", "projects/shop/groups/all", Updated)]),
    ("grant exec app/web -p shop --to ada --for 1h --reason pump --name hers", &[("GrantService/CreateGrant", "projects/shop/grants/hers", Created)]),
    ("grant logs project/shop -p shop --to group/all --for 1h --reason pump --name theirs", &[("GrantService/CreateGrant", "projects/shop/grants/theirs", Created)]),
    ("delete -p shop grant/theirs", &[("GrantService/DeleteGrant", "projects/shop/grants/theirs", Deleted)]),
    ("user revoke -p shop ada", &[("UserService/UpdateUser", "projects/shop/users/ada", Updated)]),
    // She is taken out of group and binding by the same change, and what was granted to her goes.
    ("user delete -p shop ada", &[
        ("UserService/DeleteUser", "projects/shop/users/ada", Deleted),
        ("UserService/DeleteUser", "projects/shop/groups/all", Updated),
        ("UserService/DeleteUser", "projects/shop/roleBindings/viewers", Updated),
        ("UserService/DeleteUser", "projects/shop/grants/hers", Deleted),
    ]),
    ("group delete -p shop all", &[("GroupService/DeleteGroup", "projects/shop/groups/all", Deleted)]),
    ("delete -p shop rolebinding/viewers", &[("RoleBindingService/DeleteRoleBinding", "projects/shop/roleBindings/viewers", Deleted)]),
    ("token create -p shop", &[("TokenService/CreateToken", "projects/shop/tokens/*", Created)]),
    // Nodes: m1 has enrolled by a token, m2 and m3 wait.
    ("apply -f web.yaml", &[("AppService/UpdateApp", "projects/default/apps/web", Created)]),
    ("apply -f rolled-out.yaml", &[("AppService/UpdateApp", "projects/default/apps/web", Updated)]),
    ("rollout pause app/web", &[("RolloutService/PauseRollout", "projects/default/apps/web", Updated)]),
    ("rollout resume app/web", &[("RolloutService/ResumeRollout", "projects/default/apps/web", Updated)]),
    ("rollout abort app/web", &[("RolloutService/AbortRollout", "projects/default/apps/web", Updated)]),
    ("delete app/web", &[("AppService/DeleteApp", "projects/default/apps/web", Deleted)]),
    ("cordon m1", &[("NodeService/UpdateNode", "projects/default/nodes/m1", Updated)]),
    ("cordon m1", &[]),
    ("label node/m1 a=b", &[("NodeService/UpdateNode", "projects/default/nodes/m1", Updated)]),
    ("taint node m1 a=b:NoSchedule", &[("NodeService/UpdateNode", "projects/default/nodes/m1", Updated)]),
    ("create cluster plant", &[("ClusterService/CreateCluster", "projects/default/clusters/plant", Created)]),
    ("label cluster/plant a=b", &[("ClusterService/UpdateCluster", "projects/default/clusters/plant", Updated)]),
    ("cluster join plant m1", &[("NodeService/UpdateNode", "projects/default/nodes/m1", Updated)]),
    ("cluster join plant m1", &[]),
    ("cluster leave m1", &[("NodeService/UpdateNode", "projects/default/nodes/m1", Updated)]),
    ("delete cluster/plant", &[("ClusterService/DeleteCluster", "projects/default/clusters/plant", Deleted)]),
    ("node deny FINGERPRINT-OF-m2", &[("EnrollmentRequestService/DenyEnrollment", "projects/default/enrollments/*", Updated)]),
    ("node approve FINGERPRINT-OF-m3", &[("EnrollmentRequestService/ApproveEnrollment", "projects/default/nodes/m3", Created)]),
    ("node revoke m1", &[("NodeService/RevokeNode", "projects/default/nodes/m1", Revoked)]),
    ("node revoke m1", &[]),
    ("delete node/m1", &[("NodeService/DeleteNode", "projects/default/nodes/m1", Deleted)]),
    // And everything goes.
    ("token delete -p shop TOKEN", &[("TokenService/DeleteToken", "projects/shop/tokens/*", Deleted)]),
    ("delete -p shop app/web", &[("AppService/DeleteApp", "projects/shop/apps/web", Deleted)]),
    ("delete -p shop config/site", &[("ConfigService/DeleteConfig", "projects/shop/configs/site", Deleted)]),
    ("delete -p shop secret/db", &[("SecretService/DeleteSecret", "projects/shop/secrets/db", Deleted)]),
    ("delete project/shop", &[
        // The mark, and the end.
        ("ProjectService/DeleteProject", "projects/shop", Updated),
        ("ProjectService/DeleteProject", "projects/shop", Deleted),
    ]),
];

/// Refused for what they say: nothing changes, and nothing is recorded.
const REFUSED: [&str; 6] = [
    "create project default",
    "apply -p shop -f project.yaml -f wrong.yaml",
    "delete -p shop app/none",
    "delete project/shop",
    "user delete -p shop none",
    "cordon none",
];

/// What the log has, and what was seen of it already.
struct Log {
    seen: BTreeSet<(String, u64)>,
    methods: BTreeSet<String>,
}

impl Log {
    /// The records that are new, all chains held against their hashes.
    async fn new_ones(&mut self, world: &World) -> Result<Vec<AuditEntry>> {
        let (_, entries) = verified(&world.store).await?;
        let is_new = |entry: &AuditEntry| !self.seen.contains(&(entry.chain.clone(), entry.sequence));
        let new: Vec<_> = entries.into_iter().filter(is_new).collect();
        self.seen.extend(new.iter().map(|entry| (entry.chain.clone(), entry.sequence)));
        self.methods.extend(new.iter().map(|entry| entry.method.clone()));
        Ok(new)
    }

    /// The new records must be these, of `who`, in whichever order; but for what machines do meanwhile.
    async fn expect(&mut self, world: &World, what: &str, who: &str, lines: &[Line]) -> Result<()> {
        let new = self.new_ones(world).await?;
        let mut left = lines.to_vec();
        for entry in &new {
            if entry.caller.as_ref().is_none_or(|caller| caller.name != who) {
                ensure!(BY_MACHINES.contains(&entry.method.as_str()), "{what}: not by {who}: {entry:?}");
                continue;
            }
            let place = left.iter().position(|line| is_as(entry, line));
            let place = place.with_context(|| format!("{what}: nobody expects {entry:?}"))?;
            left.remove(place);
            let project = entry.resource.split('/').nth(1).unwrap_or("system");
            ensure!(entry.project == project, "{what}: of another project than its resource: {entry:?}");
        }
        ensure!(left.is_empty(), "{what}: no record of {left:?} by {who}; there are {new:?}");
        Ok(())
    }
}

fn is_as(entry: &AuditEntry, (method, resource, outcome): &Line) -> bool {
    let is_resource = match resource.strip_suffix('*') {
        Some(start) => entry.resource.starts_with(start) && entry.resource.len() > start.len(),
        None => entry.resource == *resource,
    };
    let of_method = entry.method.rsplit('.').next() == Some(method);
    of_method && is_resource && entry.outcome() == *outcome
}

/// Every method of the contract that changes something.
fn changing() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(skerry_proto::FILE_DESCRIPTOR_SET).expect("the build made it");
    let mut methods = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods.retain(|full| {
        let name = full.rsplit('/').next().unwrap_or_default();
        !LOOKS.iter().any(|verb| name.starts_with(verb))
            && !OF_MACHINES.contains(&full.as_str())
            && !OF_CHANNELS.contains(&full.as_str())
    });
    methods
}

/// A machine that wants to be a node.
fn agent(world: &World, name: &str, more: &[&str]) -> Result<Process> {
    let mut command = world.command("skerry-agent");
    command.args(["--no-docker", &format!("--gateway=https://127.0.0.1:{}", world.port)]);
    command.args([&format!("--node={name}"), &format!("--data-dir={name}")]).args(more);
    Process::spawn_command(&mut command, world.dir.path().join(format!("{name}.log")))
}

/// One without a token, and the fingerprint by which it waits.
async fn waiting(world: &World, name: &str) -> Result<(Process, String)> {
    let mut agent = agent(world, name, &["--tls-ca=data/tls/ca.crt"])?;
    let line = agent.wait_for_line("skerry node approve", PATIENCE).await?;
    let (_, rest) = line.split_once("skerry node approve ").context("the command")?;
    let fingerprint = rest.split_whitespace().next().context("a fingerprint")?;
    Ok((agent, fingerprint.to_owned()))
}

fn named(name: &str) -> Metadata {
    Metadata { name: name.to_owned(), ..Metadata::default() }
}

/// Methods that no command calls.
async fn create_by_call(world: &World) -> Result<()> {
    let admin = world.channel(Some("data/tls/admin"), "data/tls/ca.crt").await?;
    let parent = "projects/default".to_owned();
    let spec = Some(app([script("s", "true")]));
    let request = scheduler::CreateAppRequest {
        parent: parent.clone(),
        app: Some(scheduler::App { metadata: Some(named("called")), spec, status: None }),
        ..Default::default()
    };
    AppServiceClient::new(admin.clone()).create_app(request).await?;
    let data = [("k".to_owned(), "v".to_owned())];
    let spec = Some(scheduler::ConfigSpec { data: data.clone().into(), ..Default::default() });
    let request = scheduler::CreateConfigRequest {
        parent: parent.clone(),
        config: Some(scheduler::Config { metadata: Some(named("called")), spec }),
        ..Default::default()
    };
    ConfigServiceClient::new(admin.clone()).create_config(request).await?;
    let spec = Some(scheduler::SecretSpec { string_data: data.into(), ..Default::default() });
    let request = scheduler::CreateSecretRequest {
        parent: parent.clone(),
        secret: Some(scheduler::Secret { metadata: Some(named("called")), spec, status: None }),
        ..Default::default()
    };
    SecretServiceClient::new(admin.clone()).create_secret(request).await?;
    let spec = registry::RoleBindingSpec { role: registry::Role::Viewer.into(), ..Default::default() };
    let request = registry::CreateRoleBindingRequest {
        parent,
        role_binding: Some(registry::RoleBinding { metadata: Some(named("called")), spec: Some(spec) }),
        ..Default::default()
    };
    RoleBindingServiceClient::new(admin).create_role_binding(request).await?;
    Ok(())
}

const CALLED: &[Line] = &[
    ("AppService/CreateApp", "projects/default/apps/called", Created),
    ("ConfigService/CreateConfig", "projects/default/configs/called", Created),
    ("SecretService/CreateSecret", "projects/default/secrets/called", Created),
    ("RoleBindingService/CreateRoleBinding", "projects/default/roleBindings/called", Created),
];

/// What a task changes is changed by who created it, whenever a worker comes to it.
async fn tasks(world: &World, log: &mut Log) -> Result<()> {
    let project = "projects/mall";
    let task = "projects/system/tasks/*";
    for (words, lines) in [
        ("create project mall", vec![("ProjectService/CreateProject", project, Created)]),
        (
            "apply -p mall -f site.yaml",
            vec![("ConfigService/UpdateConfig", "projects/mall/configs/site", Created)],
        ),
        ("delete project/mall --background", vec![("TaskService/CreateTask", task, Created)]),
    ] {
        world.done(words).await?;
        log.expect(world, words, ADMIN, &lines).await?;
    }
    let id = world.done("get tasks -p system -o name").await?;
    let id = id.trim();
    world.done(&format!("task cancel -p system {id}")).await?;
    log.expect(world, "a cancellation", ADMIN, &[("TaskService/CancelTask", task, Updated)]).await?;
    eventually("it is cancelled", PATIENCE, || async {
        let table = world.done("get tasks -p system").await?;
        ensure!(table.contains("Cancelled"), "{table}");
        anyhow::Ok(())
    })
    .await;
    world.done(&format!("task retry -p system {id}")).await?;
    log.expect(world, "a retry", ADMIN, &[("TaskService/RetryTask", task, Updated)]).await?;
    world.done("delete -p mall config/site").await?;
    world.done(&format!("wait -p system {id} --for=complete --timeout=60s")).await?;
    let deleted = [
        ("ConfigService/DeleteConfig", "projects/mall/configs/site", Deleted),
        ("TaskService/CreateTask", project, Updated),
        ("TaskService/CreateTask", project, Deleted),
    ];
    log.expect(world, "the task", ADMIN, &deleted).await?;
    world.done(&format!("delete -p system {id}")).await?;
    log.expect(world, "its end", ADMIN, &[("TaskService/DeleteTask", task, Deleted)]).await
}

/// As a gateway passes it on for a node that is due.
async fn renew(world: &World, node: &str) -> Result<()> {
    let name = NodeRef::parse(node)?;
    let record = world.store.get(&Key::<stored::NodeRecord>::of(&name)).await?.context("a node")?.value;
    let request = registry::RenewNodeRequest {
        node: node.to_owned(),
        node_uid: record.meta.context("metadata")?.uid,
        key_id: record.key_id,
        certificate_request: CertificateRequest::make(&KeyPair::generate()?)?.to_vec().into(),
        ..Default::default()
    };
    IssuerServiceClient::new(world.channel(Some("data/tls/services"), "data/tls/ca.crt").await?)
        .renew_node(request)
        .await?;
    Ok(())
}

/// Of the command, by who has the key file in hand.
async fn authority(world: &World, log: &mut Log) -> Result<()> {
    for (words, what) in [
        ("renew --force", "skerry authority renew"),
        ("rotate", "skerry authority rotate"),
        ("retire --force", "skerry authority retire"),
    ] {
        let place = "--key-file data/keys --authority-dir data/authority";
        world.done(&format!("authority {words} --etcd {} {place}", world.etcd.endpoint())).await?;
        let line: Line = (what, "authority", Updated);
        log.expect(world, what, what, &[line]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_kind_of_change_leaves_the_records_of_its_line_and_no_other() -> Result<()> {
    let world = World::start(&["--no-agent"]).await?;
    world.app("web")?;
    world.app("other")?;
    let pair = |kind: &str, spec: &str| {
        format!("apiVersion: skerry/v1\nkind: {kind}\nmetadata: {{name: pair}}\nspec: {spec}\n")
    };
    let (app, config) = ("{services: [{name: s, process: {program: /bin/true}}]}", "{data: {a: b}}");
    world.write("pair.yaml", &format!("{}---\n{}", pair("App", app), pair("Config", config)))?;
    // The same app changed, and it stays at its first batch for as long as the test takes.
    let rolled_out = "{rollout: {healthWindow: 1h}, services: [{name: s, process: {program: /bin/false}}]}";
    let head = "apiVersion: skerry/v1\nkind: App\nmetadata: {name: web}\n";
    world.write("rolled-out.yaml", &format!("{head}spec: {rolled_out}\n"))?;
    world.config("site", "one")?;
    world.write("password", "horse")?;
    world.write("wrong.yaml", "apiVersion: skerry/v1\nkind: Nothing\n")?;
    world.project("shop", "apps: 5")?;

    let mut log = Log { seen: BTreeSet::new(), methods: BTreeSet::new() };
    let init: Line = ("skerry authority init", "authority", Created);
    let new = log.new_ones(&world).await?;
    ensure!(new.iter().filter(|entry| is_as(entry, &init)).count() == 1, "{new:?}");

    let token = world.done("token create --quiet").await?;
    log.expect(
        &world,
        "a token",
        ADMIN,
        &[("TokenService/CreateToken", "projects/default/tokens/*", Created)],
    )
    .await?;
    let _m1 = agent(&world, "m1", &[&format!("--token={}", token.trim_end())])?;
    world.done("wait node/m1 --for=connected --timeout=60s").await?;
    let enrolled: Line = ("IssuerService/EnrollNode", "projects/default/nodes/m1", Created);
    let new = log.new_ones(&world).await?;
    ensure!(new.iter().filter(|entry| is_as(entry, &enrolled)).count() == 1, "{new:?}");
    let ((_m2, second), (_m3, third)) = (waiting(&world, "m2").await?, waiting(&world, "m3").await?);

    for (words, lines) in COMMANDS {
        let mut words = words.replace("FINGERPRINT-OF-m2", &second).replace("FINGERPRINT-OF-m3", &third);
        if words.ends_with("TOKEN") {
            let listed = world.done("token list -p shop --no-headers").await?;
            words = words.replace("TOKEN", listed.split_whitespace().next().context("a token")?);
        }
        world.done(&words).await?;
        log.expect(&world, &words, ADMIN, lines).await?;
    }
    for words in REFUSED {
        let (code, said) = world.skerry(words).await?;
        ensure!(code != Some(0), "{words}: {said}");
        log.expect(&world, words, ADMIN, &[]).await?;
    }
    tasks(&world, &mut log).await?;
    create_by_call(&world).await?;
    log.expect(&world, "calls", ADMIN, CALLED).await?;
    eventually("m3 is connected", PATIENCE, || async {
        let (code, said) = world.skerry("wait node/m3 --for=connected --timeout=1s").await?;
        ensure!(code == Some(0), "{said}");
        anyhow::Ok(())
    })
    .await;
    let node = "projects/default/nodes/m3";
    log.new_ones(&world).await?;
    renew(&world, node).await?;
    log.expect(&world, "a renewal", SERVICE, &[("IssuerService/RenewNode", node, Issued)]).await?;
    authority(&world, &mut log).await?;

    let missing: Vec<_> = changing().difference(&log.methods).cloned().collect();
    ensure!(missing.is_empty(), "this test shows no record of {missing:?}: give each a line");
    Ok(())
}
