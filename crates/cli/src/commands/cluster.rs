//! `cluster`: nodes into and out of clusters, by their label.

use skerry_model::ClusterName;
use skerry_model::meta::CLUSTER_LABEL;
use skerry_proto::registry::v1::Node;
use skerry_proto::types::v1::Metadata;

use super::Several;
use super::send::{Sending, send};
use crate::args::ClusterCommand;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;
use crate::target::Target;

pub(crate) async fn run(
    client: &Client,
    command: &ClusterCommand,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let (cluster, nodes) = match command {
        ClusterCommand::Join(args) => {
            let name = args.cluster.strip_prefix("cluster/").unwrap_or(&args.cluster);
            let name = ClusterName::parse(name).map_err(|error| CliError::Usage(error.to_string()))?;
            (Some(name), &args.nodes)
        }
        ClusterCommand::Leave(args) => (None, &args.nodes),
    };
    let mut several = Several::default();
    for name in nodes {
        let target = Target::node(name);
        let outcome = match set(client, &target, cluster.as_ref()).await {
            Ok(line) => printer.line(&line),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// Says what became of it.
async fn set(client: &Client, target: &Target, cluster: Option<&ClusterName>) -> Result<String, CliError> {
    let Item::Node(present) = client.get(target).await? else { unreachable!("asked for a node") };
    let before = present.metadata.as_ref().and_then(|metadata| metadata.labels.get(CLUSTER_LABEL));
    match (before, cluster) {
        (None, None) => return Ok(format!("{target} is in no cluster")),
        (Some(before), Some(cluster)) if before == cluster.as_str() => {
            return Ok(format!("{target} is in cluster/{cluster} already"));
        }
        _ => {}
    }
    // No etag: whoever else changes the node meanwhile changes something else.
    let labels = cluster.map(|cluster| (CLUSTER_LABEL.to_owned(), cluster.to_string())).into_iter().collect();
    let name = target.full_name(client.project())?;
    let metadata = Some(Metadata { name, labels, ..Metadata::default() });
    let node = Item::Node(Box::new(Node { metadata, ..Node::default() }));
    send(client, node, &Sending::change([format!("metadata.labels.{CLUSTER_LABEL}")])).await?;
    Ok(match (before, cluster) {
        (_, Some(cluster)) => format!("{target} joined cluster/{cluster}"),
        (before, None) => format!("{target} left cluster/{}", before.map_or("", String::as_str)),
    })
}
