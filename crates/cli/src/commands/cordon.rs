//! `cordon` and `uncordon`: whether nodes get anything new.

use skerry_proto::registry::v1::{Node, NodeSpec};
use skerry_proto::types::v1::Metadata;

use super::Several;
use super::send::{Sending, send};
use crate::args::CordonArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::item::Item;
use crate::print::Printer;
use crate::target::{Target, Type};

pub(crate) async fn run(
    client: &Client,
    args: &CordonArgs,
    cordoned: bool,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let word = if cordoned { "cordoned" } else { "uncordoned" };
    let mut several = Several::default();
    // `cordon node n1` is read as `cordon n1`.
    let names = match args.nodes.split_first() {
        Some((first, rest))
            if !rest.is_empty() && Type::parse(first).is_ok_and(|kind| kind == Type::Node) =>
        {
            rest
        }
        _ => &args.nodes,
    };
    for name in names {
        let name = name.strip_prefix("node/").or(name.strip_prefix("nodes/")).unwrap_or(name);
        let target = Target { kind: Type::Node, name: name.to_owned() };
        let outcome = match set(client, &target, cordoned).await {
            Ok(true) => printer.line(&format!("{target} {word}")),
            Ok(false) => printer.line(&format!("{target} already {word}")),
            Err(error) => Err(error),
        };
        several.take(outcome)?;
    }
    several.finish()
}

/// Whether anything changed.
async fn set(client: &Client, target: &Target, cordoned: bool) -> Result<bool, CliError> {
    let Item::Node(present) = client.get(target).await? else { unreachable!("asked for a node") };
    if present.spec.is_some_and(|spec| spec.cordoned) == cordoned {
        return Ok(false);
    }
    // No etag: whoever else changes the node meanwhile changes something else.
    let name = target.full_name(client.project())?;
    let node = Node {
        metadata: Some(Metadata { name, ..Default::default() }),
        spec: Some(NodeSpec { cordoned, ..NodeSpec::default() }),
        status: None,
    };
    send(client, Item::Node(Box::new(node)), &Sending::change(["spec.cordoned"])).await?;
    Ok(true)
}
