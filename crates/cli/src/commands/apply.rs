//! `apply`: manifests become resources, together (`together`) or one by one.

mod together;

use skerry_manifest::{Kind, Manifest, Resource};
use skerry_model::meta::{CLUSTER_LABEL, SYSTEM_APP_PREFIX};
use skerry_proto::registry::v1::Node;
use skerry_proto::scheduler::v1::update_app_response::Outcome;

use super::send::{Sending, item_of, send};
use super::{Several, prune, wait};
use crate::args::{ApplyArgs, DryRun};
use crate::client::Client;
use crate::error::CliError;
use crate::files::{Named, Sourced, read_all};
use crate::item::{CallOrUsage, Item};
use crate::patience::Patience;
use crate::print::Printer;
use crate::target::{Target, Type};

pub(crate) async fn run(client: &Client, args: &ApplyArgs, printer: &mut Printer) -> Result<(), CliError> {
    let manifests =
        read(client, Named { names: &args.files, recursive: args.recursive, compose: &args.compose })?;
    let plan = if args.prune { Some(prune::Plan::new(client, args, &manifests)?) } else { None };
    let dry_run = match args.dry_run {
        DryRun::Client => return only_read(&manifests, args, printer),
        DryRun::Server => true,
        DryRun::None => false,
    };
    if dry_run && args.wait {
        return Err(CliError::Usage("--wait waits for nothing with --dry-run: leave one of them out".into()));
    }
    let mut several = Several::default();
    // One alone is as atomic by its own call, which every server has.
    if args.one_by_one || manifests.len() == 1 {
        for sourced in &manifests {
            let outcome = match apply(client, &sourced.manifest, dry_run).await {
                Ok((_, outcome)) => printer.line(&report(&sourced.manifest.resource, outcome, dry_run)),
                Err(error) => Err(in_manifest(error, sourced)),
            };
            several.take(outcome)?;
        }
    } else {
        match together::apply(client, &manifests, dry_run).await {
            Ok(outcomes) => {
                for (sourced, outcome) in manifests.iter().zip(outcomes) {
                    printer.line(&report(&sourced.manifest.resource, outcome, dry_run))?;
                }
            }
            Err(error) => several.take(Err(error))?,
        }
    }
    if let Some(plan) = plan {
        if several.failed() {
            several.take(Err(CliError::Failed(
                "nothing is pruned, because not every manifest could be applied: mend that and apply again"
                    .into(),
            )))?;
        } else {
            plan.carry_out(client, dry_run, printer, &mut several).await?;
        }
    }
    if args.wait && !several.failed() {
        let patience = Patience::new(args.timeout);
        for target in manifests.iter().map(|sourced| full_target(&sourced.manifest.resource)) {
            if target.kind == Type::App {
                let outcome = match wait::until_healthy(client, &target, patience).await {
                    Ok(()) => printer.line(&format!("{target} healthy")),
                    Err(error) => Err(error),
                };
                several.take(outcome)?;
            }
        }
    }
    several.finish()
}

/// Says which manifests could be read, and asks nobody.
fn only_read(manifests: &[Sourced], args: &ApplyArgs, printer: &mut Printer) -> Result<(), CliError> {
    if args.prune {
        let why = "--prune asks the server what there is: use --dry-run=server";
        return Err(CliError::Usage(why.into()));
    }
    for sourced in manifests {
        printer.line(&format!("{} read (client dry run)", target(&sourced.manifest.resource)))?;
    }
    Ok(())
}

/// The manifests in the order in which they are applied.
pub(super) fn read(client: &Client, named: Named<'_>) -> Result<Vec<Sourced>, CliError> {
    let mut manifests = read_all(named, &client.manifest_project())?;
    manifests.sort_by_key(|sourced| order(sourced.manifest.resource.kind()));
    Ok(manifests)
}

/// What a server says of a manifest, at its lines.
pub(super) fn in_manifest(error: CallOrUsage, sourced: &Sourced) -> CliError {
    match error {
        CallOrUsage::Call(error) => error.in_manifest(&sourced.file, &sourced.manifest.positions),
        CallOrUsage::Usage(error) => error,
    }
}

/// Projects before what is in them, configs before the apps that mount them; nodes between, so that labels are there when apps are placed.
/// Users before the groups that they are in, and these before the bindings that name them.
fn order(kind: Kind) -> u8 {
    match kind {
        Kind::Project => 0,
        Kind::Cluster | Kind::Config | Kind::Secret | Kind::User => 1,
        Kind::Node | Kind::Group => 2,
        Kind::App | Kind::RoleBinding => 3,
    }
}

/// The type and short name of a resource.
pub(super) fn target(resource: &Resource) -> Target {
    Target::of_full_name(full_target(resource).kind, resource.name())
}

/// The type and full name of a resource, which may be of another project than the command's.
pub(super) fn full_target(resource: &Resource) -> Target {
    let kind = match resource.kind() {
        Kind::App => Type::App,
        Kind::Config => Type::Config,
        Kind::Secret => Type::Secret,
        Kind::Node => Type::Node,
        Kind::User => Type::User,
        Kind::Group => Type::Group,
        Kind::RoleBinding => Type::RoleBinding,
        Kind::Project => Type::Project,
        Kind::Cluster => Type::Cluster,
    };
    Target { kind, name: resource.name().to_owned() }
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

/// Makes the resource what the manifest says; answers what it is then.
pub(super) async fn apply(
    client: &Client,
    manifest: &Manifest,
    dry_run: bool,
) -> Result<(Item, Outcome), CallOrUsage> {
    match &manifest.resource {
        Resource::Node(node) => apply_node(client, node, dry_run).await,
        resource => {
            let how = Sending { create: true, dry_run, paths: meant(resource) };
            Ok(send(client, item_of(resource), &how).await?)
        }
    }
}

/// What of a resource its manifest means; all of it when empty.
fn meant(resource: &Resource) -> Vec<String> {
    match resource {
        // The keys of a user are not forgotten for want of a line: they came with its certificates.
        Resource::User(user) if user.spec.is_none() => {
            ["metadata.labels", "metadata.annotations"].map(str::to_owned).to_vec()
        }
        _ => Vec::new(),
    }
}

/// A node comes into being when its agent connects; a manifest only changes it, and only in what it names.
async fn apply_node(client: &Client, wanted: &Node, dry_run: bool) -> Result<(Item, Outcome), CallOrUsage> {
    let (present, changed, paths) = change_of_node(client, wanted).await?;
    if paths.is_empty() {
        return Ok((Item::Node(present), Outcome::Unchanged));
    }
    Ok(send(client, Item::Node(Box::new(changed)), &Sending { dry_run, ..Sending::change(paths) }).await?)
}

/// A node as it is, as its manifest would have it, and the fields in which that differs.
async fn change_of_node(
    client: &Client,
    wanted: &Node,
) -> Result<(Box<Node>, Node, Vec<String>), CallOrUsage> {
    let resource = Resource::Node(Box::new(wanted.clone()));
    let present = match client.get(&full_target(&resource)).await {
        Ok(Item::Node(node)) => node,
        Err(error) if error.is_not_found() => {
            let message = format!(
                "{} does not exist: nodes come into being when their agent connects",
                target(&resource)
            );
            return Err(CallOrUsage::Usage(CliError::NotFound(message)));
        }
        Err(error) => return Err(error),
        Ok(other) => unreachable!("asked for a node, got {}", other.target()),
    };
    let (changed, paths) = merged(&present, wanted);
    Ok((present, changed, paths))
}

/// What of a node its manifest names, and so means.
fn named(wanted: &Node) -> Vec<String> {
    let metadata = wanted.metadata.as_ref();
    let parts = [
        ("metadata.labels", metadata.is_some_and(|metadata| !metadata.labels.is_empty())),
        ("metadata.annotations", metadata.is_some_and(|metadata| !metadata.annotations.is_empty())),
        ("spec", wanted.spec.is_some()),
    ];
    parts.into_iter().filter(|(_, is_named)| *is_named).map(|(path, _)| path.to_owned()).collect()
}

/// `present` with what `wanted` names, and the paths that differ.
fn merged(present: &Node, wanted: &Node) -> (Node, Vec<String>) {
    let mut changed = present.clone();
    let mut paths = Vec::new();
    let mut wanted_metadata = wanted.metadata.clone().unwrap_or_default();
    let metadata = changed.metadata.get_or_insert_default();
    // What a node gets when it enrols, a manifest that says nothing of it does not take away: out of its cluster all of its instances would be
    // others, and system apps would end.
    let is_given = |key: &str| key == CLUSTER_LABEL || key.starts_with(SYSTEM_APP_PREFIX);
    if !wanted_metadata.labels.is_empty() {
        for (key, value) in metadata.labels.iter().filter(|(key, _)| is_given(key)) {
            wanted_metadata.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if !wanted_metadata.labels.is_empty() && metadata.labels != wanted_metadata.labels {
        metadata.labels = wanted_metadata.labels;
        paths.push("metadata.labels".to_owned());
    }
    if !wanted_metadata.annotations.is_empty() && metadata.annotations != wanted_metadata.annotations {
        metadata.annotations = wanted_metadata.annotations;
        paths.push("metadata.annotations".to_owned());
    }
    if wanted.spec.is_some()
        && wanted.spec.clone().unwrap_or_default() != changed.spec.clone().unwrap_or_default()
    {
        changed.spec.clone_from(&wanted.spec);
        paths.push("spec".to_owned());
    }
    (changed, paths)
}

#[cfg(test)]
mod tests {
    use skerry_proto::registry::v1::NodeSpec;
    use skerry_proto::types::v1::Metadata;

    use super::*;

    fn node(labels: &[(&str, &str)], cordoned: Option<bool>) -> Node {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let metadata = Metadata { name: "projects/p/nodes/n1".into(), labels, ..Default::default() };
        Node {
            metadata: Some(metadata),
            spec: cordoned.map(|cordoned| NodeSpec { cordoned, ..NodeSpec::default() }),
            status: None,
        }
    }

    #[test]
    fn a_node_manifest_changes_only_what_it_names() {
        let present = node(&[("a", "1")], None);
        assert_eq!(merged(&present, &node(&[], None)).1, [""; 0]);
        assert_eq!(merged(&present, &node(&[("a", "1")], Some(false))).1, [""; 0]);
        assert_eq!(named(&node(&[], None)), [""; 0]);
        assert_eq!(named(&node(&[("a", "1")], Some(false))), ["metadata.labels", "spec"]);
        let (changed, paths) = merged(&present, &node(&[("b", "2")], Some(true)));
        assert_eq!(paths, ["metadata.labels", "spec"]);
        assert_eq!(changed.metadata.expect("metadata").labels.into_keys().collect::<Vec<_>>(), ["b"]);
        assert!(changed.spec.expect("a spec").cordoned);
    }

    #[test]
    fn a_node_manifest_takes_no_node_out_of_its_cluster() {
        let present = node(&[("a", "1"), (CLUSTER_LABEL, "plant")], None);
        assert_eq!(merged(&present, &node(&[("a", "1")], None)).1, [""; 0]);
        let (changed, paths) = merged(&present, &node(&[("a", "2")], None));
        assert_eq!(paths, ["metadata.labels"]);
        assert_eq!(changed.metadata.expect("metadata").labels[CLUSTER_LABEL], "plant");
        let (changed, _) = merged(&present, &node(&[(CLUSTER_LABEL, "other")], None));
        assert_eq!(changed.metadata.expect("metadata").labels[CLUSTER_LABEL], "other");
    }

    #[test]
    fn a_node_manifest_takes_no_system_app_away() {
        let (broker, probe) = ("system.skerry.dev/broker", "system.skerry.dev/probe");
        let present = node(&[("a", "1"), (broker, "blue")], None);
        assert_eq!(merged(&present, &node(&[("a", "1")], None)).1, [""; 0]);
        let labels =
            merged(&present, &node(&[("b", "1"), (probe, "")], None)).0.metadata.expect("metadata").labels;
        assert_eq!(labels.into_keys().collect::<Vec<_>>(), ["b", broker, probe]);
    }

    #[test]
    fn outcomes_are_said_as_kubectl_says_them() {
        let resource = Resource::Node(Box::new(node(&[], None)));
        assert_eq!(report(&resource, Outcome::Created, false), "node/n1 created");
        assert_eq!(report(&resource, Outcome::Updated, true), "node/n1 configured (dry run)");
        assert_eq!(report(&resource, Outcome::Unchanged, false), "node/n1 unchanged");
    }

    #[test]
    fn projects_come_before_configs_and_these_before_apps() {
        assert!(order(Kind::Project) < order(Kind::Config));
        assert!(order(Kind::Config) < order(Kind::Node) && order(Kind::Node) < order(Kind::App));
    }
}
