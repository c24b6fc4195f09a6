//! What somebody tries who has some right already: a viewer, an operator, the admin of another project, a gateway that was taken over. Each test
//! is a law that such a caller runs into.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use skerry_identity::KeyPair;
use skerry_identity::csr::Request as CertificateRequest;
use skerry_proto::gateway::v1::EnrollRequest;
use skerry_proto::gateway::v1::enroll_response::Outcome;
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::enrollment_request_service_client::EnrollmentRequestServiceClient;
use skerry_proto::registry::v1::issuer_service_client::IssuerServiceClient;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_proto::registry::v1::role_binding_service_client::RoleBindingServiceClient;
use skerry_proto::registry::v1::token_service_client::TokenServiceClient;
use skerry_proto::registry::v1::user_service_client::UserServiceClient;
use skerry_proto::scheduler::v1 as apps;
use skerry_proto::scheduler::v1::config_service_client::ConfigServiceClient;
use skerry_proto::types::v1::Metadata;
use tonic::{Code, Status};

use crate::calls::{Contract, send};
use crate::world::{Caller, World};

/// Texts that are no name of a resource, however somebody reads them.
fn tricks() -> Vec<String> {
    let names = [
        "",
        "..",
        ".",
        "../default",
        "A",
        "Default",
        "-a",
        "a-",
        "a b",
        "a\0",
        "a\n",
        "%2e%2e",
        "a%00b",
        "\u{e4}",
        "\u{ff41}",
        "\u{202e}a",
        "a\\b",
        "*",
        "-",
    ];
    let long = "a".repeat(64);
    let mut tricks = vec!["/".to_owned(), "projects".to_owned(), "projects/".to_owned(), "x".repeat(100_000)];
    for name in names.into_iter().chain([long.as_str()]) {
        for kind in ["nodes", "apps", "configs", "secrets", "users", "groups", "roleBindings", "tokens"] {
            tricks.push(format!("projects/default/{kind}/{name}"));
            tricks.push(format!("projects/{name}/{kind}/a"));
        }
        tricks.push(format!("projects/{name}"));
        tricks.push(name.to_owned());
    }
    tricks.extend(
        ["projects/default/", "projects//default", "/projects/default", "projects/default/nodes/a/b/c/d"]
            .map(str::to_owned),
    );
    tricks
}

/// A request whose first field is this text.
fn named(text: &str) -> Bytes {
    pb::GetNodeRequest { name: text.to_owned() }.encode_to_vec().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_name_is_refused_by_every_method_and_by_its_field() -> Result<()> {
    let world = World::start().await?;
    let admin = world.admin().await?;
    let methods = Contract::load().methods;
    // What is about a thing that the first field of its request names, by a text.
    let about = |method: &str| {
        ["Get", "List", "Delete", "Watch", "Revoke", "Approve", "Deny", "Issue"]
            .iter()
            .any(|verb| method.split('/').nth(1).is_some_and(|name| name.starts_with(verb)))
            && method.starts_with("skerry.")
            && !["IssuerService", "PeerService"].iter().any(|between| method.contains(between))
            // Of all projects: their requests name nothing.
            && !["ProjectService/ListProjects", "ProjectService/WatchProjects"].iter().any(|of_all| method.ends_with(of_all))
    };
    let mut wrong = Vec::new();
    for method in methods.keys().filter(|method| about(method)) {
        for trick in tricks() {
            // What may be called of all names is judged by role alone: it is the handler that refuses.
            match send(&admin, method, vec![named(&trick)]).await?.map_err(|status| status.code()) {
                Err(Code::InvalidArgument) => {}
                other => wrong
                    .push(format!("{method} of {:?}: {other:?}", trick.chars().take(60).collect::<String>())),
            }
        }
    }
    ensure!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_of_another_project_leads_nowhere_else() -> Result<()> {
    let world = World::start().await?;
    for user in ["default/user/a", "default/user/z", "other/user/m", "zoo/user/m"] {
        world.record(user, Vec::new()).await?;
    }
    let ada = world.user("default/user/ada").await?;
    world
        .bind("projects/default/roleBindings/b", pb::Role::Admin, &["projects/default/users/ada"], &[])
        .await?;
    let mut client = UserServiceClient::new(world.connect(&ada).await?);
    let first =
        pb::ListUsersRequest { parent: "projects/default".into(), page_size: 1, ..Default::default() };
    let real = client.list_users(first).await?.into_inner().next_page_token;
    ensure!(!real.is_empty(), "there are three users");
    let mut forged: Vec<String> = [
        "other/m",
        "users/other/m",
        "1.users/other/a",
        "9.users/other/",
        "1.a",
        "-1.users/a",
        "999999999.users/x",
        "0.0.0.0",
    ]
    .map(str::to_owned)
    .into();
    forged.push(real.replace("default", "other"));
    forged.push(real.replace("default", ""));
    forged.push(format!("{real}/../../other/m"));
    for token in forged {
        let request = pb::ListUsersRequest {
            parent: "projects/default".into(),
            page_token: token.clone(),
            ..Default::default()
        };
        match client.list_users(request).await {
            Ok(page) => {
                for user in page.into_inner().users {
                    let name = user.metadata.unwrap_or_default().name;
                    ensure!(name.starts_with("projects/default/"), "{token:?} leads to {name}");
                }
            }
            Err(status) => ensure!(
                matches!(status.code(), Code::InvalidArgument | Code::OutOfRange),
                "{token:?}: {status:?}"
            ),
        }
    }
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_or_a_mask_that_is_huge_is_refused_and_the_next_call_is_answered() -> Result<()> {
    let world = World::start().await?;
    let mut client = NodeServiceClient::new(world.admin().await?);
    for selector in ["a,".repeat(500_000), ",".repeat(100_000), "(".repeat(100_000), "a in (b".repeat(20_000)]
    {
        let request = pb::ListNodesRequest {
            parent: "projects/default".into(),
            label_selector: selector,
            ..Default::default()
        };
        let refused = client.list_nodes(request).await.err().context("it was taken")?;
        ensure!(
            matches!(refused.code(), Code::InvalidArgument | Code::ResourceExhausted),
            "{:?}",
            refused.code()
        );
        ensure!(refused.message().len() < 4096, "the answer repeats it");
    }
    for paths in
        [vec!["spec".to_owned(); 20_000], vec!["metadata.name".to_owned()], vec!["spec.*".to_owned()]]
    {
        let node = pb::Node {
            metadata: Some(Metadata { name: "projects/default/nodes/n1".into(), ..Metadata::default() }),
            ..Default::default()
        };
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = pb::UpdateNodeRequest { node: Some(node), update_mask, ..Default::default() };
        let refused = client.update_node(request).await.err().context("it was taken")?;
        ensure!(matches!(refused.code(), Code::InvalidArgument | Code::ResourceExhausted), "{refused:?}");
    }
    let list = pb::ListNodesRequest { parent: "projects/default".into(), ..Default::default() };
    client.list_nodes(list).await?;
    world.finish().await;
    Ok(())
}

fn config(name: &str, value: &str) -> apps::Config {
    apps::Config {
        metadata: Some(Metadata { name: name.to_owned(), ..Metadata::default() }),
        spec: Some(apps::ConfigSpec {
            data: [("key".to_owned(), value.to_owned())].into(),
            ..Default::default()
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_of_somebody_else_s_gives_nothing_of_theirs_away() -> Result<()> {
    const ID: &str = "5a0f6f3e-63b2-4a3c-9f0a-3f5a6c7d8e9f";
    let world = World::start().await?;
    let mut clients = Vec::new();
    for project in ["default", "other"] {
        let caller = world.user(&format!("{project}/user/op")).await?;
        let user = format!("projects/{project}/users/op");
        let binding = format!("projects/{project}/roleBindings/op");
        world.bind(&binding, pb::Role::Operator, &[&user], &[]).await?;
        clients.push(ConfigServiceClient::new(world.connect(&caller).await?));
    }
    let create = |project: &str, name: &str, value: &str| apps::CreateConfigRequest {
        parent: format!("projects/{project}"),
        config: Some(config(name, value)),
        request_id: ID.to_owned(),
        ..Default::default()
    };
    clients[0].create_config(create("default", "hidden-name", "hidden-value")).await?;
    // In another project the id is another request's: it is done, and answers with what it has made.
    let made = clients[1].create_config(create("other", "b", "mine")).await?.into_inner();
    let name = made.config.and_then(|config| config.metadata).unwrap_or_default().name;
    assert_eq!(name, "projects/other/configs/b");
    // Who names what another project's request was of is judged by the project that it names.
    let status = clients[1].create_config(create("default", "hidden-name", "hidden-value")).await;
    assert_eq!(status.err().map(|status| status.code()), Some(Code::PermissionDenied));
    // In its own project another request of the same id is refused, without a word of the first one's content.
    let status = clients[0].create_config(create("default", "c", "d")).await.err().context("it was taken")?;
    assert_eq!(status.code(), Code::InvalidArgument);
    ensure!(!format!("{status:?}").contains("hidden-value"), "{status:?}");
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_binds_nothing_outside_of_its_project_however_it_is_named() -> Result<()> {
    let world = World::start().await?;
    let ada = world.user("default/user/ada").await?;
    let user = "projects/default/users/ada";
    world.bind("projects/default/roleBindings/admin", pb::Role::Admin, &[user], &[]).await?;
    world.group("projects/other/groups/team", &[]).await?;
    let channel = world.connect(&ada).await?;
    let spec = pb::RoleBindingSpec {
        role: pb::Role::Admin.into(),
        users: vec![user.to_owned()],
        groups: Vec::new(),
    };
    let binding = |name: &str| pb::RoleBinding {
        metadata: Some(Metadata { name: name.to_owned(), ..Metadata::default() }),
        spec: Some(spec.clone()),
    };
    let mut client = RoleBindingServiceClient::new(channel.clone());
    let mut codes: Vec<Option<Code>> = Vec::new();
    for name in ["projects/system/roleBindings/x", "projects/other/roleBindings/x"] {
        let update = pb::UpdateRoleBindingRequest {
            role_binding: Some(binding(name)),
            allow_missing: true,
            ..Default::default()
        };
        codes.push(client.update_role_binding(update).await.err().map(|status| status.code()));
        // The parent is ours, the binding is not.
        let create = pb::CreateRoleBindingRequest {
            parent: "projects/default".into(),
            role_binding: Some(binding(name)),
            ..Default::default()
        };
        codes.push(client.create_role_binding(create).await.err().map(|status| status.code()));
    }
    let expected = [Code::PermissionDenied, Code::InvalidArgument].map(Some);
    assert_eq!(codes, [expected, expected].concat());
    let group = pb::Group {
        metadata: Some(Metadata { name: "projects/other/groups/team".into(), ..Metadata::default() }),
        spec: Some(pb::GroupSpec { members: vec![user.to_owned()] }),
    };
    let update = pb::UpdateGroupRequest { group: Some(group), ..Default::default() };
    let refused = pb::group_service_client::GroupServiceClient::new(channel).update_group(update).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::PermissionDenied));
    world.finish().await;
    Ok(())
}

/// A machine's question, as a gateway passes it on.
fn asked(key: &KeyPair, sealing: [u8; 32], token: &str) -> Result<pb::EnrollNodeRequest> {
    let request = EnrollRequest {
        certificate_request: CertificateRequest::make(key)?.as_ref().to_vec().into(),
        sealing_key: sealing.to_vec().into(),
        token: token.to_owned(),
        parent: "projects/default".into(),
        node: "n1".into(),
        ..Default::default()
    };
    Ok(pb::EnrollNodeRequest { request: Some(request), address: "203.0.113.7".into() })
}

fn reason(status: &Status) -> String {
    skerry_rpc::fault_of(status).metadata.get("reason").cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_repeats_a_machine_s_request_cannot_have_its_secrets_sealed_to_another_key() -> Result<()> {
    let world = World::start().await?;
    let gateway = Caller::of(&world.authority, "system/service/gateway");
    let mut issuer = IssuerServiceClient::new(world.connect(&gateway).await?);
    let request = pb::CreateTokenRequest { parent: "projects/default".into(), ..Default::default() };
    let token = TokenServiceClient::new(world.admin().await?).create_token(request).await?.into_inner().text;

    // Of a machine that waits.
    let waits = KeyPair::generate()?;
    issuer.enroll_node(asked(&waits, [1; 32], "")?).await?;
    let refused = issuer.enroll_node(asked(&waits, [2; 32], "")?).await.err().context("it was taken")?;
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SEALING_KEY_CHANGED"));

    // Of one that is a node: with the token that it has used, and without.
    let node = KeyPair::generate()?;
    issuer.enroll_node(asked(&node, [1; 32], &token)?).await?;
    for token in [token.as_str(), ""] {
        let refused =
            issuer.enroll_node(asked(&node, [2; 32], token)?).await.err().context("it was taken")?;
        assert_eq!(reason(&refused), "SEALING_KEY_CHANGED");
        // The machine itself is answered as before.
        let again = issuer.enroll_node(asked(&node, [1; 32], token)?).await?.into_inner().response;
        ensure!(
            matches!(again.and_then(|again| again.outcome), Some(Outcome::Enrolled(_))),
            "answered again"
        );
    }
    world.finish().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_takes_the_whole_fingerprint_and_no_beginning_of_one() -> Result<()> {
    let world = World::start().await?;
    let gateway = Caller::of(&world.authority, "system/service/gateway");
    let mut issuer = IssuerServiceClient::new(world.connect(&gateway).await?);
    let answer = issuer.enroll_node(asked(&KeyPair::generate()?, [1; 32], "")?).await?.into_inner();
    let Some(Outcome::Pending(pending)) = answer.response.and_then(|answer| answer.outcome) else {
        anyhow::bail!("it does not wait")
    };
    let whole = pending.fingerprint;
    let mut operator = EnrollmentRequestServiceClient::new(world.admin().await?);
    let approve = |fingerprint: &str| pb::ApproveEnrollmentRequest {
        name: format!("projects/default/enrollments/{fingerprint}"),
        ..Default::default()
    };
    for length in 0..whole.len() {
        let refused =
            operator.approve_enrollment(approve(&whole[..length])).await.err().context("approved")?;
        assert_eq!(refused.code(), Code::InvalidArgument, "{length}");
    }
    // Of another project it is nobody's.
    let elsewhere = pb::ApproveEnrollmentRequest {
        name: format!("projects/other/enrollments/{whole}"),
        ..Default::default()
    };
    let refused = operator.approve_enrollment(elsewhere).await.err().context("approved")?;
    assert_eq!(refused.code(), Code::NotFound);
    operator.approve_enrollment(approve(&whole)).await?;
    world.finish().await;
    Ok(())
}
