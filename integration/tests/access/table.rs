//! The table: each method, and each kind of caller in the order of [`callers`]. `+`: it gets through to the handler, `-`: PERMISSION_DENIED,
//! `?`: UNAUTHENTICATED, or no handshake. Requests are about project `default`.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use skerry_proto::registry::v1::access_service_client::AccessServiceClient;
use skerry_proto::registry::v1::user_service_client::UserServiceClient;
use skerry_proto::registry::v1::{
    CheckAccessRequest, DeleteUserRequest, Role, UpdateUserRequest, User, UserSpec,
};
use skerry_proto::types::v1::Metadata;
use skerry_testing::Authority;

use crate::calls::{Contract, Told};
use crate::world::{Caller, DOMAIN, World};

// One row a line, so that columns are seen.
#[rustfmt::skip]
const TABLE: &[(&str, &str)] = &[
    // Without a certificate of this authority: none, self-signed, another authority's.
    //   Of users who are nobody any more: expired, deleted, the predecessor of one who was made again, one whose key was struck out.
    //        Users: no role, admin of another project, viewer, operator, admin, viewer by a group in `system`, the first admin.
    //                Nodes: of the project, of another, expired.
    //                    Services: registry, scheduler, gateway, relay, all in one.
    ("grpc.health.v1.Health/Check", "??? ???? +++++++ ++? +++++"),
    ("grpc.health.v1.Health/Watch", "??? ???? +++++++ ++? +++++"),
    ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "??? ???? +++++++ ++? +++++"),
    ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "??? ???? +++++++ ++? +++++"),
    ("skerry.gateway.v1.EnrollmentService/Enroll", "+?? ?+++ +++++++ ++? +++++"),
    ("skerry.gateway.v1.SyncService/Sync", "??? ???? ------- +++ -----"),
    ("skerry.gateway.v1.OfferService/OfferChannel", "??? ???? ------- --? ---++"),
    ("skerry.gpu.v1.IngestService/Ingest", "??? ???? ------- --? --+-+"),
    ("skerry.gpu.v1.PeerService/StreamOwnSamples", "??? ???? ------- --? ----+"),
    ("skerry.gpu.v1.PeerService/QueryOwnHistory", "??? ???? ------- --? ----+"),
    ("skerry.gpu.v1.GpuService/GetGpu", "??? ???? --+++++ --? -----"),
    ("skerry.gpu.v1.GpuService/ListGpus", "??? ???? --+++++ --? -----"),
    ("skerry.gpu.v1.GpuService/WatchGpus", "??? ???? --+++++ --? -----"),
    ("skerry.gpu.v1.GpuService/ListAllocations", "??? ???? --+++++ --? -----"),
    ("skerry.gpu.v1.GpuService/StreamSamples", "??? ???? --+++++ --? -----"),
    ("skerry.gpu.v1.GpuService/QueryHistory", "??? ???? --+++++ --? -----"),
    ("skerry.relay.v1.ChannelService/Open", "??? ???? ------- ++? -----"),
    ("skerry.relay.v1.PeerService/Forward", "??? ???? ------- --? ---++"),
    ("skerry.relay.v1.PeerService/ListOwnChannels", "??? ???? ------- --? ---++"),
    ("skerry.relay.v1.PeerService/CutOwnChannel", "??? ???? ------- --? ---++"),
    ("skerry.relay.v1.RelayService/Logs", "??? ???? --+++++ --? -----"),
    ("skerry.relay.v1.RelayService/Exec", "??? ???? ---++-+ --? -----"),
    ("skerry.relay.v1.RelayService/ExecNode", "??? ???? ----+-+ --? -----"),
    ("skerry.relay.v1.RelayService/PortForward", "??? ???? ---++-+ --? -----"),
    ("skerry.relay.v1.RelayService/CopyTo", "??? ???? ---++-+ --? -----"),
    ("skerry.relay.v1.RelayService/CopyFrom", "??? ???? ---++-+ --? -----"),
    ("skerry.relay.v1.RelayService/ActOnInstances", "??? ???? ---++-+ --? -----"),
    ("skerry.relay.v1.RelayService/BundleNode", "??? ???? ---++-+ --? -----"),
    ("skerry.relay.v1.RelayService/StreamUsage", "??? ???? --+++++ --? -----"),
    ("skerry.relay.v1.RelayService/ListChannels", "??? ???? ---++-+ --? -----"),
    ("skerry.relay.v1.RelayService/CutChannel", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.IssuerService/EnrollNode", "??? ???? ------- --? --+-+"),
    ("skerry.registry.v1.IssuerService/RenewNode", "??? ???? ------- --? --+-+"),
    ("skerry.registry.v1.IssuerService/GetRoots", "??? ???? ------- --? --+-+"),
    ("skerry.registry.v1.NodeService/GetNode", "??? ???? --+++++ --? ----+"),
    ("skerry.registry.v1.NodeService/ListNodes", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.NodeService/WatchNodes", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.NodeService/UpdateNode", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.NodeService/RevokeNode", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.NodeService/DeleteNode", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.TaskService/CreateTask", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.TaskService/GetTask", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.TaskService/ListTasks", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.TaskService/WatchTasks", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.TaskService/CancelTask", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.TaskService/RetryTask", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.TaskService/DeleteTask", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.EventService/ListEvents", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.EventService/WatchEvents", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.InstallationService/GetInstallation", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.ProjectService/CreateProject", "??? ???? ------+ --? -----"),
    ("skerry.registry.v1.ProjectService/GetProject", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.ProjectService/ListProjects", "??? ???? -----++ --? -----"),
    ("skerry.registry.v1.ProjectService/WatchProjects", "??? ???? -----++ --? -----"),
    ("skerry.registry.v1.ProjectService/UpdateProject", "??? ???? ------+ --? -----"),
    ("skerry.registry.v1.ProjectService/DeleteProject", "??? ???? ------+ --? -----"),
    ("skerry.registry.v1.TokenService/CreateToken", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.TokenService/ListTokens", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.TokenService/DeleteToken", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.EnrollmentRequestService/ListEnrollments", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.EnrollmentRequestService/ApproveEnrollment", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.EnrollmentRequestService/DenyEnrollment", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.AccessService/WhoAmI", "??? ???? +++++++ ++? +++++"),
    ("skerry.registry.v1.AccessService/CheckAccess", "??? ???? +++++++ ++? +++++"),
    ("skerry.registry.v1.AccessService/ListAccess", "??? ???? +++++++ ++? +++++"),
    ("skerry.registry.v1.AuditService/ListAuditRecords", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.AuditService/WatchAuditRecords", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.AuditService/ListAuditChains", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.AuditService/ReadAuditChain", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.RoleBindingService/CreateRoleBinding", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.RoleBindingService/GetRoleBinding", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.RoleBindingService/ListRoleBindings", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.RoleBindingService/UpdateRoleBinding", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.RoleBindingService/DeleteRoleBinding", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.ClusterService/CreateCluster", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.ClusterService/GetCluster", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.ClusterService/ListClusters", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.ClusterService/WatchClusters", "??? ???? --+++++ --? -----"),
    ("skerry.registry.v1.ClusterService/UpdateCluster", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.ClusterService/DeleteCluster", "??? ???? ---++-+ --? -----"),
    ("skerry.registry.v1.GrantService/CreateGrant", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GrantService/GetGrant", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GrantService/ListGrants", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GrantService/DeleteGrant", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GroupService/CreateGroup", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GroupService/GetGroup", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GroupService/ListGroups", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GroupService/UpdateGroup", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.GroupService/DeleteGroup", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.UserService/CreateUser", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.UserService/GetUser", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.UserService/ListUsers", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.UserService/UpdateUser", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.UserService/DeleteUser", "??? ???? ----+-+ --? -----"),
    ("skerry.registry.v1.UserService/IssueCertificate", "??? ???? ----+-+ --? -----"),
    ("skerry.scheduler.v1.AppService/CreateApp", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.AppService/GetApp", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.AppService/ListApps", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.AppService/WatchApps", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.AppService/UpdateApp", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.AppService/DeleteApp", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.AppService/ListInstances", "??? ???? --+++++ --? ---++"),
    ("skerry.scheduler.v1.AppService/ListRevisions", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.ApplyService/Apply", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.PlacementService/ExplainApp", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.PlacementService/PlanChange", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.RolloutService/PauseRollout", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.RolloutService/ResumeRollout", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.RolloutService/AbortRollout", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.ConfigService/CreateConfig", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.ConfigService/GetConfig", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.ConfigService/ListConfigs", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.ConfigService/WatchConfigs", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.ConfigService/UpdateConfig", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.ConfigService/DeleteConfig", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.SecretService/CreateSecret", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.SecretService/GetSecret", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.SecretService/ListSecrets", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.SecretService/WatchSecrets", "??? ???? --+++++ --? -----"),
    ("skerry.scheduler.v1.SecretService/UpdateSecret", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.SecretService/DeleteSecret", "??? ???? ---++-+ --? -----"),
    ("skerry.scheduler.v1.SecretService/ResealSecrets", "??? ???? ----+-+ --? -----"),
];

/// Everybody who calls, in the order of the table's columns.
async fn callers(world: &World) -> Result<Vec<(&'static str, Caller)>> {
    let ours = &world.authority;
    let other = Authority::new(DOMAIN);
    let user = async |who: &str| world.user(who).await;
    let name = |who: &str| {
        let (project, user) = who.split_once("/user/").expect("a user");
        format!("projects/{project}/users/{user}")
    };

    let deleted = user("default/user/deleted").await?;
    let predecessor = user("default/user/again").await?;
    let gone = [name("default/user/deleted"), name("default/user/again")];
    world
        .bind("projects/default/roleBindings/gone", Role::Admin, &gone.each_ref().map(String::as_str), &[])
        .await?;
    for name in gone {
        let request = DeleteUserRequest { name, ..DeleteUserRequest::default() };
        UserServiceClient::new(world.admin().await?).delete_user(request).await?;
    }
    user("default/user/again").await?;

    let struck = user("default/user/struck").await?;
    let struck_out = name("default/user/struck");
    world.bind("projects/default/roleBindings/struck", Role::Admin, &[&struck_out], &[]).await?;
    let metadata = Metadata { name: struck_out, ..Metadata::default() };
    let without_keys = User { metadata: Some(metadata), spec: Some(UserSpec::default()) };
    let request = UpdateUserRequest { user: Some(without_keys), ..UpdateUserRequest::default() };
    UserServiceClient::new(world.admin().await?).update_user(request).await?;

    let expired = Caller::expired(ours, "default/user/late");
    world.record("default/user/late", expired.key.clone().into_iter().collect()).await?;
    let stranger = user("default/user/stranger").await?;
    let elsewhere = user("other/user/admin").await?;
    let (viewer, operator) = (user("default/user/viewer").await?, user("default/user/operator").await?);
    let (admin, everywhere) = (user("default/user/admin").await?, user("other/user/everywhere").await?);
    let late = name("default/user/late");
    for (binding, role, users, groups) in [
        ("projects/other/roleBindings/admins", Role::Admin, vec![name("other/user/admin")], vec![]),
        ("projects/default/roleBindings/viewers", Role::Viewer, vec![name("default/user/viewer")], vec![]),
        (
            "projects/default/roleBindings/operators",
            Role::Operator,
            vec![name("default/user/operator")],
            vec![],
        ),
        ("projects/default/roleBindings/admins", Role::Admin, vec![name("default/user/admin"), late], vec![]),
        (
            "projects/system/roleBindings/viewers",
            Role::Viewer,
            vec![],
            vec!["projects/other/groups/watchers"],
        ),
    ] {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        world.bind(binding, role, &users, &groups).await?;
    }
    world.group("projects/other/groups/watchers", &[&name("other/user/everywhere")]).await?;

    Ok(vec![
        ("nobody", Caller::nobody()),
        ("signed by itself", Caller::self_signed("default/user/admin")),
        ("another authority's", Caller::of(&other, "default/user/admin")),
        ("an expired admin", expired),
        ("a deleted user", deleted),
        ("a predecessor", predecessor),
        ("whose key was struck out", struck),
        ("a stranger", stranger),
        ("admin elsewhere", elsewhere),
        ("viewer", viewer),
        ("operator", operator),
        ("admin", admin),
        ("viewer of everything", everywhere),
        ("the first admin", Caller::of(ours, "system/user/admin")),
        ("a node", Caller::of(ours, "default/node/n1")),
        ("another node", Caller::of(ours, "other/node/n1")),
        ("an expired node", Caller::expired(ours, "default/node/n2")),
        ("registry", Caller::of(ours, "system/service/registry")),
        ("scheduler", Caller::of(ours, "system/service/scheduler")),
        ("gateway", Caller::of(ours, "system/service/gateway")),
        ("relay", Caller::of(ours, "system/service/relay")),
        ("all in one", Caller::of(ours, "system/service/skerry")),
    ])
}

fn cells(row: &str) -> Vec<Told> {
    row.chars().filter(|letter| *letter != ' ').map(Told::of).collect()
}

#[test]
fn the_table_has_every_method_of_the_contract_once() {
    let methods: BTreeSet<String> = Contract::load().methods.into_keys().collect();
    let rows: BTreeSet<String> = TABLE.iter().map(|(method, _)| (*method).to_owned()).collect();
    assert_eq!(methods, rows);
    assert_eq!(rows.len(), TABLE.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_may_call_what_the_table_says_and_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let contract = Contract::load();
    let callers = callers(&world).await?;
    let mut wrong = Vec::new();
    for (column, (who, caller)) in callers.iter().enumerate() {
        let channel = world.connect(caller).await.ok();
        for (method, row) in TABLE {
            let row = cells(row);
            ensure!(row.len() == callers.len(), "{method} has {} cells", row.len());
            let told = match &channel {
                Some(channel) => contract.call(channel, method, "default").await?,
                None => Told::Nobody,
            };
            if told != row[column] {
                wrong.push(format!("{who} calls {method}: {told:?}, where {:?} is expected", row[column]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_told_beforehand_what_the_server_would_say() -> Result<()> {
    let world = World::start().await?;
    for (column, (who, caller)) in callers(&world).await?.iter().enumerate() {
        let Ok(channel) = world.connect(caller).await else { continue };
        for (method, row) in TABLE {
            let request = CheckAccessRequest {
                parent: "projects/default".to_owned(),
                method: (*method).to_owned(),
                ..CheckAccessRequest::default()
            };
            let answer = AccessServiceClient::new(channel.clone()).check_access(request).await;
            // Who is nobody is told nothing.
            let Ok(answer) = answer else { break };
            let answer = answer.into_inner();
            let expected = cells(row)[column] == Told::Through;
            assert_eq!(answer.allowed, expected, "{who}, {method}: {}", answer.reason);
            assert_eq!(answer.allowed, answer.reason.is_empty(), "{who}, {method}");
        }
    }
    world.finish().await;
    Ok(())
}
