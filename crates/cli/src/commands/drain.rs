//! `drain`: what nodes run leaves them, and when it has.

use std::collections::BTreeMap;

use skerry_model::few;
use skerry_proto::registry::v1::{Node, NodeSpec};
use skerry_proto::scheduler::v1::App;
use skerry_proto::types::v1::service_spec::Kind;
use skerry_proto::types::v1::{InstancePhase, InstanceStatus, Metadata};

use super::Several;
use super::cordon::targets;
use super::send::{Sending, send};
use crate::args::DrainArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::{Item, Query};
use crate::patience::{Ended, Look, Patience};
use crate::print::Printer;
use crate::target::{Target, Type, parse_all};

/// Instances that are named one by one; the others are counted.
const NAMED_MAX: usize = 5;

pub(crate) async fn run(client: &Client, args: &DrainArgs, printer: &mut Printer) -> Result<(), CliError> {
    if let Some(clusters) = clusters(&args.nodes)? {
        return super::task::drain(client, &clusters, args, printer).await;
    }
    let wait = args.wait && !args.no_wait;
    let patience = Patience::new(args.timeout);
    let mut several = Several::default();
    let targets = targets(&args.nodes);
    // All of them first: what leaves one does not go to the next.
    let mut drained = Vec::new();
    for target in &targets {
        let outcome = match begin(client, target).await {
            Ok(()) => {
                drained.push(target);
                if wait { Ok(()) } else { printer.line(&format!("{target} drains")) }
            }
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    for target in drained.into_iter().filter(|_| wait) {
        let outcome = match until_empty(client, target, patience).await {
            Ok(stays) => printer.line(&format!("{target} drained{stays}")),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// Clusters by their names, as `cluster/c1` or, the first of several words, `cluster`. Nothing: nodes are meant.
fn clusters(words: &[String]) -> Result<Option<Vec<Target>>, CliError> {
    let is_cluster = |word: &str| Type::parse(word).is_ok_and(|kind| kind == Type::Cluster);
    let named = |word: &&String| word.split_once('/').is_some_and(|(kind, _)| is_cluster(kind));
    let of_type = words.len() > 1 && words.first().is_some_and(|first| is_cluster(first));
    if of_type || words.iter().all(|word| named(&word)) {
        return parse_all(words).map(Some);
    }
    match words.iter().find(named) {
        Some(word) => {
            Err(CliError::Usage(format!("nodes and clusters are drained apart: not {word} with nodes")))
        }
        None => Ok(None),
    }
}

async fn begin(client: &Client, target: &Target) -> Result<(), CliError> {
    let metadata = Metadata { name: target.full_name(client.project())?, ..Default::default() };
    let spec = NodeSpec { cordoned: true, drain: true, ..NodeSpec::default() };
    let node = Node { metadata: Some(metadata), spec: Some(spec), status: None };
    let how = Sending::change(["spec.cordoned", "spec.drain"]);
    send(client, Item::Node(Box::new(node)), &how).await?;
    Ok(())
}

/// Waits until all that leaves has left; answers what is said of the rest.
async fn until_empty(client: &Client, target: &Target, patience: Patience) -> Result<String, CliError> {
    let mut apps = BTreeMap::new();
    let mut stays = 0;
    let waited = patience.until(target, async || {
        let query = Query { node: Some(target.name.clone()), ..Query::all(Type::Instance) };
        let (items, _) = client.list(&query).await?;
        let on_node = format!("/nodes/{}", target.name);
        let mut left = Vec::new();
        stays = 0;
        for item in &items {
            let Item::Instance(instance) = item else { continue };
            // One that has no place on any node of the cluster is on none.
            if !instance.node.ends_with(&on_node) || is_nowhere(instance) {
                continue;
            }
            if leaves(client, &mut apps, instance).await? {
                left.push(format!("{} ({})", instance.instance, why(instance)));
            } else {
                stays += 1;
            }
        }
        Ok(match left.len() {
            0 => Look::Met,
            1 => Look::NotYet(format!("1 instance has not left yet: {}", left[0]).into()),
            count => {
                Look::NotYet(format!("{count} instances have not left yet: {}", few(&left, NAMED_MAX)).into())
            }
        })
    });
    waited.await.map_err(|ended| match ended {
        Ended::Failed(error) => error,
        Ended::Over(instead) => CliError::TimedOut(format!(
            "{target} is being drained, but after {} {instead}; it goes on (`skerry uncordon {}` ends it)",
            patience.shown(),
            target.name
        )),
    })?;
    Ok(match stays {
        0 => String::new(),
        1 => ": 1 instance that is on each node stays".to_owned(),
        stays => format!(": {stays} instances that are on each node stay"),
    })
}

/// It is not there, and waits for a node that takes it.
fn is_nowhere(instance: &InstanceStatus) -> bool {
    instance.phase() == InstancePhase::Pending && instance.reason == "NodeCordoned"
}

/// What an instance is on its way to, or waits for.
fn why(instance: &InstanceStatus) -> &str {
    match instance.reason.as_str() {
        "" => "it waits until enough others are ready, or for its end",
        reason => reason,
    }
}

/// Whether an instance leaves a node that is drained; of a job, whether it still runs.
async fn leaves(
    client: &Client,
    apps: &mut BTreeMap<String, Option<Box<App>>>,
    instance: &InstanceStatus,
) -> Result<bool, CliError> {
    let mut parts = instance.instance.split('/');
    let (app, service) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if !apps.contains_key(app) {
        let found = match client.get(&Target { kind: Type::App, name: app.to_owned() }).await {
            Ok(Item::App(found)) => Some(found),
            Ok(_) => None,
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        apps.insert(app.to_owned(), found);
    }
    let spec = apps.get(app).and_then(Option::as_ref).and_then(|app| app.spec.as_ref());
    let kind = spec.and_then(|spec| spec.services.iter().find(|one| one.name == service));
    Ok(match kind.and_then(|service| service.kind.as_ref()) {
        Some(Kind::DaemonSet(_)) => instance.phase() == InstancePhase::Stopping,
        Some(Kind::Job(_)) => !matches!(
            instance.phase(),
            InstancePhase::Completed | InstancePhase::Failed | InstancePhase::Pending
        ),
        _ => true,
    })
}
