//! One resource to its server: created, changed, or only checked.

mod people;

use prost_types::FieldMask;
use skerry_manifest::Resource;
use skerry_proto::registry::v1::{ChangeOutcome, Node, Project, UpdateNodeRequest, UpdateProjectRequest};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{
    App, Config, Secret, UpdateAppRequest, UpdateConfigRequest, UpdateSecretRequest,
};
use skerry_proto::types::v1::Metadata;

use crate::client::{CallError, Client, Service, apps, configs, nodes, request, request_id, secrets};
use crate::item::Item;
use crate::projects::projects;

/// What of a resource is its owner's: what an editor and an undo replace.
pub(super) const OWNED: [&str; 3] = ["metadata.labels", "metadata.annotations", "spec"];

/// How a resource is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sending {
    /// What of it is meant; all of it when empty.
    pub(crate) paths: Vec<String>,
    /// Whether it may be new.
    pub(crate) create: bool,
    /// Only check.
    pub(crate) dry_run: bool,
}

impl Sending {
    /// What is there already, in these fields.
    pub(super) fn change(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { paths: paths.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// A resource that can be sent, as an item.
pub(super) fn item_of(resource: &Resource) -> Item {
    match resource {
        Resource::App(app) => Item::App(app.clone()),
        Resource::Config(config) => Item::Config(config.clone()),
        Resource::Secret(secret) => Item::Secret(secret.clone()),
        Resource::Node(node) => Item::Node(node.clone()),
        Resource::User(user) => Item::User(user.clone()),
        Resource::Group(group) => Item::Group(group.clone()),
        Resource::RoleBinding(binding) => Item::RoleBinding(binding.clone()),
        Resource::Project(project) => Item::Project(project.clone()),
        Resource::Cluster(cluster) => Item::Cluster(cluster.clone()),
    }
}

/// The metadata of what can be sent; the others have none.
pub(super) fn metadata_of(item: &mut Item) -> Option<&mut Metadata> {
    match item {
        Item::Node(node) => node.metadata.as_mut(),
        Item::App(app) => app.metadata.as_mut(),
        Item::Config(config) => config.metadata.as_mut(),
        Item::Secret(secret) => secret.metadata.as_mut(),
        Item::User(user) => user.metadata.as_mut(),
        Item::Group(group) => group.metadata.as_mut(),
        Item::RoleBinding(binding) => binding.metadata.as_mut(),
        Item::Project(project) => project.metadata.as_mut(),
        Item::Cluster(cluster) => cluster.metadata.as_mut(),
        Item::Instance(_)
        | Item::Revision(_)
        | Item::Event(_)
        | Item::Task(_)
        | Item::Grant(_)
        | Item::Gpu(_)
        | Item::Allocation(_) => None,
    }
}

/// Sends what has metadata; answers what it is then. With an etag in its metadata only if it is still at that version.
pub(super) async fn send(client: &Client, item: Item, how: &Sending) -> Result<(Item, Outcome), CallError> {
    match item {
        Item::App(app) => send_app(client, *app, how).await,
        Item::Config(config) => send_config(client, *config, how).await,
        Item::Secret(secret) => send_secret(client, *secret, how).await,
        Item::User(user) => people::send_user(client, *user, how).await,
        Item::Group(group) => people::send_group(client, *group, how).await,
        Item::RoleBinding(binding) => people::send_binding(client, *binding, how).await,
        Item::Project(project) => send_project(client, *project, how).await,
        Item::Cluster(cluster) => client.send_cluster(*cluster, how).await,
        // Nodes have no dry run; what is sent is what it would be.
        Item::Node(node) if how.dry_run => Ok((Item::Node(node), Outcome::Updated)),
        Item::Node(node) => {
            let node = send_node(client, *node, how.paths.clone()).await?;
            Ok((Item::Node(Box::new(node)), Outcome::Updated))
        }
        Item::Instance(_)
        | Item::Revision(_)
        | Item::Event(_)
        | Item::Task(_)
        | Item::Grant(_)
        | Item::Gpu(_)
        | Item::Allocation(_) => {
            unreachable!("callers refuse what cannot be changed")
        }
    }
}

pub(crate) fn mask(how: &Sending) -> Option<FieldMask> {
    (!how.paths.is_empty()).then(|| FieldMask { paths: how.paths.clone() })
}

/// What the registry says came of a change, as the scheduler says it.
pub(crate) fn outcome(outcome: ChangeOutcome) -> Outcome {
    match outcome {
        ChangeOutcome::Unspecified => Outcome::Unspecified,
        ChangeOutcome::Created => Outcome::Created,
        ChangeOutcome::Updated => Outcome::Updated,
        ChangeOutcome::Unchanged => Outcome::Unchanged,
    }
}

async fn send_app(client: &Client, app: App, how: &Sending) -> Result<(Item, Outcome), CallError> {
    let message = UpdateAppRequest {
        app: Some(App { status: None, ..app }),
        update_mask: mask(how),
        request_id: request_id(),
        allow_missing: how.create,
        validate_only: how.dry_run,
    };
    let answer = client.call(Service::Scheduler, |channel, left| {
        let message = message.clone();
        async move { apps(channel).update_app(request(message, left)).await }
    });
    let answer = answer.await?;
    let outcome = answer.outcome();
    Ok((Item::App(Box::new(answer.app.unwrap_or_default())), outcome))
}

async fn send_config(client: &Client, config: Config, how: &Sending) -> Result<(Item, Outcome), CallError> {
    let message = UpdateConfigRequest {
        config: Some(config),
        update_mask: mask(how),
        request_id: request_id(),
        allow_missing: how.create,
        validate_only: how.dry_run,
    };
    let answer = client.call(Service::Scheduler, |channel, left| {
        let message = message.clone();
        async move { configs(channel).update_config(request(message, left)).await }
    });
    let answer = answer.await?;
    let outcome = answer.outcome();
    Ok((Item::Config(Box::new(answer.config.unwrap_or_default())), outcome))
}

async fn send_secret(client: &Client, secret: Secret, how: &Sending) -> Result<(Item, Outcome), CallError> {
    let message = UpdateSecretRequest {
        secret: Some(Secret { status: None, ..secret }),
        update_mask: mask(how),
        request_id: request_id(),
        allow_missing: how.create,
        validate_only: how.dry_run,
    };
    let answer = client.call(Service::Scheduler, |channel, left| {
        let message = message.clone();
        async move { secrets(channel).update_secret(request(message, left)).await }
    });
    let answer = answer.await?;
    let outcome = answer.outcome();
    Ok((Item::Secret(Box::new(answer.secret.unwrap_or_default())), outcome))
}

async fn send_project(
    client: &Client,
    project: Project,
    how: &Sending,
) -> Result<(Item, Outcome), CallError> {
    let message = UpdateProjectRequest {
        project: Some(Project { status: None, ..project }),
        update_mask: mask(how),
        request_id: request_id(),
        allow_missing: how.create,
        validate_only: how.dry_run,
    };
    let answer = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { projects(channel).update_project(request(message, left)).await }
    });
    let answer = answer.await?;
    let came = outcome(answer.outcome());
    Ok((Item::Project(Box::new(answer.project.unwrap_or_default())), came))
}

async fn send_node(client: &Client, node: Node, paths: Vec<String>) -> Result<Node, CallError> {
    let message = UpdateNodeRequest {
        node: Some(Node { status: None, ..node }),
        update_mask: Some(FieldMask { paths }),
        request_id: request_id(),
    };
    let answer = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { nodes(channel).update_node(request(message, left)).await }
    });
    Ok(answer.await?.node.unwrap_or_default())
}
