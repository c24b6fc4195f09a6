//! Users, groups and bindings as resources, and the one user who is always there.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_identity::{KeyPair, SigningKey as _};
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::access_service_client::AccessServiceClient;
use skerry_proto::registry::v1::audit_service_client::AuditServiceClient;
use skerry_proto::registry::v1::group_service_client::GroupServiceClient;
use skerry_proto::registry::v1::role_binding_service_client::RoleBindingServiceClient;
use skerry_proto::registry::v1::user_service_client::UserServiceClient;
use skerry_proto::types::v1::Metadata;
use tonic::{Code, Status};

use crate::calls::{Contract, Told, send};
use crate::world::{Caller, World, uri};

const ADA: &str = "projects/default/users/ada";

fn reason(status: &Status) -> String {
    skerry_rpc::fault_of(status).metadata.get("reason").cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_is_told_who_it_is_and_what_it_may() -> Result<()> {
    let world = World::start().await?;
    let ada = world.user("default/user/ada").await?;
    let name = "projects/default/users/ada";
    world.bind("projects/default/roleBindings/some", pb::Role::Viewer, &[name], &[]).await?;
    world.group("projects/other/groups/all", &[name]).await?;
    world
        .bind("projects/default/roleBindings/more", pb::Role::Operator, &[], &["projects/other/groups/all"])
        .await?;
    world.bind("projects/other/roleBindings/one", pb::Role::Admin, &[name], &[]).await?;
    let mut client = AccessServiceClient::new(world.connect(&ada).await?);
    let told = client.who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
    assert_eq!(told.identity, uri("default/user/ada"));
    assert_eq!(Some(&told.key_id), ada.key.as_ref());
    let roles: Vec<_> = told.roles.iter().map(|role| (role.project.as_str(), role.role())).collect();
    assert_eq!(roles, [("projects/default", pb::Role::Operator), ("projects/other", pb::Role::Admin)]);

    let node = Caller::of(&world.authority, "default/node/n1");
    let mut client = AccessServiceClient::new(world.connect(&node).await?);
    let told = client.who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
    assert_eq!((told.identity, told.roles), (uri("default/node/n1"), Vec::new()));
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_is_checked_listed_and_deleted_as_any_resource() -> Result<()> {
    let world = World::start().await?;
    let mut client = RoleBindingServiceClient::new(world.admin().await?);
    let binding = |name: &str, role: i32, users: &[&str]| pb::RoleBinding {
        metadata: Some(Metadata { name: name.to_owned(), ..Metadata::default() }),
        spec: Some(pb::RoleBindingSpec {
            role,
            users: users.iter().map(|user| (*user).to_owned()).collect(),
            groups: Vec::new(),
        }),
    };
    let parent = "projects/default".to_owned();
    for (wrong, field) in [
        (binding("b", 0, &[]), "role_binding.spec.role"),
        (binding("b", 9, &[]), "role_binding.spec.role"),
        (binding("b", 1, &["ada"]), "role_binding.spec.users[0]"),
        (binding("b", 1, &["projects/p/users/a", "projects/p/users/a"]), "role_binding.spec.users[1]"),
        (binding("projects/other/roleBindings/b", 1, &[]), "role_binding.metadata.name"),
    ] {
        let request = pb::CreateRoleBindingRequest {
            parent: parent.clone(),
            role_binding: Some(wrong),
            ..Default::default()
        };
        let status = client.create_role_binding(request).await.expect_err("refused");
        assert_eq!(skerry_rpc::fault_of(&status).violations[0].field, field, "{status:?}");
    }
    let made = binding("b", 1, &["projects/default/users/ada"]);
    let request = pb::CreateRoleBindingRequest {
        parent: parent.clone(),
        role_binding: Some(made),
        ..Default::default()
    };
    let made =
        client.create_role_binding(request.clone()).await?.into_inner().role_binding.context("made")?;
    assert_eq!(client.create_role_binding(request).await.expect_err("there").code(), Code::AlreadyExists);
    let name = made.metadata.as_ref().context("metadata")?.name.clone();
    assert_eq!(name, "projects/default/roleBindings/b");
    let got = client.get_role_binding(pb::GetRoleBindingRequest { name: name.clone() }).await?.into_inner();
    assert_eq!(got.role_binding.as_ref(), Some(&made));
    let listed =
        client.list_role_bindings(pb::ListRoleBindingsRequest { parent, ..Default::default() }).await?;
    assert_eq!(listed.into_inner().role_bindings, [made]);
    client
        .delete_role_binding(pb::DeleteRoleBindingRequest { name: name.clone(), ..Default::default() })
        .await?;
    let gone = client.get_role_binding(pb::GetRoleBindingRequest { name }).await.expect_err("deleted");
    assert_eq!(gone.code(), Code::NotFound);
    let none = GroupServiceClient::new(world.admin().await?)
        .list_groups(pb::ListGroupsRequest { parent: "projects/default".to_owned(), ..Default::default() })
        .await?;
    assert!(none.into_inner().groups.is_empty());
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_cannot_be_locked_out() -> Result<()> {
    let world = World::start().await?;
    let admin = Caller::of(&world.authority, "system/user/admin");
    let mut client = UserServiceClient::new(world.connect(&admin).await?);
    let user = |keys: &[&str]| pb::User {
        metadata: Some(Metadata { name: "projects/system/users/admin".to_owned(), ..Metadata::default() }),
        spec: Some(pb::UserSpec {
            keys: keys.iter().map(|id| pb::UserKey { id: (*id).to_owned(), create_time: None }).collect(),
        }),
    };
    let update = |user| pb::UpdateUserRequest { user: Some(user), allow_missing: true, ..Default::default() };
    let (other, own) = ("0".repeat(64), admin.key.clone().context("a key")?);
    for keys in [&[][..], &[other.as_str()]] {
        let refused = client.update_user(update(user(keys))).await.expect_err("refused");
        assert_eq!(reason(&refused), "ADMIN_NEEDED");
    }
    client.update_user(update(user(&[&own, &other]))).await?;
    let delete =
        pb::DeleteUserRequest { name: "projects/system/users/admin".to_owned(), ..Default::default() };
    assert_eq!(reason(&client.delete_user(delete).await.expect_err("refused")), "ADMIN_NEEDED");

    // Now that there is a record, a certificate of the same name with another key is nobody's.
    let namesake = Caller::of(&world.authority, "system/user/admin");
    let mut client = AccessServiceClient::new(world.connect(&namesake).await?);
    let refused = client.who_am_i(pb::WhoAmIRequest {}).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "USER_UNKNOWN".to_owned()));
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_known_by_the_certificate_that_an_admin_issues_and_adds_no_key_itself() -> Result<()> {
    let world = World::start().await?;
    let name = "projects/default/users/ada".to_owned();
    let (first, second) = (Arc::new(KeyPair::generate()?), Arc::new(KeyPair::generate()?));
    let ask = |key: &KeyPair, name: &str, replace| -> Result<_> {
        let asked = CertificateRequest::make(key)?;
        let certificate_request = asked.as_ref().to_vec().into();
        let name = name.to_owned();
        Ok(pb::IssueCertificateRequest { name, certificate_request, replace, known_only: false })
    };
    let mut admin = UserServiceClient::new(world.admin().await?);
    let absent =
        admin.issue_certificate(ask(&first, &name, false)?).await.expect_err("there is no such user");
    assert_eq!(absent.code(), Code::NotFound);
    world.record("default/user/ada", Vec::new()).await?;
    let mut wrong = ask(&first, &name, false)?;
    wrong.certificate_request = vec![0; 5000].into();
    let refused = admin.issue_certificate(wrong).await.expect_err("no request");
    assert_eq!(skerry_rpc::fault_of(&refused).violations[0].field, "certificate_request");

    let caller = |issued: pb::IssueCertificateResponse, key: &Arc<KeyPair>| {
        let chain = issued.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        Caller::with(chain, Arc::clone(key))
    };
    let issued = admin.issue_certificate(ask(&first, &name, false)?).await?.into_inner();
    let ada = world.connect(&caller(issued, &first)).await?;
    let told = AccessServiceClient::new(ada.clone()).who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
    assert_eq!((told.identity, told.roles), (uri("default/user/ada"), Vec::new()));

    // Whoever has its key for a moment must not be it for ever.
    let mut itself = UserServiceClient::new(ada.clone());
    world.record("default/user/bob", Vec::new()).await?;
    for name in [&name, "projects/default/users/bob"] {
        let refused = itself.issue_certificate(ask(&second, name, false)?).await.expect_err("refused");
        assert_eq!(
            (refused.code(), reason(&refused)),
            (Code::PermissionDenied, "ROLE_NEEDED".to_owned()),
            "{name}"
        );
    }
    let issued = admin.issue_certificate(ask(&second, &name, true)?).await?.into_inner();
    let renewed = world.connect(&caller(issued, &second)).await?;
    AccessServiceClient::new(renewed).who_am_i(pb::WhoAmIRequest {}).await?;
    // The former key counts no more, on the connection that is open too.
    let gone = AccessServiceClient::new(ada).who_am_i(pb::WhoAmIRequest {}).await.expect_err("refused");
    assert_eq!(reason(&gone), "USER_UNKNOWN");
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_two_projects_reaches_no_handler() -> Result<()> {
    let world = World::start().await?;
    let ada = world.user("default/user/ada").await?;
    let bind = ["projects/default/users/ada"];
    world.bind("projects/default/roleBindings/admins", pb::Role::Admin, &bind, &[]).await?;
    world.record("other/user/bob", vec!["0".repeat(64)]).await?;
    let channel = world.connect(&ada).await?;
    let method = "skerry.registry.v1.UserService/DeleteUser";
    let delete =
        |user: &str| pb::DeleteUserRequest { name: user.to_owned(), ..Default::default() }.encode_to_vec();
    let (ours, theirs) = (delete("projects/default/users/none"), delete("projects/other/users/bob"));
    for both in [[ours.clone(), theirs.clone()].concat(), [theirs.clone(), ours].concat()] {
        let refused = send(&channel, method, vec![both.into()]).await?.expect_err("refused");
        assert_eq!(
            (refused.code(), reason(&refused)),
            (Code::InvalidArgument, "REQUEST_AMBIGUOUS".to_owned())
        );
    }
    // As when it is asked for plainly, and whether or not there is such a user.
    for user in [theirs, delete("projects/other/users/none")] {
        let refused = send(&channel, method, vec![user.into()]).await?.expect_err("refused");
        assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, "ROLE_NEEDED".to_owned()));
        let told = skerry_rpc::fault_of(&refused).metadata;
        assert_eq!((told["project"].as_str(), told["role"].as_str()), ("other", "admin"));
    }
    let name = "projects/other/users/bob".to_owned();
    UserServiceClient::new(world.admin().await?).get_user(pb::GetUserRequest { name }).await?;
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_made_again_has_nothing_of_what_its_predecessor_had() -> Result<()> {
    let world = World::start().await?;
    let (ada, bob) = (ADA, "projects/default/users/bob");
    world.record("default/user/ada", Vec::new()).await?;
    world.group("projects/other/groups/some", &[ada, bob]).await?;
    world.bind("projects/default/roleBindings/own", pb::Role::Admin, &[ada, bob], &[]).await?;
    world
        .bind("projects/system/roleBindings/by-group", pb::Role::Viewer, &[], &["projects/other/groups/some"])
        .await?;

    let mut users = UserServiceClient::new(world.admin().await?);
    users.delete_user(pb::DeleteUserRequest { name: ada.to_owned(), ..Default::default() }).await?;
    let again = world.user("default/user/ada").await?;
    let mut client = AccessServiceClient::new(world.connect(&again).await?);
    let told = client.who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
    assert_eq!(told.roles, Vec::new(), "neither its own nor its group's");
    // Others stay, and who had read the binding before is told that it is another one now.
    let mut bindings = RoleBindingServiceClient::new(world.admin().await?);
    let get = |name: &str| pb::GetRoleBindingRequest { name: name.to_owned() };
    let own = bindings.get_role_binding(get("projects/default/roleBindings/own")).await?.into_inner();
    let own = own.role_binding.context("a binding")?;
    assert_eq!(own.spec.context("a spec")?.users, [bob]);
    assert_eq!(own.metadata.context("metadata")?.generation, 2);

    // What changed with it is in the audit log of its own project.
    let mut audit = AuditServiceClient::new(world.admin().await?);
    for (project, changed) in
        [("other", "projects/other/groups/some"), ("default", "projects/default/roleBindings/own")]
    {
        let filter = pb::AuditFilter { method: "DeleteUser".to_owned(), ..Default::default() };
        let asked = pb::ListAuditRecordsRequest {
            parent: format!("projects/{project}"),
            filter: Some(filter),
            ..Default::default()
        };
        let records = audit.list_audit_records(asked).await?.into_inner().records;
        let contents = records.iter().filter_map(|record| record.content.as_ref());
        let resources: Vec<&str> = contents.map(|content| content.resource.as_str()).collect();
        assert!(resources.contains(&changed), "{project}: {resources:?}");
    }

    // A group that is made again is not what bindings named before.
    let mut groups = GroupServiceClient::new(world.admin().await?);
    let delete =
        pb::DeleteGroupRequest { name: "projects/other/groups/some".to_owned(), ..Default::default() };
    groups.delete_group(delete).await?;
    world.group("projects/other/groups/some", &[ada]).await?;
    let told = client.who_am_i(pb::WhoAmIRequest {}).await?.into_inner();
    assert_eq!(told.roles, Vec::new());
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_named_more_often_than_one_deletion_can_change_stays_and_that_is_said() -> Result<()> {
    let world = World::start().await?;
    let ada = ADA;
    world.record("default/user/ada", Vec::new()).await?;
    for index in 0..=50 {
        let name = format!("projects/default/roleBindings/b{index}");
        world.bind(&name, pb::Role::Viewer, &[ada], &[]).await?;
    }
    let mut users = UserServiceClient::new(world.admin().await?);
    let delete = || pb::DeleteUserRequest { name: ada.to_owned(), ..Default::default() };
    let refused = users.delete_user(delete()).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "NAMED_TOO_OFTEN".to_owned()));
    let mut bindings = RoleBindingServiceClient::new(world.admin().await?);
    let one = "projects/default/roleBindings/b0".to_owned();
    bindings.delete_role_binding(pb::DeleteRoleBindingRequest { name: one, ..Default::default() }).await?;
    users.delete_user(delete()).await?;
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_for_a_key_that_counts_and_is_recorded_nowhere() -> Result<()> {
    let world = World::start().await?;
    let renewal = |key: &KeyPair, name: &str| -> Result<_> {
        let certificate_request = CertificateRequest::make(key)?.as_ref().to_vec().into();
        let name = name.to_owned();
        Ok(pb::IssueCertificateRequest { name, certificate_request, replace: false, known_only: true })
    };
    let issued_to = |who: &str| {
        let (issued, key) = world.authority.issue(&uri(who));
        (Caller::with(issued.chain, Arc::clone(&key)), key)
    };
    let (ada, name) = (issued_to("default/user/ada"), ADA);
    world.record("default/user/ada", ada.0.key.clone().into_iter().collect()).await?;
    let mut client = UserServiceClient::new(world.connect(&ada.0).await?);
    let renewed = client.issue_certificate(renewal(&ada.1, name)?).await?.into_inner();
    let chain = renewed.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let renewed = world.connect(&Caller::with(chain, Arc::clone(&ada.1))).await?;
    AccessServiceClient::new(renewed).who_am_i(pb::WhoAmIRequest {}).await?;

    let stranger = KeyPair::generate()?;
    let refused = client.issue_certificate(renewal(&stranger, name)?).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "KEY_UNKNOWN".to_owned()));
    let bob = client.issue_certificate(renewal(&ada.1, "projects/default/users/bob")?).await;
    assert_eq!(bob.expect_err("refused").code(), Code::PermissionDenied);

    // Nor does an admin renew for others, not even one of the whole installation: it would get a certificate that is recorded nowhere.
    let chief = world.user("system/user/eve").await?;
    world
        .bind("projects/system/roleBindings/eve", pb::Role::Admin, &["projects/system/users/eve"], &[])
        .await?;
    let mut chief = UserServiceClient::new(world.connect(&chief).await?);
    let first_admin = "projects/system/users/admin";
    let refused = chief.issue_certificate(renewal(&stranger, first_admin)?).await.expect_err("refused");
    assert_eq!(reason(&refused), "KEY_UNKNOWN");
    let anew = pb::IssueCertificateRequest { known_only: false, ..renewal(&stranger, first_admin)? };
    let refused = chief.issue_certificate(anew).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, "ADMIN_ITSELF".to_owned()));
    let key = vec![pb::UserKey { id: stranger.public_key().id().to_string(), ..Default::default() }];
    let metadata = Some(Metadata { name: first_admin.to_owned(), ..Metadata::default() });
    let user = Some(pb::User { metadata, spec: Some(pb::UserSpec { keys: key }) });
    let record = pb::UpdateUserRequest { user, allow_missing: true, ..Default::default() };
    assert_eq!(reason(&chief.update_user(record).await.expect_err("refused")), "ADMIN_ITSELF");

    // An admin of one project does not become who has more than it.
    let little = world.user("default/user/little").await?;
    let little_admin = ["projects/default/users/little"];
    world.bind("projects/default/roleBindings/little", pb::Role::Admin, &little_admin, &[]).await?;
    world.record("default/user/carol", Vec::new()).await?;
    world
        .bind("projects/system/roleBindings/carol", pb::Role::Viewer, &["projects/default/users/carol"], &[])
        .await?;
    let mut little = UserServiceClient::new(world.connect(&little).await?);
    let carol = pb::IssueCertificateRequest {
        known_only: false,
        ..renewal(&stranger, "projects/default/users/carol")?
    };
    let refused = little.issue_certificate(carol).await.expect_err("refused");
    assert_eq!(reason(&refused), "ROLE_NEEDED");
    assert_eq!(skerry_rpc::fault_of(&refused).metadata["project"], "system");

    // The first admin goes on without a record: another certificate of that name still counts.
    let (admin, name) = (issued_to("system/user/admin"), "projects/system/users/admin");
    let mut first = UserServiceClient::new(world.connect(&admin.0).await?);
    first.issue_certificate(renewal(&admin.1, name)?).await?;
    let record = first.get_user(pb::GetUserRequest { name: name.to_owned() }).await;
    assert_eq!(record.expect_err("none").code(), Code::NotFound);

    // A key that was struck out renews nothing, nor does a user that is gone.
    first.delete_user(pb::DeleteUserRequest { name: ADA.to_owned(), ..Default::default() }).await?;
    let gone = client.issue_certificate(renewal(&ada.1, ADA)?).await.expect_err("refused");
    // By who lets callers in, or by the handler where that is a moment behind.
    assert!(["USER_UNKNOWN", "KEY_UNKNOWN"].contains(&reason(&gone).as_str()), "{gone:?}");
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_one_may_is_listed_and_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let ada = world.user("default/user/ada").await?;
    world.bind("projects/default/roleBindings/some", pb::Role::Viewer, &[ADA], &[]).await?;
    let mut client = AccessServiceClient::new(world.connect(&ada).await?);
    let list = |parent: &str| pb::ListAccessRequest { parent: parent.to_owned() };
    let there = client.list_access(list("projects/default")).await?.into_inner().methods;
    assert!(there.is_sorted() && there.contains(&"skerry.scheduler.v1.AppService/ListApps".to_owned()));
    for method in crate::calls::Contract::load().methods.into_keys() {
        let parent = "projects/default".to_owned();
        let check = pb::CheckAccessRequest { parent, method: method.clone(), ..Default::default() };
        let allowed = client.check_access(check).await?.into_inner().allowed;
        assert_eq!(allowed, there.contains(&method), "{method}");
    }
    let elsewhere = client.list_access(list("projects/other")).await?.into_inner().methods;
    assert!(!elsewhere.iter().any(|method| method.ends_with("/ListApps")), "{elsewhere:?}");
    let wrong = client.list_access(list("default")).await.expect_err("no project");
    assert_eq!(skerry_rpc::fault_of(&wrong).violations[0].field, "parent");
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_system_are_for_its_admins_and_others_for_operators() -> Result<()> {
    let world = World::start().await?;
    let contract = Contract::load();
    let ada = world.user("default/user/ada").await?;
    let may = async |method: &str, project: &str| {
        let channel = world.connect(&ada).await?;
        contract.call(&channel, &format!("skerry.registry.v1.TaskService/{method}"), project).await
    };
    let changing = ["CreateTask", "CancelTask", "RetryTask", "DeleteTask"];
    world.bind("projects/system/roleBindings/operators", pb::Role::Operator, &[ADA], &[]).await?;
    for method in changing {
        assert_eq!(may(method, "default").await?, Told::Through, "{method}");
        assert_eq!(may(method, "system").await?, Told::Denied, "{method}");
    }
    assert_eq!(may("ListTasks", "system").await?, Told::Through);
    world.bind("projects/system/roleBindings/more", pb::Role::Admin, &[ADA], &[]).await?;
    for method in changing {
        assert_eq!(may(method, "system").await?, Told::Through, "{method}");
    }
    world.finish().await;
    Ok(())
}
