//! `apply`: manifests become resources.

use prost_types::FieldMask;
use skerry_manifest::{Kind, Resource};
use skerry_proto::registry::v1::{Node, UpdateNodeRequest};
use skerry_proto::scheduler::v1::update_app_response::Outcome;
use skerry_proto::scheduler::v1::{UpdateAppRequest, UpdateConfigRequest};

use super::Several;
use crate::args::ApplyArgs;
use crate::client::{CallError, Client, Service, apps, configs, nodes, request, request_id};
use crate::error::CliError;
use crate::files::{Sourced, read_all};
use crate::item::{CallOrUsage, Item};
use crate::print::Printer;
use crate::target::{Target, Type};

pub(crate) async fn run(client: &Client, args: &ApplyArgs, printer: &mut Printer) -> Result<(), CliError> {
    let mut manifests = read_all(&args.files, &client.manifest_project())?;
    manifests.sort_by_key(|sourced| order(sourced.manifest.resource.kind()));
    let mut several = Several::default();
    for sourced in &manifests {
        let outcome = match apply(client, sourced, args.dry_run).await {
            Ok(outcome) => printer.line(&report(&sourced.manifest.resource, outcome, args.dry_run)),
            Err(CallOrUsage::Call(error)) => {
                Err(error.in_manifest(&sourced.file, &sourced.manifest.positions))
            }
            Err(CallOrUsage::Usage(error)) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// Configs before the apps that mount them; nodes between, so that labels are there when apps are placed.
fn order(kind: Kind) -> u8 {
    match kind {
        Kind::Config => 0,
        Kind::Node => 1,
        Kind::App => 2,
    }
}

/// The type and short name of a resource.
pub(super) fn target(resource: &Resource) -> Target {
    let kind = match resource.kind() {
        Kind::App => Type::App,
        Kind::Config => Type::Config,
        Kind::Node => Type::Node,
    };
    Target::of_full_name(kind, resource.name())
}

fn report(resource: &Resource, outcome: Outcome, dry_run: bool) -> String {
    let word = match outcome {
        Outcome::Created => "created",
        Outcome::Updated => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Unspecified => "applied",
    };
    format!("{} {word}{}", target(resource), if dry_run { " (dry run)" } else { "" })
}

async fn apply(client: &Client, sourced: &Sourced, dry_run: bool) -> Result<Outcome, CallOrUsage> {
    match &sourced.manifest.resource {
        Resource::App(app) => {
            let message = UpdateAppRequest {
                app: Some(app.as_ref().clone()),
                update_mask: None,
                request_id: request_id(),
                allow_missing: true,
                validate_only: dry_run,
            };
            let answer = client.call(Service::Scheduler, |channel, left| {
                let message = message.clone();
                async move { apps(channel).update_app(request(message, left)).await }
            });
            Ok(answer.await?.outcome())
        }
        Resource::Config(config) => {
            let message = UpdateConfigRequest {
                config: Some(config.as_ref().clone()),
                update_mask: None,
                request_id: request_id(),
                allow_missing: true,
                validate_only: dry_run,
            };
            let answer = client.call(Service::Scheduler, |channel, left| {
                let message = message.clone();
                async move { configs(channel).update_config(request(message, left)).await }
            });
            Ok(answer.await?.outcome())
        }
        Resource::Node(node) => apply_node(client, node, dry_run).await,
    }
}

/// A node comes into being when its agent connects; a manifest only changes it, and only in what it names.
async fn apply_node(client: &Client, wanted: &Node, dry_run: bool) -> Result<Outcome, CallOrUsage> {
    let target = target(&Resource::Node(Box::new(wanted.clone())));
    let present = match client.get(&target).await {
        Ok(Item::Node(node)) => node,
        Err(error) if error.is_not_found() => {
            let message = format!("{target} does not exist: nodes come into being when their agent connects");
            return Err(CallOrUsage::Usage(CliError::NotFound(message)));
        }
        Err(error) => return Err(error),
        Ok(other) => unreachable!("asked for a node, got {}", other.target()),
    };
    let (changed, paths) = merged(&present, wanted);
    if paths.is_empty() {
        return Ok(Outcome::Unchanged);
    }
    if !dry_run {
        update_node(client, changed, paths).await?;
    }
    Ok(Outcome::Updated)
}

/// `present` with what `wanted` names, and the paths that differ.
fn merged(present: &Node, wanted: &Node) -> (Node, Vec<String>) {
    let mut changed = present.clone();
    let mut paths = Vec::new();
    let wanted_metadata = wanted.metadata.clone().unwrap_or_default();
    let metadata = changed.metadata.get_or_insert_default();
    if !wanted_metadata.labels.is_empty() && metadata.labels != wanted_metadata.labels {
        metadata.labels = wanted_metadata.labels;
        paths.push("metadata.labels".to_owned());
    }
    if !wanted_metadata.annotations.is_empty() && metadata.annotations != wanted_metadata.annotations {
        metadata.annotations = wanted_metadata.annotations;
        paths.push("metadata.annotations".to_owned());
    }
    if wanted.spec.is_some() && wanted.spec.unwrap_or_default() != changed.spec.unwrap_or_default() {
        changed.spec = wanted.spec;
        paths.push("spec".to_owned());
    }
    (changed, paths)
}

/// Writes `paths` of `node`, at the version that it was read.
pub(super) async fn update_node(
    client: &Client,
    mut node: Node,
    paths: Vec<String>,
) -> Result<Node, CallError> {
    node.status = None;
    let message = UpdateNodeRequest {
        node: Some(node),
        update_mask: Some(FieldMask { paths }),
        request_id: request_id(),
    };
    let answer = client.call(Service::Registry, |channel, left| {
        let message = message.clone();
        async move { nodes(channel).update_node(request(message, left)).await }
    });
    Ok(answer.await?.node.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::NodeSpec;
    use skerry_proto::types::v1::Metadata;

    use super::*;

    fn node(labels: &[(&str, &str)], cordoned: Option<bool>) -> Node {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let metadata = Metadata { name: "projects/p/nodes/n1".into(), labels, ..Default::default() };
        Node { metadata: Some(metadata), spec: cordoned.map(|cordoned| NodeSpec { cordoned }), status: None }
    }

    #[test]
    fn a_node_manifest_changes_only_what_it_names() {
        let present = node(&[("a", "1")], None);
        assert_eq!(merged(&present, &node(&[], None)).1, [""; 0]);
        assert_eq!(merged(&present, &node(&[("a", "1")], Some(false))).1, [""; 0]);
        let (changed, paths) = merged(&present, &node(&[("b", "2")], Some(true)));
        assert_eq!(paths, ["metadata.labels", "spec"]);
        assert_eq!(changed.metadata.expect("metadata").labels.into_keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(changed.spec, Some(NodeSpec { cordoned: true }));
    }

    #[test]
    fn outcomes_are_said_as_kubectl_says_them() {
        let resource = Resource::Node(Box::new(node(&[], None)));
        assert_eq!(report(&resource, Outcome::Created, false), "node/n1 created");
        assert_eq!(report(&resource, Outcome::Updated, true), "node/n1 configured (dry run)");
        assert_eq!(report(&resource, Outcome::Unchanged, false), "node/n1 unchanged");
    }

    #[test]
    fn configs_come_before_apps() {
        assert!(order(Kind::Config) < order(Kind::Node) && order(Kind::Node) < order(Kind::App));
    }
}
