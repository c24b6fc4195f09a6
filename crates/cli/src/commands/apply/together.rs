//! Manifests to the server in one call: all of them happen, or none.

use prost_types::FieldMask;
use skerry_manifest::Resource;
use skerry_proto::registry::v1::{Cluster, Node, Project};
use skerry_proto::scheduler::v1::any_resource::Kind;
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{AnyResource, App, ApplyRequest, ResourceChange, Secret};
use tonic::Code;

use super::{change_of_node, in_manifest, meant, named, target};
use crate::client::{CallError, Client, Service, applying, request, request_id};
use crate::commands::send::outcome;
use crate::error::CliError;
use crate::files::Sourced;
use crate::item::CallOrUsage;

/// Said with each refusal.
const NOTHING: &str = "nothing was changed";

/// Applies all of them together; what came of each, in their order.
pub(super) async fn apply(
    client: &Client,
    manifests: &[Sourced],
    dry_run: bool,
) -> Result<Vec<Outcome>, CliError> {
    let mut outcomes = vec![Outcome::Unchanged; manifests.len()];
    // Of which manifest each change is.
    let (mut changes, mut of) = (Vec::new(), Vec::new());
    for (index, sourced) in manifests.iter().enumerate() {
        let change = change(client, &sourced.manifest.resource).await;
        if let Some(change) = change.map_err(|error| in_manifest(error, sourced).and(NOTHING))? {
            changes.push(change);
            of.push(index);
        }
    }
    if changes.is_empty() {
        return Ok(outcomes);
    }
    let message = ApplyRequest { resources: changes, request_id: request_id(), validate_only: dry_run };
    let of_registry = message.resources.iter().all(is_registry_s);
    let service = if of_registry { Service::Registry } else { Service::Scheduler };
    let answer = client.call(service, |channel, left| {
        let message = message.clone();
        async move { applying(channel).apply(request(message, left)).await }
    });
    let answer = answer.await.map_err(|error| refused(error, manifests, &of))?;
    for (index, applied) in of.into_iter().zip(&answer.resources) {
        outcomes[index] = outcome(applied.outcome());
    }
    Ok(outcomes)
}

/// How a manifest changes its resource. Nothing: a node of which its manifest says nothing.
async fn change(client: &Client, resource: &Resource) -> Result<Option<ResourceChange>, CallOrUsage> {
    let mut paths = meant(resource);
    let kind = match resource {
        Resource::Node(node) => {
            let (_, changed, _) = change_of_node(client, node).await?;
            // Also where it is so already: that it stays so is a part of the whole.
            paths = named(node);
            if paths.is_empty() {
                return Ok(None);
            }
            Kind::Node(Node { status: None, ..changed })
        }
        Resource::App(app) => Kind::App(App { status: None, ..app.as_ref().clone() }),
        Resource::Config(config) => Kind::Config(config.as_ref().clone()),
        Resource::Secret(secret) => Kind::Secret(Secret { status: None, ..secret.as_ref().clone() }),
        Resource::User(user) => Kind::User(user.as_ref().clone()),
        Resource::Group(group) => Kind::Group(group.as_ref().clone()),
        Resource::RoleBinding(binding) => Kind::RoleBinding(binding.as_ref().clone()),
        Resource::Project(project) => Kind::Project(Project { status: None, ..project.as_ref().clone() }),
        Resource::Cluster(cluster) => Kind::Cluster(Cluster { status: None, ..cluster.as_ref().clone() }),
    };
    Ok(Some(ResourceChange {
        allow_missing: !matches!(kind, Kind::Node(_)),
        resource: Some(AnyResource { kind: Some(kind) }),
        update_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
    }))
}

/// Whether a resource is the registry's, whose lists then show it with the answer. Of a set with others in it the scheduler is asked, which has
/// the keys of secrets.
fn is_registry_s(change: &ResourceChange) -> bool {
    match change.resource.as_ref().and_then(|resource| resource.kind.as_ref()) {
        Some(Kind::App(_) | Kind::Config(_) | Kind::Secret(_)) | None => false,
        Some(
            Kind::Node(_)
            | Kind::Cluster(_)
            | Kind::Project(_)
            | Kind::User(_)
            | Kind::Group(_)
            | Kind::RoleBinding(_),
        ) => true,
    }
}

/// What the server says of all of them, at the lines of the one that it is about.
fn refused(error: CallError, manifests: &[Sourced], of: &[usize]) -> CliError {
    let CallError::Status(status, address) = error else { return error.into() };
    if status.code() == Code::Unimplemented {
        return CliError::Failed(format!(
            "{address} is older than this client and cannot apply several manifests together: upgrade it, or use --one-by-one; {NOTHING}"
        ));
    }
    let fault = skerry_rpc::fault_of(&status);
    if fault.metadata.get("reason").is_some_and(|reason| reason == "MESSAGE_TOO_LARGE") {
        return CliError::Failed(format!(
            "{} manifests together are larger than one call to {address} takes: apply fewer at once, or with --one-by-one; {NOTHING}",
            of.len()
        ));
    }
    let index = fault.metadata.get("index").and_then(|index| index.parse::<usize>().ok());
    let sourced = index.and_then(|index| manifests.get(*of.get(index)?));
    let error = match sourced {
        Some(Sourced { file, manifest }) => {
            let error = CliError::of_manifest_status(&status, &address, file, &manifest.positions);
            let place = manifest.positions.locate("metadata").position;
            error.or_at(&format!("{file}:{place}: {} is what was refused", target(&manifest.resource)))
        }
        None => CliError::of_status(&status, &address),
    };
    error.and(NOTHING)
}
