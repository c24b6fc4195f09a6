//! Who loses the right to what is open loses what is open.

use std::time::Duration;

use anyhow::{Context as _, Result};
use skerry_proto::registry::v1 as pb;
use skerry_proto::registry::v1::node_service_client::NodeServiceClient;
use skerry_proto::registry::v1::role_binding_service_client::RoleBindingServiceClient;
use skerry_proto::registry::v1::user_service_client::UserServiceClient;
use skerry_proto::types::v1::Metadata;
use tonic::{Code, Streaming};

use crate::world::{Caller, World};

/// Longer than it takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const BINDING: &str = "projects/default/roleBindings/viewers";

/// A watch that has told the present state.
async fn watch(world: &World, caller: &Caller) -> Result<Streaming<pb::WatchNodesResponse>> {
    let request = pb::WatchNodesRequest { parent: "projects/default".into(), ..Default::default() };
    let mut client = NodeServiceClient::new(world.connect(caller).await?);
    let mut stream = client.watch_nodes(request).await?.into_inner();
    stream.message().await?.context("a bookmark")?;
    Ok(stream)
}

/// How a watch ends, when it does.
async fn end(mut stream: Streaming<pb::WatchNodesResponse>) -> Result<Code> {
    let ending = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    };
    tokio::time::timeout(PATIENCE, ending).await.context("it goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_the_role_the_key_or_the_user() -> Result<()> {
    let world = World::start().await?;
    let names = ["role", "key", "user", "stays"];
    let mut watches = Vec::new();
    for name in names {
        let caller = world.user(&format!("default/user/{name}")).await?;
        let user = format!("projects/default/users/{name}");
        world.bind(&format!("{BINDING}-{name}"), pb::Role::Viewer, &[&user], &[]).await?;
        watches.push((watch(&world, &caller).await?, caller));
    }
    let admin = world.admin().await?;
    let mut users = UserServiceClient::new(admin.clone());

    let request = pb::DeleteRoleBindingRequest { name: format!("{BINDING}-role"), ..Default::default() };
    RoleBindingServiceClient::new(admin.clone()).delete_role_binding(request).await?;
    let (stream, caller) = watches.remove(0);
    assert_eq!(end(stream).await?, Code::PermissionDenied);
    assert_eq!(watch(&world, &caller).await.err().and_then(code), Some(Code::PermissionDenied));

    let metadata = Metadata { name: "projects/default/users/key".into(), ..Default::default() };
    let user = pb::User { metadata: Some(metadata), spec: Some(pb::UserSpec::default()) };
    users.update_user(pb::UpdateUserRequest { user: Some(user), ..Default::default() }).await?;
    let (stream, caller) = watches.remove(0);
    assert_eq!(end(stream).await?, Code::Unauthenticated);
    assert_eq!(watch(&world, &caller).await.err().and_then(code), Some(Code::Unauthenticated));

    let request = pb::DeleteUserRequest { name: "projects/default/users/user".into(), ..Default::default() };
    users.delete_user(request).await?;
    let (stream, caller) = watches.remove(0);
    assert_eq!(end(stream).await?, Code::Unauthenticated);
    assert_eq!(watch(&world, &caller).await.err().and_then(code), Some(Code::Unauthenticated));

    // Nobody else lost anything: this one ends with the server.
    let (mut stream, _) = watches.remove(0);
    let next = tokio::time::timeout(Duration::ZERO, stream.message()).await;
    assert!(next.is_err(), "{next:?}");
    world.finish().await;
    assert_eq!(end(stream).await?, Code::Unavailable);
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "it is given to `and_then`")]
fn code(error: anyhow::Error) -> Option<Code> {
    error.downcast_ref::<tonic::Status>().map(tonic::Status::code)
}
